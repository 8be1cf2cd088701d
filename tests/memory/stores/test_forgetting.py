"""Forgetting over HTTP: one's own and nobody else's; the operator, any key's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.app import App
from proxy.core.policy.access import Made, revoked
from tests.fakes.asking import Got, ask_all
from tests.fakes.keys import a_key, bearer, keyed, save
from tests.fakes.remembering import echo, remembering, say, text_of, told
from tests.fakes.running import in_front_of, running, samples
from tests.fakes.upstream import Call, ScriptedUpstream
from tests.memory.stores.files import LONG, opened, said, texts

TOKEN = "operator-c0ffee5f91d2ab70"


def _routes(*stores: str) -> list[dict[str, Any]]:
    return [
        {
            "name": f"r{number}",
            "match": {"model": [f"glm-{number}*"]},
            "candidates": [{"model": "glm-4.6", "endpoint": "up"}],
            "memory": {"store": store, "wait": "2s"},
        }
        for number, store in enumerate(stores, 1)
    ]


@asynccontextmanager
async def proxy(folder: Path, *stores: str, **settings: Any) -> AsyncIterator[App]:
    """One that wants keys."""
    token = folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    admin = {"port": 0, "token": f"file:{token}"}
    async with ScriptedUpstream(echo) as upstream:
        more = {"routes": _routes(*stores), "admin": admin, **settings}
        async with running(folder, keyed(upstream, folder, **more)) as app:
            yield app


async def delete(address: tuple[str, int], path: str, *lines: str) -> Got:
    request = "\r\n".join((f"DELETE {path} HTTP/1.1", "Host: 127.0.0.1", *lines, "", ""))
    (got,) = await ask_all(address, [request.encode()])
    return got


async def gone(app: App, path: str, made: Made) -> int:
    got = await delete(app.data_address, path, bearer(made))
    assert got.status == 200, got.body
    count: int = orjson.loads(got.body)["deleted"]
    return count


async def fill(folder: Path, made: Made, *sessions: str) -> None:
    async with opened(folder) as store:
        for session in sessions:
            await store.add(f"key:{made.key.id}", session, said("one", "two"), LONG)


async def test_a_caller_forgets_a_session_and_then_all_of_its_own(tmp_path: Path) -> None:
    async with proxy(tmp_path, "sqlite:memory.db") as app:
        mine, theirs = await a_key(app), await a_key(app)
        for made in (mine, theirs):
            await fill(tmp_path, made, "s", "a b", "x/y", "旅行", "more")
        assert await gone(app, "/v1/memory/s", mine) == 2
        assert await gone(app, "/v1/memory/s", mine) == 0
        assert await gone(app, "/v1/memory/a%20b", mine) == 2
        assert await gone(app, "/v1/memory/x/y", mine) == 2
        assert await gone(app, "/v1/memory?session=%E6%97%85%E8%A1%8C", mine) == 2
        assert await gone(app, "/v1/memory", mine) == 2
        assert await gone(app, "/v1/memory", mine) == 0
        assert await gone(app, "/v1/memory", theirs) == 10
        counted = await samples(app, "glm_proxy_memory_store_seconds_count")
        assert [value for labels, value in counted if labels["operation"] == "forget"] == [8.0]


async def test_it_forgets_in_the_stores_of_all_routes_whatever_the_key_is_for(
    tmp_path: Path,
) -> None:
    async with proxy(tmp_path, "sqlite:one/memory.db", "sqlite:two/memory.db") as app:
        made = await a_key(app, routes=["none-of-these"], models=["glm-1"])
        for folder in ("one", "two"):
            await fill(tmp_path / folder, made, "s")
        assert await gone(app, "/v1/memory", made) == 4


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/memory?sesion=s", "/v1/memory?session=", "/v1/memory?session=a&session=b"),
        *("/v1/memory/s?session=s", "/v1/memory?session=%FF", "/v1/memory?session=%00"),
        *("/v1/memory?session=s&all=1", "/v1/memory/" + "x" * 257, "/v1/memory?session"),
    ],
)
async def test_what_could_be_meant_otherwise_forgets_nothing(tmp_path: Path, path: str) -> None:
    async with proxy(tmp_path, "sqlite:memory.db") as app:
        made = await a_key(app)
        await fill(tmp_path, made, "s")
        got = await delete(app.data_address, path, bearer(made))
        assert (got.status, orjson.loads(got.body)["error"]["param"]) == (400, "session")
        assert await gone(app, "/v1/memory", made) == 2


async def test_other_methods_and_nobody_are_refused(tmp_path: Path) -> None:
    async with proxy(tmp_path, "sqlite:memory.db") as app:
        made = await a_key(app)
        get = f"GET /v1/memory HTTP/1.1\r\nHost: a\r\n{bearer(made)}\r\n\r\n"
        (got,) = await ask_all(app.data_address, [get.encode()])
        assert got.status == 405
        await fill(tmp_path, made, "s")
        assert (await delete(app.data_address, "/v1/memory")).status == 401
        assert (await delete(app.data_address, "/v1/memory/", bearer(made))).status == 404
        await save(app, revoked(made.key, 1.0))
        assert (await delete(app.data_address, "/v1/memory", bearer(made))).status == 401
        assert len(await _left(tmp_path, made)) == 2


async def _left(folder: Path, made: Made) -> list[str]:
    async with opened(folder) as store:
        return await texts(store, f"key:{made.key.id}", "s")


async def test_without_memory_the_path_is_the_upstreams(tmp_path: Path) -> None:
    async def fine(call: Call) -> None:
        call.head(200, framing="2", content_type="application/json")
        call.send(b"{}")
        call.finish()

    async with ScriptedUpstream(fine) as upstream:
        async with running(tmp_path, in_front_of(upstream, tmp_path)) as app:
            assert (await delete(app.data_address, "/v1/memory/s")).status == 200
        assert upstream.calls[0].path.endswith("/memory/s")


async def test_it_counts_as_a_request_of_its_caller(tmp_path: Path) -> None:
    limits = {"per_key": {"requests_per_minute": 2}}
    async with proxy(tmp_path, "sqlite:memory.db", limits=limits) as app:
        made = await a_key(app)
        answers = [await delete(app.data_address, "/v1/memory", bearer(made)) for _ in range(3)]
        assert [one.status for one in answers] == [200, 200, 429]


async def test_what_was_said_is_told_no_more_not_even_what_is_at_hand(tmp_path: Path) -> None:
    async with ScriptedUpstream(echo) as upstream:
        settings = in_front_of(upstream, tmp_path, routes=_routes("sqlite:memory.db"))
        async with running(tmp_path, settings) as app:
            line = "Authorization: Bearer caller.secret"

            async def asked() -> str:
                await say(app.data_address, "Where do I live?", model="glm-1")
                return "".join(map(text_of, told(upstream.calls[-1])))

            await say(app.data_address, "I live in Leipzig.", model="glm-1")
            async with asyncio.timeout(20):
                while "Leipzig" not in await asked():
                    await asyncio.sleep(0.01)
            other = await delete(app.data_address, "/v1/memory", line + "2")
            assert orjson.loads(other.body) == {"deleted": 0}
            mine = await delete(app.data_address, "/v1/memory/s", line)
            assert orjson.loads(mine.body)["deleted"] >= 2
            assert "Leipzig" not in await asked()


async def test_a_store_that_fails_is_told_and_the_others_forget(tmp_path: Path) -> None:
    async with remembering(delay=None) as (service, url):
        hanging = {"url": url, "timeout": "100ms"}
        routes = _routes("sqlite:memory.db", "-")
        routes[1]["memory"]["store"] = hanging
        async with proxy(tmp_path, routes=routes) as app:
            made = await a_key(app)
            await fill(tmp_path, made, "s")
            got = await delete(app.data_address, "/v1/memory", bearer(made))
            assert (got.status, orjson.loads(got.body)["error"]["code"]) == (
                503,
                "memory_unavailable",
            )
            assert await _left(tmp_path, made) == []
            service.delay = 0.0
            service.kept["x", "y"] = []
            assert await gone(app, "/v1/memory", made) == 0


# --- the operator ------------------------------------------------------------------------------


async def test_the_operator_forgets_what_was_said_with_a_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    token = f"Authorization: Bearer {TOKEN}"
    async with proxy(tmp_path, "sqlite:memory.db") as app:
        made, other = await a_key(app), await a_key(app)
        for one in (made, other):
            await fill(tmp_path, one, "s", "t")
        await save(app, revoked(made.key, 1.0))
        path = f"/admin/memory/{made.key.id}"
        assert (await delete(app.admin_address, path)).status == 401
        assert (await delete(app.admin_address, path, bearer(other))).status == 401
        got = await delete(app.admin_address, path, token)
        assert got.status == 200
        assert orjson.loads(got.body) == {"id": made.key.id, "deleted": 4}
        assert orjson.loads((await delete(app.admin_address, path, token)).body)["deleted"] == 0
        assert (await delete(app.admin_address, "/admin/memory/%2e%2e", token)).status == 404
        assert await gone(app, "/v1/memory", other) == 4
        entries = [one for one in await app.home.audit(10) if one.action == "memory.forget"]
        assert [(one.actor, one.subject) for one in entries] == [("admin", made.key.id)] * 2
    assert f"audit: admin memory.forget {made.key.id}" in caplog.text


async def test_the_operator_is_told_when_it_could_not_be_done(tmp_path: Path) -> None:
    async with remembering(delay=None) as (_, url):
        routes = _routes("-")
        routes[0]["memory"]["store"] = {"url": url, "timeout": "100ms"}
        async with proxy(tmp_path, routes=routes) as app:
            token = f"Authorization: Bearer {TOKEN}"
            got = await delete(app.admin_address, "/admin/memory/k3v9x0q1w2e3", token)
            assert got.status == 503
            assert orjson.loads(got.body)["error"]["code"] == "memory_unavailable"
            assert await app.home.audit(10) == []
