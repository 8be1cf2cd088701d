"""Kept streams and several workers: whichever a client comes back to, its stream goes on."""

from __future__ import annotations

import asyncio
import signal
import stat
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.fleet import Fleet, fleet
from tests.fakes.leaving import (
    CALLER,
    CHAT,
    KEEP,
    MESSAGES,
    OTHER,
    Comer,
    asked,
    at_leisure,
    openai_answer,
)
from tests.fakes.raw_client import Answer, RawClient
from tests.fakes.running import in_front_of, running
from tests.fakes.until import until
from tests.fakes.upstream import Call, ScriptedUpstream

ADDRESS = "127.0.0.1"


async def script(call: Call) -> None:
    """As at leisure; with the title `cut` it breaks off after three events."""
    if call.headers["x-title"] != "cut":
        await at_leisure(call)
        return
    call.head()
    call.send(b"".join(openai_answer("cut")[:3]))
    await asyncio.sleep(0.2)
    call.finish("close")


@asynccontextmanager
async def workers(folder: Path, **settings: Any) -> AsyncIterator[tuple[Fleet, Path]]:
    """Two of them, and the folder below which they find each other."""
    with tempfile.TemporaryDirectory() as parent:
        async with (
            ScriptedUpstream(script) as upstream,
            fleet(
                folder,
                in_front_of(upstream, folder, **{**KEEP, **settings}),
                environ={"RUNTIME_DIRECTORY": parent},
            ) as one,
        ):
            yield one, Path(parent)


async def elsewhere(
    one: Fleet, name: str, owner: str, *headers: str, source: str = ADDRESS
) -> Answer:
    """What a worker says that has not the id `owner`: connections go to either."""
    while True:
        client = RawClient(one.data)
        client.reader, client.writer = await asyncio.open_connection(
            *one.data, local_addr=(source, 0)
        )
        lines = [f"GET /v1/streams/{name} HTTP/1.1", "Host: proxy", *headers, "", ""]
        client.writer.write("\r\n".join(lines).encode(errors="surrogateescape"))
        async with asyncio.timeout(20):
            answer = await client.whole()
        client.writer.close()
        if answer.headers["x-request-id"][:16] != owner:
            return answer


async def left(one: Fleet, *headers: str, seed: str = "s") -> tuple[str, str]:
    """A stream whose client left: its id, and that of its worker."""
    async with asked(one.data, CHAT, f"X-Title: {seed}", *headers) as (client, head):
        await client.chunk()
    return head.headers["x-glm-proxy-stream"], head.headers["x-request-id"][:16]


async def test_whichever_worker_a_client_comes_back_to_it_has_the_whole(tmp_path: Path) -> None:
    async with workers(tmp_path) as (one, _):
        comers = [Comer((CHAT, MESSAGES)[number % 2], str(number)) for number in range(24)]
        answers = await asyncio.gather(*(comer.read([one.data]) for comer in comers))
        assert answers == [comer.whole for comer in comers]
        assert await one.total("glm_proxy_kept_streams") == 24
        visits = sum(comer.visits for comer in comers)
        assert await one.total("glm_proxy_streams_resumed_total", result="resumed") == visits - 24
        assert await one.total("glm_proxy_attempts_total") == 24
        one.send(signal.SIGTERM)
        assert await one.ended() == 0


async def test_another_worker_tells_what_the_one_that_keeps_it_would(tmp_path: Path) -> None:
    once = {"attempts": {"retries": 0}}
    async with workers(tmp_path, **once) as (one, parent):
        name, owner = await left(one, CALLER)
        whole = openai_answer("s")
        assert (await elsewhere(one, name, owner, CALLER)).chunks == whole  # it has come to its end
        answer = await elsewhere(one, name, owner, CALLER, "Last-Event-ID: 7")
        assert answer.chunks == whole[7:]  # an event is a chunk here as well
        assert answer.clean
        assert answer.headers["x-glm-proxy-stream"] == name
        numbered = await elsewhere(one, name, owner, CALLER, "X-GLM-Proxy-Event-Ids: on")
        assert numbered.chunks[-1].endswith(b"id: %d\n\n" % len(whole))
        for status, headers in (
            (404, [OTHER]),
            (404, []),
            (400, [CALLER, "Last-Event-ID: 99"]),
            (400, [CALLER, "Last-Event-ID: x"]),
            (400, [f"{CALLER}\udcff"]),  # not without that byte
        ):
            refused = await elsewhere(one, name, owner, *headers)
            assert refused.status == status
        forged = await elsewhere(one, "f" * 16 + name[16:], owner, CALLER)
        assert forged.status == 404
        cut, owner = await left(one, CALLER, seed="cut")
        broken = await elsewhere(one, cut, owner, CALLER, "Last-Event-ID: 1")
        assert broken.chunks[:2] == openai_answer("cut")[1:3]
        assert b"error" in broken.chunks[2]
        assert not broken.clean
        await the_address_counts_where_there_is_no_key(one)
        await the_socket_is_for_nobody_else(parent)


async def the_address_counts_where_there_is_no_key(one: Fleet) -> None:
    """Which the worker that is asked by another one is told, and by nobody else."""
    name, owner = await left(one)
    assert (await elsewhere(one, name, owner)).chunks == openai_answer("s")
    for headers in ([], ["X-GLM-Proxy-Peer: 127.0.0.1"]):
        foreign = await elsewhere(one, name, owner, *headers, source="127.0.0.2")
        assert foreign.status == 404


async def the_socket_is_for_nobody_else(parent: Path) -> None:
    sockets = list(parent.glob("*/*.http"))
    assert len(sockets) == 2
    assert {stat.S_IMODE(one.stat().st_mode) for one in sockets} == {0o600}
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(sockets[0]))) as session:
        for method, path in (("POST", CHAT), ("GET", "/v1/models"), ("GET", "/v1/files")):
            async with session.request(method, f"http://worker{path}") as answer:
                assert answer.status == 404


async def test_what_a_killed_worker_kept_is_gone(tmp_path: Path) -> None:
    async with workers(tmp_path) as (one, parent):
        name, _ = await left(one, CALLER)
        first = one.workers
        for worker in first:
            one.send(signal.SIGKILL, worker)
        await until(lambda: len(one.workers - first) == 2)
        answer = await elsewhere(one, name, "", CALLER)
        assert answer.status == 404
        await until(lambda: len(list(parent.glob("*/*.http"))) == 2)


@pytest.mark.long
async def test_what_runs_in_a_worker_that_is_replaced_is_fetched_through_the_new_ones(
    tmp_path: Path,
) -> None:
    go, events = asyncio.Event(), openai_answer("s")

    async def held(call: Call) -> None:
        call.head()
        call.send(events[0])
        await go.wait()
        call.send(b"".join(events[1:]))
        call.finish()

    with tempfile.TemporaryDirectory() as parent:
        async with (
            ScriptedUpstream(held) as upstream,
            fleet(
                tmp_path,
                in_front_of(upstream, tmp_path, **KEEP),
                environ={"RUNTIME_DIRECTORY": parent},
            ) as one,
        ):
            name, owner = await left(one, CALLER)
            await one.upgrade()
            late = asyncio.create_task(elsewhere(one, name, owner, CALLER, "Last-Event-ID: 1"))
            resumed = "glm_proxy_exchanges_in_flight"
            async with asyncio.timeout(20):
                while await one.total(resumed) < 2:
                    await asyncio.sleep(0.05)
            go.set()
            answer = await late
            assert answer.chunks == events[1:]
            assert answer.clean


async def test_without_kept_streams_no_socket_is_opened(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        metrics = {"metrics": {"folder": folder}}
        async with ScriptedUpstream(script) as upstream:
            for routes in ({}, KEEP):
                settings = in_front_of(upstream, tmp_path, **metrics, **routes)
                async with running(tmp_path, settings):
                    assert list(Path(folder).glob("*.sock"))
                    assert bool(list(Path(folder).glob("*.http"))) is bool(routes)
                assert not list(Path(folder).glob("*.http"))
