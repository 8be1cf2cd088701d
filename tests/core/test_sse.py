from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import process_time

import pytest

from proxy.core.wire.sse import Decoder, Event, comment, frame
from proxy.errors import EventTooLarge
from tests.core import sse_reference

FIXTURES = sorted((Path(__file__).parents[1] / "data" / "glm").glob("*.sse"))
BOM = b"\xef\xbb\xbf"
BAD = "\ufffd".encode()
CJK = "你好".encode()

# group, stream, what is read (`name=data`, or data alone), what leaves (None: the bytes as they came)
Case = tuple[str, bytes, list[str], bytes | None]
CASES: list[Case] = [
    # --- basic
    ("basic", b"", [], None),
    ("basic", b"data: a\n\n", ["a"], None),
    ("basic", b"data:a\n\n", ["a"], None),
    ("basic", b"data:  a\n\n", [" a"], None),
    ("basic", b"data: a\n\ndata: b\n\n", ["a", "b"], None),
    ("basic", b"data: a\ndata: b\n\n", ["a\nb"], None),
    ("basic", b"data\ndata\n\n", ["\n"], None),
    ("basic", b"data: a\ndata\n\n", ["a\n"], None),
    ("basic", b"data\ndata: a\n\n", ["\na"], None),
    ("basic", b"data:\n\ndata\ndata\n\ndata:test\n", ["\n"], b"data\ndata\n\n"),
    ("basic", b"data: a:b\n\n", ["a:b"], None),
    ("basic", b"data: :\n\n", [":"], None),
    ("basic", b"data:data: a\n\n", ["data: a"], None),
    ("basic", b"data: a \n\n", ["a "], None),
    ("basic", b"\n\n\ndata: a\n\n", ["a"], None),
    ("basic", b"data: a\n\n\n\ndata: b\n\n", ["a", "b"], None),
    ("basic", b"data: a\n\n\n", ["a"], None),
    # --- newlines
    ("newlines", b"data: a\r\n\r\n", ["a"], None),
    ("newlines", b"data: a\r\r", ["a"], None),
    ("newlines", b"data: a\r\n\n", ["a"], None),
    ("newlines", b"data: a\n\r\n", ["a"], None),
    ("newlines", b"data: a\n\r", ["a"], None),
    ("newlines", b"data: a\r\n\r", ["a"], None),
    ("newlines", b"data: a\r\r\ndata: b\r\r\n", ["a", "b"], None),
    ("newlines", b"data: a\r\ndata: b\r\n\r\n", ["a\nb"], None),
    ("newlines", b"data: a\rdata: b\r\r", ["a\nb"], None),
    ("newlines", b"data: a\rdata: b\ndata: c\r\nid: 1\r\n\n", ["a\nb\nc"], None),
    ("newlines", b"data: a\r\n\r\ndata: b\n\ndata: c\r\r", ["a", "b", "c"], None),
    ("newlines", b"data: a\r\r\r\n\ndata: b\n\n", ["a", "b"], None),
    ("newlines", b"\r\n\rdata: a\n\n", ["a"], None),
    ("newlines", b"data:test\r\ndata\ndata:test\r\n\r", ["test\n\ntest"], None),
    ("newlines", b"data: a\r", [], None),
    ("newlines", b"data: a\r\n", [], None),
    ("newlines", b"data: a\x0bb\x0cc\x85\x1cd\n\n", ["a\x0bb\x0cc\ufffd\x1cd"], b"data: a\x0bb\x0cc" + BAD + b"\x1cd\n\n"),
    ("newlines", "data: a\u2028b\u2029c\u0085d\n\n".encode(), ["a\u2028b\u2029c\u0085d"], None),
    # --- byte order mark
    ("bom", BOM + b"data: a\n\n", ["a"], b"data: a\n\n"),
    ("bom", BOM + b"data:1\n\n" + BOM + b"data:2\n\ndata:3\n\n", ["1", "3"], b"data:1\n\n" + BOM + b"data:2\n\ndata:3\n\n"),
    ("bom", BOM + BOM + b"data:1\n\ndata:2\n\ndata:3\n\n", ["2", "3"], b"\n" + BOM + b"data:1\n\ndata:2\n\ndata:3\n\n"),
    ("bom", BOM, [], None),
    ("bom", BOM + b"\ndata: a\n\n", ["a"], b"\ndata: a\n\n"),
    ("bom", BOM + b"\r\n\r\ndata: a\n\n", ["a"], b"\r\n\r\ndata: a\n\n"),
    ("bom", BOM + b": hold\n\ndata: a\n\n", ["a"], b": hold\n\ndata: a\n\n"),
    ("bom", b"\n" + BOM + b"data: a\n\ndata: b\n\n", ["b"], None),
    ("bom", b"id: 1\n\n" + BOM + b"data: a\n\ndata: b\n\n", ["b"], b"\n" + BOM + b"data: a\n\ndata: b\n\n"),
    ("bom", b"data: " + BOM + b"a\n\n", ["\ufeffa"], None),
    ("bom", BOM[:2] + b"data: a\n\ndata: b\n\n", ["b"], BAD + b"data: a\n\ndata: b\n\n"),
    ("bom", b"\xfe\xff\ndata: a\n\n", ["a"], BAD + BAD + b"\ndata: a\n\n"),
    # --- comments
    ("comments", b": hold\n\n", [], None),
    ("comments", b":\n\n", [], None),
    ("comments", b": hold\n\ndata: a\n\n: hold\n\n", ["a"], None),
    ("comments", b": one\n: two\ndata: a\n: three\n\n", ["a"], None),
    ("comments", b"data:1\r:\0\n:\r\ndata:2\n:" + b"x" * 2048 + b"\rdata:3\n:data:fail\r:" + b"x" * 2048 + b"\ndata:4\n\n", ["1\n2\n3\n4"], None),
    ("comments", b" : data: a\n\ndata: b\n\n", ["b"], None),
    ("comments", b"::data: a\n\n", [], None),
    ("comments", b": a\r\n\r\n: b\r\r: c\n\n", [], None),
    # --- fields
    ("fields", b"data:\0\n data:2\rData:1\ndata\0:2\ndata:1\r\0data:4\nda-ta:3\rdata_5\ndata:3\rdata:\r\n data:32\ndata:4\n\n", ["\0\n1\n3\n\n4"], None),
    ("fields", b"data:test\n data\ndata\nfoobar:xxx\njustsometext\n:thisisacommentyay\ndata:test\n\n", ["test\n\ntest"], None),
    ("fields", b"data:\ttest\rdata: \ndata:test\n\n", ["\ttest\n\ntest"], None),
    ("fields", b"DATA: a\n\ndata: b\n\n", ["b"], None),
    ("fields", b"data : a\n\ndata: b\n\n", ["b"], None),
    ("fields", b" data: a\n\ndata: b\n\n", ["b"], None),
    ("fields", b"datax: a\n\n", [], None),
    ("fields", b"dat: a\n\n", [], None),
    ("fields", b"foo\n\ndata: a\n\n", ["a"], None),
    ("fields", b"foo: bar\ndata: a\n\n", ["a"], None),
    ("fields", b"data: a\nfoo: bar\n\n", ["a"], None),
    ("fields", b"data:\0\n\n", ["\0"], None),
    ("fields", b"\xff: x\ndata: a\n\n", ["a"], BAD + b": x\ndata: a\n\n"),
    ("fields", b'{"error":"no stream"}\n\n', [], None),
    ("fields", b"data:a\tb\n\n", ["a\tb"], None),
    # --- empty data
    ("empty", b"data:\n\n", [], b""),
    ("empty", b"data\n\n", [], b""),
    ("empty", b"data: \n\n", [], b""),
    ("empty", b"data: a\n\ndata:\n\ndata: b\n\n", ["a", "b"], b"data: a\n\ndata: b\n\n"),
    ("empty", b"data: a\n\ndata: \n\ndata: b\n\n", ["a", "b"], b"data: a\n\ndata: b\n\n"),
    ("empty", b": hold\ndata:\n\ndata: b\n\n", ["b"], b"data: b\n\n"),
    ("empty", b"data: a\r\n\r\ndata:\r\n\r\ndata: b\r\n\r\n", ["a", "b"], b"data: a\r\n\r\ndata: b\r\n\r\n"),
    ("empty", b"data:  \n\n", [" "], None),
    # --- event
    ("event", b"event: e\ndata: a\n\n", ["e=a"], None),
    ("event", b"event:e\ndata:a\n\ndata:b\n\n", ["e=a", "b"], None),
    ("event", b"data: a\nevent: e\n\n", ["e=a"], None),
    ("event", b"event: e\nevent: f\ndata: a\n\n", ["f=a"], None),
    ("event", b"event: e\nevent\ndata: a\n\n", ["a"], None),
    ("event", b"event: \ndata: a\n\n", ["a"], None),
    ("event", b"event:  e \ndata: a\n\n", [" e =a"], None),
    ("event", b"event: e\n\ndata: a\n\n", ["a"], b"data: a\n\n"),
    ("event", b"event: e\ndata:\n\ndata: a\n\n", ["a"], b"data: a\n\n"),
    ("event", b"event: e\r\ndata: a\r\n\r\n", ["e=a"], None),
    ("event", b"event: e\ndata: a\ndata: b\n\n", ["e=a\nb"], None),
    ("event", b"event: e\n: c\ndata: a\n\n", ["e=a"], None),
    ("event", b"Event: e\ndata: a\n\n", ["a"], None),
    ("event", b"event: " + CJK + b"\ndata: a\n\n", ["你好=a"], None),
    ("event", b"event: \xff\ndata: a\n\n", ["\ufffd=a"], b"event: " + BAD + b"\ndata: a\n\n"),
    # --- id
    ("id", b"id: 1\ndata: a\n\n", ["a"], None),
    ("id", b"data: a\nid\n\n", ["a"], None),
    ("id", b"id: 1\n\ndata: a\n\n", ["a"], b"data: a\n\n"),
    ("id", b"id\n\n", [], b""),
    ("id", b"data: a\n\nid: 1\n\ndata: b\n\n", ["a", "b"], b"data: a\n\ndata: b\n\n"),
    ("id", b"id: 1\n: c\n\ndata: a\n\n", ["a"], b"data: a\n\n"),
    ("id", b"id: 1\nid: 2\ndata: a\n\n", ["a"], None),
    ("id", b"id: \xe2\x80\xa6\ndata: a\n\n", ["a"], None),
    ("id", b"id: a\0b\ndata: a\n\n", ["a"], None),
    ("id", b"id: a\0b\n\n", [], b""),
    ("id", b"data: a\r\rid: 1\r\r\ndata: b\r\r", ["a", "b"], b"data: a\r\rdata: b\r\r"),
    # --- retry
    ("retry", b"retry: 3000\ndata: a\n\n", ["a"], None),
    ("retry", b"retry: 3000\n\ndata: a\n\n", ["a"], b"data: a\n\n"),
    ("retry", b"retry:1000x\n\ndata: a\n\n", ["a"], b"data: a\n\n"),
    ("retry", b"retry\n\ndata: a\n\n", ["a"], b"data: a\n\n"),
    ("retry", b"retry:1000\ndata:test1\n\nid:test\ndata:test2", ["test1"], b"retry:1000\ndata:test1\n\n"),
    ("retry", b"retry: 1\nid: 1\nevent: e\n\n", [], b""),
    ("retry", b"Retry: 1\n\n", [], None),
    ("retry", b"data: a\nretry: 1\n\n", ["a"], None),
    # --- end of file
    ("eof", b"data: a", [], None),
    ("eof", b"data: a\n", [], None),
    ("eof", b"data: a\n\ndata: b\n", ["a"], None),
    ("eof", b"data: a\n\ndata: b", ["a"], None),
    ("eof", b"data: a\n\nda", ["a"], None),
    ("eof", b"\n", [], None),
    ("eof", b"data: a\n\n: hold", ["a"], None),
    ("eof", b"data: a\n\n\xe4\xbd", ["a"], None),
    # --- UTF-8
    ("utf8", b"data: " + CJK + b"\n\n", ["你好"], None),
    ("utf8", "data: 👩\u200d🔬🏽\n\n".encode(), ["👩\u200d🔬🏽"], None),
    ("utf8", b"data: \xff\n\n", ["\ufffd"], b"data: " + BAD + b"\n\n"),
    ("utf8", b"data: \xe4\xbd\n\n", ["\ufffd"], b"data: " + BAD + b"\n\n"),
    ("utf8", b"data: \xe4\xbda\n\n", ["\ufffda"], b"data: " + BAD + b"a\n\n"),
    ("utf8", b"data: \x80\x80\n\n", ["\ufffd\ufffd"], b"data: " + BAD * 2 + b"\n\n"),
    ("utf8", b"data: \xc0\xaf\n\n", ["\ufffd\ufffd"], b"data: " + BAD * 2 + b"\n\n"),
    ("utf8", b"data: \xed\xa0\x80\n\n", ["\ufffd" * 3], b"data: " + BAD * 3 + b"\n\n"),
    ("utf8", b"data: \xf4\x90\x80\x80\n\n", ["\ufffd" * 4], b"data: " + BAD * 4 + b"\n\n"),
    ("utf8", b"data: \xf0\x9f\x98\n\ndata: b\n\n", ["\ufffd", "b"], b"data: " + BAD + b"\n\ndata: b\n\n"),
    ("utf8", b": \xff\n\ndata: a\n\n", ["a"], b": " + BAD + b"\n\ndata: a\n\n"),
    ("utf8", b"data: a\n: \xff\n\n", ["a"], b"data: a\n: " + BAD + b"\n\n"),
    ("utf8", b'data: {"a":"\xff"}\n\n', ['{"a":"\ufffd"}'], b'data: {"a":"' + BAD + b'"}\n\n'),
    ("utf8", b"data: " + CJK + b"\xff\r\n\r\n", ["你好\ufffd"], b"data: " + CJK + BAD + b"\r\n\r\n"),
    ("utf8", b"data: a\n\ndata: \xff\n\ndata: " + CJK + b"\n\n", ["a", "\ufffd", "你好"], b"data: a\n\ndata: " + BAD + b"\n\ndata: " + CJK + b"\n\n"),
    ("utf8", "data: é\u0000\uffff\n\n".encode(), ["é\u0000\uffff"], None),
    # --- long
    ("long", b"data: " + b"x" * 3000 + b"\n\n", ["x" * 3000], None),
    ("long", b"data: x\n" * 300 + b"\n", ["\n".join("x" * 300)], None),
    ("long", b"data: x\n\n" * 300, ["x"] * 300, None),
    ("long", b"\n" * 2000 + b"data: x\n\n", ["x"], None),
    ("long", b"x" * 2000 + b": 1\ndata: x\n\n", ["x"], None),
    ("long", b"data: x\r\r" * 300, ["x"] * 300, None),
    ("long", CJK * 400 + b"\ndata: " + CJK * 200 + b"\n\n", ["你好" * 200], None),
    # --- as dialects write
    ("llm", b'data: {"a":1}\n\ndata: [DONE]\n\n', ['{"a":1}', "[DONE]"], None),
    ("llm", b"data:[DONE]\n\n", ["[DONE]"], None),
    ("llm", b'event: ping\ndata: {"type": "ping"}\n\n', ['ping={"type": "ping"}'], None),
    ("llm", b'event: error\ndata: {"type": "error"}\n\n', ['error={"type": "error"}'], None),
    ("llm", b'data: {"a":\ndata: 1}\n\n', ['{"a":\n1}'], None),
    ("llm", b'data: {"a":"\\n\\n"}\n\n', ['{"a":"\\n\\n"}'], None),
    ("llm", b'data: {"a":1,\n"b":2}\n\n', ['{"a":1,'], None),
    ("llm", b'data: {"a":"cutdata: {"a":1}\n\n', ['{"a":"cutdata: {"a":1}'], None),
    ("llm", b'event: a\ndata: 1\n\nevent: b\ndata: 2\n\ndata: 3\n\n', ["a=1", "b=2", "3"], None),
    ("llm", b'event: a\ndata: 1\n\n\nevent: b\ndata: 2\n\n', ["a=1", "b=2"], None),
    ("llm", b": OPENROUTER PROCESSING\n\ndata: {}\n\n", ["{}"], None),
]  # fmt: skip


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


@pytest.mark.parametrize("case", CASES, ids=[f"{c[0]}-{n}" for n, c in enumerate(CASES)])
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


def test_the_table_covers_every_group() -> None:
    assert len(CASES) >= 100
    assert len({stream for _, stream, _, _ in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=[f"{c[0]}-{n}" for n, c in enumerate(CASES)])
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
        b"data: " + b"x" * (1 << 20) + b"\n\n",
        b"data: " + b"x" * (1 << 20) + b"\r\n\r\n",
        b"\n" * (1 << 20),
        b"x: \xff\n" * 10_000 + b"data: x\n\n",
        b"id: 1\n\n" * 10_000,
        b"data: x\n\n" * 10_000 + b"d",
    ],
    ids=["lines", "line", "crlf", "blank", "invalid", "dropped", "events"],
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
        (b"a\n\nevent: x\ndata: y\n\n", b"", b"data: a\ndata: \ndata: event: x\ndata: data: y\ndata: \ndata: \n\n"),
        (b"\0", b"", b"data: \0\n\n"),
        (b":", b":", b"event: :\ndata: :\n\n"),
        (CJK, CJK, b"event: " + CJK + b"\ndata: " + CJK + b"\n\n"),
        (b"\xff", b"\xff", b"event: " + BAD + b"\ndata: " + BAD + b"\n\n"),
        (b"\xed\xa0\x80", b"", b"data: " + BAD * 3 + b"\n\n"),
    ],
)  # fmt: skip
def test_an_event_is_written_so_that_it_reads_back(data: bytes, name: bytes, written: bytes) -> None:
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
