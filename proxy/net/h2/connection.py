"""One HTTP/2 connection to an upstream, as an asyncio protocol (RFC 9113, client side).

Give it to `loop.create_connection` with TLS and ALPN `h2`, or plain (prior knowledge, §3.3).
What a read brings goes to the streams' sinks straight out of `data_received`: no task, no queue.
What the engine wants sent leaves in one write per read. Silence is watched by one lazy timer.
A connection belongs to the event loop it was made on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

from proxy.errors import Refused, UpstreamDead, UpstreamError, UpstreamReset
from proxy.net.h2.engine import Engine
from proxy.net.h2.reader import Reader
from proxy.net.h2.state import H2Settings, Head, Sink, StreamState
from proxy.net.h2.stream import Stream, copy_of

__all__ = ["Connection", "H2Settings", "Head", "Reader", "Sink", "Stream"]

_CLOSE_GRACE = 1.0
"""Seconds a closing connection may take to flush and to end TLS."""
_LAST_LOOK = 0.02
"""Seconds between a PING's deadline and the verdict. After a stall of our own loop its timers run
before its sockets are read: the answer may be waiting there."""
_READ_SIZE = 32 * 1024
"""Bytes of one read: two TLS records (RFC 8446 §5.1)."""
_WRITE_SIZE = 256 * 1024
"""Bytes of uploads put into one write, so that a congested transport is noticed in between."""


class Connection(asyncio.BufferedProtocol):
    """Opens streams on one socket.

    `on_change` is called when capacity or state changed: a stream ended, SETTINGS came, GOAWAY,
    closed. It may use the connection. `clock` answers seconds, monotonic.
    """

    def __init__(
        self,
        settings: H2Settings,
        on_change: Callable[[Connection], None],
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._clock = clock or time.monotonic
        self._settings = settings
        self._on_change = on_change
        self.engine = Engine(settings, self._clock)
        self._streams = self.engine.streams
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transport: asyncio.Transport | None = None
        self._lost: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reading = False  # inside data_received: what must be written waits for its end
        self._unwritten: list[Stream] = []  # streams whose HEADERS the transport has not got
        self._closing = False
        self._pinged: float | None = None  # when a PING left that nothing answered yet
        self._looked = False  # the last look was taken
        self._written = 0  # bytes ever given to the transport
        self._taken = 0  # of these, gone from its buffer when last asked
        self._buffer = memoryview(bytearray(_READ_SIZE))
        self.congested = False  # the transport asked us to stop writing
        self.last_received = self._clock()

    # --- what the pool sees ----------------------------------------------------------------------

    @property
    def open_streams(self) -> int:
        """Ours, now."""
        return len(self._streams.open)

    @property
    def capacity(self) -> int:
        """How many more streams the peer allows now; 0 when draining, closed or not connected."""
        if self._transport is None or self._transport.is_closing():
            return 0
        return self._streams.capacity

    @property
    def draining(self) -> bool:
        """No new streams: GOAWAY came, or `drain` was called."""
        return self._streams.draining

    @property
    def closed(self) -> bool:
        """Of no more use; the socket may still be ending."""
        return self._streams.closed

    @property
    def rtt(self) -> float | None:
        """Last PING's round trip, seconds; at first that of our SETTINGS."""
        return self.engine.rtt

    @property
    def peer_initial_window(self) -> int:
        """Bytes the peer takes of a new stream's body before it must grant more."""
        return self._streams.uploads.initial_window

    @property
    def settings_seen(self) -> bool:
        return self.engine.settings_seen

    @property
    def requests(self) -> int:
        """Streams ever opened."""
        return self._streams.requests

    # --- what its owner does ---------------------------------------------------------------------

    def request(
        self,
        headers: list[tuple[bytes, bytes]],
        sink: Sink,
        body: bytes = b"",
        end: bool = True,
    ) -> Stream:
        """Send a request: pseudo headers first, names lower-case. The body goes as far as windows
        allow, the rest later by itself; `end=False` leaves it open for `Stream.send`.

        Raises `Refused` when no stream may be opened; nothing was sent then.
        """
        self.check_loop()
        if self._transport is None or self._transport.is_closing():
            raise Refused("the upstream connection is not open")
        stream = Stream(self, sink)
        self._streams.request(stream, headers, body, end=end)
        self._unwritten.append(stream)
        self.settle()
        return stream

    def drain(self) -> None:
        """No new streams; GOAWAY and close when the last one ends."""
        self.check_loop()
        if not self._streams.draining:
            self._streams.draining = self._streams.changed = True
            self.settle()

    def abort(self, error: UpstreamError | None = None) -> None:
        """Hang up now. Open streams end with a copy of `error`, by default `UpstreamReset`."""
        if self._lost is not None and self._lost.done():
            return
        reason = error or UpstreamReset("the upstream connection was aborted")
        self._closing = True
        self._stop_timer()
        self._streams.fail_all(lambda _: copy_of(reason))
        if self._transport is not None:
            self._transport.abort()
        self.settle()

    async def wait_closed(self) -> None:
        """Until the socket is closed; at once when there never was one."""
        if self._lost is not None:
            self.check_loop()
            await asyncio.shield(self._lost)

    def check_loop(self) -> None:
        """Raises RuntimeError on another event loop than the connection's, where it would hang."""
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this HTTP/2 connection belongs to another event loop")

    def settle(self) -> None:
        """Write what gathered, once per read; then act on, and tell of, what changed."""
        if self._reading:
            return
        self._write()
        streams = self._streams
        if streams.draining and not streams.open and not streams.closed and self._loop is not None:
            self.engine.close()
            self._write()
        if streams.closed and not self._closing:
            self._close()
        if streams.changed:
            streams.changed = False
            self._on_change(self)

    # --- asyncio.BufferedProtocol --------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        self._lost = self._loop.create_future()
        self.last_received = self._clock()
        if self.closed:
            self._transport.abort()
            return
        self.engine.start()
        self.settle()
        if self._settings.ping_interval > 0:
            self._wake_in(self._settings.ping_interval)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next read goes. A buffer of our own spares the loop one of 256 KiB per read."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(self._buffer[:nbytes].tobytes())

    def eof_received(self) -> None:
        """The peer will send nothing more: the connection is of no use."""

    def data_received(self, data: bytes) -> None:
        """What a read brought."""
        streams = self._streams
        if streams.closed:
            return
        self.last_received = self._clock()
        self._reading = True
        try:
            self.engine.receive(data)
        finally:
            self._reading = False
        if streams.out or streams.changed or streams.uploads.queue:
            self.settle()

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        self._stop_timer()
        reason = str(error) if error else "closed by the peer"
        if self.engine.farewell:
            reason += f" after {self.engine.farewell}"
        self._streams.fail_all(lambda stream: self._cut(stream, reason))
        self._unwritten.clear()
        self._streams.out.clear()
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)
        self.settle()

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False
        self.settle()

    # --- inside ----------------------------------------------------------------------------------

    def _cut(self, stream: StreamState, reason: str) -> UpstreamError:
        if stream in self._unwritten:
            return Refused(f"the request was not sent: the upstream connection was {reason}")
        return UpstreamReset(f"the upstream connection was cut: {reason}")

    def _write(self) -> None:
        """All that gathered, and uploads as far as windows and the transport take them.

        While the transport is congested everything waits, new requests too: were the connection
        lost now, those would provably not have been sent.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        out = self._streams.out
        more = True
        while more and not self.congested:
            more = self._streams.uploads.pump(_WRITE_SIZE)
            if out:
                data = b"".join(out)
                out.clear()
                self._unwritten.clear()
                self._written += len(data)
                transport.write(data)

    def _close(self) -> None:
        self._closing = True
        self._stop_timer()
        if self._transport is not None and self._loop is not None:
            self._transport.close()
            self._timer = self._loop.call_later(_CLOSE_GRACE, self._transport.abort)

    def _wake_in(self, seconds: float) -> None:
        assert self._loop is not None
        self._timer = self._loop.call_later(seconds, self._watch)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self) -> None:
        """The timer: a PING after silence, the end after silence upon the PING."""
        now = self._clock()
        if self._pinged is not None and self.last_received > self._pinged:
            self._pinged = None  # any byte is a sign of life
        if self._pinged is None:
            self._ping_when_silent(now)
        elif (rest := self._pinged + self._settings.ping_timeout - now) > 0:
            self._wake_in(rest)
        elif self._backlog_moves():
            self._wake_in(self._settings.ping_timeout)
        elif not self._looked:
            self._looked = True
            self._wake_in(_LAST_LOOK)
        else:
            silence = now - self.last_received
            self.abort(UpstreamDead(f"the upstream answered nothing for {silence:.1f} s"))

    def _ping_when_silent(self, now: float) -> None:
        rest = self.last_received + self._settings.ping_interval - now
        if rest > 0:
            self._wake_in(rest)
            return
        self._pinged = now
        self._looked = False
        self._backlog_moves()
        self.engine.ping()
        self.settle()
        if not self._closing:
            self._wake_in(self._settings.ping_timeout)

    def _backlog_moves(self) -> bool:
        """Whether the peer takes what waits to be written: a PING behind it cannot be answered yet.

        Compares with the last time this was asked.
        """
        assert self._transport is not None
        backlog = self._transport.get_write_buffer_size()
        taken = self._written - backlog
        moves = backlog > 0 and taken > self._taken
        self._taken = taken
        return moves
