"""The vendors' own client libraries take the simulator for the service."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import openai
import pytest
import zai

from proxy.simulator import Simulator
from tests.simulator.conftest import Simulate

QUESTION: Any = [{"role": "user", "content": "请介绍机器学习的基本概念"}]
TOOL_QUESTION: Any = [{"role": "user", "content": "Call tide_table for Brest"}]
SCHEMA = {"type": "object", "properties": {"port": {"type": "string"}}}
TOOLS: Any = [{"type": "function", "function": {"name": "tide_table", "parameters": SCHEMA}}]


def openai_client(sim: Simulator) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{sim.http_url}/api/paas/v4", api_key="id.secret", max_retries=0
    )


def anthropic_client(sim: Simulator) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(
        base_url=f"{sim.http_url}/api/anthropic", api_key="id.secret", max_retries=0
    )


async def test_openai_streams_reasoning_text_and_usage(simulate: Simulate) -> None:
    sim = await simulate()
    async with openai_client(sim) as client:
        stream = await client.chat.completions.create(
            model="glm-4.6", messages=QUESTION, stream=True
        )
        found = [chunk async for chunk in stream]
    reasoning = [getattr(c.choices[0].delta, "reasoning_content", None) for c in found]
    assert sum(text is not None for text in reasoning) == 8
    assert "".join(c.choices[0].delta.content or "" for c in found).endswith("。")
    assert found[-1].choices[0].finish_reason == "stop"
    assert found[-1].usage is not None
    assert found[-1].usage.completion_tokens == 32


@pytest.mark.parametrize("tool_stream", [False, True])
async def test_openai_streams_a_tool_call(simulate: Simulate, tool_stream: bool) -> None:
    sim = await simulate()
    async with openai_client(sim) as client:
        stream = await client.chat.completions.create(
            model="glm-4.6",
            messages=TOOL_QUESTION,
            tools=TOOLS,
            stream=True,
            extra_body={"tool_stream": tool_stream},
        )
        calls = [
            c
            for chunk in [c async for c in stream]
            for c in chunk.choices[0].delta.tool_calls or ()
        ]
    assert calls[0].function is not None
    assert calls[0].function.name == "tide_table"
    arguments = "".join(c.function.arguments or "" for c in calls if c.function)
    assert arguments == '{"port":"Call"}'
    assert (len(calls) > 1) is tool_stream


async def test_openai_reads_a_plain_answer_models_and_an_error(simulate: Simulate) -> None:
    sim = await simulate()
    async with openai_client(sim) as client:
        answer = await client.chat.completions.create(model="glm-4-flash", messages=QUESTION)
        assert (answer.choices[0].message.content or "").endswith("。")
        assert "glm-4.6" in {model.id async for model in client.models.list()}
        with pytest.raises(openai.RateLimitError) as limited:
            await client.chat.completions.create(
                model="glm-4-flash", messages=QUESTION, extra_body={"simulate": {"code": "1302"}}
            )
        assert limited.value.code == "1302"
        stream = await client.chat.completions.create(
            model="glm-4-flash",
            messages=QUESTION,
            stream=True,
            extra_body={"simulate": {"error_at_event": 2}},
        )
        with pytest.raises(openai.APIError):
            [chunk async for chunk in stream]


async def test_zai_streams_and_reads(simulate: Simulate) -> None:
    sim = await simulate()

    def use() -> tuple[str, str, str]:
        base = f"{sim.http_url}/api/paas/v4"
        with zai.ZaiClient(base_url=base, api_key="id.secret") as client:
            stream: Any = client.chat.completions.create(
                model="glm-4.6", messages=QUESTION, stream=True
            )
            deltas = [chunk.choices[0].delta for chunk in stream]
            plain: Any = client.chat.completions.create(model="glm-4-flash", messages=QUESTION)
        reasoning = "".join(delta.reasoning_content or "" for delta in deltas)
        text = "".join(delta.content or "" for delta in deltas)
        return reasoning, text, plain.choices[0].message.content

    for said in await asyncio.to_thread(use):
        assert said.endswith("。")


async def test_anthropic_streams_thinking_and_a_tool(simulate: Simulate) -> None:
    sim = await simulate()
    tools: Any = [{"name": "tide_table", "input_schema": SCHEMA}]
    async with (
        anthropic_client(sim) as client,
        client.messages.stream(
            model="claude-sonnet-5",
            max_tokens=2000,
            messages=TOOL_QUESTION,
            tools=tools,
            thinking={"type": "enabled", "budget_tokens": 1024},
        ) as stream,
    ):
        message = await stream.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "tool_use"]
    assert message.content[1].type == "tool_use"
    assert message.content[1].input == {"port": "Call"}
    assert message.stop_reason == "tool_use"
    assert message.model == "glm-4.7"
    assert message.usage.output_tokens > 8


async def test_anthropic_reads_a_plain_message_and_errors(simulate: Simulate) -> None:
    sim = await simulate()
    async with anthropic_client(sim) as client:
        message = await client.messages.create(model="glm-4.6", max_tokens=99, messages=QUESTION)
        assert message.content[0].type == "text"
        assert message.content[0].text.endswith("。")
        with pytest.raises(anthropic.RateLimitError):
            await client.messages.create(
                model="glm-4.6",
                max_tokens=99,
                messages=QUESTION,
                extra_body={"simulate": {"code": "1302"}},
            )
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.count_tokens(model="glm-4.6", messages=QUESTION)
