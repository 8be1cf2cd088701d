"""One connection of a client, under the requests that come on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.http import RawRequestMessage

from proxy.errors import ClientError
from proxy.net.reader_watch import ReaderWatch


class ClientConnection(web.RequestHandler):
    """aiohttp's connection, with what it lacks.

    It tells its exchange when the client reads too slowly, and that the rest of a broken body will
    not come. It waits for ever neither for the rest of a request's head nor for a client that does
    not read: aiohttp itself limits only how long an idle connection is kept.
    """

    __slots__ = ("_head_timeout", "_head_timer", "_reader", "on_flow")

    def __init__(self, *args: Any, head_timeout: float, client_stall: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reader = ReaderWatch(client_stall)
        self.on_flow: Callable[[bool], None] | None = None
        self._head_timeout = head_timeout
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._reader.transport = self.transport
        self._head_timer = self._loop.call_later(self._head_timeout, self._head_overdue)

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._stop_head_timer()
        self._reader.stop()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):
            self._break_bodies()
        if not self._waits_for_head():
            self._stop_head_timer()
        elif self._head_timer is None:  # a head has begun on a connection that was idle
            self._head_timer = self._loop.call_later(self._head_timeout, self._head_overdue)

    def _break_bodies(self) -> None:
        """What came is not HTTP, so no body that was still coming can become whole."""
        bodies = [payload for _, payload in self._messages]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        for body in bodies:
            if not body.is_eof():
                body.set_exception(web.RequestPayloadError("its framing is not valid HTTP"))
                body.feed_eof()

    @property
    def is_receiving(self) -> bool:
        """The body of the request that is served has not come whole yet."""
        request = self._current_request
        return request is not None and not request.content.is_eof()

    def _waits_for_head(self) -> bool:
        return self._waiter is not None and not self._waiter.done()

    def _head_overdue(self) -> None:
        self._head_timer = None
        if self._waits_for_head():
            self.force_close()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.on_flow is not None:
            self.on_flow(True)
        else:
            self._reader.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reader.stop()
        if self.on_flow is not None:
            self.on_flow(False)

    def force_close(self) -> None:
        super().force_close()
        self._reader.start()  # closing waits for the client to read what was written

    def watch_flow(self, on_flow: Callable[[bool], None]) -> None:
        """`on_flow(True)` when the client reads too slowly, now or later; `False` when it is over.

        Who asks has to end it with a client that reads nothing.
        """
        self.on_flow = on_flow
        self._reader.stop()
        if self.writing_paused:
            on_flow(True)

    def release(self) -> None:
        """Nobody watches the flow any more."""
        self.on_flow = None
        self._reader.start()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is not HTTP never reaches an exchange; it is answered in JSON like all else."""
        if status >= 500 or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        error = ClientError(f"the request is not valid HTTP: {message or exc}")
        response = web.Response(status=status, body=error.openai_body())
        response.headers.update({"Server": "glm-proxy", "Content-Type": "application/json"})
        response.force_close()
        return response
