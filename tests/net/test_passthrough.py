"""Every other path: both bodies streamed, nothing kept, no cut answer with a clean end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from tests.fakes.raw_client import Answer, RawClient
from tests.fakes.running import in_front_of, outcomes, running
from tests.fakes.upstream import Call, H1Call, H2Call, ScriptedUpstream

ATTEMPTS = "glm_proxy_attempts_total"


@pytest.fixture(params=[False, True], ids=["http1", "h2"])
def over_h2(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def url(address: tuple[str, int], path: str) -> str:
    return f"http://{address[0]}:{address[1]}{path}"


async def test_a_body_goes_up_and_its_answer_comes_down_whole(
    tmp_path: Path, over_h2: bool
) -> None:
    sent = bytes(range(256)) * 4000

    async def script(call: Call) -> None:
        call.head(201, content_type="application/octet-stream", framing=str(len(call.body)))
        call.send(call.body)
        call.finish()

    async with (
        ScriptedUpstream(script, h2=over_h2) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
        aiohttp.ClientSession() as session,
    ):
        path = "/v1/files/parser/create?kind=pdf"
        async with session.post(url(app.data_address, path), data=sent) as answer:
            assert answer.status == 201
            assert await answer.read() == sent
        assert upstream.calls[0].path == "/api/paas/v4/files/parser/create?kind=pdf"
        assert upstream.calls[0].body == sent


async def test_a_chunked_upload_goes_up_as_it_comes(tmp_path: Path, over_h2: bool) -> None:
    async def script(call: Call) -> None:
        call.head(content_type="text/plain")
        call.send(str(len(call.body)).encode())
        call.finish()

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"x" * 1000
            await asyncio.sleep(0)

    async with (
        ScriptedUpstream(script, h2=over_h2) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
        aiohttp.ClientSession() as session,
        session.post(url(app.data_address, "/v1/files"), data=parts()) as answer,
    ):
        assert await answer.text() == "50000"


async def test_each_piece_of_an_answer_leaves_as_it_comes(tmp_path: Path, over_h2: bool) -> None:
    turn = asyncio.Semaphore(0)
    pieces = [b"data: 1\n\n", b"data: half", b" and half\n\n"]

    async def script(call: Call) -> None:
        call.head()
        for piece in pieces:
            call.send(piece)
            await turn.acquire()
        call.finish()

    async with (
        ScriptedUpstream(script, h2=over_h2) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
        RawClient(app.data_address) as client,
    ):
        client.post("/api/paas/v4/audio/transcriptions", b"sound")
        answer = await client.head()
        assert answer.headers["content-type"] == "text/event-stream;charset=UTF-8"
        for piece in pieces:
            assert await client.chunk() == piece
            turn.release()
        assert await client.chunk() == b""


async def test_methods_without_a_body_pass(tmp_path: Path, over_h2: bool) -> None:
    async def script(call: Call) -> None:
        call.head(content_type="application/json", framing="2")
        call.send(b"{}")
        call.finish()

    async with (
        ScriptedUpstream(script, h2=over_h2) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
        aiohttp.ClientSession() as session,
    ):
        for method in ("GET", "DELETE"):
            async with session.request(method, url(app.data_address, "/v1/files/f1")) as answer:
                assert await answer.text() == "{}"
        assert [call.method for call in upstream.calls] == ["GET", "DELETE"]
        assert await outcomes(app) == {"completed": 2}
        assert await outcomes(app, ATTEMPTS) == {"completed": 2}


@pytest.mark.parametrize("framing", ["chunked", "100"])
async def test_an_answer_that_breaks_off_has_no_clean_end(
    tmp_path: Path, over_h2: bool, framing: str
) -> None:
    async def script(call: Call) -> None:
        call.head(content_type="application/octet-stream", framing=framing)
        call.send(b"half of it")
        await asyncio.sleep(0.05)  # the head must not be overtaken by the reset
        call.finish("reset" if over_h2 else "rst")

    async with (
        ScriptedUpstream(script, h2=over_h2) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
        RawClient(app.data_address) as client,
    ):
        client.post("/v1/files/f1/content", b"")
        answer: Answer = await client.whole()
        assert answer.status == 200
        assert not answer.clean
        assert await outcomes(app) == {"upstream_reset": 1}
        assert await outcomes(app, ATTEMPTS) == {"upstream_reset": 1}


async def test_an_early_refusal_is_delivered_while_the_upload_still_runs(tmp_path: Path) -> None:
    refused = asyncio.Event()

    async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        await writer.drain()
        refused.set()
        while await reader.read(65536):
            pass
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(upstream, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = {"endpoints": [{"name": "up", "base_url": f"http://127.0.0.1:{port}"}]}
    async with server, running(tmp_path, settings) as app, RawClient(app.data_address) as client:
        head = "POST /v1/files HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n"
        client.writer.write(head.encode() + b"x" * 1000)
        await asyncio.wait_for(refused.wait(), 5)
        answer = await asyncio.wait_for(client.whole(), 5)
        assert answer.status == 413
        assert answer.body == b"no"
        assert await outcomes(app, ATTEMPTS) == {"upstream_failed": 1}


async def test_a_client_that_leaves_in_the_middle_ends_the_upstream(
    tmp_path: Path, over_h2: bool
) -> None:
    async def script(call: Call) -> None:
        call.head(content_type="application/octet-stream")
        call.send(b"x" * 1000)
        await call.gone.wait()

    async with (
        ScriptedUpstream(script, h2=over_h2) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
    ):
        async with RawClient(app.data_address) as client:
            client.post("/v1/files/f1/content", b"")
            await client.head()
        call = upstream.calls[0]
        await asyncio.wait_for(call.gone.wait(), 2)
        assert not isinstance(call, H2Call) or call.reset_code == 8  # CANCEL
        assert await outcomes(app) == {"client_gone": 1}


async def test_a_path_that_could_be_read_in_two_ways_never_goes_up(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        call.head(framing="0")
        call.finish()

    async with (
        ScriptedUpstream(script) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
    ):
        for path in (
            "/v1/../admin",
            "/v1/%2e%2e/admin",
            "/v1/a%2fb",
            "/v1//x",
            "http://other/v1/x",
        ):
            async with RawClient(app.data_address) as client:
                client.post(path, b"{}")
                assert (await client.whole()).status in (400, 404)
        assert upstream.calls == []


@pytest.mark.parametrize("alpn", [["h2"], ["h2", "http/1.1"]], ids=["h2 only", "both"])
async def test_a_big_body_takes_http1_only_where_alpn_offers_it(
    tmp_path: Path, alpn: list[str]
) -> None:
    """The first body asks in the background and goes over HTTP/2; later ones know."""

    async def script(call: Call) -> None:
        call.head(content_type="text/plain", framing="2")
        call.send(b"ok")
        call.finish()

    async with (
        ScriptedUpstream(script, h2=True, alpn=alpn) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
        aiohttp.ClientSession() as session,
    ):
        for _ in range(20):
            async with session.post(
                url(app.data_address, "/v1/files"), data=b"x" * 60_000
            ) as answer:
                assert await answer.text() == "ok"
            if isinstance(upstream.calls[-1], H1Call):
                break
            await asyncio.sleep(0.02)
        assert isinstance(upstream.calls[0], H2Call)
        assert isinstance(upstream.calls[-1], H1Call) == ("http/1.1" in alpn)
