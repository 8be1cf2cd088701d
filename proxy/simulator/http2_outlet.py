"""One request on an HTTP/2 connection: its body, its flow control, its ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from h2.errors import ErrorCodes

from proxy.simulator.faults import Ending
from proxy.simulator.ledger import Entry, Headers

if TYPE_CHECKING:
    from proxy.simulator.http2 import Http2Connection

_DATA_BYTES_PROMISED = 64
_TORN = b'data: {"id'


class Http2Outlet:
    """See `Outlet`. What the windows do not let through waits in `_pending`."""

    def __init__(self, connection: Http2Connection, stream: int, entry: Entry) -> None:
        self.stream = stream
        self.entry = entry
        self.task: asyncio.Task[None] | None = None
        self.body_changed = asyncio.Event()
        self._body_whole = False
        self._begun = False
        self._connection = connection
        self._pending = bytearray()
        self._moved = asyncio.Event()

    @property
    def blocked(self) -> bool:
        return bool(self._pending) or self._connection.paused

    def body_ended(self) -> None:
        self._body_whole = True
        self.body_changed.set()

    async def body(self, at_least: int | None = None) -> None:
        while not self._body_whole and (at_least is None or self.entry.body_size < at_least):
            self.body_changed.clear()
            await self.body_changed.wait()

    def informational(self, headers: Headers) -> None:
        self._connection.h2.send_headers(self.stream, [(b":status", b"103"), *headers])
        self._connection.flush_soon()

    def begin(
        self, status: int, headers: Headers, length: int | None, *, until_close: bool = False
    ) -> None:
        head = [(b":status", b"%d" % status), *headers]
        if length is not None:
            head.append((b"content-length", b"%d" % length))
        self._connection.h2.send_headers(self.stream, head)
        self._begun = True
        self._connection.flush_soon()

    def write(self, data: bytes) -> None:
        """One write is one DATA frame, as long as the windows let it."""
        h2 = self._connection.h2
        window = min(h2.local_flow_control_window(self.stream), h2.max_outbound_frame_size)
        if not self._pending and len(data) <= window:
            h2.send_data(self.stream, data)
            self._connection.flush_soon()
            return
        self._pending += data
        self.pump()

    def pump(self) -> None:
        """Sends what waits, as far as the windows allow, and wakes the writer."""
        h2 = self._connection.h2
        while self._pending:
            window = min(h2.local_flow_control_window(self.stream), h2.max_outbound_frame_size)
            if window <= 0:
                break
            h2.send_data(self.stream, bytes(self._pending[:window]))
            del self._pending[:window]
        self._connection.flush_soon()
        self._moved.set()

    async def unblocked(self) -> None:
        while self.blocked:
            self._moved.clear()
            await self._moved.wait()

    async def end(self, ending: Ending, code: int) -> None:
        h2 = self._connection.h2
        match ending:
            case Ending.RESET:
                h2.reset_stream(self.stream, code)
            case Ending.TORN:
                size, data_frame, no_flags = _DATA_BYTES_PROMISED, 0, 0
                head = size.to_bytes(3) + bytes((data_frame, no_flags)) + self.stream.to_bytes(4)
                self._connection.write_raw(head + _TORN)
                await self._connection.leave(Ending.CLOSE)
            case Ending.GOAWAY if not self._begun:
                self._connection.go_away(self.stream - 2, ErrorCodes.NO_ERROR)
            case Ending.GOAWAY:
                self._connection.go_away(self.stream, code)
                await self._connection.leave(Ending.CLOSE)
            case Ending.CLOSE | Ending.DROP:
                await self._connection.leave(ending)
            case _:
                h2.end_stream(self.stream)
                if not self._body_whole:  # RFC 9113 §8.1: the rest of the request is not wanted
                    h2.reset_stream(self.stream, ErrorCodes.NO_ERROR)
        self._connection.flush_soon()

    async def wire(self, data: bytes) -> None:
        self._connection.h2.reset_stream(self.stream, ErrorCodes.HTTP_1_1_REQUIRED)
        self._connection.flush_soon()
