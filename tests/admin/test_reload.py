"""`POST /admin/reload`: who may, what it answers, and what of the listener itself follows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.fakes.reloading import Reloading, Told, endpoint, reloading
from tests.fakes.upstream import ScriptedUpstream

TOKEN, OTHER = "the-operators-token", "another-token-of-theirs"


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[Reloading]:
    admin = {"port": 0, "token": secret(tmp_path, TOKEN)}
    async with (
        ScriptedUpstream(Told()) as upstream,
        reloading(tmp_path, endpoints=[endpoint(upstream, tmp_path)], admin=admin) as proxy,
    ):
        yield proxy


def secret(folder: Path, value: str) -> str:
    path = folder / "token"
    path.touch(0o600)
    path.write_text(value)
    return f"file:{path}"


async def asked(
    proxy: Reloading, method: str, path: str, token: str = TOKEN, host: str = "localhost"
) -> tuple[int, Any]:
    """Status and content of an answer."""
    address, port = proxy.app.admin_address
    headers = {"Authorization": f"Bearer {token}", "Host": host}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.request(method, f"http://{address}:{port}{path}") as answer,
    ):
        if answer.content_type == "application/json":
            return answer.status, await answer.json()
        return answer.status, await answer.text()


async def test_settings_are_read_again_and_their_digest_is_told_and_noted(
    proxy: Reloading,
) -> None:
    before = proxy.app.house
    status, answer = await asked(proxy, "POST", "/admin/reload")
    assert status == 200
    assert answer["reloaded"] is True
    assert proxy.app.house is not before
    _, audit = await asked(proxy, "GET", "/admin/audit")
    assert [(one["actor"], one["action"], one["subject"]) for one in audit["entries"]] == [
        ("admin", "reload", answer["digest"])
    ]


async def test_all_problems_are_told_with_their_places(proxy: Reloading) -> None:
    before = proxy.app.house
    proxy.path.write_text("server: {port: 1, wrokers: 2}\nendpoints: []\nadmin: {port: 0}\n")
    status, answer = await asked(proxy, "POST", "/admin/reload")
    assert status == 422
    assert answer["error"]["code"] == "invalid_settings"
    problems = answer["error"]["problems"]
    assert [(one["path"], one["line"]) for one in problems] == [
        ("server.wrokers", 1),
        ("endpoints", 2),
    ]
    assert "did you mean workers?" in problems[0]["message"]
    assert proxy.app.house is before
    _, audit = await asked(proxy, "GET", "/admin/audit")
    assert audit["entries"] == []


async def test_what_needs_a_restart_is_told_so(proxy: Reloading) -> None:
    settings = proxy.settings | {"server": {"port": 4321}}
    proxy.path.write_text(yaml.safe_dump(settings))
    status, answer = await asked(proxy, "POST", "/admin/reload")
    assert status == 422
    problems = [(one["path"], one["message"]) for one in answer["error"]["problems"]]
    assert problems == [("server.port", "needs a restart (was 0)")]


@pytest.mark.parametrize("token", ["", OTHER])
async def test_only_the_token_lets_reload(proxy: Reloading, token: str) -> None:
    before = proxy.app.house
    status, _ = await asked(proxy, "POST", "/admin/reload", token)
    assert status == 401
    assert proxy.app.house is before


async def test_the_token_and_the_names_of_the_listener_follow(
    proxy: Reloading, tmp_path: Path
) -> None:
    assert (await asked(proxy, "GET", "/livez", host="proxy.internal"))[0] == 421
    admin = {"port": 0, "token": secret(tmp_path, OTHER), "hosts": ["proxy.internal"]}
    await proxy.to(admin=admin)
    assert (await asked(proxy, "GET", "/livez", host="proxy.internal"))[0] == 200
    assert (await asked(proxy, "POST", "/admin/reload", TOKEN))[0] == 401
    assert (await asked(proxy, "POST", "/admin/reload", OTHER))[0] == 200


async def test_without_a_way_to_read_them_again_it_says_so(proxy: Reloading) -> None:
    proxy.app.on_reload = None
    status, answer = await asked(proxy, "POST", "/admin/reload")
    assert status == 422
    assert "was not told where" in answer["error"]["problems"][0]["message"]
