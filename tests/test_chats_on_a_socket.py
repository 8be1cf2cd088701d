"""Many chats on one WebSocket, driven by the `websockets` library against a scripted upstream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from proxy.app import App
from proxy.core.wire.sse import NotJson
from proxy.sockets import chat_client
from proxy.sockets.chat_client import ChatClient
from proxy.sockets.crowd import Crowd
from tests.fakes.chatting import DONE, PATH, Chatting, Told, chatting, chunk, of
from tests.fakes.running import in_front_of, outcomes, running
from tests.fakes.serving import serving
from tests.fakes.until import until
from tests.fakes.upstream import Call, H1Call, H2Call, ScriptedUpstream

ROUTES = [{"name": "chats", "websocket": True}]
TEXTS = ["one", "two", "three"]


async def script(call: Call) -> None:
    """A chat's id says how it is answered, up to the first dash."""
    id = of(call)
    match id.partition("-")[0]:
        case "whole":
            call.head(content_type="application/json")
            call.send(orjson.dumps({"id": id, "choices": [{"message": {"content": "hi"}}]}))
        case "refused":
            call.head(400, content_type="application/json")
            call.send(b'{"error":{"code":"1210","message":"wrong parameter"}}')
        case "silent":
            return
        case "open":
            call.head()
            call.send(chunk(id, "one"))
            return
        case "cut":
            call.head()
            call.send(chunk(id, "one"))
            call.finish("rst")
            return
        case "errs":
            call.head()
            call.send(chunk(id, "one"))
            call.send(b'data: {"error":{"code":"1305","message":"too busy"}}\n\n')
        case "odd":
            call.head()
            call.send(chunk(id, "one") + b'data: {"no","id":"b"\n\n: a comment\n\n' + DONE)
        case "many":
            call.head()
            call.send(b"".join(chunk(id, str(number)) for number in range(40)) + DONE)
        case _:
            call.head()
            for text in TEXTS:
                call.send(chunk(id, text))
                await asyncio.sleep(0)
            call.send(DONE)
    call.finish()


@asynccontextmanager
async def chats(
    folder: Path, *, h2: bool = False, path: str = PATH, **settings: Any
) -> AsyncIterator[tuple[Chatting, ScriptedUpstream, App]]:
    settings = {"routes": ROUTES, "attempts": {"retries": 0}, **settings}
    async with (
        ScriptedUpstream(script, h2=h2) as upstream,
        running(folder, in_front_of(upstream, folder, **settings)) as app,
        chatting(app.data_address, path) as client,
    ):
        yield client, upstream, app


def is_of(id: str, call: Call) -> bool:
    return of(call) == id


def data_of(event: bytes) -> Any:
    return orjson.loads(event.removeprefix(b"data: "))


def said(told: list[Told]) -> list[str]:
    return [one["data"]["choices"][0]["delta"]["content"] for one in told if "data" in one]


@pytest.mark.parametrize("h2", [False, True], ids=["http1", "h2"])
async def test_a_stream_is_its_events_between_a_head_and_an_end(tmp_path: Path, h2: bool) -> None:
    async with chats(tmp_path, h2=h2) as (client, _, app):
        await client.begin("a")
        head, *events, end = await client.rest("a")
        assert head["status"] == 200
        assert head["headers"]["x-glm-proxy-route"] == "chats"
        assert head["headers"]["x-request-id"]
        assert events == [{"id": "a", "data": data_of(chunk("a", text))} for text in TEXTS]
        assert end == {"id": "a", "done": True}
        assert (await outcomes(app))["completed"] == 1


async def test_the_upstream_gets_the_clients_own_bytes(tmp_path: Path) -> None:
    async with chats(tmp_path) as (client, upstream, _):
        messages = '[{"role":"user","content":"a\\u0041\\"}"}]'
        body = '{ "model":"glm-4.6", "messages":' + messages + ',"stream" :true,"user_id":"x"}'
        head = '{"headers":{"X-Session-Id":"s"}, "body": '
        await client.socket.send(head + body + ' , "id":"é"}')
        assert (await client.rest("é"))[-1] == {"id": "é", "done": True}
        assert upstream.calls[0].body.decode() == body
        assert upstream.calls[0].headers["x-session-id"] == "s"


@pytest.mark.parametrize("api", ["paas", "coding/paas"])
async def test_each_chat_path_has_a_socket(tmp_path: Path, api: str) -> None:
    path = f"/api/{api}/v4/chat/completions"
    async with chats(tmp_path, path=path) as (client, upstream, _):
        await client.begin("a")
        assert said(await client.rest("a")) == TEXTS
        assert upstream.calls[0].path == path


async def test_an_answer_that_is_no_stream_is_one_message(tmp_path: Path) -> None:
    async with chats(tmp_path) as (client, _, _):
        await client.begin("whole", stream=False)
        (told,) = await client.rest("whole")
        assert told["status"] == 200
        assert told["done"] is True
        assert told["body"] == {"id": "whole", "choices": [{"message": {"content": "hi"}}]}


async def test_chats_that_fail_say_so_and_leave_the_others(tmp_path: Path) -> None:
    async with chats(tmp_path) as (client, _, _):
        await client.begin("open")
        await client.next("open")
        for id in ("refused", "cut", "errs", "odd", "a"):
            await client.begin(id)
        (told,) = await client.rest("refused")
        assert (told["status"], told["error"]["code"]) == (400, "1210")
        *_, told = await client.rest("cut")
        assert told["error"]["code"] == "upstream_reset"
        assert "done" not in told
        *_, event, told = await client.rest("errs")
        assert event["data"] == {"error": {"code": "1305", "message": "too busy"}}
        assert told == {"id": "errs", "error": {"code": "1305", "message": "too busy"}}
        _, _, odd, end = await client.rest("odd")
        assert odd == {"id": "odd", "data": '{"no","id":"b"'}
        assert end == {"id": "odd", "done": True}
        assert said(await client.rest("a")) == TEXTS
        await client.say(id="open", cancel=True)
        assert (await client.rest("open"))[-1] == {"id": "open", "cancelled": True}


async def test_wrong_messages_are_told_and_harm_no_chat(tmp_path: Path) -> None:
    async with chats(tmp_path) as (client, upstream, _):
        await client.begin("silent")
        await upstream.arrived.acquire()
        for text in ('{"id":1,"cancel":true}', '{"cancel":true}', '{"id":"","cancel":true}'):
            await client.socket.send(text)
            error = (await client.next())["error"]
            assert (error["code"], error["param"]) == ("invalid_request", "id")
        for text, param in (
            ('{"id":"b","body":[]}', "body"),
            ('{"id":"b","body":{},"cancel":true}', None),
            ('{"id":"b"}', None),
            ('{"id":"b","more":0}', "more"),
            ('{"id":"b","more":true}', "more"),
            ('{"id":"b","body":{},"window":0}', "window"),
            ('{"id":"b","body":{},"wndow":1}', "wndow"),
            ('{"id":"b","body":{},"headers":{"authorization":"x"}}', "headers"),
            ('{"id":"b","body":{},"headers":{"x-session-id":"a\\nb"}}', "headers"),
            ('{"id":"b","cancel":true,"id":"b"}', None),
        ):
            await client.socket.send(text)
            error = (await client.next("b"))["error"]
            assert (error["code"], error["param"]) == ("invalid_request", param), text
        await client.socket.send('{"id":"b","body":{"model":"glm-4.6"}}')
        told = await client.next("b")
        assert (told["status"], told["error"]["param"]) == (400, "messages")
        await client.begin("silent")
        assert (await client.next("silent"))["error"]["param"] == "id"
        await client.say(id="b", cancel=True)
        assert await client.next("b") == {"id": "b", "cancelled": False}
        assert not upstream.calls[0].gone.is_set()


async def test_who_goes_on_sending_nonsense_is_shown_out(tmp_path: Path) -> None:
    async with chats(tmp_path) as (client, upstream, _):
        await client.begin("silent")
        call = await upstream.called(lambda call: True)
        for nonsense in (b"\x00", "{", "[]", '"a"', "", "1", "null"):
            await client.socket.send(nonsense)
            assert "JSON" in (await client.next())["error"]["message"]
        await client.say(id="x", cancel=True)  # a good one in between
        assert await client.next("x") == {"id": "x", "cancelled": False}
        for _ in range(8):
            await client.socket.send("nonsense")
        assert await client.closed() == (1008, "too many messages are no JSON objects")
        await asyncio.wait_for(call.gone.wait(), 5)


async def test_no_more_chats_run_than_may(tmp_path: Path) -> None:
    async with chats(tmp_path, websocket={"max_chats": 2}) as (client, _, _):
        await client.begin("silent-1")
        await client.begin("silent-2")
        await client.begin("a")
        told = await client.next("a")
        assert (told["status"], told["error"]["code"]) == (429, "too_many_chats")
        await client.say(id="silent-1", cancel=True)
        await client.next("silent-1")
        await client.begin("a")
        assert said(await client.rest("a")) == TEXTS


async def test_with_its_last_message_a_chat_leaves_its_id_and_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, moment = Crowd._live, asyncio.Event()

    async def with_a_moment_to_go(crowd: Crowd, client: ChatClient) -> None:
        await live(crowd, client)
        await moment.wait()

    monkeypatch.setattr(Crowd, "_live", with_a_moment_to_go)
    async with chats(tmp_path, websocket={"max_chats": 1}) as (client, _, app):
        for _ in range(3):
            await client.begin("a")
            assert said(await client.rest("a")) == TEXTS
        await client.say(id="a", cancel=True)
        assert await client.next("a") == {"id": "a", "cancelled": False}
        moment.set()
        await until(lambda: len(app._running) == 1)  # the socket itself
        await client.begin("a")
        assert said(await client.rest("a")) == TEXTS


async def test_a_cancel_is_answered_though_the_end_comes_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel = Crowd.cancel

    def with_the_end_behind_it(crowd: Crowd, name: str) -> bool:
        chat = crowd.chat(name)
        assert chat is not None
        was_running = cancel(crowd, name)
        chat.write([chunk("open", "two"), DONE], True)  # as the upstream's next read has it
        return was_running

    monkeypatch.setattr(Crowd, "cancel", with_the_end_behind_it)
    async with chats(tmp_path) as (client, _, _):
        await client.begin("open")
        for _ in ("head", "event"):
            await client.next("open")
        await client.say(id="open", cancel=True)
        assert await client.rest("open") == [{"id": "open", "cancelled": True}]


@pytest.mark.parametrize("h2", [False, True], ids=["http1", "h2"])
async def test_a_cancel_reaches_the_upstream_and_no_other_chat(tmp_path: Path, h2: bool) -> None:
    took = []
    async with chats(tmp_path, h2=h2) as (client, upstream, app):
        await client.begin("open-kept")
        for number in range(50):
            id = f"{('open', 'silent')[number % 2]}-{number}"
            await client.begin(id)
            call = await upstream.called(partial(is_of, id))
            began = time.monotonic()
            await client.say(id=id, cancel=True)
            await asyncio.wait_for(call.gone.wait(), 5)
            took.append(time.monotonic() - began)
            assert (await client.rest(id))[-1] == {"id": id, "cancelled": True}
        kept = await upstream.called(lambda call: of(call) == "open-kept")
        assert not kept.gone.is_set()
        assert (await outcomes(app))["client_gone"] == 50
    print(f"cancel to upstream, of 50: p99 {sorted(took)[-1] * 1000:.1f} ms")
    assert sorted(took)[25] < 0.5


async def test_a_socket_that_closes_ends_all_its_chats(tmp_path: Path) -> None:
    async with ScriptedUpstream(script) as upstream:
        settings = in_front_of(upstream, tmp_path, routes=ROUTES)
        async with running(tmp_path, settings) as app:
            async with chatting(app.data_address) as client:
                for number in range(20):
                    await client.begin(f"open-{number}")
                for _ in range(20):
                    await upstream.arrived.acquire()
                for number in range(20):
                    await client.next(f"open-{number}")
                client.socket.transport.abort()
                for call in upstream.calls:
                    await asyncio.wait_for(call.gone.wait(), 5)
            await until(lambda: not app._running)
            assert (await outcomes(app))["client_gone"] == 21


@pytest.mark.parametrize("h2", [False, True], ids=["http1", "h2"])
async def test_a_chat_with_a_window_gets_so_many_events_and_no_more(
    tmp_path: Path, h2: bool
) -> None:
    async with chats(tmp_path, h2=h2) as (client, _, _):
        await client.begin("many", window=3)
        assert (await client.next("many"))["status"] == 200
        for number in range(3):
            assert said([await client.next("many")]) == [str(number)]
        await client.begin("a")  # another one goes on
        assert said(await client.rest("a")) == TEXTS
        assert client.waits("many") == 0
        await client.say(id="many", more=30)
        more = [await client.next("many") for _ in range(30)]
        assert said(more) == [str(number) for number in range(3, 33)]
        await client.say(id="a", more=5)  # it is over
        await client.say(id="many", more=7)
        rest = await client.rest("many")
        assert said(rest) == [str(number) for number in range(33, 40)]
        assert rest[-1] == {"id": "many", "done": True}
        assert client.waits() == 0


def unsent(call: Call) -> int:
    """Bytes that an upstream could not get rid of."""
    if isinstance(call, H2Call):
        return len(call._queue)
    assert isinstance(call, H1Call)
    return call._server.transport.get_write_buffer_size()


@pytest.mark.parametrize("h2", [False, True], ids=["http1", "h2"])
async def test_a_chat_without_credit_holds_its_own_upstream_back(tmp_path: Path, h2: bool) -> None:
    pieces = [chunk("much", "x" * 65_536) for _ in range(256)]

    async def much(call: Call) -> None:
        call.head()
        call.send(b"".join(pieces) + DONE if of(call) == "much" else chunk("a", "one") + DONE)
        call.finish()

    async with ScriptedUpstream(much, h2=h2) as upstream:
        settings = in_front_of(upstream, tmp_path, routes=ROUTES)
        async with running(tmp_path, settings) as app, chatting(app.data_address) as client:
            await client.begin("much", window=2)
            assert [await client.next("much") for _ in range(3)]
            for _ in range(20):  # enough for all of it to come, if it came
                await client.begin("a")
                assert said(await client.rest("a")) == ["one"]
                await asyncio.sleep(0.01)
            assert unsent(upstream.calls[0]) > 8 * 1024 * 1024
            assert client.waits("much") == 0
            await client.say(id="much", more=1000)
            assert (await client.rest("much"))[-1] == {"id": "much", "done": True}
            assert client.events["much"] == [
                b'{"id":"much","data":%b}' % piece[6:-2] for piece in pieces
            ]


async def test_a_chat_that_asks_for_nothing_more_is_ended_and_no_other(tmp_path: Path) -> None:
    stream = {"client_stall": "200ms"}
    async with chats(tmp_path, stream=stream) as (client, upstream, _):
        await client.begin("open-other")
        await client.begin("many", window=3)  # its stream is over, upstream
        rest = await client.rest("many")
        assert len(said(rest)) == 3
        assert rest[-1]["error"]["code"] == "client_stalled"
        other = await upstream.called(lambda call: of(call) == "open-other")
        assert not other.gone.is_set()


async def test_a_route_without_it_serves_no_chat_on_a_socket(tmp_path: Path) -> None:
    routes = [{"name": "no", "match": {"model": ["glm-5"]}}, *ROUTES]
    async with chats(tmp_path, routes=routes) as (client, upstream, _):
        await client.begin("a", model="glm-5")
        told = await client.next("a")
        assert (told["status"], told["error"]["param"]) == (400, "model")
        assert not upstream.calls


async def test_without_any_route_that_allows_it_the_path_is_as_it_was(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream(script))
        settings = in_front_of(upstream, tmp_path)
        app = await stack.enter_async_context(running(tmp_path, settings))
        host, port = app.data_address
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"ws://{host}:{port}{PATH}", proxy=None)
        assert caught.value.response.status_code == 405


async def test_while_the_proxy_stops_chats_finish_and_none_begins(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def waiting(call: Call) -> None:
        call.head()
        call.send(chunk(of(call), "one"))
        await go.wait()
        call.send(chunk(of(call), "two") + DONE)
        call.finish()

    async with ScriptedUpstream(waiting) as upstream:
        settings = in_front_of(upstream, tmp_path, routes=ROUTES)
        async with running(tmp_path, settings) as app, chatting(app.data_address) as client:
            await client.begin("a")
            await client.next("a")
            stopping = asyncio.create_task(app.stop(20))
            await until(lambda: not app._ready)
            await asyncio.sleep(0)
            await client.begin("b")
            told = await client.next("b")
            assert (told["status"], told["error"]["code"]) == (503, "proxy_draining")
            go.set()
            assert said(await client.rest("a")) == ["one", "two"]
            assert (await client.closed())[0] == 1001
            await stopping


async def test_what_outlasts_the_stopping_is_told_so(tmp_path: Path) -> None:
    async with ScriptedUpstream(script) as upstream:
        settings = in_front_of(upstream, tmp_path, routes=ROUTES)
        async with running(tmp_path, settings) as app, chatting(app.data_address) as client:
            await client.begin("open")
            await client.begin("silent")
            await client.begin("many", window=1)
            await client.next("open")
            await client.next("open")
            await client.next("many")
            await client.next("many")
            await upstream.called(lambda call: of(call) == "silent")
            await app.stop(0.05)
            for id in ("open", "silent", "many"):
                told = await client.next(id)
                assert told["error"]["code"] == "proxy_draining", id
            assert (await client.closed())[0] == 1001


@pytest.mark.parametrize("h2", [False, True], ids=["http1", "h2"])
async def test_who_reads_nothing_at_all_holds_all_its_chats_back_and_then_is_dropped(
    tmp_path: Path, h2: bool
) -> None:
    async def flooding(call: Call) -> None:
        id = of(call)
        call.head()
        for _ in range(400):  # 25 MiB each
            call.send(chunk(id, "x" * 65_536))
            await asyncio.sleep(0.001)

    async with ScriptedUpstream(flooding, h2=h2) as upstream:
        stream = {"client_stall": "300ms"}
        settings = in_front_of(upstream, tmp_path, routes=ROUTES, stream=stream)
        async with running(tmp_path, settings) as app:
            host, port = app.data_address
            url = f"ws://{host}:{port}{PATH}"
            async with connect(url, proxy=None, compression=None, max_queue=1) as socket:
                for number in range(4):
                    body = {"model": "glm-4.6", "stream": True, "user_id": f"chat-{number}"}
                    body |= {"messages": [{"role": "user", "content": "hi"}]}
                    await socket.send(orjson.dumps({"id": str(number), "body": body}).decode())
                for number in range(4):
                    call = await upstream.called(partial(is_of, f"chat-{number}"))
                    await asyncio.wait_for(call.gone.wait(), 20)
                socket.transport.abort()
            assert (await outcomes(app))["client_gone"] == 5


async def test_a_stream_that_began_early_fails_without_a_second_status(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def late(call: Call) -> None:
        await go.wait()
        call.head(400, content_type="application/json")
        call.send(b'{"error":{"code":"1210","message":"wrong parameter"}}')
        call.finish()

    async with ScriptedUpstream(late) as upstream:
        routes = [{**ROUTES[0], "commit": "early", "stream": {"heartbeat": "20ms"}}]
        settings = in_front_of(upstream, tmp_path, routes=routes)
        async with running(tmp_path, settings) as app, chatting(app.data_address) as client:
            await client.begin("a")
            head = await client.next("a")
            assert (head["status"], "x-request-id" in head["headers"]) == (200, True)
            go.set()
            told = await client.next("a")  # no heartbeat in between
            assert (told["error"]["code"], "status" in told) == ("1210", False)


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b'data: {"a":1}\n\n', b'{"a":1}'),
        (b'event: x\ndata: {"a":1}\n\n', b'{"a":1}'),
        (b'id: 7\nevent: x\ndata: {"a":1}\n\n', b'{"a":1}'),
        (b': a comment\ndata: {"a":1}\n\n', b'{"a":1}'),
        (b'data:{"a":\ndata:1}\n\n', b'{"a":\n1}'),
        (b'data: {"a":\rdata: 1}\n\n', b'{"a":\n1}'),
        (b'\r\ndata: {"a":1}\r\n\r\n', b'{"a":1}'),
        (b"data: [DONE]\n\n", None),
        (b"data:[DONE]\r\r", None),
        (b"data:  [DONE] \n\n", None),
        (b": heartbeat\n\n", None),
        (NotJson(b'data: {"a"\n\n'), b'"{\\"a\\""'),
        (NotJson(b"data: \xe4\xbd\xa0\n\n"), '"你"'.encode()),
    ],
)
def test_an_events_data_is_found_in_any_spelling(event: bytes, data: bytes | None) -> None:
    assert chat_client.data_of(event) == data


async def test_the_example_in_the_readme_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    _, _, after = readme.partition("#### Many chats on one WebSocket")
    code = after.partition("```python\n")[2].partition("```")[0]

    async def telling(call: Call) -> None:
        call.head()
        call.send(chunk("x", "hot") + DONE)
        call.finish()

    async with ScriptedUpstream(telling) as upstream:
        settings = in_front_of(upstream, tmp_path, routes=ROUTES)
        async with running(tmp_path, settings) as app:
            host, port = app.data_address
            code = code.replace("127.0.0.1:8080", f"{host}:{port}")
            await asyncio.to_thread(exec, code, {})
            keys = [call.headers["authorization"] for call in upstream.calls]
            assert keys == ["Bearer any"] * 2  # where the endpoint has none, the caller has to
    told = capsys.readouterr().out
    assert told.count("'hot'") == told.count("'done': True") == 2


CHATS, SLOW = 200, 20


async def talking(call: Call) -> None:
    """A chat gets events of 1 KiB, one every 10 ms or so."""
    id = of(call)
    call.head()
    for event in answer(id):
        call.send(event)
        await asyncio.sleep(0.01)
    call.send(DONE)
    call.finish()


def answer(id: str) -> list[bytes]:
    """As many events as the id ends with."""
    events = int(id.rpartition("-")[2])
    return [chunk(id, f"{number} of {id}: " + "x" * 1024) for number in range(events)]


async def talk(address: tuple[str, int], events: int, window: int | None) -> list[float]:
    """First contents of the other chats, in order, while SLOW that began before them have a window
    and never ask for more. What all got is checked."""
    async with chatting(address) as client:
        began = {}
        for number in range(SLOW):
            await client.begin(f"slow-{number}-{events}", window=window)
        for number in range(CHATS - SLOW):
            id = f"chat-{number}-{events}"
            began[id] = time.monotonic()
            await client.begin(id)
        for id in began:
            assert (await client.rest(id))[-1] == {"id": id, "done": True}
            start = b'{"id":"%b","data":' % id.encode()
            assert client.events[id] == [start + event[6:-2] + b"}" for event in answer(id)]
        if window is not None:
            for number in range(SLOW):
                assert len(client.events[f"slow-{number}-{events}"]) == window
        return sorted(client.first[id] - began[id] for id in began)


async def test_of_200_chats_on_one_socket_20_that_do_not_read_harm_no_other(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(talking) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path, routes=ROUTES)) as app,
    ):
        await talk(app.data_address, 8, 2)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("h2", [False, True], ids=["http1", "h2"])
async def test_chats_that_do_not_read_delay_the_others_first_content_by_nothing(
    tmp_path: Path, h2: bool
) -> None:
    took: dict[int | None, list[float]] = {None: [], 2: []}
    async with ScriptedUpstream(talking, h2=h2) as upstream:
        settings = in_front_of(upstream, tmp_path, routes=ROUTES)
        async with serving(tmp_path, settings) as served:
            await talk(served.data_address, 10, None)  # connections are opened
            for _ in range(5):
                for window, first in took.items():
                    first += await talk(served.data_address, 40, window)
    for window, first in took.items():
        first.sort()
        p50, p99 = (first[int(len(first) * share)] * 1000 for share in (0.5, 0.99))
        print(f"window {window} of {SLOW}: others p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    assert took[2][-1] < 10 * took[None][-1]
