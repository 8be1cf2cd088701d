"""How long things take, as quantiles of what was seen lately: seconds in, seconds out.

`Sketch` counts values in buckets that are each 12 % wide, from 5 ms to 600 s; an older value counts
less, by the time since then and by the number of values since. `LiveSketch` notices besides that
the world has changed: when several values lie far outside of what eight in ten were, the others
are forgotten. Fading alone would need a hundred fast answers before nine in ten are fast again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from math import ceil, exp2, log
from typing import Final, Self

LOWEST: Final = 0.005
HIGHEST: Final = 600.0
"""Seconds; what is below or above counts as this."""
GROWTH: Final = 1.12
"""From one bucket's edge to the next. A quantile is its bucket's middle: at most 6 % off."""
SECONDS: Final = 20.0
"""After so long a value counts half."""
COUNT: Final = 30.0
"""After so many newer values a value counts half."""

_STEP: Final = log(GROWTH)
BUCKETS: Final = ceil(log(HIGHEST / LOWEST) / _STEP)
"""How many there are."""
_MIDDLES: Final[tuple[float, ...]] = tuple(
    LOWEST * GROWTH ** (bucket + 0.5) for bucket in range(BUCKETS)
)
_FORGOTTEN: Final = 2.0**-10
"""Less weight than this says nothing any more."""
_LONG: Final = 40.0
"""Half-lives after which a value is gone."""
_LARGEST_UNIT: Final = exp2(_LONG)


class Sketch:
    """Quantiles of values that fade.

    Instead of making old values lighter, new ones are entered heavier: `_unit` is what a value of
    weight 1 is entered with now, and every weight that is told is divided by it.
    """

    __slots__ = ("_at", "_count", "_counts", "_first", "_last", "_seconds", "_total", "_unit")

    def __init__(self, *, seconds: float = SECONDS, count: float = COUNT) -> None:
        """`seconds` and `count` are half-lives: in time, and in values of weight 1."""
        self._seconds = seconds
        self._count = count
        self._counts = [0.0] * BUCKETS
        self._first, self._last = BUCKETS, -1
        self._total = 0.0
        self._unit = 1.0
        self._at = 0.0

    def add(self, seconds: float, now: float, *, weight: float = 1.0) -> None:
        """It took `seconds`."""
        self._advance(now, weight)
        self._enter(bucket_of(seconds), weight * self._unit)

    def at_least(self, seconds: float, now: float, *, weight: float = 1.0) -> None:
        """It was given up after `seconds`; how long it would have taken, nobody knows.

        It counts as the values above `seconds` do, in their proportion, and at most doubles them;
        what is left of it counts as `seconds`.
        """
        self._advance(now, weight)
        own, entered = bucket_of(seconds), weight * self._unit
        above = sum(self._counts[own + 1 : self._last + 1])
        shared = min(entered, above)
        if shared > 0.0:
            for bucket in range(own + 1, self._last + 1):
                self._counts[bucket] *= 1.0 + shared / above
            self._total += shared
        if entered > shared:
            self._enter(own, entered - shared)

    def quantile(self, q: float, now: float) -> float | None:
        """The value that a share `q` of all did not exceed; None when nothing of weight is left."""
        if self.weight(now) < _FORGOTTEN:
            return None
        return self._at_shares(q)[0]

    def weight(self, now: float) -> float:
        """How many values it holds, each counted by what is left of it."""
        age = now - self._at
        faded = self._total / self._unit
        return faded * exp2(-age / self._seconds) if age > 0.0 else faded

    def weights(self, now: float) -> list[tuple[int, float]]:
        """By bucket, how many values are in it, each counted by what is left of it."""
        total = self.weight(now)
        if total < _FORGOTTEN:
            return []
        unit = self._total / total
        held = range(self._first, self._last + 1)
        return [(one, self._counts[one] / unit) for one in held if self._counts[one]]

    def put(self, weights: Iterable[tuple[int, float]], now: float) -> None:
        """Only these values from now on, as `weights` tells them."""
        self._counts = [0.0] * BUCKETS
        self._first, self._last = BUCKETS, -1
        self._total, self._unit, self._at = 0.0, 1.0, now
        for bucket, weight in weights:
            if weight > 0.0:
                self._enter(bucket, weight)

    def copy(self) -> Self:
        """Another one with the same values."""
        twin = object.__new__(type(self))
        twin._seconds, twin._count = self._seconds, self._count
        twin._counts = self._counts.copy()
        twin._first, twin._last = self._first, self._last
        twin._total, twin._unit, twin._at = self._total, self._unit, self._at
        return twin

    def _at_shares(self, *shares: float) -> list[float]:
        """The quantiles of a sketch that is not empty."""
        first = self._first
        sums = list(accumulate(self._counts[first : self._last + 1]))
        return [_MIDDLES[first + bisect_left(sums, share * sums[-1])] for share in shares]

    def _enter(self, bucket: int, count: float) -> None:
        self._counts[bucket] += count
        self._total += count
        if bucket < self._first:
            self._first = bucket
        if bucket > self._last:
            self._last = bucket

    def _advance(self, now: float, weight: float) -> None:
        """Let all values fade to `now`, by the time since and by a newer value of `weight`."""
        fading = weight / self._count
        if now > self._at:
            fading += (now - self._at) / self._seconds
            self._at = now
        self._unit *= exp2(min(fading, _LONG))
        if self._unit > _LARGEST_UNIT:
            self._rescale()

    def _rescale(self) -> None:
        """Back to a unit of 1, before numbers get too large. What is too light falls out."""
        factor, self._unit = 1.0 / self._unit, 1.0
        self._keep([count * factor for count in self._counts])

    def _keep(self, counts: list[float]) -> None:
        least = _FORGOTTEN**2 * self._unit
        self._counts = [count if count > least else 0.0 for count in counts]
        held = [bucket for bucket, count in enumerate(self._counts) if count]
        self._first, self._last = (held[0], held[-1]) if held else (BUCKETS, -1)
        self._total = sum(self._counts)


class LiveSketch(Sketch):
    """A sketch that forgets what was, when what is has become something else.

    News is a value far outside of what eight in ten were. Each takes the balance a step further to
    its side, each other value a step back. Four steps, or fewer when little else is known, and what
    lies on the other side is forgotten.
    """

    MARGIN: Final = 1.5
    """How far outside, as a factor."""
    ENOUGH: Final = 4.0
    """Balance that is always enough."""
    PART: Final = 1 / 3
    """Part of the weight of all others that is enough as well."""
    RECENT: Final = 60.0
    """Seconds for which it is told to have become slower."""

    __slots__ = ("_balance", "_before", "_high", "_low", "_turned")

    def __init__(self, *, seconds: float = SECONDS, count: float = COUNT) -> None:
        super().__init__(seconds=seconds, count=count)
        self._balance = 0.0
        """Weight of the news above (positive) or below (negative)."""
        self._low, self._high = 0.0, HIGHEST
        """Outside of these is news; they stay while the balance is not zero."""
        self._turned, self._before = -HIGHEST, HIGHEST
        """When it last became slower, and what was news then."""

    def add(self, seconds: float, now: float, *, weight: float = 1.0) -> None:
        """It took `seconds`."""
        side = self._side(seconds)
        super().add(seconds, now, weight=weight)
        self._weigh(side, weight, now)

    def at_least(self, seconds: float, now: float, *, weight: float = 1.0) -> None:
        """It was given up after `seconds`: news only when that was long."""
        side = self._side(seconds)
        super().at_least(seconds, now, weight=weight)
        if side > 0:
            self._weigh(side, weight, now)

    def slower(self, now: float) -> bool:
        """Whether it has turned to longer times within the last minute, and not back."""
        if now - self._turned > self.RECENT:
            return False
        median = self.quantile(0.5, now)
        return median is not None and median > self._before

    def copy(self) -> Self:
        """Another one with the same values and the same news."""
        twin = super().copy()
        twin._balance, twin._low, twin._high = self._balance, self._low, self._high
        twin._turned, twin._before = self._turned, self._before
        return twin

    def _side(self, seconds: float) -> int:
        if self._balance == 0.0 and self._total > 0.0:
            low, high = self._at_shares(0.1, 0.9)
            self._low, self._high = low / self.MARGIN, high * self.MARGIN
        return (seconds > self._high) - (seconds < self._low)

    def _weigh(self, side: int, weight: float, now: float) -> None:
        balance = self._balance
        if side * balance > 0.0 or balance == 0.0:
            self._balance = balance + side * weight
        elif balance > 0.0:
            self._balance = max(0.0, balance - weight)
        else:
            self._balance = min(0.0, balance + weight)
        news = self._balance * side
        if news > 0.0 and news >= min(self.ENOUGH, self.PART * (self.weight(now) - news)):
            self._turn(side, now)

    def _turn(self, side: int, now: float) -> None:
        """Forget what lies on the other side."""
        counts = self._counts
        if side > 0:
            self._turned, self._before = now, self._high
            edge = bucket_of(self._high)
            self._keep([0.0] * edge + counts[edge:])
        else:
            edge = bucket_of(self._low) + 1
            self._keep(counts[:edge] + [0.0] * (BUCKETS - edge))
        self._balance = 0.0


def bucket_of(seconds: float) -> int:
    """The bucket of a value, whatever it is."""
    if seconds <= LOWEST:
        return 0
    return min(int(log(seconds / LOWEST) / _STEP), BUCKETS - 1)
