"""The HTTP/1.1 side: one connection, its requests one after another, with or without TLS."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import cast

from proxy.simulator.faults import Ending
from proxy.simulator.http1_parser import BadRequest, End, Head, RequestParser
from proxy.simulator.ledger import Connection, Entry, Headers
from proxy.simulator.wire import Wire, drop

_READ_AHEAD = 64 * 1024
"""Bytes of a next request taken in while one is being answered."""
_LINGER = 2.0
"""Seconds in which the rest of an unread request is thrown away before the connection closes."""
_TORN = b'40\r\ndata: {"id'


class Http1Connection(asyncio.Protocol):
    """One connection, from accept to close."""

    def __init__(self, wire: Wire, connection: Connection) -> None:
        self._wire = wire
        self._connection = connection
        self._parser = RequestParser()
        self._current: Http1Outlet | None = None
        self._discarding = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._wait_idle()

    def data_received(self, data: bytes) -> None:
        if self._discarding:
            return
        self._parser.feed(data)
        self._advance()

    def eof_received(self) -> None:
        self._peer_left()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._peer_left()
        self._wire.disconnected(self.transport, self._connection)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _advance(self) -> None:
        """Takes what the parser has; a further request waits until this one is answered."""
        try:
            while self._current is None or not self._current.body_whole:
                match self._parser.next():
                    case None:
                        return
                    case Head() as head:
                        self._open(head)
                    case End():
                        self._body_ended()
                    case part:
                        self._body_part(part)
        except BadRequest as error:
            self._reject(error.status)
            return
        if self._parser.buffered > _READ_AHEAD:
            self.transport.pause_reading()

    def _open(self, head: Head) -> None:
        self._stop_timer()
        entry = self._wire.ledger.arrived(
            self._connection, None, head.method, head.target, head.headers
        )
        if (head.get(b"expect") or b"").lower() == b"100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._current = Http1Outlet(self.transport, self._writable, head, entry)
        self._current.task = self._wire.start(self._answer(self._current), self.transport)

    def _body_part(self, data: bytes) -> None:
        assert self._current is not None
        entry = self._current.entry
        self._wire.ledger.body_grew(entry, data)
        if entry.body_size > self._wire.settings.body_limit:
            raise BadRequest(413, "the request's body is too large")
        self._current.body_changed.set()

    def _body_ended(self) -> None:
        assert self._current is not None
        self._current.body_whole = True
        self._current.body_changed.set()

    async def _answer(self, outlet: Http1Outlet) -> None:
        await self._wire.serve(outlet.entry, outlet)
        if outlet.must_close:
            self._close(linger=not outlet.body_whole)
            return
        self._current = None
        self.transport.resume_reading()
        self._wait_idle()
        self._advance()

    def _close(self, *, linger: bool) -> None:
        """After an answer to a half read request, closing at once would destroy the answer."""
        if not linger:
            self.transport.close()
            return
        self._discarding = True
        self.transport.resume_reading()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_LINGER, self.transport.close)

    def _reject(self, status: int) -> None:
        reason = HTTPStatus(status).phrase
        head = f"HTTP/1.1 {status} {reason}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode())
        self._peer_left()
        self._close(linger=True)

    def _peer_left(self) -> None:
        current, self._current = self._current, None
        if current is not None:
            self._wire.ledger.cancelled(current.entry, "closed")
            if current.task is not None and current.entry.finished is None:
                current.task.cancel()

    def _wait_idle(self) -> None:
        timeout = self._wire.settings.keepalive_timeout
        if timeout is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(timeout, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Http1Outlet:
    """One request on an HTTP/1.1 connection; see `Outlet`."""

    def __init__(
        self, transport: asyncio.Transport, writable: asyncio.Event, head: Head, entry: Entry
    ) -> None:
        self.entry = entry
        self.task: asyncio.Task[None] | None = None
        self.body_whole = False
        self.body_changed = asyncio.Event()
        self.must_close = not head.keep_alive
        self._old = head.version == "HTTP/1.0"
        self._transport = transport
        self._writable = writable
        self._chunked = False
        self._left: int | None = None

    @property
    def blocked(self) -> bool:
        return not self._writable.is_set()

    async def body(self, at_least: int | None = None) -> None:
        while not self.body_whole and (at_least is None or self.entry.body_size < at_least):
            self.body_changed.clear()
            await self.body_changed.wait()

    def informational(self, headers: Headers) -> None:
        self._transport.write(_head(103, headers))

    def begin(
        self, status: int, headers: Headers, length: int | None, *, until_close: bool = False
    ) -> None:
        headers = list(headers)
        if not self.body_whole:
            self.must_close = True
        if until_close or (length is None and self._old):
            self.must_close = True
        elif length is None:
            self._chunked = True
            headers.append((b"transfer-encoding", b"chunked"))
        else:
            self._left = length
            headers.append((b"content-length", b"%d" % length))
        if self.must_close:
            headers.append((b"connection", b"close"))
        self._transport.write(_head(status, headers))

    def write(self, data: bytes) -> None:
        if not data:
            return
        if self._left is not None:
            self._left -= len(data)
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def unblocked(self) -> None:
        await self._writable.wait()

    async def end(self, ending: Ending, code: int) -> None:
        match ending:
            case Ending.RESET | Ending.DROP:
                self.must_close = True
                await drop(self._transport)
            case Ending.CLEAN if self._chunked:
                self._transport.write(b"0\r\n\r\n")
            case Ending.CLEAN:
                self.must_close = self.must_close or self._left != 0
            case Ending.TORN if self._chunked:
                self._transport.write(_TORN)
                self.must_close = True
            case _:
                self.must_close = True

    async def wire(self, data: bytes) -> None:
        self._transport.write(data)
        self.must_close = True


def _head(status: int, headers: Headers) -> bytes:
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [b"HTTP/1.1 %d %b" % (status, reason.encode())]
    lines += [b"%b: %b" % (_as_sent(name), value) for name, value in headers]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _as_sent(name: bytes) -> bytes:
    return b"X-LOG-ID" if name == b"x-log-id" else name.title()
