"""One lazy timer for everything that is due when nothing comes.

Nothing is re-armed per event: when the timer fires it asks again what is due, and sleeps on when
that has moved.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from proxy.core.flow.patience import Due

_SHORTEST = 0.001
"""Seconds. A deadline that rounding put just ahead of us is not asked for again and again."""


class Watchdog:
    """Asks `due` what comes next and when; calls `act` when it has come. Its owner stops it."""

    __slots__ = ("_act", "_due", "_loop", "_timer")

    def __init__(
        self, due: Callable[[], tuple[float, Due]], act: Callable[[Due, float], None]
    ) -> None:
        self._due = due
        self._act = act
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def arm(self) -> None:
        """Begin, or look again because a deadline may have moved nearer."""
        self.stop()
        wait = self._due()[0] - time.monotonic()
        self._timer = self._loop.call_later(max(wait, _SHORTEST), self._look)

    def stop(self) -> None:
        """Nothing is due any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        when, due = self._due()
        if when <= now:
            self._act(due, now)
        else:
            self.arm()
