"""Invariant: untouched bytes are the client's own, and touched fields are what the route says."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import UNTOUCHABLE, Cap, Params
from proxy.core.policy.capability import EFFORTS, Capability
from proxy.core.policy.rewrite import rewrite
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
    cap: int | None = None,
    drop_unused_tools: bool = False,
) -> tuple[dict[str, Any], list[str]]:
    """The fields besides the prompt, and the words of change."""
    params = Params(
        fill=fill or {},
        force=force or {},
        cap=Cap(max_tokens=cap),
        drop_unused_tools=drop_unused_tools,
    )
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
        (TOGGLE, {"thinking": ON}, {"force": {"reasoning_effort": "none"}}, {"thinking": OFF}),
        (TOGGLE, {"thinking": ON}, {"fill": {"reasoning_effort": "none"}}, {"thinking": ON}),
        (TOGGLE, {"reasoning_effort": "high"}, {"force": {"thinking": "disabled"}},
         {"reasoning_effort": "high", "thinking": OFF}),
        (BOTH, {"reasoning_effort": "high"}, {"force": {"thinking": "disabled"}},
         {"reasoning_effort": "none", "thinking": OFF}),
        (BOTH, {"thinking": ON}, {"force": {"reasoning_effort": "none"}},
         {"reasoning_effort": "none", "thinking": OFF}),
        (BOTH, {"thinking": ON}, {"force": {"reasoning_effort": "low"}},
         {"reasoning_effort": "low", "thinking": ON}),
    ],
)  # fmt: skip
def test_what_a_rule_sets_is_fitted_to_the_model(
    served: Capability, sent: dict[str, Any], rule: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert outcome(request(**sent), "asked", served, **rule)[0] == expected


@pytest.mark.parametrize(
    ("sent", "fill", "filled"),
    [
        ({"reasoning_effort": "high"}, {"thinking": "disabled"}, False),
        ({"reasoning_effort": "none"}, {"thinking": "disabled"}, True),
        ({"reasoning_effort": "none"}, {"thinking": "enabled"}, False),
        ({"reasoning_effort": "low"}, {"thinking": "enabled"}, True),
        ({"reasoning_effort": None}, {"thinking": "disabled"}, True),
        ({"thinking": OFF}, {"reasoning_effort": "low"}, False),
        ({"thinking": OFF}, {"reasoning_effort": "none"}, True),
        ({"thinking": ON}, {"reasoning_effort": "low"}, True),
        ({"thinking": None}, {"reasoning_effort": "low"}, True),
    ],
)
def test_fill_does_not_contradict_what_the_caller_said_of_thinking_in_another_word(
    sent: dict[str, Any], fill: dict[str, Any], filled: bool
) -> None:
    (name,) = fill
    for served in (None, BOTH):
        fields, changes = outcome(request(**sent), "asked", served, fill=fill)
        assert (fields.get(name) is not None) is filled
        assert bool(changes) is filled


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


# --- caps, unused tools, streamed tool arguments -------------------------------------------------

TOOLS: list[Any] = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize(
    ("sent", "expected", "changes"),
    [
        ({}, {"max_tokens": 1000}, ["max_tokens=1000"]),
        ({"max_tokens": None}, {"max_tokens": 1000}, ["max_tokens=1000"]),
        ({"max_tokens": 1001}, {"max_tokens": 1000}, ["max_tokens=1000"]),
        ({"max_tokens": 1e9}, {"max_tokens": 1000}, ["max_tokens=1000"]),
        ({"max_tokens": 1000}, {"max_tokens": 1000}, []),
        ({"max_tokens": 1}, {"max_tokens": 1}, []),
        ({"max_tokens": 0}, {"max_tokens": 0}, []),
        ({"max_tokens": "many"}, {"max_tokens": "many"}, []),
        ({"max_tokens": True}, {"max_tokens": True}, []),
        ({"max_tokens": 10, "max_completion_tokens": 2000},
         {"max_tokens": 10, "max_completion_tokens": 1000}, ["max_completion_tokens=1000"]),
        ({"max_tokens": 2000, "max_completion_tokens": 10},
         {"max_tokens": 10, "max_completion_tokens": 10}, ["max_tokens=10"]),
        ({"max_completion_tokens": 10},
         {"max_tokens": 10, "max_completion_tokens": 10}, ["max_tokens=10"]),
        ({"max_completion_tokens": 2000}, {"max_tokens": 1000, "max_completion_tokens": 1000},
         ["max_completion_tokens=1000", "max_tokens=1000"]),
        ({"max_completion_tokens": None}, {"max_tokens": 1000, "max_completion_tokens": None},
         ["max_tokens=1000"]),
    ],
)  # fmt: skip
def test_a_cap_is_the_most_that_is_asked_for(
    dialect: str, sent: dict[str, Any], expected: dict[str, Any], changes: list[str]
) -> None:
    assert outcome(request(dialect, **sent), cap=1000) == (expected, changes)


def test_a_cap_holds_over_fill_and_force_and_within_the_models_own_limit() -> None:
    assert outcome(request(), force={"max_tokens": 50}, cap=10)[0] == {"max_tokens": 10}
    assert outcome(request(), fill={"max_tokens": 50}, cap=10)[0] == {"max_tokens": 10}
    assert outcome(request(), "asked", PLAIN, cap=5000)[0] == {"max_tokens": 4095}
    # What the caller said and nobody changed is between the caller and the model.
    said = request(max_tokens=4500)
    assert outcome(said, "asked", PLAIN, cap=5000) == ({"max_tokens": 4500}, [])


@pytest.mark.parametrize(
    ("served", "most", "budget", "expected"),
    [
        (None, 8000, 4000, ON | {"budget_tokens": 4000}),
        (None, 4000, 4000, ON | {"budget_tokens": 2000}),
        (TOGGLE, 1500, 4000, ON | {"budget_tokens": 1024}),
        (None, 1024, 4000, OFF),
        (TOGGLE, 100, 4000, OFF),
        (EFFORT, 100, 4000, None),
        (FORCED, 100, 4000, None),
    ],
)
def test_a_thinking_budget_stays_below_a_capped_answer(
    served: Capability | None, most: int, budget: int, expected: object
) -> None:
    asked = request("anthropic", max_tokens=10_000, thinking=ON | {"budget_tokens": budget})
    assert outcome(asked, "asked", served, cap=most)[0].get("thinking") == expected


def test_a_thinking_budget_stays_below_what_another_model_can_answer() -> None:
    asked = request("anthropic", max_tokens=30_000, thinking=ON | {"budget_tokens": 20_000})
    fields, _ = outcome(asked, "other", record(max_output=16384))
    assert fields == {"max_tokens": 16384, "thinking": ON | {"budget_tokens": 8192}}


@pytest.mark.parametrize(
    ("dialect", "choice", "dropped"),
    [
        ("openai", "none", True),
        ("anthropic", {"type": "none"}, True),
        ("openai", "auto", False),
        ("openai", None, False),
        ("anthropic", {"type": "auto"}, False),
        ("anthropic", {"type": "tool", "name": "none"}, False),
    ],
)
def test_tools_that_may_not_be_used_are_left_out_when_a_route_says_so(
    dialect: str, choice: object, dropped: bool
) -> None:
    asked = request(dialect, tools=TOOLS, tool_choice=choice)
    said = {"tools": TOOLS, "tool_choice": choice}
    left = ({}, ["-tools", "-tool_choice"]) if dropped else (said, [])
    assert outcome(asked, drop_unused_tools=True) == left
    assert outcome(asked) == (said, [])


@pytest.mark.parametrize(
    ("served", "dialect", "sent", "how", "expected"),
    [
        (TOGGLE, "openai", {"tools": TOOLS}, "force", True),
        (TOGGLE, "openai", {"tools": TOOLS}, "fill", True),
        (TOGGLE, "openai", {"tools": TOOLS, "tool_stream": None}, "fill", True),
        (TOGGLE, "openai", {"tools": TOOLS, "tool_stream": False}, "fill", False),
        (TOGGLE, "openai", {"tools": TOOLS, "tool_stream": False}, "force", True),
        (TOGGLE, "openai", {}, "force", None),
        (TOGGLE, "openai", {"tools": []}, "force", None),
        (TOGGLE, "openai", {"tools": None}, "fill", None),
        (TOGGLE, "openai", {"tool_stream": True}, "force", True),
        (TOGGLE, "anthropic", {"tools": TOOLS}, "force", None),
        (PLAIN, "openai", {"tools": TOOLS}, "force", None),
        (None, "openai", {"tools": TOOLS}, "force", True),
        (None, "openai", {}, "force", None),
    ],
)
def test_tool_arguments_are_streamed_where_there_are_tools_and_the_model_can(
    served: Capability | None, dialect: str, sent: dict[str, Any], how: str, expected: object
) -> None:
    rule: dict[str, Any] = {how: {"tool_stream": True}}
    fields, changes = outcome(request(dialect, **sent), "asked", served, **rule)
    assert fields.get("tool_stream") == expected
    assert changes == ([] if expected == sent.get("tool_stream") else ["tool_stream=true"])


def test_tools_that_were_left_out_have_no_arguments_to_stream() -> None:
    asked = request(tools=TOOLS, tool_choice="none")
    rule: dict[str, Any] = {"force": {"tool_stream": True}, "drop_unused_tools": True}
    assert outcome(asked, "asked", TOGGLE, **rule) == ({}, ["-tools", "-tool_choice"])


@pytest.mark.parametrize(("asked", "wanted"), [(False, True), (None, True), (True, False)])
def test_the_answer_can_be_asked_for_in_another_form(asked: bool | None, wanted: bool) -> None:
    sent = request(stream=asked)
    result = rewrite(sent, "asked", Params(), None, stream=wanted)
    assert json.loads(result.body)["stream"] is wanted
    assert result.changes == (f"stream={str(wanted).lower()}",)
    for same in (None, bool(asked)):
        assert rewrite(sent, "asked", Params(), None, stream=same).body is sent.body


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
