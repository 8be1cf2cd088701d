from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import process_time

import pytest

from proxy.core.wire.sse import Decoder, Event, comment, frame
from proxy.errors import EventTooLarge
from tests.core import sse_reference
from tests.core.sse_cases import BAD, BOM, CASES, CJK, Case

FIXTURES = sorted((Path(__file__).parents[1] / "data" / "glm").glob("*.sse"))
IDS = [f"{case[0]}-{number}" for number, case in enumerate(CASES)]


def read(chunks: list[bytes]) -> tuple[list[Event], Decoder]:
    decoder = Decoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)], decoder


def cuts(stream: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and at every two-way cut."""
    yield [stream]
    yield [stream[i : i + 1] for i in range(len(stream))]
    for cut in range(1, len(stream)):
        yield [stream[:cut], stream[cut:]]


def seen(events: list[Event]) -> list[str]:
    """The events a client dispatches, as the table writes them."""
    return [
        (f"{event.name.decode()}=" if event.name else "") + event.data.decode()
        for event in events
        if event.data
    ]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_stream_reads_the_same_at_every_cut(case: Case) -> None:
    _, stream, expected, mended = case
    for chunks in cuts(stream):
        events, _ = read(chunks)
        assert seen(events) == expected
        out = b"".join(event.raw for event in events)
        if mended is None:
            # What is left is no event.
            assert stream.startswith(out)
            assert sse_reference.events(b":\n" + stream[len(out) :]) == []
        elif chunks == [stream]:
            assert out == mended
        else:
            # The LF of a CR LF may come too late to leave with, or be dropped with, its CR.
            assert list(filter(None, out.splitlines())) == list(filter(None, mended.splitlines()))
        assert [data for _, data in sse_reference.events(out)] == [
            event.data.decode() for event in events if event.data
        ]


FIRST = b"data: first\n\n"
LATER = [case for case in CASES if not case[1].startswith((BOM, BOM[:2]))]


@pytest.mark.parametrize("case", LATER, ids=[repr(case[1][:20]) for case in LATER])
def test_a_stream_reads_the_same_after_an_event_of_its_own_read(case: Case) -> None:
    _, stream, expected, mended = case
    for chunks in cuts(stream):
        events, _ = read([FIRST, *chunks])
        assert seen(events) == ["first", *expected]
        out = b"".join(event.raw for event in events[1:])
        assert chunks != [stream] or mended is None or out.lstrip(b"\n") == mended.lstrip(b"\n")
        assert mended is not None or stream.startswith(out)


def test_a_read_of_nothing_changes_nothing() -> None:
    for stream in (b"data: a\n\n", BOM + b"data: a\r\n\r\n", b"\ndata: a\n\n"):
        chunks = [piece for i in range(len(stream)) for piece in (b"", stream[i : i + 1], b"")]
        assert seen(read(chunks)[0]) == ["a"]


def test_the_table_is_whole() -> None:
    assert len(CASES) >= 100
    assert len({stream for _, stream, _, _ in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_table_agrees_with_the_reference(case: Case) -> None:
    _, stream, expected, _ = case
    assert [f"{name}={data}" if name else data for name, data in sse_reference.events(stream)] == (
        expected
    )


# --- what one event keeps


def test_a_comment_is_an_event_without_data() -> None:
    events, _ = read([b": hold\n\ndata: a\n\n"])
    assert events == [Event(b": hold\n\n", b"", b""), Event(b"data: a\n\n", b"a", b"")]


def test_blank_lines_between_events_go_with_the_later_one() -> None:
    events, _ = read([b"data: a\n\n\n\r\ndata: b\n\n"])
    assert [event.raw for event in events] == [b"data: a\n\n", b"\n\r\ndata: b\n\n"]


def test_an_event_that_ends_in_cr_cr_leaves_at_once_and_its_lf_with_the_next() -> None:
    decoder = Decoder()
    assert [e.raw for e in decoder.feed(b"data: a\r\n\r")] == [b"data: a\r\n\r"]
    assert decoder.feed(b"\n") == []
    assert decoder.pending == 0
    assert [e.raw for e in decoder.feed(b"data: b\n\n")] == [b"\ndata: b\n\n"]


def test_blank_lines_before_a_block_that_is_dropped_stay() -> None:
    events, _ = read([b"data: a\n\n\nid: 1\n\n\ndata: b\n\n"])
    assert [event.raw for event in events] == [b"data: a\n\n", b"\n\ndata: b\n\n"]


def test_an_unfinished_event_is_pending_and_blank_lines_are_not() -> None:
    decoder = Decoder()
    decoder.feed(b"data: a\n\n\n")
    assert (decoder.pending, decoder.clean) == (0, False)
    decoder.feed(b"dat")
    assert (decoder.pending, decoder.clean) == (3, False)
    decoder.feed(b"a: b\n\n")
    assert (decoder.pending, decoder.clean) == (0, True)


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_recorded_shapes_pass_byte_for_byte(path: Path) -> None:
    stream = path.read_bytes()
    mended = stream.removeprefix(BOM)
    for step in (1, 7, 190, 4096, len(stream)):
        events, decoder = read([stream[i : i + step] for i in range(0, len(stream), step)])
        assert decoder.pending == 0
        assert b"".join(event.raw for event in events).rstrip(b"\n") == mended.rstrip(b"\n")
        assert seen(events) == [
            f"{name}={data}" if name else data for name, data in sse_reference.events(stream)
        ]


# --- limits


@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_an_event_of_the_limit_passes_and_one_more_byte_does_not(step: int) -> None:
    def run(stream: bytes) -> list[Event]:
        decoder = Decoder(max_event=64)
        chunks = [stream[i : i + step] for i in range(0, len(stream), step)]
        return [event for chunk in chunks for event in decoder.feed(chunk)]

    whole = b"data: " + b"x" * 56 + b"\n\n"
    assert len(run(b"data: a\n\n" + whole * 3)) == 4
    with pytest.raises(EventTooLarge):
        run(b"data: a\n\n" + whole[:-2] + b"x\n\n")


@pytest.mark.parametrize("junk", [b"x", b"data: x\n", b"\n", b"\r", b": x\n"])
def test_a_stream_without_events_is_given_up_at_the_limit(junk: bytes) -> None:
    decoder = Decoder(max_event=1000)
    with pytest.raises(EventTooLarge):  # noqa: PT012
        for _ in range(2000):
            decoder.feed(junk)


@pytest.mark.parametrize(
    "stream",
    [
        b"data: x\n" * 10_000 + b"\n",
        b"x\n" * (1 << 17) + b"\n",
        b"data: " + b"x" * (1 << 20) + b"\n\n",
        b"data: " + b"x" * (1 << 20) + b"\r\n\r\n",
        b"\n" * (1 << 20),
        b"x: \xff\n" * 10_000 + b"data: x\n\n",
        b"id: 1\n\n" * 10_000,
        b"data: x\n\n" * 10_000 + b"d",
    ],
    ids=["lines", "short", "line", "crlf", "blank", "invalid", "dropped", "events"],
)
def test_time_is_linear_in_the_bytes(stream: bytes) -> None:
    started = process_time()
    read([stream])
    read([stream[i : i + 1000] for i in range(0, len(stream), 1000)])
    small = stream[: 1 << 18]
    read([small[i : i + 1] for i in range(len(small))])
    # About 0.3 s; searching from the start at each read would be minutes.
    assert process_time() - started < 5


# --- the writer


@pytest.mark.parametrize(
    ("data", "name", "written"),
    [
        (b"a", b"", b"data: a\n\n"),
        (b"a", b"e", b"event: e\ndata: a\n\n"),
        (b" a", b"", b"data:  a\n\n"),
        (b"a\nb", b"", b"data: a\ndata: b\n\n"),
        (b"a\rb\r\nc\n", b"", b"data: a\ndata: b\ndata: c\ndata: \n\n"),
        (
            b"a\n\nevent: x\ndata: y\n\n",
            b"",
            b"data: a\ndata: \ndata: event: x\ndata: data: y\ndata: \ndata: \n\n",
        ),
        (b"\0", b"", b"data: \0\n\n"),
        (b":", b":", b"event: :\ndata: :\n\n"),
        (CJK, CJK, b"event: " + CJK + b"\ndata: " + CJK + b"\n\n"),
        (b"\xff", b"\xff", b"event: " + BAD + b"\ndata: " + BAD + b"\n\n"),
        (b"\xed\xa0\x80", b"", b"data: " + BAD * 3 + b"\n\n"),
    ],
)
def test_an_event_is_written_so_that_it_reads_back(
    data: bytes, name: bytes, written: bytes
) -> None:
    assert frame(data, name) == written
    [(read_name, read_data)] = sse_reference.events(written)
    assert read_name == name.decode("utf-8", "replace")
    lines = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    assert read_data == lines


@pytest.mark.parametrize("name", [b"a\nb", b"a\rb", b"a\r\ndata: x", b"\n", b"e\n\ndata: x\n\n"])
def test_a_line_end_in_a_name_is_refused(name: bytes) -> None:
    with pytest.raises(ValueError, match="line end"):
        frame(b"a", name)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (b"hold", b": hold\n\n"),
        (b"", b": \n\n"),
        (b"a\nb\r\nc\rd", b": a\n: b\n: c\n: d\n\n"),
        (b"a\n\ndata: x\n\n", b": a\n: \n: data: x\n: \n: \n\n"),
        (b"\xff\0", b": " + BAD + b"\0\n\n"),
    ],
)
def test_a_comment_is_never_an_event(text: bytes, written: bytes) -> None:
    assert comment(text) == written
    assert sse_reference.events(written) == []
    assert read([written])[0] == [Event(written, b"", b"")]
