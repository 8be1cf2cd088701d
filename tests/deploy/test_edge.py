"""deploy/edge as it ships: a caller's proxy, HAProxy speaking h2c, the region's proxy, GLM."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from proxy.app import App
from tests.bench.processes import free_port
from tests.deploy.fronts import listens
from tests.fakes.raw_client import RawClient, ask, chat
from tests.fakes.running import in_front_of, outcomes, running, samples
from tests.fakes.upstream import Call, ScriptedUpstream

NeedsProgram = Callable[[str], str]
FOLDER = Path(__file__).parents[2] / "deploy" / "edge"
CHAT = "/v1/chat/completions"
DONE = b"data: [DONE]\n\n"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def token(number: int) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"%d "}}]}\n\n' % number


async def at_once(call: Call) -> None:
    call.head()
    call.send(token(0) + DONE)
    call.finish()


@dataclass(frozen=True)
class Row:
    """The proxies of a row, and what stands behind them."""

    edge: App
    region: App
    glm: ScriptedUpstream


@asynccontextmanager
async def a_row(
    folder: Path, program: str, script: Callable[[Call], Any], **at_the_edge: Any
) -> AsyncIterator[Row]:
    for name in ("edge", "region"):
        (folder / name).mkdir()
    async with (
        ScriptedUpstream(script) as glm,
        running(folder / "region", in_front_of(glm, folder / "region")) as region,
        _haproxy(folder, program, region) as port,
        running(folder / "edge", _edge(port) | at_the_edge) as edge,
    ):
        yield Row(edge, region, glm)


def _edge(port: int) -> dict[str, Any]:
    """The edge's settings, with the region's entrance and its own ports where the test has them."""
    settings: dict[str, Any] = yaml.safe_load((FOLDER / "edge.yaml").read_text("utf-8"))
    del settings["server"]
    (endpoint,) = settings["endpoints"]
    assert endpoint["base_url"] == "http://10.0.0.10:8443"
    endpoint["base_url"] = f"http://127.0.0.1:{port}"
    return settings


@asynccontextmanager
async def _haproxy(folder: Path, program: str, region: App) -> AsyncIterator[int]:
    port = free_port()
    text = (FOLDER / "haproxy.cfg").read_text("utf-8")
    data, admin = region.data_address[1], region.admin_address[1]
    for before, after in {
        "bind 10.0.0.10:8443 proto h2": f"bind 127.0.0.1:{port} proto h2",
        "one 127.0.0.1:8080 check port 9090": f"one 127.0.0.1:{data} check port {admin}",
        "two 127.0.0.1:8081 check port 9091": f"two 127.0.0.1:{free_port()} check",
    }.items():
        assert before in text
        text = text.replace(before, after)
    path = folder / "haproxy.cfg"
    path.write_text(text, "utf-8")
    log = folder / "haproxy.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(program, "-db", "-q", "-f", str(path)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=errors,
            env={"PATH": os.environ.get("PATH", "")},
        )
    try:
        await listens(port, process, log)
        yield port
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_each_hop_tells_its_times_and_its_choice(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    async with a_row(tmp_path, needs_program("haproxy"), at_once) as row:
        given = ("x-request-id: one-id", f"traceparent: 00-{TRACE}-b7ad6b7169203331-01")
        answer = await ask(row.edge.data_address, CHAT, chat(), *given)
        assert (answer.status, answer.clean) == (200, True)
        said = answer.headers
        assert (said["x-glm-proxy-endpoint"], said["x-glm-proxy-upstream-endpoint"]) == (
            "region",
            "up",
        )
        assert said["x-glm-proxy-upstream-attempts"] == "1"
        here, there = _times(said["server-timing"]), _times(said["x-glm-proxy-upstream-timing"])
        assert {"sent", "headers", "first_token", "overhead"} <= here.keys() & there.keys()
        # Nested: the region's time to its own commit lies within the edge's wait for its head.
        assert there["committed"] <= here["headers"] - here["sent"] + 1.0
        (call,) = row.glm.calls
        assert said["x-request-id"] == call.headers["x-request-id"] == "one-id"
        assert call.headers["traceparent"].split("-")[1] == TRACE
        assert await outcomes(row.edge) == await outcomes(row.region) == {"completed": 1}


async def test_the_way_to_the_region_is_http2_without_tls_and_is_kept(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    async with a_row(tmp_path, needs_program("haproxy"), at_once) as row:
        for _ in range(5):
            assert (await ask(row.edge.data_address, CHAT, chat())).clean
        opened = await samples(row.edge, "glm_proxy_connects_total")
        found = {(labels["protocol"], labels["result"]): value for labels, value in opened if value}
        assert found == {("h2", "connected"): 2}  # the warm ones


async def test_each_event_passes_the_row_before_the_next_is_sent(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    calls: asyncio.Queue[Call] = asyncio.Queue()
    async with (
        a_row(tmp_path, needs_program("haproxy"), calls.put) as row,
        RawClient(row.edge.data_address) as client,
    ):
        client.post(CHAT, chat())
        async with asyncio.timeout(20):
            call = await calls.get()
            call.head()
            call.send(token(0))
            await client.head()
            assert await client.chunk() == token(0)
            for number in range(1, 20):
                call.send(token(number))
                assert await client.chunk() == token(number)
            call.send(DONE)
            call.finish()
            assert await client.chunk() == DONE


async def test_a_cut_behind_the_region_is_one_error_for_the_caller(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    async def cut(call: Call) -> None:
        call.head()
        call.send(token(0))
        call.finish("rst")

    async with a_row(tmp_path, needs_program("haproxy"), cut) as row:
        answer = await ask(row.edge.data_address, CHAT, chat())
        assert answer.clean is False
        assert answer.body.count(b'"error"') == 1
        assert len(row.glm.calls) == 1  # nobody generated it twice


async def test_a_caller_that_leaves_the_edge_ends_the_work_behind_the_region(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    calls: asyncio.Queue[Call] = asyncio.Queue()
    async with a_row(tmp_path, needs_program("haproxy"), calls.put) as row:
        async with RawClient(row.edge.data_address) as client, asyncio.timeout(20):
            client.post(CHAT, chat())
            call = await calls.get()
            call.head()
            call.send(token(0))
            await client.head()
        await asyncio.wait_for(call.gone.wait(), 10)


async def test_an_edge_without_its_region_says_so(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    async with a_row(
        tmp_path, needs_program("haproxy"), at_once, timeouts={"connect": "1s"}
    ) as row:
        await row.region.stop(0)
        async with asyncio.timeout(20):
            while (answer := await ask(row.edge.data_address, CHAT, chat())).status == 200:
                pass
        assert answer.status in (502, 503, 504)


def _times(header: str) -> dict[str, float]:
    pairs = (entry.split(";dur=") for entry in header.split(", "))
    return {name: float(value) for name, value in pairs}
