"""What SDKs read of an answer that is told again is what they read of it the first time, whichever
way it came, and whichever way it is asked for again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from proxy.simulator import Simulator, SimulatorSettings
from tests.fakes.caching import cached
from tests.fakes.running import running
from tests.sdk.conftest import CITY, KEY, QUESTIONS, WEATHER, address, endpoint

CHAT_TOOLS: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": CITY}}]
TOOLS: Any = [{"name": "get_weather", "input_schema": CITY}]
ASKED: list[tuple[str, dict[str, Any]]] = [
    (QUESTIONS["english"], {}),
    (QUESTIONS["chinese"], {"thinking": True}),
    (WEATHER, {"tools": True}),
]


@asynccontextmanager
async def simulated(folder: Path) -> AsyncIterator[tuple[Simulator, str]]:
    """A simulator, and the base of a proxy with a cache in front of it."""
    settings = SimulatorSettings(tls_port=None)
    place = {"url": f"sqlite:{folder / 'answers.db'}", "timeout": "5s"}
    async with (
        Simulator(settings) as simulator,
        running(folder, {"endpoints": [endpoint(simulator, "http/1.1")], **cached(place)}) as app,
    ):
        yield simulator, address(app)


async def openai_reads(sdk: AsyncOpenAI, text: str, wishes: dict[str, Any], stream: bool) -> Any:
    """The answer as the SDK has it at the end."""
    asked: dict[str, Any] = {"model": "glm-4.6", "messages": [{"role": "user", "content": text}]}
    if "tools" in wishes:
        asked["tools"] = CHAT_TOOLS
    if "thinking" in wishes:
        asked["extra_body"] = {"thinking": {"type": "enabled"}}
    if not stream:
        answer = await sdk.chat.completions.create(**asked)
        message = answer.choices[0].message.model_dump()
        calls = [
            (call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls") or ()
        ]
        return (
            (answer.id, answer.created, answer.model, answer.choices[0].finish_reason),
            message["content"] or "",
            message.get("reasoning_content") or "",
            calls,
            answer.usage and answer.usage.model_dump(exclude_none=True),
        )
    said, thought, pieces, last = "", "", dict[int, list[str]](), None
    usage = None
    async for chunk in await sdk.chat.completions.create(stream=True, **asked):
        (choice,) = chunk.choices
        said += choice.delta.content or ""
        thought += choice.delta.model_dump().get("reasoning_content") or ""
        for call in choice.delta.tool_calls or ():
            piece = pieces.setdefault(call.index, ["", "", ""])
            assert call.function is not None
            piece[0] = piece[0] or call.id or ""
            piece[1] = piece[1] or call.function.name or ""
            piece[2] += call.function.arguments or ""
        last = (chunk.id, chunk.created, chunk.model, choice.finish_reason)
        usage = chunk.usage.model_dump(exclude_none=True) if chunk.usage else usage
    return last, said, thought, [tuple(pieces[index]) for index in sorted(pieces)], usage


async def anthropic_reads(
    sdk: AsyncAnthropic, text: str, wishes: dict[str, Any], stream: bool
) -> Any:
    asked: dict[str, Any] = {
        "model": "glm-4.6",
        "max_tokens": 4000,
        "messages": [{"role": "user", "content": text}],
    }
    if "tools" in wishes:
        asked["tools"] = TOOLS
    if "thinking" in wishes:
        asked["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    if stream:
        async with sdk.messages.stream(**asked) as events:
            answer = (await events.get_final_message()).model_dump(exclude_none=True)
    else:
        answer = (await sdk.messages.create(**asked)).model_dump(exclude_none=True)
    # GLM says it in `message_delta`, where this SDK overlooks it.
    answer["usage"].pop("service_tier", None)
    return answer


@pytest.mark.parametrize("first", [True, False], ids=["stream first", "whole first"])
@pytest.mark.parametrize(("text", "wishes"), ASKED, ids=["text", "thinking", "tools"])
async def test_openai(tmp_path: Path, text: str, wishes: dict[str, Any], first: bool) -> None:
    async with (
        simulated(tmp_path) as (simulator, proxy),
        AsyncOpenAI(api_key=KEY, base_url=f"{proxy}/v1", max_retries=0) as sdk,
    ):
        expected = await openai_reads(sdk, text, wishes, first)
        for stream in (not first, True, False):
            assert await openai_reads(sdk, text, wishes, stream) == expected
        assert len(list(simulator.ledger)) == 1
        assert bool(expected[3]) is ("tools" in wishes)
        assert bool(expected[2]) or "thinking" not in wishes


@pytest.mark.parametrize("first", [True, False], ids=["stream first", "whole first"])
@pytest.mark.parametrize(("text", "wishes"), ASKED, ids=["text", "thinking", "tools"])
async def test_anthropic(tmp_path: Path, text: str, wishes: dict[str, Any], first: bool) -> None:
    async with (
        simulated(tmp_path) as (simulator, proxy),
        AsyncAnthropic(api_key=KEY, base_url=proxy, max_retries=0) as sdk,
    ):
        expected = await anthropic_reads(sdk, text, wishes, first)
        for stream in (not first, True, False):
            assert await anthropic_reads(sdk, text, wishes, stream) == expected
        assert len(list(simulator.ledger)) == 1
        kinds = {block["type"] for block in expected["content"]}
        assert ("tool_use" in kinds) is ("tools" in wishes)
        assert ("thinking" in kinds) is ("thinking" in wishes)
