"""Two real proxies with one home: what one has learned, the other begins with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from proxy.app import App
from proxy.core.policy.health import shape_of
from proxy.core.policy.route import Route
from proxy.core.wire.request import parse
from proxy.core.wire.target import resolve
from proxy.simulator import Simulator, SimulatorSettings
from tests.fakes.raw_client import ask, chat
from tests.fakes.running import running
from tests.state.homes import in_file, opened
from tests.state.servers import running_redis

NeedsProgram = Callable[[str], str]
PATH = "/v1/chat/completions"
MODEL = "glm-4.6"


def predicted(app: App) -> float | None:
    """Seconds to first content that are expected of the first candidate."""
    body = chat(MODEL)
    house, target = app.house, resolve("POST", PATH)
    now = house.clock()
    route: Route = house.router.plan(parse(body, dialect="openai"), target, {}, house.wall())
    return house.knowledge.look(
        route, route.candidates[0], shape_of(len(body), False), now
    ).predicted


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
async def test_a_new_replica_knows_what_the_others_have_learned(
    kind: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    async with AsyncExitStack() as stack:
        state = in_file(tmp_path)
        if kind == "redis":
            program = needs_program("redis-server")
            state = (await stack.enter_async_context(running_redis(program, tmp_path))).state
        simulator = await stack.enter_async_context(Simulator(SimulatorSettings(tls_port=None)))
        key = tmp_path / "a.key"
        key.write_text("a1.secret")
        key.chmod(0o600)
        settings: dict[str, Any] = {
            "state": state.url,
            "routes": [
                {"name": "r", "candidates": [{"endpoint": "a"}], "first_content_target": "5s"}
            ],
            "endpoints": [{"name": "a", "base_url": simulator.http_url, "api_key": f"file:{key}"}],
        }
        old = await stack.enter_async_context(running(folder(tmp_path, "old"), settings))
        for _ in range(4):
            answer = await ask(
                old.data_address,
                PATH,
                chat(MODEL, simulate={"first_token": 0.05, "gap": 0, "thinking_tokens": 0}),
            )
            assert answer.status == 200
        learned = predicted(old)
        assert learned is not None
        new = await stack.enter_async_context(running(folder(tmp_path, "new"), settings))
        async with asyncio.timeout(20):
            while predicted(new) is None:
                await asyncio.sleep(0.05)
        heard = predicted(new)
        assert heard is not None
        assert learned / 2 < heard < learned * 2


def folder(base: Path, name: str) -> Path:
    made = base / name
    made.mkdir()
    return made


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
async def test_homes_tell_each_other_s_lessons_and_not_one_s_own(
    kind: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    async with AsyncExitStack() as stack:
        state = in_file(tmp_path)
        if kind == "redis":
            program = needs_program("redis-server")
            state = (await stack.enter_async_context(running_redis(program, tmp_path))).state
        one, other, third = [(await stack.enter_async_context(opened(state)))[0] for _ in range(3)]
        assert await one.swap(b"1") == []
        assert await other.swap(b"\x00\xff") == [b"1"]
        assert sorted(await third.swap(b"3")) == [b"\x00\xff", b"1"]
        assert sorted(await one.swap(b"new")) == [b"\x00\xff", b"3"]
        assert sorted(await other.swap(b"2")) == [b"3", b"new"]
