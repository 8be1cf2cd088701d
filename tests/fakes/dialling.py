"""What tests of dialling stand on: certificates, ports that answer or do not, sockets counted."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import trustme

from proxy.config import PoolSettings
from proxy.errors import ConnectFailed
from proxy.net.dial import ConnectPhases, Dialer, Origin
from proxy.net.dns import Address, Addresses, Resolve, system_resolve


def settings(**changes: Any) -> PoolSettings:
    """Speaks only HTTP/2 and keeps nothing warm; keywords replace settings."""
    return PoolSettings(**{"http2": "always", "warm_connections": 0, **changes})


class Certificates:
    """A CA of the test's own, and servers it has certified."""

    def __init__(self) -> None:
        self.ca = trustme.CA()

    def server(self, *names: str, alpn: tuple[str, ...] = ("h2",), **dates: Any) -> ssl.SSLContext:
        """A server's context, certified for `names` (localhost and 127.0.0.1 without any)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        names = names or ("localhost", "127.0.0.1")
        self.ca.issue_cert(*names, **dates).configure_cert(context)
        context.set_alpn_protocols(alpn)
        return context

    def client(self) -> ssl.SSLContext:
        """Trusts this CA and no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.ca.configure_trust(context)
        return context


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that answers no SYN: its backlog is full, and nobody accepts."""
    with socket.socket() as server, socket.socket() as first, socket.socket() as second:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]


def closed_port() -> int:
    """A port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that completes TCP handshakes and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def open_sockets() -> int:
    """Sockets this process has open; Linux only."""
    gc.collect()
    targets = [str(_target(link)) for link in Path("/proc/self/fd").iterdir()]
    return sum(target.startswith("socket:") for target in targets)


def _target(link: Path) -> Path | None:
    try:
        return link.readlink()
    except FileNotFoundError:  # the folder's own descriptor
        return None


async def closed_again(count: int) -> None:
    """Return when no more than `count` sockets are open: the peer's halves close a little later."""
    for _ in range(200):
        if open_sockets() <= count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{open_sockets() - count} sockets are left open")


class Taker(asyncio.Protocol):
    """Takes a connection and keeps what it needs to look at it."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set_result(None)


class Dialled:
    """The result of a dial that worked."""

    def __init__(self, phases: ConnectPhases, taker: Taker, took: float) -> None:
        self.phases = phases
        self.taker = taker
        self.took = took
        assert taker.transport is not None
        self.transport = taker.transport

    @property
    def port(self) -> int:
        port: int = self.transport.get_extra_info("peername")[1]
        return port


def fixed(*addresses: tuple[str, int]) -> Resolve:
    """A resolver that always has these."""

    async def resolve(host: str, port: int) -> list[Address]:
        return [
            Address(socket.AF_INET6 if ":" in ip else socket.AF_INET, (ip, number))
            for ip, number in addresses
        ]

    return resolve


@asynccontextmanager
async def dialled(
    port: int,
    *,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    resolve: Resolve = system_resolve,
    **changes: Any,
) -> AsyncIterator[Dialled]:
    """Dial once, close at the end."""
    origin = Origin("https" if tls else "http", host, port)
    dialer = Dialer(origin, tls, Addresses(resolve), settings(**changes))
    taker = Taker()
    started = time.monotonic()
    phases = await dialer.dial(lambda alpn: taker)
    try:
        yield Dialled(phases, taker, time.monotonic() - started)
    finally:
        assert taker.transport is not None
        taker.transport.abort()
        await taker.lost


async def failure(port: int, **how: Any) -> ConnectFailed:
    """The error of a dial that must not work."""
    with pytest.raises(ConnectFailed) as caught:
        async with dialled(port, **how):
            pass
    return caught.value
