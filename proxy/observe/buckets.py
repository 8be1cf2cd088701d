"""Upper bounds of every histogram. Spans in seconds, counts in tokens.

The lists named after OpenTelemetry are its recommendation for `gen_ai.*`
(open-telemetry/semantic-conventions-genai, docs/gen-ai/gen-ai-metrics.md); the others hold every
bound of the list they extend, so that figures from both can be compared.
"""

from __future__ import annotations

from proxy.core.flow.timeline import GAP_BOUNDS

# gen_ai.client.operation.duration and .time_to_first_chunk.
OPERATION = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip

# gen_ai.client.token.usage.
TOKENS = (
    1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864,
)  # fmt: skip

# gen_ai.server.time_per_output_token.
PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)

# gen_ai.server.time_to_first_token ends at 10 s and slow upstreams need up to two minutes. 5 is
# the target: being a bound, the share of exchanges within it is a ratio of two series. From 0.1 to
# 30 s a bound is at most a quarter above the one before it, so that a percentile that is guessed
# between two of them is right within a few per cent.
FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.175, 0.2, 0.25, 0.3, 0.35, 0.4,
    0.5, 0.6, 0.75, 0.9, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7.5, 9, 10, 12.5, 15,
    17.5, 20, 25, 30, 45, 60, 120,
)  # fmt: skip

# Whole exchanges: FIRST_TOKEN, and answers that take minutes.
DURATION = (
    *(bound for bound in FIRST_TOKEN if bound <= 30),
    *(36, 45, 60, 75, 90, 120, 180, 300, 600, 1200, 1800),
)

# One stage of an exchange: fewer, as there are eleven of them for each model and endpoint.
STAGE = (0.001, 0.005, 0.01, 0.04, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120)

# Between events: PER_TOKEN with added jitter in front and stalls behind.
GAP = GAP_BOUNDS

# What the proxy itself adds: 50 us to 100 ms.
OVERHEAD = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.00075, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
)  # fmt: skip

# Waiting to be counted: a file beside us up to a server far away, and the usual time-out of 50 ms.
STATE = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)

# Opening a connection: a resolver on this machine up to a SYN that is sent again and again.
CONNECT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

# What came true of a prediction: 1 is exact, above 1 it came later than was said. As the prediction
# has a confidence (by default nine in ten come in time), most values are below 1.
PREDICTION = (0.1, 0.2, 0.3, 0.5, 0.75, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10)

# Age of a connection when it was closed.
AGE = (1, 5, 15, 30, 60, 120, 300, 600, 1200, 3600)

# How late a timer of the event loop came: its clock counts milliseconds.
LAG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

# A pause of the garbage collector: the youngest generation's are microseconds.
PAUSE = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
         0.05, 0.1, 0.25, 0.5, 1)  # fmt: skip
