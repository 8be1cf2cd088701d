from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.record import Usage
from proxy.core.wire.anthropic import ANTHROPIC
from proxy.core.wire.dialect import (
    COMMENT,
    CONTENT,
    END,
    NOT_JSON,
    OTHER,
    PING,
    PREFACE,
    REASONING,
    TOOL,
    Answer,
    Kind,
    Meaning,
)
from proxy.core.wire.sse import Decoder
from proxy.errors import ConnectTimeout, Draining

DATA = Path(__file__).parents[1] / "data" / "glm"


def delta(**fields: object) -> bytes:
    return orjson.dumps({"type": "content_block_delta", "index": 0, "delta": fields})


def start(**block: object) -> bytes:
    return orjson.dumps({"type": "content_block_start", "index": 0, "content_block": block})


@pytest.mark.parametrize(
    ("data", "meaning"),
    [
        (delta(type="text_delta", text="a"), CONTENT),
        (b'{"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}}', CONTENT),
        (delta(type="text_delta", text="\n"), CONTENT),
        (delta(type="text_delta", text=""), OTHER),
        (delta(type="text_delta", text=None), OTHER),
        (delta(type="text_delta", text=5), OTHER),
        (delta(type="text_delta"), OTHER),
        (delta(type="thinking_delta", thinking="a"), REASONING),
        (delta(type="thinking_delta", thinking=""), OTHER),
        (delta(type="input_json_delta", partial_json="{"), TOOL),
        (delta(type="input_json_delta", partial_json=""), OTHER),
        (delta(type="signature_delta", signature="x"), OTHER),
        (delta(type=["text_delta"], text="a"), OTHER),
        (b'{"type":"content_block_delta","delta":"x"}', OTHER),
        (b'{"type":"content_block_delta"}', OTHER),
        (start(type="text", text=""), PREFACE),
        (start(type="text", text="a"), CONTENT),
        (start(type="thinking", thinking="", signature="9b"), PREFACE),
        (start(type="thinking", thinking="a"), REASONING),
        (start(type="tool_use", id="1", name="f", input={}), TOOL),
        (start(type="server_tool_use", id="1", name="f"), TOOL),
        (start(type="redacted_thinking", data="x"), OTHER),
        (b'{"type":"content_block_start"}', OTHER),
        (b'{"type":"content_block_start","content_block":{"type":[1]}}', OTHER),
        (b'{"type":"content_block_stop","index":0}', OTHER),
        (b'{"type":"ping"}', PING),
        (b'{"type":"message_stop"}', END),
        (b'{"type":"message_start","message":{"usage":{"input_tokens":0}}}', PREFACE),
        (
            b'{"type":"message_start","message":{"usage":{"input_tokens":4,"output_tokens":1}}}',
            Meaning(Kind.PREFACE, usage=Usage(4, 1)),
        ),
        (b'{"type":"message_start","message":{}}', PREFACE),
        (b'{"type":"message_start"}', PREFACE),
        (
            b'{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":9}}',
            Meaning(Kind.FINISH, "end_turn", Usage(None, 9)),
        ),
        (
            b'{"type":"message_delta","delta":{"stop_reason":"end_turn"}}',
            Meaning(Kind.FINISH, "end_turn"),
        ),
        (
            b'{"type":"message_delta","usage":{"output_tokens":9}}',
            Meaning(Kind.OTHER, usage=Usage(None, 9)),
        ),
        (
            b'{"type":"error","error":{"type":"overloaded_error","message":"x"}}',
            Meaning(Kind.ERROR, code="overloaded_error"),
        ),
        (
            b'{"type":"error","error":{"type":"rate_limit_error","code":"1308"}}',
            Meaning(Kind.ERROR, code="1308"),
        ),
        (b'{"type":"error"}', Meaning(Kind.ERROR)),
        (b'{"error":{"code":"1305"}}', Meaning(Kind.ERROR, code="1305")),
        (b'{"type":"new_kind"}', OTHER),
        (b'{"type":{"a":1}}', OTHER),
        (b'{"type":["ping"]}', OTHER),
        (b"[DONE]", NOT_JSON),
        (b"", COMMENT),
        (b"{", NOT_JSON),
        (b'"x"', OTHER),
        (b"[]", OTHER),
        (b"null", OTHER),
    ],
)
def test_an_event_is_read(data: bytes, meaning: Meaning) -> None:
    read = ANTHROPIC.read(data)
    assert read == meaning
    if meaning in (OTHER, PREFACE, CONTENT, REASONING, TOOL, END):
        assert read is meaning


@pytest.mark.parametrize("data", [b"overloaded", b"{}", b'{"type":"error"}', b"[]"])
def test_an_event_named_error_is_an_error_whatever_its_data(data: bytes) -> None:
    assert ANTHROPIC.read(data, b"error") == Meaning(Kind.ERROR)


def test_a_block_named_error_without_data_is_no_event() -> None:
    assert ANTHROPIC.read(b"", b"error") is COMMENT


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("20-anthropic-text", "P-PCCCCC-F."),
        ("21-anthropic-thinking-tool", "P-PRRRR-PC-TTT-F."),
        ("23-anthropic-midstream-error", "P-PCE"),
        ("02-plain-text", "-" * 17),
    ],
)
def test_recorded_shapes_are_read(name: str, expected: str) -> None:
    stream = (DATA / f"{name}.sse").read_bytes()
    read = [ANTHROPIC.read(event.data, event.name) for event in Decoder().feed(stream)]
    assert "".join("-RCTF.EP"[meaning.kind] for meaning in read) == expected


def test_arguments_of_a_tool_are_no_text() -> None:
    assert ANTHROPIC.delta(delta(type="input_json_delta", partial_json="{")) is None


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (
            b'{"type":"message","model":"glm-4.7","content":[],"stop_reason":"end_turn",'
            b'"usage":{"input_tokens":3,"output_tokens":4,"cache_read_input_tokens":2}}',
            Answer(False, None, "end_turn", Usage(3, 4, 2)),
        ),
        (b'{"content":[],"code":0,"msg":"ok"}', Answer()),
        (b'{"type":"error","error":{"type":"api_error"}}', Answer(True, "api_error")),
        (b'{"type":"error"}', Answer(True)),
        (b'{"code":401,"msg":"x","success":false}', Answer(True, "401")),
        (b"<html>", Answer()),
    ],
)
def test_a_whole_answer_is_read(body: bytes, answer: Answer) -> None:
    assert ANTHROPIC.read_answer(body) == answer


def test_our_error_is_told_in_this_dialect() -> None:
    error = Draining("stopping")
    assert ANTHROPIC.error_body(error) == error.anthropic_body()
    event = ANTHROPIC.error_event(error)
    assert event == b"event: error\ndata: " + error.anthropic_body() + b"\n\n"
    [read] = Decoder().feed(b"data: x\n\n" + event)[1:]
    assert ANTHROPIC.read(read.data, read.name) == Meaning(Kind.ERROR, code="proxy_draining")


def test_the_type_of_our_error_is_one_clients_know() -> None:
    body = orjson.loads(ANTHROPIC.error_body(ConnectTimeout("late")))
    assert body["error"]["type"] == "timeout_error"


@pytest.mark.parametrize(
    ("data", "model"),
    [
        (b'{"type":"message_start","message":{"model":"glm-5"}}', "glm-5"),
        (b'{"type":"message_start","message":[]}', None),
        (b'{"type":"ping"}', None),
    ],
)
def test_the_model_of_an_event_is_read(data: bytes, model: str | None) -> None:
    assert ANTHROPIC.model(data) == model


KEYS = st.sampled_from(
    (
        *("delta", "content_block", "message", "usage", "stop_reason", "error", "code"),
        *("text", "thinking", "index", "name", "model"),
    )
)
TYPES = st.sampled_from(
    (
        *("content_block_delta", "content_block_start", "message_start", "message_delta"),
        *("text_delta", "thinking_delta", "input_json_delta", "tool_use", "error", "ping"),
    )
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.builds(
            lambda fields, kind: {**fields, "type": kind},
            st.dictionaries(KEYS, inner, max_size=3),
            TYPES | inner,
        )
    ),
    max_leaves=12,
)


@given(st.binary() | JSON.map(orjson.dumps), st.sampled_from([b"", b"error", b"\xff"]))
def test_nothing_raises_on_any_input(data: bytes, name: bytes) -> None:
    assert isinstance(ANTHROPIC.read(data, name), Meaning)
    assert isinstance(ANTHROPIC.read_answer(data), Answer)
    ANTHROPIC.error_code(data)
    ANTHROPIC.model(data)
    ANTHROPIC.delta(data)
