"""Three real proxies share the limits of one Redis, and go on without it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.config import Allowance
from proxy.state.home import Home
from tests.fakes.serving import Served
from tests.fakes.upstream import ScriptedUpstream
from tests.state.homes import a_key, an_entry, in_file, opened, until
from tests.state.liars import Road
from tests.state.replicas import TOKENS, Asked, Upstream, ask, flow, replicas
from tests.state.servers import RedisServer, running_redis

NeedsProgram = Callable[[str], str]


def total(**limits: int) -> dict[str, Any]:
    return {"limits": {"total": limits}}


async def early_in_a_minute() -> None:
    """Windows are minutes of Redis's clock: what is counted here stays within one."""
    if (second := time.time() % 60) > 45:
        await asyncio.sleep(60.1 - second)


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
async def test_three_replicas_share_the_limits_of_a_key(
    kind: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    """Requests, tokens and places, within 5 %: with a file, processes of one machine."""
    upstream = Upstream()
    async with AsyncExitStack() as stack:
        if kind == "redis":
            program = needs_program("redis-server")
            state = (await stack.enter_async_context(running_redis(program, tmp_path))).state
        else:
            state = in_file(tmp_path)
        home, _ = await stack.enter_async_context(opened(state))
        requests = await key_with(home, requests_per_minute=100)
        tokens = await key_with(home, tokens_per_minute=100 * TOKENS)
        places = await key_with(home, concurrent=20)
        up = await stack.enter_async_context(ScriptedUpstream(upstream.answer))
        proxies = await stack.enter_async_context(
            # On a machine that has no time an answer may take longer than usual.
            replicas(tmp_path, up, 3, state={"url": state.url, "timeout": "5s"}, access="keys")
        )
        await early_in_a_minute()
        for header in (requests, tokens):
            asked = await flow(proxies, 60, header)
            assert asked.failed == []
            assert 95 <= asked.let_in <= 105
        await places_are_shared(proxies, upstream, places)


async def key_with(home: Home, **limits: int) -> str:
    """The header of a new key."""
    made = a_key()
    await home.save_key(replace(made.key, allowance=Allowance(**limits)), an_entry())
    return f"Authorization: Bearer {made.token}"


async def places_are_shared(proxies: list[Served], upstream: Upstream, header: str) -> None:
    upstream.held = asyncio.Event()
    asking = [asyncio.ensure_future(ask(proxies[n % 3], header)) for n in range(60)]
    await until(lambda: upstream.under_way + sum(task.done() for task in asking) == 60)
    assert upstream.under_way == 20
    upstream.held.set()
    statuses = [(await one).status for one in asking]
    assert sorted(statuses) == [200] * 20 + [429] * 40
    # All places are free again, for each of them.
    for proxy in proxies:
        async with asyncio.timeout(20):
            while (await ask(proxy, header)).status != 200:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("how", ["kill", "freeze", "slow"])
async def test_no_request_fails_when_redis_does(
    how: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    async with (
        running_redis(needs_program("redis-server"), tmp_path) as server,
        Road(server.port) as road,
        ScriptedUpstream(Upstream().answer) as up,
        replicas(
            tmp_path,
            up,
            2,
            state=f"redis://127.0.0.1:{road.port}",
            **total(requests_per_minute=100_000, concurrent=1000),
        ) as proxies,
    ):
        usual = await flow(proxies, 50)
        await hurt(server, road, how)
        without = await flow(proxies, 150)
        assert without.failed == []
        assert without.let_in == 300
        # The first of each waits; a tenth of a second would be none of the others' business.
        assert sorted(without.seconds)[-10] < 1.0
        assert await _up(proxies) == 0
        await heal(server, road, how)
        took = await in_use_again(proxies)
        again = await flow(proxies, 50)
        assert usual.failed == again.failed == []
        print(figures(how, usual, without, took))


@pytest.mark.parametrize("access", ["open", "keys"])
async def test_one_that_starts_without_redis_heals(
    access: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    """With keys it lets nobody in until it has read them once."""
    server = RedisServer(needs_program("redis-server"), tmp_path)
    limits = total(requests_per_minute=100_000)
    made = a_key()
    header = f"Authorization: Bearer {made.token}"
    try:
        async with (
            ScriptedUpstream(Upstream().answer) as up,
            replicas(tmp_path, up, 1, state=server.url, access=access, **limits) as proxies,
        ):
            before = await flow(proxies, 20, header)
            assert set(before.statuses) == {200 if access == "open" else 503}
            assert await _up(proxies) == 0
            await server.start()
            async with opened(server.state) as (home, _):
                await home.save_key(made.key, an_entry())
            await in_use_again(proxies)
            async with asyncio.timeout(20):
                while (await ask(proxies[0], header)).status != 200:
                    await asyncio.sleep(0.05)
            assert (await flow(proxies, 20, header)).let_in == 20
    finally:
        await server.kill()


async def test_who_must_know_the_keys_does_not_start_without_its_file(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"This is no database at all. " * 100)
    key = tmp_path / "key"
    key.write_text("upstream-key")
    key.chmod(0o600)
    settings = {
        "endpoints": [{"name": "up", "base_url": "http://127.0.0.1:9", "api_key": f"file:{key}"}],
        "server": {"port": 0},
        "admin": {"port": 0},
        "access": "keys",
        "state": f"sqlite:{tmp_path / 'state.db'}",
    }
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(settings))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "serve", "--config", str(path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert out == b""
    assert err.decode().count("\n") == 1
    assert "state.db is damaged; restore it from a copy" in err.decode()


async def hurt(server: RedisServer, road: Road, how: str) -> None:
    if how == "kill":
        await server.kill()
    elif how == "freeze":
        server.freeze()
    else:
        road.delay = 0.2


async def heal(server: RedisServer, road: Road, how: str) -> None:
    if how == "kill":
        await server.start()
    elif how == "freeze":
        server.thaw()
    else:
        road.delay = 0.0


async def _up(proxies: list[Served]) -> float:
    return sum([await one.gauge("glm_proxy_state_up") for one in proxies])


async def in_use_again(proxies: list[Served]) -> float:
    """Seconds until all have their home again."""
    began = time.monotonic()
    async with asyncio.timeout(30):
        while await _up(proxies) < len(proxies):
            await asyncio.sleep(0.05)
    return time.monotonic() - began


def figures(how: str, usual: Asked, without: Asked, took: float) -> str:
    """For who runs it with `-s`: milliseconds."""
    ordered = sorted(without.seconds)
    return (
        f"{how}: median before {_ms(sorted(usual.seconds)[len(usual.seconds) // 2])},"
        f" slowest two without {_ms(ordered[-1])} {_ms(ordered[-2])},"
        f" then {_ms(ordered[-3])}, median {_ms(ordered[len(ordered) // 2])};"
        f" in use again after {took:.2f} s"
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"
