"""A proxy without metrics: nothing is counted, nothing is watched, and it serves all the same."""

from __future__ import annotations

import gc
from pathlib import Path

import aiohttp

from tests.fakes.raw_client import ask, chat
from tests.fakes.running import in_front_of, running
from tests.fakes.upstream import ScriptedUpstream
from tests.observe.test_table import speak


async def test_without_metrics_exchanges_are_served_and_a_scrape_finds_nothing(
    tmp_path: Path,
) -> None:
    callbacks = list(gc.callbacks)
    settings = {"metrics": {"enabled": False}}
    async with (
        ScriptedUpstream(speak, h2=True) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path, **settings)) as app,
    ):
        answer = await ask(app.data_address, "/v1/chat/completions", chat())
        assert answer.clean
        assert gc.callbacks == callbacks
        host, port = app.admin_address
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{host}:{port}/metrics") as answer_to_scrape:
                assert answer_to_scrape.status == 404
                assert "metrics.enabled" in await answer_to_scrape.text()
            async with session.get(f"http://{host}:{port}/readyz") as ready:
                assert ready.status == 200
