"""A decided response, and the seam to the wire: what an API needs of one request's connection."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from proxy.simulator.faults import Ending
from proxy.simulator.frames import Step
from proxy.simulator.ledger import Headers

EVENT_STREAM = b"text/event-stream;charset=UTF-8"
ANTHROPIC_EVENT_STREAM = b"text/event-stream; charset=utf-8"
JSON = b"application/json; charset=UTF-8"


def _nothing(later: float) -> Iterator[Step]:
    return iter(())


@dataclass(slots=True)
class Reply:
    """Status, headers and body of one response; times as in `Step`."""

    status: int
    headers: Headers
    steps: Iterator[Step]
    head_at: float = 0.0
    length: int | None = None
    """Content-Length; None = not said."""
    is_stream: bool = False
    """The body is an event stream."""
    error: bytes = b""
    """The event that tells an error inside this stream."""
    again: Callable[[float], Iterator[Step]] = _nothing
    """A second generation of the same answer, begun so many seconds later."""


def whole(
    body: bytes, *, status: int = 200, kind: bytes = JSON, at: float = 0.0, packed: bool = False
) -> Reply:
    """A response whose body is there at once; `packed` = gzip, as the service does for JSON."""
    headers = [(b"content-type", kind)]
    if packed:
        body = gzip.compress(body, mtime=0)
        headers.append((b"content-encoding", b"gzip"))
    return Reply(status, headers, iter((Step(at, body),)), at, len(body))


def streamed(steps: Iterator[Step], *, head_at: float, kind: bytes = EVENT_STREAM) -> Reply:
    """An event stream."""
    headers = [(b"content-type", kind), (b"cache-control", b"no-cache")]
    return Reply(200, headers, steps, head_at, is_stream=True)


class Outlet(Protocol):
    """One request on its connection: read its body, write its response.

    Methods that write return at once; while `blocked` is true, await `unblocked()` before writing
    more. When the peer leaves, the task that answers is cancelled.
    """

    @property
    def blocked(self) -> bool: ...

    async def body(self, at_least: int | None = None) -> None:
        """Returns when the request's body is whole, or has that many bytes."""

    def informational(self, headers: Headers) -> None:
        """A 103 response."""

    def begin(
        self, status: int, headers: Headers, length: int | None, *, until_close: bool = False
    ) -> None:
        """The response's head. Without a length the body is chunked (HTTP/1.1)."""

    def write(self, data: bytes) -> None: ...

    async def unblocked(self) -> None: ...

    async def end(self, ending: Ending, code: int) -> None:
        """The response's end; `code` is the HTTP/2 error code where one is sent."""

    async def wire(self, data: bytes) -> None:
        """HTTP/1.1: these bytes are the whole response; the connection closes. Else a reset."""
