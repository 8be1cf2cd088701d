"""Redis that is killed, frozen, slow, or no Redis: requests go on, and nobody waits twice."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxy.config import Allowance, State
from proxy.config.secret import Secret
from proxy.core.policy import access
from proxy.core.policy.limits import Want
from proxy.state.home import Home, StateError
from tests.state.homes import PLENTY, a_key, an_entry, opened, until
from tests.state.liars import Road, lying
from tests.state.servers import RedisServer, running_redis

NeedsProgram = Callable[[str], str]

LONG_WAIT = 2.0
"""Seconds; tens of times what one wait may take, for a machine that has no time."""


async def takes(home: Home, count: int, wants: tuple[Want, ...] = PLENTY) -> list[float]:
    """Seconds that each took; all are let in, and settled."""
    found = []
    for number in range(count):
        began = time.monotonic()
        taken = await home.take(wants, f"{began}-{number}")
        found.append(time.monotonic() - began)
        assert taken.refused is None
        home.settle(wants, f"{began}-{number}", 5)
    return found


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == "glm_proxy.state"]


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_the_first_waits_no_longer_than_the_timeout_and_no_other_waits(
    how: str, tmp_path: Path, needs_program: NeedsProgram, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        running_redis(needs_program("redis-server"), tmp_path) as server,
        opened(server.state) as (home, seen),
    ):
        await takes(home, 20)
        assert seen.up == [True]
        await hurt(server, how)
        first, *others = await takes(home, 300)
        assert first < LONG_WAIT
        assert sorted(others)[len(others) // 2] < 0.01
        assert max(others) < LONG_WAIT / 4
        assert home.trouble is not None
        assert seen.up == [True, False]
        await heal(server, how)
        await until(lambda: home.trouble is None)
        await takes(home, 20)
        assert seen.up == [True, False, True]
        # One line for each change, however many requests there were.
        said = [one for one in messages(caplog) if "alone" in one or "in use again" in one]
        assert len(said) == 2


async def hurt(server: RedisServer, how: str) -> None:
    await server.kill() if how == "kill" else server.freeze()


async def heal(server: RedisServer, how: str) -> None:
    await server.start() if how == "kill" else server.thaw()


async def test_of_many_at_once_none_waits_longer_than_one(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    async with (
        running_redis(needs_program("redis-server"), tmp_path) as server,
        opened(server.state) as (home, _),
    ):
        server.freeze()
        began = time.monotonic()
        taken = await asyncio.gather(*(home.take(PLENTY, str(n)) for n in range(200)))
        assert time.monotonic() - began < LONG_WAIT
        assert all(one.refused is None for one in taken)


async def test_a_slow_one_is_done_without_until_it_is_fast_again(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    async with (
        running_redis(needs_program("redis-server"), tmp_path) as server,
        Road(server.port) as road,
        opened(State(url=f"redis://127.0.0.1:{road.port}")) as (home, seen),
    ):
        await takes(home, 5)
        road.delay = 0.2
        first, *others = await takes(home, 100)
        assert first < LONG_WAIT
        assert max(others) < LONG_WAIT / 4
        await asyncio.sleep(1.5)  # several probes: it is there, and too slow
        assert home.trouble is not None
        road.delay = 0.0
        await until(lambda: home.trouble is None)
        assert seen.up == [True, False, True]


LIES = {
    "READONLY": b"-READONLY You can't write against a read only replica.\r\n",
    "OOM": b"-OOM command not allowed when used memory > 'maxmemory'.\r\n",
    "LOADING": b"-LOADING Redis is loading the dataset in memory\r\n",
    "NOAUTH": b"-NOAUTH Authentication required.\r\n",
    "WRONGPASS": b"-WRONGPASS hunter2 is wrong\r\n",
    "NOPERM": b"-NOPERM this user has no permissions\r\n",
    "MOVED": b"-MOVED 3999 10.0.0.1:6381\r\n",
    "MOVED, garbled": b"-MOVED\r\n",
    "ASK, garbled": b"-ASK x y z\r\n",
    "CLUSTERDOWN": b"-CLUSTERDOWN The cluster is down\r\n",
    "MASTERDOWN": b"-MASTERDOWN Link with MASTER is down\r\n",
    "an unknown error": b"-hunter2 hunter2\r\n",
    "OK for everything": b"+OK\r\n",
    "nothing for everything": b"$-1\r\n",
    "a number for everything": b":7\r\n",
    "a huge number": b":99999999999999999999999999\r\n",
    "a list of the wrong things": b"*3\r\n$1\r\na\r\n:1\r\n*0\r\n",
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\nhunter2",
    "garbage": bytes(range(256)) * 8,
    "a line without end": b"+" + b"x" * 200_000,
    "a value without end": b"$99999999999\r\nhunter2",
    "a value of less than nothing": b"$-7\r\n\r\n",
    "a list without end": b"*99999999999\r\n:1\r\n",
    "lists in lists": b"*1\r\n" * 20_000,
    "not a length": b"$x\r\n",
}


@pytest.mark.parametrize("lie", LIES)
async def test_no_lie_fails_a_request_or_gets_into_a_message(
    lie: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with lying(lambda command: LIES[lie]) as port:
        state = State(
            url=f"redis://user@127.0.0.1:{port}/1", password=Secret("hunter2", "env:PASSWORD")
        )
        async with opened(state) as (home, seen):
            await takes(home, 50)
            assert home.trouble is not None
            assert not seen.registries[0].known
            with pytest.raises(StateError) as failed:
                await home.save_key(a_key().key, an_entry())
            texts = [home.trouble, str(failed.value), *(one.getMessage() for one in caplog.records)]
            assert not any("hunter2" in text for text in texts)
            assert sum("alone" in text for text in messages(caplog)) == 1


def then_lies(lie: bytes) -> Callable[[list[bytes]], bytes]:
    """Of an honest server that begins to lie when it is asked to count a request."""

    def answer(command: list[bytes]) -> bytes:
        if b"take" in command:
            return lie
        return b":1\r\n" if b"beat" in command else b":0\r\n"

    return answer


@pytest.mark.parametrize("lie", LIES)
async def test_who_begins_to_lie_is_done_without(lie: str) -> None:
    async with (
        lying(then_lies(LIES[lie])) as port,
        opened(State(url=f"redis://127.0.0.1:{port}")) as (home, seen),
    ):
        assert home.trouble is None
        await takes(home, 50)
        assert False in seen.up
        assert not seen.times


async def test_keys_that_are_known_stay_known_while_redis_is_away(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    async with (
        running_redis(needs_program("redis-server"), tmp_path) as server,
        opened(server.state) as (home, seen),
    ):
        key = a_key().key
        await home.save_key(key, an_entry())
        await server.kill()
        await takes(home, 5)
        await until(lambda: "read" in seen.failures)
        assert seen.registries[-1].keys == {key.id: key}
        with pytest.raises(StateError):
            await home.save_key(a_key().key, an_entry())


async def test_one_that_starts_without_redis_knows_nothing_and_then_all(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    server = RedisServer(needs_program("redis-server"), tmp_path)
    try:
        async with opened(server.state) as (home, seen):
            assert not seen.registries[0].known
            assert home.trouble is not None
            await takes(home, 20)
            await server.start()
            async with opened(server.state) as (other, _):
                key = a_key().key
                await other.save_key(key, an_entry())
                await until(lambda: key.id in seen.registries[-1].keys)
            await until(lambda: home.trouble is None)
            assert seen.registries[-1].known
    finally:
        await server.kill()


async def test_what_redis_has_lost_is_told_to_it_again(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    async with (
        running_redis(needs_program("redis-server"), tmp_path) as server,
        opened(server.state) as (home, _),
        opened(server.state) as (_, other),
    ):
        good, bad = a_key("good").key, access.revoked(a_key("bad").key, 5.0)
        for key in (good, bad):
            await home.save_key(key, an_entry())
        await until(lambda: len(other.registries[-1].keys) == 2)
        known = other.registries[-1]
        before = len(other.registries)
        async with server.client() as client:
            await client.flushall()
            await takes(home, 50)
            await until(lambda: len(other.registries) > before)
            async with asyncio.timeout(20):
                while await client.hlen("glm-proxy:registry") < 3:
                    await asyncio.sleep(0.02)
        async with opened(server.state) as (_, late):
            assert late.registries[0] == known
        assert all(one == known for one in other.registries[before:])


async def test_what_cannot_be_read_is_left_out_and_told_once(
    tmp_path: Path, needs_program: NeedsProgram, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_redis(needs_program("redis-server"), tmp_path) as server:
        good, other = a_key("good"), a_key("other")
        async with opened(server.state) as (home, seen):
            await home.save_key(good.key, an_entry())
            await home.save_key(other.key, an_entry())
            async with server.client() as client:
                body = await client.hget("glm-proxy:registry", f"key:{other.key.id}")
                spoilt: dict[str | bytes, Any] = {
                    "key:aaaaaaaaaaaa": b"{",
                    "key:bbbbbbbbbbbb": body,  # another's
                    "key:cccccccccccc": b"[" * 100_000,
                    "key:dddddddddddd": b'"' + b"x" * 500_000 + b'"',
                    f"key:{other.key.id}": b"\xff\x00",
                    "switch:glm-4.6": b'{"model":"glm-4.6","to":"a b","until":null}',
                    "something": b"else",
                    b"\xff\xfe": b"\xff",
                }
                for field, value in spoilt.items():
                    await client.hset("glm-proxy:registry", field, value)
                for count in range(len(seen.registries), len(seen.registries) + 3):
                    await client.hincrby("glm-proxy:registry", "revision", 1)
                    await until(partial(_more_than, count, seen.registries))
            assert seen.registries[-1].keys == {good.key.id: good.key}
            assert seen.registries[-1].switches == {}
            assert home.trouble is None
        assert sum("left out" in one for one in messages(caplog)) == 2  # keys, switches


def _more_than(count: int, things: list[Any]) -> bool:
    return len(things) > count


async def test_keys_of_another_kind_under_our_names_fail_nothing(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    async with (
        running_redis(needs_program("redis-server"), tmp_path) as server,
        opened(server.state) as (home, seen),
        server.client() as client,
    ):
        await client.set("glm-proxy:used:total", "x")
        await client.set("glm-proxy:places:total", "x")
        await takes(home, 5)
        await client.hset("glm-proxy:used:total", mapping={"ri": "1e400", "rc": "nan", "dt": "-5"})
        await takes(home, 5)
        assert seen.up == [True]
        await client.delete("glm-proxy:registry")
        await client.set("glm-proxy:registry", "x")
        await until(lambda: "read" in seen.failures)
        await takes(home, 5)


async def test_counts_that_are_lost_begin_anew_and_scripts_are_sent_again(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    one = (Want("key:a", Allowance(requests_per_minute=3, concurrent=3), 0),)
    async with (
        running_redis(needs_program("redis-server"), tmp_path) as server,
        opened(server.state) as (home, seen),
        server.client() as client,
    ):
        await takes(home, 3, one)
        assert (await home.take(one, "x")).refused is not None
        await client.flushall()
        await client.script_flush()
        await takes(home, 3, one)
        assert (await home.take(one, "y")).refused is not None
        assert seen.up == [True]


async def test_all_names_begin_with_the_prefix_and_those_of_counts_end_by_themselves(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    async with running_redis(needs_program("redis-server"), tmp_path) as server:
        state = server.state.model_copy(update={"prefix": "team-a"})
        async with opened(state) as (home, _), server.client() as client:
            await home.save_key(a_key().key, an_entry())
            assert (await home.take(PLENTY, "a")).refused is None
            names = {name.decode() async for name in client.scan_iter()}
            assert names == {
                *("team-a:registry", "team-a:audit", "team-a:replicas"),
                *("team-a:used:total", "team-a:places:total"),
            }
            for name in names - {"team-a:registry", "team-a:audit"}:
                assert await client.pttl(name) > 0


async def test_what_is_lost_on_the_way_back_leaves_no_drift(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    await replies_are_lost(needs_program("redis-server"), tmp_path, 300)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_what_is_lost_on_the_way_back_leaves_no_drift_after_ten_thousand(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    await replies_are_lost(needs_program("redis-server"), tmp_path, 10_000)


async def replies_are_lost(program: str, folder: Path, count: int) -> None:
    """Answers get lost for a tenth of the time: some that were counted look as if they were not."""
    async with (
        running_redis(program, folder) as server,
        Road(server.port) as road,
        opened(State(url=f"redis://127.0.0.1:{road.port}")) as (home, seen),
        server.client() as client,
    ):
        for number in range(count):
            road.loses_answers = number % 100 >= 90
            await takes(home, 1)
            if number % 100 == 99:
                road.loses_answers = False
                await until(lambda: home.trouble is None)
        assert seen.up.count(False) >= count // 100 - 1
        # Each loss may count one twice, and no place stays taken.
        used, before = (
            int(one or 0) for one in await client.hmget("glm-proxy:used:total", ["rc", "rb"])
        )
        assert count * 0.9 <= used + before + count * (count > 1000) <= count * 2.1
        async with asyncio.timeout(20):
            while await client.zcard("glm-proxy:places:total"):
                await asyncio.sleep(0.02)
