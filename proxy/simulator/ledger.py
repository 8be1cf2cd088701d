"""What the simulator saw: one entry per request and per connection, for tests to ask.

All times are `time.monotonic()` seconds; `None` is "did not happen".
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

Headers = list[tuple[bytes, bytes]]
KEPT_BODY = 1 << 20
"""Bodies above this size, in bytes, are not kept after the request is over."""


@dataclass(slots=True)
class Connection:
    """One accepted connection; with TLS, from the end of the handshake."""

    number: int
    protocol: str
    """`http/1.1` or `h2`."""
    tls: bool
    peer: str
    opened: float
    closed: float | None = None
    requests: int = 0
    pings: int = 0
    """HTTP/2 PING frames received."""
    refused: int = 0
    """HTTP/2 streams refused: too many, or after GOAWAY."""
    goaway_sent: bool = False
    goaway_received: bool = False


@dataclass(slots=True, eq=False)
class Entry:
    """One request and how it ended."""

    number: int
    """Sequence number within this simulator, from 1."""
    connection: Connection
    stream: int | None
    """HTTP/2 stream id."""
    method: str
    target: str
    """Path and query as they came."""
    headers: Headers
    """Names in lower case."""
    arrived: float
    """The request's head was read."""
    body: bytearray = field(default_factory=bytearray)
    """Grows while the request is being sent; a large one is let go when the request is over."""
    body_size: int = 0
    """Bytes of the body that came."""
    accepted: float | None = None
    """The body was whole and work began."""
    status: int | None = None
    headers_sent: float | None = None
    first_event: float | None = None
    """The first bytes of the response body were written."""
    last_event: float | None = None
    events: int = 0
    """Writes of the response body so far: events, unless a fault cuts them otherwise."""
    finished: float | None = None
    """The answer was ended, in the way asked for."""
    cancelled: float | None = None
    """The peer left before the answer's end."""
    cancelled_by: str | None = None
    """`rst_stream N` (N = the error code) or `closed`."""
    model: str | None = None
    fault: str | None = None
    """The fault that was played, as text."""
    log_id: str = ""

    @property
    def protocol(self) -> str:
        return self.connection.protocol

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def open(self) -> bool:
        """Neither finished nor cancelled yet."""
        return self.finished is None and self.cancelled is None

    def header(self, name: str) -> str | None:
        """The first header of this name, or None."""
        wanted = name.lower().encode()
        return next((v.decode("latin-1") for n, v in self.headers if n == wanted), None)

    def json(self) -> Any:
        """The request's body as JSON; raises `orjson.JSONDecodeError`."""
        return orjson.loads(bytes(self.body))


class Ledger:
    """All entries since the start, the newest `size` of them."""

    def __init__(self, size: int) -> None:
        self.entries: deque[Entry] = deque(maxlen=size)
        self.connections: deque[Connection] = deque(maxlen=size)
        self._requests = 0
        self._accepted = 0
        self._changes: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    def __getitem__(self, index: int) -> Entry:
        return self.entries[index]

    @property
    def open(self) -> list[Entry]:
        """Requests still being answered."""
        return [entry for entry in self.entries if entry.open]

    async def until(self, condition: Callable[[Ledger], bool], within: float = 5.0) -> None:
        """Returns when the condition holds; raises `TimeoutError` after `within` seconds.

        A condition may look at an entry that is not there yet: it then does not hold.
        """
        async with asyncio.timeout(within):
            while not self._holds(condition):
                change = asyncio.get_running_loop().create_future()
                self._changes.add(change)
                try:
                    await change
                finally:
                    self._changes.discard(change)

    def _holds(self, condition: Callable[[Ledger], bool]) -> bool:
        try:
            return condition(self)
        except IndexError:
            return False

    def changed(self) -> None:
        """Wakes those who wait in `until`."""
        if self._changes:
            for change in self._changes:
                if not change.done():
                    change.set_result(None)

    # --- written by the connections -------------------------------------------------------------

    def connected(self, protocol: str, tls: bool, peer: str) -> Connection:
        self._accepted += 1
        connection = Connection(self._accepted, protocol, tls, peer, time.monotonic())
        self.connections.append(connection)
        self.changed()
        return connection

    def disconnected(self, connection: Connection) -> None:
        connection.closed = time.monotonic()
        self.changed()

    def arrived(
        self, connection: Connection, stream: int | None, method: str, target: str, headers: Headers
    ) -> Entry:
        self._requests += 1
        connection.requests += 1
        entry = Entry(self._requests, connection, stream, method, target, headers, time.monotonic())
        self.entries.append(entry)
        self.changed()
        return entry

    def body_grew(self, entry: Entry, data: bytes) -> None:
        entry.body += data
        entry.body_size += len(data)
        self.changed()

    def finished(self, entry: Entry) -> None:
        if entry.open:
            entry.finished = time.monotonic()
            self._closed(entry)

    def cancelled(self, entry: Entry, by: str) -> None:
        if entry.open:
            entry.cancelled = time.monotonic()
            entry.cancelled_by = by
            self._closed(entry)

    def _closed(self, entry: Entry) -> None:
        if entry.body_size > KEPT_BODY:
            entry.body = bytearray()
        self.changed()
