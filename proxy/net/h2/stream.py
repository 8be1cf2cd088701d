"""One request as its owner holds it: slow it down, upload to it, give it up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy.errors import UpstreamError
from proxy.net.h2.state import Sink, StreamState

if TYPE_CHECKING:
    from proxy.net.h2.connection import Connection


class Stream(StreamState):
    """Made by `Connection.request`; what comes back is told to its sink."""

    __slots__ = ("_connection", "_waiter")

    def __init__(self, connection: Connection, sink: Sink) -> None:
        super().__init__(sink)
        self._connection = connection
        self._waiter: asyncio.Future[None] | None = None

    @property
    def over(self) -> bool:
        """Ended, failed or cancelled: an upload may stop."""
        return self.sink is None

    def pause_reading(self) -> None:
        """Give back no window until `resume_reading`: at most a window's bytes still come."""
        self.paused = True

    def resume_reading(self) -> None:
        """The window goes back to the peer, who may send on."""
        if self.paused:
            self._connection.engine.streams.resume(self)
            self._connection.settle()

    def cancel(self) -> None:
        """RST_STREAM(CANCEL) if still open. The sink hears nothing more; the connection lives."""
        if self.sink is not None:
            self._connection.engine.streams.cancel(self)
            self._connection.settle()

    async def send(self, data: bytes, end: bool = False) -> None:
        """Upload the next part of a body opened with `end=False`; `end` makes it the last.

        Returns when the peer's windows and the transport have taken all of it, or the stream has
        ended without error (the response came early, or `cancel`): see `over`. Raises the error
        that the sink was told. A cancelled `send` may still send its bytes.
        """
        self._connection.check_loop()
        await self._sent()
        if self.sink is None:
            return
        if self.ends:
            raise RuntimeError("the request body has ended")
        self._connection.engine.streams.uploads.add(self, data, end=end)
        self._connection.settle()
        await self._sent()

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _sent(self) -> None:
        """Until nothing waits to be sent, or nothing ever will."""
        if self._waiter is not None:
            raise RuntimeError("another send of this stream is under way")
        while self.sink is not None and self.body:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self.error is not None:
            raise copy_of(self.error)


def copy_of(error: UpstreamError) -> UpstreamError:
    """An error to raise or to tell: each place has its own, as a raised one collects tracebacks."""
    return type(error)(error.message)
