"""What is told over Unix sockets, and how long anybody can hold that up."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from proxy.net import siblings
from proxy.net.siblings import Teller, ask


@pytest.fixture
def path() -> Iterator[Path]:
    """Of a socket: short enough for one."""
    with tempfile.TemporaryDirectory() as short:
        yield Path(short) / "s"


@asynccontextmanager
async def telling(path: Path, tell: Callable[[], bytes]) -> AsyncIterator[Teller]:
    teller = Teller(path, lambda: None, tell)
    await teller.start()
    try:
        yield teller
    finally:
        await teller.close()


@pytest.mark.parametrize("told", [b"", b"figures", b"x" * 5_000_000])
async def test_all_that_is_told_arrives(path: Path, told: bytes) -> None:
    async with telling(path, lambda: told):
        assert await asyncio.to_thread(ask, [path, path], 20) == [told, told]
    assert not path.exists()


async def test_it_is_prepared_on_the_loop_and_told_in_a_thread(path: Path) -> None:
    where: list[int] = []

    def tell() -> bytes:
        where.append(threading.get_ident())
        return b"figures"

    teller = Teller(path, lambda: where.append(threading.get_ident()), tell)
    await teller.start()
    await asyncio.to_thread(ask, [path], 20)
    await teller.close()
    prepared, told = where
    assert prepared == threading.get_ident() != told


async def test_nothing_is_told_where_nobody_listens(path: Path) -> None:
    assert await asyncio.to_thread(ask, [path, path / "deeper", Path("x" * 200)]) == [None] * 3
    assert ask([]) == []


async def test_more_siblings_than_are_asked_at_once_all_answer(path: Path) -> None:
    async with telling(path, lambda: b"figures"):
        assert await asyncio.to_thread(ask, [path] * 40, 20) == [b"figures"] * 40


async def test_those_that_hang_hold_up_no_longer_than_one(path: Path) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"fig")
        with suppress(OSError):
            await reader.read()
        writer.transport.abort()

    server = await asyncio.start_unix_server(hang, path)
    began = time.monotonic()
    assert await asyncio.to_thread(ask, [path] * 40, 0.2) == [None] * 40
    assert time.monotonic() - began < 20
    server.close()


async def test_one_that_tells_bit_by_bit_gets_no_more_time(path: Path) -> None:
    left = asyncio.Event()

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.transport.abort()
        left.set()

    server = await asyncio.start_unix_server(drip, path)
    assert await asyncio.to_thread(ask, [path], 0.2) == [None]
    await asyncio.wait_for(left.wait(), 20)
    server.close()


async def test_one_that_tells_too_much_tells_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(siblings, "_LARGEST", 1000)
    async with telling(path, lambda: b"x" * 1001):
        assert await asyncio.to_thread(ask, [path], 20) == [None]
    async with telling(path, lambda: b"x" * 1000):
        assert await asyncio.to_thread(ask, [path], 20) == [b"x" * 1000]


async def test_who_leaves_or_does_not_read_holds_up_nobody_else(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(siblings, "_WITHIN", 0.2)
    async with telling(path, lambda: b"x" * 5_000_000):
        _, left = await asyncio.open_unix_connection(path)
        left.transport.abort()
        stuck, writer = await asyncio.open_unix_connection(path, limit=1)
        await stuck.readexactly(1)
        (told,) = await asyncio.to_thread(ask, [path], 20)
        assert told is not None
        assert len(told) == 5_000_000
        writer.transport.abort()


async def test_who_is_being_told_at_the_end_gets_all_of_it(path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def tell() -> bytes:
        begun.set()
        assert go_on.wait(20)
        return b"figures"

    teller = Teller(path, lambda: None, tell)
    await teller.start()
    asked = asyncio.create_task(asyncio.to_thread(ask, [path], 20))
    await asyncio.to_thread(begun.wait, 20)
    closing = asyncio.create_task(teller.close())
    await asyncio.sleep(0)
    go_on.set()
    assert await asked == [b"figures"]
    await closing


async def test_where_there_is_no_folder_starting_fails_and_closing_is_harmless(path: Path) -> None:
    teller = Teller(path / "deeper", lambda: None, bytes)
    with pytest.raises(OSError, match="No such file"):
        await teller.start()
    await teller.close()
