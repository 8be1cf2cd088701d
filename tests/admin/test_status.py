"""`/admin/status` of a whole proxy: what runs, how each candidate is, what is in effect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from proxy import __version__
from proxy.app import App
from tests.fakes.operator import LONGEST, get, watching
from tests.fakes.raw_client import RawClient, ask
from tests.fakes.running import in_front_of, running
from tests.fakes.upstream import Call, ScriptedUpstream

CHAT = "/v1/chat/completions"
EVENT = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
PARTS = {
    *("version", "time", "uptime_s", "ready", "reasons", "in_flight", "finished", "window"),
    *("history", "running", "endpoints", "candidates", "playground", "switches", "digest"),
}
STAY = {"routes", "models", "settings"}
SECRET = "a-key-of-the-operator-0123456789"
GLM_KEY = "8f3c1d9e7b5a4c2f8e6d0b1a9c7e5f3d.Xk29LmPq47RsTv0w"
ROUTES: list[dict[str, Any]] = [
    {
        "name": "fast",
        "match": {"model": ["glm-4.6", "glm-4.5*"]},
        "candidates": [{"model": "glm-4-flash", "endpoint": "up"}, {"endpoint": "up"}],
        "first_content_target": "5s",
    },
    {"name": "air", "match": {"model": ["glm-4.[0-9]-air*"]}, "attempts": {"breaker": "off"}},
    {"name": "own", "match": {"model": ["in-house-*"]}},
    {"name": "big", "match": {"min_prompt": "1MiB", "model": ["glm-4.7"]}},
]


async def answer(call: Call) -> None:
    call.head()
    call.send(EVENT + b"data: [DONE]\n\n")
    call.finish()


async def never(call: Call) -> None:
    await asyncio.sleep(LONGEST)


def chat(model: str = "glm-4.6") -> bytes:
    return orjson.dumps({"model": model, "stream": True, "messages": [{"role": "user"}]})


async def status_of(app: App) -> dict[str, Any]:
    host, port = app.admin_address
    told = await get(f"http://{host}:{port}/admin/status")
    assert (told.status, told.headers["content-type"]) == (200, "application/json")
    found = told.json()
    assert isinstance(found, dict)
    return found


@asynccontextmanager
async def proxy(folder: Path, script: Any = answer, **settings: Any) -> AsyncIterator[App]:
    key = folder / "key"
    key.write_text(SECRET)
    key.chmod(0o600)
    async with ScriptedUpstream(script) as upstream:
        base = in_front_of(upstream, folder, **settings)
        base["endpoints"][0] |= {"region": "here", "api_key": f"file:{key}"}
        async with running(folder, base) as app:
            yield app


async def test_an_idle_proxy_tells_all_its_parts(tmp_path: Path) -> None:
    async with proxy(tmp_path) as app:
        status = await status_of(app)
    assert set(status) == PARTS | STAY
    assert (status["version"], status["ready"], status["reasons"]) == (__version__, True, [])
    assert abs(status["time"] - time.time()) < 60
    assert 0 <= status["uptime_s"] < 60
    assert (status["in_flight"], status["finished"], status["running"]) == (0, 0, [])
    assert status["window"]["slo_count"] == 0
    assert len(status["history"]["time"]) == 120
    (endpoint,) = status["endpoints"]
    assert (endpoint["name"], endpoint["region"], endpoint["state"]) == ("up", "here", "up")
    assert set(endpoint) == {
        *("name", "region", "state", "connections", "opening", "idle", "streams", "waiting"),
        "ping_round_trip_s",
    }
    assert status["playground"] == {"enabled": False, "reason": "admin.token is not set"}


async def test_the_settings_are_what_check_prints_and_hold_no_secret(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("c0ffee-0123456789")
    token.chmod(0o600)
    settings = {"admin": {"port": 0, "token": f"file:{token}"}}
    async with proxy(tmp_path, **settings) as app:
        status = await status_of(app)
    assert SECRET not in str(status)
    assert "c0ffee-0123456789" not in str(status)
    assert status["playground"] == {"enabled": True, "reason": None}
    shown = yaml.safe_load(status["settings"])
    assert shown["endpoints"][0]["api_key"].startswith("*")
    assert shown["admin"]["exchanges"] == 500


async def test_what_has_finished_is_counted_and_remembered(tmp_path: Path) -> None:
    async with proxy(tmp_path) as app:
        for number in range(3):
            await ask(app.data_address, CHAT, chat(), f"X-Request-Id: mine-{number}")
        status = await status_of(app)
        host, port = app.admin_address
        told = await get(f"http://{host}:{port}/admin/exchanges/mine-1")
    assert (status["finished"], status["in_flight"]) == (3, 0)
    assert (status["window"]["slo_count"], status["window"]["slo_share"]) == (3, 1.0)
    assert status["window"]["first_content_p50_s"] > 0
    assert (told.status, told.json()["outcome"]) == (200, "completed")


async def test_a_running_exchange_is_told_with_the_stage_it_has_come_to(tmp_path: Path) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def script(call: Call) -> None:
        asked.set()
        await go.wait()
        call.head()
        call.send(EVENT)
        await asyncio.sleep(LONGEST)

    async with proxy(tmp_path, script) as app, RawClient(app.data_address) as client:
        client.post(CHAT, chat("<b>"), "X-Request-Id: mine")
        await asked.wait()
        (waiting,) = (await status_of(app))["running"]
        age = waiting.pop("age_s")
        assert waiting == {
            "request_id": "mine",
            "requested_model": "<b>",
            "route": "default",
            "endpoint": "up",
            "stage": "waiting",
        }
        go.set()
        await client.head()
        assert await client.chunk() == EVENT
        status = await status_of(app)
        assert status["in_flight"] == 1
        assert status["running"][0]["stage"] == "streaming"
        assert status["running"][0]["age_s"] > age


async def test_of_many_running_exchanges_the_oldest_are_told(tmp_path: Path) -> None:
    async with proxy(tmp_path, never) as app:
        clients = [RawClient(app.data_address) for _ in range(25)]
        for number, client in enumerate(clients):
            await client.__aenter__()
            client.post(CHAT, chat(), f"X-Request-Id: n{number}")
            while (await status_of(app))["in_flight"] <= number:
                pass
        status = await status_of(app)
        assert [one["request_id"] for one in status["running"]] == [f"n{n}" for n in range(20)]
        for client in clients:
            await client.__aexit__()


async def test_each_route_has_a_model_to_try_it_with(tmp_path: Path) -> None:
    async with proxy(tmp_path, routes=ROUTES) as app:
        status = await status_of(app)
    routes = {one.pop("name"): one for one in status["routes"]}
    assert list(routes) == ["fast", "air", "own", "big", "default"]
    assert routes["fast"] == {
        "match": {"model": ["glm-4.6", "glm-4.5*"]},
        "example_model": "glm-4.6",
        "candidates": [
            {"model": "glm-4-flash", "endpoint": "up"},
            {"model": None, "endpoint": "up"},
        ],
    }
    assert routes["own"]["example_model"] == "in-house-"
    assert routes["big"]["example_model"] == "glm-4.7"
    assert routes["default"]["example_model"] in status["models"]
    assert status["models"][:2] == ["glm-4.6", "glm-4.7"]


async def test_a_pattern_is_shown_by_a_known_model_that_it_takes(tmp_path: Path) -> None:
    rules = [{"name": "fives", "match": {"model": ["glm-4.5*"]}}, {"name": "rest"}]
    async with proxy(tmp_path, routes=rules) as app:
        status = await status_of(app)
    fives, rest = status["routes"]  # nothing is left for `default`
    assert fives["example_model"] in status["models"]
    assert fives["example_model"].startswith("glm-4.5")
    assert not rest["example_model"].startswith("glm-4.5")


async def test_a_candidate_is_told_with_its_health_and_its_figures(tmp_path: Path) -> None:
    async with proxy(tmp_path, routes=ROUTES) as app:
        before = (await status_of(app))["candidates"]
        for _ in range(4):
            await ask(app.data_address, CHAT, chat())
        await ask(app.data_address, CHAT, chat("in-house-7"))
        after = (await status_of(app))["candidates"]
    flash = next(one for one in before if one["model"] == "glm-4-flash")
    assert flash == {
        "route": "fast",
        "model": "glm-4-flash",
        "endpoint": "up",
        "breaker": "closed",
        "error_rate": None,
        "predicted_first_content_s": None,
        "in_flight": 0,
        "waiting": 0,
        "limit": None,
        "resting_keys": 0,
    }
    flash = next(one for one in after if one["model"] == "glm-4-flash")
    assert 0 < flash["predicted_first_content_s"] < 5
    assert flash["error_rate"] == 0
    rows = {(one["route"], one["model"]) for one in after}
    assert ("fast", "glm-4.6") in rows  # the second candidate, as its example asks for it
    assert ("own", "in-house-7") in rows  # as somebody has asked
    assert ("own", "in-house-") not in rows
    (own,) = (one for one in after if one["route"] == "air")
    assert own["breaker"] is None


async def test_an_open_breaker_is_shown(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        call.head(500)
        call.finish()

    attempts = {"retries": 0, "breaker": {"failures": 2}}
    async with proxy(tmp_path, script, attempts=attempts) as app:
        for _ in range(2):
            await ask(app.data_address, CHAT, chat())
        status = await status_of(app)
    (row,) = status["candidates"]
    assert (row["model"], row["breaker"]) == ("glm-4.6", "open")
    assert status["window"]["errors"] == 2


async def test_looking_changes_nothing_of_what_is_known(tmp_path: Path) -> None:
    async with proxy(tmp_path, routes=ROUTES) as app:
        for model in ("glm-4.6", "glm-4.5", "glm-4.6"):
            await ask(app.data_address, CHAT, chat(model))
        before = app.house.knowledge.models()
        for _ in range(3):
            await status_of(app)
        assert app.house.knowledge.models() == before


@pytest.mark.parametrize("evil", ["<img src=x>", "'\">&#60;", "m" * 256, GLM_KEY])
async def test_a_hostile_model_is_plain_short_text(tmp_path: Path, evil: str) -> None:
    async with proxy(tmp_path) as app:
        await ask(app.data_address, CHAT, chat(evil))
        status = await status_of(app)
        host, port = app.admin_address
        told = await get(f"http://{host}:{port}/admin/exchanges")
    (row,) = status["candidates"]
    assert row["model"].isprintable()
    assert len(row["model"]) <= 128
    for text in (str(status), told.body.decode()):
        assert GLM_KEY not in text
        assert "m" * 200 not in text


async def test_the_live_status_is_the_same_without_what_stays(tmp_path: Path) -> None:
    async with proxy(tmp_path) as app:
        host, port = app.admin_address
        async with watching(f"http://{host}:{port}/admin/live") as watcher:
            _, status = await watcher.next("status")
            assert set(status) == PARTS
            await ask(app.data_address, CHAT, chat(), "X-Request-Id: mine")
            _, told = await watcher.next("exchange")
            assert told["request_id"] == "mine"


async def test_an_open_page_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    async with proxy(tmp_path) as app:
        host, port = app.admin_address
        async with watching(f"http://{host}:{port}/admin/live") as watcher:
            await watcher.next("status")
            began = time.monotonic()
            await app.stop(0)
            assert time.monotonic() - began < 10
            assert await watcher.ended()
