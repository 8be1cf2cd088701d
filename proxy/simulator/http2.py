"""The HTTP/2 side, on the `h2` package: one connection, many requests at a time.

Two frames h2 will not send or survive are dealt with here. A GOAWAY through `close_connection`
would end all open streams, so ours is written by hand; and after the peer's GOAWAY the connection
is told that it is still open, because the streams in flight go on (RFC 9113 §6.8).
"""

from __future__ import annotations

import asyncio
from typing import cast

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingReceived,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hyperframe.frame import GoAwayFrame

from proxy.simulator.faults import Ending
from proxy.simulator.http2_outlet import Http2Outlet
from proxy.simulator.ledger import Connection
from proxy.simulator.wire import Wire, drop

_NO_LIMIT = 2**31 - 1


class Http2Connection(asyncio.Protocol):
    """One connection, from its preface to close."""

    def __init__(self, wire: Wire, connection: Connection) -> None:
        self._wire = wire
        self._connection = connection
        self.h2 = H2Connection(H2Configuration(client_side=False))
        self._streams: dict[int, Http2Outlet] = {}
        self._last_allowed = _NO_LIMIT
        self._flush_due = False
        self._pump_due = False
        self._timer: asyncio.TimerHandle | None = None
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        limit = self._wire.settings.max_concurrent_streams
        self.h2.local_settings = _own_settings(limit)
        self.h2.initiate_connection()
        # h2 answers one stream too many by ending the connection; a server refuses that stream.
        self.h2.local_settings = _own_settings(_NO_LIMIT)
        self.flush()
        self._wait_idle()

    def data_received(self, data: bytes) -> None:
        self.flush()
        try:
            events = self.h2.receive_data(data)
        except ProtocolError:
            self.flush()
            self.transport.close()
            return
        for event in events:
            self._received(event)
        if self._pump_due:  # only now: a stream may be reset in the same read
            self._pump_all()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        for outlet in list(self._streams.values()):
            self._cancel(outlet, "closed")
        self._wire.disconnected(self.transport, self._connection)

    def eof_received(self) -> None:
        for outlet in list(self._streams.values()):
            self._cancel(outlet, "closed")

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._pump_all()

    # --- what the peer sends --------------------------------------------------------------------

    def _received(self, event: Event) -> None:
        match event:
            case RequestReceived():
                self._open(event)
            case DataReceived():
                self._body_part(event)
            case StreamEnded(stream_id=stream) if stream in self._streams:
                self._streams[stream].body_ended()
            case StreamReset(stream_id=stream, error_code=code) if stream in self._streams:
                self._cancel(self._streams[stream], f"rst_stream {int(code or 0)}")
                self._settle()
            case WindowUpdated() | RemoteSettingsChanged():
                self._pump_due = True
            case PingReceived():
                self._connection.pings += 1
                self._wire.ledger.changed()
            case ConnectionTerminated():
                self._peer_goes_away()

    def _open(self, event: RequestReceived) -> None:
        self._stop_timer()
        stream = event.stream_id
        full = len(self._streams) >= self._wire.settings.max_concurrent_streams
        if full or stream > self._last_allowed:
            self._connection.refused += 1
            self.h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
            return
        pseudo = {name: value for name, value in event.headers if name.startswith(b":")}
        headers = [(n, v) for n, v in event.headers if not n.startswith(b":")]
        headers.insert(0, (b"host", pseudo.get(b":authority", b"")))
        method, target = pseudo[b":method"].decode(), pseudo[b":path"].decode("latin-1")
        entry = self._wire.ledger.arrived(self._connection, stream, method, target, headers)
        outlet = Http2Outlet(self, stream, entry)
        self._streams[stream] = outlet
        outlet.task = self._wire.start(self._answer(outlet), self.transport)
        if self._connection.requests == self._wire.settings.goaway_after:
            self.go_away(stream, ErrorCodes.NO_ERROR)

    def _body_part(self, event: DataReceived) -> None:
        self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        outlet = self._streams.get(event.stream_id)
        if outlet is None:
            return
        self._wire.ledger.body_grew(outlet.entry, event.data)
        if outlet.entry.body_size > self._wire.settings.body_limit:
            self.h2.reset_stream(event.stream_id, ErrorCodes.ENHANCE_YOUR_CALM)
            self._cancel(outlet, "body limit")
            return
        outlet.body_changed.set()

    def _peer_goes_away(self) -> None:
        self._connection.goaway_received = True
        self.h2.state_machine.state = ConnectionState.SERVER_OPEN
        self._last_allowed = 0
        self._settle()

    # --- what we send ---------------------------------------------------------------------------

    async def _answer(self, outlet: Http2Outlet) -> None:
        try:
            await self._wire.serve(outlet.entry, outlet)
        finally:
            self._streams.pop(outlet.stream, None)
        self.flush()
        self._settle()

    def flush_soon(self) -> None:
        """Lets all that is written in this turn of the loop leave in one write."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        self._flush_due = False
        data = self.h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def go_away(self, last_stream: int, code: int) -> None:
        """No stream above `last_stream` will be answered; the others will."""
        self._last_allowed = last_stream
        self._connection.goaway_sent = True
        self.write_raw(GoAwayFrame(0, last_stream_id=last_stream, error_code=code).serialize())

    def write_raw(self, data: bytes) -> None:
        """Bytes past h2, after what it has written."""
        self.flush()
        self.transport.write(data)

    async def leave(self, ending: Ending) -> None:
        """Ends the connection, and with it every stream."""
        self.flush()
        if ending is Ending.DROP:
            await drop(self.transport)
        else:
            self.transport.close()

    def _cancel(self, outlet: Http2Outlet, by: str) -> None:
        self._streams.pop(outlet.stream, None)
        self._wire.ledger.cancelled(outlet.entry, by)
        if outlet.task is not None and outlet.entry.finished is None:
            outlet.task.cancel()

    def _pump_all(self) -> None:
        self._pump_due = False
        for outlet in list(self._streams.values()):
            outlet.pump()

    def _settle(self) -> None:
        """Without streams: closes if one side has said goodbye, else waits for more."""
        if self._streams:
            return
        if self._last_allowed == _NO_LIMIT:
            self._wait_idle()
            return
        self.flush()
        self.transport.close()

    def _wait_idle(self) -> None:
        timeout = self._wire.settings.keepalive_timeout
        self._stop_timer()
        if timeout is not None and not self.transport.is_closing():
            self._timer = self._loop.call_later(timeout, self._idle_out)

    def _idle_out(self) -> None:
        self.go_away(self.h2.highest_inbound_stream_id, ErrorCodes.NO_ERROR)
        self._settle()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _own_settings(streams: int) -> Settings:
    values: dict[SettingCodes, int] = {
        SettingCodes.MAX_CONCURRENT_STREAMS: streams,
        SettingCodes.MAX_HEADER_LIST_SIZE: H2Connection.DEFAULT_MAX_HEADER_LIST_SIZE,
    }
    return Settings(client=False, initial_values=values)
