from __future__ import annotations

from dataclasses import dataclass

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.flow.chunking import Chunking
from proxy.core.wire.anthropic import ANTHROPIC
from proxy.core.wire.dialect import Dialect
from proxy.core.wire.glm import GLM
from proxy.core.wire.sse import Decoder, Event, frame


def glm(
    delta: object, *, index: int = 0, top: dict[str, object] | None = None, **choice: object
) -> bytes:
    head = {"id": "1", "created": 2, "model": "m"}
    choices = [{"index": index, **choice, "delta": delta}]
    return frame(orjson.dumps({**head, "choices": choices, **(top or {})}))


def content(text: str, **rest: object) -> bytes:
    return glm({"role": "assistant", "content": text}, **rest)  # type: ignore[arg-type]


def reasoning(text: str) -> bytes:
    return glm({"role": "assistant", "reasoning_content": text})


def block_delta(text: str, *, index: int = 0, kind: str = "text") -> bytes:
    delta = {"type": f"{kind}_delta", kind: text}
    data = {"type": "content_block_delta", "index": index, "delta": delta}
    return frame(orjson.dumps(data), b"content_block_delta")


FINISH = glm({"content": ""}, finish_reason="stop", top={"usage": {"prompt_tokens": 1}})
DONE = b"data: [DONE]\n\n"
TOOL = glm({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]})


@dataclass
class Stream:
    """Events put through a `Chunking`, a second apart unless told."""

    size: int = 1
    split: int = 0
    delay: float = 1000.0
    dialect: Dialect = GLM

    def __post_init__(self) -> None:
        self.chunking = Chunking(self.dialect, self.size, self.delay, self.split)

    def take(self, raw: bytes, now: float = 0.0) -> list[bytes]:
        [event] = events(raw)
        return self.chunking.take(event, self.dialect.read(event.data, event.name), now)

    def run(self, *raws: bytes) -> list[bytes]:
        leaving = [out for now, raw in enumerate(raws) for out in self.take(raw, float(now))]
        return leaving + self.chunking.flush()


def events(raw: bytes) -> list[Event]:
    return Decoder().feed(raw)


# --- merging


def test_deltas_are_merged_until_enough_characters_wait() -> None:
    stream = Stream(size=5)
    assert stream.take(content("ab")) == []
    assert stream.take(content("cd")) == []
    assert stream.take(content("efg")) == [content("abcdefg")]
    assert stream.chunking.next_flush is None


def test_the_unit_is_the_character_and_not_the_byte() -> None:
    assert Stream(size=3).take(content("你好")) == []
    assert Stream(size=2).take(content("你好")) == [content("你好")]


def test_text_that_was_not_merged_leaves_as_it_came() -> None:
    odd = content("ab").replace(b":", b" : ")[8:]
    odd = b"id: 7\ndata:" + odd
    assert Stream(size=5).run(odd) == [odd]
    assert Stream(size=2).run(odd) == [odd]


@pytest.mark.parametrize(
    "other",
    [
        FINISH,
        content("x", finish_reason="stop"),
        TOOL,
        glm({"role": "assistant"}),
        glm({"content": [{"type": "text", "text": "x"}]}),
        glm({"content": "a", "reasoning_content": "b"}),
        glm({"content": "a", "tool_calls": [{}]}),
        glm({"content": "a", "audio": {"data": "x"}}),
        frame(b'{"error":{"code":"1305"}}'),
        DONE,
        b": hold\n\n",
        b"data: not json\n\n",
        b'data: {"choices":[]}\n\n',
    ],
)
def test_any_other_event_lets_waiting_text_leave_first(other: bytes) -> None:
    out = Stream(size=100).run(content("a"), content("b"), other, content("c"))
    assert out == [content("ab"), other, content("c")]


@pytest.mark.parametrize(
    "other",
    [
        reasoning("x"),
        content("x", index=1),
        content("x", top={"id": "2"}),
        glm({"content": "x"}),
        content("x", top={"web_search": [{"title": "t"}]}),
        frame(events(content("x"))[0].data, b"named"),
    ],
)
def test_text_that_differs_in_anything_else_is_not_merged(other: bytes) -> None:
    out = Stream(size=100).run(content("a"), content("b"), other, other)
    assert out[0] == content("ab")
    assert len(out) == 2
    assert out[1] == other.replace(b'"x"', b'"xx"')


def test_blocks_and_kinds_of_anthropic_are_not_merged() -> None:
    stream = Stream(size=100, dialect=ANTHROPIC)
    stop = frame(b'{"type":"content_block_stop","index":0}', b"content_block_stop")
    delta = b'"delta":{"type":"input_json_delta","partial_json":"{"}'
    tool = frame(b'{"type":"content_block_delta","index":2,' + delta + b"}", b"content_block_delta")
    out = stream.run(
        *(block_delta("a", kind="thinking"), block_delta("b", kind="thinking")),
        *(block_delta("c"), block_delta("d"), block_delta("e", index=1), stop, tool, tool),
    )
    assert out == [
        block_delta("ab", kind="thinking"),
        *(block_delta("cd"), block_delta("e", index=1), stop, tool, tool),
    ]


def test_a_block_that_starts_with_text_leaves_as_it_came() -> None:
    data = b'{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"long"}}'
    start = frame(data, b"content_block_start")
    assert Stream(size=9, split=1, dialect=ANTHROPIC).run(start) == [start]


def test_usage_counted_up_in_every_event_does_not_hinder_merging() -> None:
    counted = [content(c, top={"usage": {"completion_tokens": n}}) for n, c in enumerate("abc")]
    assert Stream(size=3).run(*counted) == [content("abc", top={"usage": {"completion_tokens": 2}})]


def test_usage_is_never_lost_by_merging() -> None:
    counted = content("a", top={"usage": {"completion_tokens": 1}})
    assert Stream(size=9).run(counted, content("b")) == [counted, content("b")]


def test_text_waits_no_longer_than_the_delay() -> None:
    stream = Stream(size=100, delay=0.5)
    assert stream.take(content("a"), 10.0) == []
    assert stream.chunking.next_flush == 10.5
    assert stream.take(content("b"), 10.4) == []
    assert stream.chunking.next_flush == 10.5
    assert not stream.chunking.flush_is_due(10.4)
    assert stream.chunking.flush_is_due(10.5)
    assert stream.take(content("c"), 10.6) == [content("abc")]
    assert stream.chunking.next_flush is None
    assert not stream.chunking.flush_is_due(99.0)
    assert stream.chunking.flush() == []


def test_without_a_delay_every_delta_leaves_at_once() -> None:
    stream = Stream(size=100, delay=0.0)
    assert stream.take(content("a"), 1.0) == [content("a")]


# --- splitting


def test_a_long_text_becomes_several_events() -> None:
    assert Stream(split=2).run(content("abcde")) == [content("ab"), content("cd"), content("e")]


def test_one_gives_one_event_per_character() -> None:
    out = Stream(split=1).run(content("你好😀"), reasoning("ab"))
    assert out == [content("你"), content("好"), content("😀"), reasoning("a"), reasoning("b")]


def test_a_short_text_keeps_its_bytes() -> None:
    odd = content("ab").replace(b"data: ", b"data:")
    assert Stream(split=2).run(odd) == [odd]


def test_what_is_said_once_rides_on_the_last_piece() -> None:
    top: dict[str, object] = {"usage": {"prompt_tokens": 1}, "content_filter": [{"level": 1}]}
    whole = content("abc", top=top, finish_reason="stop", logprobs={"content": []})
    assert Stream(split=1).run(whole) == [
        *(content("a"), content("b")),
        content("c", top=top, finish_reason="stop", logprobs={"content": []}),
    ]


def test_text_that_finishes_is_split_when_merging_is_on_too() -> None:
    whole = content("cd", finish_reason="stop")
    assert Stream(size=9, split=1).run(content("ab"), whole) == [
        *(content("a"), content("b"), content("c")),
        content("d", finish_reason="stop"),
    ]


def test_merged_text_is_split_after() -> None:
    assert Stream(size=4, split=3).run(*map(content, "abcde")) == [
        *(content("abc"), content("d"), content("e")),
    ]


def test_anthropic_text_and_thinking_are_split() -> None:
    stream = Stream(split=2, dialect=ANTHROPIC)
    assert stream.run(block_delta("abc"), block_delta("xyz", kind="thinking")) == [
        *(block_delta("ab"), block_delta("c")),
        *(block_delta("xy", kind="thinking"), block_delta("z", kind="thinking")),
    ]


# --- whatever comes

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
glm_events = st.one_of(
    texts.map(content),
    texts.map(reasoning),
    texts.map(lambda text: content(text, index=1)),
    texts.map(lambda text: content(text, top={"usage": {"completion_tokens": len(text)}})),
    texts.map(lambda text: content(text, top={"extra": 1}, finish_reason="stop")),
    st.sampled_from([FINISH, TOOL, DONE, b": hold\n\n", b"data: x\n\n"]),
)
anthropic_events = st.one_of(
    texts.map(block_delta),
    texts.map(lambda text: block_delta(text, kind="thinking")),
    texts.map(lambda text: block_delta(text, index=1)),
    st.sampled_from([frame(b'{"type":"ping"}', b"ping"), b": hold\n\n"]),
)
settings = (st.integers(1, 15), st.integers(0, 4), st.sampled_from([0.0, 2.0, 1000.0]))


def said(dialect: Dialect, raws: list[bytes]) -> list[object]:
    """What a client puts together: texts joined while all else is the same, others as bytes."""
    result: list[object] = []
    for raw in raws:
        [event] = events(raw)
        delta = dialect.delta(event.data)
        if delta is None:
            result.append(raw)
            continue
        usage = delta.value.pop("usage", None)
        finish = delta.final
        if finish:
            for choice in delta.value["choices"]:  # type: ignore[attr-defined]
                del choice["finish_reason"]
        key = [delta.kind, delta.value, event.name]
        last = result[-1] if result else None
        if isinstance(last, dict) and last["key"] == key and not last["finish"]:
            last["text"] += delta.text
            last["finish"] = finish
            last["usage"] = usage or last["usage"]
        else:
            result.append({"key": key, "text": delta.text, "finish": finish, "usage": usage})
    return result


@given(st.lists(glm_events, max_size=12), *settings)
def test_no_character_and_no_field_is_lost_doubled_or_moved(
    raws: list[bytes], size: int, split: int, delay: float
) -> None:
    out = Stream(size, split, delay).run(*raws)
    assert said(GLM, out) == said(GLM, raws)
    if split:
        deltas = [GLM.delta(event.data) for raw in out for event in events(raw)]
        assert all(len(delta.text) <= split for delta in deltas if delta)


@given(st.lists(anthropic_events, max_size=12), *settings)
def test_no_character_of_anthropic_is_lost_doubled_or_moved(
    raws: list[bytes], size: int, split: int, delay: float
) -> None:
    out = Stream(size, split, delay, ANTHROPIC).run(*raws)
    assert said(ANTHROPIC, out) == said(ANTHROPIC, raws)
