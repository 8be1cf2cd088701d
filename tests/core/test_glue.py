"""A second generation inside the first one's stream is never taken for its end."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.flow.pipe import Pipe
from proxy.core.flow.timeline import Timeline
from proxy.core.wire.anthropic import ANTHROPIC
from proxy.core.wire.dialect import Dialect
from proxy.core.wire.generation import holds_another
from proxy.core.wire.glm import GLM
from proxy.core.wire.sse import frame
from proxy.errors import EventTooLarge, GluedStream

DATA = Path(__file__).parents[1] / "data" / "glm"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Settings:
    text_buffer_size: int = 1
    text_buffer_max_delay: float = 0.1
    split_text: int = 0
    max_event: int = 1 << 20


def pipe(dialect: Dialect = GLM, **settings: int) -> Pipe:
    return Pipe(dialect, Settings(**settings), Timeline(0.0))


def chunk(own: object, text: str = "hi", **fields: object) -> bytes:
    """An event of GLM; without an id for None."""
    head = {} if own is None else {"id": own}
    choices = [{"index": 0, "delta": {"role": "assistant", "content": text}}]
    return frame(orjson.dumps({**head, **fields, "choices": choices}))


def put_through(one: Pipe, *reads: bytes) -> tuple[list[bytes], bool]:
    """What left, and whether it ended as a glued stream."""
    out: list[bytes] = []
    for now, data in enumerate(reads, start=1):
        try:
            out += one.feed(data, float(now))
        except GluedStream:
            return out + one.finish(), True
    return out + one.finish(), False


def recorded(name: str) -> list[bytes]:
    stream = (DATA / f"{name}.sse").read_bytes()
    return [event + b"\n\n" for event in stream.split(b"\n\n") if event]


def another(events: list[bytes]) -> list[bytes]:
    """The like of it from another generation."""
    ids = [(b"20", b"21"), (b"msg_20", b"msg_21"), (b"1789897325", b"1789897422")]
    for old, new in ids:
        events = [event.replace(old, new) for event in events]
    return events


SHAPES = [
    (GLM, "02-plain-text"),
    (GLM, "03-reasoning-then-content"),
    (GLM, "06-tool-stream-incremental"),
    (GLM, "14-utf8-chinese"),
    (ANTHROPIC, "20-anthropic-text"),
    (ANTHROPIC, "21-anthropic-thinking-tool"),
]
SHAPE = pytest.mark.parametrize(("dialect", "name"), SHAPES, ids=lambda value: str(value)[:24])


@SHAPE
@pytest.mark.parametrize("together", [False, True], ids=["event by event", "one read"])
def test_a_frame_broken_off_anywhere_ends_the_stream_before_it(
    dialect: Dialect, name: str, together: bool
) -> None:
    events = recorded(name)
    again = another(events)
    for index in range(1, len(events) - 1):
        unended = events[index].removesuffix(b"\n\n")
        for half in {unended[:cut] for cut in (20, 50, len(unended) // 2, -1, None)}:
            if dialect is ANTHROPIC and b"data: {" not in half:
                continue
            reads = [*events[:index], half + again[0], *again[1:]]
            out, glued = put_through(pipe(dialect), *([b"".join(reads)] if together else reads))
            assert glued, half
            assert out == events[:index]


@SHAPE
@pytest.mark.parametrize("together", [False, True], ids=["event by event", "one read"])
def test_whole_events_of_another_generation_end_the_stream_before_them(
    dialect: Dialect, name: str, together: bool
) -> None:
    events = recorded(name)
    again = another(events)
    for index in range(2, len(events) - 1):
        reads = [*events[:index], *again]
        out, glued = put_through(pipe(dialect), *([b"".join(reads)] if together else reads))
        assert glued
        assert out == events[:index]


@given(st.sampled_from(SHAPES), st.data())
def test_the_cut_of_the_reads_does_not_matter(
    shape: tuple[Dialect, str], data: st.DataObject
) -> None:
    dialect, name = shape
    events = recorded(name)
    index = data.draw(st.integers(2, len(events) - 2))
    whole = data.draw(st.booleans())
    half = b"" if whole else events[index][: len(events[index]) * 2 // 3]
    stream = b"".join(events[:index]) + half + b"".join(another(events))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6))
    reads = [stream[a:b] for a, b in pairwise([0, *sorted(cuts), len(stream)])]
    assert put_through(pipe(dialect), *reads) == (events[:index], True)


def test_the_last_text_that_waited_leaves_before_the_error() -> None:
    one = pipe(text_buffer_size=100)
    half = chunk("a")[:30]
    out, glued = put_through(one, chunk("a", "12") + chunk("a", "34"), half + chunk("b"))
    assert (out, glued) == ([chunk("a", "1234")], True)
    assert one.finish() == []


def test_what_was_glued_is_not_counted_or_believed() -> None:
    timeline = Timeline(0.0)
    one = Pipe(GLM, Settings(), timeline)
    finish = b'data: {"id":"b","choices":[{"finish_reason":"stop","delta":{}}]}\n\n'
    reads = chunk("a") + chunk("a") + chunk("b") + finish + DONE
    assert put_through(one, reads) == ([chunk("a")] * 2, True)
    assert (timeline.events, one.finish_reason, one.ended) == (2, None, False)
    assert one.decisive


def test_a_stream_that_begins_broken_off_has_said_nothing() -> None:
    one = pipe()
    assert put_through(one, chunk("a")[:40] + chunk("b")) == ([], True)
    assert (one.useful, one.decisive) == (False, False)


def test_a_frame_that_quotes_events_is_broken_off_where_it_is() -> None:
    half = chunk("a", 'data: {"id":"b"} data: {}')[:-9]
    assert put_through(pipe(), chunk("a"), half + chunk("b", "data: {}")) == ([chunk("a")], True)


def test_a_frame_broken_off_at_the_end_mark_ends_the_stream_too() -> None:
    out, glued = put_through(pipe(), chunk("a"), chunk("a")[:50] + DONE)
    assert (out, glued) == ([chunk("a")], True)


@pytest.mark.parametrize(
    "events",
    [
        [chunk(None)] * 3,
        [chunk(None), chunk("a"), chunk("b")],
        [chunk("a"), chunk(None), chunk("a")],
        [chunk(""), chunk("a"), chunk("a"), chunk(""), chunk("a")],
        [chunk(7), chunk(8), chunk(9)],
        [chunk("a"), chunk("a", created=1), chunk("a", created=900)],
        [chunk('"a"')] * 4,
        [chunk("ä")] * 4,
        # Key order, and the spelling of JSON.
        [b'data: {"created":%d,"model":"m",' % n + chunk("a")[7:] for n in (1, 1, 2, 2)],
        [chunk("a").replace(b":", b": ").replace(b"data:  ", b"data: ")] * 3,
        [chunk("a"), chunk("a"), chunk("a").replace(b'"id":"a"', b'"id" : "a"'), chunk("a")],
        [chunk("a"), chunk("a"), chunk("a").replace(b'"id":"a"', b'"id":"\\u0061"')],
        # No token, no generation: a gateway's own frames have ids of their own.
        [chunk("a"), chunk("a"), b'data: {"id":"b","choices":[],"usage":{"prompt_tokens":1}}\n\n'],
        [chunk("a"), chunk("a"), chunk("b", "")],
        [chunk("a"), chunk("a"), b'data: {"id":"b","error":{"code":"1"}}\n\n'],
        [
            chunk("a"),
            chunk("a"),
            b'data: {"id":"b","choices":[{"delta":{},"finish_reason":"x"}]}\n\n',
        ],
        # Ids made up for every event.
        [chunk(f"id{n}", created=100 + n) for n in range(30)],
        # Text that quotes a stream, whole or not, and data that is not JSON.
        [chunk("a", 'data: {"id":"b"}\n\ndata: {"id":"c"}')] * 3,
        [chunk("a"), b'data: {"content":"say "data: {}" twice"}\n\n', chunk("a")],
        [chunk("a"), b"data: {\n\n", b"data: {}\ndata: {}\n\n", b"data: x data: {}\n\n"],
    ],
)
def test_nothing_is_taken_for_another_generation_that_is_none(events: list[bytes]) -> None:
    assert put_through(pipe(), *events) == (events, False)
    assert put_through(pipe(), b"".join(events)) == (events, False)


@pytest.mark.parametrize(
    ("own", "others"),
    [
        # By the time they claim, before an id has come twice.
        ([chunk("a", created=100)], [chunk("b", created=197)]),
        ([chunk("a")], [chunk("b")]),
        ([chunk("a", created=100)], [chunk("b")]),
        # In any key order, in a spelling of its own.
        ([b'data: {"model":"m",' + chunk("a")[7:]] * 2, [b'data: {"model":"m",' + chunk("b")[7:]]),
        ([chunk("a")] * 2, [chunk("b").replace(b":", b": ")]),
        ([chunk("a")] * 2, [chunk("ab")]),
        # With usage in every event.
        ([chunk("a", usage={"prompt_tokens": 1})] * 3, [chunk("b", usage={"prompt_tokens": 1})]),
        # Its preface may pass, its token not.
        ([chunk("a"), chunk("a"), chunk("b", "")], [chunk("b")]),
        # A token a second after one, with an id that stays: the third event tells.
        ([chunk("a", created=1), chunk("b", created=2)], [chunk("b", created=2)]),
    ],
)
def test_another_id_is_another_generation(own: list[bytes], others: list[bytes]) -> None:
    for reads in ([*own, *others], [b"".join(own + others)]):
        assert put_through(pipe(), *reads) == (own, True)


def start(own: str) -> bytes:
    message = {"id": own, "usage": {"input_tokens": 5}}
    return frame(orjson.dumps({"type": "message_start", "message": message}), b"message_start")


def block_delta(text: str) -> bytes:
    delta = {"type": "text_delta", "text": text}
    data = {"type": "content_block_delta", "index": 0, "delta": delta}
    return frame(orjson.dumps(data), b"content_block_delta")


@pytest.mark.parametrize(
    "before", [[start("a")], [start("a"), block_delta("x")], [block_delta("x")]]
)
@pytest.mark.parametrize("own", ["a", "b"])
def test_a_message_that_starts_again_is_another_generation(before: list[bytes], own: str) -> None:
    assert put_through(pipe(ANTHROPIC), *before, start(own)) == (before, True)


def test_a_block_that_starts_is_no_generation() -> None:
    events = recorded("21-anthropic-thinking-tool")
    assert put_through(pipe(ANTHROPIC), *events) == (events, False)


def test_a_limit_is_still_a_limit() -> None:
    one = pipe(max_event=200)
    one.feed(chunk("a"), 1.0)
    with pytest.raises(EventTooLarge):
        one.feed(chunk("a")[:40] + chunk("b", "x" * 200), 2.0)


def test_a_hostile_event_does_not_cost_more_than_a_few_readings() -> None:
    data = b'{"' + b"data: {" * 100_000 + b"}" * 100_000
    assert not holds_another(data)


@given(st.binary(max_size=60))
def test_any_bytes_can_be_asked_for_another_event(data: bytes) -> None:
    assert holds_another(b'{"a":"' + data + b'data: {"b":1}') is True
    holds_another(data)
