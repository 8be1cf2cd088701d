"""Peers that do their worst: what is asked of the proxy ends, in bounded memory and time."""

from __future__ import annotations

import asyncio
import gzip
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from proxy.app import App
from tests.fakes.raw_client import Answer, RawClient, ask, chat
from tests.fakes.running import in_front_of, running
from tests.fakes.upstream import Call, H2Call, Script, ScriptedUpstream

CHAT, FILES = "/v1/chat/completions", "/v1/files"
EVENT = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
WHOLE = b'{"id":"1","choices":[{"index":0,"message":{"content":"hello"}}]}'


@pytest.fixture(params=[False, True], ids=["http1", "h2"])
def over_h2(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def answering(body: bytes, **headers: str) -> Script:
    async def script(call: Call) -> None:
        call.head(200, **{"framing": str(len(body)), **headers})
        call.send(body)
        call.finish("close" if headers.get("framing") == "close" else "clean")

    return script


async def told(folder: Path, script: Script, body: bytes, **settings: Any) -> Answer:
    async with (
        ScriptedUpstream(script) as upstream,
        running(folder, in_front_of(upstream, folder, **settings)) as app,
    ):
        return await asyncio.wait_for(ask(app.data_address, CHAT, body), 20)


def unsent(app: App) -> int:
    """Bytes that wait in the proxy for clients to read them."""
    assert app._server is not None
    transports = [connection.transport for connection in app._server.connections]
    return sum(one.get_write_buffer_size() for one in transports if one is not None)


# --- clients that do not read --------------------------------------------------------------------


async def test_a_second_answer_to_a_client_that_left_the_first_unread_is_held_back(
    tmp_path: Path,
) -> None:
    flooded = asyncio.Event()

    async def script(call: Call) -> None:
        call.head()
        if call.headers["x-app"] == "first":
            call.send(EVENT * 3_700 + DONE)  # hardly more than the kernel takes
            call.finish()
            return
        for _ in range(400):
            call.send(EVENT * 1000)
            await asyncio.sleep(0.001)
        flooded.set()

    async with (
        ScriptedUpstream(script) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
        RawClient(app.data_address) as client,
    ):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.post(CHAT, chat(), "X-App: first")
        client.post(CHAT, chat(), "X-App: second")
        await asyncio.wait_for(flooded.wait(), 20)
        assert 0 < unsent(app) < 1024 * 1024
        client.writer.transport.abort()


@pytest.mark.parametrize("kind", ["whole", "passed", "ended"])
async def test_an_answer_that_nobody_reads_ends_with_its_connection(
    tmp_path: Path, kind: str
) -> None:
    body = b'{"x":"' + b"y" * 8_000_000 + b'"}'

    async def script(call: Call) -> None:
        if kind == "ended":
            call.head()
            call.send(EVENT * 60_000 + DONE)
        else:
            call.head(content_type="application/json", framing=str(len(body)))
            call.send(body)
        call.finish()

    settings: dict[str, Any] = {
        "stream": {"client_stall": "300ms"},
        "server": {"port": 0, "keepalive_timeout": "300ms", "drain_timeout": 0},
    }
    async with (
        ScriptedUpstream(script) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path, **settings)) as app,
        RawClient(app.data_address) as client,
    ):
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.post(FILES if kind == "passed" else CHAT, chat(stream=kind == "ended"))
        await asyncio.wait_for(upstream.arrived.acquire(), 5)
        assert app._server is not None
        async with asyncio.timeout(10):
            while app._server.connections:
                await asyncio.sleep(0.02)
        client.writer.transport.abort()


# --- clients that break their body ---------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, FILES])
@pytest.mark.parametrize("rest", [b"zz\r\n", b"2\r\nlonger\r\n0\r\n\r\n"])
async def test_a_body_that_stops_being_http_is_the_clients_error_at_once(
    tmp_path: Path, over_h2: bool, path: str, rest: bytes
) -> None:
    async with (
        ScriptedUpstream(answering(b"{}"), h2=over_h2) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
        RawClient(app.data_address) as client,
    ):
        lines = f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.writer.write(lines.encode() + b"5\r\nhello\r\n")
        await client.writer.drain()
        async with asyncio.timeout(5):
            while not app._running:
                await asyncio.sleep(0)
        client.writer.write(rest)
        answer = await asyncio.wait_for(client.whole(), 5)
        assert answer.status == 400
        assert "body is broken" in answer.json()["error"]["message"]
        assert await client.reader.read() == b""
        assert not upstream.calls


# --- stopping ------------------------------------------------------------------------------------


async def test_an_upload_that_is_under_way_when_the_proxy_stops_is_still_served(
    tmp_path: Path,
) -> None:
    body = chat(padding="x" * 100_000)
    async with (
        ScriptedUpstream(answering(EVENT + DONE)) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
        RawClient(app.data_address) as client,
    ):
        head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        client.writer.write(head.encode() + body[:1000])
        async with asyncio.timeout(5):
            while not app._running:
                await asyncio.sleep(0)
        stopping = asyncio.create_task(app.stop(5))
        await asyncio.sleep(0)
        client.writer.write(body[1000:])
        answer = await asyncio.wait_for(client.whole(), 5)
        assert answer.chunks == [EVENT, DONE]
        assert answer.clean
        assert await asyncio.wait_for(client.reader.read(), 5) == b""
        await asyncio.wait_for(stopping, 5)


async def test_a_client_that_never_finishes_its_body_does_not_keep_the_proxy_from_stopping(
    tmp_path: Path,
) -> None:
    async with (
        ScriptedUpstream(answering(EVENT)) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
        RawClient(app.data_address) as client,
    ):
        client.writer.write(
            f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n".encode()
        )
        async with asyncio.timeout(5):
            while not app._running:
                await asyncio.sleep(0)
        await asyncio.wait_for(app.stop(0), 5)
        assert await client.reader.read() == b""
        assert app._telling.metrics is not None
        exposition = app._telling.metrics.scrape("")[1]().decode()
        assert 'outcome="proxy_draining"' in exposition


async def test_a_page_that_never_finishes_its_body_does_not_keep_the_proxy_from_stopping(
    tmp_path: Path,
) -> None:
    (tmp_path / "token").write_text("operator-token-1")
    async with (
        ScriptedUpstream(answering(EVENT)) as upstream,
        running(
            tmp_path,
            in_front_of(upstream, tmp_path, admin={"port": 0, "token": "file:token"}),
        ) as app,
        RawClient(app.admin_address) as client,
    ):
        client.writer.write(
            b"POST /admin/playground HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n"
            b"Authorization: Bearer operator-token-1\r\nContent-Type: application/json\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        assert b" 100 " in await client.reader.readline()
        await asyncio.wait_for(app.stop(0), 20)


# --- upstreams -----------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [4, 12, 30])
async def test_a_whole_answer_whose_compression_breaks_off_is_no_answer(
    tmp_path: Path, lost: int
) -> None:
    body = gzip.compress(WHOLE)[:-lost]
    script = answering(body, content_type="application/json", content_encoding="gzip")
    answer = await told(tmp_path, script, chat(stream=False))
    assert answer.status == 502
    assert answer.json()["error"]["code"] == "upstream_cut"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_compressed_answer_may_have_several_members(tmp_path: Path, stream: bool) -> None:
    first, second = (EVENT, DONE) if stream else (WHOLE[:20], WHOLE[20:])
    body = gzip.compress(first) + gzip.compress(second)
    kind = "text/event-stream" if stream else "application/json"
    script = answering(body, content_type=kind, content_encoding="gzip")
    answer = await told(tmp_path, script, chat(stream=stream))
    assert (answer.status, answer.body, answer.clean) == (200, first + second, True)


async def test_a_compressed_answer_that_grows_without_measure_is_refused(tmp_path: Path) -> None:
    body = gzip.compress(EVENT * 1_000_000)
    answer = await told(tmp_path, answering(body, content_encoding="gzip"), chat())
    assert answer.status == 502
    assert answer.json()["error"]["code"] == "upstream_answer_too_large"


@pytest.mark.parametrize("body", [WHOLE[:30], b"", b"<html>", EVENT])
async def test_a_200_that_is_not_whole_json_is_no_answer(tmp_path: Path, body: bytes) -> None:
    script = answering(body, content_type="application/json", framing="close")
    answer = await told(tmp_path, script, chat(stream=False))
    assert answer.status == 502
    assert answer.json()["error"]["code"] == "upstream_cut"


async def test_comments_before_the_first_event_are_not_kept_without_end(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        call.head()
        for _ in range(200):
            call.send(b": waiting\n\n" * 1000)
            await asyncio.sleep(0)
        call.send(EVENT + DONE)
        call.finish()

    answer = await told(tmp_path, script, chat())
    assert answer.chunks[-2:] == [EVENT, DONE]
    assert answer.clean
    assert len(answer.body) < 512 * 1024


@pytest.mark.parametrize("setting", [{"text_buffer_size": 5}, {"split_text": 1}])
async def test_an_event_nested_too_deep_to_be_written_again_leaves_as_it_came(
    tmp_path: Path, over_h2: bool, setting: dict[str, int]
) -> None:
    deep = b"[" * 400 + b"]" * 400
    event = b'data: {"choices":[{"index":0,"delta":{"content":"xyz"}}],"x":' + deep + b"}\n\n"
    async with (
        ScriptedUpstream(answering(EVENT + event + DONE), h2=over_h2) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path, stream=setting)) as app,
    ):
        answer = await asyncio.wait_for(ask(app.data_address, CHAT, chat()), 5)
    assert answer.body == EVENT + event + DONE
    assert answer.clean


async def test_a_length_that_the_upstream_says_twice_is_said_once(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        assert isinstance(call, H2Call)
        length = ("content-length", "2")
        call._server.h2.send_headers(call._stream, [(":status", "200"), length, length])
        call.send(b"{}")
        call.finish()

    async with (
        ScriptedUpstream(script, h2=True) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
        RawClient(app.data_address) as client,
    ):
        client.post(FILES, b"{}")
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.lower().count(b"content-length") == 1


@pytest.mark.parametrize("spelling", ["plain", "url", "json", "base64", "bearer"])
async def test_an_endpoints_key_is_not_told_in_any_spelling(tmp_path: Path, spelling: str) -> None:
    key = "sk-Endpoint+Secret/0123456789abcdef"
    said = {
        "plain": key,
        "url": quote(key, safe=""),
        "json": key.replace("/", r"\/"),
        "base64": b64encode(key.encode()).decode(),
        "bearer": b64encode(f"Bearer {key}".encode()).decode(),
    }[spelling]
    body = b'{"error":{"code":"%b","message":"refused: %b"}}' % (said.encode(), said.encode())

    async def script(call: Call) -> None:
        call.head(401, framing=str(len(body)), content_type="application/json")
        call.send(body)
        call.finish()

    (tmp_path / "key").write_text(key)
    async with ScriptedUpstream(script) as upstream:
        settings = in_front_of(upstream, tmp_path)
        settings["endpoints"][0]["api_key"] = f"file:{tmp_path / 'key'}"
        async with running(tmp_path, settings) as app:
            answer = await ask(app.data_address, CHAT, chat(), "Authorization: Bearer caller")
    assert answer.status == 401
    inner = said.rstrip("=")[10:-2]
    assert inner.encode() not in answer.body
    assert upstream.calls[0].headers["authorization"] == f"Bearer {key}"
    assert "caller" not in str(upstream.calls[0].headers)
