"""The client's side: read its request, write its answer, notice that it leaves.

aiohttp parses the request and owns the connection. The body of an event stream is written here,
raw: one event is one HTTP chunk, and the events of one upstream read are one write, the first of
them together with the head.

The end of a stream is said in two ways only. `write` with `last` adds the last chunk: the answer
is whole. `cut` writes what the client has to be told and closes *without* the last chunk, so that
a cut never looks whole at the framing layer either.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from aiohttp import web
from aiohttp.http import HttpVersion11

from proxy.config import WebSocketLimits
from proxy.core.wire import handshake, head
from proxy.errors import BadHead, ClientError, ClientGone, Draining
from proxy.net.body import RequestBody, too_large
from proxy.net.client_connection import ClientConnection
from proxy.net.door import HardLimits, Store
from proxy.net.event_stream import EventStream, Upgraded
from proxy.net.halves import HTTP, Headers
from proxy.net.open_sockets import Limits, Sockets
from proxy.net.reader_watch import reset, unread
from proxy.net.websocket import Socket

_LAST_CHUNK = b"0\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class HttpClient:
    """One HTTP request of a client and the answer to it: a `proxy.net.halves.Client`."""

    carrier: Final = HTTP

    __slots__ = (
        "_body",
        "_chunked",
        "_connection",
        "_head",
        "_is_last",
        "_limits",
        "_request",
        "_socket",
        "_sockets",
        "_stopping",
        "_store",
        "_taken_before",
        "_waits",
        "bytes_out",
        "on_flow",
        "paused_since",
        "response",
    )

    def __init__(
        self,
        request: web.BaseRequest,
        limits: HardLimits,
        store: Store,
        *,
        stopping: Callable[[], bool],
        sockets: Sockets,
    ) -> None:
        """`stopping`: whether the answer has to be the last on its connection. `sockets`: where a
        WebSocket is told of that this may become."""
        self._request = request
        self._stopping = stopping
        self._sockets = sockets
        self._socket: Socket | None = None
        self._store = store
        self._limits = limits
        self._body = RequestBody(
            request.content, store, rate=limits.body_rate, grace=limits.body_grace
        )
        self._waits = False
        """For leave to send its body."""
        self._is_last = False
        """No further request is taken from this connection."""
        self._connection: Any = request.protocol
        self._chunked = request.version >= HttpVersion11
        self.response: web.StreamResponse | None = None
        self._head = b""
        self._taken_before = 0
        self.bytes_out = 0
        self.paused_since: float | None = None
        """When the client stopped reading, on the monotonic clock; `None` while it keeps up."""
        self.on_flow: Callable[[bool], None] | None = None

    @property
    def peer(self) -> str:
        """The address it calls from."""
        return self._request.remote or ""

    @property
    def method(self) -> str:
        return self._request.method

    @property
    def raw_path(self) -> str:
        """The request target as it was sent."""
        return self._request.raw_path

    def headers(self) -> list[tuple[str, str]]:
        """The request's headers, in order, duplicates kept."""
        return list(self._request.headers.items())

    @property
    def content_length(self) -> int | None:
        return self._request.content_length

    @property
    def has_body(self) -> bool:
        return self._request.body_exists

    @property
    def has_begun(self) -> bool:
        """Something of the answer was sent, or will be: the status is decided."""
        return self.response is not None

    @property
    def bytes_in(self) -> int:
        """Of the body, as far as it was read; or of the WebSocket's frames."""
        return self._body.received if self._socket is None else self._socket.bytes_in

    @property
    def fault(self) -> ClientError | None:
        """What was wrong with the request's body."""
        return self._body.fault

    # --- reading ---------------------------------------------------------------------------

    def check_head(self) -> None:
        """Raises BadHead; the answer to it is the last one of this connection."""
        request, limits = self._request, self._limits
        try:
            raw = request.raw_headers
            size = head.size_of(request.method, request.raw_path, raw)
            head.check_size(size, len(raw), limit=limits.head, count=limits.head_lines)
            version = (request.version.major, request.version.minor)
            self._waits = head.check(
                request.method, request.raw_path, version, request.headers.items()
            )
        except BadHead:
            self._is_last = True
            raise

    async def read_body(self, *, limit: int, timeout: float) -> bytes:
        """The whole body.

        Raises RequestTooLarge over `limit` bytes, RequestTimeout after `timeout` seconds or when it
        comes too slowly, Crowded when too much is held already, ClientError when its framing is
        broken.
        """
        body = self._body.at_once(limit)  # as nearly always: it came with the head
        if body is not None:
            return body
        self._let_it_come(limit)
        return await self._body.whole(limit, timeout)

    def body_parts(self, *, limit: int | None) -> AsyncIterator[bytes]:
        """The body as it comes. Raises RequestTooLarge, RequestTimeout, ClientError."""
        self._let_it_come(limit)
        return self._body.parts(limit)

    def hold(self, size: int, *, kept: int) -> None:
        """Raises Crowded."""
        self._body.held.add(size, kept)

    def _let_it_come(self, limit: int | None) -> None:
        length = self._request.content_length
        if limit is not None and length is not None and length > limit:
            raise too_large(limit)
        if self._waits and not self._body.is_read:
            self._say_continue()

    def _say_continue(self) -> None:
        """RFC 9110 §10.1.1: asked for, and only now that the request's head was accepted."""
        self._waits = False
        transport = self._request.transport
        if transport is not None:
            transport.write(_CONTINUE)

    # --- answering -------------------------------------------------------------------------

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer; aiohttp sends it when the exchange is over."""
        self.bytes_out = len(body)
        response = web.Response(status=status, body=body)
        response.headers["Server"] = "glm-proxy"
        for name, value in headers:
            response.headers[name] = value
        if self._is_last or not self._body.is_read:
            response.force_close()  # the rest of the request body is not worth reading
        self.response = response
        self._body.held.begun()

    def open(self, headers: Headers) -> None:
        """Commit: status 200 and the head of an event stream, written with the first events."""
        response = EventStream(self._request)
        if self._stopping():
            response.force_close()
        self.response = response
        self._body.held.begun()
        self._head = response.head(headers)
        self._watch_flow()

    async def open_body(self, status: int, headers: Headers) -> None:
        """The head of an answer whose body follows by `write_body`. Raises ClientGone."""
        response = web.StreamResponse(status=status)
        response.headers["Server"] = "glm-proxy"
        for name, value in headers:
            if name == "content-length":  # said twice it could be refused
                response.headers[name] = value
            else:
                response.headers.add(name, value)
        if self._stopping():
            response.force_close()
        self.response = response
        try:
            await response.prepare(self._request)
        except ConnectionError:
            raise ClientGone("the client left before its answer began") from None

    async def write_body(self, data: bytes) -> None:
        """Body bytes of an opened answer, at the client's pace. Raises ClientGone."""
        assert self.response is not None
        self.bytes_out += len(data)
        try:
            await self.response.write(data)
        except ConnectionError:
            raise ClientGone("the client left in the middle of its answer") from None

    def write(self, events: list[bytes], last: bool = False) -> None:
        """Events to the client in one socket write, each its own chunk; never waits.

        `last` adds the last chunk in the same write: the answer is whole.
        """
        transport = self._connection.transport
        if transport is None:
            return
        if not self._chunked:
            data = b"".join(events)
        elif len(events) == 1:
            event = events[0]
            data = b"%x\r\n%b\r\n" % (len(event), event)
        else:
            data = b"".join([b"%x\r\n%b\r\n" % (len(event), event) for event in events])
        if last and self._chunked:
            data += _LAST_CHUNK
        self.bytes_out += len(data)
        if self._head:
            data, self._head = self._head + data, b""
        transport.write(data)

    def cut(self, events: list[bytes]) -> None:
        """Tell the client, then close without the last chunk."""
        if events:
            self.write(events)
        if self.response is not None:
            self.response.force_close()  # no pipelined request is begun on what is closing
        transport = self._connection.transport
        if transport is not None:
            transport.close()

    def abort(self) -> None:
        """Drop the connection now, whatever is still unsent (a client that does not read)."""
        transport = self._connection.transport
        if transport is not None:
            reset(transport)

    def upgrade(self, headers: Headers, settings: WebSocketLimits) -> Socket:
        """Answer 101 with these headers: from now on the connection is a WebSocket.

        Raises ClientError, UpgradeRequired where it is not asked for rightly; Draining, ClientGone.
        """
        request, connection = self._request, self._connection
        version = (request.version.major, request.version.minor)
        accept = handshake.accept(version, self.headers(), has_body=self.has_body)
        if not isinstance(connection, ClientConnection) or not connection.is_upgrade:
            raise ClientError("the upgrade to a WebSocket cannot be understood; ask only for it")
        if self._stopping():
            raise Draining("the proxy is stopping; connect again")
        if connection.transport is None:
            raise ClientGone("the client left before the WebSocket was opened")
        self.response = response = Upgraded(request)
        connection.transport.write(response.upgraded(accept, headers))
        limits = Limits(
            settings.max_message,
            settings.ping_interval,
            settings.messages_per_minute,
            settings.idle_timeout,
        )
        self._socket = Socket(connection, limits, self._sockets, self._store)
        connection.give_to(self._socket)
        return self._socket

    # --- back-pressure ---------------------------------------------------------------------

    def _watch_flow(self) -> None:
        if isinstance(self._connection, ClientConnection):
            self._connection.watch_flow(self._flow)

    def has_taken(self, now: float) -> bool:
        """Whether a paused client has read since it was paused, or since this was last asked.

        If it has, `paused_since` is `now`: slow is not stuck.
        """
        taken = self._taken()
        if taken <= self._taken_before:
            return False
        self._taken_before, self.paused_since = taken, now
        return True

    def _taken(self) -> int:
        """Bytes of this answer that have reached the client's machine."""
        transport = self._connection.transport
        return 0 if transport is None else self.bytes_out - unread(transport)

    def _flow(self, paused: bool) -> None:
        self.paused_since = time.monotonic() if paused else None
        self._taken_before = self._taken()
        if self.on_flow is not None:
            self.on_flow(paused)

    def release(self) -> None:
        """The exchange is over: the connection may serve the next one."""
        self.on_flow = None
        self._body.held.release()
        if isinstance(self._connection, ClientConnection):
            self._connection.release()
