"""A master and its workers, as an operator has them: killed, held up, stopped and followed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.fakes.fleet import Fleet, fleet, lives
from tests.fakes.raw_client import ask, chat
from tests.fakes.traffic import Traffic, script
from tests.fakes.until import until
from tests.fakes.upstream import ScriptedUpstream


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream(script) as one:
        yield one


def before(upstream: ScriptedUpstream, **settings: Any) -> dict[str, Any]:
    return {"endpoints": [{"name": "up", "base_url": upstream.url}], **settings}


async def streams(traffic: Traffic, count: int, seconds: float) -> list[asyncio.Task[str]]:
    """So many streams, all of them begun."""
    before = traffic.begun
    tasks = [asyncio.create_task(traffic.stream(seconds)) for _ in range(count)]
    await until(lambda: traffic.begun == before + count)
    return tasks


async def refuses(address: tuple[str, int]) -> bool:
    try:
        _, writer = await asyncio.open_connection(*address)
    except ConnectionRefusedError:
        return True
    writer.close()
    return False


async def test_a_stop_lets_streams_finish_takes_no_connection_and_ends_with_0(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with fleet(tmp_path, before(upstream)) as one:
        traffic = Traffic(one.data)
        assert len(one.workers) == 2
        for pid in (one.master, *one.workers):  # a dump of their memory would hold keys
            limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
            (core,) = (line.split() for line in limits if line.startswith("Max core file size"))
            assert core[4:6] == ["0", "0"]
        assert (await one.get("/readyz"))[0] == 200
        running = await streams(traffic, 6, 2.0)
        one.send(signal.SIGTERM)
        await until(lambda: "stopping within 20s" in one.errors)
        async with asyncio.timeout(5):
            while not await refuses(one.data):
                await asyncio.sleep(0.01)
        assert (await one.get("/readyz"))[0] == 503
        assert set(await asyncio.gather(*running)) == {"whole"}
        assert await one.ended() == 0


async def test_what_outlives_the_drain_timeout_gets_an_error_event(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with fleet(tmp_path, before(upstream, server={"drain_timeout": "500ms"})) as one:
        running = await streams(Traffic(one.data), 4, 30.0)
        one.send(signal.SIGTERM)
        assert set(await asyncio.gather(*running)) == {"told"}
        assert await one.ended() == 0


async def test_a_second_signal_tells_the_clients_and_ends_within_two_seconds(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with fleet(tmp_path, before(upstream)) as one:
        running = await streams(Traffic(one.data), 4, 30.0)
        one.send(signal.SIGINT)
        await until(lambda: "stopping within" in one.errors)
        began = time.monotonic()
        one.send(signal.SIGTERM)
        assert set(await asyncio.gather(*running)) == {"told"}
        assert await one.ended() == 128 + signal.SIGTERM
        assert time.monotonic() - began < 6  # two seconds, on a machine that does nothing else


async def test_the_end_of_all_processes_at_once_is_one_signal(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    """As a terminal sends SIGINT, and systemd SIGTERM, to each process of the service."""
    async with fleet(tmp_path, before(upstream)) as one:
        running = await streams(Traffic(one.data), 4, 1.0)
        os.killpg(one.process.pid, signal.SIGTERM)
        assert set(await asyncio.gather(*running)) == {"whole"}
        assert await one.ended() == 0


async def test_a_killed_worker_is_replaced_and_nothing_is_lost_on_the_others(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with fleet(tmp_path, before(upstream)) as one:
        traffic = Traffic(one.data)
        async with traffic.flowing(rate=40):
            victim = min(one.workers)
            began = time.monotonic()
            one.send(signal.SIGKILL, victim)
            await until(lambda: len(one.workers - {victim}) == 2)
            assert time.monotonic() - began < 5
            running = await streams(traffic, 6, 1.0)
            assert set(await asyncio.gather(*running)) == {"whole"}
        assert set(traffic.failed) <= {"reset", "cut"}  # those of the killed one
        assert sum(traffic.failed.values()) <= 3
        one.send(signal.SIGTERM)
        assert await one.ended() == 0


async def test_a_worker_that_is_told_to_end_is_replaced_while_its_streams_go_on(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with fleet(tmp_path, before(upstream)) as one:
        traffic = Traffic(one.data)
        running = await streams(traffic, 6, 1.5)
        first = one.workers
        async with traffic.flowing(rate=40):
            for worker in first:
                one.send(signal.SIGTERM, worker)
            await until(lambda: not first & one.workers)
        assert set(await asyncio.gather(*running)) == {"whole"}
        assert traffic.failed == {}
        assert len(one.workers) == 2


async def test_one_scrape_is_what_the_clients_counted_also_after_a_kill(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with fleet(tmp_path, before(upstream)) as one:
        traffic = Traffic(one.data)
        for _ in range(40):
            await traffic.quick(keep=False)
        assert traffic.failed == {}
        assert await counted(one, 40) == 40
        await kept_figures(one)
        victim = min(one.workers)
        one.send(signal.SIGKILL, victim)
        await until(lambda: len(one.workers - {victim}) == 2)
        for _ in range(20):
            await traffic.quick(keep=False)
        assert traffic.failed == {}
        assert await counted(one, 60) == 60
        assert await one.total("glm_proxy_workers") == 2


CALLER = "Authorization: Bearer caller.secret"


async def test_any_worker_tells_of_an_exchange_that_another_one_served(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with fleet(tmp_path, before(upstream)) as one:
        one.send(signal.SIGTTIN)
        await until(lambda: len(one.workers) == 3)
        ids = set()
        for _ in range(12):
            answer = await ask(one.data, "/v1/chat/completions", chat(model="for-0"), CALLER)
            ids.add(answer.headers["x-request-id"])
        callers = set()
        for request_id in ids:
            for _ in range(3):
                status, text = await one.get(f"/admin/exchanges/{request_id}")
                assert status == 200, text
                told = orjson.loads(text)
                assert told["request_id"] == request_id
                callers.add(told["key"])
        assert len({one[:16] for one in ids}) > 1  # several workers served
        assert len(callers) == 1  # and call the same key by the same name
        assert (await one.get("/admin/exchanges/nobody"))[0] == 404
        one.send(signal.SIGTTOU)
        await until(lambda: len(one.workers) == 2)


async def counted(one: Fleet, expected: float) -> float:
    """Exchanges that one scrape tells of; they are counted as soon as they are over."""
    for _ in range(100):
        if await one.total("glm_proxy_exchanges_total") == expected:
            break
        await asyncio.sleep(0.05)
    return await one.total("glm_proxy_exchanges_total")


async def kept_figures(one: Fleet) -> None:
    """By now each worker has left what it counted: a scrape asks all of them."""
    assert await one.total("glm_proxy_workers_silent") == 0


async def test_workers_end_without_their_master_and_finish_what_runs(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with fleet(tmp_path, before(upstream)) as one:
        workers = one.workers
        running = await streams(Traffic(one.data), 4, 1.0)
        one.send(signal.SIGKILL)
        assert set(await asyncio.gather(*running)) == {"whole"}
        await until(lambda: not any(map(lives, workers)))


async def test_workers_that_cannot_start_end_the_master_with_one_line(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    settings = before(upstream, metrics={"folder": str(shared)})
    async with fleet(tmp_path, settings, listens=False) as one:
        assert await one.ended() == 1
        assert "can be written to by other users" in one.errors
        assert len([line for line in one.errors.splitlines() if "glm-proxy:" in line]) == 1


# --- successors --------------------------------------------------------------------------------


async def upgraded(
    folder: Path, upstream: ScriptedUpstream, *, times: int, rate: float, count: int, seconds: float
) -> None:
    """Restart after restart, with streams that live through several of them."""
    settings = before(upstream, server={"drain_timeout": "120s"})
    async with fleet(folder, settings, environ={"TMPDIR": str(folder)}) as one:
        traffic = Traffic(one.data)
        running = await streams(traffic, count, seconds)
        ended = 0
        async with traffic.flowing(rate):
            for _ in range(times):
                await one.upgrade()
                finished = [task for task in running if task.done()]
                running = [task for task in running if not task.done()]
                ended += len(finished)
                running += await streams(traffic, len(finished), seconds)
        await asyncio.gather(*running)
        assert traffic.failed == {}
        whole = traffic.outcomes["whole"]
        assert whole >= count + ended
        assert await counted(one, whole) == whole
        assert await one.ended() == 0  # the first of the masters
        assert list(folder.glob("glm-proxy-*")) != []
        one.send(signal.SIGTERM)
        await until(lambda: not lives(one.master))
        assert list(folder.glob("glm-proxy-*")) == []


async def test_a_restart_loses_nothing(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    await upgraded(tmp_path, upstream, times=2, rate=30, count=6, seconds=2.0)


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_twenty_restarts_under_load_lose_nothing(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    await upgraded(tmp_path, upstream, times=20, rate=50, count=50, seconds=30.0)


async def test_a_successor_that_cannot_start_changes_nothing(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with fleet(tmp_path, before(upstream)) as one:
        workers, traffic = one.workers, Traffic(one.data)
        one.path.write_text("endpoints: []\nserver: {port: none}")
        one.send(signal.SIGUSR2)
        await until(lambda: "the successor ended before it was ready (exit code 2)" in one.errors)
        assert "the list is empty" in one.errors
        key = tmp_path / "key"
        key.write_text("a.secret")
        key.chmod(0o600)
        endpoint = {"name": "up", "base_url": upstream.url, "api_key": f"file:{key}"}
        one.write(endpoints=[endpoint], access="keys", state="sqlite:/proc/none/state.db")
        one.send(signal.SIGUSR2)
        await until(lambda: "the successor ended before it was ready (exit code 1)" in one.errors)
        assert await one.total("glm_proxy_workers") == 2
        assert await traffic.quick(keep=False) == "whole"
        assert one.workers == workers
        one.send(signal.SIGTERM)
        assert await one.ended() == 0


# --- minutes -----------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_a_worker_killed_every_five_seconds_costs_the_others_nothing(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with fleet(tmp_path, before(upstream)) as one:
        traffic = Traffic(one.data)
        async with traffic.flowing(rate=50):
            for _ in range(24):
                running = []
                for _ in range(20):  # whoever comes in one burst may be taken by one worker
                    running += await streams(traffic, 1, 4.0)
                victim = min(one.workers)
                already = sum(traffic.failed.values())
                lost = clients_of(victim, one.data[1]) + 3  # three that came this very moment
                one.send(signal.SIGKILL, victim)
                await until(lambda victim=victim: len(one.workers - {victim}) == 2)  # type: ignore[misc]
                outcomes = await asyncio.gather(*running)
                assert sum(traffic.failed.values()) - already <= lost
                assert "whole" in outcomes
        assert set(traffic.failed) <= {"reset", "cut"}


def clients_of(worker: int, port: int) -> int:
    """Connections to the data listener that a worker has."""
    links = (os.readlink(one) for one in Path(f"/proc/{worker}/fd").iterdir())
    own = {link.removeprefix("socket:[")[:-1] for link in links if link.startswith("socket:")}
    found = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(line[1].endswith(f":{port:04X}") and line[9] in own for line in found)


@pytest.mark.long
async def test_a_worker_that_is_stopped_is_replaced_within_ten_seconds(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with fleet(tmp_path, before(upstream)) as one:
        victim = min(one.workers)
        began = time.monotonic()
        one.send(signal.SIGSTOP, victim)
        await until(lambda: victim not in one.workers and len(one.workers) == 2)
        assert time.monotonic() - began < 10
        assert "has hung" in one.errors
