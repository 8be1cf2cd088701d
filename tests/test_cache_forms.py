"""A kept answer is the same answer, told as a stream or as a whole, whichever way it came."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import StreamSettings
from proxy.core.flow.fold import Fold
from proxy.core.flow.kept import KeptAnswer, Read
from proxy.core.flow.pipe import Pipe
from proxy.core.flow.timeline import Timeline
from proxy.core.flow.unfold import unfold
from proxy.core.wire.anthropic import ANTHROPIC
from proxy.core.wire.dialect import Dialect
from proxy.core.wire.glm import GLM

DATA = Path(__file__).parent / "data" / "glm"
FIXTURES = sorted(DATA.glob("*.sse"))


def piped(dialect: Dialect, events: list[bytes]) -> tuple[Pipe, list[bytes]]:
    """What the proxy makes of a stream."""
    pipe = Pipe(dialect, StreamSettings(), Timeline(0.0))
    return pipe, [out for event in events for out in pipe.feed(event, 1.0)]


def folded(dialect: str, events: list[bytes]) -> Any:
    fold = Fold(dialect)
    fold.take(events)
    return orjson.loads(fold.answer())


def completed() -> list[Path]:
    """The recorded streams that came to their end."""
    found = []
    for path in FIXTURES:
        dialect = ANTHROPIC if b"event: message_start" in path.read_bytes() else GLM
        pipe, _ = piped(dialect, [path.read_bytes()])
        if (
            pipe.ended
            and not pipe.failed
            and pipe.finish_reason in ("stop", "tool_calls", "tool_use", "end_turn")
        ):
            found.append(path)
    return found


@pytest.mark.parametrize("path", completed(), ids=lambda path: path.stem)
def test_a_recorded_stream_told_as_a_whole_and_again_as_a_stream_says_the_same(path: Path) -> None:
    dialect = ANTHROPIC if b"event: message_start" in path.read_bytes() else GLM
    pipe, events = piped(dialect, [path.read_bytes()])
    whole = folded(dialect.name, events)
    again, told = piped(dialect, unfold(dialect.name, orjson.dumps(whole)))
    assert folded(dialect.name, told) == whole
    assert again.ended
    assert again.finish_reason == pipe.finish_reason
    assert again.usage == pipe.usage


TEXT = st.text(max_size=20)
CALL = st.fixed_dictionaries(
    {
        "id": st.text("abc", min_size=1, max_size=5),
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {"name": st.text("fg", min_size=1, max_size=5), "arguments": TEXT}
        ),
    }
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": TEXT},
    optional={
        "reasoning_content": TEXT.filter(bool),
        "tool_calls": st.lists(CALL, min_size=1, max_size=3),
    },
)
USAGE = st.fixed_dictionaries(
    {"prompt_tokens": st.integers(0, 9), "total_tokens": st.integers(0, 9)}
)


@given(message=MESSAGE, usage=USAGE, search=st.booleans())
def test_any_whole_answer_told_as_a_stream_folds_to_itself(
    message: dict[str, Any], usage: dict[str, int], search: bool
) -> None:
    for index, call in enumerate(message.get("tool_calls", ())):
        call["index"] = index
    answer = {
        "id": "1",
        "request_id": "1",
        "created": 7,
        "model": "glm-4.6",
        "object": "chat.completion",
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": usage,
    } | ({"web_search": [{"title": "t"}]} if search else {})
    pipe, events = piped(GLM, unfold("openai", orjson.dumps(answer)))
    assert folded("openai", events) == answer
    assert pipe.ended
    assert pipe.finish_reason == "stop"


BLOCK = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}),
    st.fixed_dictionaries(
        {"type": st.just("text"), "text": TEXT},
        optional={
            "citations": st.lists(
                st.dictionaries(st.text("ab", min_size=1), TEXT), min_size=1, max_size=2
            )
        },
    ),
    st.fixed_dictionaries({"type": st.just("thinking"), "thinking": TEXT, "signature": TEXT}),
    st.fixed_dictionaries({"type": st.just("redacted_thinking"), "data": TEXT}),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["tool_use", "server_tool_use"]),
            "id": TEXT,
            "name": TEXT,
            "input": st.dictionaries(TEXT, st.integers() | TEXT, max_size=3).filter(
                lambda value: all(not isinstance(v, int) or abs(v) < 2**53 for v in value.values())
            ),
        }
    ),
)


@given(
    content=st.lists(BLOCK, max_size=4),
    stop=st.sampled_from([("end_turn", None), ("stop_sequence", "x")]),
)
def test_any_whole_message_told_as_a_stream_folds_to_itself(
    content: list[dict[str, Any]], stop: tuple[str, str | None]
) -> None:
    answer = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "glm-4.6",
        "content": content,
        "stop_reason": stop[0],
        "stop_sequence": stop[1],
        "usage": {"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": 0},
    }
    pipe, events = piped(ANTHROPIC, unfold("anthropic", orjson.dumps(answer)))
    assert folded("anthropic", events) == answer
    assert pipe.ended
    assert pipe.finish_reason == stop[0]


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"choices":[]}', b'{"content":"x"}', b"no"])
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_what_is_no_answer_is_not_told_as_one(dialect: str, body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unfold(dialect, body)


EVENTS = [b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n', b"data: b\n\n", b"data: [DONE]\n\n"]


def stream(events: list[bytes] = EVENTS) -> KeptAnswer:
    reads = [Read(1, 0.0), Read(len(events) - 1, 1.5)]
    return KeptAnswer(5.0, "openai", "m", "stop", events, reads)


def test_what_is_kept_is_read_again_as_it_was() -> None:
    both = stream()
    both.body = b'{"choices":[{}]}'
    for answer in (
        stream(),
        both,
        KeptAnswer(5.0, "openai", "m", "stop", [], [], b'{"choices":[]}'),
    ):
        assert KeptAnswer.unpacked(answer.packed()) == answer


def test_what_is_of_another_form_is_none() -> None:
    both = stream()
    both.body = b"{}"
    packed = both.packed()
    for cut in range(len(packed)):
        found = KeptAnswer.unpacked(packed[:cut])
        assert found is None, cut
    assert KeptAnswer.unpacked(b"x" + packed) is None
    assert KeptAnswer.unpacked(packed.replace(b"answer 1", b"answer 2")) is None
    assert KeptAnswer.unpacked(packed.replace(b'"sizes"', b'"sixes"')) is None
    assert KeptAnswer.unpacked(b"") is None


def test_usage_without_a_choice_is_for_those_who_asked_for_it() -> None:
    alone = b'data: {"choices": [], "usage": {"total_tokens": 3}}\n\n'
    answer = stream([EVENTS[0], alone, EVENTS[2]])
    assert answer.stream(usage_alone=True) == (answer.events, answer.reads)
    told, reads = answer.stream(usage_alone=False)
    assert told == [EVENTS[0], EVENTS[2]]
    assert sum(read.events for read in reads) == 2
    text = (
        b'data: {"choices":[{"delta":{"content":"\\"usage\\" \\"choices\\":[]"}}],"usage":{}}\n\n'
    )
    assert stream([EVENTS[0], text, EVENTS[2]]).stream(usage_alone=False)[0][1] == text
