"""What becomes of an answer whose client leaves: cancelled, read for its usage, or kept."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.app import App
from proxy.config import load
from proxy.core.record import Record
from proxy.net.downstream import HttpClient
from proxy.state.memory import MemoryHome
from tests.fakes.leaving import CALLER, CHAT, DONE, KEEP, USAGE, asked, fetch, token
from tests.fakes.raw_client import RawClient, chat
from tests.fakes.running import in_front_of, running, total
from tests.fakes.until import until
from tests.fakes.upstream import Call, H2Call, ScriptedUpstream

EVENTS = [token(text) for text in "abcde"]
WHOLE = [*EVENTS, USAGE, DONE]


class Play:
    """Answers as the test says, whichever call it is; the calls and what is to be said are seen."""

    def __init__(self) -> None:
        self.begin = asyncio.Event()
        self.go_on = asyncio.Event()
        self.end = asyncio.Event()

    async def __call__(self, call: Call) -> None:
        await self.begin.wait()
        if call.body.find(b'"stream":false') >= 0:
            body = b'{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":5}}'
            call.head(content_type="application/json", framing=str(len(body)))
            await self.end.wait()
            call.send(body)
        else:
            call.head()
            call.send(EVENTS[0])
            await self.go_on.wait()
            call.send(b"".join(EVENTS[1:]))
            await self.end.wait()
            call.send(USAGE + DONE)
        call.finish()

    def everything(self) -> None:
        for step in (self.begin, self.go_on, self.end):
            step.set()


@pytest.fixture
def play() -> Play:
    return Play()


def route(action: str, **more: Any) -> dict[str, Any]:
    kind, _, seconds = action.partition(": ")
    leaving = {kind: seconds} if seconds else kind
    return {"routes": [{"name": "one", "on_disconnect": leaving, **more}]}


@asynccontextmanager
async def scene(
    folder: Path, play: Any, *, h2: bool = False, **settings: Any
) -> AsyncIterator[tuple[ScriptedUpstream, App]]:
    """A proxy in front of a scripted upstream; nothing is left at the end."""
    before = asyncio.all_tasks()
    async with (
        ScriptedUpstream(play, h2=h2) as upstream,
        running(folder, in_front_of(upstream, folder, **settings)) as app,
    ):
        yield upstream, app
        await until(lambda: not app._running)
        assert await total(app, "glm_proxy_exchanges_in_flight") == 0
        assert await total(app, "glm_proxy_pool_streams") == 0
        assert await total(app, "glm_proxy_admission_in_flight") == 0
        assert app.house.flights == {}
    await until(lambda: asyncio.all_tasks() <= before)


async def leave(app: App, upstream: ScriptedUpstream, *, stage: str, play: Play) -> Call:
    """A client that leaves when it, or the upstream, has come so far; the upstream's call."""
    number = len(upstream.calls)
    async with RawClient(app.data_address) as client:
        client.post(CHAT, chat(), CALLER)
        await until(lambda: len(upstream.calls) > number)
        call = upstream.calls[number]
        if stage != "waiting":
            play.begin.set()
            async with asyncio.timeout(10):
                await client.head()
                await client.chunk()
        if stage == "streaming":
            play.go_on.set()
            async with asyncio.timeout(10):
                for _ in EVENTS[1:]:
                    await client.chunk()
        if stage == "ended":
            play.everything()
            async with asyncio.timeout(10):
                while await client.chunk():
                    pass
    return call


STAGES = pytest.mark.parametrize(
    ("stage", "over_h2"), [("waiting", False), ("first", True), ("streaming", False)]
)
BOTH = pytest.mark.parametrize("action", ["drain: 30s", "keep: 30s"])


async def test_cancel_tells_the_upstream_at_once(
    tmp_path: Path, play: Play, records: list[Record]
) -> None:
    async with scene(tmp_path, play, h2=True, **route("cancel")) as (upstream, app):
        call = await leave(app, upstream, stage="first", play=play)
        left = time.monotonic()
        await asyncio.wait_for(call.gone.wait(), 5)
        print(f"told after {(time.monotonic() - left) * 1000:.1f} ms")
        assert not isinstance(call, H2Call) or call.reset_code == 8
        await until(lambda: records)
        assert await total(app, "glm_proxy_clients_left_total", then="cancelled") == 1
    assert [(one.outcome, one.left) for one in records] == [("client_gone", None)]


@STAGES
async def test_drain_reads_on_for_the_usage(
    tmp_path: Path, play: Play, over_h2: bool, stage: str, records: list[Record]
) -> None:
    """The record, and what it took of its caller's limits, are of the whole answer."""
    limits = {"limits": {"per_key": {"tokens_per_day": 1000, "concurrent": 3}}}
    settings = {**route("drain: 30s"), **limits}
    async with scene(tmp_path, play, h2=over_h2, **settings) as (upstream, app):
        home = app.home
        assert isinstance(home, MemoryHome)
        call = await leave(app, upstream, stage=stage, play=play)
        await until(lambda: no_reader(app))
        assert len(app._running) == 1  # it is still one that runs
        assert await total(app, "glm_proxy_exchanges_in_flight") == 1
        assert sum(home.places().values()) == 1
        (exchange,) = app._running
        assert exchange.peek().request_id
        assert not records
        play.everything()
        await until(lambda: records)
        assert not call.gone.is_set() or not isinstance(call, H2Call)
        assert await total(app, "glm_proxy_clients_left_total", then="drained") == 1
        assert await total(app, "glm_proxy_tokens_total", type="output") == 5
        assert sum(home.places().values()) == 0
    (record,) = records
    assert (record.outcome, record.left) == ("client_gone", "drained")
    assert record.usage is not None
    assert (record.usage.input_tokens, record.usage.output_tokens) == (7, 5)
    assert not record.usage.partial
    assert record.stage == ("waiting" if stage == "waiting" else "streaming")
    assert [one.outcome for one in record.attempts] == ["completed"]


def no_reader(app: App) -> bool:
    """Whether the client of the only exchange is known to have left."""
    return all(one._seat is not None and one._seat._is_left for one in app._running)


async def test_what_is_drained_is_not_kept_in_memory(tmp_path: Path, play: Play) -> None:
    async with scene(tmp_path, play, **route("drain: 30s")) as (upstream, app):
        await leave(app, upstream, stage="streaming", play=play)
        (exchange,) = app._running
        assert exchange._seat is not None
        broadcast = exchange._seat._flight.broadcast
        assert (broadcast.end, broadcast._kept) == (5, [])
        play.everything()


async def test_drain_gives_up_after_its_time(
    tmp_path: Path, play: Play, records: list[Record]
) -> None:
    async with scene(tmp_path, play, h2=True, **route("drain: 300ms")) as (upstream, app):
        call = await leave(app, upstream, stage="first", play=play)
        left = time.monotonic()
        await asyncio.wait_for(call.gone.wait(), 10)
        assert time.monotonic() - left > 0.2
        assert not isinstance(call, H2Call) or call.reset_code == 8
        await until(lambda: records)
        assert await total(app, "glm_proxy_clients_left_total", then="gave_up") == 1
    (record,) = records
    assert (record.outcome, record.left) == ("client_gone", "gave_up")
    assert [one.outcome for one in record.attempts] == ["cancelled"]


@pytest.mark.parametrize("upgrade", [False, True])
async def test_a_whole_answer_is_drained_as_well(
    tmp_path: Path, play: Play, upgrade: bool, records: list[Record]
) -> None:
    settings = {**route("drain: 30s"), "stream": {"upgrade": upgrade}}
    async with scene(tmp_path, play, **settings) as (upstream, app):
        async with RawClient(app.data_address) as client:
            client.post(CHAT, chat(stream=False), CALLER)
            await until(lambda: upstream.calls)
            play.begin.set()
        await until(lambda: no_reader(app))
        play.everything()
        await until(lambda: records)
        async with RawClient(app.data_address) as client:
            client.post(CHAT, chat(stream=False), CALLER)
            answer = await asyncio.wait_for(client.whole(), 10)
        assert answer.status == 200
        assert answer.json()["usage"]["completion_tokens"] == 5
        await until(lambda: len(records) == 2)
    assert [(one.outcome, one.left) for one in records] == [
        ("client_gone", "drained"),
        ("completed", None),
    ]
    assert all(one.usage is not None and one.usage.output_tokens == 5 for one in records)


@STAGES
async def test_keep_reads_to_the_end_what_can_be_fetched(
    tmp_path: Path, play: Play, over_h2: bool, stage: str, records: list[Record]
) -> None:
    """Nobody could fetch an answer whose id was never told: it is cancelled."""
    async with scene(tmp_path, play, h2=over_h2, **KEEP) as (upstream, app):
        call = await leave(app, upstream, stage=stage, play=play)
        if stage == "waiting":
            await asyncio.wait_for(call.gone.wait(), 5)
        else:
            await until(lambda: no_reader(app))
            play.everything()
        await until(lambda: records)
        kept = await total(app, "glm_proxy_kept_streams")
        assert kept == (0 if stage == "waiting" else 1)
    (record,) = records
    assert record.left == (None if stage == "waiting" else "kept")
    assert record.outcome == "client_gone"
    if stage != "waiting":
        assert record.usage is not None
        assert record.usage.output_tokens == 5


async def test_a_response_is_not_kept(tmp_path: Path, play: Play) -> None:
    """It is made of its stream for one client."""
    async with scene(tmp_path, play, **route("keep: 30s", responses={})) as (upstream, app):
        play.begin.set()
        async with RawClient(app.data_address) as client:
            client.post("/v1/responses", b'{"model":"m","input":"hi","stream":true}', CALLER)
            async with asyncio.timeout(10):
                head = await client.head()
            assert "x-glm-proxy-stream" not in head.headers
            assert await total(app, "glm_proxy_kept_streams") == 0
        await asyncio.wait_for(upstream.calls[0].gone.wait(), 5)


@BOTH
async def test_an_answer_that_was_taken_whole_is_completed(
    tmp_path: Path, play: Play, action: str, records: list[Record]
) -> None:
    async with scene(tmp_path, play, **route(action)) as (upstream, app):
        await leave(app, upstream, stage="ended", play=play)
        await until(lambda: records)
        assert await total(app, "glm_proxy_clients_left_total") == 0
    assert [(one.outcome, one.left) for one in records] == [("completed", None)]


@pytest.mark.parametrize(
    "settings",
    [
        {"on_disconnect": {"drain": "30s"}},
        {"on_disconnect": {"keep": "30s"}},
        {"share": True},
        {"cache": {"store": "sqlite:answers.db"}},
    ],
    ids=["drain", "keep", "share", "cache"],
)
async def test_a_client_that_closes_with_the_last_byte_has_had_it_all(
    tmp_path: Path,
    play: Play,
    records: list[Record],
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
) -> None:
    """As curl does: before anybody but the upstream's own connection knows of the end."""
    write = HttpClient.write

    def then_close(client: HttpClient, events: list[bytes], last: bool = False) -> None:
        write(client, events, last)
        if last:
            client._connection.transport.close()

    monkeypatch.setattr(HttpClient, "write", then_close)
    play.begin.set()
    async with (
        scene(tmp_path, play, routes=[{"name": "one", **settings}]) as (_, app),
        asked(app.data_address, CHAT, CALLER) as (client, _),
    ):
        play.everything()
        while await client.chunk():
            pass
        await until(lambda: records)
    assert [(one.outcome, one.left) for one in records] == [("completed", None)]
    assert records[0].usage is not None


async def test_while_it_waits_for_a_place_nothing_is_asked(tmp_path: Path, play: Play) -> None:
    """Nothing was sent, so there is no usage to read."""
    settings = {**route("drain: 30s"), "admission": {"limit": 1, "wait": "30s"}}
    async with scene(tmp_path, play, **settings) as (upstream, app):
        async with asked_later(app), RawClient(app.data_address) as second:
            await until(lambda: upstream.calls)
            second.post(CHAT, chat(), CALLER)
            await until(lambda: len(app._running) == 2)
            second.writer.close()
            await until(lambda: len(app._running) == 1)
            play.everything()
        await until(lambda: not app._running)
        assert len(upstream.calls) == 1


@asynccontextmanager
async def asked_later(app: App) -> AsyncIterator[RawClient]:
    async with RawClient(app.data_address) as client:
        client.post(CHAT, chat(), CALLER)
        yield client


@BOTH
async def test_of_those_that_share_the_last_one_accounts_once(
    tmp_path: Path, play: Play, action: str, records: list[Record]
) -> None:
    async with scene(tmp_path, play, **route(action, share=True)) as (upstream, app):
        play.begin.set()
        names = set()
        for together in (2, 1):  # the last of them comes while nobody else reads it
            async with AsyncExitStack() as stack:
                for _ in range(together):
                    client, head = await stack.enter_async_context(
                        asked(app.data_address, CHAT, CALLER)
                    )
                    assert await client.chunk() == EVENTS[0]
                    names.add(head.headers.get("x-glm-proxy-stream"))
            await until(lambda: len(app._running) == 1)
        async with asked(app.data_address, CHAT, CALLER) as (client, _):  # one stays to the end
            play.everything()
            async with asyncio.timeout(10):
                assert [await client.chunk() for _ in WHOLE] == WHOLE
        assert len(upstream.calls) == len(names) == 1
        await until(lambda: not app._running)
        assert await total(app, "glm_proxy_tokens_total", type="output") == 5
        assert await total(app, "glm_proxy_attempts_total") == 1
    became = "drained" if action.startswith("drain") else "kept"
    ends = [("client_gone", became)] * 3 + [("completed", None)]
    assert [(one.outcome, one.left) for one in records] == ends
    assert [len(record.attempts) for record in records] == [0, 0, 1, 0]


@BOTH
async def test_a_stop_waits_for_what_goes_on(
    tmp_path: Path, play: Play, action: str, records: list[Record]
) -> None:
    before = asyncio.all_tasks()
    async with ScriptedUpstream(play) as upstream:
        settings = in_front_of(upstream, tmp_path, **route(action))
        async with running(tmp_path, settings) as app:
            await leave(app, upstream, stage="first", play=play)
            await until(lambda: no_reader(app))
            stopping = asyncio.create_task(app.stop(20))
            await asyncio.sleep(0.3)
            assert not stopping.done()
            play.everything()
            await asyncio.wait_for(stopping, 10)
            (record,) = records
            assert record.usage is not None
            assert record.usage.output_tokens == 5
    await until(lambda: asyncio.all_tasks() <= before)


@BOTH
async def test_a_stop_ends_what_goes_on_for_too_long(
    tmp_path: Path, play: Play, action: str, records: list[Record]
) -> None:
    before = asyncio.all_tasks()
    async with ScriptedUpstream(play) as upstream:
        settings = in_front_of(upstream, tmp_path, **route(action))
        async with running(tmp_path, settings) as app:
            call = await leave(app, upstream, stage="first", play=play)
            await until(lambda: no_reader(app))
            late = None
            if action.startswith("keep"):
                (ring,) = app.house.keeper.rings
                late = asyncio.create_task(fetch(app.data_address, ring.id, CALLER))
                await until(lambda: len(app._running) == 2)
            await asyncio.wait_for(app.stop(0.1), 10)
            await asyncio.wait_for(call.gone.wait(), 5)
            if late is not None:
                answer = await late
                assert answer.chunks[:1] == EVENTS[:1]
                assert b"proxy_draining" in answer.chunks[-1]
                assert not answer.clean
    record = next(record for record in records if record.kind == "chat")
    assert (record.outcome, record.left) == ("client_gone", "gave_up")
    await until(lambda: asyncio.all_tasks() <= before)


async def test_what_goes_on_keeps_the_settings_it_began_with(
    tmp_path: Path, play: Play, records: list[Record]
) -> None:
    async with scene(tmp_path, play, **route("drain: 30s")) as (upstream, app):
        await leave(app, upstream, stage="first", play=play)
        await until(lambda: no_reader(app))
        before = app._generation
        async with ScriptedUpstream(play) as another:
            path = tmp_path / "other.yaml"
            path.write_text(
                (tmp_path / "proxy.yaml").read_text().replace(upstream.url, another.url)
            )
            await app.reload(load(path, {}))
            assert before._users == 1
            play.everything()
            await until(lambda: records)
            assert before._users == 0
    (record,) = records
    assert record.left == "drained"
    assert [one.outcome for one in record.attempts] == ["completed"]


async def test_an_upstream_that_breaks_afterwards_is_in_the_record(
    tmp_path: Path, records: list[Record]
) -> None:
    go = asyncio.Event()

    async def script(call: Call) -> None:
        call.head()
        call.send(EVENTS[0])
        await go.wait()
        call.finish("close")

    async with scene(tmp_path, script, **route("drain: 30s")) as (_, app):
        async with asked(app.data_address, CHAT, CALLER) as (client, _):
            await client.chunk()
        await until(lambda: no_reader(app))
        go.set()
        await until(lambda: records)
    (record,) = records
    assert (record.outcome, record.left) == ("client_gone", "drained")
    assert [one.outcome for one in record.attempts] == ["upstream_reset"]


@pytest.mark.parametrize(("action", "over_h2"), [("drain: 30s", True), ("keep: 30s", False)])
async def test_of_clients_that_leave_at_any_moment_nothing_is_left(
    tmp_path: Path, action: str, records: list[Record], over_h2: bool
) -> None:
    """At each of many moments from the connection to after the end: one record each, and its
    tokens once."""

    end = asyncio.Event()

    async def script(call: Call) -> None:
        await asyncio.sleep(0.02)
        call.head()
        for event in EVENTS:
            call.send(event)
            await asyncio.sleep(0.003)
        if call.headers["x-title"] == "held":
            await end.wait()
        call.send(USAGE)
        call.send(DONE)
        call.finish()

    async with scene(tmp_path, script, h2=over_h2, **route(action)) as (upstream, app):

        async def at_a_moment(after: float) -> None:
            async with RawClient(app.data_address) as client:
                client.post(CHAT, chat(), CALLER, "X-Title: free")
                await asyncio.sleep(after)

        async def after_events(count: int) -> None:
            async with asked(app.data_address, CHAT, CALLER, "X-Title: held") as (client, _):
                for _ in range(count):
                    await client.chunk()

        await asyncio.gather(
            *(at_a_moment(number * 0.0012) for number in range(40)),
            *(after_events(number % 6) for number in range(20)),
        )
        await until(lambda: all(one._seat is None or one._seat._is_left for one in app._running))
        end.set()
        await until(lambda: len(records) >= 20 and not app._running)
        used = [one for one in records if one.usage is not None and not one.usage.partial]
        assert await total(app, "glm_proxy_tokens_total", type="output") == 5 * len(used)
        assert len(upstream.calls) <= len(records)
        ends = {(one.outcome, one.left) for one in records}
        became = "drained" if action.startswith("drain") else "kept"
        assert ends <= {("client_gone", None), ("client_gone", became), ("completed", None)}
        assert ("client_gone", became) in ends
        for record in records:
            if record.left is not None:
                assert record.usage is not None
                assert record.usage.output_tokens == 5
