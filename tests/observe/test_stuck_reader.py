"""A whole proxy whose access log nobody reads: it serves, counts what it drops, and stops."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from proxy.observe.access_log import AccessLog
from tests.fakes.running import running

SETTINGS = {
    "endpoints": [{"name": "up", "base_url": "http://127.0.0.1:9"}],
    "log": {"format": "json"},
}


@pytest.fixture
def _log_without_reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard output is a pipe, full before the first line is written."""
    reader, writing = os.pipe()
    os.set_blocking(writing, False)
    while _fits(writing):
        pass
    os.set_blocking(writing, True)
    with open(writing, "wb", buffering=0) as stream:
        monkeypatch.setattr("proxy.telling._standard_output", lambda: stream)
        monkeypatch.setattr(
            "proxy.telling.AccessLog", lambda stream, form, sample: AccessLog(stream, form, limit=5)
        )
        try:
            yield
        finally:
            os.close(reader)  # ends the thread's write
            for thread in threading.enumerate():
                if thread.name == "log-writer":
                    thread.join(10)


def _fits(writing: int) -> bool:
    try:
        return os.write(writing, b"x") > 0
    except BlockingIOError:
        return False


async def longest_silence(until: asyncio.Event) -> float:
    """Seconds that the loop did nothing but one thing."""
    longest, before = 0.0, time.monotonic()
    while not until.is_set():
        await asyncio.sleep(0.005)
        now = time.monotonic()
        longest, before = max(longest, now - before), now
    return longest


@pytest.mark.usefixtures("_log_without_reader")
async def test_a_reader_that_is_stuck_holds_up_neither_the_loop_nor_the_stop(
    tmp_path: Path,
) -> None:
    stopped = asyncio.Event()
    async with running(tmp_path, SETTINGS) as app, aiohttp.ClientSession() as session:
        host, port = app.data_address
        for _ in range(20):
            async with session.get(f"http://{host}:{port}/nowhere") as answer:
                assert answer.status == 404
        host, port = app.admin_address
        async with session.get(f"http://{host}:{port}/metrics") as answer:
            metrics = await answer.text()
        dropped = metrics.partition('glm_proxy_log_lines_dropped_total{log="access"} ')[2]
        assert 5 <= float(dropped.partition("\n")[0]) < 20
        assert ',kind="other",outcome="not_found",requested_model="none",route="none",' in metrics
        silence = asyncio.create_task(longest_silence(stopped))
        started = time.monotonic()
    assert 0.5 < time.monotonic() - started < 3.0
    stopped.set()
    assert await silence < 0.7  # a close on the loop: 1.0
