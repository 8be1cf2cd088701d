from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.flow.pipe import Pipe
from proxy.core.flow.timeline import Timeline
from proxy.core.record import Usage
from proxy.core.wire.anthropic import ANTHROPIC
from proxy.core.wire.dialect import Dialect
from proxy.core.wire.glm import GLM
from proxy.core.wire.sse import Decoder
from proxy.errors import EventTooLarge
from tests.core import sse_reference

DATA = Path(__file__).parents[1] / "data" / "glm"
BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Settings:
    text_buffer_size: int = 1
    text_buffer_max_delay: float = 0.1
    split_text: int = 0
    max_event: int = 1 << 20


def pipe(dialect: Dialect = GLM, **settings: float) -> tuple[Pipe, Timeline]:
    timeline = Timeline(0.0)
    return Pipe(dialect, Settings(**settings), timeline), timeline  # type: ignore[arg-type]


def text(value: str, field: str = "content") -> bytes:
    delta = f'{{"{field}":"{value}"}}'
    return f'data: {{"model":"m","choices":[{{"index":0,"delta":{delta}}}]}}\n\n'.encode()


def block_delta(value: str) -> bytes:
    return (
        b'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0, '
        b'"delta": {"type": "text_delta", "text": "' + value.encode() + b'"}}\n\n'
    )


THINK = text("hm", "reasoning_content")
SAY = text("hi")
FINISH = b'data: {"choices":[{"finish_reason":"stop","delta":{}}],"usage":{"prompt_tokens":7}}\n\n'
DONE = b"data: [DONE]\n\n"
HOLD = b": hold\n\n"
ERROR = b'data: {"error":{"code":"1305","message":"busy"}}\n\n'
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
STOP = b'event: message_stop\ndata: {"type": "message_stop"}\n\n'


# --- what passes


RECORDED = sorted(DATA.glob("*.sse"))
MENDED = [path for path in RECORDED if path.stem.startswith("10")]
"""An error without a name, which the clients of one dialect would skip."""


@pytest.mark.parametrize(
    ("dialect", "path"),
    [(GLM, path) for path in RECORDED]
    + [(ANTHROPIC, path) for path in RECORDED if path not in MENDED],
    ids=lambda value: value.stem if isinstance(value, Path) else value.name,
)
@pytest.mark.parametrize("step", [1, 50, 4096])
def test_a_recorded_stream_passes_byte_for_byte(path: Path, dialect: Dialect, step: int) -> None:
    stream = path.read_bytes()
    stream_pipe, _ = pipe(dialect)
    out = [
        raw
        for i in range(0, len(stream), step)
        for raw in stream_pipe.feed(stream[i : i + step], 1.0)
    ]
    assert b"".join(out).rstrip(b"\n") == stream.removeprefix(BOM).rstrip(b"\n")
    assert all(len(sse_reference.events(b"\n" + raw)) <= 1 for raw in out)
    assert stream_pipe.pending == 0
    assert stream_pipe.finish() == []


@pytest.mark.parametrize("size", [1, 40], ids=["as it comes", "merging"])
def test_an_error_that_anthropics_clients_would_skip_is_told_as_theirs(size: int) -> None:
    one, _ = pipe(ANTHROPIC, text_buffer_size=size)
    told = b'event: error\ndata: {"type":"error","error":{"type":"api_error","code":"1305",'
    assert one.feed(block_delta("hi") + ERROR, 1.0) == [
        block_delta("hi"),
        told + b'"message":"busy"}}\n\n',
    ]
    assert (one.failed, one.upstream_code) == (True, "1305")
    assert pipe(GLM)[0].feed(ERROR, 1.0) == [ERROR]


def test_each_event_is_an_item_and_half_an_event_is_held() -> None:
    stream_pipe, _ = pipe()
    assert stream_pipe.feed(SAY + SAY + SAY[:20], 1.0) == [SAY, SAY]
    assert stream_pipe.pending == 20
    assert stream_pipe.feed(SAY[20:], 2.0) == [SAY]
    assert stream_pipe.pending == 0
    assert stream_pipe.feed(SAY[:-1], 3.0) == []
    assert stream_pipe.finish() == []


def spoil(event: bytes, old: bytes, new: bytes) -> bytes:
    assert old in event
    return event.replace(old, new)


@pytest.mark.parametrize(
    ("before", "odd", "out"),
    [
        # Each differs from the usual event by what must not slip through with it.
        (SAY, spoil(SAY, b"hi", b"\xff"), [spoil(SAY, b"hi", "\ufffd".encode())]),
        (SAY, spoil(SAY, b"{", b"{\r"), [spoil(SAY, b"{", b"{\r")]),
        (SAY, SAY[:-2] + b"\r\n\r\n", [SAY[:-2] + b"\r\n\r\n"]),
        (SAY, SAY + b"\n", [SAY]),
        (SAY, SAY + SAY, [SAY, SAY]),
        (SAY, SAY[:-1], []),
        (SAY, SAY[:-2], []),
        (SAY, SAY[:-1] + b"i", []),
        (SAY, spoil(SAY, b"data: ", b"data: \r"), []),
        (SAY, b"data: \n\n", []),
        (SAY, b"data: x\n\n", [b"data: x\n\n"]),
        (SAY, b"data: \xff\n\n", [b"data: \xef\xbf\xbd\n\n"]),
        (SAY, b"data: x\nid: 1\n\n", [b"data: x\nid: 1\n\n"]),
        (SAY, SAY[:-2] + b"\nid: \xff\n\n", [SAY[:-2] + b"\nid: \xef\xbf\xbd\n\n"]),
        (SAY, b"id: 1\n\n", []),
        (b"data: \xe4\n\n", b"data: \xff\n\n", [b"data: \xef\xbf\xbd\n\n"]),
        (b"data: {}\n\n", b"data: \xff\n\n", [b"data: \xef\xbf\xbd\n\n"]),
        (SAY[:9], SAY[9:], [SAY]),
        (SAY + b"\n", SAY, [b"\n" + SAY]),
    ],
)
def test_what_looks_nearly_usual_is_read_with_care(
    before: bytes, odd: bytes, out: list[bytes]
) -> None:
    stream_pipe, _ = pipe()
    stream_pipe.feed(SAY, 1.0)
    stream_pipe.feed(before, 2.0)
    assert stream_pipe.feed(odd, 3.0) == out


def test_an_unusual_anthropic_event_is_read_with_care() -> None:
    stream_pipe, _ = pipe(ANTHROPIC)
    usual = block_delta("a")
    for odd, mended in [
        (usual, usual),
        (block_delta("你"), block_delta("你")),
        (usual.replace(b'"a"', b'"\xff"'), usual.replace(b'"a"', '"\ufffd"'.encode())),
        (usual.replace(b"event: content_block_delta\n", b""), None),
        (usual.replace(b"data: {", b"data: {}\ndata: {"), None),
        (b"event: content_block_delta\ndata: \n\n", b""),
    ]:
        assert b"".join(stream_pipe.feed(odd, 1.0)) == (odd if mended is None else mended)


PIECES = [SAY, THINK, FINISH, HOLD, PING, block_delta("a"), b"id: 1\n\n", b"\n", b"\r", b"\xff"]


@given(
    st.lists(st.sampled_from(PIECES), max_size=10).map(b"".join),
    st.lists(st.integers(0, 700), max_size=8),
    st.sampled_from([GLM, ANTHROPIC]),
)
def test_a_pipe_forwards_what_its_decoder_reads(
    stream: bytes, cuts: list[int], dialect: Dialect
) -> None:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(edges)]
    stream_pipe, timeline = pipe(dialect)
    decoder = Decoder()
    count = 0
    for chunk in chunks:
        events = decoder.feed(chunk)
        assert stream_pipe.feed(chunk, 1.0) == [event.raw for event in events]
        count += sum(1 for event in events if event.data)
    assert timeline.events == count


def test_an_event_over_the_limit_is_an_error() -> None:
    limit = len(SAY)
    for chunks in ([SAY], [SAY, SAY, SAY], [SAY * 3], [SAY[:50], SAY[50:]]):
        stream_pipe, _ = pipe(max_event=limit)
        for chunk in chunks:
            stream_pipe.feed(chunk, 1.0)
        long = text("hi!")
        with pytest.raises(EventTooLarge):
            stream_pipe.feed(long, 2.0)


# --- what is marked


def test_the_timeline_marks_each_first() -> None:
    stream_pipe, timeline = pipe()
    role = b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
    for now, chunk in enumerate([HOLD, role, THINK, THINK, SAY, SAY, FINISH + DONE], start=1):
        stream_pipe.feed(chunk, float(now))
    assert timeline.first_byte == 1.0
    assert timeline.first_event == 2.0
    assert timeline.first_token == 3.0
    assert timeline.first_content == 5.0
    assert timeline.last_event == 7.0
    assert timeline.events == 7
    assert (timeline.gaps, timeline.gap_sum, timeline.gap_max) == (6, 5.0, 1.0)


@pytest.mark.parametrize(
    ("event", "dialect"),
    [
        (b'data: {"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}\n\n', GLM),
        (b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n', GLM),
        (b'data: {"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":1}}\n\n', GLM),
        (block_delta("a"), ANTHROPIC),
        (
            b'data: {"type":"content_block_start","content_block":{"type":"tool_use"}}\n\n',
            ANTHROPIC,
        ),
    ],
)
def test_text_and_tool_calls_are_first_content(event: bytes, dialect: Dialect) -> None:
    stream_pipe, timeline = pipe(dialect)
    stream_pipe.feed(event, 1.0)
    stream_pipe.feed(event, 2.0)
    assert (timeline.first_token, timeline.first_content) == (1.0, 1.0)


def test_comments_are_no_events_and_not_useful() -> None:
    stream_pipe, timeline = pipe()
    assert stream_pipe.feed(HOLD, 1.0) == [HOLD]
    assert (stream_pipe.useful, stream_pipe.last_useful) == (False, None)
    assert (timeline.first_byte, timeline.first_event, timeline.events) == (1.0, None, 0)
    stream_pipe.feed(HOLD + SAY, 2.0)
    assert (stream_pipe.useful, stream_pipe.last_useful) == (True, 2.0)
    stream_pipe.feed(HOLD, 3.0)
    assert (stream_pipe.last_useful, timeline.last_event, timeline.events) == (2.0, 2.0, 1)


def test_pings_are_events_and_not_useful() -> None:
    stream_pipe, timeline = pipe(ANTHROPIC)
    stream_pipe.feed(PING + PING + HOLD, 1.0)
    assert (stream_pipe.useful, timeline.events) == (False, 2)
    stream_pipe.feed(PING + block_delta("a"), 2.0)
    stream_pipe.feed(PING, 3.0)
    assert (stream_pipe.useful, stream_pipe.last_useful, timeline.events) == (True, 2.0, 5)


def test_every_usual_event_is_useful() -> None:
    stream_pipe, timeline = pipe()
    for now in range(1, 5):
        assert stream_pipe.feed(SAY, float(now)) == [SAY]
        assert stream_pipe.last_useful == timeline.last_event == now
    assert timeline.events == 4


# --- what is remembered


def test_bytes_after_the_end_are_dropped() -> None:
    stream_pipe, timeline = pipe()
    assert stream_pipe.feed(SAY + DONE + SAY + SAY[:10], 1.0) == [SAY, DONE]
    assert stream_pipe.ended
    assert stream_pipe.pending == 0
    assert stream_pipe.feed(SAY, 2.0) == []
    assert timeline.events == 2


def test_done_does_not_end_the_other_dialect() -> None:
    stream_pipe, _ = pipe(ANTHROPIC)
    stream_pipe.feed(DONE, 1.0)
    assert not stream_pipe.ended
    assert stream_pipe.feed(STOP + DONE, 2.0) == [STOP]
    assert stream_pipe.ended


def test_an_error_of_the_upstream_is_forwarded_and_remembered() -> None:
    stream_pipe, _ = pipe()
    assert stream_pipe.feed(ERROR, 1.0) == [ERROR]
    assert (stream_pipe.failed, stream_pipe.upstream_code) == (True, "1305")
    assert not stream_pipe.ended
    assert stream_pipe.feed(DONE, 2.0) == [DONE]
    assert stream_pipe.ended
    assert stream_pipe.failed


def test_an_error_event_without_a_name_is_known_in_anthropic_too() -> None:
    stream_pipe, _ = pipe(ANTHROPIC)
    stream_pipe.feed(b'data: {"type": "error", "error": {"type": "overloaded_error"}}\n\n', 1.0)
    assert (stream_pipe.failed, stream_pipe.upstream_code) == (True, "overloaded_error")


def test_a_plain_stream_has_not_failed_or_ended() -> None:
    stream_pipe, _ = pipe()
    stream_pipe.feed(SAY, 1.0)
    assert not stream_pipe.failed
    assert not stream_pipe.ended
    assert (stream_pipe.usage, stream_pipe.finish_reason) == (None, None)


@pytest.mark.parametrize(
    ("name", "dialect", "reason", "usage"),
    [
        ("02-plain-text", GLM, "stop", Usage(19, 16, 0)),
        ("07-usage-last-chunk", GLM, "stop", Usage(1431, 9, 1408, 3)),
        ("07c-usage-empty-choices", GLM, "stop", Usage(12, 3, 0)),
        ("05-tool-call-index-minus1", GLM, "tool_calls", None),
        ("08-sensitive-stop", GLM, "sensitive", Usage(27, 5, 0)),
        ("20-anthropic-text", ANTHROPIC, "end_turn", Usage(41, 9, 1280)),
        ("21-anthropic-thinking-tool", ANTHROPIC, "tool_use", Usage(73, 44, 2048)),
        ("23-anthropic-midstream-error", ANTHROPIC, None, None),
    ],
)
@pytest.mark.parametrize("step", [64, 9999])
def test_finish_and_usage_of_recorded_shapes_are_remembered(
    name: str, dialect: Dialect, reason: str, usage: Usage | None, step: int
) -> None:
    stream = (DATA / f"{name}.sse").read_bytes()
    stream_pipe, _ = pipe(dialect)
    for i in range(0, len(stream), step):
        stream_pipe.feed(stream[i : i + step], 1.0)
    assert stream_pipe.finish_reason == reason
    if usage is not None:
        assert stream_pipe.usage == usage


def test_usage_counted_in_every_event_is_partial_until_the_finish() -> None:
    stream_pipe, _ = pipe()
    counted = SAY.replace(b"]}\n", b'],"usage":{"prompt_tokens":7,"completion_tokens":%d}}\n')
    stream_pipe.feed(counted % 1, 1.0)
    assert stream_pipe.usage == Usage(7, 1, partial=True)
    stream_pipe.feed(counted % 2, 2.0)
    assert stream_pipe.usage == Usage(7, 2, partial=True)
    stream_pipe.feed(FINISH, 3.0)
    assert stream_pipe.usage == Usage(7, 2)


def test_usage_is_whole_when_only_the_end_event_says_so() -> None:
    stream_pipe, _ = pipe()
    stream_pipe.feed(SAY.replace(b"]}\n", b'],"usage":{"prompt_tokens":7}}\n') + DONE, 1.0)
    assert stream_pipe.usage == Usage(7)


def test_anthropic_usage_is_put_together_from_both_events() -> None:
    stream_pipe, _ = pipe(ANTHROPIC)
    said = b'"usage":{"input_tokens":4,"output_tokens":1}'
    start = b'data: {"type":"message_start","message":{' + said + b"}}\n\n"
    stream_pipe.feed(start, 1.0)
    assert stream_pipe.usage == Usage(4, 1, partial=True)
    said = b'"delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":9}'
    end = b'data: {"type":"message_delta",' + said + b"}\n\n"
    stream_pipe.feed(end, 2.0)
    assert stream_pipe.usage == Usage(4, 9)


# --- with chunking


def test_merged_text_leaves_when_enough_waits_or_its_time_has_come() -> None:
    stream_pipe, timeline = pipe(text_buffer_size=4)
    assert stream_pipe.next_flush is None
    assert stream_pipe.feed(SAY, 1.0) == []
    assert (stream_pipe.useful, timeline.first_content) == (True, 1.0)
    assert stream_pipe.next_flush == pytest.approx(1.1)
    assert stream_pipe.flush_due(1.05) == []
    assert stream_pipe.flush_due(1.2) == [SAY]
    assert stream_pipe.next_flush is None
    assert stream_pipe.flush_due(1.3) == []
    assert stream_pipe.feed(SAY, 2.0) == []
    assert stream_pipe.feed(SAY, 2.01) == [text("hihi")]
    assert timeline.events == 3


def test_waiting_text_leaves_at_the_end_of_the_upstream() -> None:
    stream_pipe, _ = pipe(text_buffer_size=100)
    assert stream_pipe.feed(SAY + SAY + SAY[:9], 1.0) == []
    assert stream_pipe.finish() == [text("hihi")]
    assert stream_pipe.finish() == []


@pytest.mark.parametrize("last", [FINISH, DONE, ERROR, HOLD, THINK])
def test_waiting_text_leaves_before_what_follows_it(last: bytes) -> None:
    stream_pipe, _ = pipe(text_buffer_size=100)
    out = stream_pipe.feed(SAY + SAY + last, 1.0) + stream_pipe.finish()
    assert out == [text("hihi"), last]


def test_a_split_text_is_one_event_on_the_timeline() -> None:
    stream_pipe, timeline = pipe(split_text=1)
    assert stream_pipe.feed(SAY, 1.0) == [text("h"), text("i")]
    assert timeline.events == 1


def test_without_merging_or_splitting_nothing_is_ever_due() -> None:
    stream_pipe, _ = pipe()
    stream_pipe.feed(SAY, 1.0)
    assert stream_pipe.next_flush is None
    assert stream_pipe.flush_due(99.0) == []
    assert stream_pipe.finish() == []


# --- the beginning


ROLE = b'data: {"id":"1","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
MESSAGE = b'event: message_start\ndata: {"type": "message_start", "message": {"usage": %s}}\n\n'
BLOCK = b'event: content_block_start\ndata: {"type":"content_block_start","content_block":%s}\n\n'
PREFACES = [
    (GLM, ROLE),
    (GLM, ROLE.replace(b',"content":""', b"")),
    (ANTHROPIC, MESSAGE % b"{}"),
    (ANTHROPIC, MESSAGE % b'{"input_tokens": 7}'),
    (ANTHROPIC, BLOCK % b'{"type":"text","text":""}'),
    (ANTHROPIC, BLOCK % b'{"type":"thinking","thinking":""}'),
]


@pytest.mark.parametrize(("dialect", "event"), PREFACES)
def test_a_preface_is_useful_and_decides_nothing(dialect: Dialect, event: bytes) -> None:
    one, timeline = pipe(dialect)
    assert one.feed(HOLD + event, 1.0) == [HOLD, event]
    assert (one.useful, one.last_useful, one.decisive) == (True, 1.0, False)
    assert (timeline.first_event, timeline.first_token) == (1.0, None)
    one.feed(SAY if dialect is GLM else block_delta("a"), 2.0)
    assert one.decisive


DECISIVE = [
    *((GLM, event) for event in (SAY, THINK, FINISH, DONE, ERROR)),
    (GLM, b"data: {}\n\n"),
    (GLM, b"data: x\n\n"),
    (ANTHROPIC, block_delta("a")),
    (ANTHROPIC, BLOCK % b'{"type":"tool_use"}'),
    (ANTHROPIC, BLOCK % b'{"type":"redacted_thinking"}'),
    (ANTHROPIC, STOP),
    (ANTHROPIC, ERROR),
]


@pytest.mark.parametrize(("dialect", "event"), DECISIVE)
def test_anything_else_decides(dialect: Dialect, event: bytes) -> None:
    one, _ = pipe(dialect)
    one.feed(HOLD + PING if dialect is ANTHROPIC else HOLD, 1.0)
    assert not one.decisive
    one.feed(event, 2.0)
    assert one.decisive


def finish(reason: str, content: str = "") -> bytes:
    choice = f'{{"index":0,"finish_reason":"{reason}","delta":{{"content":"{content}"}}}}'
    return f'data: {{"choices":[{choice}]}}\n\n'.encode()


TOOL_CALL = b'data: {"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}\n\n'


@pytest.mark.parametrize(
    ("events", "code"),
    [
        ([ERROR], "1305"),
        ([ROLE, ERROR], "1305"),
        ([THINK, ERROR], "1305"),
        ([b'data: {"error":"x"}\n\n'], None),
        ([finish("network_error"), DONE], "network_error"),
        ([ROLE, THINK, finish("network_error")], "network_error"),
        ([finish("abort")], "abort"),
    ],
)
def test_a_stream_that_broke_off_before_any_text_failed_early(
    events: list[bytes], code: str | None
) -> None:
    one, _ = pipe()
    for event in events:
        one.feed(event, 1.0)
    assert (one.failed_early, one.upstream_code, one.decisive) == (True, code, True)


@pytest.mark.parametrize(
    "events",
    [
        [SAY, ERROR],
        [SAY, finish("network_error")],
        [finish("network_error", "a")],
        [TOOL_CALL, finish("abort")],
        [finish("stop"), DONE],
        [THINK, finish("length")],
        [finish("sensitive")],
        [ROLE, THINK],
    ],
)
def test_a_stream_that_has_spoken_or_just_finished_did_not(events: list[bytes]) -> None:
    one, _ = pipe()
    one.feed(b"".join(events), 1.0)
    assert not one.failed_early
    assert one.upstream_code == ("1305" if ERROR in events else None)


def test_an_error_event_after_text_is_a_failure_and_no_early_one() -> None:
    one, _ = pipe()
    one.feed(SAY + ERROR, 1.0)
    assert (one.failed, one.failed_early) == (True, False)
    one.feed(ERROR, 2.0)
    assert not one.failed_early
