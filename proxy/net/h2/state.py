"""What is shared with callers (`Head`, `Sink`, `H2Settings`) and what is known of one stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from proxy.errors import UpstreamError
from proxy.net.h2.frames import DEFAULT_WINDOW, SMALLEST_MAX_FRAME


class Head(NamedTuple):
    """A final response head: names lower-case, order and duplicates kept, no pseudo headers."""

    status: int
    headers: list[tuple[bytes, bytes]]


class Sink(Protocol):
    """Who hears of one response. Called straight out of `data_received`: never raises or blocks.

    The order is `on_head`, any `on_data`, then exactly one of `on_end` and `on_error`, which may
    come at any point before; nothing follows it, and nothing follows `Stream.cancel`.
    """

    def on_head(self, head: Head) -> None:
        """The final head; interim (1xx) responses are not told."""

    def on_data(self, data: bytes) -> None:
        """All of this stream's payload found in one socket read: one call per read."""

    def on_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        """The response is whole."""

    def on_error(self, error: UpstreamError) -> None:
        """It will not be: `Refused`, `UpstreamReset`, `UpstreamDead`, `UpstreamProtocolError`."""


@dataclass(frozen=True, slots=True)
class H2Settings:
    """What one connection grants its peer, bytes, and how it watches it, seconds."""

    ping_interval: float = 10.0  # silence before a PING; 0 sends none
    ping_timeout: float = 5.0  # further silence before the peer is held dead
    initial_window: int = 256 * 1024  # unread bytes one stream may hold
    connection_window: int = 16 * 1024 * 1024  # bytes in flight, all streams
    header_list_limit: int = 256 * 1024  # RFC 9113 §6.5.2 counting; also of a compressed block
    max_frame_size: int = SMALLEST_MAX_FRAME


class StreamState:
    """One open request, as the engine sees it. A stream is over when its `sink` is None."""

    __slots__ = (
        "body",
        "bodyless",
        "chunks",
        "ends",
        "error",
        "finished",
        "id",
        "paused",
        "queued",
        "remaining",
        "send_window",
        "sent",
        "sink",
        "window",
    )

    def __init__(self, sink: Sink) -> None:
        self.id = 0
        self.sink: Sink | None = sink
        self.error: UpstreamError | None = None  # what the sink was told, if it was an error

        self.chunks: list[bytes] = []  # DATA of the read at hand, not yet told
        self.window = 0  # bytes the peer may still send
        self.remaining: int | None = None  # bytes still due by content-length
        self.bodyless = False  # a HEAD request: no DATA may come whatever content-length says
        self.paused = False  # no window is given back: the sink is slow, or the response over

        self.body = b""  # upload waiting for windows
        self.sent = 0  # bytes of it gone
        self.ends = False  # the request ends with this body
        self.finished = False  # END_STREAM is sent
        self.queued = False  # waits in the queue of uploads
        self.send_window = DEFAULT_WINDOW  # bytes we may still send; negative after SETTINGS

    def wake(self) -> None:
        """The waiting upload has gone, or never will. Overridden where somebody waits."""
