"""Who may use the operator's listener from a browser, and who may act by it."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession, web
from multidict import CIMultiDict

from proxy.admin.app import Readiness, make_admin
from proxy.admin.guard import Hosts, TokenCheck, harden, host_check, origin_check
from proxy.config import Secret


async def _hello(request: web.Request) -> web.Response:
    return web.Response(text="hello")


@pytest.fixture
async def port() -> AsyncIterator[int]:
    app = web.Application(middlewares=[host_check(Hosts({"proxy.example"})), origin_check])
    app.router.add_get("/", _hello)
    app.router.add_post("/", _hello)
    app.on_response_prepare.append(harden)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def _status(port: int, headers: dict[str, str], method: str = "GET") -> int:
    async with (
        ClientSession() as session,
        session.request(method, f"http://127.0.0.1:{port}/", headers=headers) as answer,
    ):
        return answer.status


@pytest.mark.parametrize(
    "headers",
    [
        {},  # a scraper, or curl
        {"Host": "127.0.0.1:9090", "Origin": "http://127.0.0.1:9090"},
        {"Host": "proxy.example", "Origin": "http://proxy.example"},
        {"Host": "proxy.example", "Origin": "https://proxy.example"},  # TLS ends before us
        {"Host": "proxy.example:443", "Origin": "https://proxy.example"},
        {"Host": "[::1]:9090", "Origin": "http://[::1]:9090"},
        {"Host": "LOCALHOST:9090", "Origin": "http://localhost:9090"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_programs_and_our_own_page_are_welcome(
    port: int, headers: dict[str, str], method: str
) -> None:
    assert await _status(port, headers, method) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "127.0.0.1:9090", "Origin": "http://evil.example"},
        {"Host": "127.0.0.1:9090", "Origin": "http://127.0.0.1:8080"},
        {"Host": "127.0.0.1:9090", "Origin": "http://127.0.0.1"},
        {"Host": "127.0.0.1:9090", "Origin": "null"},
        {"Host": "127.0.0.1:9090", "Origin": ""},
        {"Host": "127.0.0.1:9090", "Origin": "http://[::1"},
        {"Host": "127.0.0.1:9090", "Origin": "http://127.0.0.1:x"},
        {"Host": "127.0.0.1:9090", "Origin": "http://evil@127.0.0.1:9090"},
        {"Host": "127.0.0.1:9090", "Origin": "http://127.0.0.1:9090/path"},
        {"Host": "127.0.0.1:9090", "Origin": "chrome-extension://127.0.0.1:9090"},
        {"Host": "proxy.example", "Origin": "http://other.proxy.example"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"},
        {
            "Sec-Fetch-Site": "cross-site",
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "iframe",
        },
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_a_page_of_another_origin_sends_is_refused(
    port: int, headers: dict[str, str], method: str
) -> None:
    assert await _status(port, headers, method) == 403


async def test_a_link_from_another_site_leads_to_the_page_and_a_form_does_not_post(
    port: int,
) -> None:
    link = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    assert await _status(port, link) == 200
    assert await _status(port, link, "POST") == 403


async def test_two_origins_are_refused(port: int) -> None:
    headers = CIMultiDict([("Origin", f"http://127.0.0.1:{port}")] * 2)
    async with (
        ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/", headers=headers) as answer,
    ):
        assert answer.status == 403


# --- the token -----------------------------------------------------------------------------------


class _Asked:
    """A request as far as the token is concerned."""

    def __init__(self, *authorizations: str, remote: str = "192.0.2.1") -> None:
        self.headers = CIMultiDict(("Authorization", value) for value in authorizations)
        self.remote = remote


def _refusal(
    check: TokenCheck, *authorizations: str, remote: str = "192.0.2.1", as_password: bool = False
) -> int | None:
    asked: Any = _Asked(*authorizations, remote=remote)
    refusal = check.refusal(asked, as_password=as_password)
    return None if refusal is None else refusal[0]


def _basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


def test_without_a_token_in_the_settings_nobody_may_act() -> None:
    check = TokenCheck(None)
    assert _refusal(check, "Bearer anything") == 403


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (("Bearer secret-token",), None),
        (("bearer   secret-token",), None),
        (("Bearer secret-toke",), 401),
        (("Bearer secret-token1",), 401),
        (("Basic secret-token",), 401),
        (("secret-token",), 401),
        (("Bearer ***",), 401),  # how a secret shows itself
        (("Bearer",), 401),
        (("Bearer ünï",), 401),
        ((), 401),
        (("Bearer secret-token", "Bearer secret-token"), 401),
    ],
)
def test_only_the_token_itself_lets_act(given: tuple[str, ...], status: int | None) -> None:
    assert _refusal(TokenCheck(Secret("secret-token")), *given) == status


def test_guessing_is_slowed_down_and_the_right_token_still_works() -> None:
    now = 100.0
    check = TokenCheck(Secret("secret-token"), clock=lambda: now)
    tries = [_refusal(check, f"Bearer {guess}") for guess in range(12)]
    assert tries == [401] * 10 + [429] * 2
    assert _refusal(check, "Bearer secret-token") is None
    assert _refusal(check, "Bearer x", remote="192.0.2.2") == 401  # another address
    now += 59.9
    assert _refusal(check, "Bearer x") == 429
    now += 0.2
    tries = [_refusal(check, "Bearer x") for _ in range(12)]
    assert tries == [401] * 10 + [429] * 2


def test_who_shows_nothing_guesses_nothing() -> None:
    """A browser asks without a token first, each time."""
    check = TokenCheck(Secret("secret-token"), clock=lambda: 100.0)
    assert {_refusal(check) for _ in range(50)} == {401}
    assert _refusal(check, "Bearer x") == 401


def test_guessers_from_many_addresses_take_no_more_room() -> None:
    check = TokenCheck(Secret("secret-token"), clock=lambda: 100.0)
    for number in range(10_000):
        _refusal(check, "Bearer x", remote=str(number))
    assert len(check._tries) == 4096
    for _ in range(10):
        _refusal(check, "Bearer x", remote="9999")
    assert _refusal(check, "Bearer x", remote="9999") == 429


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (_basic("admin:secret-token"), None),
        (_basic(":secret-token"), None),
        (_basic("anybody at all:secret-token").replace("Basic", "bAsIc"), None),
        ("Bearer secret-token", None),
        (_basic("secret-token"), 401),
        (_basic("secret-token:"), 401),
        (_basic("admin:secret-token:"), 401),
        (_basic("admin: secret-token"), 401),
        ("Basic secret-token", 401),
        ("Basic !!!", 401),
        ("Basic " + base64.b64encode(b"a:\xff").decode(), 401),
        ("Basic", 401),
        ("Digest secret-token", 401),
    ],
)
def test_for_reading_the_token_may_be_a_password(given: str, status: int | None) -> None:
    check = TokenCheck(Secret("secret-token"))
    assert _refusal(check, given, as_password=True) == status
    if given.lower().startswith("basic"):
        assert _refusal(check, given) == 401


# --- the rules -----------------------------------------------------------------------------------


@pytest.fixture
async def remote() -> AsyncIterator[int]:
    """A listener that other machines reach, as far as its rules are concerned."""
    routes = [web.get("/admin/status", _hello), web.post("/admin/reload", _hello)]
    app = make_admin(
        None,
        lambda: Readiness(ready=True),
        routes=routes,
        token=TokenCheck(Secret("secret-token")),
        anybody_reads=False,
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("method", "path", "authorization", "status", "challenge"),
    [
        ("GET", "/livez", None, 200, None),
        ("GET", "/readyz", None, 200, None),
        ("GET", "/metrics", None, 404, None),  # there are none here
        ("GET", "/", None, 401, "Basic"),
        ("GET", "/page/main.js", None, 401, "Basic"),
        ("GET", "/admin/status", None, 401, "Basic"),
        ("GET", "/admin/status", _basic("a:secret-token"), 200, None),
        ("GET", "/admin/status", "Bearer secret-token", 200, None),
        ("GET", "/", _basic("a:secret-token"), 200, None),
        ("POST", "/admin/reload", None, 401, "Bearer"),
        ("POST", "/admin/reload", _basic("a:secret-token"), 401, "Bearer"),
        ("POST", "/admin/reload", "Bearer secret-token", 200, None),
        ("GET", "/admin/nowhere", None, 404, None),
        ("POST", "/admin/status", None, 405, None),
    ],
)
async def test_where_other_machines_reach_it_looking_needs_the_token_too(
    remote: int,
    method: str,
    path: str,
    authorization: str | None,
    status: int,
    challenge: str | None,
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    async with (
        ClientSession() as session,
        session.request(method, f"http://127.0.0.1:{remote}{path}", headers=headers) as answer,
    ):
        assert answer.status == status
        asked = answer.headers.get("WWW-Authenticate")
        assert (None if asked is None else asked.partition(" ")[0]) == challenge
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_foreign_host_or_page_is_refused_before_its_token_is_looked_at(
    remote: int,
) -> None:
    token = {"Authorization": "Bearer secret-token"}
    url = f"http://127.0.0.1:{remote}/admin/reload"
    async with ClientSession() as session:
        async with session.post(url, headers=token | {"Host": "evil.example"}) as answer:
            assert answer.status == 421
        async with session.post(url, headers=token | {"Origin": "http://evil.example"}) as answer:
            assert answer.status == 403
