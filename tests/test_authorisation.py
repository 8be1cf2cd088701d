"""Every route × every kind of credential × odd hosts, paths and methods: nobody gets what is not
theirs, on raw sockets. Generated from the tables of routes, so that a new one is in it."""

from __future__ import annotations

import asyncio
import base64
import itertools
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import web

from proxy.admin.app import Readiness, make_admin
from proxy.admin.rules import RULES, Rule, rule_of
from proxy.app import App
from proxy.core.policy.access import revoked
from proxy.core.wire import target as table
from proxy.core.wire.target import Kind
from tests.fakes.asking import Got, ask_all
from tests.fakes.keys import UPSTREAM_KEY, a_key, keyed, save
from tests.fakes.raw_client import chat
from tests.fakes.running import running
from tests.fakes.upstream import Call, ScriptedUpstream

TOKEN = "operator-c0ffee5f91d2ab70"
MODEL = "glm-4.6"
METHODS = (
    *("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"),
    *("TRACE", "CONNECT", "FOO", "get"),
)
HOSTS: dict[str, tuple[str, ...]] = {
    "an odd name": ("evil.example",),
    "the other listener": ("127.0.0.1:9090",),
    "an allowed name and more": ("localhost.evil.example",),
    "a user before it": ("admin@127.0.0.1",),
    "a path in it": ("127.0.0.1/admin/keys",),
    "none": (),
    "an empty one": ("",),
    "two": ("127.0.0.1", "evil.example"),
    "a blank in it": ("127.0.0.1 evil",),
}
HARMLESS = frozenset({"the other listener"})
"""Hosts that the admin listener takes for its own."""


def _spellings(path: str) -> dict[str, str]:
    """Targets that a careless parser reads as `path`."""
    first, rest = path[1:].partition("/")[0], path[1:].partition("/")[2]
    whole = path.rstrip("/")
    return {
        "up and down": f"/x/..{path}",
        "up and down, encoded": f"/x/%2e%2e{path}",
        "half encoded": f"/x/.%2E{path}",
        "two slashes": f"/{path}",
        "two slashes inside": f"/{first}//{rest}",
        "a slash at its end": f"{whole}/",
        "a parameter": f"{whole};x=1",
        "a parameter before": f"/;{path}",
        "an encoded slash": f"/{first}%2f{rest}",
        "an encoded letter": f"/%{ord(first[0]):02x}{first[1:]}/{rest}" if first else "/%2f",
        "encoded twice": f"/%25{ord(first[0]):02x}{first[1:]}/{rest}" if first else "/%252f",
        "in capitals": path.upper() if path != "/" else "/.",
        "a backslash": path.replace("/", "\\"),
        "a whole URL": f"http://127.0.0.1{path}",
        "a whole URL of elsewhere": f"http://evil.example{path}",
        "a dot": f"/.{path}",
        "a zero byte": f"{path}%00",
        "a fragment": f"{path}#x",
    }


class Case(NamedTuple):
    """One request."""

    route: str
    who: str
    odd: str
    """What is odd about it; empty: nothing."""
    raw: bytes
    may: bool
    """It may be answered with success."""
    must: bool
    """It is to be let in."""


def _raw(
    method: str, path: str, hosts: tuple[str, ...], lines: tuple[str, ...], body: bytes
) -> bytes:
    head = [f"{method} {path} HTTP/1.1", *(f"Host: {host}" for host in hosts), *lines]
    if method in ("POST", "PUT", "PATCH"):
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    else:
        body = b""
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


def _oddities(method: str, path: str, most: int) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """What is odd, method, path, hosts: nothing, one of them, up to `most` together."""
    spellings = {"": path, **_spellings(path)}
    hosts = {"": ("127.0.0.1",), **HOSTS}
    methods = {"": method} | {one: one for one in METHODS if one != method}
    for (a, used), (b, spelt), (c, named) in itertools.product(
        methods.items(), spellings.items(), hosts.items()
    ):
        odd = [one for one in (a, b, c) if one]
        if len(odd) <= most:
            yield ", ".join(odd), used, spelt, named


# --- the data listener -------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """A credential as it is shown, and which model and route it is for."""

    lines: tuple[str, ...]
    is_good: bool = False
    chats: bool = True
    passes: bool = True


async def _keys(app: App) -> dict[str, Key]:
    now = time.time()
    good = await a_key(app, "good")
    over = await a_key(app, "over", now=now - 60, expires=now - 1)
    ended = await a_key(app, "ended")
    await save(app, revoked(ended.key, now))
    model = await a_key(app, "model", models=[MODEL])
    other = await a_key(app, "other", models=["glm-4-flash"])
    nowhere = await a_key(app, "nowhere", routes=["none-of-these"])
    whole = f"Authorization: Bearer {good.token}"
    return {
        "no key": Key(()),
        "an empty key": Key(("Authorization: Bearer ",)),
        "a wrong key": Key((f"Authorization: Bearer {good.token[:-4]}AAAA",)),
        "an unknown key": Key(("x-api-key: sk-glm-000000000000-" + "0" * 43,)),
        "its id alone": Key((f"x-api-key: {good.key.id}",)),
        "an expired key": Key((f"Authorization: Bearer {over.token}",)),
        "a revoked key": Key((f"x-api-key: {ended.token}",)),
        "the admin token": Key((f"Authorization: Bearer {TOKEN}",)),
        "the upstream's key": Key((f"Authorization: Bearer {UPSTREAM_KEY}",)),
        "two keys": Key((whole, f"x-api-key: {model.token}")),
        "a good key": Key((whole,), is_good=True),
        "a good key as x-api-key": Key((f"x-api-key: {good.token}",), is_good=True),
        "a key for the model": Key((f"x-api-key: {model.token}",), is_good=True, passes=False),
        "a key for another model": Key(
            (f"Authorization: Bearer {other.token}",), is_good=True, chats=False, passes=False
        ),
        "a key for another route": Key(
            (f"Authorization: Bearer {nowhere.token}",), is_good=True, chats=False, passes=False
        ),
    }


def _targets() -> Iterator[tuple[str, str, Kind]]:
    """Method, path and kind of everything the data listener serves."""
    for path, target in table._OWN.items():
        yield table._ALLOWED[target.kind][0], path, target.kind
    for prefix in table._PREFIXES:
        yield "POST", f"{prefix}/matrix", Kind.PASSTHROUGH
        yield "GET", f"{prefix}/matrix/x", Kind.PASSTHROUGH
    for path in ("/v1/memory", "/v1/memory/matrix"):
        yield "DELETE", path, Kind.MEMORY


def _data_cases(keys: dict[str, Key], *, most: int) -> Iterator[Case]:
    body = chat(MODEL, stream=False, max_tokens=5)
    for (method, path, kind), (who, key) in itertools.product(_targets(), keys.items()):
        for odd, used, spelt, named in _oddities(method, path, most):
            plain = spelt == path and used in table._ALLOWED[kind]
            is_for = {Kind.CHAT: key.chats, Kind.PASSTHROUGH: key.passes}.get(kind, True)
            may = key.is_good and is_for and plain
            raw = _raw(used, spelt, named, key.lines, body)
            marker = f"x-client-request-id: {'may' if may else 'must-not'}".encode()
            raw = raw.replace(b"\r\n", b"\r\n" + marker + b"\r\n", 1)
            yield Case(path, who, odd, raw, may, may and not odd)


async def _say_yes(call: Call) -> None:
    call.head(200, content_type="application/json")
    call.send(b'{"id":"1","choices":[],"content":[]}')
    call.finish()


def _is_success(got: Got) -> bool:
    return 200 <= got.status < 400


def _wrong(cases: list[Case], answers: list[Got]) -> list[str]:
    """What is not as it has to be; the first few."""
    found = []
    for case, got in zip(cases, answers, strict=True):
        if _is_success(got) and not case.may:
            found.append(f"let in: {case.who} to {case.route} ({case.odd}): {got.status}")
        if case.must and got.status in (0, 401, 403, 421, 429):
            found.append(f"kept out: {case.who} from {case.route} ({case.odd}): {got.status}")
    return found[:20]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("most", [1, pytest.param(2, marks=pytest.mark.long)])
async def test_the_data_listener_serves_nobody_without_a_key_that_is_for_it(
    tmp_path: Path, most: int
) -> None:
    async with (
        ScriptedUpstream(_say_yes) as upstream,
        running(tmp_path, _settings(upstream, tmp_path)) as app,
    ):
        keys = await _keys(app)
        cases = list(_data_cases(keys, most=most))
        answers = await ask_all(app.data_address, [case.raw for case in cases])
    assert _wrong(cases, answers) == []
    plain = Counter(
        (case.who, got.status)
        for case, got in zip(cases, answers, strict=True)
        if not case.odd and case.who in ("no key", "a good key", "a key for another model")
    )
    assert {status for who, status in plain if who == "no key"} == {401}
    assert {status for who, status in plain if who == "a good key"} == {200}
    assert {status for who, status in plain if who == "a key for another model"} == {200, 403}
    reached = Counter(call.headers["x-client-request-id"] for call in upstream.calls)
    assert set(reached) == {"may"}
    for call in upstream.calls:
        sent = f"{call.path} {call.headers}"
        assert UPSTREAM_KEY in sent
        assert "sk-glm-" not in sent
    assert len(cases) >= 5000


def _settings(upstream: ScriptedUpstream, folder: Path) -> dict[str, Any]:
    token = folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    remembering = {
        "name": "remembering",
        "match": {"model": ["none-of-these"]},
        "candidates": [{"model": MODEL, "endpoint": "up"}],
        "memory": {"store": "sqlite:memory.db"},
    }
    admin = {"port": 0, "token": f"file:{token}"}
    return keyed(upstream, folder, admin=admin, routes=[remembering])


# --- the admin listener ------------------------------------------------------------------------

_NAMES = {"{id}": "k3v9x0q1w2e3", "{model}": "glm-4.6", "{name}": "style.css"}


def _basic(password: str) -> str:
    return "Authorization: Basic " + base64.b64encode(f"admin:{password}".encode()).decode()


def _who(data_key: str) -> dict[str, tuple[tuple[str, ...], frozenset[Rule]]]:
    """Credentials, and what they open beyond what is open to all."""
    nothing: frozenset[Rule] = frozenset()
    return {
        "nobody": ((), nothing),
        "a wrong token": ((f"Authorization: Bearer {TOKEN[:-1]}",), nothing),
        "an empty token": (("Authorization: Bearer ",), nothing),
        "a wrong password": ((_basic(TOKEN + "x"),), nothing),
        "a data key": ((f"Authorization: Bearer {data_key}",), nothing),
        "a data key as x-api-key": ((f"x-api-key: {data_key}",), nothing),
        "the token as x-api-key": ((f"x-api-key: {TOKEN}",), nothing),
        "the token as a cookie": (
            (f"Cookie: token={TOKEN}; Authorization=Bearer {TOKEN}",),
            nothing,
        ),
        "the token twice": ((f"Authorization: Bearer {TOKEN}",) * 2, nothing),
        "the password": ((_basic(TOKEN),), frozenset({Rule.READ})),
        "the token": ((f"Authorization: Bearer {TOKEN}",), frozenset({Rule.READ, Rule.ACT})),
    }


def _admin_cases(
    who: dict[str, tuple[tuple[str, ...], frozenset[Rule]]],
    *,
    anybody_reads: bool,
    most: int,
) -> Iterator[Case]:
    to_all = {Rule.PUBLIC, Rule.SCRAPE} | ({Rule.READ} if anybody_reads else set())
    for (method, pattern), (name, (lines, opens)) in itertools.product(RULES, who.items()):
        path = pattern
        for hole, value in _NAMES.items():
            path = path.replace(hole, value)
        for odd, used, spelt, named in _oddities(method, path, most):
            rule = RULES.get(("GET" if used == "HEAD" else used, pattern))
            ours = named == ("127.0.0.1",) or any(HOSTS[one] == named for one in HARMLESS)
            may = rule is not None and ours and (rule in to_all or rule in opens)
            yield Case(
                f"{method} {pattern}",
                name,
                odd,
                _raw(used, spelt, named, lines, b""),
                may,
                may and not odd,
            )


@pytest.mark.timeout(900)
@pytest.mark.parametrize("most", [1, pytest.param(2, marks=pytest.mark.long)])
@pytest.mark.parametrize("anybody_reads", [True, False])
async def test_the_admin_listener_shows_and_does_nothing_without_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anybody_reads: bool, most: int
) -> None:
    # What decides is whether the listener is on loopback; these tests bind to nothing else.
    monkeypatch.setattr("proxy.desk.is_loopback", lambda host: anybody_reads)
    async with (
        ScriptedUpstream(_say_yes) as upstream,
        running(tmp_path, _settings(upstream, tmp_path)) as app,
    ):
        made = await a_key(app)
        who = _who(made.token)
        cases = list(_admin_cases(who, anybody_reads=anybody_reads, most=most))
        answers = await ask_all(app.admin_address, [case.raw for case in cases])
        assert list((await app.home.open()).keys) == [made.key.id]
    assert _wrong(cases, answers) == []
    told = b"".join(got.body for got in answers)
    assert TOKEN.encode() not in told
    assert made.token[20:].encode() not in told
    assert UPSTREAM_KEY.encode() not in told
    assert upstream.calls == []
    assert len(cases) >= 5000


@pytest.mark.parametrize(
    "lines",
    [
        ("FOO /canary HTTP/1.1", "Host: a"),
        ("GET / HTTP/1.1", "Host: 127.0.0.1", "Authorization : canary"),
        ("GET / HTTP/1.1", "Host: 127.0.0.1", "Host: canary"),
        ("GET / HTTP/1.1", "Host: 127.0.0.1", "X: " + "canary" * 3000),
        ("GET canary HTTP/1.1", "Host: 127.0.0.1"),
        ("canary",),
    ],
)
async def test_what_is_no_http_is_neither_quoted_nor_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, lines: tuple[str, ...]
) -> None:
    async with (
        ScriptedUpstream(_say_yes) as upstream,
        running(tmp_path, _settings(upstream, tmp_path)) as app,
    ):
        reader, writer = await asyncio.open_connection(*app.admin_address)
        writer.write("\r\n".join((*lines, "", "")).encode())
        answer = (await asyncio.wait_for(reader.read(), 10)).lower()
        writer.close()
    assert answer.startswith(b"http/1.0 400 ")
    assert b"server: glm-proxy\r\n" in answer
    assert b"x-content-type-options: nosniff" in answer
    assert b"canary" not in answer
    assert caplog.text == ""


async def test_every_route_of_the_admin_listener_has_a_rule_and_every_rule_a_route(
    tmp_path: Path,
) -> None:
    async with (
        ScriptedUpstream(_say_yes) as upstream,
        running(tmp_path, _settings(upstream, tmp_path)) as app,
    ):
        runner = app._desk._runner
        assert runner is not None
        routes = list(runner.app.router.routes())
    assert {rule_of(route) for route in routes} == set(Rule)
    served = {
        (route.method, route.resource.canonical)
        for route in routes
        if route.resource is not None and route.method != "HEAD"
    }
    assert served == set(RULES)


async def _hello(request: web.Request) -> web.Response:
    return web.Response()


@pytest.mark.parametrize(
    "route",
    [
        web.get("/admin/new", _hello),
        web.post("/admin/status", _hello),
        web.route("*", "/admin/page", _hello),
        web.static("/files", Path(__file__).parent),
    ],
)
def test_an_application_with_a_route_without_a_rule_is_not_made(
    route: web.AbstractRouteDef,
) -> None:
    with pytest.raises(LookupError, match=r"has no rule in proxy\.admin\.rules"):
        make_admin(None, lambda: Readiness(ready=True), routes=[route])
