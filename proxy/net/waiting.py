"""Requests that wait for a stream: first come, first served, each with its deadline."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from proxy.errors import UpstreamError


class WaitingLine:
    """A promise is a free stream kept for a request that was told to come and has not come yet.

    `changed` is called when a place in the line was taken or a promise ended.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._line: deque[asyncio.Future[None]] = deque()
        self.promised = 0
        """Free streams that belong to those told to come."""
        self.untried = False
        """Somebody came after the last failed attempt to connect."""

    def __len__(self) -> int:
        return len(self._line)

    async def wait(
        self, limit: float, too_late: Callable[[], UpstreamError], *, again: bool
    ) -> None:
        """Return when a stream is promised; the promise ends here, so use it before any await.

        `limit` is a `time.monotonic()` value; then the error of `too_late` is raised. `again`: the
        promise was broken, so this one goes to the front. Raises what `fail` was given.
        """
        loop = asyncio.get_running_loop()
        place = loop.create_future()
        if again:
            self._line.appendleft(place)
        else:
            self._line.append(place)
            self.untried = True
        self._changed()
        timer = loop.call_later(limit - time.monotonic(), _expire, place, too_late)
        try:
            await place
        finally:
            timer.cancel()
            self._leave(place)

    def promise(self, streams: int) -> None:
        """Tell the first in line, as many as there are `streams`, to come."""
        while self._line and streams > 0:
            place = self._line.popleft()
            if not place.done():
                place.set_result(None)
                self.promised += 1
                streams -= 1

    def fail(self, error: UpstreamError) -> None:
        """There is nothing to wait for: everybody in line gets `error`."""
        line, self._line = self._line, deque()
        for place in line:
            if not place.done():
                # One exception object raised in many tasks would collect all their tracebacks.
                place.set_exception(type(error)(error.message))

    def _leave(self, place: asyncio.Future[None]) -> None:
        if place.done() and not place.cancelled() and place.exception() is None:
            self.promised -= 1
            self._changed()
            return
        with suppress(ValueError):
            self._line.remove(place)


def _expire(place: asyncio.Future[None], too_late: Callable[[], UpstreamError]) -> None:
    if not place.done():
        place.set_exception(too_late())
