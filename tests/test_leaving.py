"""A client that leaves, in every phase, through the real start-up: the upstream is told at once."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from pathlib import Path

import pytest

from tests.fakes.raw_client import RawClient, chat
from tests.fakes.running import in_front_of, running
from tests.fakes.serving import Served, serving
from tests.fakes.until import until
from tests.fakes.upstream import Call, H2Call, ScriptedUpstream

PHASES = ("sent", "silent", "flowing", "stalled")
EVENT = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
AT_ONCE = 20


async def script(call: Call) -> None:
    phase = call.headers["x-title"]
    if phase == "sent":
        return
    if phase != "silent":
        call.head()
        call.send(EVENT)
    while phase == "flowing" and not call.gone.is_set():
        call.send(EVENT)
        await asyncio.sleep(0.01)


async def leave(served: Served, upstream: ScriptedUpstream, phase: str, number: int) -> float:
    """Seconds from the client's leaving to the upstream's hearing of it."""
    async with RawClient(served.data_address) as client:
        client.post("/v1/chat/completions", chat(), f"X-Title: {phase}", f"X-App: {number}")
        call = await upstream.called(lambda call: call.headers.get("x-app") == str(number))
        if phase in ("flowing", "stalled"):
            await client.head()
        left = time.monotonic()
    await asyncio.wait_for(call.gone.wait(), 5)
    assert not isinstance(call, H2Call) or call.reset_code == 8
    return time.monotonic() - left


async def all_leave(folder: Path, *, h2: bool, times: int) -> list[float]:
    async with (
        ScriptedUpstream(script, h2=h2) as upstream,
        serving(folder, in_front_of(upstream, folder)) as served,
    ):
        await leave(served, upstream, "silent", -1)
        before = served.open_files()
        took: list[float] = []
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with limit:
                took.append(await leave(served, upstream, PHASES[number % 4], number))

        async with asyncio.TaskGroup() as group:
            for number in range(times):
                group.create_task(one(number))
        assert await served.gauge("glm_proxy_exchanges_in_flight") == 0
        assert await served.gauge("glm_proxy_pool_streams") == 0
        assert await served.gauge("glm_proxy_client_leaves_total") == times + 1
        # A warm connection may have been opened or replaced meanwhile.
        assert served.open_files() <= before + 4
        return sorted(took)


@pytest.mark.parametrize("h2", [False, True], ids=["http1", "h2"])
async def test_the_upstream_hears_at_once_that_a_client_left_in_any_phase(
    tmp_path: Path, h2: bool
) -> None:
    await all_leave(tmp_path, h2=h2, times=60)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_of_500_leaves_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    took = await all_leave(tmp_path, h2=True, times=500)
    with capsys.disabled():
        p99 = took[int(len(took) * 0.99)] * 1000
        print(f"\n500 leaves: upstream told after p99 {p99:.1f} ms, max {took[-1] * 1000:.1f} ms")


async def test_a_client_that_leaves_while_connecting_leaves_nothing(tmp_path: Path) -> None:
    """The endpoint accepts and never answers the TLS handshake."""

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        await writer.wait_closed()

    silent = await asyncio.start_server(hold, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    settings = {"endpoints": [{"name": "up", "base_url": f"https://127.0.0.1:{port}"}]}
    async with silent, serving(tmp_path, settings) as served:
        for _ in range(20):
            async with RawClient(served.data_address) as client:
                client.post("/v1/chat/completions", chat())
                await client.writer.drain()
                while await served.gauge("glm_proxy_exchanges_in_flight") == 0:
                    await asyncio.sleep(0)
            while await served.gauge("glm_proxy_exchanges_in_flight"):
                await asyncio.sleep(0)
        assert await served.gauge("glm_proxy_client_leaves_total") == 20
        assert await served.gauge("glm_proxy_pool_waiting") == 0


@pytest.mark.parametrize("h2", [True, False])
async def test_the_body_of_a_client_that_left_waits_for_no_collection(
    tmp_path: Path, h2: bool
) -> None:
    async with (
        ScriptedUpstream(script, h2=h2) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
    ):
        gc.collect()
        gc.disable()
        try:
            async with RawClient(app.data_address) as client:
                client.post("/v1/chat/completions", chat(), "X-Title: sent")
                await upstream.called(lambda call: call.headers.get("x-title") == "sent")
                (exchange,) = app._running
                pursuit = exchange._facts.pursuit
                assert pursuit is not None
                held = weakref.ref(exchange), weakref.ref(pursuit)
                del exchange, pursuit
            await until(lambda: held[0]() is None and held[1]() is None)
        finally:
            gc.enable()
