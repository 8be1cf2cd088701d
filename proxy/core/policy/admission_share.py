"""Whose the free places are: what callers used a moment ago is kept for them, up to a fair share.

A place that is taken cannot be taken back, and an answer may last for minutes. So turns in the
queue alone do not help who comes after a caller that has filled every place. While several callers
use a place's limit, one that has its fair share (the limit by the number of them) gets no more of
it than what the others leave: for each of them as many places are kept free as it had in use at
once within the last ten to twenty seconds, its own fair share at most. Who is alone has all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

SPAN: Final = 10.0
"""Seconds. What was in use in this span and the one before it is kept."""
_SWEPT: Final = 1.0


class _Caller:
    """One caller's places."""

    __slots__ = ("before", "most", "running", "span")

    def __init__(self, span: int) -> None:
        self.running = 0
        self.span = span
        self.most = 0
        """At once, in that span."""
        self.before = 0
        """The same of the span before it."""

    def roll(self, span: int) -> None:
        if span != self.span:
            self.before = self.most if span == self.span + 1 else self.running
            self.most, self.span = self.running, span

    @property
    def recent(self) -> int:
        return max(self.most, self.before)


class Kept:
    """What is kept at one moment, of so many free places."""

    __slots__ = ("_callers", "_fair", "_free", "_span", "_wanted")

    def __init__(self, free: int, fair: int, callers: Mapping[str, _Caller], span: int) -> None:
        """`fair`: places that each caller may have whatever the others do."""
        self._free = free
        self._fair = fair
        self._callers = callers
        self._span = span
        self._wanted: int | None = None

    def lets(self, caller: str) -> bool:
        """Whether the caller may take one more place."""
        one = self._callers.get(caller)
        if one is None or one.running < self._fair:
            return True
        if self._wanted is None:  # it has its share, so nothing is kept for itself
            self._wanted = sum(map(self._of, self._callers.values()))
        return self._wanted == 0 or self._free > self._wanted

    def _of(self, one: _Caller) -> int:
        one.roll(self._span)
        return max(0, min(one.recent, self._fair) - one.running)


class Shares:
    """Who has how many places of one limit, and had a moment ago."""

    def __init__(self) -> None:
        self._callers: dict[str, _Caller] = {}
        self._swept = 0.0

    def begin(self, caller: str, now: float) -> None:
        span = int(now // SPAN)
        one = self._callers.get(caller)
        if one is None:
            one = self._callers[caller] = _Caller(span)
        one.roll(span)
        one.running += 1
        one.most = max(one.most, one.running)

    def end(self, caller: str, now: float, *, keep: bool) -> None:
        """`keep`: places are limited; else nobody needs to know what was in use."""
        one = self._callers[caller]
        one.roll(int(now // SPAN))
        one.running -= 1
        if not keep and not one.running:
            del self._callers[caller]

    def kept(self, asking: Collection[str], limit: int, free: int, now: float) -> Kept | None:
        """What holds of `free` places out of `limit`, when these callers ask; None: all may."""
        if len(asking) > limit:
            return None
        if now >= self._swept + _SWEPT:
            self._sweep(now)
        callers = self._callers
        active = len(callers) + sum(caller not in callers for caller in asking)
        if active < 2 or active > limit:
            return None
        return Kept(free, limit // active, callers, int(now // SPAN))

    def next_change(self, now: float) -> float:
        """When time alone makes it less."""
        return (now // SPAN + 1) * SPAN

    def _sweep(self, now: float) -> None:
        self._swept, span = now, int(now // SPAN)
        for one in self._callers.values():
            one.roll(span)
        self._callers = {name: one for name, one in self._callers.items() if one.recent}
