"""`/admin/keys` of a whole proxy: made, shown once, revoked, rotated, audited."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy.app import App
from proxy.core.policy.access import is_id
from tests.fakes.keys import a_key, keyed
from tests.fakes.raw_client import ask, chat
from tests.fakes.running import running
from tests.fakes.upstream import Call, ScriptedUpstream

TOKEN = "operator-c0ffee5f91d2ab70"
CHAT = "/v1/chat/completions"


async def _answer(call: Call) -> None:
    call.head(200, content_type="application/json")
    call.send(b'{"id":"1","choices":[]}')
    call.finish()


@asynccontextmanager
async def _proxy(folder: Path) -> AsyncIterator[App]:
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o600)
    admin = {"port": 0, "token": "file:token"}
    async with (
        ScriptedUpstream(_answer) as upstream,
        running(folder, keyed(upstream, folder, admin=admin)) as app,
    ):
        yield app


async def _act(
    app: App, method: str, path: str, body: object = None, token: str = TOKEN
) -> tuple[int, Any]:
    host, port = app.admin_address
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method, f"http://{host}:{port}/admin/{path}", json=body, headers=headers
        ) as answer,
    ):
        return answer.status, await answer.json()


async def _status(app: App, token: str) -> int:
    body = chat(stream=False)
    return (await ask(app.data_address, CHAT, body, f"Authorization: Bearer {token}")).status


async def _audit(app: App) -> list[tuple[str, str, str]]:
    return [(one.actor, one.action, one.subject) for one in await app.home.audit(100)]


async def test_a_key_is_made_shown_once_and_good_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with _proxy(tmp_path) as app:
        order = {
            "name": "team-a",
            "models": ["glm-4*"],
            "routes": ["default"],
            "expires_in": "30d",
            "limits": {"requests_per_minute": 100},
        }
        status, made = await _act(app, "POST", "keys", order)
        assert status == 201
        token = made.pop("token")
        assert await _status(app, token) == 200
        _, listed = await _act(app, "GET", "keys")
        _, audited = await _act(app, "GET", "audit")
        audit = await _audit(app)
    assert is_id(made["id"])
    assert made["expires"] - made["created"] == pytest.approx(30 * 86400)
    assert (made["models"], made["routes"]) == (["glm-4*"], ["default"])
    assert (made["state"], made["limits"]) == ("active", {"requests_per_minute": 100})
    assert listed == {"keys": [made]}
    assert audit == [("admin", "key.create", f"team-a/{made['id']}")]
    for told in (str(listed), str(audited), caplog.text):
        assert token[20:] not in told
        assert "digest" not in told
        assert "salt" not in told


async def test_what_is_kept_is_an_hmac(tmp_path: Path) -> None:
    async with _proxy(tmp_path) as app:
        _, made = await _act(app, "POST", "keys", {"name": "team-a"})
        held = repr((await app.home.open()).keys)
    assert made["id"] in held
    assert made["token"][20:] not in held


async def test_a_key_is_revoked_at_once_and_for_good(tmp_path: Path) -> None:
    async with _proxy(tmp_path) as app:
        _, made = await _act(app, "POST", "keys", {"name": "team-a"})
        status, over = await _act(app, "DELETE", f"keys/{made['id']}")
        assert (status, over["state"], over["tokens"]) == (200, "revoked", 0)
        assert await _status(app, made["token"]) == 401
        again, _ = await _act(app, "POST", f"keys/{made['id']}/rotate", {})
        assert again == 409
        assert [action for _, action, _ in await _audit(app)] == ["key.revoke", "key.create"]


async def test_a_rotated_key_has_a_new_token_and_the_one_before_for_a_time(tmp_path: Path) -> None:
    async with _proxy(tmp_path) as app:
        _, made = await _act(app, "POST", "keys", {"name": "team-a"})
        status, second = await _act(app, "POST", f"keys/{made['id']}/rotate", {"overlap": "1h"})
        assert (status, second["id"], second["tokens"]) == (200, made["id"], 2)
        assert second["token"] != made["token"]
        assert await _status(app, made["token"]) == await _status(app, second["token"]) == 200
        _, third = await _act(app, "POST", f"keys/{made['id']}/rotate", {"overlap": 0})
        assert third["tokens"] == 1
        assert await _status(app, made["token"]) == await _status(app, second["token"]) == 401
        assert await _status(app, third["token"]) == 200
        _, listed = await _act(app, "GET", "keys")
        assert [one["id"] for one in listed["keys"]] == [made["id"]]


@pytest.mark.parametrize(
    ("order", "says"),
    [
        ({}, "name"),
        ({"name": "a b"}, "name: must be 1 to 64"),
        ({"name": 7}, "name"),
        ({"name": "a", "token": "sk-mine"}, "token"),
        ({"name": "a", "id": "000000000000"}, "id"),
        ({"name": "a", "models": "glm-4.6"}, "models"),
        ({"name": "a", "models": [""]}, "models: a pattern"),
        ({"name": "a", "expires_in": 30}, "expires_in: found 30 without a unit"),
        ({"name": "a", "expires_in": "-1d"}, "expires_in"),
        ({"name": "a", "expires_in": "0s"}, "expires_in"),
        ({"name": "a", "limits": {"concurrent": 0}}, "limits.concurrent"),
        ({"name": "a", "limits": {"requests": 1}}, "limits.requests"),
        ([], "body"),
    ],
)
async def test_an_order_that_makes_no_sense_is_refused(
    tmp_path: Path, order: object, says: str
) -> None:
    async with _proxy(tmp_path) as app:
        status, told = await _act(app, "POST", "keys", order)
        assert (await app.home.open()).keys == {}
    assert status == 400
    assert says in told["error"]["message"]


async def test_who_has_no_token_changes_nothing(tmp_path: Path) -> None:
    async with _proxy(tmp_path) as app:
        made = await a_key(app)
        for method, path in (
            ("POST", "keys"),
            ("DELETE", f"keys/{made.key.id}"),
            ("POST", f"keys/{made.key.id}/rotate"),
        ):
            for token in ("", "wrong", made.token):
                status, told = await _act(app, method, path, {"name": "a"}, token)
                assert (status, told["error"]["code"]) == (401, "wrong_token")
        assert list((await app.home.open()).keys.values()) == [made.key]


@pytest.mark.parametrize("key_id", ["000000000000", "..%2f..", "a" * 500, "%00"])
async def test_a_key_that_is_not_there_is_not_found(tmp_path: Path, key_id: str) -> None:
    async with _proxy(tmp_path) as app:
        status, told = await _act(app, "POST", f"keys/{key_id}/rotate", {})
        assert (status, told["error"]["code"]) == (404, "not_found")
        assert (await _act(app, "DELETE", f"keys/{key_id}"))[0] == 404
        assert await _audit(app) == []


async def test_many_changes_at_once_lose_none(tmp_path: Path) -> None:
    async with _proxy(tmp_path) as app:
        orders = (_act(app, "POST", "keys", {"name": f"k{number}"}) for number in range(20))
        made = [one for _, one in await asyncio.gather(*orders)]
        await asyncio.gather(*(_act(app, "DELETE", f"keys/{one['id']}") for one in made[:10]))
        states = [await _status(app, one["token"]) for one in made]
    assert states == [401] * 10 + [200] * 10
