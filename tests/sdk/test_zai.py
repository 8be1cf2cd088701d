"""The vendor's own `zai` SDK against the proxy gets what it gets direct."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Any, TypeVar

import httpx
import pytest
from zai import ZaiClient, ZhipuAiClient
from zai.core import (
    APIAuthenticationError,
    APIInternalError,
    APIReachLimitError,
    APIRequestFailedError,
    APIStatusError,
    StreamResponse,
)
from zai.types.chat.chat_completion_chunk import ChatCompletionChunk

from proxy.simulator import Fault
from tests.sdk.conftest import CITY, KEY, OWN_KEY, QUESTIONS, WEATHER, Pair

T = TypeVar("T")
Dump = dict[str, Any]
Client = ZhipuAiClient | ZaiClient
Failure = tuple[type[Exception], int, str]

TOOLS: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": CITY}}]
MODELS = ["glm-4.6", "glm-4-flash", "glm-5.3"]
STREAMS = 12
"""Threads that read a stream each."""


def run(
    base: str,
    call: Callable[[Client], T],
    kind: type[Client] = ZhipuAiClient,
    *,
    key: str = KEY,
    retries: int = 0,
) -> T:
    """`call` with a client; blocks."""
    # No TLS is spoken to the proxy, and each client would read all root certificates first.
    http = httpx.Client(verify=False, timeout=20)
    url = f"{base}/api/paas/v4"
    with kind(api_key=key, base_url=url, max_retries=retries, http_client=http) as sdk:
        return call(sdk)


async def proxied(pair: Pair, call: Callable[[Client], T], *args: Any, **options: Any) -> T:
    return await asyncio.to_thread(run, pair.proxy, call, *args, **options)


async def both(pair: Pair, call: Callable[[Client], T], *args: Any, **options: Any) -> T:
    """What the SDK gets through the proxy, having checked that it is what it gets direct."""
    expected = await asyncio.to_thread(run, pair.direct.http_url, call, *args, **options)
    got = await proxied(pair, call, *args, **options)
    assert got == expected
    return got


def asking(text: str, model: str = "glm-4.6", **fields: Any) -> Dump:
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


def opened(sdk: Client, **fields: Any) -> StreamResponse[ChatCompletionChunk]:
    stream = sdk.chat.completions.create(stream=True, **fields)
    assert isinstance(stream, StreamResponse)
    return stream


def streamed(sdk: Client, **fields: Any) -> list[Dump]:
    """Every chunk, whole."""
    return [chunk.model_dump() for chunk in opened(sdk, **fields)]


def whole(sdk: Client, **fields: Any) -> Dump:
    answer = sdk.chat.completions.create(**fields)
    assert not isinstance(answer, StreamResponse)
    return dict(answer.model_dump())


def said(chunks: list[Dump], key: str = "content") -> str:
    return "".join(chunk["choices"][0]["delta"].get(key) or "" for chunk in chunks)


def failed(call: Callable[[], Any]) -> Failure:
    """The exception that a caller has to decide on; the SDK keeps the code in its text only."""
    with pytest.raises(APIStatusError) as caught:
        call()
    error = caught.value
    body = json.loads(error.response.text)
    assert body["error"]["code"] in str(error)
    assert body["error"]["message"] in str(error)
    return type(error), error.status_code, body["error"]["code"]


@pytest.mark.parametrize(("language", "model"), list(zip(cycle(QUESTIONS), MODELS, strict=False)))
async def test_a_stream_is_the_same_chunk_for_chunk(pair: Pair, language: str, model: str) -> None:
    chunks = await both(pair, lambda sdk: streamed(sdk, **asking(QUESTIONS[language], model)))
    assert len(chunks) > 20
    assert ("。" in said(chunks)) is (language == "chinese")
    assert bool(said(chunks, "reasoning_content")) is (model != "glm-4-flash")
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == len(chunks) - 1


@pytest.mark.parametrize("kind", [ZhipuAiClient, ZaiClient])
async def test_a_whole_answer_is_the_same_for_both_clients(pair: Pair, kind: type[Client]) -> None:
    wanted = asking(QUESTIONS["chinese"], thinking={"type": "disabled"})
    answer = await both(pair, lambda sdk: whole(sdk, **wanted), kind)
    message = answer["choices"][0]["message"]
    assert "。" in message["content"]
    assert not message.get("reasoning_content")
    assert answer["usage"]["total_tokens"] > answer["usage"]["completion_tokens"] > 0


@pytest.mark.parametrize("in_pieces", [False, True], ids=["whole", "tool_stream"])
async def test_a_streamed_tool_call_is_the_same(pair: Pair, in_pieces: bool) -> None:
    wanted = asking(WEATHER, tools=TOOLS, tool_stream=in_pieces)
    chunks = await both(pair, lambda sdk: streamed(sdk, **wanted))
    deltas = [chunk["choices"][0]["delta"].get("tool_calls") for chunk in chunks]
    calls = [call for delta in deltas for call in delta or ()]
    assert (len(calls) > 3) is in_pieces
    assert calls[0]["function"]["name"] == "get_weather"
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert json.loads(arguments)["city"] == "Qingdao"
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_whole_answer_with_a_tool_call_is_the_same(pair: Pair) -> None:
    answer = await both(pair, lambda sdk: whole(sdk, **asking(WEATHER, tools=TOOLS)))
    (tool,) = answer["choices"][0]["message"]["tool_calls"]
    assert json.loads(tool["function"]["arguments"])["city"] == "Qingdao"


def simulate(code: str) -> Dump:
    """The simulator is to answer with this error."""
    return {"extra_body": {"simulate": {"code": code}}}


REFUSALS: list[tuple[Dump, Failure]] = [
    ({"max_tokens": 10**9}, (APIRequestFailedError, 400, "1210")),
    ({"model": "gpt-4"}, (APIRequestFailedError, 400, "1211")),
    (simulate("1302"), (APIReachLimitError, 429, "1302")),
    (simulate("1113"), (APIReachLimitError, 429, "1113")),
    (simulate("1234"), (APIInternalError, 500, "1234")),
]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_refusal_keeps_its_class_status_code_and_text(pair: Pair, stream: bool) -> None:
    def call(sdk: Client) -> list[Failure]:
        wanted = [asking("hi", stream=stream) | fields for fields, _ in REFUSALS]
        return [failed(lambda f=f: sdk.chat.completions.create(**f)) for f in wanted]  # type: ignore[misc]

    assert await both(pair, call) == [expected for _, expected in REFUSALS]


async def test_a_bad_key_is_told_as_the_upstream_tells_it(pair: Pair) -> None:
    def call(sdk: Client) -> Failure:
        return failed(lambda: whole(sdk, **asking("hi")))

    assert await both(pair, call, key="bad.key") == (APIAuthenticationError, 401, "1000")


async def test_the_callers_key_and_the_sdks_own_headers_go_up(pair: Pair) -> None:
    await both(pair, lambda sdk: whole(sdk, **asking("hi")))
    direct, behind = pair.direct.ledger[0], pair.behind.ledger[0]
    for name in ("authorization", "user-agent", "x-source-channel", "source_type", "zai-sdk-ver"):
        assert behind.header(name) == direct.header(name), name
    assert behind.header("authorization") == f"Bearer {KEY}"
    assert behind.body == direct.body


async def test_the_endpoints_own_key_takes_the_place_of_the_callers(keyed: Pair) -> None:
    await proxied(keyed, lambda sdk: streamed(sdk, **asking("hi")), key="caller-secret")
    await proxied(
        keyed,
        lambda sdk: sdk.embeddings.create(model="embedding-3", input="hi"),
        key="caller-secret",
    )
    ledger = keyed.behind.ledger
    assert [e.header("authorization") for e in ledger] == [f"Bearer {OWN_KEY}"] * 2
    assert not any(b"caller-secret" in value for e in ledger for _, value in e.headers)


async def test_a_file_goes_up_comes_back_and_is_gone(pair: Pair) -> None:
    content = bytes(range(256)) * 1200 + b"\r\n--not the boundary\r\n"

    def call(sdk: Client) -> Any:
        file = sdk.files.create(file=("潮汐.jsonl", content), purpose="batch")
        assert file.id is not None
        back = sdk.files.content(file.id)
        return file.model_dump(), back.content, sdk.files.delete(file.id).model_dump()

    file, back, gone = await both(pair, call)
    assert (file["bytes"], file["filename"]) == (len(content), "潮汐.jsonl")
    assert back == content
    assert gone["deleted"] is True


async def test_embeddings_and_speech_pass(pair: Pair) -> None:
    def call(sdk: Client) -> Any:
        vectors = sdk.embeddings.create(model="embedding-3", input=["潮", "tide"])
        speech: Any = sdk.audio.speech(model="glm-tts", voice="tongtong", input="你好")
        return vectors.model_dump(), speech.content

    vectors, speech = await both(pair, call)
    assert [len(each["embedding"]) for each in vectors["data"]] == [1024, 1024]
    assert speech[:4] + speech[8:12] == b"RIFFWAVE"


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "flowing"])
async def test_a_stream_closed_in_the_middle_ends_the_upstream_at_once(
    pair: Pair, silent: bool
) -> None:
    fault = Fault(stall_at_event=3) if silent else Fault(tokens=5000, gap=0.01)
    pair.behind.inject(fault)

    def call(sdk: Client) -> float:
        stream = opened(sdk, **asking("hi"))
        for _ in range(3):
            next(stream)
        left = time.monotonic()
        stream.response.close()
        return left

    left = await proxied(pair, call)
    await pair.behind.ledger.until(lambda ledger: not ledger.open, within=1)
    assert (entry := pair.behind.ledger[0]).cancelled is not None
    assert entry.cancelled - left < 0.5


async def test_streams_of_many_threads_are_all_whole(pair: Pair) -> None:
    slow = {"simulate": {"gap": 0.01}}
    wanted = asking(QUESTIONS["chinese"], "glm-4-flash", extra_body=slow)

    def call(sdk: Client) -> set[tuple[str, str, str]]:
        with ThreadPoolExecutor(STREAMS) as threads:
            answers = list(threads.map(lambda _: streamed(sdk, **wanted), range(STREAMS)))
        return {(a[0]["id"], said(a), a[-1]["choices"][0]["finish_reason"]) for a in answers}

    answers = await both(pair, call)
    assert len(answers) == STREAMS
    assert {reason for _, _, reason in answers} == {"stop"}
