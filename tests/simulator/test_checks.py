"""Requests the API refuses, each with its own business code."""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.simulator.call import Tool, anthropic_call, fault_in, glm_call
from proxy.simulator.checks import parse
from proxy.simulator.faults import Fault
from proxy.simulator.refusals import Refusal
from proxy.simulator.tools import call_tool

USER = {"role": "user", "content": "Tell me more"}
TOOL = {"type": "function", "function": {"name": "x" * 65}}

WORDS = (
    *("model", "messages", "role", "content", "type", "text", "stream", "thinking", "tools"),
    *(
        "tool_choice",
        "function",
        "name",
        "parameters",
        "properties",
        "enum",
        "system",
        "temperature",
    ),
    *("array", "object", "integer"),
    *("reasoning_effort", "response_format", "tool_calls", "input_schema", "max_tokens", "items"),
)

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no model": ({"model": None}, "1213"),
    "an unknown model": ({"model": "gpt-4"}, "1211"),
    "no messages": ({"messages": None}, "1213"),
    "an empty list": ({"messages": []}, "1214"),
    "system only": ({"messages": [{"role": "system", "content": "Be brief"}]}, "1214"),
    "assistant only": ({"messages": [{"role": "assistant", "content": "Yes"}]}, "1214"),
    "developer role": ({"messages": [{"role": "developer", "content": "x"}, USER]}, "1214"),
    "an empty text": ({"messages": [{"role": "user", "content": ""}]}, "1214"),
    "an empty text block": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]},
        "1214",
    ),
    "no content blocks": ({"messages": [{"role": "user", "content": []}]}, "1214"),
    "temperature 2": ({"temperature": 2.0}, "1210"),
    "temperature as text": ({"temperature": "1"}, "1210"),
    "top_p 0": ({"top_p": 0}, "1210"),
    "max_tokens 0": ({"max_tokens": 0}, "1210"),
    "too many tokens": ({"max_tokens": 1_000_000}, "1210"),
    "max_tokens true": ({"max_tokens": True}, "1210"),
    "stream as text": ({"stream": "yes"}, "1210"),
    "tool_choice required": ({"tool_choice": "required"}, "1210"),
    "a named tool_choice": ({"tool_choice": {"type": "function"}}, "1210"),
    "a long tool name": ({"tools": [TOOL]}, "1210"),
    "too many tools": ({"tools": [{}] * 129}, "1210"),
    "json_schema": ({"response_format": {"type": "json_schema"}}, "1210"),
    "a wrong effort": ({"reasoning_effort": "very"}, "1210"),
    "a wrong thinking": ({"thinking": {"type": "maybe"}}, "1210"),
    "a role that is a list": ({"messages": [{"role": [], "content": "x"}]}, "1214"),
    "an effort that is a list": ({"reasoning_effort": []}, "1210"),
    "a thinking that is a list": ({"thinking": {"type": []}}, "1210"),
    "a format that is a list": ({"response_format": {"type": []}}, "1210"),
    "thinking off where it cannot be": (
        {"model": "glm-5.3", "thinking": {"type": "disabled"}},
        "1210",
    ),
    "a prompt beyond the context": (
        {"model": "glm-4v-flash", "messages": [{"role": "user", "content": "word " * 20_000}]},
        "1261",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_request_gets_its_code(wrong: str) -> None:
    fields, code = WRONG[wrong]
    given = {"model": "glm-4.6", "messages": [USER], **fields}
    with pytest.raises(Refusal) as refused:
        glm_call({name: value for name, value in given.items() if value is not None})
    assert refused.value.code == code
    assert refused.value.status == 400


def test_explicit_nulls_count_as_absent() -> None:
    fields = parse(
        b'{"model":"glm-4.6","messages":[{"role":"user","content":"x"}],'
        b'"thinking":null,"response_format":null,"tools":null,"temperature":null,"stop":null}'
    )
    assert glm_call(fields).effort == 1.0


def test_what_zai_allows_is_taken() -> None:
    call = glm_call(
        {
            "model": "GLM-4.6",
            "messages": [{"role": "system", "content": "Be brief"}, USER],
            "temperature": 1,
            "top_p": 0.95,
            "max_tokens": 131072,
            "stream_options": {"include_usage": True},
            "tool_stream": True,
            "request_id": "123456",
        }
    )
    assert call.model.name == "glm-4.6"
    assert call.tool_stream


def test_tool_stream_has_no_effect_before_glm_4_6() -> None:
    fields = {"model": "glm-4.5", "messages": [USER], "tool_stream": True}
    assert not glm_call(fields).tool_stream


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(WORDS), JSON), st.booleans())
def test_no_json_breaks_the_checks(fields: dict[str, Any], bare: bool) -> None:
    """Whatever the fields hold, a request is understood or refused."""
    usual: dict[str, Any] = {} if bare else {"model": "glm-4.6", "messages": [USER]}
    for read in (glm_call, anthropic_call):
        with suppress(Refusal):
            assert read({**usual, "max_tokens": 99, **fields}).prompt_tokens > 0


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(WORDS), JSON))
def test_no_schema_breaks_a_tool_call(schema: dict[str, Any]) -> None:
    call = call_tool(Tool("tide_table", schema), "Ask in Brest", Random(1))
    assert isinstance(orjson.loads(call.arguments), dict)


@pytest.mark.parametrize("body", [b"", b"[]", b"nonsense", b'"text"'])
def test_what_is_no_json_object_is_a_wrong_parameter(body: bytes) -> None:
    with pytest.raises(Refusal, match="1210"):
        parse(body)


def test_the_anthropic_base_maps_claudes_names_and_thinks_only_when_asked() -> None:
    fields: dict[str, Any] = {"messages": [USER], "max_tokens": 100}
    haiku = anthropic_call({"model": "claude-3-5-haiku-20241022", **fields})
    assert (haiku.model.name, haiku.effort) == ("glm-4.5-air", 0.0)
    sonnet = anthropic_call(
        {"model": "claude-sonnet-4-5", "thinking": {"type": "enabled"}, **fields}
    )
    assert (sonnet.model.name, sonnet.effort) == ("glm-4.7", 1.0)


def test_the_anthropic_base_wants_max_tokens() -> None:
    with pytest.raises(Refusal, match="1213"):
        anthropic_call({"model": "glm-4.6", "messages": [USER]})


def test_a_request_can_carry_its_own_fault() -> None:
    assert fault_in({"simulate": {"cut_at_event": 3}}) == Fault(cut_at_event=3)
    assert fault_in({}) is None
    with pytest.raises(Refusal, match=r"1210.*cut_at_evnt: Extra inputs"):
        fault_in({"simulate": {"cut_at_evnt": 3}})
