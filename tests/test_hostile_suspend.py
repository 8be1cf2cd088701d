"""A proxy that is stopped for some seconds and goes on: nobody was silent meanwhile."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fakes.raw_client import Answer, RawClient, chat
from tests.fakes.running import in_front_of
from tests.fakes.serving import serving
from tests.fakes.upstream import Call, ScriptedUpstream

EVENT: Final = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
DONE: Final = b"data: [DONE]\n\n"
STOPPED: Final = 1.6
"""Seconds; longer than every patience below."""
SETTINGS: Final[dict[str, Any]] = {
    "timeouts": {"idle": "1s", "first_token": "1s", "total": "30s"},
    "stream": {"heartbeat": "500ms", "client_stall": "1s"},
    "pool": {"ping_interval": "500ms", "ping_timeout": "500ms", "idle_timeout": "1s"},
    "server": {
        **{"port": 0, "drain_timeout": "1s", "header_timeout": "1s", "keepalive_timeout": "1s"},
        "body_timeout": "1s",
    },
    "attempts": {"retries": 0},
}
STREAMS: Final = 6


@pytest.mark.parametrize("h2", [False, True], ids=["http1", "h2"])
async def test_streams_go_on_where_they_were(tmp_path: Path, h2: bool) -> None:
    over = asyncio.Event()

    async def script(call: Call) -> None:
        call.head()
        while not over.is_set():
            call.send(EVENT)
            await asyncio.sleep(0.05)
        call.send(DONE)
        call.finish()

    async def whole(client: RawClient) -> Answer:
        client.post("/v1/chat/completions", chat())
        return await client.whole()

    async with (
        ScriptedUpstream(script, h2=h2) as upstream,
        serving(tmp_path, in_front_of(upstream, tmp_path, **SETTINGS)) as served,
    ):
        clients = [RawClient(served.data_address) for _ in range(STREAMS)]
        for client in clients:
            await client.__aenter__()
        answers = [asyncio.create_task(whole(client)) for client in clients]
        async with asyncio.timeout(10):
            while len(upstream.calls) < STREAMS:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.7)  # a PING is under way, or was
        connections = len(upstream.transports)
        served.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(STOPPED)
        served.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(1.0)
        over.set()
        async with asyncio.timeout(10):
            found = await asyncio.gather(*answers)
        for answer in found:
            assert answer.status == 200
            assert answer.clean
            assert answer.chunks[-1] == DONE
        assert len(upstream.calls) == STREAMS  # none was asked for again
        assert len(upstream.transports) <= connections + 1
        for client in clients:
            await client.__aexit__()


async def test_a_request_that_came_while_it_was_stopped_is_served(tmp_path: Path) -> None:
    """Its head was in time, and so was its body: it lay there."""

    async def script(call: Call) -> None:
        call.head()
        call.send(EVENT + DONE)
        call.finish()

    async with (
        ScriptedUpstream(script) as upstream,
        serving(tmp_path, in_front_of(upstream, tmp_path, **SETTINGS)) as served,
        RawClient(served.data_address) as begun,
        RawClient(served.data_address) as kept,
        RawClient(served.data_address) as uploading,
    ):
        kept.post("/v1/chat/completions", chat())
        assert (await kept.whole()).status == 200
        body = chat(padding="x" * 1000)
        begun.writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n")
        uploading.writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body[:100])
        )
        await asyncio.sleep(0.2)
        served.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        begun.writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        uploading.writer.write(body[100:])
        kept.post("/v1/chat/completions", chat())
        await asyncio.sleep(STOPPED)
        served.process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(10):
            answers = await asyncio.gather(begun.whole(), uploading.whole(), kept.whole())
        assert [answer.status for answer in answers] == [200] * 3
        assert time.monotonic() - began < STOPPED + 3
