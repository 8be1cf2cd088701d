from __future__ import annotations

import csv
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.record import Usage
from proxy.core.wire.dialect import (
    COMMENT,
    CONTENT,
    END,
    NOT_JSON,
    OTHER,
    PREFACE,
    REASONING,
    TOOL,
    Answer,
    Kind,
    Meaning,
    newer_usage,
)
from proxy.core.wire.glm import GLM
from proxy.core.wire.sse import Decoder
from proxy.errors import ConnectTimeout

DATA = Path(__file__).parents[1] / "data" / "glm"


def event(delta: object, **choice: object) -> bytes:
    return orjson.dumps({"id": "1", "choices": [{"index": 0, "delta": delta, **choice}]})


CALL = {"index": -1, "id": "call_1", "function": {"name": "f", "arguments": "{}"}}
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


@pytest.mark.parametrize(
    ("data", "meaning"),
    [
        (event({"content": "a"}), CONTENT),
        (event({"role": "assistant", "content": "a"}), CONTENT),
        (event({"content": "\n"}), CONTENT),
        (event({"content": ""}), PREFACE),
        (event({"content": None}), PREFACE),
        (event({"role": "assistant"}), PREFACE),
        (event({}), PREFACE),
        (event({"role": "assistant", "content": "", "refusal": None, "tool_calls": []}), PREFACE),
        (event({"role": "assistant", "reasoning": "a"}), OTHER),
        (event({"role": "assistant", "content": ""}, finish_reason=None), PREFACE),
        (b'{"choices":[{"delta":{"role":"assistant"}},{"delta":{"role":"assistant"}}]}', PREFACE),
        (b'{"choices":[{"delta":{"role":"assistant"}},{}]}', OTHER),
        (b'{"choices":[{"delta":{"content":""}}],"web_search":[{"refer":"1"}]}', OTHER),
        (b'{"choices":[{"delta":{"content":""}}],"content_filter":[{"level":1}]}', OTHER),
        (
            b'{"choices":[{"delta":{"role":"assistant"}}],"usage":{"prompt_tokens":7}}',
            Meaning(Kind.PREFACE, usage=Usage(7)),
        ),
        (event(None), OTHER),
        (event("a"), OTHER),
        (event({"content": 5}), OTHER),
        (event({"reasoning_content": "a"}), REASONING),
        (event({"reasoning_content": "\n", "content": ""}), REASONING),
        (event({"reasoning_content": "a", "content": None}), REASONING),
        (event({"reasoning_content": "a", "content": "b"}), CONTENT),
        (event({"reasoning_content": ""}), PREFACE),
        (event({"reasoning_content": 5}), OTHER),
        (event({"reasoning_content": "a", "content": []}), REASONING),
        (event({"content": [{"type": "text", "text": "a"}]}), CONTENT),
        (event({"content": ["a"]}), CONTENT),
        (event({"content": [{"type": "text", "text": ""}, None]}), OTHER),
        (event({"tool_calls": [CALL]}), TOOL),
        (event({"tool_calls": [CALL], "content": "a"}), TOOL),
        (event({"tool_calls": [], "content": "a"}), CONTENT),
        (event({"tool_calls": "x", "reasoning_content": "a"}), REASONING),
        (event({"audio": {"id": "1", "data": "AAAA"}}), CONTENT),
        (event({"content": "a"}, finish_reason=None), CONTENT),
        (event({"content": ""}, finish_reason="stop"), Meaning(Kind.FINISH, "stop")),
        (event(None, finish_reason="stop"), Meaning(Kind.FINISH, "stop")),
        (event({"content": "a"}, finish_reason="length"), Meaning(Kind.CONTENT, "length")),
        (
            event({"tool_calls": [CALL]}, finish_reason="tool_calls"),
            Meaning(Kind.TOOL, "tool_calls"),
        ),
        (
            event({"reasoning_content": "a"}, finish_reason="abort"),
            Meaning(Kind.REASONING, "abort"),
        ),
        (event({"content": "a"}, finish_reason=3), CONTENT),
        (b'{"choices":[]}', OTHER),
        (b'{"choices":[1]}', OTHER),
        (b'{"choices":"a"}', OTHER),
        (b'{"choices":{"a":1}}', OTHER),
        (b'{"choices":[{"delta":{"content":"a"}},{"delta":{"content":"b"}}]}', CONTENT),
        (
            b'{"choices":[{"delta":{}},{"delta":{"reasoning_content":"b"}, "finish_reason":"x"}]}',
            Meaning(Kind.REASONING, "x"),
        ),
        (b'{"choices":[],"usage":{"prompt_tokens":7}}', Meaning(Kind.OTHER, usage=Usage(7))),
        (b'{"choices":[{"delta":{"content":"a"}}],"usage":null}', CONTENT),
        (b'{"choices":[{"delta":{"content":"a"}}],"usage":[1]}', CONTENT),
        (
            b'{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":7}}',
            Meaning(Kind.CONTENT, usage=Usage(7)),
        ),
        (
            b'{"usage":{"prompt_tokens":true,"completion_tokens":-1,"prompt_tokens_details":5}}',
            Meaning(Kind.OTHER, usage=Usage()),
        ),
        (b'{"error":{"code":"1234","message":"x"}}', Meaning(Kind.ERROR, code="1234")),
        (b'{"error":{"code":1234}}', Meaning(Kind.ERROR, code="1234")),
        (b'{"error":{"message":"x"}}', Meaning(Kind.ERROR)),
        (b'{"error":"x"}', Meaning(Kind.ERROR)),
        (
            b'{"error":{"code":"1"},"choices":[{"delta":{"content":"a"}}]}',
            Meaning(Kind.ERROR, code="1"),
        ),
        (b'{"error":null,"choices":[{"delta":{"content":"a"}}]}', CONTENT),
        (b'{"chunk_type":"content","content":"a"}', OTHER),
        (b"[DONE]", END),
        (b" [DONE] ", END),
        (b"", COMMENT),
        (b"DONE", NOT_JSON),
        (b"{", NOT_JSON),
        (b"[" * 5000, NOT_JSON),
        (b'{"a":"\xff"}', NOT_JSON),
        (b"<html>", NOT_JSON),
        (b"[]", OTHER),
        (b"1", OTHER),
        (b"null", OTHER),
        (b'"x"', OTHER),
    ],
)
def test_an_event_is_read(data: bytes, meaning: Meaning) -> None:
    read = GLM.read(data)
    assert read == meaning
    if meaning[1:] == (None, None, None) and meaning.kind is not Kind.ERROR:
        assert read is meaning


def test_usage_has_its_details() -> None:
    said = {
        **USAGE,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    data = orjson.dumps({"choices": [], "usage": said})
    assert GLM.read(data).usage == Usage(7, 5, 3, 2)


def test_newer_usage_keeps_what_only_the_older_said() -> None:
    assert newer_usage(None, Usage(1)) == Usage(1)
    assert newer_usage(Usage(1, 2, 3), Usage(None, 5, 0, 4)) == Usage(1, 5, 0, 4)


def kinds(name: str) -> str:
    """One letter per event: R C T, F finish, . end, E error, P preface, - other."""
    letters = "-RCTF.EP"
    stream = (DATA / f"{name}.sse").read_bytes()
    return "".join(letters[GLM.read(e.data).kind] for e in Decoder().feed(stream))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("01-plain-text-no-object", "C" * 10 + "F."),
        ("02-plain-text", "C" * 15 + "F."),
        ("03-reasoning-then-content", "R" * 19 + "C" * 9 + "F."),
        ("04-tool-calls-whole", "R" * 6 + "C" * 4 + "TTF."),
        ("05-tool-call-index-minus1", "RRRRCTF."),
        ("06-tool-stream-incremental", "R" * 5 + "T" * 11 + "F."),
        ("07-usage-last-chunk", "RRCCF."),
        ("07c-usage-empty-choices", "CCF-."),
        ("08-sensitive-stop", "CCCF."),
        ("09-network-error-finish", "RRF."),
        ("10-midstream-error-object", "CCE"),
        ("10b-first-frame-error-object", "E."),
        ("12b-length-all-reasoning", "RRRRF."),
        ("14b-utf8-escaped", "CF."),
        ("15-web-search", "-CCCCCF."),
        ("17-eof-without-finish", "CCC"),
        ("17c-finish-without-done", "CF"),
        ("18-heartbeat-comments", "--C-CF."),
        ("19-sse-spelling-variants", "CCCF."),
        ("24-asr-stream", "-----."),
        ("25-lumosai-agent", "------"),
    ],
)
def test_recorded_shapes_are_read(name: str, expected: str) -> None:
    assert kinds(name) == expected


def test_the_finish_event_of_a_recorded_shape_has_reason_and_usage() -> None:
    stream = (DATA / "07-usage-last-chunk.sse").read_bytes()
    finish = GLM.read(Decoder().feed(stream)[-2].data)
    assert finish == Meaning(Kind.FINISH, "stop", Usage(1431, 9, 1408, 3))


# --- bodies


with (DATA / "errors" / "INDEX.tsv").open(encoding="utf-8") as index:
    ERRORS = [(row["file"], row["code"]) for row in csv.DictReader(index, delimiter="\t")]


@pytest.mark.parametrize(("file", "code"), ERRORS)
def test_the_code_of_every_known_error_body_is_read(file: str, code: str) -> None:
    assert GLM.error_code((DATA / "errors" / file).read_bytes()) == code


def test_every_error_body_is_in_the_index_or_below() -> None:
    named = {file for file, _ in ERRORS} | {file for file, _ in OTHER_BODIES}
    assert {path.name for path in (DATA / "errors").iterdir()} - {"INDEX.tsv"} == named


OTHER_BODIES = [
    ("200-envelope-401.json", "401"),
    ("200-envelope-404.json", "500"),
    ("405-waf.html", None),
    ("500-bare.json", "500"),
    ("503-dns.json", None),
    ("anthropic-400-1301-content-safety.json", "1301"),
    ("anthropic-401-1000-auth.json", "1000"),
    ("anthropic-429-1302-rate-limit.json", "1302"),
    ("anthropic-429-1310-weekly-quota.json", "1310"),
]


@pytest.mark.parametrize(("file", "code"), OTHER_BODIES)
def test_the_code_of_other_bodies_is_read(file: str, code: str | None) -> None:
    assert GLM.error_code((DATA / "errors" / file).read_bytes()) == code


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"error":{"code":1302}}', "1302"),
        (b'{"code":1302,"message":"x"}', "1302"),
        (b'{"code":200,"msg":"ok","success":true}', None),
        (b'{"code":"x"}', None),
        (b'{"error":{"code":true,"type":"overloaded_error"}}', "overloaded_error"),
        (b'{"error":{"code":""}}', None),
        (b'{"error":{"code":[1],"type":2}}', None),
        (b'{"error":[]}', None),
        (b"", None),
        (b"[]", None),
        (b"\xff", None),
    ],
)
def test_an_error_code_is_text_or_nothing(body: bytes, code: str | None) -> None:
    assert GLM.error_code(body) == code


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        (
            orjson.dumps(
                {"model": "glm-4.6", "choices": [{"finish_reason": "stop"}], "usage": USAGE}
            ),
            Answer(False, None, "stop", Usage(7, 5)),
        ),
        (b'{"choices":[]}', Answer()),
        (b'{"choices":[],"code":0,"msg":"ok"}', Answer()),
        (b'{"code":500,"msg":"404 NOT_FOUND"}', Answer(True, "500")),
        (b'{"error":{"code":"1305"}}', Answer(True, "1305")),
        (b'{"error":"DNS"}', Answer(True)),
        (b"<html>", Answer()),
        (b"", Answer()),
    ],
)
def test_a_whole_answer_is_read(body: bytes, answer: Answer) -> None:
    assert GLM.read_answer(body) == answer


def test_our_error_is_told_in_this_dialect() -> None:
    error = ConnectTimeout("no answer")
    assert GLM.error_body(error) == error.openai_body()
    assert GLM.error_event(error) == b"data: " + error.openai_body() + b"\n\n"
    assert GLM.read(error.openai_body()) == Meaning(Kind.ERROR, code="upstream_connect_timeout")


@pytest.mark.parametrize(
    ("data", "model"),
    [(b'{"model":"glm-5"}', "glm-5"), (b'{"model":1}', None), (b"x", None)],
)
def test_the_model_of_an_event_is_read(data: bytes, model: str | None) -> None:
    assert GLM.model(data) == model


# --- any input

KEYS = st.sampled_from(
    (
        *("choices", "delta", "content", "reasoning_content", "tool_calls", "finish_reason"),
        *("usage", "error", "code", "msg", "type", "message", "model", "audio", "text"),
        *("prompt_tokens", "prompt_tokens_details"),
    )
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.binary() | JSON.map(orjson.dumps), st.binary(max_size=5))
def test_nothing_raises_on_any_input(data: bytes, name: bytes) -> None:
    assert isinstance(GLM.read(data, name), Meaning)
    assert isinstance(GLM.read_answer(data), Answer)
    GLM.error_code(data)
    GLM.model(data)
    delta = GLM.delta(data)
    if delta is not None:
        GLM.strip_final(delta)


@given(st.dictionaries(KEYS, JSON), st.dictionaries(KEYS, JSON))
def test_nothing_raises_on_an_event_of_nearly_the_right_shape(
    choice: dict[str, object], top: dict[str, object]
) -> None:
    data = orjson.dumps({**top, "choices": [choice]})
    assert isinstance(GLM.read(data), Meaning)
    delta = GLM.delta(data)
    if delta is not None:
        GLM.strip_final(delta)


def test_absurd_token_counts_are_none() -> None:
    """Added up as floats they would swallow every later count."""
    body = b'{"choices":[],"usage":{"prompt_tokens":18446744073709551615,"completion_tokens":7}}'
    usage = GLM.read_answer(body).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (None, 7)
