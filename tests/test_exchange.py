"""One exchange end to end: real sockets on both sides, the proxy's own start-up in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.app import App
from tests.fakes.raw_client import RawClient, ask, chat
from tests.fakes.running import in_front_of, running, samples
from tests.fakes.upstream import Call, H2Call, ScriptedUpstream

DATA = Path(__file__).parent / "data" / "glm"
FIXTURES = sorted(DATA.glob("*.sse"))
EVENTS = [
    b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"%d"}}]}\n\n' % n for n in range(5)
]
DONE = b"data: [DONE]\n\n"
CHAT = "/v1/chat/completions"


@pytest.fixture(params=[False, True], ids=["http1", "h2"])
def over_h2(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_one_upstream_event_is_one_chunk_and_comes_before_the_next_is_sent(
    tmp_path: Path, over_h2: bool
) -> None:
    turn = asyncio.Semaphore(0)

    async def script(call: Call) -> None:
        call.head()
        for event in [*EVENTS, DONE]:
            call.send(event)
            await turn.acquire()
        call.finish()

    async with (
        ScriptedUpstream(script, h2=over_h2) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
        RawClient(app.data_address) as client,
    ):
        client.post(CHAT, chat())
        answer = await client.head()
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/event-stream;charset=UTF-8"
        for event in [*EVENTS, DONE]:
            assert await client.chunk() == event
            turn.release()
        assert await client.chunk() == b""


async def test_events_of_one_upstream_read_are_chunks_of_their_own(
    tmp_path: Path, over_h2: bool
) -> None:
    async def script(call: Call) -> None:
        call.head()
        call.send(b"".join([*EVENTS, DONE]))
        call.finish()

    async with (
        ScriptedUpstream(script, h2=over_h2) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
    ):
        answer = await ask(app.data_address, CHAT, chat())
        assert answer.chunks == [*EVENTS, DONE]
        assert answer.clean


async def test_an_event_in_pieces_leaves_whole(tmp_path: Path, over_h2: bool) -> None:
    async def script(call: Call) -> None:
        call.head()
        for byte in EVENTS[0] + DONE:
            call.send(bytes([byte]))
            await asyncio.sleep(0)
        call.finish()

    async with (
        ScriptedUpstream(script, h2=over_h2) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
    ):
        answer = await ask(app.data_address, CHAT, chat())
        assert answer.chunks == [EVENTS[0], DONE]
        assert answer.clean


async def test_the_end_event_ends_the_answer_even_if_the_upstream_stays_open(
    tmp_path: Path, over_h2: bool
) -> None:
    async def script(call: Call) -> None:
        call.head()
        call.send(EVENTS[0] + DONE)
        await call.gone.wait()

    async with (
        ScriptedUpstream(script, h2=over_h2) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
    ):
        answer = await ask(app.data_address, CHAT, chat())
        assert answer.chunks == [EVENTS[0], DONE]
        assert answer.clean
        await asyncio.wait_for(upstream.calls[0].gone.wait(), 5)


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.stem)
async def test_recorded_streams_are_relayed_byte_for_byte(
    tmp_path: Path, over_h2: bool, fixture: Path
) -> None:
    data = fixture.read_bytes()
    anthropic = b"event: message_start" in data

    async def script(call: Call) -> None:
        call.head()
        call.send(data)
        call.finish()

    async with (
        ScriptedUpstream(script, h2=over_h2) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
    ):
        path = "/v1/messages" if anthropic else CHAT
        answer = await ask(app.data_address, path, chat(), "x-api-key: k")
    relayed = data.removeprefix(b"\xef\xbb\xbf")
    if b"[DONE]" in data or b'"message_stop"' in data:
        assert answer.body == relayed
        assert answer.clean
    else:
        assert answer.body.startswith(relayed)
        assert not answer.clean
        told = answer.body[len(relayed) :]
        assert told == b"" if b'"error"' in data else b"upstream_cut" in told


@pytest.mark.parametrize("phase", ["silent", "head", "flowing"])
async def test_a_client_that_leaves_ends_the_upstream_and_only_its_stream(
    tmp_path: Path, over_h2: bool, phase: str
) -> None:
    async def script(call: Call) -> None:
        if phase != "silent":
            call.head()
        if phase == "flowing":
            call.send(EVENTS[0])
        await call.gone.wait()

    async with (
        ScriptedUpstream(script, h2=over_h2) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
    ):
        async with RawClient(app.data_address) as client:
            client.post(CHAT, chat())
            await upstream.arrived.acquire()
            if phase == "flowing":
                await client.head()
        call = upstream.calls[0]
        await asyncio.wait_for(call.gone.wait(), 1)
        if isinstance(call, H2Call):
            assert call.reset_code == 8  # CANCEL, and the connection lives on
            assert len(upstream.transports) >= 1


@pytest.fixture
async def echo(tmp_path: Path) -> AsyncIterator[tuple[ScriptedUpstream, App]]:
    async def script(call: Call) -> None:
        call.head(content_type="application/json", framing="2")
        call.send(b"{}")
        call.finish()

    async with (
        ScriptedUpstream(script) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
    ):
        yield upstream, app


async def test_without_a_rule_the_body_reaches_the_upstream_byte_for_byte(
    echo: tuple[ScriptedUpstream, App],
) -> None:
    upstream, app = echo
    body = b'{ "model" : "any",\n "messages":[{"role":"user","content":"\\u4f60"}], "x": 1e2 }'
    assert (await ask(app.data_address, CHAT, body)).status == 200
    assert upstream.calls[0].body == body
    assert upstream.calls[0].path == "/api/paas/v4/chat/completions"


async def test_an_attempt_says_whether_its_connection_had_served_before(
    tmp_path: Path, over_h2: bool
) -> None:
    async def script(call: Call) -> None:
        call.head()
        call.send(EVENTS[0] + DONE)
        call.finish()

    settings = {"pool": {"warm_connections": 1}}
    async with (
        ScriptedUpstream(script, h2=over_h2) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path, **settings)) as app,
    ):
        for _ in range(3):
            await ask(app.data_address, CHAT, chat())
        counted = await samples(app, "glm_proxy_upstream_headers_seconds_count")
    assert {labels["reused"]: count for labels, count in counted} == {"false": 1, "true": 2}
