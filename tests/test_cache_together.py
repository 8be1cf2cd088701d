"""A question that several ask at the same time is asked once, and none hangs on another's luck."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.app import App
from tests.fakes.caching import CHAT, Oracle, caching, chunks, completion, number_of, results
from tests.fakes.raw_client import Answer, RawClient, ask, chat
from tests.fakes.running import outcomes, total
from tests.fakes.until import until
from tests.fakes.upstream import Call, ScriptedUpstream

ONCE: dict[str, Any] = {"attempts": {"retries": 0}, "admission": {"limit": "off"}}


@asynccontextmanager
async def scene(
    folder: Path, script: Any, **more: Any
) -> AsyncIterator[tuple[ScriptedUpstream, App, AsyncExitStack]]:
    """No task and no question is left at the end."""
    before = asyncio.all_tasks()
    async with (
        caching(folder, script, settings=ONCE, **more) as (upstream, app),
        AsyncExitStack() as stack,
    ):
        yield upstream, app, stack
        await until_serving(app, 0)
        assert not app.house.fetches
        assert not app.house.flights
    async with asyncio.timeout(10):
        while not asyncio.all_tasks() <= before:
            await asyncio.sleep(0.005)


async def until_serving(app: App, count: int) -> None:
    async with asyncio.timeout(20):
        while await total(app, "glm_proxy_exchanges_in_flight") != count:
            await asyncio.sleep(0.005)


async def asking(
    app: App, stack: AsyncExitStack, count: int, *, stream: bool, before: int = 0
) -> list[RawClient]:
    """Clients with the same question, all of them being served."""
    clients = []
    for _ in range(count):
        client = await stack.enter_async_context(RawClient(app.data_address))
        client.post(CHAT, chat(stream=stream))
        clients.append(client)
    await until_serving(app, before + count)
    return clients


async def answers(clients: list[RawClient]) -> list[Answer]:
    async with asyncio.timeout(20):
        return await asyncio.gather(*(client.whole() for client in clients))


@pytest.mark.parametrize("stream", [True, False])
async def test_fifty_at_once_are_one_upstream_call(tmp_path: Path, stream: bool) -> None:
    oracle = Oracle()
    oracle.turn = asyncio.Semaphore(0)
    async with scene(tmp_path, oracle) as (upstream, app, stack):
        clients = await asking(app, stack, 50, stream=stream)
        for _ in range(50):
            oracle.turn.release()
        got = await answers(clients)
        assert len(upstream.calls) == 1
        for answer in got:
            assert answer.status == 200
            assert answer.clean
            if stream:
                assert answer.chunks == chunks(1)
            else:
                assert answer.json() == completion(1)
        # A stream is read while it comes, a whole answer when it is there.
        expected = {"miss": 50} if stream else {"hit": 49, "miss": 1}
        assert await results(app) == expected
        assert await outcomes(app) == {"completed": 50}
        assert await outcomes(app, "glm_proxy_attempts_total") == {"completed": 1}


async def test_who_wants_it_whole_waits_for_a_stream_that_comes(tmp_path: Path) -> None:
    oracle = Oracle()
    oracle.turn = asyncio.Semaphore(0)
    async with scene(tmp_path, oracle) as (upstream, app, stack):
        first = await asking(app, stack, 1, stream=True)
        rest = await asking(app, stack, 5, stream=False, before=1)
        oracle.turn.release()
        got = await answers([*first, *rest])
        assert {number_of(answer) for answer in got} == {1}
        assert len(upstream.calls) == 1
        assert await results(app) == {"hit": 5, "miss": 1}


async def test_a_stream_does_not_wait_for_the_end_of_a_whole_answer(tmp_path: Path) -> None:
    oracle = Oracle()
    oracle.turn = asyncio.Semaphore(0)
    async with scene(tmp_path, oracle) as (upstream, app, stack):
        first = await asking(app, stack, 1, stream=False)
        second = await asking(app, stack, 1, stream=True, before=1)
        for _ in range(2):
            await upstream.arrived.acquire()
        for _ in range(2):
            oracle.turn.release()
        got = await answers([*first, *second])
        assert {number_of(answer) for answer in got} == {1, 2}
        assert await results(app) == {"miss": 2}


async def test_nobody_waits_for_an_answer_whose_client_does_not_read_it(tmp_path: Path) -> None:
    delta = {"index": 0, "delta": {"content": "long " * 400_000}}
    big = b"data: " + orjson.dumps({"id": "chat-1", "choices": [delta]}) + b"\n\n"

    async def script(call: Call) -> None:
        if len(upstream.calls) > 1:
            await Oracle()(call)
            return
        call.head()
        call.send(b"".join([big, big, *chunks(1)[1:]]))
        call.finish()

    async with scene(tmp_path, script, max_answer="8MiB") as (upstream, app, stack):
        stuck = socket.socket()
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.setblocking(False)
        await asyncio.get_running_loop().sock_connect(stuck, app.data_address)
        _, writer = await asyncio.open_connection(sock=stuck, limit=1)  # it reads next to nothing
        client = RawClient(app.data_address)
        client.writer = writer
        client.post(CHAT, chat())
        await until(lambda: app.house.fetches)
        (fetch,) = app.house.fetches.values()
        await until(lambda: fetch.is_held_up)
        rest = await asking(app, stack, 5, stream=False, before=1)
        got = await answers(rest)
        assert [answer.status for answer in got] == [200] * 5
        assert len(upstream.calls) == 2  # one for the five
        writer.transport.abort()


@pytest.mark.parametrize("stream", [True, False])
async def test_the_first_client_may_leave(tmp_path: Path, stream: bool) -> None:
    oracle = Oracle()
    oracle.turn = asyncio.Semaphore(0)
    async with scene(tmp_path, oracle) as (upstream, app, stack):
        first = await asking(app, stack, 1, stream=stream)
        await upstream.arrived.acquire()
        rest = await asking(app, stack, 10, stream=stream, before=1)
        first[0].writer.transport.abort()
        await until_serving(app, 10)
        for _ in range(10):
            oracle.turn.release()
        got = await answers(rest)
        # A stream goes on for the others; a whole answer is asked for again, once.
        assert len(upstream.calls) == (1 if stream else 2)
        assert {number_of(answer) for answer in got} == {len(upstream.calls)}
        assert all(answer.clean for answer in got)
        again = await ask(app.data_address, CHAT, chat(stream=stream))
        assert again.headers["x-glm-proxy-cache"] == "hit"


async def test_all_clients_may_leave(tmp_path: Path) -> None:
    oracle = Oracle()
    oracle.turn = asyncio.Semaphore(0)
    async with scene(tmp_path, oracle) as (upstream, app, stack):
        clients = [
            *await asking(app, stack, 5, stream=True),
            *await asking(app, stack, 5, stream=False, before=5),
        ]
        for client in reversed(clients):
            client.writer.transport.abort()
        await until_serving(app, 0)
        assert not app.house.fetches
        await asyncio.wait_for(upstream.calls[0].gone.wait(), 10)
        assert await results(app) == {"miss": 10}


async def test_where_the_first_fails_each_of_the_others_asks_by_itself(tmp_path: Path) -> None:
    oracle = Oracle()
    go = asyncio.Event()
    calls: list[Call] = []

    async def script(call: Call) -> None:
        calls.append(call)
        if len(calls) == 1:
            await go.wait()
            call.finish("rst")
        else:
            await oracle(call)

    async with scene(tmp_path, script) as (upstream, app, stack):
        first = await asking(app, stack, 1, stream=False)
        await upstream.arrived.acquire()
        rest = await asking(app, stack, 4, stream=False, before=1)
        go.set()
        assert (await answers(first))[0].status == 502
        got = await answers(rest)
        assert [answer.status for answer in got] == [200] * 4
        assert len(upstream.calls) == 5
        assert {number_of(answer) for answer in got} == {1, 2, 3, 4}


async def test_an_answer_that_cannot_be_kept_is_told_to_nobody_else(tmp_path: Path) -> None:
    oracle = Oracle("length")
    oracle.turn = asyncio.Semaphore(0)
    async with scene(tmp_path, oracle) as (_, app, stack):
        clients = await asking(app, stack, 3, stream=False)
        for _ in range(3):
            oracle.turn.release()
        assert {number_of(answer) for answer in await answers(clients)} == {1, 2, 3}


async def test_what_waits_is_told_when_the_proxy_stops(tmp_path: Path) -> None:
    oracle = Oracle()
    oracle.turn = asyncio.Semaphore(0)
    async with caching(tmp_path, oracle) as (upstream, app), AsyncExitStack() as stack:
        clients = await asking(app, stack, 3, stream=False)
        await upstream.arrived.acquire()
        (fetch,) = app.house.fetches.values()
        await until(lambda: fetch.answered.waiting == 2)
        stopping = asyncio.create_task(app.stop(0))
        got = await answers(clients)
        assert {answer.status for answer in got} == {503}
        assert {answer.json()["error"]["code"] for answer in got} == {"proxy_draining"}
        await stopping
        assert not app.house.fetches


async def test_a_client_with_a_deadline_of_its_own_waits_for_nobody(tmp_path: Path) -> None:
    oracle = Oracle()
    oracle.turn = asyncio.Semaphore(0)
    async with scene(tmp_path, oracle) as (upstream, app, stack):
        first = await asking(app, stack, 1, stream=False)
        hasty = await stack.enter_async_context(RawClient(app.data_address))
        hasty.post(CHAT, chat(stream=False), "x-glm-proxy-timeout-total: 20s")
        for _ in range(2):
            await upstream.arrived.acquire()
        for _ in range(2):
            oracle.turn.release()
        got = await answers([*first, hasty])
        assert {number_of(answer) for answer in got} == {1, 2}
