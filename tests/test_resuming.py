"""Clients that lose their connection and come back: a stream goes on where it was left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.app import App
from tests.fakes.keys import a_key, bearer, keyed
from tests.fakes.leaving import (
    CALLER,
    CHAT,
    DONE,
    KEEP,
    MESSAGES,
    OTHER,
    USAGE,
    Comer,
    anthropic_answer,
    asked,
    at_leisure,
    fetch,
    openai_answer,
    token,
    with_ids,
)
from tests.fakes.running import in_front_of, outcomes, running, total
from tests.fakes.until import until
from tests.fakes.upstream import Call, ScriptedUpstream

Script = Callable[[Call], Awaitable[None]]
WHOLE = [*map(token, "abcde"), USAGE, DONE]


class Play:
    """An upstream that answers step by step, as the test says."""

    def __init__(self) -> None:
        self._steps: asyncio.Queue[bytes | str] = asyncio.Queue()
        self.call: Call | None = None

    async def __call__(self, call: Call) -> None:
        self.call = call
        call.head()
        while not isinstance(step := await self._steps.get(), str):
            call.send(step)
        call.finish(step)

    def say(self, *steps: bytes | str) -> None:
        for step in steps:
            self._steps.put_nowait(step)


@pytest.fixture
def play() -> Play:
    return Play()


@pytest.fixture(params=[False, True], ids=["http1", "h2"])
def over_h2(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@asynccontextmanager
async def scene(
    folder: Path, script: Script, *, h2: bool = False, **settings: Any
) -> AsyncIterator[tuple[ScriptedUpstream, App]]:
    """A proxy that keeps streams, in front of a scripted upstream; nothing is left at the end."""
    before = asyncio.all_tasks()
    async with (
        ScriptedUpstream(script, h2=h2) as upstream,
        running(folder, in_front_of(upstream, folder, **{**KEEP, **settings})) as app,
    ):
        yield upstream, app
        await in_flight(app, 0)
        assert await total(app, "glm_proxy_pool_streams") == 0
    await until(lambda: asyncio.all_tasks() <= before)


async def in_flight(app: App, count: int) -> None:
    async with asyncio.timeout(20):
        while await total(app, "glm_proxy_exchanges_in_flight") != count:
            await asyncio.sleep(0.01)


async def chunks(client: Any, count: int) -> list[bytes]:
    async with asyncio.timeout(10):
        return [await client.chunk() for _ in range(count)]


# --- the whole ----------------------------------------------------------------------------------


async def come_back(folder: Path, *, h2: bool, clients: int, at_once: int = 50) -> int:
    """How often clients came, so that each of them had the whole."""
    async with scene(folder, at_leisure, h2=h2, keep={"max_size": "256MiB"}) as (upstream, app):
        comers = [Comer((CHAT, MESSAGES)[n % 2], str(n)) for n in range(clients)]
        limit = asyncio.Semaphore(at_once)

        async def one(comer: Comer) -> bool:
            async with limit:
                return await comer.read([app.data_address]) == comer.whole

        assert all(await asyncio.gather(*map(one, comers)))
        assert len(upstream.calls) == clients
        await in_flight(app, 0)
        assert await total(app, "glm_proxy_kept_streams") == clients
        assert 0 < await total(app, "glm_proxy_kept_bytes") < 256 << 20
        assert await total(app, "glm_proxy_tokens_total", type="output") == 5 * clients
        visits = sum(comer.visits for comer in comers)
        assert await total(app, "glm_proxy_streams_resumed_total") == visits - clients
        return visits


async def test_clients_that_drop_at_random_and_resume_have_the_whole(
    tmp_path: Path, over_h2: bool
) -> None:
    assert await come_back(tmp_path, h2=over_h2, clients=30) > 60


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_a_thousand_clients_that_drop_and_resume(
    tmp_path: Path, over_h2: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    visits = await come_back(tmp_path, h2=over_h2, clients=1000, at_once=100)
    with capsys.disabled():
        print(f"\n1000 clients, {visits} connections, 1000 upstream calls, every answer whole")


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_one_goes_on_live_after_each_number_of_events(
    tmp_path: Path, play: Play, path: str
) -> None:
    events = openai_answer("s", 3) if path == CHAT else with_ids(anthropic_answer("s", 3))
    raw = openai_answer("s", 3) if path == CHAT else anthropic_answer("s", 3)
    async with scene(tmp_path, play) as (upstream, app):
        play.say(raw[0])
        async with asked(app.data_address, path, CALLER) as (client, head):
            assert await chunks(client, 1) == events[:1]
        name = head.headers["x-glm-proxy-stream"]
        for past in range(1, len(events)):
            last = f"Last-Event-ID: {past - 1}"
            address, stream = app.data_address, f"/v1/streams/{name}"
            async with asked(address, stream, CALLER, last) as (client, again):
                assert again.status == 200
                assert again.headers["content-type"].startswith("text/event-stream")
                assert again.headers["x-glm-proxy-stream"] == name
                assert await chunks(client, 1) == events[past - 1 : past]
                play.say(raw[past])
                assert await chunks(client, 1) == events[past : past + 1]
        play.say("clean")
        for past in range(len(events) + 1):
            answer = await fetch(app.data_address, name, CALLER, f"Last-Event-ID: {past}")
            assert answer.chunks == events[past:]
            assert answer.clean
        answer = await fetch(app.data_address, f"{name}?last_event_id=2", CALLER)
        assert answer.chunks == events[2:]
        assert (await fetch(app.data_address, name, CALLER)).chunks == events
        assert len(upstream.calls) == 1


async def test_ids_are_where_they_are_asked_for(tmp_path: Path) -> None:
    on, off = "X-GLM-Proxy-Event-Ids: on", "X-GLM-Proxy-Event-Ids: off"
    plain = {CHAT: openai_answer("s"), MESSAGES: anthropic_answer("s")}
    async with scene(tmp_path, at_leisure) as (_, app):
        for path, asks, has in (
            (CHAT, (), False),
            (CHAT, (on,), True),
            (CHAT, (off,), False),
            (MESSAGES, (), True),
            (MESSAGES, (off,), False),
        ):
            told = with_ids(plain[path]) if has else plain[path]
            address = app.data_address
            async with asked(address, path, CALLER, "X-Title: s", *asks) as (client, head):
                assert await chunks(client, len(told) + 1) == [*told, b""]
            name = head.headers["x-glm-proxy-stream"]
            answer = await fetch(address, name, CALLER, "Last-Event-ID: 3", *asks)
            assert answer.chunks == told[3:]


async def test_comments_are_passed_on_and_never_counted(tmp_path: Path, play: Play) -> None:
    comment = b": still thinking\n\n"
    async with scene(tmp_path, play, stream={"heartbeat": "100ms"}) as (_, app):
        play.say(WHOLE[0])
        asks = "X-GLM-Proxy-Event-Ids: on"
        async with asked(app.data_address, CHAT, CALLER, asks) as (client, head):
            assert await chunks(client, 1) == with_ids(WHOLE)[:1]
            play.say(comment)
            await until_it_comes(client, comment)
            await until_it_comes(client, b": heartbeat\n\n")
            play.say(comment + WHOLE[1])
            await until_it_comes(client, with_ids(WHOLE)[1])
        name = head.headers["x-glm-proxy-stream"]
        play.say(*WHOLE[2:], "clean")
        answer = await fetch(app.data_address, name, CALLER, "Last-Event-ID: 1", asks)
        events = [one for one in answer.chunks if not one.startswith(b":")]
        assert events == with_ids(WHOLE)[1:]


async def until_it_comes(client: Any, chunk: bytes) -> None:
    async with asyncio.timeout(10):
        while await client.chunk() != chunk:
            pass


async def test_several_come_back_at_once_and_the_first_is_still_there(
    tmp_path: Path, play: Play, over_h2: bool
) -> None:
    async with scene(tmp_path, play, h2=over_h2) as (upstream, app):
        play.say(*WHOLE[:2])
        async with asked(app.data_address, CHAT, CALLER) as (client, head):
            assert await chunks(client, 2) == WHOLE[:2]
            name = head.headers["x-glm-proxy-stream"]
            others = [
                asyncio.create_task(
                    fetch(app.data_address, name, CALLER, f"Last-Event-ID: {past % 3}")
                )
                for past in range(20)
            ]
            await in_flight(app, 21)
            play.say(*WHOLE[2:], "clean")
            assert await chunks(client, 6) == [*WHOLE[2:], b""]
            answers = await asyncio.gather(*others)
        assert [answer.chunks for answer in answers] == [WHOLE[past % 3 :] for past in range(20)]
        assert all(answer.clean for answer in answers)
        assert len(upstream.calls) == 1
        await in_flight(app, 0)
        assert await outcomes(app) == {"completed": 21}
        assert await total(app, "glm_proxy_tokens_total", type="output") == 5


# --- other ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_a_cut_is_told_as_to_the_first_client(tmp_path: Path, play: Play, path: str) -> None:
    raw = openai_answer("s", 3) if path == CHAT else anthropic_answer("s", 3)
    async with scene(tmp_path, play, attempts={"retries": 0}) as (_, app):
        play.say(*raw[:3])
        async with asked(app.data_address, path, CALLER) as (client, head):
            first = await chunks(client, 3)
            name = head.headers["x-glm-proxy-stream"]
            late = asyncio.create_task(fetch(app.data_address, name, CALLER, "Last-Event-ID: 3"))
            await in_flight(app, 2)
            play.say("close")
            first += await chunks(client, 1)
            with pytest.raises(asyncio.IncompleteReadError):
                await client.chunk()
        assert b"error" in first[-1]
        for answer in (await late, await fetch(app.data_address, name, CALLER, "Last-Event-ID: 3")):
            assert answer.status == 200
            assert answer.chunks == first[-1:]
            assert not answer.clean


async def test_an_error_that_the_upstream_told_is_told_again(tmp_path: Path, play: Play) -> None:
    error = b'data: {"error":{"code":"1234","message":"Network error"}}\n\n'
    async with scene(tmp_path, play) as (_, app):
        play.say(WHOLE[0], error, "clean")
        async with asked(app.data_address, CHAT, CALLER) as (client, head):
            assert await chunks(client, 2) == [WHOLE[0], error]
        name = head.headers["x-glm-proxy-stream"]
        answer = await fetch(app.data_address, name, CALLER, "Last-Event-ID: 1")
        assert answer.chunks == [error]
        assert not answer.clean


async def test_one_that_left_before_the_first_token_comes_back_after_an_early_commit(
    tmp_path: Path,
) -> None:
    go, status = asyncio.Event(), 200

    async def script(call: Call) -> None:
        await go.wait()
        if status == 200:
            call.head()
            call.send(b"".join(WHOLE))
        else:
            call.head(status, content_type="application/json", framing="31")
            call.send(b'{"error":{"message":"not you"}}')
        call.finish()

    early: dict[str, Any] = {"commit": "early", "stream": {"heartbeat": "50ms"}}
    async with scene(tmp_path, script, attempts={"retries": 0}, **early) as (upstream, app):
        for status in (200, 400):
            go.clear()
            async with asked(app.data_address, CHAT, CALLER) as (_, head):
                pass
            name = head.headers["x-glm-proxy-stream"]
            stream = f"/v1/streams/{name}"
            async with asked(app.data_address, stream, CALLER) as (client, _):
                go.set()
                found = [one async for one in rest(client) if not one.startswith(b":")]
            if status == 200:
                assert found == [*WHOLE, b""]
            else:
                assert len(found) == 1
                assert b"not you" in found[0]
        assert len(upstream.calls) == 2


async def rest(client: Any) -> AsyncIterator[bytes]:
    """The chunks up to the end, with an empty one where it is clean."""
    try:
        async with asyncio.timeout(10):
            while chunk := await client.chunk():
                yield chunk
        yield b""
    except asyncio.IncompleteReadError:
        return


# --- who may, and what is refused -----------------------------------------------------------------


async def test_nobody_else_learns_that_a_stream_exists(tmp_path: Path, play: Play) -> None:
    async with scene(tmp_path, play) as (_, app):
        play.say(*WHOLE, "clean")
        async with asked(app.data_address, CHAT, CALLER) as (client, head):
            await chunks(client, len(WHOLE) + 1)
        name = head.headers["x-glm-proxy-stream"]
        nothing = await fetch(app.data_address, "0" * 48, CALLER)
        for headers in ([OTHER], [], ["x-api-key: sk-ant-1"], [OTHER, "Last-Event-ID: 99"]):
            answer = await fetch(app.data_address, name, *headers)
            assert answer.status == nothing.status == 404
            assert answer.body == nothing.body
        assert (await fetch(app.data_address, name, "X-API-Key: caller.secret")).chunks == WHOLE


async def test_a_virtual_key_finds_its_own_streams_only(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(at_leisure) as upstream,
        running(tmp_path, keyed(upstream, tmp_path, **KEEP)) as app,
    ):
        mine, another = await a_key(app), await a_key(app, "team-b")
        async with asked(app.data_address, CHAT, bearer(mine), "X-Title: s") as (_, head):
            pass
        name = head.headers["x-glm-proxy-stream"]
        assert (await fetch(app.data_address, name, bearer(another))).status == 404
        assert (await fetch(app.data_address, name)).status == 401
        assert (await fetch(app.data_address, name, bearer(mine))).chunks == openai_answer("s")


async def test_what_cannot_be_is_refused(tmp_path: Path, play: Play) -> None:
    async with scene(tmp_path, play) as (_, app):
        play.say(*WHOLE[:2])
        async with asked(app.data_address, CHAT, CALLER) as (client, head):
            await chunks(client, 2)
            name = head.headers["x-glm-proxy-stream"]
            for last in ("3", "-1", "x", "1.0", "9" * 99, "٣"):
                line = f"Last-Event-ID: {last}"
                answer = await fetch(app.data_address, name, CALLER, line)
                assert answer.status == 400, last
            for other in ("", f"{name}0", name[:-1], name.upper(), f"f{name[1:]}", "x/y"):
                assert (await fetch(app.data_address, other, CALLER)).status == 404, other
            play.say(*WHOLE[2:], "clean")
            await chunks(client, 6)
        answer = await fetch(app.data_address, name, CALLER, f"Last-Event-ID: {len(WHOLE) + 1}")
        assert answer.status == 400
        anthropic = await fetch(app.data_address, "x", CALLER, "anthropic-version: 2023-06-01")
        assert anthropic.json()["type"] == "error"
    async with (
        ScriptedUpstream(at_leisure) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
        asked(app.data_address, CHAT, CALLER, "X-Title: s") as (_, head),
    ):
        assert "x-glm-proxy-stream" not in head.headers


# --- room and time --------------------------------------------------------------------------------


async def test_of_a_long_answer_the_beginning_is_forgotten(tmp_path: Path) -> None:
    events = openai_answer("long", 2000)

    async def script(call: Call) -> None:
        call.head()
        call.send(b"".join(events))
        call.finish()

    async with scene(tmp_path, script, keep={"max_answer": "64KiB"}) as (_, app):
        async with asked(app.data_address, CHAT, CALLER) as (client, head):
            got = [one async for one in rest(client)]
        assert got == [*events, b""]  # who reads it loses nothing
        name = head.headers["x-glm-proxy-stream"]
        early = await fetch(app.data_address, name, CALLER, "Last-Event-ID: 5")
        assert early.status == 410
        assert early.json()["error"]["code"] == "stream_forgotten"
        late = await fetch(app.data_address, name, CALLER, "Last-Event-ID: 1900")
        assert late.chunks == events[1900:]
        assert await total(app, "glm_proxy_streams_resumed_total", result="forgotten") == 1
        assert await total(app, "glm_proxy_kept_bytes") < 200_000


async def test_all_together_take_no_more_than_they_may(tmp_path: Path) -> None:
    most = 512 << 10
    async with scene(tmp_path, at_leisure, keep={"max_size": "512KiB"}) as (_, app):
        names = []
        for batch in range(5):
            heads = await asyncio.gather(*(left(app, f"{batch}.{n}") for n in range(16)))
            names += heads
            assert await total(app, "glm_proxy_kept_bytes") <= most
        await in_flight(app, 0)
        assert await total(app, "glm_proxy_kept_bytes") <= most
        assert 16 < await total(app, "glm_proxy_kept_streams") < 80
        newest = await fetch(app.data_address, names[-1], CALLER)
        oldest = await fetch(app.data_address, names[0], CALLER)
        assert newest.status == 200
        assert oldest.status == 404


async def test_for_want_of_room_what_runs_for_nobody_is_ended_first(tmp_path: Path) -> None:
    """What is read is kept whole for who reads it; of what it had, nothing."""
    big = token("x" * 10_000)

    async def script(call: Call) -> None:
        call.head()
        for _ in range(5):
            call.send(big)
            await asyncio.sleep(0.01)
        if call.headers["x-title"] == "alone":
            await call.gone.wait()
        call.send(USAGE + DONE)
        call.finish()

    async with scene(tmp_path, script, keep={"max_size": "64KiB"}) as (upstream, app):
        address = app.data_address
        async with asked(address, CHAT, CALLER, "X-Title: alone") as (client, head):
            assert await chunks(client, 5) == [big] * 5
        await until(lambda: [ring.is_idle for ring in app.house.keeper.rings] == [True])
        async with asked(address, CHAT, CALLER, "X-Title: read") as (client, again):
            assert await chunks(client, 8) == [big] * 5 + [USAGE, DONE, b""]
        await asyncio.wait_for(upstream.calls[0].gone.wait(), 10)
        await in_flight(app, 0)
        assert await total(app, "glm_proxy_clients_left_total", then="gave_up") == 1
        name = head.headers["x-glm-proxy-stream"]
        assert (await fetch(address, name, CALLER)).status == 404
        name = again.headers["x-glm-proxy-stream"]
        assert (await fetch(address, name, CALLER)).status == 200


async def test_when_all_that_runs_is_read_only_what_was_had_is_forgotten(
    tmp_path: Path, play: Play
) -> None:
    async with scene(tmp_path, play, keep={"max_size": "8KiB"}) as (_, app):
        events = [token("x" * 1000) for _ in range(20)]
        play.say(*events)
        async with asked(app.data_address, CHAT, CALLER) as (client, head):
            assert await chunks(client, 20) == events
            name = head.headers["x-glm-proxy-stream"]
            assert (await fetch(app.data_address, name, CALLER)).status == 410
            late = asyncio.create_task(fetch(app.data_address, name, CALLER, "Last-Event-ID: 20"))
            await in_flight(app, 2)
            play.say(USAGE, DONE, "clean")
            assert await chunks(client, 3) == [USAGE, DONE, b""]
        assert (await late).chunks == [USAGE, DONE]
        assert await total(app, "glm_proxy_kept_bytes") < 8 << 10


async def left(app: App, seed: str) -> str:
    """The id of a stream whose client left after three events."""
    async with asked(app.data_address, CHAT, CALLER, f"X-Title: {seed}") as (client, head):
        await chunks(client, 3)
    return head.headers["x-glm-proxy-stream"]


async def test_after_its_time_nothing_is_left(tmp_path: Path) -> None:
    short = [{"name": "kept", "on_disconnect": {"keep": "200ms"}}]
    async with scene(tmp_path, at_leisure, routes=short) as (_, app):
        name = await left(app, "s")
        assert (await fetch(app.data_address, name, CALLER)).chunks == openai_answer("s")
        async with asyncio.timeout(10):
            while await total(app, "glm_proxy_kept_streams"):
                await asyncio.sleep(0.02)
        assert await total(app, "glm_proxy_kept_bytes") == 0
        assert (await fetch(app.data_address, name, CALLER)).status == 404
        assert app.house.flights == {}


async def test_a_slow_client_holds_its_upstream_back_until_it_leaves(
    tmp_path: Path, over_h2: bool
) -> None:
    """As without a ring: what nobody reads is not fetched, as long as somebody could."""
    sent = 0
    event = token("x" * 60_000)

    async def script(call: Call) -> None:
        nonlocal sent
        call.head()
        for _ in range(300):
            call.send(event)
            sent += 1
            await asyncio.sleep(0)
        call.send(USAGE + DONE)
        call.finish()

    small = {"max_answer": "100KiB"}
    async with scene(tmp_path, script, h2=over_h2, keep=small) as (_upstream, app):
        async with asked(app.data_address, CHAT, CALLER) as (_, head):
            await until(lambda: app._running and held_back(app))
        name = head.headers["x-glm-proxy-stream"]
        await in_flight(app, 0)
        answer = await fetch(app.data_address, name, CALLER, "Last-Event-ID: 301")
        assert answer.chunks == [DONE]
        assert answer.clean


def held_back(app: App) -> bool:
    (ring,) = app.house.keeper.rings
    return ring.paused_since is not None
