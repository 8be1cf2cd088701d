"""Where the waiting comes from, per model: causes, not results. All times in seconds.

An answer is late because of

    connect     a connection that has to be opened first
    network     the way to the service: TLS front end, firewall, authentication
    queue       no machine was free; the first response header comes after it
    long_line   the same for long prompts where few machines take them: shared with other callers
    start       a machine has the request and schedules it
    prefill     reading the prompt, so much per token that was not cached
    thinking    tokens produced before the first visible one, at the same pace as the answer
    gap         the pace: time from one token to the next

and a test or a demonstration that changes a cause sees the effect it would see at the real service.
A new profile is a new entry in `PROFILES`; a model takes the first behaviour whose pattern fits.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from proxy.simulator.distributions import Distribution, Fixed, LogNormal, OneOf, Uniform
from proxy.simulator.line import Crowd

NOTHING = Fixed(0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """The causes of waiting for one family of models.

    `brief_*` hold for prompts that ask for one sentence or only greet.
    """

    network: Distribution
    queue: Distribution
    long_line: Crowd | None = None
    """Instead of `queue`, for prompts above 8K tokens: a line that all of them share."""
    start: Distribution = NOTHING
    prefill: float = 0.0
    gap: Distribution
    thinking: Distribution
    brief_thinking: Distribution
    answer: Distribution
    brief_answer: Distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A named set of behaviours, first fitting pattern wins; the last one is `*`."""

    name: str
    about: str
    in_flight: int | None
    """Requests one key may have running per model; None = the models' own limits, 0 = no limit."""
    behaviours: tuple[tuple[str, Behaviour], ...]
    connect: float = 0.0
    """What a new TLS connection costs over the distance to the service: TCP and TLS wait for the
    way there and back before the first request can be sent. One that is there costs nothing."""

    def behaviour(self, model: str) -> Behaviour:
        """The behaviour of this model."""
        return next(b for pattern, b in self.behaviours if fnmatchcase(model, pattern))


# --- default: calibrated on published measurements -----------------------------------------------

# Time to headers of nine glm-4.7-flash streams: 0.70 0.72 0.73 0.74 0.87 0.92 5.8 6.1 8.4; and one
# call in dozens waited over a minute. So a queue is either empty or long, hardly ever in between.
_BUSY = OneOf(
    ((0.66, LogNormal(0.35, 0.25)), (0.31, LogNormal(6.2, 0.25)), (0.03, Uniform(20.0, 90.0)))
)
# Five glm-4.5 streams: 0.63 0.69 0.73 1.13 3.6.
_CALM = OneOf(((0.82, LogNormal(0.3, 0.3)), (0.17, LogNormal(3.4, 0.3)), (0.01, Uniform(10, 40))))
_NETWORK = LogNormal(0.35, 0.08)
_ANSWER = LogNormal(260.0, 0.5)
_BRIEF = LogNormal(28.0, 0.35)
_BRIEF_THINKING = LogNormal(320.0, 0.6)  # 708 of the 734 tokens of a "say hi" were thinking
_PAID = Behaviour(
    network=_NETWORK,
    queue=_CALM,
    start=LogNormal(0.12, 0.3),
    prefill=0.00018,
    gap=LogNormal(0.015, 0.3),  # glm-4.6 by third-party measurement: 47 to 87 tokens a second
    thinking=LogNormal(900.0, 0.5),
    answer=_ANSWER,
    brief_answer=_BRIEF,
    brief_thinking=_BRIEF_THINKING,
)
_FREE = Behaviour(
    network=_NETWORK,
    queue=_BUSY,
    start=LogNormal(0.15, 0.3),
    prefill=0.0002,
    gap=LogNormal(0.014, 0.3),
    thinking=LogNormal(700.0, 0.5),
    answer=_ANSWER,
    brief_answer=_BRIEF,
    brief_thinking=_BRIEF_THINKING,
)
# The free glm-4-flash does not think and answers at once (a direct call took 0.65 s), but prompts
# above 8K tokens share one per cent of its concurrency of 200: those wait for one another. With
# these others in the line, about 14 s.
_LONG_PROMPTS = Crowd(places=2, holds=LogNormal(4.0, 0.3), others=1.0, room=7)
_FLASH = Behaviour(
    network=_NETWORK,
    queue=LogNormal(0.15, 0.4),
    long_line=_LONG_PROMPTS,
    start=LogNormal(0.1, 0.3),
    prefill=0.0001,
    gap=LogNormal(0.008, 0.3),
    thinking=Fixed(0),
    answer=_ANSWER,
    brief_answer=_BRIEF,
    brief_thinking=_BRIEF_THINKING,
)
_AIR = Behaviour(
    network=_NETWORK,
    queue=LogNormal(1.6, 0.75),  # with the rest: p50 about 2.5 s, p95 6.5 s to the first token
    start=LogNormal(0.1, 0.3),
    prefill=0.00012,
    gap=LogNormal(0.011, 0.3),
    thinking=LogNormal(500.0, 0.5),
    answer=_ANSWER,
    brief_answer=_BRIEF,
    brief_thinking=_BRIEF_THINKING,
)
_DEFAULT = Profile(
    name="default",
    about="latencies as measured at the service, with their bimodal queues and thinking",
    in_flight=None,
    behaviours=(
        ("glm-4-flash*", _FLASH),
        ("glm-*-flash", _FREE),
        ("glm-4.5-air*", _AIR),
        ("glm-4-*", _AIR),
        ("*", _PAID),
    ),
)

# --- instant and steady: for tests and benchmarks ------------------------------------------------


def _paced(gap: float, thinking: int, answer: int) -> Behaviour:
    return Behaviour(
        network=NOTHING,
        queue=NOTHING,
        gap=Fixed(gap),
        thinking=Fixed(thinking),
        brief_thinking=Fixed(thinking),
        answer=Fixed(answer),
        brief_answer=Fixed(answer),
    )


_INSTANT = Profile(
    name="instant",
    about="no waiting anywhere: 8 thinking tokens where the model thinks, 24 of answer",
    in_flight=0,
    behaviours=(("*", _paced(0.0, 8, 24)),),
)
_STEADY = Profile(
    name="steady",
    about="for benchmarks: no thinking, 200 tokens, one every 20 ms",
    in_flight=0,
    behaviours=(("*", _paced(0.02, 0, 200)),),
)

# --- tail and slow: a service that is mostly quick and sometimes not, and one that never is ------


def _first_token(queue: Distribution) -> Behaviour:
    """Nothing but the time to the first token, then a short answer."""
    return Behaviour(
        network=NOTHING,
        queue=queue,
        gap=Fixed(0.01),
        thinking=NOTHING,
        brief_thinking=NOTHING,
        answer=Fixed(5),
        brief_answer=Fixed(5),
    )


_LATE = Uniform(6.0, 30.0)
_TAIL = Profile(
    name="tail",
    about="first token in about 0.8 s, 4 % of them in 6 to 30 s; 200 in flight per key and model",
    in_flight=200,
    behaviours=(("*", _first_token(OneOf(((0.96, LogNormal(0.8, 0.25)), (0.04, _LATE))))),),
)
_SLOW = Profile(
    name="slow",
    about="every first token in 6 to 30 s; 200 in flight per key and model",
    in_flight=200,
    behaviours=(("*", _first_token(_LATE)),),
)

# --- lumosai: the causes behind the report this project starts from ------------------------------
#
# Its figures (first visible token, chunks): glm-4.6 28.8 s, 67; glm-4-flash 15.6 s of 15.7 s, 21;
# one sentence from glm-4-flash 1.6 s in all. They come out, as medians, for a caller that sends
# what its application sent: `glm-proxy bench --suite lumosai` does. A bare prompt is a fresh
# conversation, which the same author measured later: 0.6 to 1.2 s. What makes each second, and how
# sure it is:
#
# glm-4.6, "introduce the basic concepts of machine learning", with ten memories:
#   0.12  a new TLS connection per request   (its client opens one; 50 to 200 ms was its estimate)
#   0.23  network; 0.70 queue, the usual pause of the fast mode; 0.35 start   (measured elsewhere)
#   0.41  prefill of 2,300 prompt tokens   (its trace)
#  27.00  thinking, about 2,250 tokens at 83 a second; the application's parser does not read
#         `reasoning_content`, so to it this is silence   (inferred: the only cause of this size)
#  28.80  first visible token; 67 tokens in the 0.8 s that follow   (report)
#
# glm-4-flash, the same question, after a long conversation:
#   0.12  connection; 0.23 network; 0.35 start
#  14.00  the line of the prompts above 8K tokens (documented: one per cent of the concurrency).
#         Without history the author measured 0.9 s   (measured; the mechanism is inferred)
#   0.90  prefill of 9,000 tokens
#  15.60  first visible token; no thinking; 21 tokens in the 0.1 s that follow   (report)
#
# glm-4-flash, one sentence, in a fresh conversation:
#   0.12  connection; 0.23 network; 0.70 queue; 0.35 start; 40 tokens in 0.2 s: 1.60 s   (report)
_LUMOS_NETWORK = LogNormal(0.23, 0.08)
_LUMOS_START = LogNormal(0.35, 0.2)
# Quick or slow and hardly between, as five streams of glm-4.5 were: 0.63 0.69 0.73 1.13 3.6.
_LUMOS_QUEUE = OneOf(
    ((0.85, LogNormal(0.68, 0.2)), (0.14, LogNormal(3.8, 0.25)), (0.01, Uniform(10.0, 40.0)))
)
_LUMOS_46 = Behaviour(
    network=_LUMOS_NETWORK,
    queue=_LUMOS_QUEUE,
    start=_LUMOS_START,
    prefill=0.00018,
    gap=LogNormal(0.012, 0.05),
    thinking=LogNormal(2249.0, 0.15),
    brief_thinking=LogNormal(320.0, 0.3),  # a recorded "say hi" was 708 thinking tokens of 734
    answer=Fixed(67),
    brief_answer=Fixed(24),
)
_LUMOS_FLASH = Behaviour(
    network=_LUMOS_NETWORK,
    queue=_LUMOS_QUEUE,
    long_line=_LONG_PROMPTS,
    start=_LUMOS_START,
    prefill=0.0001,
    gap=LogNormal(0.005, 0.05),
    thinking=NOTHING,
    brief_thinking=NOTHING,
    answer=Fixed(21),
    brief_answer=Fixed(40),
)
# glm-4.5-air, paid, no rule for long prompts: p50 2.5 s and p95 6.5 s to the first token, by a
# router's measurement. Its queue is the same one.
_LUMOS_OTHER = Behaviour(
    network=_LUMOS_NETWORK,
    queue=LogNormal(1.6, 0.75),
    start=_LUMOS_START,
    prefill=0.0001,
    gap=LogNormal(0.01, 0.05),
    thinking=LogNormal(600.0, 0.3),
    brief_thinking=LogNormal(160.0, 0.3),
    answer=Fixed(60),
    brief_answer=Fixed(30),
)
_LUMOSAI = Profile(
    name="lumosai",
    about="the causes of the starting report's 28.8 s from glm-4.6 and 15.6 s from glm-4-flash",
    in_flight=None,
    connect=0.12,
    behaviours=(("glm-4.6", _LUMOS_46), ("glm-4-flash*", _LUMOS_FLASH), ("*", _LUMOS_OTHER)),
)

PROFILES = {
    profile.name: profile for profile in (_DEFAULT, _INSTANT, _LUMOSAI, _SLOW, _STEADY, _TAIL)
}
