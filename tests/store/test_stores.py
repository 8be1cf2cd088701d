"""Both kinds of stores do the same: keep for a time, for one caller, up to a size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.config import AnswerStore
from proxy.store.open import Stores
from proxy.store.shelf import OVERHEAD
from tests.fakes.until import until
from tests.state.servers import redis_program, running_redis
from tests.store.stores import Told, in_file, in_redis, opened

ALICE, BOB = "key:alice", "key:bob"


@pytest.fixture(params=["sqlite", "redis"])
async def settings(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AnswerStore]:
    if request.param == "sqlite":
        yield in_file(tmp_path)
        return
    program = redis_program()
    if program is None:
        pytest.skip("redis-server is not installed")
    async with running_redis(program, tmp_path) as server:
        yield in_redis(server.url)


async def written(told: Told, size: int) -> None:
    """Until so many bytes are held."""
    await until(lambda: told.size == size)


def bytes_of(*values: bytes) -> int:
    return sum(len(value) + 16 + OVERHEAD for value in values)


async def test_what_is_put_is_found_at_once_and_after_it_was_written(settings: AnswerStore) -> None:
    async with opened(settings) as (stores, told):
        store = stores.of(settings, "cache")
        assert await store.get(ALICE, "a") is None
        store.put(ALICE, "a", b"one", 60.0)
        assert await store.get(ALICE, "a") == b"one"
        await written(told, bytes_of(b"one"))
        assert await store.get(ALICE, "a") == b"one"
        store.put(ALICE, "a", b"other", 60.0)
        assert await store.get(ALICE, "a") == b"other"
        await written(told, bytes_of(b"other"))
        assert await store.get(ALICE, "a") == b"other"
        assert not told.failures


async def test_it_is_there_after_a_restart_and_for_other_processes(settings: AnswerStore) -> None:
    value = bytes(range(256)) * 4096
    async with opened(settings) as (stores, _):
        stores.of(settings, "cache").put(ALICE, "a", value, 60.0)
    async with opened(settings) as (stores, _), opened(settings) as (others, _):
        assert await stores.of(settings, "cache").get(ALICE, "a") == value
        assert await others.of(settings, "cache").get(ALICE, "a") == value
        stores.of(settings, "cache").put(BOB, "b", b"new", 60.0)
        await until_found(others, settings, BOB, "b", b"new")


async def until_found(
    stores: Stores, settings: AnswerStore, scope: str, key: str, value: bytes
) -> None:
    async with asyncio.timeout(20):
        while await stores.of(settings, "cache").get(scope, key) != value:
            await asyncio.sleep(0.01)


async def test_nobody_finds_what_is_anothers_or_was_kept_for_another_purpose(
    settings: AnswerStore,
) -> None:
    async with opened(settings) as (stores, told):
        store = stores.of(settings, "cache")
        store.put(ALICE, "a", b"secret", 60.0)
        await written(told, bytes_of(b"secret"))
        assert await store.get(BOB, "a") is None
        assert await store.get(ALICE, "A") is None
        assert await store.get("key:alic", "ea") is None
        assert await stores.of(settings, "responses").get(ALICE, "a") is None
        assert not await store.delete(BOB, "a")
        assert await store.get(ALICE, "a") == b"secret"


async def test_it_is_over_after_its_time_and_then_it_is_removed(settings: AnswerStore) -> None:
    async with opened(settings) as (stores, told):
        store = stores.of(settings, "cache")
        store.put(ALICE, "a", b"short", 0.15)
        store.put(ALICE, "b", b"long", 600.0)
        assert await store.get(ALICE, "a") == b"short"
        async with asyncio.timeout(20):
            while await store.get(ALICE, "a") is not None:
                await asyncio.sleep(0.02)
        assert await store.get(ALICE, "b") == b"long"
        await written(told, bytes_of(b"long"))  # at the next look for what is over


async def test_deleting_says_whether_it_was_there(settings: AnswerStore) -> None:
    async with opened(settings) as (stores, told):
        store = stores.of(settings, "responses")
        assert not await store.delete(ALICE, "a")
        store.put(ALICE, "a", b"1", 60.0)
        assert await store.delete(ALICE, "a")  # before it was written, or while it was
        assert await store.get(ALICE, "a") is None
        store.put(ALICE, "a", b"2", 60.0)
        await written(told, bytes_of(b"2"))
        assert await store.delete(ALICE, "a")
        assert await store.get(ALICE, "a") is None
        assert not await store.delete(ALICE, "a")


async def test_clearing_one_purpose_leaves_the_others(settings: AnswerStore) -> None:
    async with opened(settings) as (stores, told):
        cache, responses = stores.of(settings, "cache"), stores.of(settings, "responses")
        for n in range(700):
            cache.put(ALICE, str(n), b"x", 60.0)
        responses.put(ALICE, "a", b"mine", 60.0)
        await written(told, bytes_of(*[b"x"] * 700, b"mine"))
        assert await stores.clear("cache") == 700
        assert await cache.get(ALICE, "5") is None
        assert await responses.get(ALICE, "a") == b"mine"


async def test_over_its_size_what_was_used_longest_ago_goes_first(settings: AnswerStore) -> None:
    value = bytes(10_000)
    room = 20 * bytes_of(value)
    settings = settings.model_copy(update={"max_size": room})
    async with opened(settings) as (stores, told):
        store = stores.of(settings, "cache")
        for n in range(20):
            store.put(ALICE, str(n), value, 60.0)
            await written(told, bytes_of(*[value] * (n + 1)))
        assert await store.get(ALICE, "0") == value
        # That it was used is written down at the next look.
        await asyncio.wait_for(_looked(stores), 20)
        for n in range(20, 25):
            store.put(ALICE, str(n), value, 60.0)
            await until(lambda: told.size <= room)
            assert await store.get(ALICE, str(n)) == value
        await until_gone(stores, settings, "1")
        assert await store.get(ALICE, "0") == value
        assert await store.get(ALICE, "24") == value
        store.put(ALICE, "huge", bytes(room), 60.0)
        assert told.failures == {"dropped": 1}
        assert await store.get(ALICE, "huge") is None


async def _looked(stores: Stores) -> None:
    """Until what was used is written down."""
    (kept,) = stores._stores.values()
    while kept._used:
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.05)


async def until_gone(stores: Stores, settings: AnswerStore, key: str) -> None:
    async with asyncio.timeout(20):
        while await stores.of(settings, "cache").get(ALICE, key) is not None:
            await asyncio.sleep(0.01)


async def test_what_cannot_be_written_in_time_is_dropped_and_counted(settings: AnswerStore) -> None:
    async with opened(settings) as (stores, told):
        store = stores.of(settings, "cache")
        value = bytes(1 << 20)
        for n in range(60):  # without a pause: nothing is written meanwhile
            store.put(ALICE, str(n), value, 60.0)
        assert told.failures["dropped"] == 12
        await written(told, bytes_of(*[value] * 48))
        assert await store.get(ALICE, "47") == value
        assert await store.get(ALICE, "48") is None


async def test_a_store_that_is_closed_finds_and_keeps_nothing(settings: AnswerStore) -> None:
    async with opened(settings) as (stores, told):
        store = stores.of(settings, "cache")
        store.put(ALICE, "a", b"1", 60.0)
        await stores.close()
        store.put(ALICE, "b", b"1", 60.0)
        assert await store.get(ALICE, "a") is None
        assert told.failures["dropped"] == 1


async def test_nothing_of_whose_it_is_can_be_read_in_the_place_it_is_kept(
    settings: AnswerStore, tmp_path: Path
) -> None:
    async with opened(settings) as (stores, _):
        stores.of(settings, "cache").put("bearer:verysecretscope", "promptdigest", b"v" * 9, 60.0)
    if settings.kind == "sqlite":
        kept = b"".join(path.read_bytes() for path in tmp_path.glob("answers.db*"))
    else:
        import redis.asyncio

        client = redis.asyncio.Redis.from_url(settings.url)
        names = await client.keys("*")
        kept = " ".join(map(str, names)).encode()
        await client.aclose()
        assert len(names) == 6
    assert b"verysecret" not in kept
    assert b"promptdigest" not in kept
