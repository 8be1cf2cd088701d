"""The decoder against the reference on random streams, cut at random."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.wire.sse import Decoder, Event, comment, frame
from tests.core import sse_reference

PIECES = [
    *(
        b"data: x",
        b"data: ",
        b"data:",
        b"data",
        b"event: e",
        b"event:",
        b"id: 1",
        b"retry: 1",
        b":",
    ),
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b" ", b"x", b"\0", b"unknown: x"),
    *(b"\xef\xbb\xbf", b"\xef", b"\xff", "你".encode(), b"\xe4\xbd", b'data: {"a":1}\n\n'),
    b'event: content_block_delta\ndata: {"a": 1}\n\n',
]

streams = st.lists(st.sampled_from(PIECES), max_size=24).map(b"".join)
cuts = st.lists(st.integers(0, 80), max_size=12)


def read(stream: bytes, at: list[int]) -> list[Event]:
    decoder = Decoder()
    edges = [0, *sorted(min(cut, len(stream)) for cut in at), len(stream)]
    return [event for begin, end in pairwise(edges) for event in decoder.feed(stream[begin:end])]


def check(stream: bytes, at: list[int]) -> None:
    expected = sse_reference.events(stream)
    events = read(stream, at)
    assert [(e.name.decode(), e.data.decode()) for e in events if e.data] == expected
    # A client behind us reads the same, from bytes that are UTF-8.
    out = b"".join(event.raw for event in events)
    out.decode()
    assert sse_reference.events(out) == expected
    # What is forwarded for one event is one event.
    for event in events:
        alone = [data for _, data in sse_reference.events(b"\n" + event.raw)]
        assert alone == ([event.data.decode()] if event.data else [])


@given(streams, cuts)
@example(b"data: a\r\n\r", [9])
@example(b"data: x\n\n\r\n\n", [])
def test_any_stream_at_any_cut_reads_as_the_standard_says(stream: bytes, at: list[int]) -> None:
    check(stream, at)


@given(streams, cuts)
def test_any_stream_reads_the_same_after_a_read_of_one_event(stream: bytes, at: list[int]) -> None:
    first = b"data: first\n\n"
    check(first + stream, [len(first), *(len(first) + cut for cut in at)])


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_million_streams_read_as_the_standard_says() -> None:
    for seed in range(1_000_000):
        random = Random(seed)
        stream = b"".join(random.choices(PIECES, k=random.randint(0, 16)))
        at = [random.randint(0, len(stream)) for _ in range(random.choice((0, 1, 2, len(stream))))]
        check(stream, at)
        check(PIECES[-1] + stream, [len(PIECES[-1]), *(len(PIECES[-1]) + cut for cut in at)])


@given(st.binary(), st.binary().filter(lambda name: not {10, 13} & set(name)))
def test_what_is_written_reads_back_as_one_event(data: bytes, name: bytes) -> None:
    written = frame(data, name)
    lines = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    # One space after the colon is not part of a name.
    expected = [(name.decode("utf-8", "replace"), lines)] if data else []
    assert sse_reference.events(b":\n" + written) == expected


@given(st.binary())
def test_a_comment_never_becomes_an_event(text: bytes) -> None:
    assert sse_reference.events(comment(text) + b"data: x\n\n") == [("", "x")]
