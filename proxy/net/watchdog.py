"""One lazy timer for everything that is due when nothing comes.

Nothing is re-armed per event or per stage: the timer fires at least as often as the shortest
deadline there is, asks what is due, and sleeps on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from proxy.core.flow.patience import Due

_TICK = 0.001
"""Seconds. A deadline that rounding put just ahead of us is not asked for again and again."""
_LATE = 0.05
"""Seconds. A timer that fires later than this says that this process did not run meanwhile."""


class Watchdog:
    """Asks `due` what comes next and when; calls `act` when it has come. Its owner stops it.

    While the process did not run (a suspended machine, a busy one, a long collection) nobody was
    silent: what came lies unread, and timers are served before sockets. So a look that comes late
    only looks again, once, after as long as it was held up.
    """

    __slots__ = ("_act", "_due", "_expected", "_loop", "_shortest", "_timer")

    def __init__(
        self,
        due: Callable[[], tuple[float, Due]],
        act: Callable[[Due, float], None],
        *,
        shortest: float,
    ) -> None:
        """`shortest` is the least time, in seconds, in which anything can fall due."""
        self._due = due
        self._act = act
        self._shortest = shortest
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._expected: float | None = None
        """When the next look should come; None after a late one, whose second look counts."""

    def start(self) -> None:
        """Begin. Deadlines may come nearer at any time: nothing has to be said here."""
        self._expected = time.monotonic() + self._shortest
        self._timer = self._loop.call_later(self._shortest, self._look)

    def stop(self) -> None:
        """Nothing is due any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        now = time.monotonic()
        when, due = self._due()
        if when > now:
            wait = min(max(when - now, _TICK), self._shortest)
            self._expected = now + wait
        elif self._expected is not None and now > self._expected + _LATE:
            wait = min(now - self._expected, self._shortest)
            self._expected = None
        else:
            self._timer = None
            self._act(due, now)
            return
        self._timer = self._loop.call_later(wait, self._look)
