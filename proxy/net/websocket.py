"""A WebSocket after its handshake: messages in, messages out, and its orderly end.

A peer that sends faster than it is read is not read from; one that reads too slowly is told of by
`paused`; one that is silent is pinged, and dropped if it stays so. What it can make us hold or do
is bounded: a few messages, one unsent Pong, so many frames a minute.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from proxy.core.wire import websocket as wire
from proxy.core.wire.websocket import Close, Frames, Message, Ping, WebSocketFault
from proxy.errors import ClientError, Crowded, LimitReached, ProxyError, RequestTooLarge
from proxy.net.door import Store
from proxy.net.open_sockets import Bucket, Limits, Sockets
from proxy.net.reader_watch import reset, unread

_AHEAD: Final = 8
"""Messages that are taken from the peer before they are asked for."""
_FREE: Final = 1 << 16
"""Bytes that a peer may always have waiting: where others hold all there is, its chats go on."""
_GOODBYE: Final = 5.0
"""Seconds that the peer gets for its Close after ours."""
_LINGER: Final = 1.0
"""Seconds that a peer gets to read what it did wrong."""
_CONTROL_PER_MINUTE: Final = 600
"""Pings and Pongs of the peer."""


class Line(Protocol):
    """What carries it: aiohttp's connection, of a client or to a server."""

    transport: asyncio.Transport | None

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Socket:
    """One end of an open WebSocket. aiohttp gives it what comes, as it does its own reader."""

    __slots__ = (
        *("_control", "_flowing", "_frames", "_gone", "_heard", "_is_client", "_is_held"),
        *("_line", "_limits", "_loop", "_peer_closed", "_pinged", "_pong", "_rate", "_seen"),
        *("_sockets", "_stored", "_timer", "_used", "_waiter", "_waiting"),
        *("_waiting_bytes",),
        *("bytes_in", "bytes_out", "busy", "closing", "code", "error", "messages_in"),
        *("messages_out", "on_drain", "on_flow", "paused", "reason", "store", "__weakref__"),
    )

    def __init__(
        self,
        line: Line,
        limits: Limits,
        sockets: Sockets | None = None,
        store: Store | None = None,
        *,
        is_client: bool = False,
    ) -> None:
        """`store`: for bytes that wait here to be whole or received, or of requests that came on
        it. `is_client`: we asked for the WebSocket, so what we send is masked."""
        loop = self._loop = asyncio.get_running_loop()
        now = loop.time()
        self._line = line
        self._limits = limits
        self._sockets = sockets
        self.store = store or Store(sys.maxsize)
        self._stored = 0
        self._is_client = is_client
        self._frames = Frames(limits.max_message, masked=not is_client)
        self._waiting: deque[Message] = deque()
        self._waiting_bytes = 0
        self._waiter: asyncio.Future[None] | None = None
        self._flowing: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[None] | None = None
        self._is_held = False
        """The peer is not read from now."""
        self._peer_closed = False
        """It sent its Close, or the connection is lost: nothing comes any more."""
        self._pong: bytes | None = None
        most = limits.messages_per_minute
        self._rate = None if most is None else Bucket(most, now)
        self._control = Bucket(_CONTROL_PER_MINUTE, now)
        self._heard = now
        self._pinged: float | None = None
        """When, if nothing came since."""
        self._used = now
        self._seen = 0
        """Messages both ways, when it was last looked whether it is used."""
        self.on_flow: Callable[[bool], None] | None = None
        """Called with True when the peer reads too slowly, with False when it reads on."""
        self.on_drain: Callable[[], None] | None = None
        """Called when the server begins to stop."""
        self.paused = False
        """The peer reads too slowly: what is sent now only waits here."""
        self.closing = False
        """The server stops: nothing new is begun."""
        self.busy = False
        """Something is done for the peer, which makes it not idle however silent it is."""
        self.code: int | None = None
        """That of the first Close, the peer's or ours; None while it is open."""
        self.reason = ""
        self.error: ProxyError | None = None
        """What of the peer's was wrong, where we ended it for that."""
        self.bytes_in = self.bytes_out = 0
        self.messages_in = self.messages_out = 0
        self._timer: asyncio.TimerHandle | None = None
        if sockets is not None:
            sockets.open.add(self)
        self._tick()

    # --- for whoever uses it ---------------------------------------------------------------

    async def receive(self) -> Message | None:
        """The next message; None: there are no more, see `code`."""
        while not self._waiting:
            if self.code is not None:
                return None
            self._waiter = self._loop.create_future()
            await self._waiter
        message = self._waiting.popleft()
        self._waiting_bytes -= len(message.data)
        if self._is_held:
            self._pull()
        else:
            self._account()
        return message

    def send(self, data: bytes, *, text: bool = True) -> None:
        """Never waits: see `paused`. After the end it does nothing. `text`: `data` is UTF-8."""
        if self.code is None:
            self.messages_out += 1
            self._write(wire.TEXT if text else wire.BINARY, data)

    async def drain(self) -> None:
        """Until what is sent does not wait here, or it is over."""
        while self.paused and self.code is None:
            if self._flowing is None:
                self._flowing = self._loop.create_future()
            await asyncio.shield(self._flowing)

    def end(self, code: int | None = wire.NORMAL, reason: str = "") -> None:
        """Say that it is over: nothing more is sent or received. The first time counts."""
        if self.code is not None:
            return
        self.code, self.reason = wire.NO_CODE if code is None else code, reason
        self._write(wire.CLOSE, wire.close_payload(code, reason))
        self._waiting.clear()
        self._waiting_bytes = 0
        self._give_up_after(_GOODBYE)
        if self._is_held:
            self._hold(False)
        self._wake()
        self._release(self._flowing)

    async def close(self, code: int | None = wire.NORMAL, reason: str = "") -> None:
        """`end` it, and wait for the peer's Close, for some seconds."""
        self.end(code, reason)
        if not self._peer_closed:
            self._gone = self._loop.create_future()
            await self._gone

    def abort(self) -> None:
        """Drop the connection now, whatever is still unsent."""
        transport = self._line.transport
        if transport is not None:
            reset(transport)
        self._lost()

    @property
    def taken(self) -> int:
        """Bytes that reached the peer's machine."""
        transport = self._line.transport
        return 0 if transport is None else self.bytes_out - unread(transport)

    @property
    def is_over(self) -> bool:
        """It ended with a Close of both, or of the peer's."""
        return self._peer_closed and self.code not in (None, wire.ABNORMAL)

    def stop(self) -> None:
        """The server begins to stop."""
        self.closing = True
        if self.on_drain is not None:
            self.on_drain()

    # --- for aiohttp -----------------------------------------------------------------------

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        """What came from the peer."""
        self.bytes_in += len(data)
        self._heard = self._loop.time()
        if not self._peer_closed and not (self.code is not None and self.error is not None):
            self._frames.feed(data)
            self._pull()
        return False, b""

    def feed_eof(self) -> None:
        """The connection is lost."""
        self._lost()

    def flow(self, paused: bool) -> None:
        """The transport's write side is full, or is not any more."""
        self.paused = paused
        if not paused:
            self._answer_ping()
            self._release(self._flowing)
            self._flowing = None
        if self.on_flow is not None:
            self.on_flow(paused)

    # --- reading ---------------------------------------------------------------------------

    def _pull(self) -> None:
        """Take what may be taken; read on only if that was all."""
        try:
            while not self._is_full():
                event = self._frames.next()
                if event is None:
                    break
                if self.code is None:
                    self._take(event)
                elif isinstance(event, Close):
                    self._end_of_peer()
                if self._peer_closed:
                    return
            self._account()
        except WebSocketFault as fault:
            self._fail(fault)
            return
        self._answer_ping()
        full = self._is_full()
        if full is not self._is_held:
            self._hold(full)

    def _account(self) -> None:
        """Raises WebSocketFault where there is no room."""
        if self._peer_closed:
            return
        more = max(0, self._frames.held + self._waiting_bytes - _FREE) - self._stored
        if more > 0 and not self.store.take(more):
            raise WebSocketFault(wire.TRY_LATER, "too much is held already")
        if more < 0:
            self.store.give_back(-more)
        self._stored += more

    def _is_full(self) -> bool:
        return len(self._waiting) >= _AHEAD or self._waiting_bytes >= self._limits.max_message

    def _hold(self, held: bool) -> None:
        self._is_held = held
        if held:
            self._line.pause_reading()
        else:
            self._heard = self._loop.time()
            self._line.resume_reading()

    def _take(self, event: wire.Event) -> None:
        match event:
            case Message():
                self._count(self._rate, "messages (websocket.messages_per_minute)")
                self.messages_in += 1
                self._waiting.append(event)
                self._waiting_bytes += len(event.data)
                self._wake()
            case Close(code, reason):
                self._write(wire.CLOSE, wire.close_payload(code))
                self.code, self.reason = wire.NO_CODE if code is None else code, reason
                self._end_of_peer()
            case Ping(data):
                self._count(self._control, "pings")
                self._pong = data  # only the latest need be answered (RFC 6455 §5.5.3)
            case _:
                self._count(self._control, "pongs")

    def _count(self, bucket: Bucket | None, what: str) -> None:
        if bucket is not None and not bucket.take(self._heard):
            raise WebSocketFault(wire.POLICY, f"too many {what}")

    def _answer_ping(self) -> None:
        if self._pong is not None and not self.paused and self.code is None:
            self._write(wire.PONG, self._pong)
            self._pong = None

    # --- the end ---------------------------------------------------------------------------

    def _fail(self, fault: WebSocketFault) -> None:
        """What still comes is read and dropped, or the peer might lose our Close to a reset."""
        if self.code is None:
            match fault.code:
                case wire.TOO_BIG:
                    self.error = RequestTooLarge(fault.reason)
                case wire.TRY_LATER:
                    self.error = Crowded(fault.reason)
                case wire.POLICY:
                    self.error = LimitReached(fault.reason, retry_after=60.0)
                case _:
                    self.error = ClientError(fault.reason)
            self.end(fault.code, fault.reason)
            self._give_up_after(_LINGER)
            transport = self._line.transport
            if transport is not None and transport.can_write_eof():
                transport.write_eof()
        else:
            self._end_of_peer()

    def _give_up_after(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self.abort)

    def _end_of_peer(self) -> None:
        self._peer_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._sockets is not None:
            self._sockets.over(self)
        self.store.give_back(self._stored)
        self._stored = 0
        self._wake()
        self._release(self._gone)
        self._release(self._flowing)

    def _lost(self) -> None:
        if self._peer_closed:
            return
        if self.code is None:
            self.code = wire.ABNORMAL
            self._waiting.clear()
        self._end_of_peer()

    def _wake(self) -> None:
        self._release(self._waiter)

    @staticmethod
    def _release(waiter: asyncio.Future[None] | None) -> None:
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # --- writing ---------------------------------------------------------------------------

    def _write(self, opcode: int, payload: bytes) -> None:
        transport = self._line.transport
        if transport is None or transport.is_closing():
            return
        key = _new_key() if self._is_client else b""
        frame = wire.encode(opcode, payload, key)
        self.bytes_out += len(frame)
        transport.write(frame)

    # --- silence ---------------------------------------------------------------------------

    def _tick(self) -> None:
        """Ping a silent peer, drop a dead one, leave an idle one; then sleep until that may be."""
        now = self._loop.time()
        limits = self._limits
        if self._is_held or self.paused:
            self._heard = now  # it cannot be heard, or cannot have been asked
        if self._pinged is not None and self._heard >= self._pinged:  # the clock has steps
            self._pinged = None
        if self._pinged is not None and now >= self._pinged + limits.ping_interval:
            self.abort()
            return
        if self._pinged is None and now >= self._heard + limits.ping_interval:
            self._pinged = now
            self._write(wire.PING, b"")
        due = (self._heard if self._pinged is None else self._pinged) + limits.ping_interval
        if limits.idle_timeout is not None:
            seen = self.messages_in + self.messages_out
            if self.busy or seen != self._seen:
                self._seen, self._used = seen, now
            if now >= self._used + limits.idle_timeout:
                self.end(wire.NORMAL, f"nothing was said for {limits.idle_timeout:g} s")
                return
            due = min(due, self._used + limits.idle_timeout)
        self._timer = self._loop.call_at(due, self._tick)


def _new_key() -> bytes:
    """RFC 6455 §5.3: nobody can foresee it."""
    return secrets.token_bytes(4)
