"""nginx, HAProxy and Caddy with the files of deploy/fronts, before a real proxy: events pass one by
one, a silent stream lives on its heartbeats, and a client that leaves is noticed."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from proxy.app import App
from proxy.errors import UpstreamError
from proxy.net.h2.reader import Reader
from tests.deploy.fronts import KINDS, NAME, Front, front
from tests.fakes.raw_client import chat
from tests.fakes.running import in_front_of, running
from tests.fakes.upstream import Call, ScriptedUpstream

NeedsProgram = Callable[[str], str]
CHAT = "/v1/chat/completions"
EVENTS = 20
ANSWERS = 15
DONE = b"data: [DONE]\n\n"
FORWARDED = {"forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip"}
each_front = pytest.mark.parametrize("name", KINDS)


def token(number: int) -> bytes:
    return b'data: {"choices":[{"index":0,"delta":{"content":"%d "}}]}\n\n' % number


class EndedEarly(Exception):
    """The answer ended before what was waited for."""


class Stepwise:
    """An upstream that sends what the test says, when it says so."""

    def __init__(self) -> None:
        self.calls: asyncio.Queue[Call] = asyncio.Queue()

    async def __call__(self, call: Call) -> None:
        self.calls.put_nowait(call)

    async def call(self) -> Call:
        async with asyncio.timeout(10):
            return await self.calls.get()


async def at_once(call: Call) -> None:
    call.head()
    call.send(token(0) + DONE)
    call.finish()


@asynccontextmanager
async def fronted(
    folder: Path,
    kind: str,
    program: str,
    script: object,
    *,
    silence: str | None = None,
    **more: object,
) -> AsyncIterator[tuple[App, Front]]:
    """An upstream, a proxy, and the program in front of both."""
    async with (
        ScriptedUpstream(script) as upstream,  # type: ignore[arg-type]
        running(folder, in_front_of(upstream, folder, **more)) as app,
    ):
        ports = [app.data_address[1]]
        if kind == "haproxy":
            ports.append(app.admin_address[1])
        async with front(KINDS[kind], program, folder, ports, silence=silence) as one:
            yield app, one


async def until(reader: AsyncIterator[bytes], wanted: bytes, within: float = 10.0) -> bytes:
    """What comes until `wanted` has come."""
    got = b""
    async with asyncio.timeout(within):
        while wanted not in got:
            try:
                got += await anext(reader)
            except StopAsyncIteration:
                raise EndedEarly(got) from None
    return got


@each_front
async def test_each_event_arrives_before_the_next_is_sent(
    name: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    upstream = Stepwise()
    async with (
        fronted(tmp_path, name, needs_program(name), upstream) as (_, one),
        one.pool() as pool,
    ):
        answer = await one.post(pool, CHAT, chat())
        call = await upstream.call()
        call.head()
        call.send(token(0))
        head = await asyncio.wait_for(answer.head(), 10)
        assert head.status == 200
        body = aiter(answer)
        assert await until(body, token(0)) == token(0)
        for number in range(1, EVENTS):
            call.send(token(number))
            assert await until(body, token(number)) == token(number)
        call.send(DONE)
        call.finish()
        assert await until(body, DONE) == DONE
        assert [chunk async for chunk in body] == []


@each_front
async def test_what_a_front_adds_to_the_first_token_is_little(
    name: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    async with (
        fronted(tmp_path, name, needs_program(name), at_once) as (app, one),
        one.pool() as pool,
        aiohttp.ClientSession() as session,
    ):
        host, port = app.data_address
        url = f"http://{host}:{port}{CHAT}"

        async def direct() -> None:
            async with session.post(url, data=chat()) as answer:
                await answer.content.readany()
                await answer.read()

        async def through() -> None:
            answer = await one.post(pool, CHAT, chat())
            await answer.read()

        added = await _median(through) - await _median(direct)
        print(f"{name} adds {added * 1000:.2f} ms to the first token")
        # An order of magnitude: a front that gathers events adds far more, or never ends.
        assert added < 0.25


async def _median(ask: Callable[[], object]) -> float:
    took = []
    for _ in range(ANSWERS):
        begun = time.perf_counter()
        await ask()  # type: ignore[misc]
        took.append(time.perf_counter() - begun)
    return statistics.median(took[2:])


async def test_a_silent_stream_lives_on_its_heartbeats(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    """Here the fronts end a stream after a second of silence."""
    beats = await _all_silent(tmp_path, needs_program, "1s", 2.0, heartbeat="200ms")
    assert all(count >= 4 for count in beats), beats


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.silence])
async def test_a_silent_stream_without_heartbeats_is_cut(
    name: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    """So it is the heartbeats that keep it. HAProxy 2.6 ends it without an error (END_STREAM)."""
    with pytest.raises((UpstreamError, EndedEarly)):
        await _silent(name, tmp_path, needs_program(name), "1s", 5.0, heartbeat=0)


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_streams_of_five_silent_minutes_live_on_the_default_heartbeat(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    """Behind fronts that end a stream after 60 s of silence, as nginx does where nothing is set."""
    beats = await _all_silent(tmp_path, needs_program, "60s", 300.0)
    assert all(count >= 19 for count in beats), beats


async def _all_silent(
    folder: Path, needs_program: NeedsProgram, silence: str, seconds: float, **stream: object
) -> list[int]:
    """`_silent` behind each of the fronts, at the same time."""
    for name in KINDS:
        (folder / name).mkdir()
    return await asyncio.gather(
        *(
            _silent(name, folder / name, needs_program(name), silence, seconds, **stream)
            for name in KINDS
        )
    )


async def _silent(
    name: str, folder: Path, program: str, silence: str, seconds: float, **stream: object
) -> int:
    """A stream that is silent for so long in its middle. The heartbeats that came."""
    upstream = Stepwise()
    async with (
        fronted(
            folder,
            name,
            program,
            upstream,
            silence=silence,
            stream=stream,
            timeouts={"idle": "10m"},
        ) as (_, one),
        one.pool() as pool,
    ):
        answer = await one.post(pool, CHAT, chat())
        call = await upstream.call()
        call.head()
        call.send(token(0))
        body = aiter(answer)
        got = await until(body, token(0))
        timer = asyncio.get_running_loop().call_later(seconds, call.send, token(1) + DONE)
        try:
            got += await until(body, DONE, seconds + 10)
        finally:
            timer.cancel()
        call.finish()
        assert [chunk async for chunk in body] == []
        return got.count(b"\n\n") - 3


@each_front
async def test_a_client_that_leaves_the_front_ends_the_upstreams_work(
    name: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    upstream = Stepwise()
    async with (
        fronted(tmp_path, name, needs_program(name), upstream) as (_, one),
        one.pool() as pool,
    ):
        answer = await one.post(pool, CHAT, chat())
        call = await upstream.call()
        call.head()
        call.send(token(0))
        await until(aiter(answer), token(0))
        answer.cancel()
        await asyncio.wait_for(call.gone.wait(), 10)


@each_front
async def test_no_forwarding_header_reaches_the_upstream(
    name: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    """Neither the caller's, who could say anything, nor the front's."""
    upstream = Stepwise()
    async with (
        fronted(tmp_path, name, needs_program(name), upstream) as (_, one),
        one.pool() as pool,
    ):
        given = [(header, "192.0.2.7") for header in sorted(FORWARDED)]
        answer = await one.post(pool, CHAT, chat(), *given, ("x-request-id", "through-the-front"))
        call = await upstream.call()
        await at_once(call)
        assert FORWARDED & call.headers.keys() == set()
        assert call.headers["x-request-id"] == "through-the-front"
        head = await answer.head()
        assert (b"x-request-id", b"through-the-front") in head.headers
        await answer.read()


@each_front
async def test_a_cut_stream_has_its_error_and_no_end_behind_a_front(
    name: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    """HTTP says so too behind nginx. HAProxy 2.6 and Caddy 2.6 give a client of HTTP/2 a clean end:
    there only the error event tells, and that the dialect's end is missing."""
    upstream = Stepwise()
    async with (
        fronted(tmp_path, name, needs_program(name), upstream) as (_, one),
        one.pool() as pool,
    ):
        answer = await one.post(pool, CHAT, chat())
        call = await upstream.call()
        call.head()
        call.send(token(0))
        body = aiter(answer)
        got = await until(body, token(0))
        call.finish("rst")
        says_so = False
        try:
            async for chunk in body:
                got += chunk
        except UpstreamError:
            says_so = True
        assert says_so or name != "nginx"
        assert (got.count(b'"error"'), got.count(DONE)) == (1, 0)


@each_front
async def test_an_error_keeps_its_status_and_its_body(
    name: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    async with (
        fronted(tmp_path, name, needs_program(name), at_once) as (_, one),
        one.pool() as pool,
    ):
        answer = await one.post(pool, CHAT, b"{")
        head = await asyncio.wait_for(answer.head(), 10)
        assert head.status == 400
        assert b'"invalid_request"' in await answer.read()


async def test_haproxy_gives_a_proxy_that_stops_nothing_new(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    program = needs_program("haproxy")
    upstream = Stepwise()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with ScriptedUpstream(upstream) as glm:
        settings = [in_front_of(glm, tmp_path / name) for name in ("one", "two")]
        async with (
            running(tmp_path / "one", settings[0]) as first,
            running(tmp_path / "two", settings[1]) as second,
        ):
            ports = [app.data_address[1] for app in (first, second)]
            admin = [app.admin_address[1] for app in (first, second)]
            mixed = [port for pair in zip(ports, admin, strict=True) for port in pair]
            async with (
                front(KINDS["haproxy"], program, tmp_path, mixed) as one,
                one.pool() as pool,
            ):
                running_on = [await _begun(one, pool, upstream) for _ in range(2)]
                stopping = asyncio.create_task(first.stop(10))
                for _ in range(10):  # all go to the second
                    answer, call = await _begun(one, pool, upstream)
                    await _ended(answer, call)
                for answer, call in running_on:
                    await _ended(answer, call)
                await asyncio.wait_for(stopping, 10)


async def _begun(one: Front, pool: object, upstream: Stepwise) -> tuple[Reader, Call]:
    answer = await one.post(pool, CHAT, chat())  # type: ignore[arg-type]
    call = await upstream.call()
    call.head()
    call.send(token(0))
    assert (await asyncio.wait_for(answer.head(), 10)).status == 200
    return answer, call


async def _ended(answer: Reader, call: Call) -> None:
    call.send(DONE)
    call.finish()
    assert (await asyncio.wait_for(answer.read(), 10)).endswith(DONE)


def test_the_files_name_one_host() -> None:
    for kind in KINDS.values():
        text = (Path(__file__).parents[2] / "deploy" / "fronts" / kind.file).read_text("utf-8")
        assert "31m" in text, "longer than timeouts.total"
        assert NAME in text or kind.program == "haproxy"
