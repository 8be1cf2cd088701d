"""Alone, each process lets in its share; back together, what it let in is known to all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.config import Allowance
from proxy.core.policy.limits import Want
from proxy.state.counting import BEAT, share_of
from proxy.state.home import Home
from tests.state.homes import opened, until
from tests.state.servers import RedisServer, running_redis

NeedsProgram = Callable[[str], str]

FORTY = (Want("total", Allowance(requests_per_minute=40), 0),)
PLACES = (Want("key:a", Allowance(concurrent=10), 0),)


async def let_in(home: Home, wants: tuple[Want, ...], name: str, count: int = 60) -> list[str]:
    """The leases that were given."""
    leases = [f"{name}{number}" for number in range(count)]
    return [one for one in leases if (await home.take(wants, one)).refused is None]


async def early_in_a_minute() -> None:
    """What is counted by Redis's clock and by ours stays within one window of each."""
    for clock in (time.time, time.monotonic):
        if (second := clock() % 60) > 50:
            await asyncio.sleep(60.1 - second)


async def both_are_known(server: RedisServer) -> None:
    await asyncio.sleep(BEAT)
    async with server.client() as client, asyncio.timeout(20):
        while await client.zcard("glm-proxy:replicas") < 2:
            await asyncio.sleep(0.05)
    await asyncio.sleep(BEAT / 2)


async def test_two_that_are_alone_have_half_each_and_what_they_let_in_counts_after(
    needs_program: NeedsProgram, tmp_path: Path
) -> None:
    async with (
        running_redis(needs_program("redis-server"), tmp_path) as server,
        opened(server.state) as (one, _),
        opened(server.state) as (other, _),
    ):
        await both_are_known(server)
        await early_in_a_minute()
        await server.kill()
        assert len(await let_in(one, FORTY, "a")) == 20
        assert len(await let_in(other, FORTY, "b")) == 20
        places = await let_in(one, PLACES, "c")
        assert len(places) == 5
        await server.start()
        await until(lambda: one.trouble is None and other.trouble is None)
        assert await let_in(one, FORTY, "d") == []
        # Five places are held by the first.
        more = await let_in(other, PLACES, "e")
        assert len(more) == 5
        for lease in places:
            one.settle(PLACES, lease, 0)
        for lease in more:
            other.settle(PLACES, lease, 0)
        async with server.client() as client, asyncio.timeout(20):
            while await client.zcard("glm-proxy:places:key:a"):
                await asyncio.sleep(0.02)


async def test_what_was_let_in_before_is_a_part_of_its_share(
    needs_program: NeedsProgram, tmp_path: Path
) -> None:
    async with (
        running_redis(needs_program("redis-server"), tmp_path) as server,
        opened(server.state) as (home, _),
    ):
        await early_in_a_minute()
        assert len(await let_in(home, FORTY, "a", 30)) == 30
        await server.kill()
        assert len(await let_in(home, FORTY, "b")) == 10


async def test_who_leaves_while_it_is_counted_holds_no_place(
    needs_program: NeedsProgram, tmp_path: Path
) -> None:
    async with (
        running_redis(needs_program("redis-server"), tmp_path) as server,
        opened(server.state) as (home, _),
    ):
        for number in range(50):
            taking = asyncio.ensure_future(home.take(PLACES, f"a{number}"))
            for _ in range(number % 8):
                await asyncio.sleep(0)
            taking.cancel()
            await asyncio.wait((taking,))
            if not taking.cancelled():
                home.settle(PLACES, f"a{number}", 0)
        async with server.client() as client, asyncio.timeout(20):
            while await client.zcard("glm-proxy:places:key:a"):
                await asyncio.sleep(0.02)
        assert len(await let_in(home, PLACES, "b")) == 10


@pytest.mark.parametrize(
    ("limit", "replicas", "share"), [(40, 1, 40), (40, 3, 13), (2, 3, 1), (None, 3, None)]
)
def test_a_share_is_a_part_and_at_least_one(
    limit: int | None, replicas: int, share: int | None
) -> None:
    allowance = Allowance(requests_per_minute=limit, tokens_per_day=9)
    assert share_of(allowance, replicas).requests_per_minute == share
