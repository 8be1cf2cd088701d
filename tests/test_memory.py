"""What a long answer does not hold on to."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.fakes.raw_client import RawClient, chat
from tests.fakes.running import in_front_of
from tests.fakes.serving import serving
from tests.fakes.upstream import Call, ScriptedUpstream

EVENT = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
STREAMS, PROMPT = 20, 4_000_000


def resident(pid: int) -> int:
    """Bytes of memory the process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@pytest.mark.parametrize("h2", [False, True], ids=["http1", "h2"])
async def test_a_prompt_is_let_go_when_its_answer_begins(tmp_path: Path, h2: bool) -> None:
    async def script(call: Call) -> None:
        call.body = b""
        call.head()
        call.send(EVENT)
        await call.gone.wait()

    async with (
        ScriptedUpstream(script, h2=h2) as upstream,
        serving(tmp_path, in_front_of(upstream, tmp_path)) as served,
        AsyncExitStack() as clients,
    ):
        body = chat(padding="x" * PROMPT)
        first = await clients.enter_async_context(RawClient(served.data_address))
        first.post("/v1/chat/completions", body)
        await first.head()
        before = resident(served.process.pid)
        for _ in range(STREAMS):
            client = await clients.enter_async_context(RawClient(served.data_address))
            client.post("/v1/chat/completions", body)
            assert (await asyncio.wait_for(client.head(), 20)).status == 200
        assert resident(served.process.pid) - before < STREAMS * PROMPT / 4
