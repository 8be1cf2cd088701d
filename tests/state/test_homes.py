"""What all homes have in common: keys, switches and the audit, here and in other processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import redis.asyncio

from proxy.config import Allowance, State
from proxy.core.policy import access
from tests.state.homes import a_key, a_switch, an_entry, in_file, opened, until
from tests.state.servers import running_redis

NeedsProgram = Callable[[str], str]


@asynccontextmanager
async def place(kind: str, folder: Path, needs_program: NeedsProgram) -> AsyncIterator[State]:
    if kind == "memory":
        yield State(url="memory")
    elif kind == "sqlite":
        yield in_file(folder)
    else:
        async with running_redis(needs_program("redis-server"), folder) as server:
            yield server.state


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
async def test_what_is_saved_is_there_and_in_the_audit(
    kind: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    async with place(kind, tmp_path, needs_program) as state, opened(state) as (home, seen):
        assert (await home.open() if kind == "memory" else seen.registries[0]).known
        key = replace(a_key().key, allowance=Allowance(concurrent=3), expires=2e9)
        await home.save_key(key, an_entry())
        assert seen.registries[-1].keys == {key.id: key}
        await home.save_key(access.revoked(key, 5.0), an_entry("key.revoke"))
        assert seen.registries[-1].keys[key.id].revoked == 5.0
        first, second = a_switch(), a_switch("glm-4.5")
        await home.save_switch(first, an_entry("model.set"))
        await home.save_switch(second, an_entry("model.set"))
        assert seen.registries[-1].switches == {"glm-4.6": first, "glm-4.5": second}
        assert await home.drop_switches(["glm-4.6", "never-set"], an_entry("model.reset")) == 1
        assert seen.registries[-1].switches == {"glm-4.5": second}
        assert await home.drop_switches(None, an_entry("model.reset")) == 1
        assert await home.drop_switches([], an_entry("model.reset")) == 0
        assert seen.registries[-1].switches == {}
        await home.note(an_entry("reload", "abc"))
        audit = await home.audit(3)
        assert [entry.action for entry in audit] == ["reload", "model.reset", "model.reset"]
        assert len(await home.audit(100)) == 8
        assert home.trouble is None


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
async def test_a_key_that_was_revoked_stays_so_whoever_saves_what_it_was_before(
    kind: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    """Another process may rotate a key that it read just before it was revoked."""
    async with place(kind, tmp_path, needs_program) as state, opened(state) as (home, seen):
        key, other = a_key().key, a_key().key
        anew = access.rotated(key, bytes(range(access.RANDOM_BYTES)), key.created, 3600.0).key
        await home.save_key(key, an_entry())
        await home.save_key(other, an_entry())
        await home.save_key(access.revoked(key, 1795395627.8356476), an_entry("key.revoke"))
        await home.save_key(anew, an_entry("key.rotate"))
        saved = seen.registries[-1].keys
        assert saved[key.id].revoked == 1795395627.8356476
        assert saved[key.id].secrets == anew.secrets
        assert saved[other.id] == other


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_others_know_of_a_change_soon_and_those_who_come_later_at_once(
    kind: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    async with (
        place(kind, tmp_path, needs_program) as state,
        opened(state) as (one, _),
        opened(state) as (_, other),
    ):
        key = a_key().key
        await one.save_key(key, an_entry())
        await one.save_switch(a_switch(), an_entry("model.set"))
        took = await until(lambda: other.registries[-1].keys and other.registries[-1].switches)
        assert took < 5  # 0.1 s with a file, 0.5 s with Redis, on a machine that has time
        assert other.registries[-1].keys == {key.id: key}
        async with opened(state) as (_, later):
            assert later.registries[0] == other.registries[-1]


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_changes_of_several_at_once_are_all_there(
    kind: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    async with (
        place(kind, tmp_path, needs_program) as state,
        opened(state) as (one, _),
        opened(state) as (other, _),
    ):
        keys = [a_key(f"app{number}").key for number in range(40)]
        await asyncio.gather(
            *((one, other)[n % 2].save_key(key, an_entry()) for n, key in enumerate(keys))
        )
        async with opened(state) as (late, seen):
            assert seen.registries[0].keys == {key.id: key for key in keys}
            assert len(await late.audit(100)) == 40


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_nothing_of_a_token_is_kept(
    kind: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    async with place(kind, tmp_path, needs_program) as state, opened(state) as (home, seen):
        made = a_key()
        await home.save_key(made.key, an_entry())
        assert access.identify(made.token, seen.registries[-1].keys, 1e9) == access.Known(made.key)
        secret = made.token.rpartition("-")[2][:20].encode()
        if kind == "redis":
            async with running_client(state) as client:
                dump = repr(await client.hgetall("glm-proxy:registry"))
            assert made.key.id in dump
            assert secret.decode() not in dump
        else:
            files = [path.read_bytes() for path in tmp_path.iterdir()]
            assert any(made.key.id.encode() in data for data in files)
            assert not any(secret in data for data in files)


@asynccontextmanager
async def running_client(state: State) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis(port=state.server.port)
    try:
        yield client
    finally:
        await client.aclose()
