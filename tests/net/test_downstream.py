"""How long a client may take for the head of a request."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy.net.data_server import DataServer
from proxy.net.halves import Client

SHORT = 0.1
GUARD = 5.0
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _echo(client: Client) -> None:
    client.answer(200, [], await client.read_body(limit=100, timeout=GUARD))


@asynccontextmanager
async def _connected() -> AsyncIterator[Streams]:
    factory = DataServer(_echo, head_timeout=SHORT, keepalive_timeout=60.0)
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        async with asyncio.timeout(GUARD):
            yield reader, writer
    finally:
        writer.close()
        server.close()
        await factory.shutdown(0)


async def _answer(reader: asyncio.StreamReader, body: bytes = b"") -> bytes:
    return await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(len(body))


@pytest.mark.parametrize("start", [b"", b"GET", GET[:-2]])
async def test_a_connection_without_a_whole_head_is_closed_in_time(start: bytes) -> None:
    async with _connected() as (reader, writer):
        writer.write(start)
        assert await reader.read() == b""


async def test_the_time_begins_with_the_connection_when_bytes_come_with_it() -> None:
    """They are there before the connection is known: so are they read before its task begins."""
    factory = DataServer(_echo, head_timeout=SHORT, keepalive_timeout=60.0)
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    sockets = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(20)]
    try:
        for one in sockets:
            one.send(GET[:-2])
            one.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(GUARD):
            assert [await loop.sock_recv(one, 100) for one in sockets] == [b""] * 20
    finally:
        for one in sockets:
            one.close()
        server.close()
        await factory.shutdown(0)


async def test_a_head_that_comes_byte_by_byte_gets_no_more_time_than_another() -> None:
    async def dribble(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(SHORT / 5)

    async with _connected() as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
        dribbling = asyncio.create_task(dribble(writer))
        try:
            assert await reader.read() == b""
        finally:
            dribbling.cancel()


async def test_an_idle_connection_is_kept_longer_but_its_next_head_is_not_waited_for() -> None:
    async with _connected() as (reader, writer):
        for _ in range(2):
            writer.write(GET)
            assert b" 200 " in await _answer(reader)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 2 * SHORT)
        writer.write(GET[:5])
        assert await reader.read() == b""


async def test_a_body_may_take_longer_than_the_head() -> None:
    async with _connected() as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 2 * SHORT)
        writer.write(b"b")
        assert (await _answer(reader, b"ab")).endswith(b"\r\n\r\nab")
