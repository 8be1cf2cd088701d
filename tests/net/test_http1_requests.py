"""What reaches the upstream of requests that parsers read differently."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path
from typing import Final

import pytest

from tests.fakes.http1_cases import GROUPS, Case
from tests.fakes.recording import Recorder, recording
from tests.fakes.running import running

REFUSED: Final = (400, 413, 414, 417, 431, 501, 505)
SOON: Final = 2.0
STATUS: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) ")


async def said(address: tuple[str, int], case: Case) -> tuple[list[int], bool]:
    """The statuses that were answered, and whether the connection was closed behind them.

    It is read until it closes, or as much is answered as there may be.
    """
    reader, writer = await asyncio.open_connection(*address)
    received = b""
    closed = False
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SOON):
            try:
                writer.write(case.sent)
                while received.count(b" 200 OK") < case.most and not closed:
                    if "N" in case.wanted and b" 404 " in received:
                        break
                    data = await reader.read(65536)
                    received += data
                    closed = not data
            except ConnectionError:
                closed = True
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return [int(status) for status in STATUS.findall(received)], closed


async def wrong(address: tuple[str, int], case: Case, upstream: Recorder) -> str | None:
    """What is wrong with what becomes of `case`."""
    before = len(upstream.requests)
    statuses, closed = await said(address, case)
    served = len(upstream.requests) - before
    refused = closed and not served and all(status in REFUSED for status in statuses)
    if ("R" in case.wanted and refused) or str(served) in case.wanted:
        return None
    if "N" in case.wanted and not served and statuses == [404]:
        return None
    return f"{case.name}: {statuses}, served {served}, {'closed' if closed else 'open'}"


@pytest.mark.parametrize("group", GROUPS)
async def test_requests_that_can_be_read_in_two_ways_are_served_in_none(
    tmp_path: Path, group: str
) -> None:
    settings = {"server": {"port": 0, "drain_timeout": 0}}
    async with recording() as upstream:
        endpoints = [{"name": "up", "base_url": upstream.url}]
        async with running(tmp_path, {"endpoints": endpoints, **settings}) as app:
            found = [await wrong(app.data_address, case, upstream) for case in GROUPS[group]]
    assert [one for one in found if one is not None] == []
    assert upstream.broken == []
