"""One connection of a client, under the requests that come on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong

from proxy.errors import BadHead, Crowded, HeadTooLarge, ProxyError
from proxy.net.door import Door
from proxy.net.reader_watch import ReaderWatch, arrived
from proxy.net.websocket import Socket

AGAIN: Final = 0.05
"""Seconds that are still waited for what may lie unread when its time is over: after a process was
held up, timers are served before sockets."""
_LOOKS: Final = 20
"""How often it is waited for so long: a machine that was held up may be busy for a while."""
_UNWRITTEN: Final = 32 * 1024
"""Bytes of an answer that wait here, behind those that wait in the kernel, before the upstream is
read no further."""
_REASONS: Final = {431: "Request Header Fields Too Large", 503: "Service Unavailable"}


class ClientConnection(web.RequestHandler):
    """aiohttp's connection, with what it lacks.

    It tells its exchange when the client reads too slowly, and that the rest of a broken body will
    not come. It waits for ever neither for the rest of a request's head nor for a client that does
    not read: aiohttp itself limits only how long an idle connection is kept. It takes no more than
    `head_limit` bytes of a head, and one line of half as much; it asks `door` whether it may be.
    """

    __slots__ = (
        *("_door", "_head_limit", "_head_received", "_head_timeout", "_head_timer"),
        *("_inside", "_looks", "_reader", "_socket", "on_flow"),
    )

    def __init__(
        self,
        *args: Any,
        head_timeout: float,
        client_stall: float,
        head_limit: int,
        head_lines: int,
        door: Door,
        **kwargs: Any,
    ) -> None:
        line = head_limit // 2
        super().__init__(
            *args,
            max_line_size=line,
            max_field_size=line,
            # The last one of the parser's is the one that it refuses.
            max_headers=head_lines,
            **kwargs,
        )
        self._reader = ReaderWatch(client_stall)
        self._socket: Socket | None = None
        """What the connection was given to."""
        self.on_flow: Callable[[bool], None] | None = None
        self._head_timeout = head_timeout
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_limit = head_limit
        self._head_received = 0
        """Bytes of a head that is not whole yet."""
        self._looks = 0
        self._door = door
        self._inside: str | None = None
        """The address it was let in from."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        address = str(peer[0]) if peer else ""
        if not self._door.enter(address):
            self._keep_out(cast(asyncio.Transport, transport))
            return
        self._inside = address
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.set_write_buffer_limits(high=_UNWRITTEN)
        self._reader.transport = self.transport
        self._head_timer = self._loop.call_later(self._head_timeout, self._head_overdue)

    def _keep_out(self, transport: asyncio.Transport) -> None:
        """What is already in the kernel is not worth reading."""
        self._manager = None  # it was never told of this connection
        self._force_close = True
        error = Crowded("there are too many connections; try again in a moment")
        transport.write(_last_words(error, "Retry-After: 1\r\n"))
        transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._socket is not None and self._socket.code is not None:
            self._task_handler = None  # it has ended in order: its exchange is not cancelled
        super().connection_lost(exc)
        self._stop_head_timer()
        self._reader.stop()
        if self._inside is not None:
            self._door.leave(self._inside)
            self._inside = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):
            self._break_bodies()
        if not self._waits_for_head():
            self._stop_head_timer()
            self._head_received = 0
            self._looks = 0
            return
        if self._head_timer is None:  # a head has begun on a connection that was idle
            self._head_timer = self._loop.call_later(self._head_timeout, self._head_overdue)
        self._head_received += len(data)
        if self._head_received > self._head_limit and self.transport is not None:
            text = f"the request's head is over {self._head_limit} bytes (server.header_limit)"
            self.transport.write(_last_words(HeadTooLarge(text)))
            self.force_close()

    def _break_bodies(self) -> None:
        """What came is not HTTP, so no body that was still coming can become whole."""
        bodies = [payload for _, payload in self._messages]
        if self._current_request is not None:
            bodies.append(self._current_request.content)
        for body in bodies:
            if not body.is_eof():
                body.set_exception(web.RequestPayloadError("its framing is not valid HTTP"))
                body.feed_eof()

    def close_if_idle(self, since: float) -> None:
        """Close it if no request has come since then (the loop's clock), and none is coming.

        Only one that is on its way at this very moment is lost, and its client told by the reset.
        """
        if not self._waits_for_head() or self._head_received or self.transport is None:
            return
        last_use = self._next_keepalive_close_time - self._keepalive_timeout
        if last_use <= since and not arrived(self.transport):
            self.force_close()

    def _waits_for_head(self) -> bool:
        if self._waiter is None:  # a task of its own serves it; it may not have begun yet
            return self._request_count == 0
        return not self._waiter.done()

    def _head_overdue(self) -> None:
        self._head_timer = None
        if not self._waits_for_head():
            return
        if self._look_again():
            self._head_timer = self._loop.call_later(AGAIN, self._head_overdue)
        else:
            self.force_close()

    def _process_keepalive(self) -> None:
        if self._waits_for_head() and self._look_again():
            self._keepalive_handle = self._loop.call_later(AGAIN, self._process_keepalive)
        else:
            super()._process_keepalive()

    def _look_again(self) -> bool:
        """Whether it is too soon to say: nothing came: what did may lie unread, for a second."""
        if self._looks == _LOOKS or self.transport is None or not arrived(self.transport):
            return False
        self._looks += 1
        return True

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.on_flow is not None:
            self.on_flow(True)
        if self.on_flow is None or self._socket is not None:
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

    @property
    def is_upgrade(self) -> bool:
        """The latest request ends HTTP here, if that is accepted: nothing was read behind it."""
        return self._upgraded

    def give_to(self, socket: Socket) -> None:
        """What comes from now on is `socket`'s."""
        self._socket = socket
        self._reader.written = lambda: socket.bytes_out
        self.on_flow = socket.flow
        # aiohttp asks of a parser what its own, which is final, has.
        self.set_parser(cast(Any, socket))

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
        error = self._explain(exc, message or "")
        response = web.Response(status=error.status, body=error.openai_body())
        response.headers.update({"Server": "glm-proxy", "Content-Type": "application/json"})
        response.force_close()
        return response

    def _explain(self, exc: BaseException | None, message: str) -> BadHead:
        """In words that quote nothing of the request: it may be a key."""
        if isinstance(exc, LineTooLong):
            text = f"a line of the request's head is over {self._head_limit // 2} bytes"
            return HeadTooLarge(f"{text} (half of server.header_limit)")
        if message == "Too many headers received":
            return HeadTooLarge(
                f"the request has more than {self.max_headers} headers (server.header_count)"
            )
        return BadHead(f"the request is not valid HTTP: {plain(message)}")


def plain(message: str) -> str:
    """What the parser says, without what it quotes."""
    return message.partition("\n")[0].partition(":")[0].strip() or "it cannot be read"


def _last_words(error: ProxyError, more: str = "") -> bytes:
    """An answer to a connection that no request is read from."""
    body = error.openai_body()
    head = (
        f"HTTP/1.1 {error.status} {_REASONS[error.status]}\r\nServer: glm-proxy\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body
