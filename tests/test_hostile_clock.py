"""The wall clock jumps by hours: nothing that is timed notices."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fakes.raw_client import RawClient, ask, chat
from tests.fakes.running import in_front_of
from tests.fakes.serving import serving
from tests.fakes.upstream import Call, ScriptedUpstream

EVENT: Final = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
DONE: Final = b"data: [DONE]\n\n"
JUMPS: Final = ("+3600", "-3600", "+86400", "-86400", "+0")
SETTINGS: Final[dict[str, Any]] = {
    "timeouts": {"idle": "1s", "first_token": "1s"},
    "attempts": {"retries": 0},
}
PLACES: Final = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


@pytest.mark.skipif(not PLACES, reason="libfaketime is not installed")
async def test_no_deadline_is_early_or_late(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        call.head()
        for _ in range(24):
            call.send(EVENT)
            await asyncio.sleep(0.05)
        if b"stall" in call.body:
            await call.gone.wait()
        call.send(DONE)
        call.finish()

    clock = tmp_path / "clock"
    clock.write_text("+0")
    environ = {
        "LD_PRELOAD": str(PLACES[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }

    async def jump() -> None:
        for offset in itertools.cycle(JUMPS):
            clock.write_text(offset)
            await asyncio.sleep(0.15)

    async with (
        ScriptedUpstream(script) as upstream,
        serving(tmp_path, in_front_of(upstream, tmp_path, **SETTINGS), environ=environ) as served,
        RawClient(served.data_address) as stalled,
    ):
        jumping = asyncio.create_task(jump())
        try:
            whole = [
                asyncio.create_task(ask(served.data_address, "/v1/chat/completions", chat()))
                for _ in range(5)
            ]
            stalled.post("/v1/chat/completions", chat("stall"))
            answer = await stalled.head()
            while (await stalled.chunk()) == EVENT:
                last = time.monotonic()
            silent = time.monotonic() - last
            answers = await asyncio.gather(*whole)
        finally:
            jumping.cancel()
        assert answer.status == 200
        assert 0.8 < silent < 10  # the event that tells why it ended
        for one in answers:
            assert (one.status, one.clean, one.chunks[-1]) == (200, True, DONE)
        refused = (await ask(served.data_address, "/v1/models", b"")).status
        assert refused == 405  # and it still answers
