"""From the samples of the suite `tail` to its figures."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.bench.figures import percentile
from proxy.bench.suite.tail import DIRECT, PROXIED, Found, LogLine

_WINDOW = 1.0
"""Seconds of the service over which a rate is taken."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One phase on one way; seconds of the service."""

    requests: int
    complete: int
    p50: float
    p90: float
    p99: float
    attempts: int | None
    """Requests to the service; None where no log tells."""
    outcomes: dict[str, int]

    @property
    def extra(self) -> float | None:
        """Attempts beyond one for each request, as a share of the requests."""
        return None if self.attempts is None else self.attempts / self.requests - 1


@dataclass(frozen=True, slots=True)
class Outage:
    """The service gone, and back."""

    seconds: float
    """So long it was gone."""
    requests: int
    """Begun while it was gone."""
    attempts: int
    answered: int
    outcomes: dict[str, int]
    steady: float
    """Arrivals a second at the service before."""
    steady_peak: float
    """In the busiest second before."""
    peak: float
    """In the busiest second after it was back."""
    first_answer: float | None
    """Seconds from when it was back to the first complete answer's begin."""
    recovered: float | None
    """Seconds after which no request failed any more."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One promise; `at_most` says in which direction it is kept."""

    name: str
    expected: float
    actual: float | None
    at_most: bool

    @property
    def reached(self) -> bool:
        if self.actual is None:
            return False
        return self.actual <= self.expected if self.at_most else self.actual >= self.expected


def figures(found: Found, way: str, phase: str) -> Figures | None:
    """None without a complete answer."""
    of_it = [s for s in found.samples if s.way == way and s.scene == phase]
    firsts = [
        s.first_content / found.conditions.time_scale
        for s in of_it
        if s.complete and s.first_content is not None
    ]
    if not firsts:
        return None
    return Figures(
        requests=len(of_it),
        complete=len(firsts),
        p50=percentile(firsts, 0.5),
        p90=percentile(firsts, 0.9),
        p99=percentile(firsts, 0.99),
        attempts=_attempts(found, phase) if way == PROXIED else len(of_it),
        outcomes=dict(Counter(s.outcome for s in of_it)),
    )


def _attempts(found: Found, phase: str) -> int | None:
    begin = f"{PROXIED}-{phase}-"
    counts = [line["attempt_count"] for line in found.lines if line["request_id"].startswith(begin)]
    return sum(counts) if counts else None


def median_apart(found: Found) -> float | None:
    """Milliseconds of the machine's clock by which the proxied median is later than the direct.

    What both wait for at the service is the same, so this is what the proxy and its connection
    cost on this machine, whatever the time scale; the chance of the draws is scaled.
    """
    direct, proxied = figures(found, DIRECT, "tail"), figures(found, PROXIED, "tail")
    if direct is None or proxied is None:
        return None
    return 1000 * (proxied.p50 - direct.p50) * found.conditions.time_scale


def outage(found: Found) -> Outage | None:
    """None when the service was never gone."""
    of_it = [s for s in found.samples if s.scene == "down"]
    during = [s for s in of_it if found.down_at <= s.started < found.up_at]
    if not during:
        return None
    by_id: dict[str, LogLine] = {line["request_id"]: line for line in found.lines}
    numbers = (by_id.get(f"{PROXIED}-down-{s.number}") for s in during)
    scale = found.conditions.time_scale
    before = [t for t in found.arrivals if found.steady_from <= t < found.down_at]
    after = [t for t in found.arrivals if t >= found.up_at]
    later = sorted((s for s in of_it if s.started >= found.up_at), key=lambda s: s.started)
    good = [s.started for s in later if s.complete]
    bad = [s.started for s in later if not s.complete]
    return Outage(
        seconds=(found.up_at - found.down_at) / scale,
        requests=len(during),
        attempts=sum(line["attempt_count"] for line in numbers if line is not None),
        answered=sum(s.complete for s in during),
        outcomes=dict(Counter(s.outcome for s in during)),
        steady=len(before) / ((found.down_at - found.steady_from) / scale),
        steady_peak=busiest(before, _WINDOW * scale) / _WINDOW,
        peak=busiest(after, _WINDOW * scale) / _WINDOW,
        first_answer=(good[0] - found.up_at) / scale if good else None,
        recovered=(max(bad) - found.up_at) / scale if bad else 0.0,
    )


def busiest(moments: Sequence[float], window: float) -> int:
    """The most that fall into any `window` seconds."""
    ordered = sorted(moments)
    return max(
        (bisect_left(ordered, moment + window) - i for i, moment in enumerate(ordered)), default=0
    )


def goals(found: Found) -> list[Goal]:
    """All promises of the suite, in the order of its phases."""
    direct, proxied = figures(found, DIRECT, "tail"), figures(found, PROXIED, "tail")
    slow_direct, slow = figures(found, DIRECT, "slow"), figures(found, PROXIED, "slow")
    gone = outage(found)
    return [
        Goal("p99", 6.0, None if not direct or not proxied else direct.p99 / proxied.p99, False),
        Goal("p50", 5.0, median_apart(found), True),
        Goal("extra", 0.06, proxied.extra if proxied else None, True),
        Goal("slow_extra", 0.06, slow.extra if slow else None, True),
        Goal("slow_complete", 0.99, slow.complete / slow.requests if slow else None, False),
        Goal(
            "slow_p50",
            1.1,
            None if not slow_direct or not slow else slow.p50 / slow_direct.p50,
            True,
        ),
        Goal("down_attempts", 1.15, gone.attempts / gone.requests if gone else None, True),
        Goal("down_peak", 1.5, gone.peak / gone.steady if gone and gone.steady else None, True),
    ]
