"""A Redis that is away, frozen, slow or lying: a miss each time, soon, and never an error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.store import AnswerStore
from tests.fakes.caching import CHAT, Oracle, caching
from tests.fakes.raw_client import ask, chat
from tests.fakes.until import until
from tests.state.liars import Road, lying
from tests.state.servers import RedisServer, free_port, redis_program, running_redis
from tests.store.stores import in_redis, opened

ALICE = "key:alice"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    program = redis_program()
    if program is None:
        pytest.skip("redis-server is not installed")
    async with running_redis(program, tmp_path) as server:
        yield server


async def kept(store: AnswerStore, key: str = "a", value: bytes = b"value") -> None:
    """Until it is kept, and found."""
    async with asyncio.timeout(20):
        while await store.get(ALICE, key) != value:
            store.put(ALICE, key, value, 60.0)
            await asyncio.sleep(0.02)


async def test_nobody_waits_for_one_that_is_away_and_it_is_used_when_it_comes(
    tmp_path: Path,
) -> None:
    program = redis_program()
    if program is None:
        pytest.skip("redis-server is not installed")
    server = RedisServer(program, tmp_path)
    settings = in_redis(server.url)
    async with opened(settings) as (stores, told):
        store = stores.of(settings, "cache")
        began = time.monotonic()
        for n in range(1000):
            assert await store.get(ALICE, str(n)) is None
            store.put(ALICE, str(n), b"x", 60.0)
        assert time.monotonic() - began < 5  # a hundred times what it takes
        assert told.failures["dropped"] == 1000
        assert told.failures["open"] == 1
        await server.start()
        try:
            await kept(store)
        finally:
            await server.kill()


async def test_who_waits_for_a_frozen_one_waits_no_longer_than_the_settings_say(
    server: RedisServer,
) -> None:
    settings = in_redis(server.url, timeout=0.2)
    async with opened(settings) as (stores, told):
        store = stores.of(settings, "cache")
        await kept(store)
        server.freeze()
        began = time.monotonic()
        found = await asyncio.gather(*(store.get(ALICE, f"{n}") for n in range(200)))
        assert set(found) == {None}
        assert time.monotonic() - began < 5
        assert await store.get(ALICE, "a") is None
        assert told.failures["get"] >= 1
        server.thaw()
        await kept(store)


async def test_one_that_is_too_slow_is_as_good_as_away(server: RedisServer) -> None:
    async with Road(server.port) as road:
        settings = in_redis(f"redis://127.0.0.1:{road.port}", timeout=0.15)
        async with opened(settings) as (stores, told):
            store = stores.of(settings, "cache")
            await kept(store)
            road.delay = 0.25
            assert await store.get(ALICE, "a") is None
            assert await store.get(ALICE, "a") is None
            await until(lambda: told.failures["probe"])
            road.delay = 0.0
            await kept(store)


async def test_one_that_dies_loses_copies_and_nothing_else(server: RedisServer) -> None:
    settings = in_redis(server.url)
    async with opened(settings) as (stores, told):
        store = stores.of(settings, "cache")
        await kept(store)
        await server.kill()
        assert await store.get(ALICE, "a") is None
        assert not await store.delete(ALICE, "a")
        await server.start()  # empty, and with a salt of its own
        await kept(store, "b")
        assert await store.get(ALICE, "a") is None
        assert told.failures["get"] >= 1


async def test_what_was_kept_elsewhere_is_never_taken_for_what_was_asked_for(
    server: RedisServer,
) -> None:
    """As by a link, or a proxy before Redis, that mixes up two answers."""
    settings = in_redis(server.url)
    async with opened(settings) as (stores, told):
        store = stores.of(settings, "cache")
        await kept(store, "a", b"alice's")
        store.put("key:bob", "a", b"bob's", 60.0)
        client = server.client()
        names: list[bytes | str] = []
        async with asyncio.timeout(20):
            while len(names) < 2:
                names = await client.keys("glm-proxy:answers:value:*")
        one, other = [await client.get(name) for name in names]
        assert one is not None
        assert other is not None
        await client.set(names[0], other)
        await client.set(names[1], one)
        await client.aclose()
        assert await store.get(ALICE, "a") is None
        assert await store.get("key:bob", "a") is None
        assert told.failures["damaged"] == 2


SALT = b"$32\r\n" + bytes(32) + b"\r\n"


@pytest.mark.parametrize(
    "lie",
    [
        b"$5\r\nvalue\r\n",
        b"$20\r\n" + bytes(20) + b"\r\n",
        b":5\r\n",
        b"*1\r\n$1\r\nx\r\n",
        b"-ERR no\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"$99999999999\r\n",
        b"\x00\xff\x00\xff",
    ],
    ids=repr,
)
async def test_one_that_lies_is_not_believed(lie: bytes) -> None:
    is_lying = False

    def answer(command: list[bytes]) -> bytes:
        match command[0].upper():
            case b"CLIENT" | b"SELECT" | b"SET":
                return b"+OK\r\n"
            case b"GET" if command[1].endswith(b":salt"):
                return SALT
            case b"GET":
                return lie if is_lying else b"$-1\r\n"
            case _:
                return b":0\r\n"

    async with lying(answer) as port:
        settings = in_redis(f"redis://127.0.0.1:{port}", timeout=0.5)
        async with opened(settings) as (stores, told):
            store = stores.of(settings, "cache")
            assert await store.get(ALICE, "a") is None
            assert not told.failures
            is_lying = True
            assert await store.get(ALICE, "a") is None
            assert told.failures["get"] + told.failures["damaged"] == 1


@pytest.mark.parametrize("salt", [b"$-1\r\n", b"$4\r\nsalt\r\n", b":3\r\n"], ids=repr)
async def test_one_without_a_salt_is_not_used(salt: bytes) -> None:
    def answer(command: list[bytes]) -> bytes:
        return salt if command[0].upper() == b"GET" else b"+OK\r\n"

    async with lying(answer) as port:
        settings = in_redis(f"redis://127.0.0.1:{port}", timeout=0.5)
        async with opened(settings) as (stores, told):
            assert await stores.of(settings, "cache").get(ALICE, "a") is None
            assert told.failures["open"] == 1


async def test_a_redis_without_memory_still_tells_what_it_has(server: RedisServer) -> None:
    settings = in_redis(server.url)
    async with opened(settings) as (stores, told):
        store = stores.of(settings, "cache")
        await kept(store)
        client = server.client()
        await client.config_set("maxmemory", "1")
        await client.aclose()
        store.put(ALICE, "b", b"more", 60.0)
        await until(lambda: told.failures["put"])
        assert await store.get(ALICE, "a") == b"value"
        assert await store.get(ALICE, "b") is None


async def test_no_request_fails_while_redis_dies_and_returns(
    tmp_path: Path, server: RedisServer
) -> None:
    place = {"url": server.url, "timeout": "100ms"}
    async with caching(tmp_path, Oracle(), store=place) as (_, app):
        seen: set[str] = set()

        async def some(count: int) -> None:
            answers = await asyncio.gather(
                *(ask(app.data_address, CHAT, chat(seed=n % 5)) for n in range(count))
            )
            for answer in answers:
                assert answer.status == 200
                assert answer.clean
                assert answer.body.endswith(b"[DONE]\n\n")
                seen.add(answer.headers["x-glm-proxy-cache"])

        async def until_hit() -> None:
            seen.clear()
            async with asyncio.timeout(20):
                while "hit" not in seen:
                    await some(10)

        await until_hit()
        server.freeze()
        await some(30)
        server.thaw()
        await until_hit()
        await server.kill()
        await some(30)
        seen.clear()
        await some(30)
        assert seen == {"miss"}
        await server.start()
        await until_hit()


async def test_a_port_where_nobody_is_delays_no_start(tmp_path: Path) -> None:
    place = {"url": f"redis://127.0.0.1:{free_port()}", "timeout": "50ms"}
    async with caching(tmp_path, Oracle(), store=place) as (_, app):
        assert (await ask(app.data_address, CHAT, chat())).status == 200
