"""From samples to numbers: percentiles, how much sooner, goals. Pure functions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.bench.measure import Sample

GOAL_FIRST_CONTENT = 5.0
"""Seconds to the first visible token."""
GOAL_TIMES_SOONER = 3.0
"""Against the direct way."""
SHARES = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Stage:
    """A line of the report."""

    name: str
    """Attribute of a sample."""
    title: str
    is_time: bool = True


STAGES = (
    Stage("headers", "headers, s"),
    Stage("ttfb", "TTFB, s"),
    Stage("first_event", "first event, s"),
    Stage("ttft", "TTFT (reasoning counts), s"),
    Stage("first_content", "first content, s"),
    Stage("last_byte", "last byte, s"),
    Stage("gap_mean", "event gap, mean, s"),
    Stage("gap_max", "event gap, longest, s"),
    Stage("events_per_chunk", "events per chunk", is_time=False),
    Stage("tokens_per_second", "tokens per second", is_time=False),
)


@dataclass(frozen=True, slots=True)
class Summary:
    """One stage of one way, over the complete requests that reached it."""

    n: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Goal:
    """A promise, and what was measured."""

    text: str
    measured: float
    reached: bool


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed ("nearest rank").

    Always a value that was measured. Raises ValueError without values or for a share outside 0..1.
    """
    if not values or not 0 <= share <= 1:
        raise ValueError("a percentile needs values, and a share from 0 to 1")
    # Rounded first: 0.95 * 20 is a little more than 19 in binary.
    rank = math.ceil(round(share * len(values), 9))
    return sorted(values)[max(rank, 1) - 1]


def summarise(samples: Sequence[Sample], way: str, stage: str) -> Summary | None:
    """None when no complete request of the way reached the stage."""
    found = (getattr(s, stage) for s in samples if s.way == way and s.complete)
    values = [value for value in found if value is not None]
    if not values:
        return None
    return Summary(
        len(values), math.fsum(values) / len(values), *(percentile(values, s) for s in SHARES)
    )


def times_sooner(direct: Summary | None, proxied: Summary | None) -> float | None:
    """How many times sooner the median request gets there through the proxy."""
    if direct is None or proxied is None or proxied.p50 == 0:
        return None
    return direct.p50 / proxied.p50


def outcomes(samples: Sequence[Sample], way: str) -> Counter[str]:
    return Counter(sample.outcome for sample in samples if sample.way == way)


def goals(samples: Sequence[Sample], ways: Sequence[str]) -> list[Goal]:
    """Judged on the last way's medians; what could not be measured is left out."""
    proxied = summarise(samples, ways[-1], "first_content")
    if proxied is None:
        return []
    found = [
        Goal(
            f"first content within {GOAL_FIRST_CONTENT:g} s (p50)",
            proxied.p50,
            proxied.p50 <= GOAL_FIRST_CONTENT,
        )
    ]
    if len(ways) > 1:
        sooner = times_sooner(summarise(samples, ways[0], "first_content"), proxied)
        if sooner is not None:
            text = f"first content at least {GOAL_TIMES_SOONER:g} times sooner (p50)"
            found.append(Goal(text, sooner, sooner >= GOAL_TIMES_SOONER))
    return found
