"""Each limit of a request, at the last size that is allowed and at the first that is not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from proxy.errors import ProxyError
from proxy.net.data_server import DataServer
from proxy.net.door import Door, HardLimits
from proxy.net.halves import Client

GUARD: Final = 5.0
SMALL: Final = HardLimits(head=2048, head_lines=16, body_rate=1000, body_grace=0.3, bodies=1000)
BODY_LIMIT: Final = 600
Serve = Callable[[Client], Awaitable[None]]


async def echo(client: Client) -> None:
    """As an exchange does: the head is judged, then the body is read."""
    try:
        client.check_head()
        client.answer(200, [], await client.read_body(limit=BODY_LIMIT, timeout=GUARD))
    except ProxyError as error:
        client.answer(error.status, [], error.openai_body())


class Peer:
    """A client on a raw socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def status(self) -> int:
        """Of the next answer, its body left out; 0 when there is none."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            status = int(head.split(b" ")[1])
            if status != 100:
                length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await self.reader.readexactly(int(length))
            return status
        return 0

    async def is_closed(self) -> bool:
        with contextlib.suppress(ConnectionError):
            return await self.reader.read() == b""
        return True

    def ask(self, body: bytes = b"", *headers: bytes, path: bytes = b"/") -> None:
        """Host is the first header, and Content-Length the second one, when there is a body."""
        lines = [b"POST %b HTTP/1.1" % path, b"Host: a"]
        if body:
            lines.append(b"Content-Length: %d" % len(body))
        self.writer.write(b"\r\n".join([*lines, *headers, b"", b""]) + body)


@asynccontextmanager
async def served(
    serve: Serve = echo, **limits: Any
) -> AsyncIterator[Callable[[], Awaitable[Peer]]]:
    """A listener; what it gives connects to it."""
    limits.setdefault("limits", SMALL)
    factory = DataServer(serve, head_timeout=2.0, keepalive_timeout=60.0, **limits)
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    peers: list[Peer] = []

    async def connect() -> Peer:
        peer = Peer(*await asyncio.open_connection(*server.sockets[0].getsockname()))
        peers.append(peer)
        return peer

    try:
        async with asyncio.timeout(GUARD):
            yield connect
    finally:
        for peer in peers:
            peer.writer.transport.abort()
        server.close()
        await factory.shutdown(0.1)


# --- the head ------------------------------------------------------------------------------------

_REST: Final = len(b"POST / HTTP/1.1\r\nHost: a\r\n")


def headers_of(size: int) -> list[bytes]:
    """Lines that make a head of so many bytes, the blank line not counted."""
    line = b"X: " + b"x" * 495  # 500 with its end
    whole, rest = divmod(size - _REST, 500)
    return [*[line] * (whole - 1), b"X: " + b"x" * (495 + rest)]


@pytest.mark.parametrize(("more", "status"), [(-1, 200), (0, 200), (1, 431)])
async def test_a_head_has_a_size(more: int, status: int) -> None:
    async with served() as connect:
        peer = await connect()
        peer.ask(b"", *headers_of(SMALL.head + more))
        assert await peer.status() == status
        if status != 200:
            assert await peer.is_closed()


async def test_a_head_that_is_never_whole_is_refused_as_soon_as_it_is_too_large() -> None:
    async with served() as connect:
        peer = await connect()
        peer.writer.write(b"GET / HTTP/1.1\r\n")
        for _ in range(4):
            peer.writer.write(b"X: " + b"x" * 600 + b"\r\n")
            await asyncio.sleep(0.01)
        assert await peer.status() == 431
        assert await peer.is_closed()


@pytest.mark.parametrize(("more", "status"), [(-1, 200), (0, 200), (1, 431)])
async def test_a_line_has_half_of_it(more: int, status: int) -> None:
    async with served() as connect:
        for headers, path in (
            ((b"X: " + b"x" * (SMALL.head // 2 + more),), b"/"),
            ((), b"/" + b"x" * (SMALL.head // 2 - 1 + more)),
        ):
            peer = await connect()
            peer.ask(b"", *headers, path=path)
            assert await peer.status() == status


@pytest.mark.parametrize(("more", "status"), [(-1, 200), (0, 200), (1, 431)])
async def test_headers_are_counted(more: int, status: int) -> None:
    async with served() as connect:
        peer = await connect()
        peer.ask(b"", *[b"X: y"] * (SMALL.head_lines - 1 + more))
        assert await peer.status() == status
        if status != 200:
            assert await peer.is_closed()


async def test_nothing_that_was_sent_is_quoted() -> None:
    async with served() as connect:
        for line in (
            b"X: " + b"secret" * 500,
            b"secret\x00: x",
            b"X\x80: secret",
            b"secret secret",
        ):
            peer = await connect()
            peer.ask(b"", line)
            assert b"secret" not in await peer.reader.read()


# --- the body ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "status"), [(-1, 200), (0, 200), (1, 413)])
@pytest.mark.parametrize("how", ["at once", "later", "in chunks"])
async def test_a_body_has_a_size(more: int, status: int, how: str) -> None:
    size = BODY_LIMIT + more
    async with served() as connect:
        peer = await connect()
        if how == "at once":
            peer.ask(b"x" * size)
        elif how == "later":
            peer.ask(b"", b"Content-Length: %d" % size)
            await asyncio.sleep(0.01)
            peer.writer.write(b"x" * size)
        else:
            peer.ask(b"", b"Transfer-Encoding: chunked")
            for _ in range(size):
                peer.writer.write(b"1\r\nx\r\n")
            peer.writer.write(b"0\r\n\r\n")
        assert await peer.status() == status


async def test_a_length_that_is_too_large_is_refused_before_a_byte_of_it() -> None:
    async with served() as connect:
        peer = await connect()
        peer.ask(b"", b"Content-Length: 10000000000")
        assert await peer.status() == 413
        assert await peer.is_closed()


@pytest.mark.parametrize(("rate", "status"), [(3000, 200), (300, 408)])
async def test_a_body_comes_at_a_rate(rate: int, status: int) -> None:
    """1000 bytes per second are wanted, after 0.3 s."""
    limits = SMALL._replace(bodies=10_000)

    async def whole(client: Client) -> None:
        try:
            client.answer(200, [], await client.read_body(limit=10_000, timeout=GUARD))
        except ProxyError as error:
            client.answer(error.status, [], error.openai_body())

    async with served(whole, limits=limits) as connect:
        peer = await connect()
        peer.ask(b"", b"Content-Length: 2000")
        answer = asyncio.create_task(peer.status())
        sent = 0
        while sent < 2000 and not answer.done():
            await asyncio.sleep(0.03)
            peer.writer.write(b"x" * min(2000 - sent, rate * 3 // 100))
            sent += rate * 3 // 100
        assert await answer == status
        assert (sent < 2000) is (status == 408)


async def test_only_the_clients_time_counts_and_no_rate_is_none() -> None:
    async def late(client: Client) -> None:
        await asyncio.sleep(0.6)  # an upstream that takes its time
        client.answer(200, [], await client.read_body(limit=BODY_LIMIT, timeout=GUARD))

    for serve, limits in ((late, SMALL), (echo, SMALL._replace(body_rate=0))):
        async with served(serve, limits=limits) as connect:
            peer = await connect()
            peer.ask(b"", b"Content-Length: 2")
            peer.writer.write(b"x")
            await asyncio.sleep(0.6)
            peer.writer.write(b"x")
            assert await peer.status() == 200


async def test_bodies_of_all_clients_together_are_held_to_a_size() -> None:
    """1000 bytes; what was refused, answered or left is given back."""
    async with served() as connect:
        first, second, third = [await connect() for _ in range(3)]
        for peer in (first, second):
            peer.ask(b"", b"Content-Length: 500")
            await asyncio.sleep(0.02)
            peer.writer.write(b"x" * 499)
        await asyncio.sleep(0.05)
        third.ask(b"", b"Content-Length: 3")
        await asyncio.sleep(0.02)
        third.writer.write(b"xxx")
        assert await third.status() == 503
        first.writer.write(b"x")
        assert await first.status() == 200
        second.writer.transport.abort()
        await asyncio.sleep(0.05)
        fourth = await connect()
        fourth.ask(b"", b"Content-Length: 600")
        await asyncio.sleep(0.02)
        fourth.writer.write(b"x" * 600)
        assert await fourth.status() == 200


async def test_leave_to_send_is_given_once_and_only_to_who_waits() -> None:
    async with served() as connect:
        peer = await connect()
        for sent in (b"", b"xxx"):
            peer.ask(b"", b"Content-Length: 3", b"Expect: 100-continue")
            if sent:
                peer.writer.write(sent)  # it did not wait for leave
            else:
                assert await peer.status() == 100
                peer.writer.write(b"xxx")
            assert await peer.status() == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ((b"Content-Length: 601", b"Expect: 100-continue"), 413),
        ((b"Content-Length: 3", b"Expect: 200-ok"), 417),
        ((b"Content-Length: 3", b"Expect: 100-continue", b"X: " + b"x" * 3000), 431),
        ((b"Content-Length: 3", b"Expect: 100-continue", b"Transfer-Encoding: gzip"), 400),
    ],
)
async def test_a_refusal_comes_in_place_of_leave(headers: tuple[bytes, ...], status: int) -> None:
    async with served() as connect:
        peer = await connect()
        peer.ask(b"", *headers)
        assert await peer.status() == status


# --- connections ---------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["max_connections", "max_connections_per_address"])
async def test_one_connection_too_many_is_told_so_and_closed(setting: str) -> None:
    told: list[str] = []
    most, each = (3, 0) if setting == "max_connections" else (100, 3)
    door = Door(most, each, refused=told.append)
    async with served(door=door) as connect:
        peers = [await connect() for _ in range(3)]
        for peer in peers:
            peer.ask(b"x")
            assert await peer.status() == 200
        assert door.inside == 3
        for _ in range(2):
            late = await connect()
            assert await late.status() == 503
            assert await late.is_closed()
        assert told == [setting] * 2
        peers[0].writer.close()
        async with asyncio.timeout(GUARD):
            while door.inside == 3:
                await asyncio.sleep(0)
        peer = await connect()
        peer.ask(b"x")
        assert await peer.status() == 200
    async with asyncio.timeout(GUARD):
        while door.inside:
            await asyncio.sleep(0)


async def test_pipelined_requests_are_not_read_ahead_of_their_answers() -> None:
    """A million of them lie in the kernel, or with the client, while the first is served."""
    arrived = asyncio.Event()
    go_on = asyncio.Event()
    count = 0

    async def slow(client: Client) -> None:
        nonlocal count
        count += 1
        arrived.set()
        await go_on.wait()
        client.answer(200, [], b"")

    async with served(slow) as connect:
        peer = await connect()
        peer.writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 1_000_000)
        await arrived.wait()
        await asyncio.sleep(0.3)
        assert count == 1
        assert peer.writer.transport.get_write_buffer_size() > 5_000_000
