"""An HTTP/2 server a test can steer, and what a caller of the pool does with a connection.

The frames are python-hyper h2's. `/hold` gets a head and stays open until `release`; every other
path is answered at once. GOAWAY is written past the library, whose state machine would not let
the old streams finish.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self, cast

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from hyperframe.frame import GoAwayFrame

from proxy.errors import ConnectFailed, Refused, UpstreamError
from proxy.net.dial import ConnectPhases
from proxy.net.dns import Resolve
from proxy.net.h2.connection import Connection, Head
from proxy.net.pool import Origin, Pool
from tests.fakes.dialling import settings

GUARD = 10.0
"""Seconds after which a wait in a test is a failure."""


class Watched:
    """Lets a test wait for a state instead of for a time."""

    def __init__(self) -> None:
        self._watchers: set[asyncio.Future[None]] = set()

    def tell(self) -> None:
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)

    async def until(self, reached: Callable[[], bool]) -> None:
        """Return when `reached()`; it is asked again after every change."""
        async with asyncio.timeout(GUARD):
            while not reached():
                watcher = asyncio.get_running_loop().create_future()
                self._watchers.add(watcher)
                try:
                    await watcher
                finally:
                    self._watchers.discard(watcher)


class Observed(Watched):
    """A pool's observer that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.phases: list[ConnectPhases] = []
        self.failures: list[str] = []
        self.messages: list[str] = []
        self.ends: list[tuple[str, float]] = []

    def connected(self, phases: ConnectPhases) -> None:
        self.phases.append(phases)
        self.tell()

    def connect_failed(self, error: ConnectFailed) -> None:
        self.failures.append(error.code)
        self.messages.append(error.message)
        self.tell()

    def closed(self, reason: str, age: float) -> None:
        self.ends.append((reason, age))
        self.tell()


class Served(asyncio.Protocol):
    """One connection as the peer sees it."""

    def __init__(self, peer: PoolPeer) -> None:
        self._peer = peer
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self.h2 = h2.connection.H2Connection(config)
        self.held: list[int] = []
        self.requests = 0
        self.most_open = 0
        self.closed = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._peer.connections.append(self)
        if self._peer.hangs_up:
            self.transport.close()
            return
        if self._peer.max_streams is not None:
            limit = h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS
            self.h2.update_settings({limit: self._peer.max_streams})
            self.h2.local_settings.acknowledge()
        self.h2.initiate_connection()
        if not self._peer.mute:
            self.flush()
        self._peer.tell()

    def data_received(self, data: bytes) -> None:
        if self._peer.hangs_up or self._peer.mute:
            return
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived):
                self._answer(event.stream_id, dict(event.headers)[b":path"])
            elif isinstance(event, h2.events.StreamReset) and event.stream_id in self.held:
                self.held.remove(event.stream_id)
        self.flush()
        self._peer.tell()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._peer.tell()

    def _answer(self, stream: int, path: bytes) -> None:
        self.requests += 1
        self.most_open = max(self.most_open, len(self.held) + 1)
        try:
            self.h2.send_headers(stream, [(b":status", b"200")])
        except h2.exceptions.ProtocolError:  # the client has left in the same read
            return
        if path == b"/hold":
            self.held.append(stream)
        else:
            self.h2.send_data(stream, b"ok", end_stream=True)

    def release(self, streams: int | None = None) -> None:
        """End the streams held here, or the first few of them."""
        for stream in self.held[:streams]:
            self.h2.end_stream(stream)
        del self.held[:streams]
        self.flush()

    def go_away(self) -> None:
        """No new streams; those that are open are finished (RFC 9113 §6.8)."""
        assert self.transport is not None
        last = max(self.held, default=0)
        self.transport.write(GoAwayFrame(0, last_stream_id=last, error_code=0).serialize())

    def drop(self) -> None:
        """Break the connection."""
        assert self.transport is not None
        self.transport.abort()

    def flush(self) -> None:
        assert self.transport is not None
        self.transport.write(self.h2.data_to_send())


class PoolPeer(Watched):
    """The server; `connections` holds every connection it ever had.

    max_streams   MAX_CONCURRENT_STREAMS to ask for
    hangs_up      closes each connection at once
    mute          accepts, then never says a word
    """

    def __init__(
        self,
        tls: ssl.SSLContext | None = None,
        *,
        host: str = "127.0.0.1",
        max_streams: int | None = None,
        hangs_up: bool = False,
        mute: bool = False,
    ) -> None:
        super().__init__()
        self.tls = tls
        self._host = host
        self.max_streams = max_streams
        self.hangs_up = hangs_up
        self.mute = mute
        self.port = 0
        self.connections: list[Served] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def listen(self) -> None:
        """Listen; again at the same port after `stop`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Served(self), self._host, self.port, ssl=self.tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def refuse(self) -> None:
        """Take no more connections; those that are open stay."""
        assert self._server is not None
        self._server.close()

    async def stop(self) -> None:
        """Refuse new connections and break the old."""
        self.refuse()
        for served in self.connections:
            if served.transport is not None:
                served.transport.abort()
        await self.until(lambda: not self.alive)

    @property
    def alive(self) -> list[Served]:
        return [served for served in self.connections if not served.closed]

    @property
    def held(self) -> int:
        return sum(len(served.held) for served in self.alive)


@asynccontextmanager
async def a_pool(
    peer: PoolPeer | int,
    observer: Observed | None = None,
    *,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    resolver: Resolve | None = None,
    **changes: Any,
) -> AsyncIterator[Pool]:
    """A pool for `peer` (or a port), with `settings(**changes)`, that is closed at the end."""
    port = peer if isinstance(peer, int) else peer.port
    origin = Origin("https" if tls else "http", host, port)
    rng = random.Random(1)
    pool = Pool(origin, settings(**changes), tls, rng=rng, resolver=resolver, observer=observer)
    try:
        yield pool
    finally:
        await pool.close()


class Answer:
    """A sink that keeps the whole answer."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.body = b""
        self.error: UpstreamError | None = None
        self._over = asyncio.Event()

    def on_head(self, head: Head) -> None:
        self.status = head.status

    def on_data(self, data: bytes) -> None:
        self.body += data

    def on_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        self._over.set()

    def on_error(self, error: UpstreamError) -> None:
        self.error = error
        self._over.set()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    async def whole(self) -> Self:
        """The answer when it is over. Raises what ended it instead."""
        async with asyncio.timeout(GUARD):
            await self._over.wait()
        if self.error is not None:
            raise self.error
        return self


def ask(connection: Connection, path: str = "/", answer: Answer | None = None) -> Answer:
    """Put a request on a connection."""
    answer = answer or Answer()
    headers = [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", path.encode()),
    ]
    connection.request(headers, answer)
    return answer


async def send(pool: Pool, path: str = "/", deadline: float | None = None) -> Answer:
    """Send over the pool, and again while the request is refused, as its callers do."""
    while True:
        connection = await pool.acquire(deadline)
        assert connection is not None
        try:
            return ask(connection, path)
        except Refused:
            continue
