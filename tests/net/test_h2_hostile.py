"""A server that breaks the protocol, frame by frame, over a real socket.

Each case is a row: what is sent after a lawful start, and what we must answer (RFC 9113, by
section). The start: stream 1 has its head, stream 3 has none yet, stream 5 has ended, 7 is idle.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from hpack import Encoder
from hyperframe.frame import (
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    WindowUpdateFrame,
)

from proxy.errors import Refused, UpstreamProtocolError, UpstreamReset
from proxy.net.h2 import frames
from proxy.net.h2.connection import Connection, H2Settings
from proxy.net.h2.frames import ErrorCode
from tests.fakes.h2_connect import connect, greeted
from tests.fakes.h2_peer import Peer, PeerConnection
from tests.fakes.h2_sinks import GET, OK, Recorder

PROTOCOL = ErrorCode.PROTOCOL_ERROR
FLOW = ErrorCode.FLOW_CONTROL_ERROR
SIZE = ErrorCode.FRAME_SIZE_ERROR
CLOSED = ErrorCode.STREAM_CLOSED
COMPRESSION = ErrorCode.COMPRESSION_ERROR
CALM = ErrorCode.ENHANCE_YOUR_CALM

NO_PINGS = H2Settings(ping_interval=0)


def raw(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """A frame that hyperframe would refuse to build."""
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream_id) + payload


def head(stream_id: int, *fields: tuple[bytes, bytes], flags: int = 4) -> bytes:
    """HEADERS that neither use nor change a compression table."""
    block = Encoder()
    block.header_table_size = 0
    return raw(1, flags, stream_id, block.encode(fields or OK, huffman=False))


class Case(NamedTuple):
    name: str
    sent: bytes
    code: ErrorCode
    stream: int = 0
    """0: a GOAWAY is expected, else the RST_STREAM of this stream."""


CASES = [
    # §4.2, §6: sizes
    Case("DATA over our MAX_FRAME_SIZE", raw(0, 0, 1, b"x" * 16_385), SIZE),
    Case("a frame header alone that announces 16 MiB", b"\xff\xff\xff\0\0\0\0\0\1", SIZE),
    Case("an unknown frame over our MAX_FRAME_SIZE", raw(0xBB, 0, 1, b"x" * 20_000), SIZE),
    Case("PADDED DATA without a pad length", raw(0, 8, 1), SIZE),
    Case("PADDED HEADERS without a pad length", raw(1, 12, 3), SIZE),
    Case("HEADERS too short for their priority", raw(1, 0x24, 3, b"1234"), SIZE),
    Case("RST_STREAM of 3 bytes", raw(3, 0, 1, b"123"), SIZE),
    Case("RST_STREAM of 5 bytes", raw(3, 0, 1, b"12345"), SIZE),
    Case("SETTINGS of 5 bytes", raw(4, 0, 0, b"12345"), SIZE),
    Case("SETTINGS ACK with a payload", raw(4, 1, 0, b"123456"), SIZE),
    Case("PING of 7 bytes", raw(6, 0, 0, b"1234567"), SIZE),
    Case("PING of 9 bytes", raw(6, 0, 0, b"123456789"), SIZE),
    Case("PING ACK of 6 bytes", raw(6, 1, 0, b"123456"), SIZE),
    Case("GOAWAY of 7 bytes", raw(7, 0, 0, b"1234567"), SIZE),
    Case("WINDOW_UPDATE of 3 bytes", raw(8, 0, 0, b"123"), SIZE),
    Case("WINDOW_UPDATE of 5 bytes on a stream", raw(8, 0, 1, b"12345"), SIZE),
    Case("PRIORITY of 4 bytes on an open stream", raw(2, 0, 1, b"1234"), SIZE, 1),
    Case("PRIORITY of 6 bytes on an idle stream", raw(2, 0, 7, b"123456"), SIZE),
    # §6.1, §6.2: padding
    Case("DATA with padding as long as the frame", raw(0, 8, 1, b"\x05abcd"), PROTOCOL),
    Case("HEADERS with padding as long as the frame", raw(1, 12, 3, b"\x05abcd"), PROTOCOL),
    # §5.1: states
    Case("DATA on an idle stream", raw(0, 0, 7, b"x"), PROTOCOL),
    Case("HEADERS on an idle stream", head(7), PROTOCOL),
    Case("RST_STREAM on an idle stream", raw(3, 0, 7, b"\0\0\0\x08"), PROTOCOL),
    Case("WINDOW_UPDATE on an idle stream", raw(8, 0, 7, b"\0\0\0\x08"), PROTOCOL),
    Case("DATA before the head", raw(0, 0, 3, b"x"), PROTOCOL, 3),
    Case("DATA on an ended stream", raw(0, 0, 5, b"x"), CLOSED, 5),
    Case("HEADERS on an ended stream", head(5), CLOSED, 5),
    # §5.1.1: ids
    Case("DATA on stream 0", raw(0, 0, 0, b"x"), PROTOCOL),
    Case("HEADERS on stream 0", head(0), PROTOCOL),
    Case("PRIORITY on stream 0", raw(2, 0, 0, b"12345"), PROTOCOL),
    Case("RST_STREAM on stream 0", raw(3, 0, 0, b"\0\0\0\x08"), PROTOCOL),
    Case("DATA on an even stream", raw(0, 0, 2, b"x"), PROTOCOL),
    Case("HEADERS on an even stream", head(2), PROTOCOL),
    Case("RST_STREAM on an even stream", raw(3, 0, 2, b"\0\0\0\x08"), PROTOCOL),
    Case("WINDOW_UPDATE on an even stream", raw(8, 0, 2, b"\0\0\0\x08"), PROTOCOL),
    Case("SETTINGS on a stream", raw(4, 0, 1), PROTOCOL),
    Case("PING on a stream", raw(6, 0, 1, b"12345678"), PROTOCOL),
    Case("GOAWAY on a stream", raw(7, 0, 1, b"\0\0\0\1\0\0\0\0"), PROTOCOL),
    # §6.2, §6.10: header blocks
    Case("CONTINUATION of nothing", raw(9, 4, 1), PROTOCOL),
    Case("CONTINUATION of another stream", raw(1, 0, 3) + raw(9, 4, 1), PROTOCOL),
    Case("DATA within a header block", raw(1, 0, 3) + raw(0, 0, 1, b"x"), PROTOCOL),
    Case("PING within a header block", raw(1, 0, 3) + raw(6, 0, 0, b"12345678"), PROTOCOL),
    Case("an unknown frame within a header block", raw(1, 0, 3) + raw(0xBB, 0, 0), PROTOCOL),
    Case("HEADERS within a header block", raw(1, 0, 3) + head(1, flags=5), PROTOCOL),
    Case("CONTINUATION behind a finished block", head(3) + raw(9, 4, 3), PROTOCOL),
    # §4.3: compression
    Case("an index out of the table", raw(1, 4, 3, b"\xff\x7f"), COMPRESSION),
    Case("index 0", raw(1, 4, 3, b"\x80"), COMPRESSION),
    Case("a block that breaks off", raw(1, 4, 3, b"\x88\x40\x0aab"), COMPRESSION),
    Case("Huffman padding of zeros", raw(1, 4, 3, b"\x00\x81\x00\x00"), COMPRESSION),
    Case("a number without end", raw(1, 4, 3, b"\x3f" + b"\xff" * 20), COMPRESSION),
    Case("a table over our size", raw(1, 4, 3, b"\x3f\xe2\x1f"), COMPRESSION),
    Case("a table size behind a field", raw(1, 4, 3, b"\x88\x20"), COMPRESSION),
    # §6.5.2: settings
    Case("ENABLE_PUSH of 1", raw(4, 0, 0, b"\0\2\0\0\0\1"), PROTOCOL),
    Case("ENABLE_PUSH of 2", raw(4, 0, 0, b"\0\2\0\0\0\2"), PROTOCOL),
    Case("INITIAL_WINDOW_SIZE of 2^31", raw(4, 0, 0, b"\0\4\x80\0\0\0"), FLOW),
    Case("MAX_FRAME_SIZE of 16383", raw(4, 0, 0, b"\0\5\0\0\x3f\xff"), PROTOCOL),
    Case("MAX_FRAME_SIZE of 2^24", raw(4, 0, 0, b"\0\5\1\0\0\0"), PROTOCOL),
    # §6.6, §8.4: push
    Case(
        "PUSH_PROMISE",
        PushPromiseFrame(1, 2, b"\x82\x84\x86", flags=["END_HEADERS"]).serialize(),
        PROTOCOL,
    ),
    # §6.9: windows
    Case("WINDOW_UPDATE of 0 on the connection", raw(8, 0, 0, b"\0\0\0\0"), PROTOCOL),
    Case("WINDOW_UPDATE of 0 on a stream", raw(8, 0, 1, b"\0\0\0\0"), PROTOCOL, 1),
    Case("a connection window over 2^31-1", raw(8, 0, 0, b"\x7f\xff\xff\xff"), FLOW),
    Case("a stream window over 2^31-1", raw(8, 0, 1, b"\x7f\xff\xff\xff"), FLOW, 1),
    Case(
        "SETTINGS that lift a stream window over 2^31-1",
        raw(8, 0, 1, b"\0\0\0\1") + raw(4, 0, 0, b"\0\4\x7f\xff\xff\xff"),
        FLOW,
    ),
    Case("DATA over the stream window", raw(0, 0, 1, b"x" * 16_384) * 17, FLOW),
    # §8: messages (the head's own rules are a table in test_h2_engine.py)
    Case("no :status", head(3, (b"a", b"b")), PROTOCOL, 3),
    Case("an upper-case name", head(3, (b":status", b"200"), (b"A", b"b")), PROTOCOL, 3),
    Case("a request's pseudo header", head(3, (b":status", b"200"), (b":path", b"/")), PROTOCOL, 3),
    Case("an interim response that ends", head(3, (b":status", b"103"), flags=5), PROTOCOL, 3),
    Case("a second head", head(1), PROTOCOL, 1),
    Case("trailers with a :status", head(1, flags=5), PROTOCOL, 1),
    Case(
        "less DATA than content-length",
        head(3, (b":status", b"200"), (b"content-length", b"9")) + raw(0, 1, 3, b"x"),
        PROTOCOL,
        3,
    ),
    # §10.5: floods
    Case("a flood of PINGs", raw(6, 0, 0, b"12345678") * 1001, CALM),
    Case("a flood of PING ACKs", raw(6, 1, 0, b"12345678") * 1001, CALM),
    Case("a flood of SETTINGS", raw(4, 0, 0) * 101, CALM),
    Case("a flood of SETTINGS ACKs", raw(4, 1, 0) * 101, CALM),
    Case("a flood of empty DATA", raw(0, 0, 1) * 1001, CALM),
    Case("a flood of padded empty DATA", raw(0, 8, 1, b"\0") * 1001, CALM),
    Case("a flood of empty CONTINUATIONs", raw(1, 0, 3) + raw(9, 0, 3) * 1001, CALM),
    Case("CONTINUATIONs without end", raw(1, 0, 3) + raw(9, 0, 3, b"\0" * 16_384) * 17, CALM),
    Case("a flood of RST_STREAM", raw(3, 0, 5, b"\0\0\0\x08") * 1010, CALM),
    Case("a flood of WINDOW_UPDATEs", raw(8, 0, 0, b"\0\0\0\1") * 1030, CALM),
    Case("a flood of stream WINDOW_UPDATEs", raw(8, 0, 5, b"\0\0\0\1") * 1030, CALM),
    Case("a flood of interim responses", head(3, (b":status", b"103")) * 220, CALM),
    Case("a flood of PRIORITY", PriorityFrame(3).serialize() * 1030, CALM),
    Case("a flood of unknown frames", raw(0xBB, 0, 0) * 1030, CALM),
    Case("a flood of GOAWAYs", raw(7, 0, 0, b"\x7f\xff\xff\xff\0\0\0\0") * 1030, CALM),
    Case("a flood of DATA on an ended stream", raw(0, 0, 5, b"x") * 101, CALM),
    Case("a header bomb", head(3) + raw(1, 4, 5, b"\x88" * 8_000), CALM),
]


class Start(NamedTuple):
    connection: Connection
    there: PeerConnection
    answered: Recorder  # stream 1: its head is there
    waiting: Recorder  # stream 3: nothing yet


async def start(peer: Peer) -> Start:
    """Streams 1, 3 and 5 in the states that the table names."""
    connection, there = await greeted(peer, NO_PINGS)
    one, three, five = Recorder(), Recorder(), Recorder()
    streams = [connection.request(GET, recorder) for recorder in (one, three, five)]
    streams[0].pause_reading()  # nothing is given back: its window is what it was at the start
    there.send(head(1), head(5, flags=5))
    await five.over()
    await one.until(lambda: one.head)
    return Start(connection, there, one, three)


async def expect_goaway(begun: Start, code: ErrorCode) -> None:
    """GOAWAY with its code, a typed error for every stream, and the socket closed."""
    goaway = await begun.there.frame(GoAwayFrame)
    assert ErrorCode(goaway.error_code) == code
    await begun.there.until(lambda: begun.there.closed)
    await begun.connection.wait_closed()
    for recorder in (begun.answered, begun.waiting):
        assert isinstance(recorder.error, UpstreamProtocolError)
    assert begun.connection.closed
    assert (begun.connection.open_streams, begun.connection.capacity) == (0, 0)


async def expect_reset(begun: Start, code: ErrorCode, stream_id: int) -> None:
    """RST_STREAM with its code; the other streams go on."""
    reset = await begun.there.frame(RstStreamFrame, stream_id)
    assert ErrorCode(reset.error_code) == code
    hit, other, other_id = begun.answered, begun.waiting, 3
    if stream_id == 3:
        hit, other, other_id = begun.waiting, begun.answered, 1
    if stream_id != 5:
        await hit.over()
        assert isinstance(hit.error, UpstreamProtocolError)
    if other_id == 3:
        begun.there.send(head(3))
    begun.there.send(raw(0, 1, other_id, b"fine"))
    await other.over()
    assert (other.body, other.error) == (b"fine", None)
    assert not begun.connection.closed


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_a_broken_rule_is_answered_by_its_code(case: Case) -> None:
    async with Peer(raw=True, tls=False) as peer:
        begun = await start(peer)
        begun.there.send(case.sent)
        if case.stream:
            await expect_reset(begun, case.code, case.stream)
        else:
            await expect_goaway(begun, case.code)


def test_every_case_has_its_own_name() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


HARMLESS = {
    "PRIORITY": PriorityFrame(1, depends_on=3).serialize() + PriorityFrame(9).serialize(),
    "unknown frames": raw(0xBB, 0xFF, 0, b"any") + raw(0xBC, 0, 2, b"thing"),
    "a reserved bit on DATA": raw(0, 0, 1 | 1 << 31, b"of"),
    "undefined flags on DATA": raw(0, 0xF6, 1, b"of"),
    "undefined flags on PING": raw(6, 0xFE, 0, b"12345678"),
    "an unknown setting": raw(4, 0, 0, b"\x0a\x0a\0\0\0\1"),
    "an answer to a PING never sent": raw(6, 1, 0, b"12345678"),
    "ALTSVC and ORIGIN": raw(0xA, 0, 0, b"\0\0h2") + raw(0xC, 0, 0, b"\0\0"),
    "RST_STREAM of an ended stream": raw(3, 0, 5, b"\0\0\0\0"),
    "WINDOW_UPDATE of an ended stream": raw(8, 0, 5, b"\0\0\0\1"),
    "an empty DATA frame": raw(0, 0, 1),
    "the largest windows": raw(8, 0, 0, struct.pack(">I", 2**31 - 1 - 65_535)),
    "interim responses": head(3, (b":status", b"100")) + head(3, (b":status", b"103")),
    "an empty header block part": raw(1, 0, 3) + raw(9, 0, 3) + raw(9, 4, 3, b"\x88"),
}


@pytest.mark.parametrize("name", HARMLESS)
async def test_what_the_rules_allow_or_tell_us_to_ignore_harms_nothing(name: str) -> None:
    async with Peer(raw=True, tls=False) as peer:
        begun = await start(peer)
        begun.there.send(HARMLESS[name])
        if name not in ("an empty header block part",):
            begun.there.send(head(3))
        begun.there.send(raw(0, 0, 1, b" course"), raw(0, 1, 1), raw(0, 1, 3, b"fine"))
        await begun.answered.over()
        await begun.waiting.over()
        assert begun.answered.body in (b"of course", b" course")
        assert begun.waiting.body == b"fine"
        assert begun.there.seen(GoAwayFrame) == []


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (raw(6, 0, 0, b"12345678"), PROTOCOL),
        (raw(4, 1, 0), PROTOCOL),
        (head(1), PROTOCOL),
        (raw(0xBB, 0, 0), PROTOCOL),
        (b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n", PROTOCOL),
        (b"SSH-2.0-OpenSSH_9.2\r\n", SIZE),
    ],
    ids=["PING", "SETTINGS ACK", "HEADERS", "unknown frame", "HTTP/1.1", "another protocol"],
)
async def test_a_server_must_begin_with_settings(first: bytes, code: ErrorCode) -> None:
    async with Peer(raw=True, tls=False) as peer:
        connection = await connect(peer, NO_PINGS)
        recorder = Recorder()
        connection.request(GET, recorder)
        there = await peer.connection()
        await there.frame(HeadersFrame)
        there.send(first)
        goaway = await there.frame(GoAwayFrame)
        assert ErrorCode(goaway.error_code) == code
        await recorder.over()
        assert isinstance(recorder.error, UpstreamProtocolError)
        assert ("HTTP/1" in recorder.error.message) == first.startswith(b"HTTP/1")
        await connection.wait_closed()


@pytest.mark.parametrize("tls", [True, False])
async def test_a_violation_closes_the_socket_even_when_the_peer_holds_on(tls: bool) -> None:
    """The peer neither reads the GOAWAY nor answers TLS's close."""
    async with Peer(raw=True, tls=tls) as peer:
        connection, there = await greeted(peer, NO_PINGS)
        recorder = Recorder()
        connection.request(GET, recorder)
        await there.frame(HeadersFrame)
        there.deaf = True
        there.transport.pause_reading()
        there.send(raw(6, 0, 1, b"12345678"))
        await recorder.over()
        assert connection.closed
        await connection.wait_closed()


async def test_what_follows_a_violation_is_not_read() -> None:
    async with Peer(raw=True, tls=False) as peer:
        begun = await start(peer)
        begun.there.send(
            raw(6, 0, 1, b"12345678"), raw(0, 1, 1, b"too late"), raw(6, 0, 0, b"8" * 8)
        )
        await begun.connection.wait_closed()
        assert begun.answered.body == b""
        assert isinstance(begun.answered.error, UpstreamProtocolError)
        assert begun.there.acks() == []


async def test_no_new_stream_is_opened_after_a_violation() -> None:
    async with Peer(raw=True, tls=False) as peer:
        begun = await start(peer)
        begun.there.send(raw(6, 0, 1, b"12345678"))
        await begun.waiting.over()
        assert begun.connection.capacity == 0
        with pytest.raises(Refused):
            begun.connection.request(GET, Recorder())


async def test_a_peer_that_ignores_our_resets_is_read_past() -> None:
    """What was in flight, or is sent on regardless, uses no memory and no other stream's window."""
    async with Peer(raw=True, tls=False) as peer:
        begun = await start(peer)
        connection, there = begun.connection, begun.there
        stream = connection.request(GET, Recorder())
        there.send(head(stream.id))
        stream.cancel()
        await there.frame(RstStreamFrame, stream.id)
        for _ in range(8):
            there.send(raw(0, 0, stream.id, b"x" * 16_384) * 192)  # 3 MiB; the window is 16
            await there.synced()
        granted = sum(f.window_increment for f in there.seen(WindowUpdateFrame, 0))
        assert granted >= 24 * 2**20
        assert there.seen(WindowUpdateFrame, stream.id) == []
        there.send(raw(0, 1, 1, b"fine"))
        await begun.answered.over()
        assert begun.answered.body == b"fine"


@pytest.mark.parametrize("code", [0, 1, 2, 5, 8, 11, 13, 0x99])
async def test_a_reset_is_an_error_whatever_its_code_and_names_it(code: int) -> None:
    """Also NO_ERROR, before the end: the response is not whole."""
    async with Peer(raw=True, tls=False) as peer:
        begun = await start(peer)
        begun.there.send(DataFrame(1, b"half"), RstStreamFrame(1, code))
        await begun.answered.over()
        assert begun.answered.body == b"half"
        assert type(begun.answered.error) is UpstreamReset
        assert frames.code_name(code) in begun.answered.error.message
