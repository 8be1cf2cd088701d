"""Where the waiting comes from, per model: causes, not results. All times in seconds.

An answer is late because of

    network     the way to the service: TLS front end, firewall, authentication
    queue       no machine was free; the first response header comes after it
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

NOTHING = Fixed(0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """The causes of waiting for one family of models.

    `brief_*` hold for prompts that ask for one sentence or only greet. `context` is text that the
    application puts around the prompt and a test does not send (memories, history), in tokens.
    """

    network: Distribution
    queue: Distribution
    long_queue: Distribution | None = None
    """Instead of `queue`, for prompts above 8K tokens."""
    start: Distribution = NOTHING
    prefill: float = 0.0
    gap: Distribution
    thinking: Distribution
    brief_thinking: Distribution
    answer: Distribution
    brief_answer: Distribution
    context: int = 0
    brief_context: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A named set of behaviours, first fitting pattern wins; the last one is `*`."""

    name: str
    about: str
    limits: bool
    """Whether the in-flight limits of the models hold."""
    behaviours: tuple[tuple[str, Behaviour], ...]

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
# above 8K tokens share one per cent of its machines: those wait.
_FLASH = Behaviour(
    network=_NETWORK,
    queue=LogNormal(0.15, 0.4),
    long_queue=LogNormal(14.0, 0.4),
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
    limits=True,
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
    limits=False,
    behaviours=(("*", _paced(0.0, 8, 24)),),
)
_STEADY = Profile(
    name="steady",
    about="for benchmarks: no thinking, 200 tokens, one every 20 ms",
    limits=False,
    behaviours=(("*", _paced(0.02, 0, 200)),),
)

# --- lumosai: the seconds of the report this project starts from ---------------------------------
#
# Figures to reproduce (first visible token, chunks): glm-4.6 28.8 s, 67; glm-4-flash 15.6 s of
# 15.7 s, 21; one sentence from glm-4-flash 1.6 s in all. Every draw is fixed, so they come out
# each time. What makes each second, and how sure it is:
#
# glm-4.6, "introduce the basic concepts of machine learning":
#   0.35  network; 0.70 queue, the usual pause of the fast mode; 0.35 start   (measured elsewhere)
#   0.41  prefill of 2,300 prompt tokens, the ten memories the application adds   (its trace)
#  26.99  thinking, 2,249 tokens at 83 a second; the application's parser does not read
#         `reasoning_content`, so to it this is silence   (inferred: the only cause of this size)
#  28.80  first visible token; 67 tokens in the 0.8 s that follow   (report)
_LUMOS_46 = Behaviour(
    network=Fixed(0.35),
    queue=Fixed(0.70),
    start=Fixed(0.35),
    prefill=0.00018,
    context=2300,
    gap=Fixed(0.012),
    thinking=Fixed(2249),
    brief_thinking=Fixed(160),
    answer=Fixed(67),
    brief_answer=Fixed(24),
)
# glm-4-flash, the same question:
#   0.35  network; 0.35 start
#  14.00  queue of the long prompts: above 8K tokens the free model gives one per cent of its
#         concurrency (documented). The history that the application sent made the prompt that
#         long; without history the author measured 0.9 s   (measured; the mechanism is inferred)
#   0.90  prefill of 9,000 tokens
#  15.60  first visible token; no thinking; 21 tokens in the 0.1 s that follow   (report)
# glm-4-flash, one sentence, in a fresh conversation:
#   0.35  network; 0.70 queue; 0.35 start; 40 tokens in 0.2 s; 1.60 s in all   (report)
_LUMOS_FLASH = Behaviour(
    network=Fixed(0.35),
    queue=Fixed(0.70),
    long_queue=Fixed(14.0),
    start=Fixed(0.35),
    prefill=0.0001,
    context=9000,
    gap=Fixed(0.005),
    thinking=Fixed(0),
    brief_thinking=Fixed(0),
    answer=Fixed(21),
    brief_answer=Fixed(40),
)
# Every other model, glm-4-air of the report's plan among them: paid, no rule for long prompts.
_LUMOS_OTHER = Behaviour(
    network=Fixed(0.35),
    queue=Fixed(0.70),
    start=Fixed(0.35),
    prefill=0.0001,
    context=9000,
    gap=Fixed(0.01),
    thinking=Fixed(600),
    brief_thinking=Fixed(160),
    answer=Fixed(60),
    brief_answer=Fixed(30),
)
_LUMOSAI = Profile(
    name="lumosai",
    about="the starting report: 28.8 s and 67 chunks from glm-4.6, 15.6 s and 21 from glm-4-flash",
    limits=True,
    behaviours=(("glm-4.6", _LUMOS_46), ("glm-4-flash*", _LUMOS_FLASH), ("*", _LUMOS_OTHER)),
)

PROFILES = {profile.name: profile for profile in (_DEFAULT, _INSTANT, _LUMOSAI, _STEADY)}
