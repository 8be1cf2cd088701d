"""All homes count alike: one table for the meter in memory, the file, and the script in Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from proxy.core.policy.limits import Meter, Taken, Want
from proxy.state.counting import Held, Settlement
from proxy.state.redis.counts import RedisCounts
from proxy.state.redis.link import Link
from proxy.state.sqlite.counts import CountsFile
from tests.state.meter_cases import CASES, Case, Settle, Take
from tests.state.servers import running_redis

START = 7_000_000 * 60.0
"""Seconds of the home's clock at which a window begins."""
Wants = tuple[Want, ...]


class Counter(Protocol):
    """A home's counts, at times that the test tells."""

    async def take(self, wants: Wants, lease: str, at: float, wall: float) -> Taken: ...

    async def settle(
        self, wants: Wants, lease: str, tokens: int, at: float, wall: float
    ) -> None: ...

    async def renew(self, held: Sequence[Held], at: float) -> None: ...


class InMemory:
    def __init__(self) -> None:
        self._meter = Meter()

    async def take(self, wants: Wants, lease: str, at: float, wall: float) -> Taken:
        return self._meter.take(wants, lease, at, wall)

    async def settle(self, wants: Wants, lease: str, tokens: int, at: float, wall: float) -> None:
        self._meter.settle(wants, lease, tokens, at, wall)

    async def renew(self, held: Sequence[Held], at: float) -> None:
        self._meter.renew([one.lease for one in held], at)


class InFile:
    def __init__(self, path: Path) -> None:
        self._at = self._wall = 0.0
        self.file = CountsFile(path, 1.0, lambda: self._at, lambda: self._wall)

    async def take(self, wants: Wants, lease: str, at: float, wall: float) -> Taken:
        self._at, self._wall = at, wall
        return self.file.take(wants, lease)

    async def settle(self, wants: Wants, lease: str, tokens: int, at: float, wall: float) -> None:
        self._at, self._wall = at, wall
        self.file.settle([Settlement(wants, lease, tokens)])

    async def renew(self, held: Sequence[Held], at: float) -> None:
        self._at = at
        self.file.renew(held, again=False)


class InRedis:
    def __init__(self, counts: RedisCounts) -> None:
        self._counts = counts

    async def take(self, wants: Wants, lease: str, at: float, wall: float) -> Taken:
        self._counts.clock = round(at * 1000), round(wall * 1000)
        return await self._counts.take(wants, lease)

    async def settle(self, wants: Wants, lease: str, tokens: int, at: float, wall: float) -> None:
        self._counts.clock = round(at * 1000), round(wall * 1000)
        await self._counts.settle([Settlement(wants, lease, tokens)])

    async def renew(self, held: Sequence[Held], at: float) -> None:
        self._counts.clock = round(at * 1000), 0
        await self._counts.renew(held, again=False)


@asynccontextmanager
async def in_redis(program: str, folder: Path) -> AsyncIterator[Callable[[str], InRedis]]:
    """A counter for each prefix, all on one server."""
    async with running_redis(program, folder) as server:
        link = Link(server.state, 5.0)
        await link.connect()
        try:
            yield lambda prefix: InRedis(RedisCounts(link, prefix))
        finally:
            await link.close()


async def play(case: Case, counter: Counter) -> None:
    held: dict[str, Wants] = {}
    for number, step in enumerate(case.steps):
        where = f"{case.name}, step {number}"
        at = START + step.at
        if isinstance(step, Take):
            assert await counter.take(step.wants, step.lease, at, step.wall) == step.answer, where
            held[step.lease] = step.wants
        elif isinstance(step, Settle):
            await counter.settle(step.wants, step.lease, step.tokens, at, step.wall)
        else:
            await counter.renew([Held(lease, held[lease]) for lease in step.leases], at)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_memory_counts_so(case: Case) -> None:
    await play(case, InMemory())


async def test_a_file_counts_as_memory_does(tmp_path: Path) -> None:
    for number, case in enumerate(CASES):
        counter = InFile(tmp_path / f"{number}.counts")
        try:
            await play(case, counter)
        finally:
            counter.file.close()


async def test_redis_counts_as_memory_does(
    needs_program: Callable[[str], str], tmp_path: Path
) -> None:
    async with in_redis(needs_program("redis-server"), tmp_path) as counter:
        for number, case in enumerate(CASES):
            await play(case, counter(f"case{number}"))
