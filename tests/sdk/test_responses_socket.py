"""The `openai` SDK's `client.responses.connect()`, and a plain client, on the proxy's WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from openai import OpenAI
from openai.resources.responses.responses import AsyncResponsesConnection
from websockets.asyncio.client import ClientConnection, connect

from proxy.app import App
from proxy.simulator import Fault, Simulator, SimulatorSettings
from tests.fakes.chatting import DONE, chunk, of
from tests.fakes.running import in_front_of, outcomes, running
from tests.fakes.until import until
from tests.fakes.upstream import Call, ScriptedUpstream
from tests.sdk.conftest import KEY, QUESTIONS, WEATHER, address, endpoint
from tests.sdk.test_openai import client as sdk_on
from tests.sdk.test_responses_api import CALL, OPENS, PLAIN, TEXT, THINKS, THOUGHT, TOOLS

ROUTES = [{"name": "all", "responses": {}, "websocket": True}]
LAST = ("response.completed", "response.failed", "response.incomplete", "error")
Event = dict[str, Any]


class Setting:
    def __init__(self, simulator: Simulator, app: App) -> None:
        self.simulator = simulator
        self.app = app
        self.sdk = sdk_on(f"{address(app)}/v1")

    def asked(self, index: int = -1) -> list[tuple[str, str]]:
        """The messages of a request as the upstream got it."""
        messages = orjson.loads(self.simulator.ledger[index].body)["messages"]
        return [(message["role"], message["content"]) for message in messages]


@pytest.fixture
async def at(tmp_path: Path, protocol: str) -> AsyncIterator[Setting]:
    tls = None if protocol == "http/1.1" else 0
    settings = SimulatorSettings(tls_port=tls, reproducible=True)
    more = {"routes": ROUTES, "attempts": {"retries": 0}}
    async with (
        Simulator(settings) as simulator,
        running(tmp_path, {"endpoints": [endpoint(simulator, protocol)], **more}) as app,
    ):
        setting = Setting(simulator, app)
        async with setting.sdk:
            yield setting


async def answered(connection: AsyncResponsesConnection) -> list[Any]:
    """The events of one response, or its failure."""
    events: list[Any] = []
    while not events or events[-1].type not in LAST:
        events.append(await asyncio.wait_for(connection.recv(), 20))
    return events


def names(events: Iterable[Any]) -> list[str]:
    """The events' names in order, those that repeat once."""
    found: list[str] = []
    for event in events:
        name = event["type"] if isinstance(event, dict) else event.type
        if not found or found[-1] != name:
            found.append(name)
    return [name.removeprefix("response.") for name in found]


# --- the SDK -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "order"), [(THINKS, [*THOUGHT, *TEXT]), (PLAIN, TEXT)])
async def test_text_and_thinking_come_in_the_order_of_the_http_stream(
    at: Setting, model: str, order: list[str]
) -> None:
    async with at.sdk.responses.connect() as connection:
        await connection.response.create(model=model, input=QUESTIONS["chinese"])
        events = await answered(connection)
    assert names(events) == [*OPENS, *order, "completed"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert events[-1].response.output_text == text != ""


async def test_a_conversation_goes_on_though_nothing_is_stored(at: Setting) -> None:
    async with at.sdk.responses.connect() as connection:
        create = connection.response.create
        await create(model=PLAIN, input="My cat is called Mimi.", store=False)
        first = (await answered(connection))[-1].response
        await create(
            model=PLAIN, input="Her name?", previous_response_id=first.id, instructions="Brief."
        )
        second = (await answered(connection))[-1].response
    assert at.asked() == [
        ("system", "Brief."),
        ("user", "My cat is called Mimi."),
        ("assistant", first.output_text),
        ("user", "Her name?"),
    ]
    assert second.previous_response_id == first.id
    async with at.sdk.responses.connect() as connection:  # another one knows nothing of it
        await connection.response.create(model=PLAIN, input="?", previous_response_id=first.id)
        (failed,) = await answered(connection)
    assert (failed.status, failed.error.param) == (400, "previous_response_id")


async def test_a_tools_round_trip(at: Setting) -> None:
    async with at.sdk.responses.connect() as connection:
        await connection.response.create(model=PLAIN, input=WEATHER, tools=TOOLS)
        events = await answered(connection)
        assert names(events) == [*OPENS, *CALL, "completed"]
        (call,) = events[-1].response.output
        told: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "fog"}
        await connection.response.create(
            model=PLAIN, previous_response_id=events[-1].response.id, input=[told]
        )
        assert (await answered(connection))[-1].response.output_text
    assert [role for role, _ in at.asked()] == ["user", "assistant", "tool"]


async def test_failures_are_the_sdks_error_events_and_the_connection_stays(at: Setting) -> None:
    async with at.sdk.responses.connect() as connection:
        refusals: list[tuple[dict[str, Any], str, str | None]] = [
            ({"model": "gpt-4"}, "1211", None),
            ({"input": []}, "invalid_request", "input"),
            ({"background": True}, "invalid_request", "background"),
            ({"generate": False}, "invalid_request", "generate"),
            ({"stream_id": ""}, "invalid_request", "stream_id"),
        ]
        for fields, code, param in refusals:
            await connection.response.create(**{"model": PLAIN, "input": "hi", **fields})
            (event,) = await answered(connection)
            assert (event.type, event.status) == ("error", 400)
            assert (event.error.code, event.error.param) == (code, param)
            assert event.error.message
            assert event.error.type
        await connection.response.create(model=PLAIN, input="hi")
        assert (await answered(connection))[-1].response.output_text


async def test_a_cut_is_never_a_completed_response(at: Setting) -> None:
    async with at.sdk.responses.connect() as connection:
        at.simulator.inject(Fault(cut_at_event=3))
        await connection.response.create(model=PLAIN, input=QUESTIONS["english"])
        events = await answered(connection)
        assert names(events)[-1] == "failed"
        assert events[-1].response.status == "failed"
        assert events[-1].response.error.message
        await connection.response.create(model=PLAIN, input="hi")
        assert (await answered(connection))[-1].type == "response.completed"


async def test_input_for_a_running_response_is_given_back(at: Setting) -> None:
    async with at.sdk.responses.connect() as connection:
        await connection.response.steer(input="faster", previous_response_id="resp_x")
        event = await asyncio.wait_for(connection.recv(), 20)
    assert event.type == "response.steer.failed"
    assert event.error.code == "steering_not_supported"
    assert (event.steer.input, event.steer.previous_response_id) == ("faster", "resp_x")


async def test_the_sdk_without_asyncio_gets_the_same(at: Setting) -> None:
    def talk() -> tuple[list[str], str]:
        http = openai.DefaultHttpxClient(verify=False)
        with (
            OpenAI(api_key=KEY, base_url=f"{address(at.app)}/v1", http_client=http) as sdk,
            sdk.responses.connect() as connection,
        ):
            connection.response.create(model=PLAIN, input=QUESTIONS["english"])
            events: list[Any] = []
            while not events or events[-1].type not in LAST:
                events.append(connection.recv())
            return names(events), events[-1].response.output_text

    found, text = await asyncio.to_thread(talk)
    assert found == [*OPENS, *TEXT, "completed"]
    assert text


# --- a plain client ------------------------------------------------------------------------------


async def script(call: Call) -> None:
    """By the chat's user."""
    id = of(call)
    call.head()
    call.send(chunk(id, f"I am {id}"))
    if id.startswith("open"):
        return
    if id.startswith("cut"):
        call.finish("rst")
        return
    call.send(DONE)
    call.finish()


@asynccontextmanager
async def plain(
    folder: Path, **more: Any
) -> AsyncIterator[tuple[ClientConnection, ScriptedUpstream, App]]:
    settings = {"routes": ROUTES, "attempts": {"retries": 0}, **more}
    async with (
        ScriptedUpstream(script) as upstream,
        running(folder, in_front_of(upstream, folder, **settings)) as app,
    ):
        host, port = app.data_address
        url = f"ws://{host}:{port}/v1/responses"
        async with connect(url, proxy=None, compression=None) as socket:
            yield socket, upstream, app


async def create(socket: ClientConnection, user: str, **fields: Any) -> None:
    asked = {"type": "response.create", "model": "glm-4.6", "input": "hi", "user": user, **fields}
    await socket.send(orjson.dumps(asked).decode())


async def rest(socket: ClientConnection, *last: str) -> list[Event]:
    """The messages up to the end of a response, or to one of those types."""
    events: list[Event] = []
    while not events or events[-1]["type"] not in (last or LAST):
        events.append(orjson.loads(await asyncio.wait_for(socket.recv(), 20)))
    return events


async def test_a_plain_client_gets_each_event_as_one_message(tmp_path: Path) -> None:
    async with plain(tmp_path) as (socket, _, app):
        await create(socket, "user-1")
        events = await rest(socket)
        assert names(events) == [*OPENS, *TEXT, "completed"]
        assert events[-1]["response"]["output"][0]["content"][0]["text"] == "I am user-1"
        assert "stream_id" not in events[0]
        await create(socket, "cut-it")
        assert names(await rest(socket))[-1] == "failed"
        assert (await outcomes(app))["completed"] == 1


async def test_one_lane_answers_in_order_and_lanes_at_the_same_time(tmp_path: Path) -> None:
    async with plain(tmp_path) as (socket, upstream, _):
        await create(socket, "open-a", stream_id="a")
        events = await rest(socket, "response.output_text.delta")
        assert {event["stream_id"] for event in events} == {"a"}
        await create(socket, "second-a", stream_id="a")
        await create(socket, "first-b", stream_id="b")
        events = await rest(socket)
        assert events[-1]["type"] == "response.completed"
        assert {event["stream_id"] for event in events} == {"b"}
        assert [of(call) for call in upstream.calls] == ["open-a", "first-b"]
        await socket.send('{"type":"response.cancel","stream_id":"a"}')
        (error,) = [event for event in await rest(socket) if event["type"] == "error"]
        assert (error["error"]["code"], error["stream_id"]) == ("response_cancelled", "a")
        await asyncio.wait_for(upstream.calls[0].gone.wait(), 5)
        events = await rest(socket)
        assert events[-1]["response"]["output"][0]["content"][0]["text"] == "I am second-a"
        assert {event["stream_id"] for event in events} == {"a"}


async def test_what_is_not_known_is_told_and_harms_nothing(tmp_path: Path) -> None:
    async with plain(tmp_path, websocket={"max_chats": 2}) as (socket, upstream, _):
        for message, param in (
            ('{"type":"response.create","stream_id":1}', "stream_id"),
            ('{"type":"session.update"}', "type"),
            ('{"type":"response.cancel"}', None),
            ("{}", None),
            ("nonsense", None),
        ):
            await socket.send(message)
            (event,) = await rest(socket)
            assert (event["status"], event["error"]["param"]) == (400, param)
        await create(socket, "open-a")
        await create(socket, "user-b")
        await create(socket, "user-c")  # one runs and one waits
        event = (await rest(socket))[-1]
        assert (event["status"], event["error"]["code"]) == (429, "too_many_chats")
        await upstream.arrived.acquire()
        for _ in range(8):
            await socket.send(b"\\x00")
        await asyncio.wait_for(socket.wait_closed(), 20)
        assert socket.close_code == 1008
        await asyncio.wait_for(upstream.calls[0].gone.wait(), 5)


async def test_while_the_proxy_stops_what_is_made_is_finished(tmp_path: Path) -> None:
    async with plain(tmp_path) as (socket, upstream, app):
        await create(socket, "open-a")
        await upstream.arrived.acquire()
        stopping = asyncio.create_task(app.stop(20))
        await until(lambda: not app._ready)
        await create(socket, "user-b", stream_id="b")
        event = (await rest(socket))[-1]
        assert (event["status"], event["error"]["code"]) == (503, "proxy_draining")
        upstream.calls[0].send(DONE)
        upstream.calls[0].finish()
        assert (await rest(socket))[-1]["type"] == "response.completed"
        await asyncio.wait_for(socket.wait_closed(), 20)
        assert socket.close_code == 1001
        await stopping
