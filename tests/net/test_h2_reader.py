"""A response that is awaited."""

from __future__ import annotations

import asyncio

import pytest
from hyperframe.frame import (
    RstStreamFrame,
)

from proxy.errors import (
    AnswerTooLarge,
    Refused,
    UpstreamReset,
)
from proxy.net.h2.connection import Connection, H2Settings, Reader
from proxy.net.h2.frames import ErrorCode
from tests.fakes.h2_connect import connect, greeted
from tests.fakes.h2_peer import Peer, Request
from tests.fakes.h2_scripts import echo_or_silence, flowing, silent
from tests.fakes.h2_sinks import GET, OK


async def test_a_reader_gives_head_body_and_trailers() -> None:
    async def script(request: Request) -> None:
        request.head()
        await request.data(b"data: 1\n\n")
        await request.data(b"data: 2\n\n")
        request.trailers([(b"x-t", b"1")])

    async with Peer(script) as peer:
        connection = await connect(peer)
        reader = Reader.open(connection, GET)
        assert await reader.head() == (200, OK[1:])
        assert await reader.read() == b"data: 1\n\ndata: 2\n\n"
        assert reader.trailers == [(b"x-t", b"1")]
        assert await reader.head() == (200, OK[1:])


async def test_a_reader_yields_events_as_they_come() -> None:
    async with Peer(echo_or_silence) as peer:
        connection = await connect(peer)
        reader = Reader.open(connection, GET)
        request = await peer.request(1)
        request.head()
        chunks = aiter(reader)
        for n in range(5):
            await request.data(b"data: %d\n\n" % n)
            assert await anext(chunks) == b"data: %d\n\n" % n
        await request.data(b"", end=True)
        with pytest.raises(StopAsyncIteration):
            await anext(chunks)


async def test_a_reader_gives_what_came_before_the_error() -> None:
    async with Peer(raw=True) as peer:
        connection, there = await greeted(peer)
        reader = Reader.open(connection, GET)
        there.send(there.block(1, OK), there.data(1, b"half"), RstStreamFrame(1, 2))
        assert (await reader.head()).status == 200
        chunks = aiter(reader)
        assert await anext(chunks) == b"half"
        with pytest.raises(UpstreamReset):
            await anext(chunks)
        refused = Reader.open(connection, GET)
        there.reset(3, ErrorCode.REFUSED_STREAM)
        with pytest.raises(Refused):
            await refused.head()


async def test_a_reader_stops_at_its_limit() -> None:
    async with Peer(flowing) as peer:
        connection = await connect(peer)
        reader = Reader.open(connection, GET)
        with pytest.raises(AnswerTooLarge):
            await reader.read(limit=10_000)
        assert await (await peer.request(1)).until_reset() == ErrorCode.CANCEL


async def test_a_reader_that_is_not_read_holds_a_bounded_part() -> None:
    async with Peer(flowing) as peer:
        connection = await connect(peer, H2Settings(initial_window=100_000))
        reader = Reader.open(connection, GET)
        request = await peer.request(1)
        await request.connection.until(lambda: request.room() == 0)
        await fine_get(connection)
        held = request.sent
        await fine_get(connection)
        assert request.sent == held <= 64 * 1024 + 100_000
        chunks = aiter(reader)
        assert len(await anext(chunks)) == held
        await request.connection.until(lambda: request.sent > held + 50_000)
        reader.cancel()


async def fine_get(connection: Connection) -> None:
    """Another stream of an endless peer gets its events meanwhile."""
    other = Reader.open(connection, GET)
    assert await anext(aiter(other))
    other.cancel()


async def test_two_tasks_cannot_read_one_response() -> None:
    async with Peer(silent) as peer:
        connection = await connect(peer)
        reader = Reader.open(connection, GET)
        first = asyncio.ensure_future(reader.head())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task"):
            await reader.head()
        first.cancel()
