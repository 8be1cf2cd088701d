"""The two halves an attempt stands between, as much of them as it knows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, Protocol

from proxy.config import WebSocketLimits
from proxy.core.wire.sse import comment
from proxy.errors import ClientError
from proxy.net.websocket import Socket

Headers = Sequence[tuple[str, str]]

HTTP: Final = "http"
WEBSOCKET: Final = "websocket"
"""What carries a request: see `Client.carrier`."""
HEARTBEAT: Final = comment(b"heartbeat")
"""What a silent stream says to its client."""


class Flow(Protocol):
    """The upstream half that an attempt steers: an HTTP/2 stream, or an HTTP/1.1 pump."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def cancel(self) -> None: ...


class Writer(Protocol):
    """The client half, as much of it as an attempt knows."""

    paused_since: float | None
    """When the client stopped reading, on the monotonic clock; None while it keeps up."""

    def has_taken(self, now: float) -> bool:
        """Whether a paused client has read since it was paused, or since this was last asked."""

    def abort(self) -> None:
        """Drop it now, whatever is still unsent (a client that does not read)."""


class Client(Writer, Protocol):
    """One request of a client and the answer to it, however it is carried: an HTTP request (see
    `proxy.net.downstream`), a chat on a WebSocket, or either of them in another dialect."""

    on_flow: Callable[[bool], None] | None
    """Called with True when the client reads too slowly, with False when it reads on."""
    bytes_out: int

    @property
    def peer(self) -> str:
        """The address it calls from."""

    @property
    def method(self) -> str: ...

    @property
    def raw_path(self) -> str:
        """The request target as it was sent."""

    @property
    def content_length(self) -> int | None: ...

    @property
    def has_body(self) -> bool: ...

    @property
    def bytes_in(self) -> int:
        """Of the body, as far as it was read."""

    @property
    def fault(self) -> ClientError | None:
        """What was wrong with the request's body."""

    @property
    def has_begun(self) -> bool:
        """Something of the answer was sent, or will be: the status is decided."""

    @property
    def carrier(self) -> str:
        """What carries it: `http`, or `websocket` for a chat on one."""

    def headers(self) -> list[tuple[str, str]]:
        """The request's headers, in order, duplicates kept."""

    def check_head(self) -> None:
        """Raises BadHead."""

    async def read_body(self, *, limit: int, timeout: float) -> bytes:
        """The whole body. Raises RequestTooLarge, RequestTimeout, Crowded, ClientError."""

    def hold(self, size: int, *, kept: int) -> None:
        """`size` bytes more than its body are held for it until its answer begins; `kept` of them
        all until it is over. Raises Crowded."""

    def body_parts(self, *, limit: int | None) -> AsyncIterator[bytes]:
        """The body as it comes. Raises RequestTooLarge, RequestTimeout, ClientError."""

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """A whole answer."""

    def open(self, headers: Headers) -> None:
        """Commit: status 200 and the head of an event stream."""

    async def open_body(self, status: int, headers: Headers) -> None:
        """The head of an answer whose body follows by `write_body`. Raises ClientGone."""

    async def write_body(self, data: bytes) -> None:
        """Body bytes of an opened answer, at the client's pace. Raises ClientGone."""

    def write(self, events: list[bytes], last: bool = False) -> None:
        """Whole events, in the bytes of server-sent events; never waits. `last`: the answer is
        whole."""

    def cut(self, events: list[bytes]) -> None:
        """Tell the client, then end in a way that cannot be taken for a whole answer."""

    def upgrade(self, headers: Headers, settings: WebSocketLimits) -> Socket:
        """Become a WebSocket, with these headers on the answer that says so. Raises ClientError
        where that was not asked for, or not rightly; Draining, ClientGone."""
