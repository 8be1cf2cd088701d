"""What is folded is what the SDKs put together, and what GLM would have sent whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from proxy.core.flow.fold import Fold
from proxy.core.flow.pipe import Pipe
from proxy.core.flow.timeline import Timeline
from proxy.core.wire.anthropic import ANTHROPIC
from proxy.core.wire.dialect import Dialect
from proxy.core.wire.glm import GLM
from proxy.core.wire.sse import Decoder, frame
from proxy.errors import UpstreamProtocolError
from proxy.simulator.anthropic import anthropic_answer, anthropic_stream
from proxy.simulator.frames import GlmFrames, Identity, glm_answer, glm_stream
from proxy.simulator.script import Kind, Script, Token, Usage
from proxy.simulator.tools import ToolCall

DATA = Path(__file__).parents[1] / "data" / "glm"
Json = dict[str, Any]

WHOLE = [path for path in sorted(DATA.glob("*.sse")) if path.stem[:2] not in ("10", "23")]
ANTHROPICS = [path for path in WHOLE if "anthropic" in path.stem]
GLMS = [path for path in WHOLE if path.stem < "20"]


@dataclass(frozen=True)
class Settings:
    text_buffer_size: int = 1
    text_buffer_max_delay: float = 0.1
    split_text: int = 0
    max_event: int = 1 << 20


PLAIN = Settings()
ALL_SETTINGS = pytest.mark.parametrize(
    "settings",
    [PLAIN, Settings(text_buffer_size=30), Settings(split_text=1)],
    ids=["as it comes", "merging", "splitting"],
)


def folded(stream: bytes, dialect: Dialect = GLM, settings: Settings = PLAIN) -> Json:
    pipe = Pipe(dialect, settings, Timeline(0.0))
    fold = Fold(dialect.name)
    fold.take(pipe.feed(stream, 1.0))
    fold.take(pipe.finish())
    answer: Json = orjson.loads(fold.answer())
    return answer


def values(stream: bytes) -> Iterator[Json]:
    for event in Decoder().feed(stream):
        if event.data and event.data != b"[DONE]":
            yield orjson.loads(event.data)


# --- as the SDKs put it together


def of_openai(stream: bytes) -> Json:
    state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
    for value in values(stream):
        state.handle_chunk(ChatCompletionChunk.construct(None, **value))
    return comparable(state.current_completion_snapshot.to_dict())


def comparable(answer: Json) -> Json:
    """Without what the SDK makes of a field that GLM repeats in each piece, or counts as -1."""
    answer = json.loads(json.dumps(ChatCompletion.construct(None, **answer).to_dict()))
    answer.pop("request_id", None)
    answer["object"] = "chat.completion"
    for key in [key for key, value in answer.items() if value is None]:
        del answer[key]
    for choice in answer["choices"]:
        choice.setdefault("finish_reason", None)
        message = choice["message"]
        message["role"] = "assistant"
        message["content"] = message.get("content") or ""
        for key in [key for key, value in message.items() if value is None]:
            del message[key]
        for place, call in enumerate(message.get("tool_calls") or ()):
            call["index"] = place
            call["function"].pop("parsed_arguments", None)
    return answer


def of_anthropic(stream: bytes) -> Json:
    message: Any = None
    json_bufs: dict[int, bytes] = {}
    for value in values(stream):
        if value["type"] not in ("ping", "content_block_stop", "message_stop"):
            event: Any = value
            message = accumulate_event(event=event, current_snapshot=message, json_bufs=json_bufs)
    return as_message(message.to_dict())


def as_message(answer: Json) -> Json:
    """Without the one count that the SDK takes from `message_start` only."""
    message = Message.construct(None, **answer).model_dump()
    message["usage"].pop("service_tier")
    return message


@pytest.mark.parametrize("path", GLMS, ids=lambda path: path.stem)
@ALL_SETTINGS
def test_a_recorded_stream_is_what_the_openai_sdk_makes_of_it(
    path: Path, settings: Settings
) -> None:
    stream = path.read_bytes()
    ours, theirs = folded(stream, settings=settings), of_openai(stream)
    # The SDK keeps these from the first and the last chunk only.
    theirs.update({key: ours[key] for key in ("web_search", "content_filter") if key in ours})
    assert comparable(ours) == theirs


@pytest.mark.parametrize("path", ANTHROPICS, ids=lambda path: path.stem)
@ALL_SETTINGS
def test_a_recorded_stream_is_what_the_anthropic_sdk_makes_of_it(
    path: Path, settings: Settings
) -> None:
    stream = path.read_bytes()
    assert as_message(folded(stream, ANTHROPIC, settings)) == of_anthropic(stream)


# --- as GLM sends it whole

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=4)
IDENTITY = Identity("20260920160001aa11bb22cc33dd44", 1789891201)


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    thought = draw(st.booleans())
    said = [(Kind.REASONING, text, 0) for text in draw(st.lists(TEXT, max_size=4))] * thought
    calls = []
    for index in range(draw(st.integers(0, 3))):
        arguments = json.dumps(draw(st.dictionaries(TEXT, TEXT, max_size=2)))
        calls.append(ToolCall(f"call_{index}", draw(TEXT), arguments))
        cut = draw(st.integers(1, len(arguments) - 1))
        pieces = ("", arguments[:cut], arguments[cut:])
        said += [(Kind.TOOL, piece, index) for piece in pieces]
    if not calls:
        said += [(Kind.CONTENT, text, 0) for text in draw(st.lists(TEXT, min_size=1, max_size=5))]
    return Script(
        head_at=0.0,
        tokens=tuple(Token(0.0, *token) for token in said),
        ended_at=0.0,
        calls=tuple(calls),
        finish_reason="tool_calls" if calls else draw(st.sampled_from(("stop", "length"))),
        usage=Usage(draw(st.integers(1, 99)), len(said), 3, 0),
        thought=any(kind is Kind.REASONING for kind, _, _ in said),
    )


@given(scripts(), st.booleans(), st.booleans())
def test_an_answer_of_glm_is_the_same_streamed_and_whole(
    script: Script, tool_stream: bool, with_object: bool
) -> None:
    frames = GlmFrames(IDENTITY, "glm-4.6", with_object=with_object)
    stream = b"".join(step.data for step in glm_stream(frames, script, tool_stream=tool_stream))
    answer = folded(stream)
    assert answer == orjson.loads(glm_answer(IDENTITY, "glm-4.6", script))
    assert comparable(answer) == of_openai(stream)


@given(scripts())
def test_a_message_is_the_same_streamed_and_whole(script: Script) -> None:
    stream = b"".join(step.data for step in anthropic_stream(IDENTITY, "glm-4.7", script))
    answer = folded(stream, ANTHROPIC)
    assert answer == orjson.loads(anthropic_answer(IDENTITY, "glm-4.7", script))
    assert as_message(answer) == of_anthropic(stream)


def test_the_fields_stand_as_glm_orders_them() -> None:
    answer = folded((DATA / "02-plain-text.sse").read_bytes())
    assert list(answer)[:6] == ["choices", "id", "created", "model", "object", "request_id"]
    assert answer["request_id"] == answer["id"] == "2026092017420588d1f06a3b5c4e21"


# --- GLM's oddities and those of gateways


def chunk(**delta: object) -> Json:
    return {"id": "1", "choices": [{"index": 0, "delta": delta}]}


def call(index: int | None, name: str | None, arguments: str, **fields: object) -> Json:
    function = {"arguments": arguments} | ({} if name is None else {"name": name})
    counted = {} if index is None else {"index": index}
    return chunk(tool_calls=[{**counted, "function": function, **fields}])


def fold_of(*chunks: Json, dialect: str = "openai") -> Json:
    fold = Fold(dialect)
    fold.take(frame(orjson.dumps(value)) for value in chunks)
    answer: Json = orjson.loads(fold.answer())
    return answer


def message_of(*chunks: Json) -> Json:
    (choice,) = fold_of(*chunks)["choices"]
    message: Json = choice["message"]
    return message


def calls_of(*chunks: Json) -> list[tuple[object, ...]]:
    calls = message_of(*chunks)["tool_calls"]
    assert [each["index"] for each in calls] == list(range(len(calls)))
    assert {each["type"] for each in calls} == {"function"}
    return [
        (each.get("id"), each["function"]["name"], each["function"]["arguments"]) for each in calls
    ]


@pytest.mark.parametrize("index", [0, -1, None])
def test_whole_calls_that_are_not_counted_are_known_by_their_ids(index: int | None) -> None:
    told = calls_of(call(index, "f", "{}", id="a"), call(index, "g", "[]", id="b"))
    assert told == [("a", "f", "{}"), ("b", "g", "[]")]


@pytest.mark.parametrize("index", [0, -1, None])
@pytest.mark.parametrize(
    "later",
    [{}, {"id": "a"}, {"id": ""}, {"id": None}, {"id": "made-up"}, {"id": "a", "type": "function"}],
)
def test_pieces_of_one_call_are_put_together(index: int | None, later: Json) -> None:
    told = calls_of(
        call(index, "f", "", id="a", type="function"),
        call(index, None, '{"x"', **later),
        call(None, None, ":1}", **later),
    )
    assert told == [("a", "f", '{"x":1}')]


def test_a_name_that_each_piece_repeats_is_said_once() -> None:
    assert calls_of(*(call(0, "f", "1", id="a") for _ in range(3))) == [("a", "f", "111")]


def test_calls_stand_in_the_order_they_are_counted_in() -> None:
    told = calls_of(
        call(1, "g", "2", id="b"), call(0, "f", "1", id="a"), call(1, None, "3"), call(0, None, "4")
    )
    assert told == [("a", "f", "14"), ("b", "g", "23")]


def test_two_calls_in_one_event_are_two() -> None:
    pieces = [
        {"index": n, "id": str(n), "function": {"name": "f", "arguments": "{}"}} for n in (0, 1)
    ]
    assert calls_of(chunk(tool_calls=pieces)) == [("0", "f", "{}"), ("1", "f", "{}")]


def test_several_answers_are_kept_apart() -> None:
    def said(index: int, text: str, **more: object) -> Json:
        return {"choices": [{"index": index, "delta": {"content": text}, **more}]}

    answer = fold_of(said(1, "b"), said(0, "a"), said(1, "d", finish_reason="length"), said(0, "c"))
    assert [(c["index"], c["message"]["content"]) for c in answer["choices"]] == [
        (0, "ac"),
        (1, "bd"),
    ]
    assert [c["finish_reason"] for c in answer["choices"]] == [None, "length"]


def test_content_in_parts_is_one_text() -> None:
    parts = [{"type": "text", "text": "a"}, "b", {"type": "image"}, None]
    assert message_of(chunk(content=parts), chunk(content="c"))["content"] == "abc"


def test_an_answer_without_content_has_an_empty_one() -> None:
    assert message_of(chunk(role="assistant", content=None))["content"] == ""
    assert message_of(chunk(reasoning_content="a"), chunk(reasoning_content="b")) == {
        "role": "assistant",
        "content": "",
        "reasoning_content": "ab",
    }


def test_what_is_not_known_here_is_kept() -> None:
    first = chunk(audio={"id": "1", "data": "AA"}, reasoning="x", notes=[1], odd={"a": None})
    second = chunk(audio={"id": "1", "data": "BB", "expires_at": 5}, reasoning="y", notes=[2])
    first |= {"system_fingerprint": "fp", "tier": "a"}
    second |= {"system_fingerprint": "fp", "tier": "b", "model": "m", "moderation": None}
    first["choices"][0] |= {"logprobs": {"content": [{"token": "x"}]}, "stop_reason": None}
    second["choices"][0] |= {"logprobs": {"content": [{"token": "y"}]}, "stop_reason": 7}
    assert fold_of(first, second) == {
        "choices": [
            {
                "finish_reason": None,
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "",
                    "audio": {"id": "1", "data": "AABB", "expires_at": 5},
                    "reasoning": "xy",
                    "notes": [1, 2],
                    "odd": {"a": None},
                },
                "logprobs": {"content": [{"token": "x"}, {"token": "y"}]},
                "stop_reason": 7,
            }
        ],
        "id": "1",
        "model": "m",
        "object": "chat.completion",
        "request_id": "1",
        "system_fingerprint": "fp",
        "tier": "b",
    }


def test_search_results_and_usage_are_kept_as_said_last() -> None:
    found = [{"refer": "ref_1"}]
    answer = fold_of(
        {"web_search": found, "usage": {"total_tokens": 1}},
        {"web_search": [*found, {"refer": "ref_2"}], "usage": {"total_tokens": 2}},
        {"usage": None},
    )
    assert answer["web_search"] == [*found, {"refer": "ref_2"}]
    assert answer["usage"] == {"total_tokens": 2}


# --- Anthropic's


def block(index: int, **fields: object) -> Json:
    return {"type": "content_block_start", "index": index, "content_block": fields}


def delta(index: int, kind: str, **fields: object) -> Json:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def content_of(*events: Json) -> list[Json]:
    content: list[Json] = fold_of(*events, dialect="anthropic")["content"]
    return content


def test_a_tool_that_is_called_with_nothing_keeps_its_empty_input() -> None:
    start = block(0, type="tool_use", id="1", name="f", input={})
    assert content_of(start, delta(0, "input_json_delta", partial_json="")) == [
        {"type": "tool_use", "id": "1", "name": "f", "input": {}}
    ]


def test_arguments_that_were_cut_off_are_told_as_such() -> None:
    start = block(0, type="tool_use", id="1", name="f", input={})
    (told,) = content_of(start, delta(0, "input_json_delta", partial_json='{"a": '))
    assert told["input"] == {"INVALID_JSON": '{"a": '}


def test_signature_and_citations_are_kept() -> None:
    content = content_of(
        block(1, type="text", text="a", citations=None),
        block(0, type="thinking", thinking="", signature=""),
        delta(0, "thinking_delta", thinking="hm"),
        delta(0, "signature_delta", signature="s1"),
        delta(1, "citations_delta", citation={"n": 1}),
        delta(1, "citations_delta", citation={"n": 2}),
        delta(1, "text_delta", text="b"),
        block(2, type="redacted_thinking", data="x"),
    )
    assert content == [
        {"type": "thinking", "thinking": "hm", "signature": "s1"},
        {"type": "text", "text": "ab", "citations": [{"n": 1}, {"n": 2}]},
        {"type": "redacted_thinking", "data": "x"},
    ]


def test_a_block_that_no_event_opened_is_known_by_its_deltas() -> None:
    assert content_of(delta(0, "text_delta", text="a")) == [{"type": "text", "text": "a"}]


def test_usage_and_the_rest_of_a_message_are_put_together() -> None:
    answer = fold_of(
        {"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 4, "x": 1}}},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "stop_sequence", "stop_sequence": "!", "container": None},
            "usage": {"input_tokens": None, "output_tokens": 9},
            "context_management": {"a": 1},
        },
        dialect="anthropic",
    )
    assert answer == {
        "type": "message",
        "role": "assistant",
        "content": [],
        "id": "m",
        "usage": {"input_tokens": 4, "x": 1, "output_tokens": 9},
        "stop_reason": "stop_sequence",
        "stop_sequence": "!",
        "container": None,
        "context_management": {"a": 1},
    }


# --- what cannot be folded


@pytest.mark.parametrize("name", ["10-midstream-error-object", "23-anthropic-midstream-error"])
def test_an_error_in_the_stream_is_kept_as_it_was_said(name: str) -> None:
    dialect = ANTHROPIC if "anthropic" in name else GLM
    fold = Fold(dialect.name)
    stream = (DATA / f"{name}.sse").read_bytes()
    fold.take([stream])
    assert fold.error is not None
    assert stream.endswith(fold.error + b"\n\n")
    assert dialect.read_answer(fold.error).failed
    assert fold.size == len(stream)


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("odd", [b'{"choices":[{"delta":{"content":"say "hi""}}]}', b'"\\ud83d"'])
def test_an_event_that_is_not_json_is_no_answer(dialect: str, odd: bytes) -> None:
    fold = Fold(dialect)
    fold.take([frame(odd), b"data: [DONE]\n\n"])
    with pytest.raises(UpstreamProtocolError):
        fold.answer()


def test_comments_and_the_end_mark_say_nothing() -> None:
    fold = Fold("openai")
    fold.take([b": hold\n\n", frame(orjson.dumps(chunk(content="a"))), b"data: [DONE]\n\n"])
    assert orjson.loads(fold.answer())["choices"][0]["message"]["content"] == "a"


def test_what_is_nested_too_deep_to_be_written_is_an_error() -> None:
    fold = Fold("openai")
    fold.take([b'data: {"odd":' + b"[" * 600 + b"]" * 600 + b"}\n\n"])
    with pytest.raises(UpstreamProtocolError):
        fold.answer()


KEYS = st.sampled_from(
    (
        *("choices", "delta", "content", "tool_calls", "function", "arguments", "index", "id"),
        *("name", "finish_reason", "usage", "logprobs", "type", "message", "content_block"),
        *("text", "partial_json", "citation", "citations", "stop_reason", "web_search"),
    )
)
TYPES = st.sampled_from(
    ("message_start", "content_block_start", "content_block_delta", "message_delta", "text_delta")
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 3) | st.text(max_size=3) | TYPES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=15,
)


@given(st.lists(JSON, max_size=5), st.sampled_from(["openai", "anthropic"]))
def test_any_json_folds_to_json(events: list[object], dialect: str) -> None:
    fold = Fold(dialect)
    fold.take(frame(orjson.dumps(event)) for event in events)
    assert isinstance(orjson.loads(fold.answer()), dict)


@given(st.lists(st.dictionaries(KEYS, JSON), max_size=3), st.dictionaries(KEYS, JSON), TYPES)
def test_events_of_nearly_the_right_shape_fold_too(
    choices: list[Json], top: Json, kind: str
) -> None:
    pieces = [{**choice, "delta": {**top, "tool_calls": choices}} for choice in choices]
    glm, anthropic = Fold("openai"), Fold("anthropic")
    glm.take([frame(orjson.dumps({**top, "choices": pieces}))])
    anthropic.take(
        frame(orjson.dumps({**top, **choice, "type": kind, "delta": choice})) for choice in choices
    )
    assert isinstance(orjson.loads(glm.answer())["choices"], list)
    assert isinstance(orjson.loads(anthropic.answer())["content"], list)
