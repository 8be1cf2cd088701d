"""The `openai` SDK against the proxy gets what it gets direct."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import cycle
from typing import Any, TypeVar

import openai
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from proxy.simulator import Fault
from tests.sdk.conftest import CITY, KEY, OWN_KEY, QUESTIONS, WEATHER, Pair

T = TypeVar("T")
Call = Callable[[AsyncOpenAI], Awaitable[T]]
Dump = dict[str, Any]
Failure = tuple[type[Exception], int, str | None, Any]

TOOLS: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": CITY}}]


def client(base_url: str, *, key: str = KEY, retries: int = 0) -> AsyncOpenAI:
    # No TLS is spoken to the proxy, and each client would read all root certificates first.
    http = DefaultAsyncHttpxClient(verify=False)
    return AsyncOpenAI(
        api_key=key, base_url=base_url, max_retries=retries, timeout=20, http_client=http
    )


def proxied(pair: Pair, **options: Any) -> AsyncOpenAI:
    return client(f"{pair.proxy}/v1", **options)


async def both(pair: Pair, call: Call[T], **options: Any) -> T:
    """What the SDK gets through the proxy, having checked that it is what it gets direct."""
    async with client(f"{pair.direct.http_url}/api/paas/v4", **options) as sdk:
        expected = await call(sdk)
    async with proxied(pair, **options) as sdk:
        got = await call(sdk)
    assert got == expected
    return got


def asking(text: str, model: str = "glm-4.6", **fields: Any) -> Dump:
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


async def streamed(sdk: AsyncOpenAI, **fields: Any) -> list[Dump]:
    """Every chunk, whole."""
    return [chunk.model_dump() async for chunk in await opened(sdk, **fields)]


async def opened(sdk: AsyncOpenAI, **fields: Any) -> openai.AsyncStream[Any]:
    stream = await sdk.chat.completions.create(stream=True, **fields)
    assert isinstance(stream, openai.AsyncStream)
    return stream


def simulate(code: str) -> Dump:
    """The simulator is to answer with this error."""
    return {"extra_body": {"simulate": {"code": code}}}


def said(chunks: list[Dump], key: str = "content") -> str:
    return "".join(chunk["choices"][0]["delta"].get(key) or "" for chunk in chunks)


async def failed(call: Awaitable[Any]) -> Failure:
    """The exception that a caller has to decide on."""
    with pytest.raises(openai.APIStatusError) as caught:
        await call
    error = caught.value
    return type(error), error.status_code, error.code, error.body


MODELS = ["glm-4.6", "glm-4-flash", "glm-5.3"]


@pytest.mark.parametrize(("language", "model"), list(zip(cycle(QUESTIONS), MODELS, strict=False)))
async def test_a_stream_is_the_same_chunk_for_chunk(pair: Pair, language: str, model: str) -> None:
    chunks = await both(pair, lambda sdk: streamed(sdk, **asking(QUESTIONS[language], model)))
    assert len(chunks) > 20
    assert ("。" in said(chunks)) is (language == "chinese")
    assert bool(said(chunks, "reasoning_content")) is (model != "glm-4-flash")
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == len(chunks) - 1


@pytest.mark.parametrize("language", QUESTIONS)
async def test_a_whole_answer_is_the_same(pair: Pair, language: str) -> None:
    async def call(sdk: AsyncOpenAI) -> Dump:
        answer = await sdk.chat.completions.create(**asking(QUESTIONS[language]))
        return dict(answer.model_dump())

    answer = await both(pair, call)
    assert answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["message"]["reasoning_content"]
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


@pytest.mark.parametrize("in_pieces", [False, True], ids=["whole", "tool_stream"])
async def test_a_streamed_tool_call_is_the_same(pair: Pair, in_pieces: bool) -> None:
    fields = asking(WEATHER, tools=TOOLS, extra_body={"tool_stream": in_pieces})
    chunks = await both(pair, lambda sdk: streamed(sdk, **fields))
    deltas = [chunk["choices"][0]["delta"].get("tool_calls") for chunk in chunks]
    calls = [call for delta in deltas for call in delta or ()]
    assert (len(calls) > 3) is in_pieces
    assert calls[0]["function"]["name"] == "get_weather"
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert arguments.startswith('{"city":"Qingdao","days":')
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("in_pieces", [False, True], ids=["whole", "tool_stream"])
async def test_the_sdks_own_stream_reader_puts_a_tool_call_together(
    pair: Pair, in_pieces: bool
) -> None:
    fields = asking(WEATHER, tools=TOOLS, extra_body={"tool_stream": in_pieces})

    async def call(sdk: AsyncOpenAI) -> Dump:
        async with sdk.chat.completions.stream(**fields) as stream:
            return dict((await stream.get_final_completion()).model_dump())

    answer = await both(pair, call)
    (tool,) = answer["choices"][0]["message"]["tool_calls"]
    assert tool["function"]["arguments"].startswith('{"city":"Qingdao","days":')


async def test_a_whole_answer_with_a_tool_call_is_the_same(pair: Pair) -> None:
    async def call(sdk: AsyncOpenAI) -> Dump:
        answer = await sdk.chat.completions.create(**asking(WEATHER, tools=TOOLS))
        return dict(answer.model_dump())

    answer = await both(pair, call)
    (tool,) = answer["choices"][0]["message"]["tool_calls"]
    assert tool["function"]["name"] == "get_weather"
    assert answer["choices"][0]["finish_reason"] == "tool_calls"


async def test_the_models_are_listed(pair: Pair) -> None:
    async with proxied(pair) as sdk:
        models = [model async for model in sdk.models.list()]
    assert {"glm-4.6", "glm-4-flash"} <= {model.id for model in models}
    assert {model.object for model in models} == {"model"}


REFUSALS: list[tuple[Dump, tuple[type[Exception], int, str]]] = [
    ({"temperature": 2.0}, (openai.BadRequestError, 400, "1210")),
    ({"model": "gpt-4"}, (openai.BadRequestError, 400, "1211")),
    (simulate("1302"), (openai.RateLimitError, 429, "1302")),
    (simulate("1113"), (openai.RateLimitError, 429, "1113")),
    (simulate("1301"), (openai.BadRequestError, 400, "1301")),
    (simulate("1220"), (openai.PermissionDeniedError, 403, "1220")),
    (simulate("1234"), (openai.InternalServerError, 500, "1234")),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_refusal_keeps_its_class_status_code_and_text(pair: Pair, stream: bool) -> None:
    async def call(sdk: AsyncOpenAI) -> list[Failure]:
        wanted = [asking("hi", stream=stream) | fields for fields, _ in REFUSALS]
        return [await failed(sdk.chat.completions.create(**fields)) for fields in wanted]

    errors = await both(pair, call)
    assert [error[:3] for error in errors] == [expected for _, expected in REFUSALS]
    assert all(error[3]["message"] for error in errors)


async def test_a_bad_key_is_told_as_the_upstream_tells_it(pair: Pair) -> None:
    wanted = asking(QUESTIONS["english"])
    error = await both(
        pair, lambda sdk: failed(sdk.chat.completions.create(**wanted)), key="bad.key"
    )
    assert error[:3] == (openai.AuthenticationError, 401, "1000")
    listed = await both(pair, lambda sdk: failed(sdk.files.content("file-1")), key="bad.key")
    assert listed[:3] == (openai.AuthenticationError, 401, "1000")


async def test_the_callers_key_goes_up_as_it_came(pair: Pair) -> None:
    async with proxied(pair) as sdk:
        await sdk.chat.completions.create(**asking("hi"))
        await sdk.embeddings.create(model="embedding-3", input="hi")
    assert [e.header("authorization") for e in pair.behind.ledger] == [f"Bearer {KEY}"] * 2
    assert (pair.behind.ledger[0].header("user-agent") or "").startswith("AsyncOpenAI/Python")


async def test_the_endpoints_own_key_takes_the_place_of_the_callers(keyed: Pair) -> None:
    async with proxied(keyed, key="caller-secret") as sdk:
        await streamed(sdk, **asking("hi"))
        await sdk.chat.completions.create(**asking("hi"))
        await sdk.embeddings.create(model="embedding-3", input="hi")
    ledger = keyed.behind.ledger
    assert [e.header("authorization") for e in ledger] == [f"Bearer {OWN_KEY}"] * 3
    assert not any(b"caller-secret" in v for e in ledger for _, v in e.headers)


async def test_a_file_goes_up_comes_back_and_is_gone(pair: Pair) -> None:
    content = bytes(range(256)) * 1200 + b"\r\n--not the boundary\r\n"

    async def call(sdk: AsyncOpenAI) -> Any:
        file = await sdk.files.create(file=("潮汐.jsonl", content), purpose="batch")
        back = await sdk.files.content(file.id)
        gone = await sdk.files.delete(file.id)
        missing = await failed(sdk.files.content(file.id))
        return file.model_dump(), back.read(), gone.model_dump(), missing

    file, back, gone, missing = await both(pair, call)
    assert (file["bytes"], file["filename"]) == (len(content), "潮汐.jsonl")
    assert back == content
    assert gone["deleted"] is True
    assert missing[:2] == (openai.NotFoundError, 404)


async def test_embeddings_and_speech_pass(pair: Pair) -> None:
    async def call(sdk: AsyncOpenAI) -> Any:
        vectors = await sdk.embeddings.create(model="embedding-3", input=["潮", "tide"])
        speech = await sdk.audio.speech.create(model="glm-tts", voice="tongtong", input="你好")
        return vectors.model_dump(), speech.read()

    vectors, speech = await both(pair, call)
    assert [len(each["embedding"]) for each in vectors["data"]] == [1024, 1024]
    assert speech[:4] + speech[8:12] == b"RIFFWAVE"


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "flowing"])
async def test_a_stream_closed_in_the_middle_ends_the_upstream_at_once(
    pair: Pair, silent: bool
) -> None:
    fault = Fault(stall_at_event=3) if silent else Fault(tokens=5000, gap=0.01)
    pair.behind.inject(fault)
    async with proxied(pair) as sdk:
        stream = await opened(sdk, **asking("hi"))
        for _ in range(3):
            await anext(stream)
        left = time.monotonic()
        await stream.close()
        await pair.behind.ledger.until(lambda ledger: not ledger.open, within=1)
    assert (entry := pair.behind.ledger[0]).cancelled is not None
    assert entry.cancelled - left < 0.5


async def test_the_sdks_own_retry_passes_through(pair: Pair) -> None:
    pair.behind.inject(Fault(code="1234"))
    async with proxied(pair, retries=1) as sdk:
        answer = await sdk.chat.completions.create(**asking("hi"))
    assert answer.choices[0].message.content
    assert [entry.status for entry in pair.behind.ledger] == [500, 200]


async def test_fifty_streams_at_a_time_are_all_whole(pair: Pair) -> None:
    async def told(sdk: AsyncOpenAI) -> Counter[tuple[str, str, str]]:
        slow = {"simulate": {"gap": 0.01}}
        wanted = asking(QUESTIONS["chinese"], "glm-4-flash", extra_body=slow)
        answers = await asyncio.gather(*(streamed(sdk, **wanted) for _ in range(50)))
        return Counter(
            (chunks[0]["id"], said(chunks), chunks[-1]["choices"][0]["finish_reason"])
            for chunks in answers
        )

    answers = await both(pair, told)
    assert len(answers) == 50
    assert {reason for _, _, reason in answers} == {"stop"}
