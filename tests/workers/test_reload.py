"""New settings reach all workers, or none; whoever asks is told which."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.fleet import Fleet, fleet
from tests.fakes.traffic import Traffic, script
from tests.fakes.until import until
from tests.fakes.upstream import ScriptedUpstream

TOKEN = "a-token-of-more-than-16"


def routed(*models: str) -> list[dict[str, Any]]:
    return [
        {"name": model, "match": {"model": [model]}, "candidates": [{"endpoint": "up"}]}
        for model in models
    ]


async def served(one: Fleet) -> Counter[bool]:
    """Whether `new` is a served model, as often as it is asked on a connection of its own."""
    found: Counter[bool] = Counter()
    for _ in range(30):
        url = f"http://{one.data[0]}:{one.data[1]}/v1/models"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            found['"new"' in await answer.text()] += 1
    return found


async def all_serve(one: Fleet, new: bool) -> None:
    async with asyncio.timeout(20):
        while (await served(one)).keys() != {new}:
            await asyncio.sleep(0.05)


async def test_new_settings_reach_all_workers_and_those_that_come_later(tmp_path: Path) -> None:
    async with ScriptedUpstream(script) as upstream:
        settings = {
            "endpoints": [{"name": "up", "base_url": upstream.url}],
            "routes": routed("old"),
            "server": {"workers": 3},
        }
        async with fleet(tmp_path, settings) as one:
            await all_serve(one, False)
            traffic = Traffic(one.data)
            running = [asyncio.create_task(traffic.stream(2.0)) for _ in range(6)]
            await until(lambda: traffic.begun == 6)
            workers = one.workers
            one.write(routes=routed("old", "new"))
            one.send(signal.SIGHUP)
            await all_serve(one, True)
            assert one.workers == workers
            assert set(await asyncio.gather(*running)) == {"whole"}
            for worker in workers:
                one.send(signal.SIGKILL, worker)
            await until(lambda: len(one.workers) == 3 and not workers & one.workers)
            await all_serve(one, True)


async def test_wrong_settings_are_refused_with_every_reason(tmp_path: Path) -> None:
    settings = {
        "endpoints": [{"name": "up", "base_url": "http://127.0.0.1:9"}],
        "routes": routed("new"),
    }
    async with fleet(tmp_path, settings) as one:
        one.path.write_text("endpoints: []\nserver: {port: none}\ntimeouts: {idle: soon}")
        one.send(signal.SIGHUP)
        await until(lambda: "timeouts.idle" in one.errors)
        for reason in ("the settings stay as they were", "the list is empty", "server.port"):
            assert reason in one.errors
        async with asyncio.timeout(20):  # each worker is told that others were refused
            while await one.total("glm_proxy_config_last_reload_successful") != 0:
                await asyncio.sleep(0.05)
        await all_serve(one, True)
        one.write(server={**one.settings["server"], "workers": 4})
        one.send(signal.SIGHUP)
        await until(lambda: "server.workers: needs a restart" in one.errors)
        one.write(server={**one.settings["server"], "workers": 2})
        one.send(signal.SIGHUP)
        async with asyncio.timeout(20):
            while await one.total("glm_proxy_config_last_reload_successful") != 1:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("workers", [1, 3])
async def test_the_operator_s_listener_reloads_all_of_them(tmp_path: Path, workers: int) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    settings = {
        "endpoints": [{"name": "up", "base_url": "http://127.0.0.1:9"}],
        "routes": routed("old"),
        "server": {"workers": workers},
        "admin": {"token": f"file:{tmp_path / 'token'}"},
    }
    async with fleet(tmp_path, settings) as one:
        one.path.write_text("endpoints: []\nserver: {port: none}")
        status, answer = await post(one)
        assert status == 422
        assert [problem["path"] for problem in answer["error"]["problems"]] == [
            "endpoints",
            "server.port",
        ]
        digests = set()
        one.write(routes=routed("old", "new"))
        for _ in range(4):
            status, answer = await post(one)
            assert (status, answer["reloaded"]) == (200, True)
            digests.add(answer["digest"])
        assert len(digests) == 1
        await all_serve(one, True)


async def post(one: Fleet) -> tuple[int, dict[str, Any]]:
    url = f"http://{one.admin[0]}:{one.admin[1]}/admin/reload"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(url) as answer,
    ):
        return answer.status, await answer.json()
