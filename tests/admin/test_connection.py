"""The operator's listener under those who connect and say nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.admin import connection
from proxy.app import App
from tests.fakes.operator import get
from tests.fakes.running import in_front_of, running
from tests.fakes.upstream import Call, ScriptedUpstream

HALF = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nX-A: "


async def _nothing(call: Call) -> None:
    call.finish()


@asynccontextmanager
async def _half_asked(app: App, count: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """So many connections, in order, each with a request that is not whole."""
    opened = []
    try:
        for _ in range(count):
            opened.append(await asyncio.open_connection(*app.admin_address))
            opened[-1][1].write(HALF)
        yield [reader for reader, _ in opened]
    finally:
        for _, writer in opened:
            writer.close()


async def _ready(app: App) -> int:
    host, port = app.admin_address
    return (await get(f"http://{host}:{port}/readyz")).status


async def test_a_request_that_is_half_sent_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE", 0.3)
    async with (
        ScriptedUpstream(_nothing) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
        _half_asked(app, 3) as readers,
        asyncio.timeout(10),
    ):
        assert [await reader.read() for reader in readers] == [b"", b"", b""]
        assert await _ready(app) == 200


async def test_who_only_connects_keeps_no_probe_out_and_takes_few_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "MOST", 4)
    async with (
        ScriptedUpstream(_nothing) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
        _half_asked(app, 20) as readers,
        asyncio.timeout(10),
    ):
        assert await _ready(app) == 200
        assert [await reader.read() for reader in readers[:16]] == [b""] * 16
