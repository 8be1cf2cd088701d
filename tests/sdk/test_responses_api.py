"""The `openai` SDK's `client.responses` against the proxy, in front of chat completions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest
from openai import AsyncOpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel

from proxy.simulator import Fault, Simulator, SimulatorSettings
from tests.fakes.running import in_front_of, running
from tests.fakes.upstream import Call, Script, ScriptedUpstream
from tests.sdk.conftest import CITY, QUESTIONS, WEATHER, address, endpoint
from tests.sdk.test_openai import client

THINKS, PLAIN = "glm-4.6", "glm-4-flash"
TOOLS: Any = [
    {"type": "function", "name": "get_weather", "parameters": CITY, "strict": False},
]


def routes(folder: Path, **responses: Any) -> dict[str, Any]:
    said = {"store": f"sqlite:{folder}/responses.db", **responses}
    return {"routes": [{"name": "all", "responses": said}]}


class Setting:
    """A proxy in front of a simulator, and an SDK on it."""

    def __init__(self, simulator: Simulator, url: str) -> None:
        self.simulator = simulator
        self.url = url
        self.sdk = client(f"{url}/v1")

    def asked(self, index: int = -1) -> dict[str, Any]:
        """The body of a request as the upstream got it."""
        body = orjson.loads(self.simulator.ledger[index].body)
        assert isinstance(body, dict)
        return body


@pytest.fixture
async def at(tmp_path: Path) -> AsyncIterator[Setting]:
    async with Simulator(SimulatorSettings(tls_port=None, reproducible=True)) as simulator:
        more = {"endpoints": [endpoint(simulator, "http/1.1")], **routes(tmp_path)}
        async with running(tmp_path, more) as app:
            setting = Setting(simulator, address(app))
            async with setting.sdk:
                yield setting


@asynccontextmanager
async def scripted(folder: Path, script: Script, **more: Any) -> AsyncIterator[AsyncOpenAI]:
    """An SDK on a proxy in front of an upstream that answers by `script`."""
    async with (
        ScriptedUpstream(script) as upstream,
        running(folder, in_front_of(upstream, folder, **routes(folder), **more)) as app,
        client(f"{address(app)}/v1") as sdk,
    ):
        yield sdk


async def events_of(made: Awaitable[Any]) -> list[Any]:
    stream = await made
    assert isinstance(stream, openai.AsyncStream)
    return [event async for event in stream]


async def broken_off(sdk: AsyncOpenAI) -> list[Any]:
    """The events of a stream that ends in an exception."""
    events: list[Any] = []

    async def listen() -> None:
        async for event in await sdk.responses.create(model="m", input="hi", stream=True):
            events.append(event)

    with pytest.raises(openai.APIConnectionError):
        await listen()
    return events


def names(events: Iterable[ResponseStreamEvent]) -> list[str]:
    """The events' names in order, those that repeat once."""
    found: list[str] = []
    for event in events:
        if not found or found[-1] != event.type:
            found.append(event.type)
    return [name.removeprefix("response.") for name in found]


def checked(response: Response) -> Response:
    """`response`, which the SDK itself builds without any check, as its model has it."""
    again = Response.model_validate(response.model_dump())
    assert again.output_text == response.output_text
    return response


OPENS = ["created", "in_progress"]
TEXT = [
    *("output_item.added", "content_part.added", "output_text.delta"),
    *("output_text.done", "content_part.done", "output_item.done"),
]
THOUGHT = [name.replace("output_text", "reasoning_text") for name in TEXT]
CALL = [
    *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done"),
    "output_item.done",
]


@pytest.mark.parametrize("language", QUESTIONS)
async def test_a_whole_response_has_what_the_chat_says(at: Setting, language: str) -> None:
    answer = checked(
        await at.sdk.responses.create(
            model=THINKS, input=QUESTIONS[language], instructions="Be brief.", metadata={"a": "b"}
        )
    )
    assert answer.status == "completed"
    assert answer.output_text
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    assert answer.output[0].content[0].text  # type: ignore[union-attr, index]
    assert answer.usage is not None
    assert answer.usage.output_tokens_details.reasoning_tokens > 0
    assert (answer.instructions, answer.metadata) == ("Be brief.", {"a": "b"})
    assert at.asked()["messages"][0] == {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(("model", "order"), [(THINKS, [*THOUGHT, *TEXT]), (PLAIN, TEXT)])
async def test_a_stream_is_told_in_the_documented_order(
    at: Setting, model: str, order: list[str]
) -> None:
    events = await events_of(
        at.sdk.responses.create(model=model, input=QUESTIONS["english"], stream=True)
    )
    assert names(events) == [*OPENS, *order, "completed"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    whole = checked(events[-1].response)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert whole.output_text == text != ""
    assert whole.usage is not None
    assert {event.response.id for event in events if hasattr(event, "response")} == {whole.id}


async def test_the_sdks_own_reader_of_streams_puts_the_response_together(at: Setting) -> None:
    async with at.sdk.responses.stream(
        model=THINKS, input=WEATHER, tools=TOOLS, reasoning={"effort": "low"}
    ) as stream:
        final = await stream.get_final_response()
    (call,) = [item for item in final.output if item.type == "function_call"]
    assert call.arguments.startswith('{"city":"Qingdao"')
    assert at.asked()["reasoning_effort"] == "low"


async def test_a_tools_round_trip(at: Setting) -> None:
    events = await events_of(
        at.sdk.responses.create(model=PLAIN, input=WEATHER, tools=TOOLS, stream=True)
    )
    assert names(events) == [*OPENS, *CALL, "completed"]
    first = checked(events[-1].response)
    (call,) = first.output
    assert call.type == "function_call"
    assert orjson.loads(call.arguments)["city"] == "Qingdao"
    told = {"type": "function_call_output", "call_id": call.call_id, "output": "14 degrees, fog"}
    second = await at.sdk.responses.create(
        model=PLAIN,
        previous_response_id=first.id,
        input=[told],  # type: ignore[list-item]
    )
    assert second.output_text
    assert second.previous_response_id == first.id
    messages = at.asked()["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    (asked,) = messages[1]["tool_calls"]
    assert asked["id"] == messages[2]["tool_call_id"] == call.call_id
    assert asked["function"] == {"name": "get_weather", "arguments": call.arguments}
    assert messages[2]["content"] == "14 degrees, fog"


async def test_tool_arguments_come_in_pieces_where_the_upstream_sends_them_so(at: Setting) -> None:
    events = await events_of(
        at.sdk.responses.create(
            model=THINKS, input=WEATHER, tools=TOOLS, stream=True, extra_body={"tool_stream": True}
        )
    )
    pieces = [event.delta for event in events if event.type.endswith("arguments.delta")]
    assert len(pieces) > 3
    (call,) = [item for item in events[-1].response.output if item.type == "function_call"]
    assert "".join(pieces) == call.arguments


async def test_a_second_turn_has_the_first_but_not_its_instructions(at: Setting) -> None:
    first = await at.sdk.responses.create(
        model=PLAIN, input="My cat is called Mimi.", instructions="Be brief."
    )
    second = await at.sdk.responses.create(
        model=PLAIN, input="Her name?", previous_response_id=first.id, instructions="Be long."
    )
    third = await at.sdk.responses.create(
        model=PLAIN, input="And mine?", previous_response_id=second.id
    )
    said = [(message["role"], message["content"]) for message in at.asked()["messages"]]
    assert said == [
        ("user", "My cat is called Mimi."),
        ("assistant", first.output_text),
        ("user", "Her name?"),
        ("assistant", second.output_text),
        ("user", "And mine?"),
    ]
    assert at.asked(-2)["messages"][0] == {"role": "system", "content": "Be long."}
    assert third.previous_response_id == second.id


async def test_json_is_asked_for_and_parsed(at: Setting) -> None:
    plain = await at.sdk.responses.create(
        model=PLAIN, input="Cities, as JSON.", text={"format": {"type": "json_object"}}
    )
    assert isinstance(orjson.loads(plain.output_text), dict)
    assert at.asked()["response_format"] == {"type": "json_object"}

    class Anything(BaseModel):
        pass

    parsed = await at.sdk.responses.parse(
        model=PLAIN, input="Cities, as JSON.", text_format=Anything
    )
    assert isinstance(parsed.output_parsed, Anything)
    system = at.asked()["messages"][0]
    assert system["role"] == "system"
    assert "JSON Schema" in system["content"]


async def test_thinking_is_switched_off_and_told_as_a_summary_on_request(at: Setting) -> None:
    quiet = await at.sdk.responses.create(
        model=THINKS, input=QUESTIONS["english"], reasoning={"effort": "none"}
    )
    assert [item.type for item in quiet.output] == ["message"]
    events = await events_of(
        at.sdk.responses.create(
            model=THINKS, input=QUESTIONS["english"], reasoning={"summary": "auto"}, stream=True
        )
    )
    told = [name for name in names(events) if "reasoning" in name]
    assert told == [
        *("reasoning_summary_part.added", "reasoning_summary_text.delta"),
        *("reasoning_summary_text.done", "reasoning_summary_part.done"),
    ]
    thought = checked(events[-1].response).output[0]
    assert thought.type == "reasoning"
    assert thought.summary[0].text


REFUSALS: list[tuple[dict[str, Any], type[openai.APIStatusError], str | None, str | None]] = [
    ({"model": "gpt-4"}, openai.BadRequestError, "1211", None),
    ({"extra_body": {"simulate": {"code": "1302"}}}, openai.RateLimitError, "1302", None),
    ({"extra_body": {"simulate": {"code": "1234"}}}, openai.InternalServerError, "1234", None),
    ({"background": True}, openai.BadRequestError, "invalid_request", "background"),
    ({"conversation": "conv_1"}, openai.BadRequestError, "invalid_request", "conversation"),
    (
        {"tools": [*TOOLS, {"type": "file_search", "vector_store_ids": ["vs_1"]}]},
        *(openai.BadRequestError, "invalid_request", "tools[1].type"),
    ),
    ({"tool_choice": "required"}, openai.BadRequestError, "invalid_request", "tool_choice"),
    (
        {"input": [{"type": "item_reference", "id": "msg_1"}]},
        *(openai.BadRequestError, "invalid_request", "input[0].type"),
    ),
    (
        {"previous_response_id": "resp_" + "0" * 48},
        *(openai.BadRequestError, "previous_response_not_found", "previous_response_id"),
    ),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_refusal_has_the_class_the_code_and_the_place(at: Setting, stream: bool) -> None:
    for fields, kind, code, param in REFUSALS:
        with pytest.raises(openai.APIStatusError) as caught:
            await at.sdk.responses.create(
                **{"model": PLAIN, "input": "hi", "stream": stream, **fields}
            )
        assert (type(caught.value), caught.value.code) == (kind, code), fields
        assert caught.value.param == param


async def test_a_response_is_told_again_and_deleted_by_its_caller_alone(at: Setting) -> None:
    made = await at.sdk.responses.create(model=PLAIN, input="hi")
    unstored = await at.sdk.responses.create(model=PLAIN, input="hi", store=False)
    again = await at.sdk.responses.retrieve(made.id)
    assert again.model_dump() == made.model_dump()
    async with client(f"{at.url}/v1", key="another.secret") as other:
        for ask in (other.responses.retrieve, other.responses.delete):
            with pytest.raises(openai.NotFoundError):
                await ask(made.id)
        with pytest.raises(openai.BadRequestError):
            await other.responses.create(model=PLAIN, input="hi", previous_response_id=made.id)
    with pytest.raises(openai.NotFoundError):
        await at.sdk.responses.retrieve(unstored.id)
    await at.sdk.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        await at.sdk.responses.retrieve(made.id)


async def test_an_answer_that_reached_its_length_is_incomplete(at: Setting) -> None:
    events = await events_of(
        at.sdk.responses.create(
            model=PLAIN, input=QUESTIONS["english"], max_output_tokens=5, stream=True
        )
    )
    assert names(events)[-1] == "incomplete"
    final = checked(events[-1].response)
    assert final.status == "incomplete"
    assert final.incomplete_details is not None
    assert final.incomplete_details.reason == "max_output_tokens"
    assert at.asked()["max_tokens"] == 5


# --- what goes wrong in the middle ------------------------------------------------------------

SAID = (
    b'data: {"id":"1","model":"glm-4-flash","choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
)
FINISH = b'data: {"id":"1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'


@pytest.mark.parametrize("finished", [False, True], ids=["before", "behind the finish"])
async def test_a_cut_stream_is_failed_and_never_completed(tmp_path: Path, finished: bool) -> None:
    async def script(call: Call) -> None:
        call.head()
        call.send(SAID + (FINISH if finished else b""))
        call.finish("torn")

    async with scripted(tmp_path, script) as sdk:
        events = await broken_off(sdk)
        assert names(events) == [*OPENS, *TEXT[:3], "failed"]
        failed = checked(events[-1].response)
        assert failed.status == "failed"
        assert failed.error is not None
        assert failed.error.code == "server_error"
        assert failed.output_text == "Hi"
        with pytest.raises(openai.NotFoundError):
            await sdk.responses.retrieve(failed.id)


async def test_an_error_that_the_upstream_tells_in_the_stream_is_failed(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        call.head()
        call.send(SAID + b'data: {"error":{"code":"1302","message":"too many"}}\n\n')
        call.finish()

    async with scripted(tmp_path, script) as sdk:
        events = await broken_off(sdk)
    assert names(events) == [*OPENS, *TEXT[:3], "failed"]
    error = events[-1].response.error
    assert (error.code, error.type, error.message) == ("rate_limit_exceeded", "1302", "too many")


async def test_a_route_without_responses_says_what_to_set(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        raise AssertionError

    async with ScriptedUpstream(script) as upstream:
        more = {
            "routes": [
                {"name": "one", "match": {"model": ["one"]}, "responses": {}},
                {"name": "two", "match": {"model": ["two"]}},
            ]
        }
        async with (
            running(tmp_path, in_front_of(upstream, tmp_path, **more)) as app,
            client(f"{address(app)}/v1") as sdk,
        ):
            with pytest.raises(openai.NotFoundError, match=r"route two .* `responses: \{\}"):
                await sdk.responses.create(model="two", input="hi")
            previous = "resp_" + "0" * 48
            with pytest.raises(openai.BadRequestError) as caught:
                await sdk.responses.create(model="one", input="hi", previous_response_id=previous)
            assert caught.value.code == "previous_response_not_found"


async def test_the_client_leaving_ends_the_upstream(at: Setting) -> None:
    at.simulator.inject(Fault(tokens=5000, gap=0.01))
    stream = await at.sdk.responses.create(model=PLAIN, input="hi", stream=True)
    for _ in range(5):
        await anext(stream)
    await stream.close()
    await at.simulator.ledger.until(lambda ledger: not ledger.open, within=5)
    assert at.simulator.ledger[0].cancelled is not None


async def test_twenty_conversations_at_a_time_do_not_mix(at: Setting) -> None:
    async def two_turns(number: int) -> None:
        first = await at.sdk.responses.create(model=PLAIN, input=f"I am number {number}.")
        second = await at.sdk.responses.create(
            model=PLAIN, input=f"Who am I? {number}", previous_response_id=first.id
        )
        assert second.previous_response_id == first.id

    await asyncio.gather(*(two_turns(number) for number in range(20)))
    bodies = [orjson.loads(entry.body) for entry in at.simulator.ledger]
    seconds = [body["messages"] for body in bodies if len(body["messages"]) == 3]
    assert len(seconds) == 20
    for first, _, second in seconds:
        assert first["content"] == f"I am number {second['content'].rpartition(' ')[2]}."
