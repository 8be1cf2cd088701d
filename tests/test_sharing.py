"""Identical requests that run at the same time: one upstream answer, whole for each of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.app import App
from proxy.core.flow.timeline import Timeline
from proxy.core.record import Record
from proxy.errors import ProxyError, StreamCut
from proxy.net.broadcast import Broadcast, Reader
from tests.fakes.raw_client import Answer, RawClient, ask, chat
from tests.fakes.running import in_front_of, outcomes, running, samples, total
from tests.fakes.serving import serving
from tests.fakes.upstream import Call, H2Call, ScriptedUpstream

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
CALLER = "Authorization: Bearer caller.secret"
EVENTS = [
    b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"%d"}}]}\n\n' % n for n in range(5)
]
USAGE = (
    b'data: {"id":"1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}}\n\n'
)
DONE = b"data: [DONE]\n\n"
WHOLE = [*EVENTS, USAGE, DONE]
THOUGHT = b'data: {"id":"1","choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}\n\n'
HEARTBEAT = b": heartbeat\n\n"
SHARE: dict[str, Any] = {"routes": [{"name": "together", "share": True}]}
ONCE: dict[str, Any] = {"attempts": {"retries": 0}, "admission": {"limit": "off"}}


class Play:
    """An upstream that answers step by step, as the test says."""

    def __init__(self) -> None:
        self.steps: asyncio.Queue[bytes | str] = asyncio.Queue()

    async def __call__(self, call: Call) -> None:
        begun = False
        while True:
            step = await self.steps.get()
            if not begun:
                begun = True
                call.head()
            if isinstance(step, str):
                call.finish(step)
                return
            call.send(step)

    def say(self, *steps: bytes | str) -> None:
        for step in steps:
            self.steps.put_nowait(step)


@pytest.fixture
def play() -> Play:
    return Play()


@pytest.fixture(params=[False, True], ids=["http1", "h2"])
def over_h2(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@asynccontextmanager
async def scene(
    folder: Path,
    script: Callable[[Call], Awaitable[None]],
    *,
    h2: bool = False,
    **settings: Any,
) -> AsyncIterator[tuple[ScriptedUpstream, App]]:
    """A proxy that shares, in front of a scripted upstream; no task is left at the end."""
    before = asyncio.all_tasks()
    async with (
        ScriptedUpstream(script, h2=h2) as upstream,
        running(folder, in_front_of(upstream, folder, **{**SHARE, **settings})) as app,
    ):
        yield upstream, app
        await until(lambda: in_flight(app, 0))
        assert await total(app, "glm_proxy_pool_streams") == 0
    await until(lambda: nothing_but(before))


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await is_so():
            await asyncio.sleep(0.005)


async def nothing_but(tasks: set[asyncio.Task[Any]]) -> bool:
    return asyncio.all_tasks() <= tasks


async def in_flight(app: App, count: int) -> bool:
    return await total(app, "glm_proxy_exchanges_in_flight") == count


async def posted(
    stack: AsyncExitStack, app: App, *headers: str, path: str = CHAT, body: bytes | None = None
) -> RawClient:
    """A client whose request is on its way."""
    client = await stack.enter_async_context(RawClient(app.data_address))
    client.post(path, chat() if body is None else body, *(headers or (CALLER,)))
    return client


async def all_posted(stack: AsyncExitStack, app: App, count: int) -> list[RawClient]:
    """Clients with the same request, all of them being served."""
    before = int(await total(app, "glm_proxy_exchanges_in_flight"))
    clients = [await posted(stack, app) for _ in range(count)]
    await until(lambda: in_flight(app, before + count))
    return clients


async def whole(client: RawClient) -> Answer:
    async with asyncio.timeout(20):
        return await client.whole()


async def chunks(client: RawClient, count: int) -> list[bytes]:
    async with asyncio.timeout(10):
        return [await client.chunk() for _ in range(count)]


# --- one answer for all --------------------------------------------------------------------------


async def test_fifty_at_once_are_one_upstream_call_and_fifty_whole_answers(
    tmp_path: Path, play: Play, over_h2: bool, records: list[Record]
) -> None:
    async with (
        scene(tmp_path, play, h2=over_h2) as (upstream, app),
        AsyncExitStack() as stack,
    ):
        clients = await all_posted(stack, app, 50)
        play.say(*WHOLE[:3], b"".join(WHOLE[3:]), "clean")
        answers = await asyncio.gather(*map(whole, clients))
        assert len(upstream.calls) == 1
        assert [answer.chunks for answer in answers] == [WHOLE] * 50
        assert all(answer.clean for answer in answers)
        assert len({answer.headers["x-request-id"] for answer in answers}) == 50
        assert await outcomes(app) == {"completed": 50}
        assert await outcomes(app, "glm_proxy_attempts_total") == {"completed": 1}
        assert await total(app, "glm_proxy_shared_answers_total") == 49
        tokens = await samples(app, "glm_proxy_tokens_total")
        assert {labels["type"]: count for labels, count in tokens} == {"input": 7, "output": 5}
    assert [len(record.attempts) for record in records] == [0] * 49 + [1]
    assert [record.usage is not None for record in records] == [False] * 49 + [True]
    assert sum(not record.shared for record in records) == 1
    assert {record.timeline.events for record in records} == {len(WHOLE)}


async def test_one_who_comes_late_gets_at_once_what_was_already_sent(
    tmp_path: Path, play: Play, over_h2: bool, records: list[Record]
) -> None:
    async with (
        scene(tmp_path, play, h2=over_h2) as (upstream, app),
        AsyncExitStack() as stack,
    ):
        first = await posted(stack, app)
        play.say(*WHOLE[:3])
        await first.head()
        assert await chunks(first, 3) == WHOLE[:3]
        late = await posted(stack, app)
        past = await asyncio.wait_for(late.reader.read(65536), 5)
        assert past.startswith(b"HTTP/1.1 200")
        assert past.endswith(b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in WHOLE[:3]))
        for event in WHOLE[3:]:
            play.say(event)
            assert await chunks(first, 1) == await chunks(late, 1) == [event]
        play.say("clean")
        assert await chunks(first, 1) == await chunks(late, 1) == [b""]
        assert len(upstream.calls) == 1
    for record in records:
        marks = [getattr(record.timeline, name) for name in Timeline.__slots__]
        times = [mark for mark in marks[:1] + marks[2:6] if mark is not None]
        assert min(times) >= record.timeline.received
        assert record.timeline.events == len(WHOLE)
    late_record = max(records, key=lambda record: record.timeline.received)
    assert late_record.shared
    assert late_record.timeline.sent is None
    assert late_record.ttft is not None
    assert 0 <= late_record.ttft < 0.1


async def test_an_answer_is_not_kept_for_those_who_come_after_its_end(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        call.head()
        call.send(b"".join(WHOLE))
        call.finish()

    async with scene(tmp_path, script) as (upstream, app):
        for number in range(1, 4):
            answer = await ask(app.data_address, CHAT, chat(), CALLER)
            assert answer.chunks == WHOLE
            assert answer.clean
            assert len(upstream.calls) == number


OTHER = chat(temperature=0.5)
SAME = chat()


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        (CHAT, SAME, ["Authorization: Bearer another.secret"]),
        (CHAT, SAME, []),
        (CHAT, OTHER, [CALLER]),
        (CHAT, chat("other-model"), [CALLER]),
        (CHAT, SAME, [CALLER, "X-Route: apart"]),
        (CHAT, SAME, [CALLER, "X-Route: alone"]),
        (CHAT, SAME, [CALLER, "Accept-Language: en"]),
        (CHAT, SAME, [CALLER, "X-GLM-Proxy-Timeout-First-Token: 9s"]),
        (MESSAGES, SAME, [CALLER]),
        ("/api/coding/paas/v4/chat/completions", SAME, [CALLER]),
    ],
    ids=[
        *("key", "no-key", "body", "model", "route", "route-that-does-not-share", "language"),
        *("timeouts", "dialect", "plan"),
    ],
)
async def test_what_differs_is_not_shared(
    tmp_path: Path, path: str, body: bytes, headers: list[str]
) -> None:
    routes = [
        {"name": "apart", "match": {"header": {"x-route": "apart"}}, "share": True},
        {"name": "alone", "match": {"header": {"x-route": "alone"}}},
        {"name": "together", "share": True},
    ]

    async def script(call: Call) -> None:
        call.head()
        call.send(EVENTS[0])
        await call.gone.wait()

    async with (
        scene(tmp_path, script, routes=routes) as (upstream, app),
        AsyncExitStack() as stack,
    ):
        first = await posted(stack, app)
        await first.head()
        other = await posted(stack, app, *(headers or ["X-No: key"]), path=path, body=body)
        await other.head()
        assert len(upstream.calls) == 2
        same = await posted(stack, app)
        await same.head()
        assert len(upstream.calls) == 2


async def test_nothing_is_shared_unless_a_route_says_so(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        call.head()
        call.send(EVENTS[0])
        await call.gone.wait()

    async with (
        scene(tmp_path, script, routes=[{"name": "apart"}]) as (upstream, app),
        AsyncExitStack() as stack,
    ):
        for number in range(1, 4):
            await (await posted(stack, app)).head()
            assert len(upstream.calls) == number


async def test_a_request_without_a_stream_is_not_shared(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def script(call: Call) -> None:
        await go.wait()
        call.head(content_type="application/json", framing="2")
        call.send(b"{}")
        call.finish()

    async with scene(tmp_path, script) as (upstream, app):
        body = chat(stream=False)
        asked = [asyncio.create_task(ask(app.data_address, CHAT, body, CALLER)) for _ in range(3)]
        for _ in asked:
            await asyncio.wait_for(upstream.arrived.acquire(), 10)
        go.set()
        assert {(await one).status for one in asked} == {200}


# --- leaving -------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["silent", "flowing"])
async def test_when_the_first_leaves_the_others_go_on(
    tmp_path: Path, play: Play, over_h2: bool, phase: str, records: list[Record]
) -> None:
    async with (
        scene(tmp_path, play, h2=over_h2) as (upstream, app),
        AsyncExitStack() as stack,
    ):
        async with AsyncExitStack() as leaving:
            first = await posted(leaving, app)
            await asyncio.wait_for(upstream.arrived.acquire(), 10)
            others = await all_posted(stack, app, 3)
            if phase == "flowing":
                play.say(*WHOLE[:2])
                await first.head()
                assert await chunks(first, 2) == WHOLE[:2]
        await until(lambda: in_flight(app, 3))
        play.say(*(WHOLE if phase == "silent" else WHOLE[2:]), "clean")
        answers = await asyncio.gather(*map(whole, others))
        assert [answer.chunks for answer in answers] == [WHOLE] * 3
        assert all(answer.clean for answer in answers)
        assert len(upstream.calls) == 1
        assert await outcomes(app) == {"completed": 3, "client_gone": 1}
        assert await outcomes(app, "glm_proxy_attempts_total") == {"completed": 1}
    left = records[0]
    assert (left.outcome, left.shared, left.attempts, left.usage) == (
        "client_gone",
        False,
        (),
        None,
    )
    assert left.stage == ("waiting" if phase == "silent" else "streaming")
    assert [record.shared for record in records[1:]] == [True] * 3


@pytest.mark.parametrize("phase", ["sent", "silent", "flowing"])
async def test_when_all_have_left_the_upstream_is_told_at_once(
    tmp_path: Path, play: Play, over_h2: bool, phase: str
) -> None:
    async with scene(tmp_path, play, h2=over_h2) as (upstream, app):
        async with AsyncExitStack() as leaving:
            clients = await all_posted(leaving, app, 5)
            call = await upstream.called(lambda call: True)
            if phase == "silent":
                play.say(HEARTBEAT)
            if phase == "flowing":
                play.say(EVENTS[0])
                for client in clients:
                    await client.head()
            assert not call.gone.is_set()
            left = time.monotonic()
        await asyncio.wait_for(call.gone.wait(), 5)
        assert time.monotonic() - left < 0.1
        assert not isinstance(call, H2Call) or call.reset_code == 8
        await until(lambda: in_flight(app, 0))
        assert await outcomes(app) == {"client_gone": 5}
        assert await outcomes(app, "glm_proxy_attempts_total") == {"cancelled": 1}
        async with AsyncExitStack() as stack:
            await posted(stack, app)  # nobody joins what was given up
            await upstream.called(lambda another: another is not call)


async def test_who_leaves_while_all_wait_for_a_place_leaves_nothing_behind(
    tmp_path: Path, play: Play
) -> None:
    admission = {"limit": 1, "wait": "20s"}
    async with (
        scene(tmp_path, play, admission=admission) as (upstream, app),
        AsyncExitStack() as stack,
    ):
        before = await posted(stack, app, body=OTHER)
        await asyncio.wait_for(upstream.arrived.acquire(), 10)
        async with AsyncExitStack() as leaving:
            await all_posted(leaving, app, 4)
        await until(lambda: in_flight(app, 1))
        assert await total(app, "glm_proxy_admission_waiting") == 0
        waiting = await all_posted(stack, app, 2)
        play.say(*WHOLE, "clean")
        assert (await whole(before)).clean
        play.say(*WHOLE, "clean")
        answers = await asyncio.gather(*map(whole, waiting))
        assert [answer.chunks for answer in answers] == [WHOLE] * 2
        assert len(upstream.calls) == 2


async def test_of_many_flights_no_file_and_no_stream_is_left(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        call.head()
        while not call.gone.is_set():
            call.send(EVENTS[0])
            await asyncio.sleep(0.01)

    async with (
        ScriptedUpstream(script, h2=True) as upstream,
        serving(tmp_path, in_front_of(upstream, tmp_path, **SHARE)) as served,
    ):

        async def crowd(number: int) -> None:
            async with AsyncExitStack() as leaving:
                for _ in range(5):
                    client = await leaving.enter_async_context(RawClient(served.data_address))
                    client.post(CHAT, chat(seed=number), CALLER)
                    await client.head()

        await crowd(-1)
        before = served.open_files()
        await asyncio.gather(*(crowd(number) for number in range(20)))
        assert len(upstream.calls) == 21
        for call in upstream.calls:
            await asyncio.wait_for(call.gone.wait(), 5)
        while await served.gauge("glm_proxy_exchanges_in_flight"):
            await asyncio.sleep(0)
        assert await served.gauge("glm_proxy_pool_streams") == 0
        assert await served.gauge("glm_proxy_attempts_total") == 21
        # A warm connection may have been opened or replaced meanwhile.
        assert served.open_files() <= before + 4


# --- slow readers --------------------------------------------------------------------------------

BIG = [b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * 16000)]
MANY = BIG * 1200
"""Some 19 MB: more than the kernel takes for a client that reads nothing."""


async def pour(call: Call) -> None:
    call.head()
    for number, event in enumerate([*MANY, DONE]):
        call.send(event)
        if number % 16 == 0:
            await asyncio.sleep(0)
    call.finish()


async def test_a_slow_reader_delays_nobody_and_gets_all(tmp_path: Path, over_h2: bool) -> None:
    go = asyncio.Event()

    async def script(call: Call) -> None:
        await go.wait()
        await pour(call)

    async with (
        scene(tmp_path, script, h2=over_h2) as (upstream, app),
        AsyncExitStack() as stack,
    ):
        slow, *fast = await all_posted(stack, app, 3)
        go.set()
        for answer in await asyncio.gather(*map(whole, fast)):
            assert answer.chunks == [*MANY, DONE]
            assert answer.clean
        assert await in_flight(app, 1)
        answer = await whole(slow)
        assert answer.chunks == [*MANY, DONE]
        assert answer.clean
        assert len(upstream.calls) == 1
        await until(lambda: in_flight(app, 0))
        assert await outcomes(app) == {"completed": 3}


async def test_a_reader_that_takes_nothing_is_dropped_and_the_others_are_not(
    tmp_path: Path,
) -> None:
    go = asyncio.Event()

    async def script(call: Call) -> None:
        await go.wait()
        await pour(call)

    stream = {"client_stall": "300ms"}
    async with (
        scene(tmp_path, script, stream=stream) as (_, app),
        AsyncExitStack() as stack,
    ):
        stuck, fast = await all_posted(stack, app, 2)
        go.set()
        assert (await whole(fast)).clean
        await until(lambda: in_flight(app, 0))
        assert not (await whole(stuck)).clean
        assert await outcomes(app) == {"completed": 1, "client_gone": 1}
        assert await outcomes(app, "glm_proxy_attempts_total") == {"completed": 1}


async def test_what_is_kept_is_limited_and_the_stream_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.flight.LARGEST_ANSWER", 256 * 1024)
    go, end = asyncio.Event(), asyncio.Event()

    async def script(call: Call) -> None:
        call.head()
        await go.wait()
        for event in MANY:
            call.send(event)
            await asyncio.sleep(0)
        await end.wait()
        call.send(DONE)
        call.finish()

    async with (
        scene(tmp_path, script) as (upstream, app),
        AsyncExitStack() as stack,
    ):
        stuck, fast = await all_posted(stack, app, 2)
        go.set()
        await fast.head()
        assert await chunks(fast, len(MANY)) == MANY
        await until(lambda: in_flight(app, 1))  # nothing is kept for one that lags so far
        late = await posted(stack, app)  # the start is gone: this one needs an answer of its own
        await upstream.called(lambda call: call is not upstream.calls[0])
        end.set()
        assert await chunks(fast, 2) == [DONE, b""]
        assert (await whole(late)).chunks == [*MANY, DONE]
        assert not (await whole(stuck)).clean


# --- failures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
async def test_a_failure_before_the_first_event_is_the_same_for_all(
    tmp_path: Path, path: str
) -> None:
    go = asyncio.Event()
    said = b'{"error":{"code":"1211","message":"no such model"}}'

    async def script(call: Call) -> None:
        await go.wait()
        call.head(400, content_type="application/json", framing=str(len(said)))
        call.send(said)
        call.finish()

    async with (
        scene(tmp_path, script, **ONCE) as (upstream, app),
        AsyncExitStack() as stack,
    ):
        clients = [await posted(stack, app, path=path) for _ in range(5)]
        await until(lambda: in_flight(app, 5))
        go.set()
        answers = await asyncio.gather(*map(whole, clients))
        assert {answer.status for answer in answers} == {400}
        assert len({answer.body for answer in answers}) == 1
        assert answers[0].json()["error"]["code"] == "1211"
        assert len(upstream.calls) == 1
        assert await outcomes(app) == {"upstream_failed": 5}
        assert await outcomes(app, "glm_proxy_attempts_total") == {"upstream_failed": 1}


async def test_a_connection_that_breaks_before_an_answer_is_the_same_error_for_all(
    tmp_path: Path,
) -> None:
    go = asyncio.Event()

    async def script(call: Call) -> None:
        await go.wait()
        call.finish("rst")

    async with (
        scene(tmp_path, script, **ONCE) as (upstream, app),
        AsyncExitStack() as stack,
    ):
        clients = await all_posted(stack, app, 5)
        go.set()
        answers = await asyncio.gather(*map(whole, clients))
        assert {answer.status for answer in answers} == {502}
        assert len({answer.body for answer in answers}) == 1
        assert len(upstream.calls) == 1
        assert (await outcomes(app)).total() == 5


@pytest.mark.parametrize("ending", ["torn", "close"])
async def test_a_cut_after_the_first_event_is_one_error_event_for_each(
    tmp_path: Path, play: Play, ending: str
) -> None:
    async with (
        scene(tmp_path, play, **ONCE) as (_, app),
        AsyncExitStack() as stack,
    ):
        first = await all_posted(stack, app, 2)
        play.say(*EVENTS[:2])
        for client in first:
            await client.head()
            assert await chunks(client, 2) == EVENTS[:2]
        late = await all_posted(stack, app, 2)
        for client in late:
            await client.head()
            assert await chunks(client, 2) == EVENTS[:2]
        play.say(ending)
        for client in (*first, *late):
            (told,) = await chunks(client, 1)
            assert orjson.loads(told.removeprefix(b"data: "))["error"]["code"].startswith(
                "upstream_"
            )
            with pytest.raises(asyncio.IncompleteReadError):
                await client.chunk()
        assert (await outcomes(app)).total() == 4
        assert "completed" not in await outcomes(app)
        assert (await outcomes(app, "glm_proxy_attempts_total")).total() == 1


async def test_an_error_that_the_upstream_tells_in_its_stream_reaches_all(
    tmp_path: Path, play: Play
) -> None:
    said = b'data: {"error":{"code":"1234","message":"network"}}\n\n'
    async with (
        scene(tmp_path, play, **ONCE) as (_, app),
        AsyncExitStack() as stack,
    ):
        clients = await all_posted(stack, app, 3)
        play.say(EVENTS[0], said, "clean")
        answers = await asyncio.gather(*map(whole, clients))
        for answer in answers:
            assert len(answer.chunks) == 2
            assert b'"1234"' in answer.chunks[1]
            assert not answer.clean
        assert await outcomes(app) == {"upstream_failed": 3}


async def test_a_proxy_that_stops_tells_all_and_ends(tmp_path: Path, play: Play) -> None:
    async with (
        ScriptedUpstream(play) as upstream,
        AsyncExitStack() as stack,
    ):
        async with running(tmp_path, in_front_of(upstream, tmp_path, **SHARE)) as app:
            clients = await all_posted(stack, app, 3)
            play.say(EVENTS[0])
            for client in clients:
                await client.head()
                assert await chunks(client, 1) == [EVENTS[0]]
        for client in clients:
            (told,) = await chunks(client, 1)
            assert b"proxy_draining" in told
            with pytest.raises(asyncio.IncompleteReadError):
                await client.chunk()
        await asyncio.wait_for(upstream.calls[0].gone.wait(), 5)


async def test_a_proxy_that_stops_tells_those_who_wait_for_an_answer(
    tmp_path: Path, play: Play, records: list[Record]
) -> None:
    async with (
        ScriptedUpstream(play) as upstream,
        AsyncExitStack() as stack,
    ):
        async with running(tmp_path, in_front_of(upstream, tmp_path, **SHARE)) as app:
            clients = await all_posted(stack, app, 3)
            await asyncio.wait_for(upstream.arrived.acquire(), 5)
        for client in clients:
            answer = await whole(client)
            assert (answer.status, answer.json()["error"]["code"]) == (503, "proxy_draining")
    assert [record.outcome for record in records] == ["proxy_draining"] * 3
    assert [attempt.outcome for attempt in records[-1].attempts] == ["proxy_draining"]


async def test_a_proxy_that_stops_does_not_wait_for_one_that_lags(
    tmp_path: Path, records: list[Record]
) -> None:
    go = asyncio.Event()

    async def script(call: Call) -> None:
        await go.wait()
        await pour(call)

    async with (
        ScriptedUpstream(script) as upstream,
        AsyncExitStack() as stack,
    ):
        async with running(tmp_path, in_front_of(upstream, tmp_path, **SHARE)) as app:
            await all_posted(stack, app, 1)
            (fast,) = await all_posted(stack, app, 1)
            go.set()
            assert (await whole(fast)).clean
            stopped = time.monotonic()
        assert time.monotonic() - stopped < 0.9
    assert [record.outcome for record in records] == ["completed", "proxy_draining"]
    assert [len(record.attempts) for record in records] == [0, 1]


async def test_a_defect_of_ours_is_told_to_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise RuntimeError("a defect")

    async with (
        scene(tmp_path, Play()) as (_, app),
        AsyncExitStack() as stack,
    ):
        monkeypatch.setattr("proxy.pursuit.rewrite", breaks)
        clients = [await posted(stack, app) for _ in range(3)]
        answers = await asyncio.gather(*map(whole, clients))
        assert {answer.status for answer in answers} == {500}
        assert await outcomes(app) == {"internal_error": 3}


# --- with other settings -------------------------------------------------------------------------


async def test_heartbeats_go_to_all_and_are_not_kept(tmp_path: Path, play: Play) -> None:
    stream = {"heartbeat": "100ms"}
    async with (
        scene(tmp_path, play, stream=stream) as (_, app),
        AsyncExitStack() as stack,
    ):
        first = await all_posted(stack, app, 2)
        play.say(EVENTS[0])
        for client in first:
            await client.head()
            assert await chunks(client, 2) == [EVENTS[0], HEARTBEAT]
        (late,) = await all_posted(stack, app, 1)
        play.say(*WHOLE[1:], "clean")
        for client in first:
            rest = await chunks(client, len(WHOLE) - 1)
            while rest[0] == HEARTBEAT:
                rest = rest[1:] + await chunks(client, 1)
            assert [*rest, *await chunks(client, 1)] == [*WHOLE[1:], b""]
        answer = await whole(late)
        assert answer.chunks[0] == EVENTS[0]
        assert [chunk for chunk in answer.chunks if chunk != HEARTBEAT] == WHOLE
        await until(lambda: in_flight(app, 0))
        assert await total(app, "glm_proxy_heartbeats_total") >= 2


async def test_an_early_commit_works_behind_which_all_wait_for_one_answer(
    tmp_path: Path, play: Play
) -> None:
    settings: dict[str, Any] = {"stream": {"heartbeat": "50ms"}, "commit": "early"}
    async with (
        scene(tmp_path, play, **settings) as (upstream, app),
        AsyncExitStack() as stack,
    ):
        clients = await all_posted(stack, app, 2)
        for client in clients:
            assert (await client.head()).status == 200
            assert await chunks(client, 1) == [HEARTBEAT]
        clients += await all_posted(stack, app, 1)
        await clients[2].head()
        play.say(*WHOLE, "clean")
        for client in clients:
            got = []
            while chunk := await client.chunk():
                got.append(chunk)
            assert [chunk for chunk in got if chunk != HEARTBEAT] == WHOLE
        assert len(upstream.calls) == 1


async def test_metadata_is_each_exchanges_own(tmp_path: Path, play: Play) -> None:
    stream = {"emit_metadata": True}
    async with (
        scene(tmp_path, play, stream=stream) as (_, app),
        AsyncExitStack() as stack,
    ):
        clients = await all_posted(stack, app, 2)
        play.say(THOUGHT)
        heads = [await client.head() for client in clients]
        late = await posted(stack, app)
        heads.append(await late.head())
        play.say(*WHOLE, "clean")
        for head, client in zip(heads, [*clients, late], strict=True):
            decision, *events, times, end = await chunks(client, len(WHOLE) + 3)
            assert head.headers["x-request-id"].encode() in decision
            assert [*events, end] == [THOUGHT, *WHOLE]
            told = orjson.loads(times.removeprefix(b": glm-proxy "))
            assert min(told.values()) >= 0
            assert {"first_event_s", "first_token_s", "first_content_s", "last_event_s"} <= set(
                told
            )
            assert await client.chunk() == b""


async def test_merged_text_is_merged_once_for_all(tmp_path: Path, play: Play) -> None:
    stream = {"text_buffer_size": 3, "text_buffer_max_delay": "5s"}
    async with (
        scene(tmp_path, play, stream=stream) as (_, app),
        AsyncExitStack() as stack,
    ):
        clients = await all_posted(stack, app, 2)
        play.say(*WHOLE, "clean")
        one, other = await asyncio.gather(*map(whole, clients))
        assert one.chunks == other.chunks
        assert len(one.chunks) < len(WHOLE)
        assert one.clean
        assert other.clean


# --- the broadcast by itself ---------------------------------------------------------------------


class Half:
    """A client that pauses when it is told to."""

    def __init__(self) -> None:
        self.paused_since: float | None = None
        self.aborted = False

    def has_taken(self, now: float) -> bool:
        return True

    def abort(self) -> None:
        self.aborted = True


class Watched:
    """A reader, what was written to it, and how it ended."""

    def __init__(self, broadcast: Broadcast) -> None:
        self.half = Half()
        self.reader = broadcast.join(Timeline(0.0))
        self.got: list[bytes] = []
        self.whole = False
        self.begun = False
        self.task = asyncio.create_task(self.reader.stream_into(self.write, self.half))

    def write(self, events: list[bytes], last: bool) -> None:
        assert not self.whole
        self.begun = True
        self.got += [event for event in events if event != HEARTBEAT]
        self.whole = last

    def flow(self, paused: bool) -> None:
        self.half.paused_since = 0.0 if paused else None
        self.reader.flow(paused)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 3)),
        st.tuples(st.just("beat"), st.just(0)),
        st.tuples(st.just("join"), st.just(0)),
        st.tuples(st.just("pause"), st.integers(0, 4)),
        st.tuples(st.just("resume"), st.integers(0, 4)),
        st.tuples(st.just("leave"), st.integers(0, 4)),
        st.tuples(st.just("turn"), st.just(0)),
    ),
    max_size=40,
)


@given(steps=STEPS, cut=st.booleans())
def test_whoever_comes_pauses_or_goes_each_reader_gets_all_once_and_in_order(
    steps: list[tuple[str, int]], cut: bool
) -> None:
    asyncio.run(_broadcast(steps, cut=cut))


async def _broadcast(steps: list[tuple[str, int]], *, cut: bool) -> None:
    broadcast = Broadcast(1 << 20, 60.0)
    sent: list[bytes] = []
    readers: list[Watched] = [Watched(broadcast)]
    await asyncio.sleep(0)
    for what, which in steps:
        chosen = readers[which % len(readers)]
        match what:
            case "write":
                events = [b"%d" % (len(sent) + n) for n in range(which)]
                sent += events
                broadcast.write(events, False)
            case "beat":
                broadcast.write([HEARTBEAT], False)
            case "join":
                readers.append(Watched(broadcast))
            case "pause" | "resume" if chosen.begun:
                chosen.flow(what == "pause")
            case "leave" if len(readers) > 1:
                readers.remove(chosen)
                await _gone(broadcast, chosen.reader, chosen.task)
                assert chosen.got == sent[: len(chosen.got)]
            case _:
                await asyncio.sleep(0)
        for reader in readers:
            assert reader.got == sent[: len(reader.got)]
    error = StreamCut("cut") if cut else None
    if not cut:
        sent.append(b"end")
        broadcast.write([b"end"], True)
    broadcast.finish(error)
    for reader in readers:
        await asyncio.sleep(0)
        reader.flow(False)
        assert await asyncio.wait_for(reader.task, 5) is error
        assert (reader.got, reader.whole) == (sent, not cut)
        broadcast.leave(reader.reader)
    assert not broadcast._readers


async def _gone(
    broadcast: Broadcast, reader: Reader, task: asyncio.Task[ProxyError | None]
) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    broadcast.leave(reader)
