"""Numbers of events: written where every client reads them, and read where a client goes on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.wire.event_ids import are_numbered, is_comment, numbered, received, with_id
from proxy.core.wire.sse import Decoder
from proxy.errors import ClientError


def ids_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """The data of each event and the last id before it ends, as a browser reads a stream (HTML
    standard §9.2.6)."""
    found: list[tuple[bytes, bytes]] = []
    values: list[bytes] = []
    last = b""
    for line in data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if values:
                found.append((b"\n".join(values), last))
            values = []
        elif field == b"data":
            values.append(value)
        elif field == b"id":
            last = value
    return found


ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
TEXT = st.text(st.characters(exclude_characters="\r\n\0", codec="utf-8"), max_size=8)
LINE = st.one_of(
    TEXT.map(lambda text: b"data: " + text.encode()),
    TEXT.map(lambda text: b"data:" + text.encode()),
    TEXT.map(lambda text: b": " + text.encode()),
    st.sampled_from([b"data", b"id: 99", b"id: x", b"event: ping", b"retry: 5", b"foo: data: x"]),
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    end = draw(ENDS)
    blocks = draw(st.lists(st.lists(LINE, min_size=1, max_size=4), max_size=6))
    return b"".join(end.join(block) + end + end for block in blocks)


@given(streams())
def test_each_event_has_its_number_and_comments_have_none(data: bytes) -> None:
    events = [event.raw for event in Decoder().feed(data)]
    said = [event.data for event in Decoder().feed(data) if event.data]
    told: list[bytes] = []
    numbered(lambda some, _: told.extend(some), 1)(events, True)
    expected = [(text, b"%d" % number) for number, text in enumerate(said, 1)]
    assert [pair for pair in ids_of(b"".join(told)) if pair[0]] == expected
    assert sum(not is_comment(event) for event in events) == len(said)
    assert [one for one in told if is_comment(one)] == [one for one in events if is_comment(one)]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (b"data: x\n\n", b"data: x\nid: 7\n\n"),
        (b"event: a\ndata: x\n\n", b"event: a\ndata: x\nid: 7\n\n"),
        (b"data: x\r\n\r\n", b"data: x\r\nid: 7\n\r\n"),
        (b"data: x\r\r", b"data: x\rid: 7\n\r"),
        (b"\n\ndata: x\n\n", b"\n\ndata: x\nid: 7\n\n"),
        (b"id: theirs\ndata: x\n\n", b"id: theirs\ndata: x\nid: 7\n\n"),
    ],
)
def test_the_id_is_the_last_line(event: bytes, expected: bytes) -> None:
    assert with_id(event, 7) == expected


@pytest.mark.parametrize(
    ("dialect", "asked", "on"),
    [
        ("openai", None, False),
        ("openai", "on", True),
        ("openai", " ON ", True),
        ("openai", "yes", False),
        ("anthropic", None, True),
        ("anthropic", "off", False),
        ("anthropic", "Off", False),
        ("anthropic", "", True),
    ],
)
def test_who_gets_ids(dialect: str, asked: str | None, on: bool) -> None:
    headers = [] if asked is None else [("X-GLM-Proxy-Event-IDs", asked)]
    assert are_numbered(dialect, headers) is on


@pytest.mark.parametrize(
    ("headers", "query", "number"),
    [
        ([], "", 0),
        ([("Last-Event-ID", "")], "", 0),
        ([("Last-Event-ID", "12")], "", 12),
        ([("LAST-EVENT-ID", " 12 ")], "last_event_id=5", 12),
        ([], "a=b&last_event_id=5", 5),
        ([], "last_event_id=", 0),
    ],
)
def test_where_a_client_goes_on(headers: list[tuple[str, str]], query: str, number: int) -> None:
    assert received(headers, query) == number


@pytest.mark.parametrize("text", ["-1", "+1", "1.5", "0x1", "1_0", "٣", "x", "1" * 16, "1 2"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ClientError):
        received([("Last-Event-ID", text)], "")
