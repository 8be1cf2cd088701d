"""`access: keys` on real sockets: who is let in, to what, and what the upstream sees of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from proxy.app import App
from proxy.config import load
from proxy.core.policy import access
from proxy.core.policy.access import revoked, rotated
from proxy.state.home import NOTHING_KNOWN, StateError
from tests.fakes.keys import UPSTREAM_KEY, a_key, bearer, keyed, save
from tests.fakes.operator import get
from tests.fakes.raw_client import Answer, RawClient, ask, chat
from tests.fakes.running import in_front_of, running, samples
from tests.fakes.upstream import Call, ScriptedUpstream

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
FIRST = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
LAST = b"data: [DONE]\n\n"


async def answer(call: Call) -> None:
    """A whole answer in the dialect of the path, streamed or not."""
    if b'"stream":true' in call.body:
        call.head()
        call.send(FIRST + LAST)
    else:
        call.head(200, content_type="application/json")
        call.send(b'{"id":"1","choices":[],"data":[]}')
    call.finish()


async def asked(address: tuple[str, int], *headers: str, path: str = CHAT, **fields: Any) -> Answer:
    return await ask(address, path, chat(stream=False, **fields), *headers)


async def _get(address: tuple[str, int], path: str, *headers: str) -> Answer:
    async with RawClient(address) as client:
        lines = (f"GET {path} HTTP/1.1", "Host: proxy", *headers, "", "")
        client.writer.write("\r\n".join(lines).encode())
        return await client.whole()


async def _refused(app: Any) -> dict[str, float]:
    found = await samples(app, "glm_proxy_unauthorized_total")
    return {labels["reason"]: value for labels, value in found}


# --- let in, and not ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, MESSAGES, "/v1/embeddings"])
@pytest.mark.parametrize(
    "header", ["Authorization: Bearer {}", "x-api-key: {}", "AUTHORIZATION:{}"]
)
async def test_a_key_lets_in_and_never_goes_upstream(
    tmp_path: Path, path: str, header: str
) -> None:
    async with (
        ScriptedUpstream(answer) as upstream,
        running(tmp_path, keyed(upstream, tmp_path)) as app,
    ):
        made = await a_key(app)
        got = await asked(app.data_address, header.format(made.token), path=path, max_tokens=5)
    assert got.status == 200
    (call,) = upstream.calls
    sent = " ".join(f"{name}: {value}" for name, value in call.headers.items())
    assert made.token[20:] not in sent + call.path + call.body.decode()
    assert made.key.id not in sent
    own = call.headers.get("authorization", call.headers.get("x-api-key"))
    assert own is not None
    assert own.removeprefix("Bearer ") == UPSTREAM_KEY
    assert made.token not in got.body.decode() + str(got.headers)


NO_KEY = {
    "nothing": [],
    "an empty bearer": ["Authorization: Bearer "],
    "a bearer of blanks": ["Authorization: Bearer   \t "],
    "an empty header": ["Authorization:", "x-api-key:"],
    "another header": ["api-key: sk-glm-x"],
    "a cookie": ["Cookie: Authorization=Bearer x"],
    "for a proxy": ["Proxy-Authorization: Bearer x"],
}


@pytest.mark.parametrize("case", NO_KEY)
async def test_who_shows_no_key_is_refused(tmp_path: Path, case: str) -> None:
    async with (
        ScriptedUpstream(answer) as upstream,
        running(tmp_path, keyed(upstream, tmp_path)) as app,
    ):
        await a_key(app)
        got = await asked(app.data_address, *NO_KEY[case])
        assert await _refused(app) == {"missing": 1.0}
    assert got.status == 401
    assert got.headers["www-authenticate"] == 'Bearer realm="glm-proxy"'
    assert got.json()["error"]["code"] == "invalid_api_key"
    assert upstream.calls == []


async def test_a_key_that_is_not_good_is_refused_and_not_told_why(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(answer) as upstream,
        running(tmp_path, keyed(upstream, tmp_path)) as app,
    ):
        now = time.time()
        good = await a_key(app)
        over = await a_key(app, now=now - 60, expires=now - 1)
        ended = await a_key(app)
        await save(app, revoked(ended.key, now))
        unknown = "sk-glm-000000000000-" + "0" * 43
        wrong = good.token[:-5] + "AAAAA"
        answers = [
            await asked(app.data_address, f"Authorization: Bearer {token}")
            for token in (unknown, wrong, UPSTREAM_KEY, over.token, ended.token)
        ]
        anthropic = await asked(app.data_address, f"x-api-key: {wrong}", path=MESSAGES)
        assert await _refused(app) == {"wrong": 4.0, "expired": 1.0, "revoked": 1.0}
    assert {one.status for one in answers} == {401}
    assert len({one.body for one in answers}) == 1
    ours = {frozenset(one.headers) for one in answers}
    assert len(ours) == 1
    assert anthropic.json()["type"] == "error"
    assert anthropic.json()["error"]["type"] == "authentication_error"
    assert upstream.calls == []


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (("Authorization: Bearer {0}", "x-api-key: {0}"), 200),
        (("Authorization: Bearer {0}", "Authorization: {0}"), 200),
        (("Authorization: Bearer {0}", "x-api-key: {1}"), 400),
        (("Authorization: Bearer {0}", "Authorization: Bearer {1}"), 400),
        (("x-api-key: {1}", "Authorization: Bearer {0}"), 400),
        (("Authorization: Bearer", "x-api-key: {0}"), 200),
        (("Authorization: bEaReR    {0}   ",), 200),
        (("Authorization: Basic {0}",), 401),
        (("Authorization: Bearer {0}, Bearer {1}",), 401),
    ],
)
async def test_two_keys_that_differ_are_no_key(
    tmp_path: Path, lines: tuple[str, ...], status: int
) -> None:
    async with (
        ScriptedUpstream(answer) as upstream,
        running(tmp_path, keyed(upstream, tmp_path)) as app,
    ):
        tokens = (await a_key(app)).token, (await a_key(app)).token
        got = await asked(app.data_address, *(line.format(*tokens) for line in lines))
    assert got.status == status
    assert len(upstream.calls) == (status == 200)


async def test_a_body_is_not_asked_for_before_it_is_known_who_sends_it(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(answer) as upstream,
        running(tmp_path, keyed(upstream, tmp_path)) as app,
        RawClient(app.data_address) as client,
    ):
        lines = (f"POST {CHAT} HTTP/1.1", "Host: proxy", "Content-Length: 9000000")
        client.writer.write("\r\n".join((*lines, "Expect: 100-continue", "", "")).encode())
        got = await client.whole()
    assert got.status == 401


async def test_a_revoked_key_ends_at_once_and_what_runs_goes_on(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def script(call: Call) -> None:
        call.head()
        call.send(FIRST)
        await go_on.wait()
        call.send(LAST)
        call.finish()

    async with (
        ScriptedUpstream(script) as upstream,
        running(tmp_path, keyed(upstream, tmp_path)) as app,
        RawClient(app.data_address) as client,
    ):
        made = await a_key(app)
        client.post(CHAT, chat(), bearer(made))
        assert (await client.head()).status == 200
        await client.chunk()
        await save(app, revoked(made.key, time.time()))
        assert (await asked(app.data_address, bearer(made))).status == 401
        go_on.set()
        rest = [await client.chunk(), await client.chunk()]
    assert rest == [LAST, b""]


async def test_both_tokens_of_a_key_let_in_while_it_is_rotated(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(answer) as upstream,
        running(tmp_path, keyed(upstream, tmp_path)) as app,
    ):
        first = await a_key(app)
        random = bytes(range(access.RANDOM_BYTES))
        second = rotated(first.key, random, time.time(), 3600)
        assert (await asked(app.data_address, bearer(second))).status == 401
        await save(app, second.key)
        assert (await asked(app.data_address, bearer(first))).status == 200
        assert (await asked(app.data_address, bearer(second))).status == 200


# --- what a key is for -------------------------------------------------------------------------

FAST = {"name": "fast", "match": {"model": ["glm-4.6", "glm-4-*"]}}


@pytest.mark.parametrize(
    ("scope", "path", "model", "status"),
    [
        ({"models": ["glm-4-*"]}, CHAT, "glm-4-flash", 200),
        ({"models": ["glm-4-*"]}, CHAT, "glm-4.6", 403),
        ({"models": ["glm-4-*"]}, MESSAGES, "glm-4.6", 403),
        ({"models": ["glm-4-*"]}, "/v1/embeddings", "glm-4-flash", 403),
        ({"models": ["*"]}, "/v1/embeddings", "glm-4-flash", 403),
        ({"routes": ["fast"]}, CHAT, "glm-4.6", 200),
        ({"routes": ["fast"]}, CHAT, "glm-z1", 403),
        ({"routes": ["fast"]}, "/v1/embeddings", "glm-4.6", 403),
        ({"routes": ["default"]}, "/v1/embeddings", "glm-4.6", 200),
        ({"routes": ["default"]}, CHAT, "glm-4.6", 403),
    ],
)
async def test_a_key_is_good_for_its_routes_and_models_alone(
    tmp_path: Path, scope: dict[str, Any], path: str, model: str, status: int
) -> None:
    async with (
        ScriptedUpstream(answer) as upstream,
        running(tmp_path, keyed(upstream, tmp_path, routes=[FAST])) as app,
    ):
        made = await a_key(app, **scope)
        got = await asked(app.data_address, bearer(made), path=path, model=model, max_tokens=5)
        refused = await _refused(app)
    assert got.status == status
    assert len(upstream.calls) == (status == 200)
    if status == 403:
        assert refused == {"scope": 1.0}
        assert got.json()["error"].get("code") == "not_allowed"


@pytest.mark.parametrize(
    ("scope", "listed"),
    [
        ({}, {"glm-4.6", "glm-4-flash", "glm-4.5"}),
        ({"models": ["glm-4-*"]}, {"glm-4-flash"}),
        ({"models": ["nothing"]}, set()),
        ({"routes": ["fast"]}, {"glm-4.6", "glm-4-flash"}),
        ({"routes": ["fast"], "models": ["glm-4.*"]}, {"glm-4.6"}),
    ],
)
@pytest.mark.parametrize("headers", [[], ["anthropic-version: 2023-06-01"]])
async def test_the_models_that_are_listed_are_those_it_may_ask_for(
    tmp_path: Path, scope: dict[str, Any], listed: set[str], headers: list[str]
) -> None:
    async with (
        ScriptedUpstream(answer) as upstream,
        running(tmp_path, keyed(upstream, tmp_path, routes=[FAST])) as app,
    ):
        made = await a_key(app, **scope)
        assert (await _get(app.data_address, "/v1/models", *headers)).status == 401
        got = await _get(app.data_address, "/v1/models", bearer(made), *headers)
    names = {one["id"] for one in got.json()["data"]}
    asked_for = {"glm-4.6", "glm-4-flash", "glm-4.5"}
    assert names & asked_for == listed
    if not listed:
        assert names == set()


async def test_a_route_takes_the_callers_whose_key_has_that_name(tmp_path: Path) -> None:
    batch = {
        "name": "batch",
        "match": {"key": ["batch-*", "night"]},
        "candidates": [{"model": "b"}],
    }
    async with (
        ScriptedUpstream(answer) as upstream,
        running(tmp_path, keyed(upstream, tmp_path, routes=[batch])) as app,
    ):
        routes = []
        for name in ("batch-1", "night", "nights", "team-a"):
            made = await a_key(app, name)
            got = await asked(app.data_address, bearer(made))
            routes.append(got.headers["x-glm-proxy-route"])
    assert routes == ["batch", "batch", "default", "default"]
    assert [orjson.loads(call.body)["model"] for call in upstream.calls[:3]] == [
        "b",
        "b",
        "glm-4.6",
    ]


# --- fails closed ------------------------------------------------------------------------------


def _break_identify(monkeypatch: pytest.MonkeyPatch, app: Any) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("sk-glm-canary")

    monkeypatch.setattr(access, "identify", broken)


def _break_scope(monkeypatch: pytest.MonkeyPatch, app: Any) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("sk-glm-canary")

    monkeypatch.setattr(access, "may_use", broken)


def _lose_the_home(monkeypatch: pytest.MonkeyPatch, app: Any) -> None:
    app._know(NOTHING_KNOWN)


def _damage_the_key(monkeypatch: pytest.MonkeyPatch, app: Any) -> None:
    for key in app.home._keys.values():
        object.__setattr__(key, "secrets", ((b"", None, None),))


@pytest.mark.parametrize(
    "break_it", [_break_identify, _break_scope, _lose_the_home, _damage_the_key]
)
@pytest.mark.parametrize("path", [CHAT, MESSAGES, "/v1/embeddings"])
async def test_where_it_cannot_be_told_who_asks_nobody_is_let_in(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_it: Callable[[pytest.MonkeyPatch, Any], None],
    path: str,
) -> None:
    async with (
        ScriptedUpstream(answer) as upstream,
        running(tmp_path, keyed(upstream, tmp_path)) as app,
    ):
        made = await a_key(app)
        break_it(monkeypatch, app)
        got = await asked(app.data_address, bearer(made), path=path)
    assert got.status == 503
    assert b"access_unknown" in got.body
    assert b"canary" not in got.body
    assert upstream.calls == []


# --- with access: open -------------------------------------------------------------------------


async def test_who_follows_another_process_does_not_take_over_without_the_keys(
    tmp_path: Path,
) -> None:
    pytest.importorskip("redis")
    text = yaml.safe_dump(
        {
            "server": {"port": 0},
            "admin": {"port": 0},
            "access": "keys",
            "state": "redis://127.0.0.1:1",
            "endpoints": [{"name": "up", "base_url": "http://127.0.0.1:1", "api_key": "env:KEY"}],
        }
    )
    (tmp_path / "proxy.yaml").write_text(text)
    app = App(load(tmp_path / "proxy.yaml", {"KEY": UPSTREAM_KEY}))
    with pytest.raises(StateError, match="the keys are not known"):
        await app.start(follows=True)
    assert app.data_address == ("", 0)
    await app.stop(0)


async def test_while_the_keys_are_not_known_it_is_not_ready(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(answer) as upstream,
        running(tmp_path, keyed(upstream, tmp_path)) as app,
    ):
        host, port = app.admin_address
        known = await app.home.open()
        found = []
        for registry in (NOTHING_KNOWN, known):
            app._know(registry)
            found.append(await get(f"http://{host}:{port}/readyz"))
    assert [one.status for one in found] == [503, 200]
    assert "the keys are not known" in found[0].json()["reasons"][0]


@pytest.mark.parametrize("path", [CHAT, MESSAGES, "/v1/embeddings"])
async def test_with_open_access_a_callers_key_stays_here_where_the_endpoint_has_its_own(
    tmp_path: Path, path: str
) -> None:
    async with ScriptedUpstream(answer) as upstream:
        settings = keyed(upstream, tmp_path) | {"access": "open"}
        async with running(tmp_path, settings) as app:
            lines = ("Authorization: Bearer sk-callers-own", "x-api-key: sk-callers-own")
            got = await asked(app.data_address, *lines, path=path)
    assert got.status == 200
    (call,) = upstream.calls
    assert "sk-callers-own" not in str(call.headers)
    assert UPSTREAM_KEY in str(call.headers)


async def test_with_open_access_keys_are_not_looked_at(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(answer) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
    ):
        made = await a_key(app, models=["nothing"])
        assert (await asked(app.data_address, bearer(made))).status == 200
        assert (await asked(app.data_address)).status == 200


@pytest.mark.parametrize("name", ["Authorization: Bearer", "x-api-key:"])
async def test_with_open_access_a_key_that_is_not_utf_8_is_one_like_others(
    tmp_path: Path, name: str
) -> None:
    async with (
        ScriptedUpstream(answer) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
    ):
        assert (await asked(app.data_address, f"{name} key-\udcff")).status == 200
    (call,) = upstream.calls
    assert "key-" not in str(call.headers)  # what cannot be sent as it is stays here


# --- what is told of it ------------------------------------------------------------------------


async def test_the_log_tells_a_key_by_name_and_id(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(answer) as upstream,
        running(tmp_path, keyed(upstream, tmp_path)) as app,
    ):
        made = await a_key(app, models=["glm-4.6"])
        await asked(app.data_address, bearer(made), "x-request-id: good")
        await asked(app.data_address, bearer(made), "x-request-id: scope", model="other")
        await asked(app.data_address, "x-api-key: x", "x-request-id: wrong")
        host, port = app.admin_address
        url = f"http://{host}:{port}/admin/exchanges"
        told = {name: (await get(f"{url}/{name}")).json() for name in ("good", "scope", "wrong")}
        everything = (await get(f"{url}?kind=recent")).body
    assert (told["good"]["key"], told["good"]["refused"]) == (made.key.label, None)
    assert (told["scope"]["key"], told["scope"]["refused"]) == (made.key.label, "scope")
    assert (told["wrong"]["key"], told["wrong"]["refused"]) == (None, "wrong")
    assert made.token[20:] not in str(told) + everything.decode()
