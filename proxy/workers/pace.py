"""How soon a worker that ended is followed by another: at once, unless they end one after the
other."""

from __future__ import annotations

from typing import Final

_LONG_LIFE: Final = 3.0
"""Seconds after which the end of a worker says nothing about the next one."""
_FIRST: Final = 0.1
_LONGEST: Final = 10.0
"""Seconds: the first pause, doubled each time, and the longest."""


class Pace:
    """Times are of the monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._short_lives = 0
        self.next = 0.0
        """When another may be made."""

    def ended(self, now: float, lived: float) -> None:
        """A worker has ended that nobody told to."""
        if lived >= _LONG_LIFE:
            self._short_lives = 0
            return
        self.next = now + min(_FIRST * 2**self._short_lives, _LONGEST)
        self._short_lives = min(self._short_lives + 1, 16)
