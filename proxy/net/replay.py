"""A stream that is known already, told again at the pace it came: one timer, no task per event."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from proxy.core.flow.kept import Read
from proxy.errors import ClientGone, ProxyError
from proxy.net.halves import Writer


class Replay:
    """Of one client. What it is too slow for comes when it reads on, all at once."""

    def __init__(self, events: Sequence[bytes], reads: Sequence[Read], stall: float) -> None:
        """`reads` say when the events came. A client that takes nothing for `stall` seconds is
        dropped."""
        self._events = events
        self._reads = reads
        self._stall = stall
        self._next = self._sent = 0
        """The read, and the events before it."""
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._over: asyncio.Future[ProxyError | None] = self._loop.create_future()
        self._write: Callable[[list[bytes], bool], None] | None = None
        self._client: Writer | None = None

    async def stream_into(
        self, write: Callable[[list[bytes], bool], None], client: Writer
    ) -> ProxyError | None:
        """Send every event to `write`, the last with `last` set. The answer is what went wrong."""
        self._write, self._client = write, client
        self.flow(client.paused_since is not None)
        try:
            return await self._over
        finally:
            self._disarm()
            self._write = None

    def flow(self, paused: bool) -> None:
        """The client stopped, or went on, reading."""
        self._disarm()
        if self._over.done() or self._write is None:
            return
        if paused:
            self._timer = self._loop.call_later(self._stall, self._look)
        else:
            self._send()

    def stop(self, error: ProxyError) -> None:
        """End it for `error`, where it is."""
        if not self._over.done():
            self._over.set_result(error)

    def _send(self) -> None:
        """What is due, in one write."""
        self._timer = None
        now, first, reads = self._loop.time() - self._began, self._sent, self._reads
        while self._next < len(reads) and reads[self._next].at <= now:
            self._sent += reads[self._next].events
            self._next += 1
        last = self._next == len(reads)
        assert self._write is not None
        if last:
            self._over.set_result(None)
        else:
            self._timer = self._loop.call_later(reads[self._next].at - now, self._send)
        if last or self._sent > first:
            self._write(list(self._events[first : self._sent]), last)

    def _look(self) -> None:
        self._timer = None
        client = self._client
        assert client is not None
        if client.has_taken(time.monotonic()):
            self.flow(True)
        else:
            client.abort()
            self.stop(ClientGone(f"the client read nothing for {self._stall:g} s"))

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
