"""What hears of responses in tests: a sink that keeps all it is told, and how to wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.errors import UpstreamError
from proxy.net.h2.connection import Connection, Head

Headers = list[tuple[bytes, bytes]]

GUARD = 10.0
"""Seconds after which waiting for something is a failure; nothing is expected to take so long."""
GET: Headers = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"peer.test"),
    (b":path", b"/"),
]
POST: Headers = [(b":method", b"POST"), *GET[1:]]
OK: Headers = [(b":status", b"200"), (b"content-type", b"text/event-stream")]


class Waiting:
    """Lets tests wait until something is so, woken by whatever may have changed it."""

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def touched(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def until(self, so: Callable[[], object]) -> None:
        async with asyncio.timeout(GUARD):
            while not so():
                waiter = asyncio.get_running_loop().create_future()
                self._waiters.append(waiter)
                await waiter


class Recorder(Waiting):
    """A sink that keeps what it is told, in order, and checks the order."""

    def __init__(self) -> None:
        super().__init__()
        self.head: Head | None = None
        self.reads: list[bytes] = []
        self.trailers: list[tuple[bytes, bytes]] | None = None
        self.error: UpstreamError | None = None

    @property
    def body(self) -> bytes:
        return b"".join(self.reads)

    @property
    def done(self) -> bool:
        return self.trailers is not None or self.error is not None

    async def over(self) -> None:
        await self.until(lambda: self.done)

    def on_head(self, head: Head) -> None:
        assert self.head is None
        assert not self.done
        self.head = head
        self.touched()

    def on_data(self, data: bytes) -> None:
        assert self.head is not None
        assert data
        assert not self.done
        self.reads.append(data)
        self.touched()

    def on_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        assert self.head is not None
        assert not self.done
        self.trailers = trailers
        self.touched()

    def on_error(self, error: UpstreamError) -> None:
        assert not self.done
        self.error = error
        self.touched()


class Changes(Waiting):
    """An `on_change` that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __call__(self, connection: Connection) -> None:
        self.count += 1
        self.touched()
