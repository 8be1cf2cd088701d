"""What an answer says: as long as asked for, whole, and the same for the same seed."""

from __future__ import annotations

from random import Random
from typing import Any

import orjson
import pytest

from proxy.simulator import texts
from proxy.simulator.call import anthropic_call, glm_call
from proxy.simulator.faults import Fault
from proxy.simulator.profiles import PROFILES
from proxy.simulator.script import Kind, Script, write_script

TIDES = {
    "type": "function",
    "function": {
        "name": "tide_table",
        "parameters": {
            "type": "object",
            "properties": {
                "port": {"type": "string"},
                "days": {"type": "integer"},
                "unit": {"enum": ["m", "ft"]},
                "exact": {"type": "boolean"},
                "heights": {"type": "array", "items": {"type": "number"}},
            },
        },
    },
}


def script(
    prompt: str = "Tell me more", seed: int = 1, fault: Fault | None = None, **fields: Any
) -> Script:
    call = glm_call(
        {"model": "glm-4.6", "messages": [{"role": "user", "content": prompt}], **fields}
    )
    behaviour = PROFILES["instant"].behaviour(call.model.name)
    return write_script(call, behaviour, fault or Fault(), 0, Random(seed))


def test_reasoning_comes_first_and_both_end_in_a_full_stop() -> None:
    answer = script()
    kinds = [token.kind for token in answer.tokens]
    assert kinds == [Kind.REASONING] * 8 + [Kind.CONTENT] * 24
    assert answer.text(Kind.REASONING).startswith("\n")
    assert answer.text(Kind.REASONING).endswith(".")
    assert answer.text(Kind.CONTENT).endswith(".")
    assert answer.finish_reason == "stop"
    assert answer.usage == (answer.usage.prompt, 32, 8, 0)


def test_the_same_seed_says_the_same_and_another_something_else() -> None:
    assert script(seed=7) == script(seed=7)
    assert len({script(seed=seed).text(Kind.CONTENT) for seed in range(20)}) > 5


def test_a_chinese_question_gets_chinese_thoughts_and_words() -> None:
    answer = script("请介绍机器学习")
    assert answer.text(Kind.CONTENT).endswith("。")
    assert texts.is_chinese(answer.text(Kind.REASONING))
    assert not any(" " in token.text for token in answer.tokens)


def test_a_chinese_token_has_one_to_three_characters() -> None:
    text = "潮汐表就是一个小例子：输入多年的水位。🌊 glm-4"
    pieces = list(texts.pieces(text, Random(1)))
    assert "".join(pieces) == text
    assert all(1 <= len(p) <= 3 for p in pieces if texts.is_chinese(p))
    assert len(pieces) > 8


@pytest.mark.parametrize("limit", [1, 5, 8, 9, 31])
def test_max_tokens_ends_the_answer_by_length_thinking_included(limit: int) -> None:
    answer = script(max_tokens=limit)
    assert len(answer.tokens) == limit == answer.usage.completion
    assert answer.finish_reason == "length"
    assert answer.usage.reasoning == min(limit, 8)


def test_a_limit_that_is_just_enough_is_no_limit() -> None:
    assert script(max_tokens=32).finish_reason == "stop"


def test_a_fault_sets_length_pace_and_reason() -> None:
    fault = Fault(tokens=3, thinking_tokens=2, first_token=1.5, gap=0.25, finish_reason="abort")
    answer = script(fault=fault)
    assert [token.at for token in answer.tokens] == [1.5, 1.75, 2.0, 2.25, 2.5]
    assert answer.ended_at == 2.75
    assert answer.finish_reason == "abort"


def test_less_effort_is_less_thinking() -> None:
    def thought(**fields: Any) -> int:
        return script(fault=None, model="glm-5.2", **fields).usage.reasoning

    assert thought() == 16
    assert thought(reasoning_effort="high") == 8
    assert thought(reasoning_effort="low") == 2
    assert thought(reasoning_effort="none") == 0
    assert thought(thinking={"type": "disabled"}) == 0


def test_a_tool_named_in_the_prompt_is_called_with_arguments_that_fit() -> None:
    answer = script("Ask the tide_table for Brest", tools=[TIDES])
    (call,) = answer.calls
    arguments = orjson.loads(answer.text(Kind.TOOL))
    assert call.name == "tide_table"
    assert len(call.id) == len("call_") + 24
    assert arguments["port"] == "Ask"  # the first name-like word
    assert isinstance(arguments["days"], int)
    assert arguments["unit"] == "m"
    assert arguments["exact"] is True
    assert isinstance(arguments["heights"][0], float)
    assert answer.finish_reason == "tool_calls"
    assert not answer.text(Kind.CONTENT)


@pytest.mark.parametrize(
    ("prompt", "calls"),
    [("What is the weather?", 1), ("用工具查一下天气", 1), ("Tell me a story", 0)],
)
def test_a_tool_is_called_only_when_the_prompt_asks(prompt: str, calls: int) -> None:
    assert len(script(prompt, tools=[TIDES]).calls) == calls


def test_a_tools_result_is_answered_in_words() -> None:
    messages = [
        {"role": "user", "content": "tide_table please"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "tide_table says 14:05"},
    ]
    assert not script(tools=[TIDES], messages=messages).calls
    blocks = [{"type": "tool_result", "tool_use_id": "1", "content": "tide_table: 14:05"}]
    call = anthropic_call(
        {
            "model": "glm-4.6",
            "max_tokens": 10,
            "messages": [{"role": "user", "content": blocks}],
            "tools": [{"name": "tide_table", "input_schema": {}}],
        }
    )
    assert not call.tools


def test_a_json_object_is_one() -> None:
    answer = script(response_format={"type": "json_object"})
    assert set(orjson.loads(answer.text(Kind.CONTENT))) == {"answer"}
    assert answer.usage.completion == 32
