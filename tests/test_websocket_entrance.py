"""Who may open a WebSocket: everything that is judged is judged before the upgrade."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.app import App
from proxy.core.wire import handshake
from proxy.errors import ClientError, Forbidden
from tests.fakes.keys import a_key, bearer, keyed
from tests.fakes.running import in_front_of, outcomes, running, samples
from tests.fakes.socket_server import ASKING, raw_socket
from tests.fakes.until import until
from tests.fakes.upstream import Call, ScriptedUpstream

CHATS = "/v1/chat/completions"
ROUTES = [{"name": "chats", "websocket": True}]
HOST, CONNECTION, UPGRADE, _, KEY_LINE = ASKING


async def no_answer(call: Call) -> None:
    raise AssertionError("the upstream was asked")


@asynccontextmanager
async def proxied(
    folder: Path, *, keys: bool = False, **settings: Any
) -> AsyncIterator[tuple[App, ScriptedUpstream]]:
    settings = {"routes": ROUTES, **settings}
    async with ScriptedUpstream(no_answer) as upstream:
        made = keyed if keys else in_front_of
        async with running(folder, made(upstream, folder, **settings)) as app:
            yield app, upstream


async def asked(app: App, *lines: str, path: str = CHATS) -> tuple[int, dict[str, str], Any]:
    """Status, headers and what a refusal said, for a handshake with these lines besides."""
    async with raw_socket(app.data_address, opened=False) as client:
        client.ask(*ASKING, *lines, path=path)
        status, headers = await client.head()
        body = b""
        if status != 101:
            body = await client.reader.readexactly(int(headers["content-length"]))
        return status, headers, orjson.loads(body) if body else None


def offered(key: str, *others: str) -> str:
    coded = base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
    return "Sec-WebSocket-Protocol: " + ", ".join([*others, f"glm-proxy-key.{coded}"])


# --- Origin --------------------------------------------------------------------------------------

LISTED = {"origins": ["https://app.example.com", "http://localhost:3000", "https://b.example:443"]}


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 101),
        ("https://app.example.com", 101),
        ("https://APP.example.com:443", 101),
        ("http://localhost:3000", 101),
        ("https://b.example", 101),
        ("http://app.example.com", 403),
        ("https://app.example.com:8443", 403),
        ("https://app.example.com.evil.test", 403),
        ("https://evil.test/https://app.example.com", 403),
        ("http://localhost", 403),
        ("http://proxy", 403),
        ("null", 403),
        ("", 403),
    ],
)
async def test_only_pages_that_are_listed_may(
    tmp_path: Path, origin: str | None, status: int
) -> None:
    """`proxy` is the Host of these requests: it makes no page ours."""
    async with proxied(tmp_path, websocket=LISTED) as (app, _):
        lines = [] if origin is None else [f"Origin: {origin}"]
        found, _, said = await asked(app, *lines)
        assert found == status
        if status == 403:
            assert said["error"]["code"] == "not_allowed"


async def test_without_a_list_no_page_may(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (app, _):
        assert (await asked(app, "Origin: http://proxy"))[0] == 403
        assert (await asked(app))[0] == 101


async def test_two_origins_are_none(tmp_path: Path) -> None:
    async with proxied(tmp_path, websocket=LISTED) as (app, _):
        line = "Origin: https://app.example.com"
        assert (await asked(app, line, line))[0] == 403


async def test_a_page_that_is_not_listed_learns_nothing_of_its_key(tmp_path: Path) -> None:
    async with proxied(tmp_path, keys=True, websocket=LISTED) as (app, _):
        made = await a_key(app)
        for key in (made.token, "wrong"):
            found = await asked(app, "Origin: https://evil.test", offered(key, "glm-proxy"))
            assert found[0] == 403
        assert (await asked(app, "Origin: https://evil.test"))[0] == 403


# --- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHATS, "/v1/realtime", "/v1/responses"])
async def test_without_a_good_key_nothing_is_upgraded_or_asked(tmp_path: Path, path: str) -> None:
    routes = [{"name": "all", "websocket": True, "responses": {}}]
    async with proxied(tmp_path, keys=True, routes=routes) as (app, upstream):
        status, headers, said = await asked(app, path=path)
        assert (status, said["error"]["code"]) == (401, "invalid_api_key")
        assert "www-authenticate" in headers
        assert (await asked(app, "Authorization: Bearer wrong", path=path))[0] == 401
        assert (await asked(app, offered("wrong", "glm-proxy"), path=path))[0] == 401
        assert upstream.calls == []


async def test_a_key_may_come_as_a_subprotocol_and_is_not_told_back(tmp_path: Path) -> None:
    async with proxied(tmp_path, keys=True) as (app, _):
        made = await a_key(app)
        status, headers, _ = await asked(app, bearer(made))
        assert (status, headers.get("sec-websocket-protocol")) == (101, None)
        status, headers, _ = await asked(app, offered(made.token, "glm-proxy"))
        assert (status, headers["sec-websocket-protocol"]) == (101, "glm-proxy")
        line = f"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{made.token}"
        status, headers, _ = await asked(app, line)
        assert (status, headers["sec-websocket-protocol"]) == (101, "realtime")
        status, headers, _ = await asked(app, offered(made.token))
        assert status == 101
        assert "sec-websocket-protocol" not in headers
        assert (await asked(app, bearer(made), offered(made.token, "glm-proxy")))[0] == 101


async def test_two_different_keys_are_refused(tmp_path: Path) -> None:
    async with proxied(tmp_path, keys=True) as (app, _):
        made = await a_key(app)
        assert (await asked(app, bearer(made), offered("another")))[0] == 400


async def test_a_key_in_a_subprotocol_is_never_logged(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {"log": {"format": "json", "level": "debug"}, "websocket": LISTED}
    async with proxied(tmp_path, keys=True, **settings) as (app, _):
        made = await a_key(app)
        coded = base64.urlsafe_b64encode(made.token.encode()).decode().rstrip("=")
        for lines in (
            (offered(made.token, "glm-proxy"),),
            (offered(made.token, "glm-proxy"), "Origin: https://evil.test"),
            (offered(made.token, "glm-proxy"), "Content-Length: 3"),
            (offered(made.token), "Authorization: Bearer another"),
        ):
            await asked(app, *lines)
        await until(lambda: not app._running)
        assert sum((await outcomes(app)).values()) == 4
        told = repr(await samples(app, "glm_proxy_exchanges_total"))
    captured = capfd.readouterr()
    told += captured.out + captured.err
    assert "chats" in told
    for secret in (made.token, coded, made.token[-12:], coded[-12:]):
        assert secret not in told


@pytest.mark.parametrize("text", ["", "!!!", "a", "/+==", "4pyT", "AAAA"])
def test_a_subprotocol_that_holds_no_key_is_refused(text: str) -> None:
    with pytest.raises(ClientError):
        handshake.caller_key([("Sec-WebSocket-Protocol", f"glm-proxy-key.{text}")])


def test_a_key_is_found_with_and_without_padding() -> None:
    for key in ("a", "ab", "abc", "id.secret~?>"):
        coded = base64.urlsafe_b64encode(key.encode()).decode()
        for text in (coded, coded.rstrip("=")):
            headers = [
                ("sec-websocket-protocol", "x, y"),
                ("Sec-WebSocket-Protocol", f"glm-proxy-key.{text}"),
            ]
            assert handshake.caller_key(headers) == key


def test_what_is_about_the_websocket_is_not_about_its_chats() -> None:
    headers = [
        *(("Host", "a"), ("Upgrade", "websocket"), ("connection", "upgrade"), ("Origin", "b")),
        *(("Sec-WebSocket-Key", "c"), ("Sec-WebSocket-Protocol", "d"), ("X-Session-Id", "e")),
    ]
    assert handshake.with_key(headers) == [("Host", "a"), ("X-Session-Id", "e")]


def test_origins_are_compared_as_browsers_write_them() -> None:
    handshake.check_origin([("origin", "https://a.test")], ["https://A.test:443"])
    with pytest.raises(Forbidden):
        handshake.check_origin([("origin", "https://a.test")], ["http://a.test:443"])


# --- the handshake, the route --------------------------------------------------------------------


async def test_another_version_is_told_which_one_is_spoken(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (app, _), raw_socket(app.data_address, opened=False) as client:
        client.ask(HOST, CONNECTION, UPGRADE, "Sec-WebSocket-Version: 8", KEY_LINE, path=CHATS)
        status, headers = await client.head()
        assert status == 426
        assert headers["sec-websocket-version"] == "13"
        assert headers["upgrade"] == "websocket"


async def test_a_bad_handshake_asks_nothing_of_a_realtime_upstream(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (app, upstream):
        async with raw_socket(app.data_address, opened=False) as client:
            client.ask(HOST, CONNECTION, UPGRADE, KEY_LINE, path="/v1/realtime")
            assert (await client.head())[0] == 426
        assert upstream.connections == 0 or upstream.calls == []


async def test_the_connection_serves_on_behind_a_refusal(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (app, _), raw_socket(app.data_address, opened=False) as client:
        client.ask(*ASKING, "Origin: https://evil.test", path=CHATS)
        status, headers = await client.head()
        assert status == 403
        await client.reader.readexactly(int(headers["content-length"]))
        client.ask(path=CHATS)
        assert (await client.head())[0] == 101


async def test_no_route_for_these_headers_is_no_websocket(tmp_path: Path) -> None:
    routes = [{"name": "some", "match": {"header": {"x-session-id": "w*"}}, "websocket": True}]
    async with proxied(tmp_path, routes=routes) as (app, _):
        assert (await asked(app))[0] == 403
        assert (await asked(app, "X-Session-Id: who"))[0] == 101


async def test_a_route_of_one_model_opens_the_socket_on_which_it_may_be_asked(
    tmp_path: Path,
) -> None:
    routes = [{"name": "one", "match": {"model": ["glm-4.6"]}, "websocket": True}]
    async with proxied(tmp_path, routes=routes) as (app, _):
        assert (await asked(app))[0] == 101


async def test_where_no_route_asks_for_them_there_are_none(tmp_path: Path) -> None:
    async with proxied(tmp_path, routes=[]) as (app, _):
        status, headers, _ = await asked(app)
        assert (status, headers["allow"]) == (405, "POST")
