"""What a client is told when something is wrong: one message, the right status, its dialect."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
import trustme

from tests.fakes.raw_client import Answer, RawClient, ask, chat
from tests.fakes.running import in_front_of, outcomes, running
from tests.fakes.upstream import Call, ScriptedUpstream

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
EVENT = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
NOWHERE = {"endpoints": [{"name": "up", "base_url": "http://127.0.0.1:9"}]}
NO_RETRIES: dict[str, Any] = {"attempts": {"retries": 0}, "admission": {"limit": "off"}}
BODY = chat()


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "words"),
    [
        (CHAT, b"", 400, None, "the body is empty"),
        (CHAT, b"{", 400, None, "not valid JSON at line 1 column"),
        (CHAT, b"[]", 400, None, "send a JSON object"),
        (CHAT, b'{"messages":[]}', 400, "model", "model is missing"),
        (CHAT, b'{"model":"m"}', 400, "messages", "messages is missing"),
        (CHAT, b'{"model":"m","model":"n","messages":[1]}', 400, "model", "given twice"),
        (CHAT, b'{"model":"m","messages":[1],"stream":"yes"}', 400, "stream", "use true or false"),
        (CHAT, b'{"x":"' + b"y" * 3000 + b'"}', 413, None, "server.body_limit"),
        ("/v1/chat/completionz/", BODY, 404, None, "trailing slash"),
        ("/nowhere", BODY, 404, None, "/v1/chat/completions"),
        (CHAT, BODY, 502, None, "connection refused"),
    ],
)
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_what_is_wrong_is_told_in_the_callers_dialect(
    tmp_path: Path, path: str, body: bytes, status: int, param: str | None, words: str, dialect: str
) -> None:
    if dialect == "anthropic":
        path = path.replace(CHAT, MESSAGES).replace("/v1/chat", "/v1/messages")
        path = path.replace("/nowhere", "/api/anthropic")
    server = {"port": 0, "body_limit": "2KiB"}
    async with running(tmp_path, {**NOWHERE, "server": server}) as app:
        answer = await ask(app.data_address, path, body)
    error = answer.json()["error"]
    assert answer.status == status
    assert answer.clean
    assert words in error["message"]
    assert "Traceback" not in error["message"]
    if dialect == "anthropic":
        assert answer.json()["type"] == "error"
    else:
        assert error["param"] == param
        assert set(error) == {"code", "message", "type", "param"}


async def test_a_method_that_a_path_does_not_take_names_those_it_does(tmp_path: Path) -> None:
    async with running(tmp_path, NOWHERE) as app, RawClient(app.data_address) as client:
        client.writer.write(f"GET {CHAT} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        answer = await client.whole()
    assert answer.status == 405
    assert answer.headers["allow"] == "POST"


async def test_an_attempt_that_got_no_connection_is_counted_by_its_reason(tmp_path: Path) -> None:
    settings = {**NOWHERE, "pool": {"http2": "always"}, **NO_RETRIES}
    async with running(tmp_path, settings) as app:
        assert (await ask(app.data_address, CHAT, BODY)).status == 502
        counted = await outcomes(app, "glm_proxy_attempts_total")
    assert counted == {"upstream_connect_failed": 1}


async def test_two_different_keys_in_one_request_are_refused(tmp_path: Path) -> None:
    async with running(tmp_path, NOWHERE) as app:
        keys = ("Authorization: Bearer one", "x-api-key: two")
        answer = await ask(app.data_address, CHAT, BODY, *keys)
    assert answer.status == 400
    assert "two different keys" in answer.json()["error"]["message"]
    assert "one" not in answer.json()["error"]["message"].split("send")[0].split()


async def test_an_unknown_certificate_authority_names_the_setting(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        raise AssertionError("nothing may be sent")

    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    async with ScriptedUpstream(script, h2=True) as upstream:
        endpoint = {"name": "up", "base_url": upstream.url, "ca_file": str(other)}
        async with running(tmp_path, {"endpoints": [endpoint]}) as app:
            answer = await ask(app.data_address, CHAT, BODY)
    assert answer.status == 502
    assert "ca_file" in answer.json()["error"]["message"]


def answering(status: int, body: bytes, **headers: str) -> Any:
    async def script(call: Call) -> None:
        call.head(status, framing=str(len(body)), **headers)
        call.send(body)
        call.finish()

    return script


async def told(tmp_path: Path, script: Any, path: str = CHAT, **settings: Any) -> Answer:
    async with (
        ScriptedUpstream(script) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path, **settings)) as app,
    ):
        return await asyncio.wait_for(ask(app.data_address, path, BODY), 10)


@pytest.mark.parametrize(
    "body", sorted((Path(__file__).parent / "data/glm/errors").glob("4*.json"))
)
async def test_an_error_of_the_upstream_passes_with_its_status_and_bytes(
    tmp_path: Path, body: Path
) -> None:
    status, said = int(body.name[:3]), body.read_bytes()
    script = answering(status, said, content_type="application/json")
    answer = await told(tmp_path, script, **NO_RETRIES)
    assert (answer.status, answer.body) == (status, said)


async def test_a_firewalls_page_is_told_as_an_error_with_its_status(tmp_path: Path) -> None:
    page = (Path(__file__).parent / "data/glm/errors/405-waf.html").read_bytes()
    answer = await told(tmp_path, answering(405, page, content_type="text/html"), MESSAGES)
    assert answer.status == 405
    assert answer.json()["type"] == "error"
    assert b"<html" not in answer.body


@pytest.mark.parametrize(
    ("body", "kind", "code"),
    [
        (b"<html>busy</html>", "text/html", "upstream_not_a_stream"),
        (b'{"code":401,"msg":"token is wrong","success":false}', "application/json", "401"),
        (b"", "text/event-stream", "upstream_empty"),
        (b": only\n\n: comments\n\n", "text/event-stream", "upstream_empty"),
    ],
)
async def test_a_200_that_is_no_stream_is_an_error_before_the_commit(
    tmp_path: Path, body: bytes, kind: str, code: str
) -> None:
    answer = await told(tmp_path, answering(200, body, content_type=kind))
    assert answer.status == 502
    assert answer.json()["error"]["code"] == code


async def test_a_silent_upstream_gets_only_its_time_for_the_first_token(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        await call.gone.wait()

    answer = await told(tmp_path, script, timeouts={"first_token": "200ms"})
    assert answer.status == 504
    assert answer.json()["error"]["code"] == "first_token_timeout"


async def test_comments_of_the_upstream_do_not_keep_a_stalled_stream_alive(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        call.head()
        call.send(EVENT)
        while not call.gone.is_set():
            call.send(b": still here\n\n")
            await asyncio.sleep(0.05)

    answer = await told(tmp_path, script, timeouts={"idle": "300ms"})
    assert answer.chunks[0] == EVENT
    assert b"idle_timeout" in answer.chunks[-1]
    assert not answer.clean


async def test_a_silent_stream_is_kept_alive_by_comments(tmp_path: Path) -> None:
    beaten = asyncio.Event()

    async def script(call: Call) -> None:
        call.head()
        call.send(EVENT)
        await beaten.wait()
        call.send(b"data: [DONE]\n\n")
        call.finish()

    async with (
        ScriptedUpstream(script) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path, stream={"heartbeat": "50ms"})) as app,
        RawClient(app.data_address) as client,
    ):
        client.post(CHAT, BODY)
        await client.head()
        assert await client.chunk() == EVENT
        for _ in range(3):
            assert await client.chunk() == b": heartbeat\n\n"
        beaten.set()


async def test_a_client_that_reads_nothing_is_dropped_and_its_upstream_ended(
    tmp_path: Path,
) -> None:
    async def script(call: Call) -> None:
        call.head()
        while not call.gone.is_set():
            call.send(EVENT * 200)
            await asyncio.sleep(0)

    settings = {"stream": {"client_stall": "300ms"}}
    async with (
        ScriptedUpstream(script) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path, **settings)) as app,
        RawClient(app.data_address) as client,
    ):
        client.post(CHAT, BODY)
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await upstream.arrived.acquire()
        await asyncio.wait_for(upstream.calls[0].gone.wait(), 10)
        client.writer.transport.abort()
        assert await outcomes(app) == {"client_gone": 1}


async def test_a_stopping_proxy_tells_the_streams_that_outlast_its_patience(
    tmp_path: Path,
) -> None:
    async def script(call: Call) -> None:
        call.head()
        call.send(EVENT)
        await call.gone.wait()

    async with (
        ScriptedUpstream(script) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
        RawClient(app.data_address) as client,
    ):
        client.post(CHAT, BODY)
        await client.head()
        assert await client.chunk() == EVENT
        began = time.monotonic()
        await app.stop(0.1)
        assert time.monotonic() - began < 5
        error = orjson.loads((await client.chunk()).removeprefix(b"data: "))["error"]
        assert error["code"] == "proxy_draining"
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.chunk()


async def test_metadata_is_told_in_comments_around_the_events(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        call.head()
        call.send(EVENT + b"data: [DONE]\n\n")
        call.finish()

    answer = await told(tmp_path, script, stream={"emit_metadata": True})
    decision, event, times, done = answer.chunks
    assert (event, done) == (EVENT, b"data: [DONE]\n\n")
    decided = orjson.loads(decision.removeprefix(b": glm-proxy "))
    assert (decided["route"], decided["changes"]) == ("default", [])
    assert orjson.loads(times.removeprefix(b": glm-proxy "))["first_content_s"] > 0
    assert answer.clean


async def test_a_client_that_reads_slowly_is_not_taken_for_one_that_reads_nothing(
    tmp_path: Path,
) -> None:
    async def script(call: Call) -> None:
        call.head()
        call.send(EVENT.replace(b"x", b"x" * 4_000) * 4_000)
        call.send(b"data: [DONE]\n\n")
        call.finish()

    settings = {"stream": {"client_stall": "400ms"}}
    async with (
        ScriptedUpstream(script) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path, **settings)) as app,
    ):
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 200_000)
            await loop.sock_connect(client, app.data_address)
            head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(BODY)}\r\n\r\n"
            await loop.sock_sendall(client, head.encode() + BODY)
            tail, slow_until = b"", time.monotonic() + 2
            while not tail.endswith(b"\r\n0\r\n\r\n"):
                slow = time.monotonic() < slow_until
                part = await asyncio.wait_for(loop.sock_recv(client, 16_000 if slow else 99_000), 5)
                assert part, "the connection was dropped"
                tail = (tail + part)[-20:]
                await asyncio.sleep(0.02 if slow else 0)
        assert await outcomes(app) == {"completed": 1}


async def test_the_log_says_once_why_an_endpoint_cannot_be_reached(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = {"name": "up", "base_url": "https://127.0.0.1:9"}
    async with running(tmp_path, {"endpoints": [endpoint], **NO_RETRIES}) as app:
        for _ in range(3):
            assert (await ask(app.data_address, CHAT, BODY)).status == 502
    said = [record.getMessage() for record in caplog.records if "cannot be reached" in record.msg]
    assert len(said) == 1
    assert "connection refused" in said[0]


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_an_error_event_does_not_tell_the_endpoints_own_key(
    tmp_path: Path, path: str
) -> None:
    key = tmp_path / "key"
    key.write_text("sk-secret-of-the-operator")
    key.chmod(0o600)

    async def script(call: Call) -> None:
        call.head()
        call.send(b'data: {"error":{"code":"1210","message":"bad sk-secret-of-the-operator"}}\n\n')
        call.finish()

    async with ScriptedUpstream(script) as upstream:
        settings = in_front_of(upstream, tmp_path)
        settings["endpoints"][0]["api_key"] = f"file:{key}"
        async with running(tmp_path, settings) as app:
            answer = await ask(app.data_address, path, chat(stream=True, max_tokens=5))
    assert b"1210" in answer.body
    assert b"sk-secret" not in answer.body


async def test_an_answer_that_is_not_http_is_quoted_nowhere(tmp_path: Path) -> None:
    """Neither the text of a chat nor a key that came back gets into an error or what is told of
    it: the access log, traces and the operator's page."""
    said: list[bytes] = [
        b"HTTP/1.1 200 OK\r\nx-said: the-secret-word\0\r\n\r\n",
        b"HTTP/1.1 the-secret-word\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx-said: the-secret-word" + b"x" * 20_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\ndata: the-secret-word\n\n",
    ]

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said.pop())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(script, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        settings = {
            "endpoints": [{"name": "up", "base_url": f"http://127.0.0.1:{port}"}],
            "attempts": {"retries": 0, "breaker": "off"},
        }
        async with running(tmp_path, settings) as app:
            while said:
                answer = await ask(app.data_address, CHAT, chat(stream=True))
                assert b"upstream_protocol_error" in answer.body
                assert b"secret" not in answer.body
