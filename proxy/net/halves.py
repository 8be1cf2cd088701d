"""The two halves an attempt stands between, as much of them as it knows."""

from __future__ import annotations

from typing import Final, Protocol

from proxy.core.wire.sse import comment

HEARTBEAT: Final = comment(b"heartbeat")
"""What a silent stream says to its client."""


class Flow(Protocol):
    """The upstream half that an attempt steers: an HTTP/2 stream, or an HTTP/1.1 pump."""

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def cancel(self) -> None: ...


class Writer(Protocol):
    """The client half: see `proxy.net.downstream.Client`."""

    paused_since: float | None

    def has_taken(self, now: float) -> bool: ...
    def abort(self) -> None: ...
