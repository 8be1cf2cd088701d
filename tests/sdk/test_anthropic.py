"""The `anthropic` SDK against the proxy gets what it gets direct."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anthropic
import pytest
from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

from proxy.simulator import Fault
from tests.sdk.conftest import CITY, KEY, OWN_KEY, QUESTIONS, WEATHER, Pair

T = TypeVar("T")
Call = Callable[[AsyncAnthropic], Awaitable[T]]
Dump = dict[str, Any]
Failure = tuple[type[Exception], int, str, str, Any]

TOOLS: Any = [{"name": "get_weather", "description": "tells it", "input_schema": CITY}]
THINKING: Any = {"type": "enabled", "budget_tokens": 1024}


def client(
    base_url: str, *, key: str | None = KEY, old: str | None = None, retries: int = 0
) -> AsyncAnthropic:
    """`key` goes as `Authorization: Bearer`, as this SDK does now; `old` as `X-Api-Key`."""
    headers = None if old is None else {"X-Api-Key": old}
    return AsyncAnthropic(
        api_key=key,
        default_headers=headers,
        base_url=base_url,
        max_retries=retries,
        timeout=20,
        # No TLS is spoken to the proxy, and each client would read all root certificates first.
        http_client=DefaultAsyncHttpxClient(verify=False),
    )


def proxied(pair: Pair, **options: Any) -> AsyncAnthropic:
    return client(pair.proxy, **options)


async def both(pair: Pair, call: Call[T], **options: Any) -> T:
    """What the SDK gets through the proxy, having checked that it is what it gets direct."""
    async with client(f"{pair.direct.http_url}/api/anthropic", **options) as sdk:
        expected = await call(sdk)
    async with proxied(pair, **options) as sdk:
        got = await call(sdk)
    assert got == expected
    return got


def asking(text: str, model: str = "glm-4.6", **fields: Any) -> Dump:
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "max_tokens": 2000, **fields}


async def opened(sdk: AsyncAnthropic, **fields: Any) -> anthropic.AsyncStream[Any]:
    stream = await sdk.messages.create(stream=True, **fields)
    assert isinstance(stream, anthropic.AsyncStream)
    return stream


async def raw(sdk: AsyncAnthropic, **fields: Any) -> list[Dump]:
    """Every event, whole."""
    return [event.model_dump() async for event in await opened(sdk, **fields)]


async def put_together(sdk: AsyncAnthropic, **fields: Any) -> Dump:
    """The message that `.stream()` makes of the events."""
    async with sdk.messages.stream(**fields) as stream:
        return (await stream.get_final_message()).model_dump()


async def failed(call: Awaitable[Any]) -> Failure:
    """The exception that a caller has to decide on."""
    with pytest.raises(anthropic.APIStatusError) as caught:
        await call
    error = caught.value
    # Every attempt has a log id of its own, which the error's text tells too.
    body: Any = json.loads(re.sub(r"[0-9]{14}[0-9a-f]{16}", "LOG-ID", json.dumps(error.body)))
    return type(error), error.status_code, body["error"]["type"], body["error"]["code"], body


@pytest.mark.parametrize("thinks", [False, True], ids=["plain", "thinking"])
@pytest.mark.parametrize("language", QUESTIONS)
async def test_a_stream_is_the_same_event_for_event(
    pair: Pair, language: str, thinks: bool
) -> None:
    more = {"thinking": THINKING} if thinks else {}
    events = await both(pair, lambda sdk: raw(sdk, **asking(QUESTIONS[language], **more)))
    assert events[0]["type"] == "message_start"
    assert events[-1]["type"] == "message_stop"
    assert events[-2]["delta"]["stop_reason"] == "end_turn"
    assert events[-2]["usage"]["output_tokens"] > 0
    blocks = [e["content_block"]["type"] for e in events if e["type"] == "content_block_start"]
    assert blocks == ["thinking", "text"][not thinks :]
    text = "".join(e["delta"].get("text", "") for e in events if e["type"] == "content_block_delta")
    assert ("。" in text) is (language == "chinese")


async def test_the_sdks_own_stream_reader_makes_the_same_message(pair: Pair) -> None:
    wanted = asking(QUESTIONS["chinese"], thinking=THINKING)
    message = await both(pair, lambda sdk: put_together(sdk, **wanted))
    assert [block["type"] for block in message["content"]] == ["thinking", "text"]
    assert message["stop_reason"] == "end_turn"


async def test_a_streamed_tool_call_is_the_same(pair: Pair) -> None:
    message = await both(pair, lambda sdk: put_together(sdk, **asking(WEATHER, tools=TOOLS)))
    assert message["content"][-1]["name"] == "get_weather"
    assert message["content"][-1]["input"]["city"] == "Qingdao"
    assert message["stop_reason"] == "tool_use"


@pytest.mark.parametrize("tools", [False, True], ids=["text", "tools"])
async def test_a_whole_answer_is_the_same(pair: Pair, tools: bool) -> None:
    wanted = asking(WEATHER, tools=TOOLS) if tools else asking(QUESTIONS["chinese"])

    async def call(sdk: AsyncAnthropic) -> Dump:
        return dict((await sdk.messages.create(**wanted)).model_dump())

    message = await both(pair, call)
    assert message["content"][-1]["type"] == ("tool_use" if tools else "text")
    assert message["usage"]["output_tokens"] > 0


async def test_the_models_are_listed(pair: Pair) -> None:
    async with proxied(pair) as sdk:
        models = [model async for model in sdk.models.list()]
    assert {"glm-4.6", "glm-4-flash"} <= {model.id for model in models}
    assert {model.type for model in models} == {"model"}
    assert all(model.display_name and model.created_at for model in models)


def simulate(code: str) -> Dump:
    """The simulator is to answer with this error."""
    return {"extra_body": {"simulate": {"code": code}}}


_BAD, _BUSY = "invalid_request_error", "rate_limit_error"
REFUSALS: list[tuple[Dump, tuple[type[Exception], int, str, str]]] = [
    ({"max_tokens": 10**9}, (anthropic.BadRequestError, 400, _BAD, "1210")),
    ({"model": "gpt-4"}, (anthropic.BadRequestError, 400, _BAD, "1211")),
    (simulate("1302"), (anthropic.RateLimitError, 429, _BUSY, "1302")),
    (simulate("1113"), (anthropic.RateLimitError, 429, _BUSY, "1113")),
    (simulate("1234"), (anthropic.InternalServerError, 500, "api_error", "1234")),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_refusal_keeps_its_class_status_code_and_text(pair: Pair, stream: bool) -> None:
    async def call(sdk: AsyncAnthropic) -> list[Failure]:
        wanted = [asking("hi", stream=stream) | fields for fields, _ in REFUSALS]
        return [await failed(sdk.messages.create(**fields)) for fields in wanted]

    errors = await both(pair, call)
    assert [error[:4] for error in errors] == [expected for _, expected in REFUSALS]


async def test_a_bad_key_is_told_as_the_upstream_tells_it(pair: Pair) -> None:
    async def call(sdk: AsyncAnthropic) -> Failure:
        return await failed(sdk.messages.create(**asking("hi")))

    error = await both(pair, call, key="bad.key")
    assert error[:4] == (anthropic.AuthenticationError, 401, "authentication_error", "1000")


async def test_a_quota_refusal_keeps_the_headers_that_say_when_it_ends(pair: Pair) -> None:
    beta = {"anthropic-beta": "claude-code-20250219"}

    async def call(sdk: AsyncAnthropic) -> tuple[str | None, str | None]:
        with pytest.raises(anthropic.RateLimitError) as caught:
            await sdk.messages.create(**asking("hi"), extra_headers=beta, **simulate("1310"))
        headers = caught.value.response.headers
        return headers.get("retry-after"), headers.get("anthropic-ratelimit-unified-status")

    assert await both(pair, call) == ("287441", "rejected")


@pytest.mark.parametrize(
    ("options", "header", "value"),
    [
        ({"key": KEY}, "authorization", f"Bearer {KEY}"),
        ({"key": None, "old": KEY}, "x-api-key", KEY),
    ],
    ids=["bearer", "x-api-key"],
)
async def test_the_callers_key_and_version_go_up_as_they_came(
    pair: Pair, options: Dump, header: str, value: str
) -> None:
    async def call(sdk: AsyncAnthropic) -> Dump:
        return dict((await sdk.messages.create(**asking("hi"))).model_dump())

    await both(pair, call, **options)
    direct, behind = pair.direct.ledger[0], pair.behind.ledger[0]
    assert behind.header(header) == value
    for name in ("authorization", "x-api-key", "anthropic-version", "user-agent"):
        assert behind.header(name) == direct.header(name), name
    assert behind.body == direct.body


@pytest.mark.parametrize(
    "options",
    [{"key": "caller-secret"}, {"key": None, "old": "caller-secret"}],
    ids=["bearer", "x-api-key"],
)
async def test_the_endpoints_own_key_takes_the_place_of_the_callers(
    keyed: Pair, options: Dump
) -> None:
    async with proxied(keyed, **options) as sdk:
        await raw(sdk, **asking("hi"))
    (entry,) = keyed.behind.ledger
    assert entry.header("x-api-key") == OWN_KEY
    assert entry.header("authorization") is None
    assert not any(b"caller-secret" in value for _, value in entry.headers)


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "flowing"])
async def test_a_stream_closed_in_the_middle_ends_the_upstream_at_once(
    pair: Pair, silent: bool
) -> None:
    fault = Fault(stall_at_event=6) if silent else Fault(tokens=5000, gap=0.01)
    pair.behind.inject(fault)
    async with proxied(pair) as sdk:
        async with sdk.messages.stream(**asking("hi")) as stream:
            await anext(aiter(stream.text_stream))
            left = time.monotonic()
        await pair.behind.ledger.until(lambda ledger: not ledger.open, within=1)
    assert (entry := pair.behind.ledger[0]).cancelled is not None
    assert entry.cancelled - left < 0.5


async def test_the_sdks_own_retry_passes_through(pair: Pair) -> None:
    pair.behind.inject(Fault(code="1234"))
    async with proxied(pair, retries=1) as sdk:
        message = await sdk.messages.create(**asking("hi"))
    assert message.stop_reason == "end_turn"
    assert [entry.status for entry in pair.behind.ledger] == [500, 200]


async def test_fifty_streams_at_a_time_are_all_whole(pair: Pair) -> None:
    slow = {"simulate": {"gap": 0.01}}

    async def call(sdk: AsyncAnthropic) -> set[tuple[str, str, str]]:
        wanted = asking(QUESTIONS["chinese"], extra_body=slow)
        messages = await asyncio.gather(*(put_together(sdk, **wanted) for _ in range(50)))
        return {(m["id"], m["content"][0]["text"], m["stop_reason"]) for m in messages}

    answers = await both(pair, call)
    assert len(answers) == 50
    assert {reason for _, _, reason in answers} == {"end_turn"}
