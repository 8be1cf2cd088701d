"""Who may use the operator's listener from a browser, and who may act by it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web
from multidict import CIMultiDict

from proxy.admin.guard import TokenCheck, harden, host_check, origin_check
from proxy.config import Secret


async def _hello(request: web.Request) -> web.Response:
    return web.Response(text="hello")


@pytest.fixture
async def port() -> AsyncIterator[int]:
    app = web.Application(middlewares=[host_check(frozenset({"proxy.example"})), origin_check])
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

    def __init__(self, *authorizations: str) -> None:
        self.headers = CIMultiDict(("Authorization", value) for value in authorizations)


def _refusal(check: TokenCheck, *authorizations: str) -> int | None:
    refusal = check.refusal(_Asked(*authorizations))  # type: ignore[arg-type]
    return None if refusal is None else refusal[0]


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
    now += 10.0
    assert [_refusal(check, "Bearer x"), _refusal(check, "Bearer x")] == [401, 429]
