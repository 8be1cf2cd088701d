"""Invariant: untouched bytes are the client's own, and touched fields are what the route says."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Params
from proxy.core.policy.capability import EFFORTS, Capability
from proxy.core.policy.rewrite import UNTOUCHABLE, checked, rewrite
from proxy.core.wire.members import members
from proxy.core.wire.request import ChatRequest, parse

ODD = (
    b'\n{ "model" : "glm-4.6",\t"temperature":1.0, "top_p" :1e0,"max_tokens": 4096 ,\r\n'
    b' "messages":[ {"role":"user","content":"\\u4f60\\/ \xe4\xbd\xa0 \\"model\\": 1.0"} ] ,'
    b'"stream":true,"thinking":null,"stop":["\\n"] } \n'
)


def record(**facts: Any) -> Capability:
    return Capability.model_validate({"family": "x", "rank": 1, "thinking": "toggle"} | facts)


TOGGLE = record(temperature=[0, 1], top_p=[0.01, 1], max_output=131072, tool_stream=True)
BOTH = record(efforts=EFFORTS)
EFFORT = record(thinking="effort", efforts=["low", "high", "max"])
FORCED = record(thinking="forced")
PLAIN = record(thinking="none", temperature=[0, 1], top_p=[0.01, 1], max_output=4095)


def request(dialect: str = "openai", **fields: Any) -> ChatRequest:
    content = {"model": "asked", "messages": [{"role": "user", "content": "Hi"}]} | fields
    return parse(json.dumps(content).encode(), dialect=dialect)


def outcome(
    asked: ChatRequest,
    model: str = "asked",
    capability: Capability | None = None,
    *,
    fill: dict[str, Any] | None = None,
    force: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], list[str]]:
    """The fields besides the prompt, and the words of change."""
    params = checked(Params(fill=fill or {}, force=force or {}))
    result = rewrite(asked, model, params, capability)
    fields = json.loads(result.body)
    assert fields.pop("messages") == asked.fields["messages"]
    assert fields.pop("model") == model
    return fields, list(result.changes)


@pytest.mark.parametrize("capability", [None, TOGGLE, BOTH, EFFORT, FORCED, PLAIN])
def test_without_a_rule_the_very_bytes_go_up(capability: Capability | None) -> None:
    asked = request(
        temperature=9, thinking={"type": "disabled"}, reasoning_effort="x", max_tokens=10**9,
        tool_choice="required", tool_stream=True,
    )  # fmt: skip
    result = rewrite(asked, "asked", Params(), capability)
    assert result.body is asked.body
    assert result.changes == ()


def test_only_the_touched_values_change_their_bytes() -> None:
    params = Params(fill={"temperature": 0.5, "seed": 7}, force={"thinking": "disabled"})
    result = rewrite(parse(ODD, dialect="openai"), "glm-4.5-air", params, TOGGLE)
    assert result.body == (
        ODD.replace(b'"glm-4.6"', b'"glm-4.5-air"')
        .replace(b'"thinking":null', b'"thinking":{"type":"disabled"}')
        .replace(b'["\\n"] }', b'["\\n"],"seed":7 }')
    )
    assert result.changes == ("model", "seed=7", "thinking=disabled")


def test_a_replaced_model_changes_the_model_alone() -> None:
    result = rewrite(parse(ODD, dialect="openai"), 'new "模"', Params(), TOGGLE)
    assert result.body == ODD.replace(b'"glm-4.6"', '"new \\"模\\""'.encode())
    assert result.changes == ("model",)


@pytest.mark.parametrize(
    ("sent", "set_to"),
    [
        (b"1.0", 1),
        (b"1e0", 1.0),
        (b'"\\u0061"', "a"),
        (b'{"b": [1.0, true],"a":1}', {"a": 1, "b": [1, True]}),
        (b"null", None),
    ],
)
def test_an_equal_value_is_left_in_the_clients_spelling(sent: bytes, set_to: Any) -> None:
    body = b'{"model":"m","messages":[1],"x":%b}' % sent
    result = rewrite(parse(body, dialect="openai"), "m", Params(force={"x": set_to}), TOGGLE)
    assert result.body is body
    assert result.changes == ()


@pytest.mark.parametrize(
    ("sent", "set_to"),
    [
        (b"1", True),
        (b"true", 1),
        (b"[0]", [False]),
        (b'{"a":1}', {"a": True}),
        (b"[1]", [1, 1]),
        (b'{"a":1}', {"b": 1}),
        (b"[]", {}),
        (b'"1"', 1),
    ],
)
def test_a_value_of_another_json_type_is_replaced(sent: bytes, set_to: Any) -> None:
    body = b'{"model":"m","messages":[1],"x":%b}' % sent
    result = rewrite(parse(body, dialect="openai"), "m", Params(force={"x": set_to}), None)
    assert result.body == body.replace(sent + b"}", orjson.dumps(set_to) + b"}")


@pytest.mark.parametrize(
    ("sent", "rule", "fields", "changes"),
    [
        ({}, {"fill": {"temperature": 0.5}}, {"temperature": 0.5}, ["temperature=0.5"]),
        ({"temperature": None}, {"fill": {"temperature": 0.5}},
         {"temperature": 0.5}, ["temperature=0.5"]),
        ({"temperature": 0}, {"fill": {"temperature": 0.5}}, {"temperature": 0}, []),
        ({"x": False}, {"fill": {"x": True}}, {"x": False}, []),
        ({}, {"fill": {"x": None}}, {}, []),
        ({"x": 1}, {"force": {"x": 2}}, {"x": 2}, ["x=2"]),
        ({"x": 1}, {"force": {"x": None}}, {}, ["-x"]),
        ({}, {"force": {"x": None}}, {}, []),
        ({"x": None}, {"force": {"x": None}}, {"x": None}, []),
        ({}, {"force": {"x": {"y": [1]}}}, {"x": {"y": [1]}}, ["x"]),
        ({}, {"force": {"x": "a" * 33}}, {"x": "a" * 33}, ["x"]),
        ({}, {"force": {"x": True, "y": "z"}}, {"x": True, "y": "z"}, ["x=true", "y=z"]),
        ({}, {"fill": {"a": 1}, "force": {"b": 2}}, {"a": 1, "b": 2}, ["a=1", "b=2"]),
    ],
)  # fmt: skip
def test_fill_is_for_silence_and_force_is_for_all(
    sent: dict[str, Any], rule: dict[str, Any], fields: dict[str, Any], changes: list[str]
) -> None:
    assert outcome(request(**sent), **rule) == (fields, changes)
    assert outcome(request(**sent), capability=TOGGLE, **rule) == (fields, changes)


OFF, ON = {"type": "disabled"}, {"type": "enabled"}


@pytest.mark.parametrize(
    ("dialect", "sent", "kind", "thinking"),
    [
        ("openai", {}, "disabled", OFF),
        ("openai", {"thinking": ON | {"clear_thinking": False}}, "disabled", OFF),
        ("openai", {"thinking": OFF | {"clear_thinking": False}}, "disabled",
         OFF | {"clear_thinking": False}),
        ("openai", {"thinking": OFF}, "enabled", ON),
        ("openai", {"thinking": "odd"}, "enabled", ON),
        ("anthropic", {}, "disabled", OFF),
        ("anthropic", {"thinking": ON | {"budget_tokens": 2000}}, "disabled", OFF),
        ("anthropic", {"thinking": ON | {"budget_tokens": 2000}}, "enabled",
         ON | {"budget_tokens": 2000}),
        ("anthropic", {"max_tokens": 8000}, "enabled", ON | {"budget_tokens": 4000}),
        ("anthropic", {"max_tokens": 1500}, "enabled", ON | {"budget_tokens": 1024}),
        ("anthropic", {"max_tokens": 1024}, "enabled", None),
        ("anthropic", {"max_tokens": 1024, "thinking": OFF}, "enabled", OFF),
        ("anthropic", {}, "enabled", ON | {"budget_tokens": 1024}),
    ],
)  # fmt: skip
def test_the_shorthand_is_said_in_the_dialects_words(
    dialect: str, sent: dict[str, Any], kind: str, thinking: object
) -> None:
    fields, changes = outcome(request(dialect, **sent), force={"thinking": kind})
    assert fields.get("thinking") == thinking
    changed = thinking != sent.get("thinking")
    assert changes == ([f"thinking={kind}"] if changed else [])


@pytest.mark.parametrize(
    ("served", "sent", "expected"),
    [
        # The model was replaced: what the client said is said in the new model's words.
        (TOGGLE, {"thinking": OFF}, {"thinking": OFF}),
        (TOGGLE, {"reasoning_effort": "low"}, {}),
        (TOGGLE, {"reasoning_effort": "none"}, {"thinking": OFF}),
        (TOGGLE, {"reasoning_effort": "none", "thinking": ON}, {"thinking": ON}),
        (BOTH, {"thinking": OFF, "reasoning_effort": "max"},
         {"thinking": OFF, "reasoning_effort": "max"}),
        (BOTH, {"reasoning_effort": "none"}, {"reasoning_effort": "none"}),
        (EFFORT, {"thinking": OFF}, {"reasoning_effort": "low"}),
        (EFFORT, {"thinking": OFF, "reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        (EFFORT, {"thinking": ON}, {"thinking": ON}),
        (EFFORT, {"reasoning_effort": "none"}, {"reasoning_effort": "low"}),
        (EFFORT, {"reasoning_effort": "medium"}, {"reasoning_effort": "high"}),
        (EFFORT, {"reasoning_effort": "odd"}, {}),
        (EFFORT, {"reasoning_effort": 3}, {}),
        (record(efforts=["low"]), {"reasoning_effort": "max"}, {"reasoning_effort": "low"}),
        (FORCED, {"thinking": OFF, "reasoning_effort": "low"}, {}),
        (FORCED, {"thinking": ON}, {}),
        (PLAIN, {"thinking": ON, "reasoning_effort": "none"}, {}),
        (PLAIN, {"thinking": None}, {"thinking": None}),
        (PLAIN, {"temperature": 2, "top_p": 0}, {"temperature": 1.0, "top_p": 0.01}),
        (PLAIN, {"temperature": 0.126, "top_p": 0.5}, {"temperature": 0.13, "top_p": 0.5}),
        (PLAIN, {"temperature": -1}, {"temperature": 0.0}),
        (PLAIN, {"temperature": True, "top_p": "1"}, {"temperature": True, "top_p": "1"}),
        (PLAIN, {"max_tokens": 4095, "max_completion_tokens": 4096},
         {"max_tokens": 4095, "max_completion_tokens": 4095}),
        (PLAIN, {"max_tokens": "9999"}, {"max_tokens": "9999"}),
        (PLAIN, {"tool_stream": True}, {}),
        (PLAIN, {"tool_stream": False}, {"tool_stream": False}),
        (TOGGLE, {"tool_stream": True}, {"tool_stream": True}),
        (PLAIN, {"tool_choice": "required"}, {"tool_choice": "auto"}),
        (PLAIN, {"tool_choice": {"type": "function"}}, {"tool_choice": "auto"}),
        (PLAIN, {"tool_choice": "none"}, {"tool_choice": "none"}),
        (PLAIN, {"tools": [{"type": "function"}], "x": 1},
         {"tools": [{"type": "function"}], "x": 1}),
        (None, {"thinking": OFF, "temperature": 9}, {"thinking": OFF, "temperature": 9}),
    ],
)  # fmt: skip
def test_a_request_for_a_replaced_model_is_fitted_to_it(
    served: Capability | None, sent: dict[str, Any], expected: dict[str, Any]
) -> None:
    fields, changes = outcome(request(**sent), "other", served)
    assert fields == expected
    names = {word.partition("=")[0].removeprefix("-") for word in changes}
    assert names == {"model"} | {
        name for name in sent.keys() | expected.keys() if sent.get(name) != expected.get(name)
    }
    # The model as asked: the same fields are the client's own affair.
    assert outcome(request(**sent), "asked", served) == (sent, [])


@pytest.mark.parametrize(
    ("served", "sent", "rule", "expected"),
    [
        # The model is as asked: only what the rule set is fitted.
        (EFFORT, {}, {"force": {"thinking": "disabled"}}, {"reasoning_effort": "low"}),
        (EFFORT, {"reasoning_effort": "max"}, {"force": {"thinking": "disabled"}},
         {"reasoning_effort": "low"}),
        (EFFORT, {"reasoning_effort": "max"}, {"fill": {"thinking": "disabled"}},
         {"reasoning_effort": "max"}),
        (EFFORT, {"thinking": ON}, {"fill": {"thinking": "disabled"}}, {"thinking": ON}),
        (PLAIN, {}, {"force": {"thinking": "disabled"}}, {}),
        (PLAIN, {"thinking": ON}, {"force": {"thinking": "disabled"}}, {}),
        (PLAIN, {"temperature": 9}, {"force": {"top_p": 7}}, {"temperature": 9, "top_p": 1.0}),
        (PLAIN, {"max_tokens": 9999}, {"fill": {"max_tokens": 1}}, {"max_tokens": 9999}),
        (PLAIN, {}, {"fill": {"max_tokens": 9999}}, {"max_tokens": 4095}),
        (PLAIN, {}, {"fill": {"tool_stream": True}}, {}),
        (PLAIN, {}, {"force": {"tool_choice": "required"}}, {"tool_choice": "auto"}),
        (TOGGLE, {}, {"force": {"reasoning_effort": "high"}}, {}),
    ],
)  # fmt: skip
def test_what_a_rule_sets_is_fitted_to_the_model(
    served: Capability, sent: dict[str, Any], rule: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert outcome(request(**sent), "asked", served, **rule)[0] == expected


@pytest.mark.parametrize(
    ("served", "sent", "expected"),
    [
        (EFFORT, {"thinking": OFF}, {}),
        (TOGGLE, {"thinking": OFF}, {"thinking": OFF}),
        (PLAIN, {"thinking": ON | {"budget_tokens": 2000}}, {}),
        (PLAIN, {"max_tokens": 9999, "temperature": 3}, {"max_tokens": 4095, "temperature": 1.0}),
        (PLAIN, {"tool_choice": {"type": "any"}}, {"tool_choice": {"type": "any"}}),
    ],
)
def test_the_messages_dialect_keeps_its_own_words(
    served: Capability, sent: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert outcome(request("anthropic", **sent), "other", served)[0] == expected


@pytest.mark.parametrize("name", sorted(UNTOUCHABLE - {"messages", "model", "stream"}))
def test_a_rule_cannot_set_the_prompt(name: str) -> None:
    with pytest.raises(ValueError, match="must not set"):
        checked(Params(force={name: "x"}))


def test_the_guard_does_not_rely_on_the_settings() -> None:
    params = Params.model_construct(fill={"messages": []}, force={})
    with pytest.raises(ValueError, match="must not set messages"):
        checked(params)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False, width=32),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)  # fmt: skip
NAMES = st.sampled_from(["temperature", "x", "", "é", '"', "user", "stop"]) | st.text(max_size=4)
FIELDS = st.dictionaries(NAMES.filter(lambda name: name not in UNTOUCHABLE | {"thinking"}), JSON)


@st.composite
def spellings(draw: st.DrawFn) -> bytes:
    """A chat request in one of the many ways to write it."""
    fields = draw(FIELDS) | {"model": "asked", "messages": [{"content": draw(st.text())}]}
    text = json.dumps(
        dict(draw(st.permutations(list(fields.items())))),
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 1, 3])),
        separators=draw(st.sampled_from([(",", ":"), (" , ", " : ")])),
    )
    return text.encode()


@given(spellings(), FIELDS, FIELDS, st.sampled_from(["asked", "other", "模型"]))
def test_any_rule_gives_the_expected_object_and_the_same_bytes_elsewhere(
    body: bytes, fill: dict[str, Any], force: dict[str, Any], model: str
) -> None:
    asked = parse(body, dialect="openai")
    fill = {name: value for name, value in fill.items() if name not in force}
    result = rewrite(asked, model, Params(fill=fill, force=force), None)

    expected = dict(asked.fields) | {"model": model}
    for name, value in fill.items():
        if expected.get(name) is None and value is not None:
            expected[name] = value
    for name, value in force.items():
        if value is not None:
            expected[name] = value
        elif expected.get(name) is not None:
            del expected[name]
    assert json.loads(result.body) == expected
    assert list(json.loads(result.body)) == list(expected)

    now = dict(zip(json.loads(result.body), members(result.body), strict=True))
    for name, member in zip(asked.fields, members(body), strict=True):
        if name in expected and orjson.dumps(expected[name]) == orjson.dumps(asked.fields[name]):
            there = now[name]
            assert result.body[there.start : there.end] == body[member.start : member.end]
    if not result.changes:
        assert result.body is body
