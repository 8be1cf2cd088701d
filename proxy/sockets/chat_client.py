"""One chat on a WebSocket as the client of an exchange: what HTTP does with status, headers, events
and the way a stream ends, is done with messages.

A chat with a window that is used up holds back what came, and has its own upstream read no further:
that is what may still be on its way, and nothing grows without bounds. Only the socket itself holds
all its chats back.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

import orjson

from proxy.config import WebSocketLimits
from proxy.core.wire.dialect import is_json, object_of, parse
from proxy.core.wire.sse import ANY_SIZE, Decoder, NotJson
from proxy.errors import ClientError, ClientStalled, InternalError, ProxyError
from proxy.net.body import too_large
from proxy.net.door import Held
from proxy.net.halves import WEBSOCKET, Headers
from proxy.net.websocket import Socket


class Framing(Protocol):
    """How the messages of a chat look. None: there is no such message."""

    def opened(self, headers: Mapping[str, str]) -> bytes | None: ...
    def event(self, data: bytes) -> bytes: ...
    def done(self) -> bytes | None: ...
    def whole(self, status: int, headers: Mapping[str, str], body: bytes) -> bytes: ...
    def failed(
        self, error: Mapping[str, Any], status: int | None, headers: Mapping[str, str] | None
    ) -> bytes: ...
    def broken(self, data: bytes, *, told: bool) -> bytes | None: ...
    def cancelled(self) -> bytes: ...


class ChatClient:
    """One chat: a `proxy.net.halves.Client`."""

    method: Final = "POST"
    carrier: Final = WEBSOCKET
    has_body: Final = True
    fault: Final = None

    def __init__(
        self,
        socket: Socket,
        framing: Framing,
        *,
        peer: str,
        raw_path: str,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        held: Held,
        window: int | None = None,
    ) -> None:
        """`held`: the bytes of `body`. `window`: events that may be sent before more are granted;
        None: any number."""
        self.held = held
        self.peer = peer
        self.raw_path = raw_path
        self.content_length = self.bytes_in = len(body)
        self.bytes_out = 0
        self.has_begun = False
        self.has_ended = False
        """The last of its messages was sent, or waits behind what is held back."""
        self.is_stopped = False
        self.paused_since: float | None = None
        self.on_flow: Callable[[bool], None] | None = None
        self._socket = socket
        self._framing = framing
        self._headers = headers
        self._body = body
        self._credit = window
        self._held: deque[bytes] = deque()
        """Events that wait for credit."""
        self._ending: bytes | None = None
        """The last message, which waits behind them."""
        self._sent = 0
        """Events."""
        self._taken = (0, 0)
        self._latest = b""
        """The last of the events, which may be the upstream's own error."""
        self._moved = asyncio.Event()
        self.socket_flow(socket.paused)

    # --- the request -------------------------------------------------------------------------

    def headers(self) -> list[tuple[str, str]]:
        return list(self._headers)

    def check_head(self) -> None:
        """The upgrade's head was checked, and what a chat may add to it."""

    async def read_body(self, *, limit: int, timeout: float) -> bytes:
        """It is here, and not kept. Raises RequestTooLarge."""
        body, self._body = self._body, b""
        if len(body) > limit:
            raise too_large(limit)
        return body

    def hold(self, size: int, *, kept: int) -> None:
        """Raises Crowded."""
        self.held.add(size, kept)

    async def body_parts(self, *, limit: int | None) -> AsyncIterator[bytes]:
        """It is here. Raises RequestTooLarge."""
        yield await self.read_body(limit=self.bytes_in if limit is None else limit, timeout=0)

    def upgrade(self, headers: Headers, settings: WebSocketLimits) -> Socket:
        """Raises ClientError: it is on a WebSocket already."""
        raise ClientError("a chat on a WebSocket cannot become another WebSocket")

    # --- the answer --------------------------------------------------------------------------

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        self._begun()
        told = _told(headers)
        if status >= 400:
            self._end(self._framing.failed(_error_of(body), status, told))
        else:
            body = body if is_json(body) else orjson.dumps(body.decode("utf-8", "replace"))
            self._end(self._framing.whole(status, told, body))

    def open(self, headers: Headers) -> None:
        self._begun()
        message = self._framing.opened(_told(headers))
        if message is not None:
            self._send(message)

    def _begun(self) -> None:
        self.has_begun = True
        self.held.begun()

    async def open_body(self, status: int, headers: Headers) -> None:
        """Raises InternalError: nothing is passed through to a chat."""
        raise InternalError("a chat on a WebSocket gets no answer that is not read")

    async def write_body(self, data: bytes) -> None:
        """Raises InternalError: nothing is passed through to a chat."""
        raise InternalError("a chat on a WebSocket gets no answer that is not read")

    def write(self, events: list[bytes], last: bool = False) -> None:
        if self.has_ended:
            return
        frame, put = self._framing.event, self._send if self._credit is None else self._offer
        for event in events:
            data = data_of(event)
            if data is not None:
                put(frame(data))
        if events:
            self._latest = events[-1]
        if last:
            self._end(self._framing.done())

    def cut(self, events: list[bytes]) -> None:
        """Without events the last one that was written is the upstream's own error."""
        self.write(events[:-1])
        last = events[-1] if events else self._latest
        data = data_of(last) if last else None
        self._end(self._framing.broken(data or b"", told=not events))

    def fail(self, error: ProxyError) -> None:
        """It cannot go on, and its exchange has nothing to say about it."""
        self._forget()
        self._end(self._framing.failed(error.told(), None, None))

    def stop(self) -> None:
        """It is being ended, as its client asked: what comes until then is not told any more."""
        self._forget()
        self.has_ended = self.is_stopped = True

    def cancelled(self) -> None:
        """It was ended, as its client asked."""
        self._forget()
        if self.is_stopped:
            self.has_ended = False
        self._end(self._framing.cancelled())

    @property
    def is_told(self) -> bool:
        """The last of its messages was sent."""
        return self.has_ended and self._ending is None and not self.is_stopped

    def abort(self) -> None:
        """The client reads nothing of it. Where it reads nothing at all, the socket is at fault."""
        if self._socket.paused:
            self._forget()
            self.has_ended = True
            self._socket.abort()
        else:
            self.fail(ClientStalled(_STALLED))

    # --- its pace ------------------------------------------------------------------------------

    def grant(self, events: int) -> None:
        """So many more events may be sent."""
        if self._credit is None:
            return
        self._credit += events
        while self._held and self._credit:
            self._credit -= 1
            self._sent += 1
            self._send(self._held.popleft())
        if not self._held and self._ending is not None:
            self._send(self._ending)
            self._ending = None
        self._moved.set()
        self._judge()

    def socket_flow(self, paused: bool) -> None:
        """The socket is read too slowly, or is read on."""
        self._judge(socket=paused)

    def has_taken(self, now: float) -> bool:
        """Whether a paused client has read since it was paused, or since this was last asked."""
        taken, before = self._progress(), self._taken
        one = 1 if self._socket.paused else 0
        if taken[one] <= before[one]:
            return False
        self._taken, self.paused_since = taken, now
        return True

    async def emptied(self, stall: float) -> None:
        """Until nothing is held back any more; for `stall` seconds without progress at most."""
        while self._held:
            self._moved.clear()
            try:
                async with asyncio.timeout(stall):
                    await self._moved.wait()
            except TimeoutError:
                self.fail(ClientStalled(_STALLED))

    def _offer(self, message: bytes) -> None:
        assert self._credit is not None
        if self._credit > 0 and not self._held:
            self._credit -= 1
            self._sent += 1
            self._send(message)
        else:
            self._held.append(message)
            self._judge()

    def _forget(self) -> None:
        """What waits is not sent any more, nor the end that waits behind it."""
        if self._ending is not None:
            self._ending, self.has_ended = None, False
        self._held.clear()
        self._moved.set()

    def _end(self, message: bytes | None) -> None:
        """`message` is the last; ends cost no credit."""
        if self.has_ended:
            return
        self.has_ended = True
        if message is None:
            return
        if self._held:
            self._ending = message
        else:
            self._send(message)

    def _send(self, message: bytes) -> None:
        self.bytes_out += len(message)
        self._socket.send(message)

    def _judge(self, socket: bool | None = None) -> None:
        """Paused is who lacks credit for what came, or whose socket is."""
        paused = bool(self._held) or (self._socket.paused if socket is None else socket)
        if paused == (self.paused_since is not None):
            return
        self.paused_since = time.monotonic() if paused else None
        self._taken = self._progress()
        if self.on_flow is not None:
            self.on_flow(paused)

    def _progress(self) -> tuple[int, int]:
        """Events that credit let pass, and bytes that reached the client's machine."""
        return self._sent, self._socket.taken


_STALLED: Final = "no more events were asked for in time; the chat is over"
_CR: Final = 13
_LF: Final = 10
_DONE: Final = b"[DONE]"


def data_of(event: bytes) -> bytes | None:
    """The JSON in a server-sent event; None for comments and for the end event, which is none.

    What an upstream sent in the place of JSON becomes a JSON string.
    """
    start = event.find(_LF) + 1 if event[:7] == b"event: " else 0
    if (  # nearly always: one line of data, perhaps behind a name
        event[start : start + 6] == b"data: "
        and event.find(_LF, start) == len(event) - 2
        and _CR not in event
    ):
        data = event[start + 6 : -2]
    else:
        data = b"\n".join(one.data for one in Decoder(ANY_SIZE).feed(event))
    if type(event) is NotJson:
        return orjson.dumps(data.decode("utf-8", "replace"))
    if data[:1] == b"{":
        return data
    return data if data and not data.strip().startswith(_DONE) else None


def _told(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """As one object; what stands twice is one list, as HTTP has it (RFC 9110 §5.3)."""
    told: dict[str, str] = {}
    for name, value in headers:
        told[name] = f"{told[name]}, {value}" if name in told else value
    return told


def _error_of(body: bytes) -> Mapping[str, Any]:
    """The error in an answer's body."""
    return object_of(parse(body).get("error")) or {"code": "upstream_failed", "message": "failed"}
