"""Prompts from the operator's page: through the proxy and past it, on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.app import App
from proxy.core.wire.sse import Decoder
from tests.fakes.running import in_front_of, running
from tests.fakes.upstream import SSE, Call, ScriptedUpstream

TOKEN = "operator-token-1"
KEY = "0123456789abcdef0123456789abcdef.Upstream-Secret"


def _event(**delta: str) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return b"data: " + orjson.dumps({"id": "1", "model": "glm-4.6", "choices": [choice]}) + b"\n\n"


LAST = (
    b'data: {"id":"1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}\n\ndata: [DONE]\n\n'
)


async def _answer(call: Call) -> None:
    call.head(200, **{"content-type": SSE})
    call.send(_event(reasoning_content="think"))
    call.send(_event(content="Hello"))
    call.send(LAST)
    call.finish()


@asynccontextmanager
async def _proxy(
    upstream: ScriptedUpstream, folder: Path, *, token: bool = True, key: bool = True
) -> AsyncIterator[App]:
    settings = in_front_of(upstream, folder)
    if key:
        (folder / "key").write_text(KEY)
        settings["endpoints"][0]["api_key"] = "file:key"
    (folder / "token").write_text(TOKEN)
    settings["admin"] = {"port": 0, **({"token": "file:token"} if token else {})}
    async with running(folder, settings) as app:
        yield app


class _Sent:
    """What came back for one prompt."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self.body = body
        events = Decoder().feed(body) if status == 200 else []
        self.events = [(event.name.decode(), orjson.loads(event.data)) for event in events]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events]

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.body)["error"]
        return found


async def _send(app: App, order: object, *, token: str | None = TOKEN, **headers: str) -> _Sent:
    host, port = app.admin_address
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    data = order if isinstance(order, bytes) else orjson.dumps(order)
    headers.setdefault("Content-Type", "application/json")
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"http://{host}:{port}/admin/playground", data=data, headers=headers
        ) as answer,
    ):
        return _Sent(answer.status, await answer.read())


PROXIED = {"way": "proxied", "model": "glm-4.6", "prompt": "hi"}
DIRECT = {"way": "direct", "model": "glm-4.6", "prompt": "hi", "endpoint": "up"}


@pytest.mark.parametrize("order", [PROXIED, DIRECT], ids=["proxied", "direct"])
@pytest.mark.parametrize("h2", [False, True])
async def test_a_prompt_is_answered_event_by_event_with_the_time_of_each(
    tmp_path: Path, order: dict[str, str], h2: bool
) -> None:
    upstream = ScriptedUpstream(_answer, h2=h2, alpn=("h2", "http/1.1"))
    async with upstream, _proxy(upstream, tmp_path) as app:
        sent = await _send(app, {**order, "max_tokens": 99, "thinking": "enabled"})
    assert sent.names == ["head", "delta", "delta", "done"]
    (_, head), (_, first), (_, second), (_, done) = sent.events
    assert head["status"] == 200
    assert ("x-glm-proxy-model" in head["headers"]) == (order is PROXIED)
    assert (first["kind"], first["text"]) == ("reasoning", "think")
    assert (second["kind"], second["text"]) == ("content", "Hello")
    assert done["finish_reason"] == "stop"
    assert done["usage"]["completion_tokens"] == 2
    times = [fields["t_s"] for _, fields in sent.events]
    assert times == sorted(times)
    assert 0 < done["ttft_s"] <= done["first_content_s"] <= done["t_s"]
    (call,) = upstream.calls
    asked = orjson.loads(call.body)
    assert asked["messages"] == [{"role": "user", "content": "hi"}]
    assert (asked["max_tokens"], asked["thinking"]) == (99, {"type": "enabled"})
    assert call.headers["authorization"] == f"Bearer {KEY}"


async def test_a_token_reaches_the_page_before_the_next_is_written(tmp_path: Path) -> None:
    seen = asyncio.Event()

    async def script(call: Call) -> None:
        call.head(200, **{"content-type": SSE})
        call.send(_event(content="one"))
        await seen.wait()
        call.send(_event(content="two"))
        call.send(LAST)
        call.finish()

    upstream = ScriptedUpstream(script)
    async with upstream, _proxy(upstream, tmp_path) as app:
        host, port = app.admin_address
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"http://{host}:{port}/admin/playground", json=PROXIED, headers=headers
            ) as answer,
        ):
            text = b""
            while b'"one"' not in text:
                text += await answer.content.readany()
            assert b'"two"' not in text
            seen.set()
            assert b'"two"' in await answer.read()


async def test_the_upstream_is_left_when_the_page_leaves(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        call.head(200, **{"content-type": SSE})
        call.send(_event(content="one"))
        await call.gone.wait()

    for order in (PROXIED, DIRECT):
        upstream = ScriptedUpstream(script)
        async with upstream, _proxy(upstream, tmp_path) as app:
            host, port = app.admin_address
            headers = {"Authorization": f"Bearer {TOKEN}"}
            async with (
                aiohttp.ClientSession() as session,
                session.post(
                    f"http://{host}:{port}/admin/playground", json=order, headers=headers
                ) as answer,
            ):
                await answer.content.readany()
                answer.close()
            async with asyncio.timeout(10):
                await upstream.calls[0].gone.wait()


async def test_errors_are_told_as_events_and_no_key_is_in_them(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        call.head(401, **{"content-type": "application/json"})
        call.send(orjson.dumps({"error": {"code": "1000", "message": f"bad key {KEY}"}}))
        call.finish()

    upstream = ScriptedUpstream(script)
    async with upstream, _proxy(upstream, tmp_path) as app:
        for order in (PROXIED, DIRECT):
            sent = await _send(app, order)
            assert sent.names == ["head", "error"]
            error = sent.events[1][1]
            assert (error["status"], error["code"]) == (401, "1000")
            assert error["message"].startswith("bad key ")
            assert b"Upstream-Secret" not in sent.body


async def test_a_cut_stream_and_an_error_in_a_stream_are_no_whole_answers(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        call.head(200, **{"content-type": SSE})
        call.send(_event(content="one"))
        if call.headers["authorization"].endswith("error"):
            call.send(b'data: {"error":{"code":"1234","message":"network"}}\n\n')
            call.send(b"data: [DONE]\n\n")
        call.finish()

    upstream = ScriptedUpstream(script)
    async with upstream, _proxy(upstream, tmp_path, key=False) as app:
        for key, code in (("cut", "cut"), ("error", "1234")):
            sent = await _send(app, {**DIRECT, "key": key})
            assert sent.names == ["head", "delta", "error"]
            assert sent.events[-1][1]["code"] == code


async def test_of_a_stream_that_the_proxy_cuts_the_cause_is_told_and_not_the_cut(
    tmp_path: Path,
) -> None:
    """The proxy tells an error, and then breaks the stream off."""

    async def script(call: Call) -> None:
        call.head(200, **{"content-type": SSE})
        call.send(_event(content="one"))
        await asyncio.sleep(0.05)
        call.finish("close")

    upstream = ScriptedUpstream(script)
    async with upstream, _proxy(upstream, tmp_path) as app:
        sent = await _send(app, PROXIED)
    assert sent.names == ["head", "delta", "error"]
    assert sent.events[-1][1]["code"] != "connection"


async def test_what_no_upstream_should_say_breaks_no_answer(tmp_path: Path) -> None:
    """Any byte in a header; values of another type, and nested deeper than can be written."""
    nested = b"[" * 600 + b"]" * 600
    last = b'{"choices":[{"delta":{},"finish_reason":%b}],"usage":{"prompt_tokens":5,"x":%b}}'

    async def script(call: Call) -> None:
        call.head(200, **{"content-type": SSE, "x-log-id": "\xfc\xff"})
        call.send(_event(content="one"))
        call.send(b"data: " + last % (nested, nested) + b"\n\ndata: [DONE]\n\n")
        call.finish()

    upstream = ScriptedUpstream(script)
    async with upstream, _proxy(upstream, tmp_path) as app:
        for order in (PROXIED, DIRECT):
            sent = await _send(app, order)
            assert sent.names == ["head", "delta", "done"]
            expected = "\xfc\xff" if order is PROXIED else "\ufffd\ufffd"
            assert sent.events[0][1]["headers"]["x-log-id"] == expected
            done = sent.events[-1][1]
            assert (done["finish_reason"], done["usage"]) == (None, {"prompt_tokens": 5})


async def test_an_endpoint_that_is_down_is_told(tmp_path: Path) -> None:
    upstream = ScriptedUpstream(_answer)
    async with upstream, _proxy(upstream, tmp_path) as app:
        await upstream.__aexit__(None, None, None)
        direct = await _send(app, DIRECT)
        proxied = await _send(app, PROXIED)
        await upstream.__aenter__()
    assert direct.names == ["error"]
    assert direct.events[0][1]["code"] == "connection"
    assert proxied.names == ["head", "error"]
    assert proxied.events[1][1]["status"] in (502, 503)


@pytest.mark.parametrize(
    ("token", "headers", "status"),
    [
        (None, {}, 401),
        ("wrong", {}, 401),
        (TOKEN, {"Origin": "http://evil.example"}, 403),
        (TOKEN, {"Host": "evil.example"}, 421),
        (TOKEN, {"Content-Type": "text/plain"}, 415),
    ],
)
async def test_only_who_knows_the_token_may_send_and_no_foreign_page(
    tmp_path: Path, token: str | None, headers: dict[str, str], status: int
) -> None:
    upstream = ScriptedUpstream(_answer)
    async with upstream, _proxy(upstream, tmp_path) as app:
        assert (await _send(app, PROXIED, token=token, **headers)).status == status
        assert upstream.calls == []


async def test_without_a_token_in_the_settings_nothing_is_sent(tmp_path: Path) -> None:
    upstream = ScriptedUpstream(_answer)
    async with upstream, _proxy(upstream, tmp_path, token=False) as app:
        sent = await _send(app, PROXIED)
        assert (sent.status, sent.error["code"]) == (403, "no_token")
        assert "admin.token" in sent.error["message"]
        assert upstream.calls == []


@pytest.mark.parametrize(
    ("order", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b"[]", "body"),
        ({**PROXIED, "way": "sideways"}, "way"),
        ({**PROXIED, "model": ""}, "model"),
        ({**PROXIED, "model": "a\r\nb"}, "model"),
        ({**PROXIED, "prompt": ""}, "prompt"),
        ({**PROXIED, "prompt": 7}, "prompt"),
        ({**PROXIED, "max_tokens": 0}, "max_tokens"),
        ({**PROXIED, "max_tokens": "many"}, "max_tokens"),
        ({**PROXIED, "thinking": "maybe"}, "thinking"),
        ({**PROXIED, "key": "a\r\nb"}, "key"),
        ({**PROXIED, "url": "http://10.0.0.1/"}, "url"),
        ({**DIRECT, "endpoint": "http://10.0.0.1/"}, "endpoint"),
        ({**DIRECT, "endpoint": "unknown"}, "endpoint"),
    ],
)
async def test_a_wrong_order_is_refused_by_the_name_of_its_field(
    tmp_path: Path, order: object, field: str
) -> None:
    upstream = ScriptedUpstream(_answer)
    async with upstream, _proxy(upstream, tmp_path) as app:
        sent = await _send(app, order)
        assert sent.status == 400
        assert sent.error["message"].startswith(f"{field}: ")
        assert upstream.calls == []


async def test_four_prompts_at_once_are_enough(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        call.head(200, **{"content-type": SSE})
        call.send(_event(content="one"))
        await call.gone.wait()

    upstream = ScriptedUpstream(script)
    async with upstream, _proxy(upstream, tmp_path) as app:
        running = [asyncio.create_task(_send(app, DIRECT)) for _ in range(4)]
        async with asyncio.timeout(10):
            for _ in running:
                await upstream.arrived.acquire()
        sent = await _send(app, DIRECT)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    assert (sent.status, sent.error["code"]) == (429, "too_many")
