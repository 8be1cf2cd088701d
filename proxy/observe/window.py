"""The last minute and the last ten minutes in figures, for the operator's page.

Prometheus has them too, and for longer; these need nobody who scrapes. Times are counted in
ranges that are 5 % wide, so a percentile is at most 2.5 % off, and memory has a bound whatever
happens. Rates and errors are of all exchanges, times and the objective of chats.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from math import exp, log
from typing import Final, NamedTuple

from proxy.core.record import Record
from proxy.observe.objective import SHARE, TARGET, has_failed, met

STEP: Final = 5.0
"""Seconds."""
STEPS: Final = 120
"""In the history: ten minutes."""
MINUTE: Final = 12
"""Steps in the window, the one that has only begun among them."""

_LOWEST: Final = 1e-4
_HIGHEST: Final = 3600.0
"""Seconds; what is below or above counts as this."""
_GROWTH: Final = log(1.05)


class Point(NamedTuple):
    """One step of the history; None where nothing says anything."""

    rate: float | None = None
    """Exchanges a second. None: before the start."""
    errors: int | None = None
    content_p50: float | None = None
    content_p95: float | None = None
    slo_share: float | None = None


class _Step:
    """What finished within one step."""

    __slots__ = ("content", "count", "errors", "kept", "missed", "number", "ttfb", "ttft")

    def __init__(self, number: int) -> None:
        self.number = number
        self.count = self.errors = self.kept = self.missed = 0
        self.ttfb: dict[int, int] = {}
        self.ttft: dict[int, int] = {}
        self.content: dict[int, int] = {}

    def add(self, record: Record) -> None:
        self.count += 1
        self.errors += has_failed(record)
        if record.kind != "chat":
            return
        _count(self.ttfb, record.ttfb)
        _count(self.ttft, record.ttft)
        _count(self.content, record.first_content)
        kept = met(record)
        if kept is not None:
            self.kept += kept
            self.missed += not kept

    def merge(self, other: _Step) -> None:
        self.count += other.count
        self.errors += other.errors
        self.kept += other.kept
        self.missed += other.missed
        for own, more in (
            (self.ttfb, other.ttfb),
            (self.ttft, other.ttft),
            (self.content, other.content),
        ):
            for bucket, count in more.items():
                own[bucket] = own.get(bucket, 0) + count

    def point(self) -> Point:
        content = self.content
        return Point(
            round(self.count / STEP, 3),
            self.errors,
            _quantile(content, 0.5),
            _quantile(content, 0.95),
            _share(self.kept, self.missed),
        )


class Window:
    """For one process, in its event loop's thread."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """`now` is a clock that never goes back; steps begin at its multiples."""
        self._now = now
        self._began = now()
        self._steps: deque[_Step] = deque(maxlen=STEPS + 1)
        """Those in which something finished."""
        self._points: dict[int, Point] = {}
        """Of steps that are over, by their number."""

    def finish(self, record: Record) -> None:
        """Counts one finished exchange."""
        number = int(self._now() // STEP)
        if not self._steps or self._steps[-1].number != number:
            self._steps.append(_Step(number))
        self._steps[-1].add(record)

    def minute(self) -> dict[str, object]:
        """The figures of the last minute (55 to 60 seconds)."""
        now = self._now()
        first = int(now // STEP) - MINUTE + 1
        total = _Step(first)
        for step in self._steps:
            if step.number >= first:
                total.merge(step)
        span = max(now - max(first * STEP, self._began), 1.0)
        return {
            "seconds": int(MINUTE * STEP),
            "rate_per_s": round(total.count / span, 3),
            "errors": total.errors,
            "ttfb_p50_s": _quantile(total.ttfb, 0.5),
            "ttfb_p95_s": _quantile(total.ttfb, 0.95),
            "ttft_p50_s": _quantile(total.ttft, 0.5),
            "first_content_p50_s": _quantile(total.content, 0.5),
            "first_content_p95_s": _quantile(total.content, 0.95),
            "slo_target_s": TARGET,
            "slo_objective": SHARE,
            "slo_share": _share(total.kept, total.missed),
            "slo_count": total.kept + total.missed,
        }

    def history(self, wall: float) -> dict[str, object]:
        """The last ten minutes, step by step, the oldest first; without the step that has only
        begun. `time` is when each step ended, `wall` what time it is: seconds since the epoch."""
        now = self._now()
        current = int(now // STEP)
        numbers = range(current - STEPS, current)
        points = self._seen(numbers)
        return {
            "step_s": int(STEP),
            "time": [round(wall - now + (number + 1) * STEP, 1) for number in numbers],
            "rate_per_s": [point.rate for point in points],
            "errors": [point.errors for point in points],
            "first_content_p50_s": [point.content_p50 for point in points],
            "first_content_p95_s": [point.content_p95 for point in points],
            "slo_share": [point.slo_share for point in points],
        }

    def _seen(self, numbers: range) -> list[Point]:
        """The points of steps that are over; each is made once."""
        made = self._points
        fresh = {
            step.number: made.get(step.number) or step.point()
            for step in self._steps
            if step.number in numbers
        }
        self._points = fresh
        began = int(self._began // STEP)
        return [fresh.get(one) or (_NOTHING if one >= began else Point()) for one in numbers]


_NOTHING: Final = Point(rate=0.0, errors=0)


def _count(counts: dict[int, int], seconds: float | None) -> None:
    if seconds is not None:
        bucket = int(log(min(max(seconds, _LOWEST), _HIGHEST) / _LOWEST) / _GROWTH)
        counts[bucket] = counts.get(bucket, 0) + 1


def _quantile(counts: Mapping[int, int], q: float) -> float | None:
    """The middle of the range in which the value lies that a share `q` did not exceed."""
    left = q * sum(counts.values())
    for bucket in sorted(counts):
        left -= counts[bucket]
        if left <= 0.0:
            return round(_LOWEST * exp((bucket + 0.5) * _GROWTH), 6)
    return None


def _share(kept: int, missed: int) -> float | None:
    return round(kept / (kept + missed), 6) if kept + missed else None
