"""Reloads without end while streams run: none is cut, and nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.core.policy.capability import Capabilities
from proxy.generation import Generation
from proxy.house import House
from proxy.knowledge import Knowledge
from proxy.net.pool import Pool
from tests.fakes.raw_client import ask, chat
from tests.fakes.reloading import CHAT, DONE, Reloading, endpoint, event, model_of, reloading
from tests.fakes.until import until
from tests.fakes.upstream import Call, ScriptedUpstream

EVENTS = 25
PAUSE = 0.02
CLIENTS = 12


async def slowly(call: Call) -> None:
    """Half a second of pieces; of the model `now` at once."""
    call.head()
    for number in range(EVENTS):
        call.send(event(f"piece-{number}."))
        if model_of(call) != "now":
            await asyncio.sleep(PAUSE)
    call.send(DONE)
    call.finish()


class Forgotten(list[Call]):
    """A call would keep its connection, with a quarter of a megabyte of buffers."""

    def append(self, call: Call) -> None:
        pass


class Load:
    """Clients that ask for one stream after the other."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.ended: Counter[str] = Counter()
        self._address = address
        self._over = False

    async def client(self) -> None:
        while not self._over:
            self.ended[await self._stream()] += 1

    def stop(self) -> None:
        """No further stream; those that run end."""
        self._over = True

    async def _stream(self) -> str:
        try:
            answer = await ask(self._address, CHAT, chat())
        except (OSError, asyncio.IncompleteReadError) as error:
            return type(error).__name__
        if answer.status != 200:
            return str(answer.status)
        pieces = answer.body.count(b"piece-")
        whole = answer.clean and pieces == EVENTS and answer.body.endswith(DONE)
        return "whole" if whole else f"cut after {pieces}"


def variants(one: Any, other: Any) -> list[dict[str, Any]]:
    """Settings that differ in all that can be changed."""
    return [
        {"endpoints": [one]},
        {"endpoints": [one], "routes": [{"name": "named"}], "timeouts": {"idle": "20s"}},
        {"endpoints": [one], "pool": {"warm_connections": 1}},
        {"endpoints": [other]},
        {"endpoints": [other, one], "hedge": {"after": "p90", "min": "5s", "budget": "5%"}},
        {"endpoints": [{**one, "name": "renamed"}], "attempts": {"breaker": "off"}},
        {"endpoints": [one], "routes": [{"name": "shared", "share": True}], "access": "open"},
        {"endpoints": [one, other], "admission": {"limit": 1000}},
    ]


NONE: dict[str, Any] = dict.fromkeys(
    ("routes", "timeouts", "pool", "hedge", "attempts", "access", "admission")
)


@asynccontextmanager
async def before_two(folder: Path) -> AsyncIterator[tuple[Reloading, list[dict[str, Any]]]]:
    async with (
        ScriptedUpstream(slowly, h2=True) as up,
        ScriptedUpstream(slowly) as plain,
    ):
        one, other = endpoint(up, folder), endpoint(plain, folder, name="plain")
        for upstream in (up, plain):
            upstream.calls = Forgotten()
        async with reloading(folder, endpoints=[one]) as proxy:
            yield proxy, variants(one, other)


async def storm(folder: Path, reloads: int, pause: float) -> Counter[str]:
    """How the streams ended that ran while the settings changed so often."""
    async with before_two(folder) as (proxy, changes):
        load = Load(proxy.app.data_address)
        clients = [asyncio.create_task(load.client()) for _ in range(CLIENTS)]
        for number in range(reloads):
            await proxy.to(**NONE | changes[number % len(changes)])
            await asyncio.sleep(pause)
        load.stop()
        await asyncio.gather(*clients)
        return load.ended


async def test_no_stream_is_cut_by_thirty_reloads(tmp_path: Path) -> None:
    ended = await storm(tmp_path, 30, 0.03)
    assert ended.keys() == {"whole"}
    assert ended["whole"] >= CLIENTS


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_no_stream_is_cut_by_ten_reloads_a_second(tmp_path: Path) -> None:
    assert (await storm(tmp_path, 200, 0.08)).keys() == {"whole"}


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_no_stream_is_cut_by_a_thousand_reloads(tmp_path: Path) -> None:
    assert (await storm(tmp_path, 1000, 0.01)).keys() == {"whole"}


async def test_reloads_that_come_at_once_are_made_one_after_the_other(tmp_path: Path) -> None:
    async with before_two(tmp_path) as (proxy, changes):
        await proxy.to(**NONE | changes[-1])
        before = proxy.app.house
        await asyncio.gather(*(proxy.reread() for _ in range(8)))
        assert proxy.app.house is not before
        assert (await ask(proxy.app.data_address, CHAT, chat())).clean


# --- what is left ------------------------------------------------------------------------------

KINDS = (Generation, House, Knowledge, Capabilities, Pool)


def kept() -> list[object]:
    gc.collect()
    return [one for one in gc.get_objects() if isinstance(one, KINDS)]


def alive(besides: list[object]) -> Counter[str]:
    """By kind. `besides` are those of other tests: aiohttp remembers the handlers of applications
    that are gone."""
    others = set(map(id, besides))
    return Counter(type(one).__name__ for one in kept() if id(one) not in others)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def as_before(is_so: Callable[[], int], most: int) -> None:
    await until(lambda: is_so() <= most)


async def leftovers(folder: Path, reloads: int, *, before: int = 0) -> int:
    """Bytes that so many reloads have left, after those `before`, in which allocators and caches
    have got what they keep; everything else is counted here."""
    others = kept()
    async with before_two(folder) as (proxy, changes):

        async def change(number: int) -> None:
            await proxy.to(**NONE | changes[number % len(changes)])
            if number % 10 == 0:
                assert (await ask(proxy.app.data_address, CHAT, chat("now"))).clean

        async def settled() -> None:
            await proxy.to(**NONE | changes[0])
            await until(lambda: proxy.app.house.upstreams["up"].pool.stats().connections == 2)

        for number in range(max(before, len(changes))):
            await change(number)
        await settled()
        await until(lambda: alive(others)["Generation"] == 1)
        await asyncio.sleep(0.2)
        tasks, files, memory = len(asyncio.all_tasks()), open_files(), resident()
        for number in range(reloads):
            await change(number)
        await settled()
        one_each = Counter(one.__name__ for one in KINDS)
        await until(lambda: alive(others) == one_each)
        await as_before(lambda: len(asyncio.all_tasks()), tasks)
        await as_before(open_files, files + 2)
        return resident() - memory


async def test_reloads_leave_nothing_behind(tmp_path: Path) -> None:
    await leftovers(tmp_path, 24)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_thousand_reloads_leave_nothing_behind(tmp_path: Path) -> None:
    left = await leftovers(tmp_path, 1000, before=200)
    assert left < 16 << 20, f"{left >> 10} KiB"
