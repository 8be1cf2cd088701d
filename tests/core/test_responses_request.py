"""A request of the Responses API as the chat completion that it stands for, and what is refused."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.wire.request import parse
from proxy.core.wire.responses.asked import is_id, read
from proxy.core.wire.responses.chat import to_chat
from proxy.core.wire.responses.turns import Turn, from_bytes, items_of, to_bytes
from proxy.errors import ClientError

USER = {"role": "user", "content": "hi"}
FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}}
ID = "resp_" + "0a" * 24


def body(**fields: Any) -> bytes:
    return orjson.dumps({"model": "glm-4.6", "input": "hi", **fields})


def chat(history: Any = (), **fields: Any) -> dict[str, Any]:
    """The chat completion, which the exchange accepts."""
    made = to_chat(read(body(**fields)), history)
    parse(made, dialect="openai")
    found = orjson.loads(made)
    assert isinstance(found, dict)
    return found


def messages(*items: dict[str, Any], **fields: Any) -> Any:
    return chat(input=list(items), **fields)["messages"]


def call(own: str, arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function_call", "call_id": own, "name": "f", "arguments": arguments}


def called(*ids: str) -> list[dict[str, Any]]:
    return [
        {"id": own, "type": "function", "function": {"name": "f", "arguments": "{}"}} for own in ids
    ]


def output(own: str, said: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": own, "output": said}


def told(own: str, said: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": own, "content": said}


def said(text: str) -> dict[str, Any]:
    return {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": text}],
    }


def thought(text: str) -> dict[str, Any]:
    parts = [{"type": "reasoning_text", "text": text}]
    return {"type": "reasoning", "id": "rs_1", "summary": [], "content": parts}


# --- what is translated ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"stream": True}, {"stream": True}),
        ({"max_output_tokens": 9}, {"max_tokens": 9}),
        ({"temperature": 0.2, "top_p": 0.5}, {"temperature": 0.2, "top_p": 0.5}),
        ({"reasoning": {"effort": "none"}}, {"thinking": {"type": "disabled"}}),
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"reasoning": {"summary": "auto"}}, {}),
        ({"reasoning": None}, {}),
        ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, {}),
        (
            {"text": {"format": {"type": "json_object"}}},
            {"response_format": {"type": "json_object"}},
        ),
        ({"user": "somebody"}, {"user_id": "somebody"}),
        ({"user": "somebody", "safety_identifier": "another"}, {"user_id": "another"}),
        ({"user": "short"}, {}),
        ({"store": False, "metadata": {"a": "b"}, "truncation": "auto"}, {}),
        ({"include": ["reasoning.encrypted_content"], "service_tier": "auto"}, {}),
        ({"background": False, "conversation": None, "top_logprobs": 0}, {}),
        ({"parallel_tool_calls": False, "prompt_cache_key": "k"}, {}),
        ({"tools": []}, {}),
        (
            {"tools": [FUNCTION], "tool_choice": "auto"},
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "f", "parameters": {"type": "object"}},
                    }
                ]
            },
        ),
        ({"tools": [FUNCTION], "tool_choice": "none"}, {}),
        (
            {"tools": [{"type": "function", "name": "f", "description": "d", "strict": True}]},
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": "f",
                            "description": "d",
                            "parameters": {"type": "object", "properties": {}},
                        },
                    }
                ]
            },
        ),
        (
            {
                "tools": [FUNCTION, {"type": "function", "name": "g"}],
                "tool_choice": {
                    "type": "allowed_tools",
                    "mode": "auto",
                    "tools": [{"type": "function", "name": "f"}],
                },
            },
            {
                "tools": [
                    {
                        "type": "function",
                        "function": {"name": "f", "parameters": {"type": "object"}},
                    }
                ]
            },
        ),
        (
            {
                "tools": [
                    {
                        "type": "web_search",
                        "search_context_size": "high",
                        "filters": {"allowed_domains": ["example.org"]},
                    }
                ]
            },
            {
                "tools": [
                    {
                        "type": "web_search",
                        "web_search": {
                            "enable": True,
                            "search_engine": "search_std",
                            "search_result": True,
                            "content_size": "high",
                            "search_domain_filter": "example.org",
                        },
                    }
                ]
            },
        ),
        # What the Responses API does not know is GLM's own.
        ({"tool_stream": True, "do_sample": False}, {"tool_stream": True, "do_sample": False}),
        (
            {"reasoning": {"effort": "none"}, "thinking": {"type": "enabled"}},
            {"thinking": {"type": "enabled"}},
        ),
    ],
)
def test_fields_become_those_of_a_chat(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    made = chat(**fields)
    plain = {"model": "glm-4.6", "messages": [USER], "stream": False}
    assert made == plain | expected


def test_a_schema_is_told_to_the_model_behind_the_instructions() -> None:
    schema = {"type": "object", "properties": {"名": {"type": "string"}}}
    asked = {"format": {"type": "json_schema", "name": "city", "schema": schema, "strict": True}}
    made = chat(text=asked, instructions="Be brief.")
    assert made["response_format"] == {"type": "json_object"}
    system, user = made["messages"]
    assert user == USER
    assert system["content"].startswith("Be brief.\n\n")
    assert orjson.dumps(schema).decode() in system["content"]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([{"role": "user", "content": "hi"}], [USER]),
        ([{"role": "developer", "content": "d"}, USER], [{"role": "system", "content": "d"}, USER]),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": t} for t in "ab"]}],
            [{"role": "user", "content": "a\nb"}],
        ),
        (
            [
                {
                    "type": "message",
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "what?"},
                        {
                            "type": "input_image",
                            "image_url": "data:image/png;base64,AA",
                            "detail": "auto",
                        },
                        {"type": "input_file", "file_url": "https://example.org/a.pdf"},
                    ],
                }
            ],
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "what?"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
                        {"type": "file_url", "file_url": {"url": "https://example.org/a.pdf"}},
                    ],
                }
            ],
        ),
        (
            [said("a"), said("b")],
            [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}],
        ),
        ([said("")], []),
        (
            [thought("hm"), said("a"), call("1"), call("2"), output("1", "x"), output("2", "y")],
            [
                {
                    **{"role": "assistant", "content": "a", "reasoning_content": "hm"},
                    "tool_calls": called("1", "2"),
                },
                told("1", "x"),
                told("2", "y"),
            ],
        ),
        (  # what was said between a call and its answer must not come between them
            [call("1"), said("wait"), output("1", [{"type": "input_text", "text": "x"}])],
            [{"role": "assistant", "content": "wait", "tool_calls": called("1")}, told("1", "x")],
        ),
        (
            [said("a"), thought("b"), call("1"), said("c"), thought("d"), output("1", "x")],
            [
                {"role": "assistant", "content": "a"},
                {
                    **{"role": "assistant", "content": "c", "reasoning_content": "bd"},
                    "tool_calls": called("1"),
                },
                told("1", "x"),
            ],
        ),
        (
            [said("a"), call("1"), said("b"), output("1", "x")],
            [{"role": "assistant", "content": "ab", "tool_calls": called("1")}, told("1", "x")],
        ),
        (
            [thought("a"), said("b"), thought("c"), said("d")],
            [
                {"role": "assistant", "content": "b", "reasoning_content": "a"},
                {"role": "assistant", "content": "d", "reasoning_content": "c"},
            ],
        ),
        ([thought("alone"), USER], [USER]),
        (
            [{"type": "reasoning", "summary": [], "encrypted_content": "abc"}, said("a")],
            [{"role": "assistant", "content": "a"}],
        ),
        (
            [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}]}, said("a")],
            [{"role": "assistant", "content": "a", "reasoning_content": "s"}],
        ),
        (
            [{"type": "web_search_call", "id": "ws_1"}, said("a"), USER],
            [{"role": "assistant", "content": "a"}, USER],
        ),
    ],
)
def test_items_become_messages(items: list[Any], expected: list[Any]) -> None:
    made = orjson.loads(to_chat(read(body(input=items)), ()))
    assert made["messages"] == expected


def test_the_beginning_of_a_conversation_stays_the_same_to_the_byte() -> None:
    turns = [[USER], [thought("hm"), call("1")], [output("1", "x")], [said("done")], [USER]]
    before = b""
    for count in range(1, len(turns) + 1):
        history = [item for turn in turns[: count - 1] for item in turn]
        asked = read(body(input=turns[count - 1], instructions="i", tools=[FUNCTION]))
        made = to_chat(asked, history)
        prefix = made[: made.index(b'"stream":')].rstrip(b"],")
        assert prefix.startswith(before)
        before = prefix


def test_instructions_of_a_response_are_not_carried_over() -> None:
    response = {"id": ID, "instructions": "old", "output": [said("a")]}
    turn = Turn(response, [USER], (), 1)
    made = chat(history=items_of([turn]), instructions="new")
    assert made["messages"] == [
        {"role": "system", "content": "new"},
        USER,
        {"role": "assistant", "content": "a"},
        USER,
    ]


def test_a_turn_is_kept_and_read_again() -> None:
    turn = Turn({"id": ID, "output": [said("潮")]}, (USER,), (ID, ID), 0)
    data = to_bytes(turn)
    again = from_bytes(data)
    assert again is not None
    assert (again.response, again.input, again.before) == (turn.response, turn.input, turn.before)
    assert again.size == len(data)
    assert to_bytes(again) == data


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"1", b'{"v":2}', b'{"v":1,"response":{"id":"x"}}', b'{"v":1}']
)
def test_what_is_no_turn_is_none(data: bytes) -> None:
    assert from_bytes(data) is None


def test_ids_are_of_one_form() -> None:
    assert is_id(ID)
    assert not any(map(is_id, ("", "resp_", "resp_0", ID + "0", ID.upper(), f"{ID}\n", "../" + ID)))


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        *(
            ({name: value}, name)
            for name, value in {
                "background": True,
                "conversation": {"id": "conv_1"},
                "prompt": {"id": "pmpt_1"},
                "context_management": [{"type": "compaction"}],
                "max_tool_calls": 3,
                "moderation": {"model": "m"},
                "top_logprobs": 2,
                "metadata": ["a"],
                "store": "yes",
                "stream": 1,
                "model": None,
                "instructions": ["a"],
                "previous_response_id": 7,
                "tool_choice": "required",
                "tools": {"a": 1},
                "text": "json",
                "reasoning": "low",
            }.items()
        ),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"reasoning": {"effort": "extreme"}}, "reasoning.effort"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "required"}}, "tool_choice"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        *(
            ({"tools": [FUNCTION, {"type": kind}]}, "tools[1].type")
            for kind in ("file_search", "mcp", "code_interpreter", "custom", "computer", None, 7)
        ),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": ["f"]}, "tools[0]"),
        (
            {"tools": [{"type": "web_search", "filters": {"allowed_domains": ["a", "b"]}}]},
            "tools[0].filters.allowed_domains",
        ),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 7}, "input"),
        ({"input": ["a"]}, "input[0]"),
        ({"input": [USER, {"type": "item_reference", "id": "a"}]}, "input[1].type"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type"),
        ({"input": [{"role": "tool", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 7}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "video"}]}]}, "input[0].content[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "input[0].content[0].text",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
        ),
        ({"input": [{**call("1"), "arguments": {}}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "output": "a"}]}, "input[0].call_id"),
        ({"input": [output("1", [{"type": "input_image"}])]}, "input[0].output[0].type"),
        ({"input": [{"type": {"a": 1}}]}, "input[0].type"),
        ({"input": [{"type": ["message"]}]}, "input[0].type"),
    ],
)
def test_what_cannot_be_served_is_refused_by_its_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ClientError) as caught:
        to_chat(read(body(**fields)), ())
    assert (caught.value.status, caught.value.param) == (400, param)


def test_an_error_does_not_quote_the_prompt() -> None:
    secret = "My password is 12345"
    for fields in (
        {"input": [{"type": secret}]},
        {"input": [{"role": secret}]},
        {"tools": [{"type": secret}]},
        {"tool_choice": secret},
        {"reasoning": {"effort": secret}},
        {"text": {"format": {"type": secret}}},
    ):
        with pytest.raises(ClientError) as caught:
            to_chat(read(body(**fields)), ())
        assert secret not in caught.value.message


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{", b'{"model":"a","input":"b","input":"c"}', b'{"model":"a","input":"\xff"}'],
)
def test_what_two_parsers_could_read_differently_is_refused(raw: bytes) -> None:
    with pytest.raises(ClientError):
        read(raw)


def test_nesting_is_bounded() -> None:
    deep = b'{"model":"a","input":' + b"[" * 80 + b"]" * 80 + b"}"
    with pytest.raises(ClientError, match="nested"):
        read(deep)
    with pytest.raises(ClientError, match="nested"):
        read(body(metadata={"a": {"b": {"c": 1}}}), depth=3)


_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.text(max_size=6)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                [
                    *("type", "role", "content", "text", "output", "call_id", "name", "arguments"),
                    *("format", "schema", "effort", "tools", "parameters", "filters", "image_url"),
                ]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=10,
)
_WORDS = st.sampled_from(
    ["message", "function_call", "function_call_output", "reasoning", "function", "web_search"]
)
_FIELDS = st.dictionaries(
    st.sampled_from(["input", "tools", "tool_choice", "text", "reasoning", "instructions", "user"]),
    st.one_of(_JSON, st.lists(st.dictionaries(st.just("type"), _WORDS), max_size=2)),
    max_size=5,
)


@given(_FIELDS)
def test_no_request_breaks_it(fields: dict[str, Any]) -> None:
    try:
        made = to_chat(read(body(**fields)), ())
    except ClientError:
        return
    assert orjson.loads(made)["model"] == "glm-4.6"
