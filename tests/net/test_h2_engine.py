"""The engine, fed by hand: responses however cut, windows, uploads, what it keeps of the past."""

from __future__ import annotations

import gc
import sys
from itertools import pairwise

import pytest
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import Refused, UpstreamProtocolError, UpstreamReset
from proxy.net.h2 import frames
from proxy.net.h2.frames import ErrorCode
from proxy.net.h2.state import H2Settings, StreamState
from tests.fakes.h2_sinks import GET, OK, POST, Headers, Recorder
from tests.fakes.h2_wire import GREETING, Wire, data_of

# --- a response, however it is cut ---------------------------------------------------------------


def long_response() -> bytes:
    """All that a server may lawfully do, in answer to five requests."""
    hpack = Encoder()

    def block(headers: Headers) -> bytes:
        return hpack.encode(headers)

    cut = block([(b":status", b"200"), (b"x-long", b"v" * 300), (b"x-two", b"1"), (b"x-two", b"2")])
    padded = DataFrame(1, b"padded", pad_length=100, flags=["PADDED"])
    sent: list[Frame | bytes] = [
        SettingsFrame(0, {SettingsFrame.MAX_CONCURRENT_STREAMS: 10}),
        SettingsFrame(0, flags=["ACK"]),
        HeadersFrame(1, block([(b":status", b"103"), (b"link", b"</a>")]), flags=["END_HEADERS"]),
        HeadersFrame(1, cut[:50], pad_length=9, flags=["PADDED"]),
        ContinuationFrame(1, cut[50:100]),
        ContinuationFrame(1, b""),
        ContinuationFrame(1, cut[100:], flags=["END_HEADERS"]),
        DataFrame(1, b"data: one\n\n"),
        PingFrame(0, b"pingping"),
        HeadersFrame(3, block(OK), depends_on=1, flags=["END_HEADERS", "PRIORITY"]),
        DataFrame(3, b"x" * 16_384),
        padded,
        PriorityFrame(3, depends_on=0),
        frames.frame(0xEE, 0xFF, 1, b"anything"),
        DataFrame(3, b""),
        WindowUpdateFrame(0, 100),
        WindowUpdateFrame(1, 100),
        HeadersFrame(1, block([(b"x-checksum", b"7")]), flags=["END_HEADERS", "END_STREAM"]),
        HeadersFrame(5, block([(b":status", b"204")]), flags=["END_HEADERS", "END_STREAM"]),
        RstStreamFrame(7, ErrorCode.REFUSED_STREAM),
        HeadersFrame(9, block(OK), flags=["END_HEADERS"]),
        DataFrame(9, b"half"),
        RstStreamFrame(9, ErrorCode.INTERNAL_ERROR),
        DataFrame(3, b"last", flags=["END_STREAM"]),
    ]
    return b"".join(part if isinstance(part, bytes) else part.serialize() for part in sent)


def told(reads: list[bytes]) -> list[object]:
    """What the sinks hear of these reads, and what becomes of the connection."""
    wire = Wire(greet=False)
    recorders = [wire.request()[1] for _ in range(5)]
    for read in reads:
        wire.engine.receive(read)
    goaway = next((f for f in wire.sent() if isinstance(f, GoAwayFrame)), None)
    return [
        (r.head, r.body, r.trailers, r.error and (type(r.error), r.error.message))
        for r in recorders
    ] + [wire.streams.closed, goaway, wire.streams.capacity]


WHOLE = long_response()


def test_every_lawful_frame_is_understood() -> None:
    one, three, five, seven, nine, closed, goaway, capacity = told([WHOLE])
    head = (200, [(b"x-long", b"v" * 300), (b"x-two", b"1"), (b"x-two", b"2")])
    assert one == (head, b"data: one\n\npadded", [(b"x-checksum", b"7")], None)
    assert three == ((200, OK[1:]), b"x" * 16_384 + b"last", [], None)
    assert five == ((204, []), b"", [], None)
    reset = "the upstream reset the stream (INTERNAL_ERROR)"
    refused = "the upstream refused the stream (REFUSED_STREAM)"
    assert seven == (None, b"", None, (Refused, refused))
    assert nine == ((200, OK[1:]), b"half", None, (UpstreamReset, reset))
    assert (closed, goaway, capacity) == (False, None, 10)


def test_a_response_cut_anywhere_is_the_same() -> None:
    expected = told([WHOLE])
    edges = range(0, len(WHOLE) - 16_384, 1)
    for cut in edges:
        # The long DATA frame is crossed once a kilobyte, the rest at every byte.
        at = cut if cut < WHOLE.index(b"xxxx") else cut + 16_384
        assert told([WHOLE[:at], WHOLE[at:]]) == expected
    for at in range(WHOLE.index(b"xxxx"), WHOLE.index(b"xxxx") + 16_384, 1024):
        assert told([WHOLE[:at], WHOLE[at:]]) == expected


def test_a_response_fed_byte_by_byte_is_the_same() -> None:
    reads = [WHOLE[at : at + 1] for at in range(len(WHOLE))]
    assert told(reads) == told([WHOLE])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, len(WHOLE)), max_size=30))
def test_a_response_cut_in_many_places_is_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WHOLE)]
    reads = [WHOLE[a:b] for a, b in pairwise(edges)]
    assert told(reads) == told([WHOLE])


def test_the_data_of_one_read_is_told_in_one_call_per_stream() -> None:
    wire = Wire()
    one, hears_one = wire.answered()
    two, hears_two = wire.answered()
    wire.feed(
        DataFrame(one.id, b"a"),
        DataFrame(two.id, b"1"),
        DataFrame(one.id, b"b", pad_length=3, flags=["PADDED"]),
        PingFrame(0, b"\0" * 8),
        DataFrame(two.id, b"2", flags=["END_STREAM"]),
        DataFrame(one.id, b"c"),
    )
    assert hears_one.reads == [b"abc"]
    assert hears_two.reads == [b"12"]
    assert hears_two.trailers == []


def test_data_before_a_violation_is_still_told() -> None:
    wire = Wire()
    stream, recorder = wire.answered()
    wire.feed(DataFrame(stream.id, b"whole"), b"\0\0\1\6\0\0\0\0\0x")
    assert recorder.body == b"whole"
    assert isinstance(recorder.error, UpstreamProtocolError)


# --- header blocks and the state they share ------------------------------------------------------


def test_the_peers_table_may_change_size_up_to_ours() -> None:
    wire = Wire()
    for size in (0, 4096, 100):
        wire.hpack.header_table_size = size
        _, recorder = wire.answered([*OK, (b"x-size", b"%d" % size)])
        assert recorder.head is not None
    wire.hpack.header_table_size = 4097
    stream, _ = wire.request()
    wire.feed(wire.block(stream.id, OK))
    goaway = wire.goaway()
    assert goaway is not None
    assert goaway.error_code == ErrorCode.COMPRESSION_ERROR


def test_a_block_of_a_cancelled_stream_still_counts_for_compression() -> None:
    wire = Wire()
    gone, _ = wire.request()
    wire.streams.cancel(gone)
    headers = [*OK, (b"x-new", b"in the table")]
    wire.feed(wire.block(gone.id, headers))
    _, recorder = wire.answered(headers)
    assert recorder.head == (200, headers[1:])


@pytest.mark.parametrize("count", [1, 5])
def test_a_header_list_up_to_the_limit_is_taken(count: int) -> None:
    limit = H2Settings().header_list_limit
    size = (limit - 32 - len(b":status200")) // count - 32 - 3
    fine = [(b":status", b"200"), *((b"x-%d" % n, b"v" * size) for n in range(count))]
    wire = Wire()
    _, recorder = wire.request()
    wire.feed(*in_parts(wire.hpack.encode(fine, huffman=False)))
    assert recorder.head == (200, fine[1:])
    wire.request()
    wire.feed(*in_parts(wire.hpack.encode([*fine, (b"x", b"v" * 40)], huffman=False), 3))
    goaway = wire.goaway()
    assert goaway is not None
    assert goaway.error_code == ErrorCode.ENHANCE_YOUR_CALM


def in_parts(block: bytes, stream_id: int = 1) -> list[Frame]:
    parts = [block[at : at + 16_384] for at in range(0, len(block), 16_384)]
    sent: list[Frame] = [HeadersFrame(stream_id, parts[0])]
    sent += [ContinuationFrame(stream_id, part) for part in parts[1:]]
    sent[-1].flags.add("END_HEADERS")
    return sent


# --- what is kept --------------------------------------------------------------------------------


def test_ended_streams_leave_no_trace() -> None:
    wire = Wire()

    def exchange(n: int) -> None:
        stream, _ = wire.request(POST, b"body")
        if n % 5 == 0:
            wire.feed(wire.block(stream.id))
            wire.streams.cancel(stream)
            wire.feed(DataFrame(stream.id, b"late"), RstStreamFrame(stream.id, 0))
        elif n % 5 == 1:
            wire.feed(RstStreamFrame(stream.id, 7))
        elif n % 5 == 2:
            wire.feed(wire.block(stream.id, [(b":status", b"bad")]))
        else:
            data = DataFrame(stream.id, b"x" * 2000, flags=["END_STREAM"])
            wire.feed(wire.block(stream.id), data)
        wire.streams.uploads.pump(2**31)
        wire.streams.out.clear()
        wire.feed(WindowUpdateFrame(0, 4))

    for n in range(2_000):
        exchange(n)
    gc.collect()
    before = sys.getallocatedblocks()
    for n in range(2_000):
        exchange(n)
    gc.collect()
    assert sys.getallocatedblocks() - before < 100
    assert not wire.streams.closed
    assert wire.streams.open == wire.streams.bodies == {}
    assert wire.streams.requests == 4_000


def test_a_frame_to_a_stream_reset_long_ago_is_still_no_error() -> None:
    wire = Wire()
    first, _ = wire.answered()
    wire.streams.cancel(first)
    for _ in range(300):
        stream, _ = wire.request()
        wire.streams.cancel(stream)
    wire.sent()
    wire.feed(DataFrame(first.id, b"late"))
    assert wire.sent() == []


@pytest.mark.parametrize("kind", ["data", "headers"])
def test_a_frame_behind_the_end_of_its_stream_is_answered_with_a_reset(kind: str) -> None:
    wire = Wire()
    stream, recorder = wire.answered()
    _, other = wire.answered()
    wire.feed(DataFrame(stream.id, b"end", flags=["END_STREAM"]))
    wire.feed(DataFrame(stream.id, b"more") if kind == "data" else wire.block(stream.id))
    (reset,) = wire.sent()
    assert isinstance(reset, RstStreamFrame)
    assert reset.error_code == ErrorCode.STREAM_CLOSED
    assert recorder.body == b"end"
    assert not other.done


# --- the rest ------------------------------------------------------------------------------------


def test_capacity_is_what_the_peer_allows() -> None:
    wire = Wire(greet=False)
    assert wire.streams.capacity == 100
    wire.feed(GREETING)
    assert wire.streams.capacity == 2**31 - 1
    wire.feed(SettingsFrame(0, {SettingsFrame.MAX_CONCURRENT_STREAMS: 2}))
    stream, _ = wire.request()
    wire.request()
    assert wire.streams.capacity == 0
    with pytest.raises(Refused):
        wire.request()
    wire.feed(SettingsFrame(0, {SettingsFrame.MAX_CONCURRENT_STREAMS: 1}))
    assert wire.streams.capacity == 0
    wire.streams.cancel(stream)
    assert wire.streams.capacity == 0
    wire.feed(SettingsFrame(0, {SettingsFrame.MAX_CONCURRENT_STREAMS: 2}))
    assert wire.streams.capacity == 1


def test_a_connection_out_of_stream_ids_takes_no_more() -> None:
    wire = Wire()
    wire.streams._next_id = 2**31 - 1
    wire.request()
    assert wire.streams.draining
    with pytest.raises(Refused):
        wire.request()


def test_a_refusal_after_an_answer_is_not_believed() -> None:
    """Retrying would glue a second answer to a first."""
    wire = Wire()
    one, hears_one = wire.answered()
    two, hears_two = wire.answered()
    wire.feed(RstStreamFrame(one.id, ErrorCode.REFUSED_STREAM))
    wire.feed(GoAwayFrame(0, 0))
    for recorder in (hears_one, hears_two):
        assert type(recorder.error) is UpstreamReset
    assert two.sink is None


def test_round_trips_are_measured_on_settings_then_on_ping() -> None:
    wire = Wire()
    assert wire.engine.rtt is None
    wire.clock.now += 0.25
    wire.feed(SettingsFrame(0, flags=["ACK"]))
    assert wire.engine.rtt == 0.25
    wire.engine.ping()
    (ping,) = wire.sent()
    assert isinstance(ping, PingFrame)
    wire.clock.now += 0.125
    wire.feed(PingFrame(0, b"\0" * 8, flags=["ACK"]))  # not ours
    assert wire.engine.rtt == 0.25
    wire.feed(PingFrame(0, ping.opaque_data, flags=["ACK"]))
    assert wire.engine.rtt == 0.125


def test_an_allowance_is_for_ten_seconds() -> None:
    wire = Wire()
    for _ in range(5):
        wire.clock.now += 10
        wire.feed(*(PingFrame(0, b"\0" * 8) for _ in range(1000)))
        wire.sent()
    assert not wire.streams.closed
    wire.feed(*(PingFrame(0, b"\0" * 8) for _ in range(1001)))
    goaway = wire.goaway()
    assert goaway is not None
    assert goaway.error_code == ErrorCode.ENHANCE_YOUR_CALM


def test_window_updates_for_what_we_upload_are_no_flood() -> None:
    wire = Wire()
    wire.feed(SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 2**30}))
    wire.request(POST, b"x" * 16_384 * 700)
    for _ in range(700):
        sent = len(data_of(wire.sent(), 1))
        wire.feed(*(WindowUpdateFrame(0, sent // 16) for _ in range(16)) if sent else ())
    assert not wire.streams.closed


def test_a_sink_may_cancel_open_and_close_from_within() -> None:
    wire = Wire()

    class Restless(Recorder):
        def on_data(self, data: bytes) -> None:
            super().on_data(data)
            for stream in tuple(wire.streams.open.values()):
                wire.streams.cancel(stream)
            wire.request()

    sinks = [Restless() for _ in range(3)]
    for sink in sinks:
        stream = StreamState(sink)
        wire.streams.request(stream, GET, b"", end=True)
        wire.feed(wire.block(stream.id))
    wire.sent()
    wire.feed(*(DataFrame(n, b"all at once") for n in (1, 3, 5)))
    assert [sink.reads for sink in sinks] == [[b"all at once"], [], []]
    assert [type(f) for f in wire.sent()] == [RstStreamFrame] * 3 + [HeadersFrame]
    assert list(wire.streams.open) == [7]


def test_goaway_is_the_last_that_a_peer_hears() -> None:
    """Also when what came before the violation breaks another rule."""
    wire = Wire()
    stream, recorder = wire.answered([*OK, (b"content-length", b"1")])
    wire.feed(DataFrame(stream.id, b"more"), b"\0\0\1\6\0\0\0\0\0x")
    assert [type(f) for f in wire.sent()] == [RstStreamFrame, GoAwayFrame]
    assert isinstance(recorder.error, UpstreamProtocolError)
