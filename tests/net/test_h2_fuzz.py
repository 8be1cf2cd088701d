"""Mutated server streams. The invariant: whatever a server sends, and however it is cut,

- nothing escapes `data_received`;
- every request ends exactly once, at the latest with the connection, and with a typed error;
- what we send stays lawful, and after a violation nothing is read any more.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator

import pytest
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from proxy.errors import Refused, UpstreamProtocolError, UpstreamReset
from proxy.net.h2 import frames
from proxy.net.h2.connection import Connection, H2Settings
from tests.fakes.h2_peer import PREFACE
from tests.fakes.h2_sinks import GET, OK, POST, Recorder
from tests.fakes.h2_wire import parse_frames

SEED = 20_240_601
STREAMS = 6


class Memory(asyncio.Transport):
    """A transport without a socket: keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True

    def get_write_buffer_size(self) -> int:
        return 0


def recorded() -> list[bytes]:
    """A good server's answer to `STREAMS` requests, as frames."""
    hpack = Encoder()
    sent: list[Frame] = [
        SettingsFrame(0, {SettingsFrame.MAX_CONCURRENT_STREAMS: 50}),
        SettingsFrame(0, flags=["ACK"]),
        WindowUpdateFrame(0, 1_000_000),
    ]
    for stream_id in range(1, 2 * STREAMS, 2):
        block = hpack.encode([*OK, (b"x-log-id", b"%d" % stream_id), (b"set-cookie", b"a=b")])
        sent.append(HeadersFrame(stream_id, block[:9]))
        sent.append(ContinuationFrame(stream_id, block[9:], flags=["END_HEADERS"]))
    for n in range(12):
        stream_id = 2 * (n % STREAMS) + 1
        sent.append(DataFrame(stream_id, b'data: {"n": %d}\n\n' % n))
        if n % 4 == 0:
            sent.append(DataFrame(stream_id, b"padded", pad_length=7, flags=["PADDED"]))
    sent += [
        PingFrame(0, b"12345678"),
        WindowUpdateFrame(1, 1000),
        HeadersFrame(1, hpack.encode([(b"x-t", b"1")]), flags=["END_HEADERS", "END_STREAM"]),
        DataFrame(3, b"data: [DONE]\n\n", flags=["END_STREAM"]),
        RstStreamFrame(5, 2),
        GoAwayFrame(0, 9, 0),
        DataFrame(7, b"data: [DONE]\n\n", flags=["END_STREAM"]),
        DataFrame(9, b"", flags=["END_STREAM"]),
    ]
    return [frame.serialize() for frame in sent]


GOOD = recorded()


def mutated(rng: random.Random) -> bytes:
    """Whole frames moved about, then bytes damaged: flips, cuts, repeats, insertions."""
    parts = list(GOOD)
    for _ in range(rng.choice((0, 0, 1, 2, 5))):
        at = rng.randrange(1, len(parts))
        match rng.randrange(4):
            case 0:
                parts.insert(rng.randrange(1, len(parts)), parts[at])
            case 1:
                del parts[at]
            case 2:
                parts[at - 1], parts[at] = parts[at], parts[at - 1]
            case _:
                parts[at] = damaged_header(rng, parts[at])
    data = bytearray(b"".join(parts))
    for _ in range(rng.choice((0, 1, 1, 2, 8))):
        at = rng.randrange(len(data))
        match rng.randrange(5):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.randrange(256)
            case 2:
                del data[at : at + rng.randrange(1, 40)]
            case 3:
                data[at:at] = data[at : at + rng.randrange(1, 60)]
            case _:
                data[at:at] = rng.randbytes(rng.randrange(1, 20))
        if not data:
            break
    return bytes(data)


def damaged_header(rng: random.Random, frame: bytes) -> bytes:
    """Another type, other flags or another stream, with a length that still fits."""
    header = bytearray(frame[:9])
    place = rng.choice((3, 4, 8))
    header[place] = rng.randrange(12) if place != 4 else rng.randrange(256)
    return bytes(header) + frame[9:]


def pieces(rng: random.Random, data: bytes) -> Iterator[bytes]:
    """The same bytes in reads of random sizes: one, a few, or very many."""
    step = rng.choice((len(data), len(data), 500, 37, 1)) or 1
    for at in range(0, len(data), step):
        yield data[at : at + step]


class Run:
    """One connection with `STREAMS` requests, some of them uploads, one cancelled midway."""

    def __init__(self) -> None:
        self.changes = 0
        self.transport = Memory()
        self.connection = Connection(H2Settings(ping_interval=0), self.changed)
        self.connection.connection_made(self.transport)
        self.recorders = [Recorder() for _ in range(STREAMS)]
        self.streams = [
            self.connection.request(POST, recorder, b"b" * 30_000) if n % 2 else
            self.connection.request(GET, recorder)
            for n, recorder in enumerate(self.recorders)
        ]  # fmt: skip

    def changed(self, connection: Connection) -> None:
        self.changes += 1

    def feed(self, reads: Iterator[bytes]) -> None:
        for n, read in enumerate(reads):
            self.connection.data_received(read)
            if n == 3:
                self.streams[4].cancel()
            if n == 5:
                self.streams[0].pause_reading()

    def end(self) -> None:
        self.connection.connection_lost(None)

    def tale(self) -> list[object]:
        """What each sink was told."""
        return [
            (r.head, r.body, r.trailers, r.error and (type(r.error), r.error.message))
            for r in self.recorders
        ]


def check(run: Run, seed: int) -> None:
    sent = parse_frames(bytes(run.transport.written).removeprefix(PREFACE))
    violated = any(isinstance(f, GoAwayFrame) and f.error_code for f in sent)
    if violated:
        assert run.connection.closed, seed
        assert isinstance(sent[-1], GoAwayFrame), seed
        assert run.transport.closing, seed
        run.connection.data_received(frames.ping(b"too late"))
        assert run.connection.engine.streams.out == [], seed
    run.end()
    for recorder, stream in zip(run.recorders, run.streams, strict=True):
        assert stream.over, seed
        cancelled = stream is run.streams[4] and not recorder.done
        assert recorder.done or cancelled, seed
        assert type(recorder.error) in (
            type(None), Refused, UpstreamReset, UpstreamProtocolError
        ), seed  # fmt: skip
    assert run.connection.closed, seed
    assert run.connection.open_streams == run.connection.capacity == 0, seed
    assert run.changes, seed


async def sweep(first: int, count: int) -> None:
    endings: set[str] = set()
    for seed in range(first, first + count):
        rng = random.Random(seed)
        run = Run()
        run.feed(pieces(rng, mutated(rng)))
        check(run, seed)
        endings |= {type(recorder.error).__name__ for recorder in run.recorders}
    assert endings == {"NoneType", "Refused", "UpstreamReset", "UpstreamProtocolError"}


async def test_four_thousand_mutated_streams_break_nothing() -> None:
    await sweep(SEED, 4_000)


@pytest.mark.long
async def test_two_hundred_thousand_mutated_streams_break_nothing() -> None:
    await sweep(SEED + 10_000, 200_000)


async def test_random_bytes_behind_a_greeting_break_nothing() -> None:
    rng = random.Random(SEED)
    for _ in range(300):
        run = Run()
        run.feed(iter([GOOD[0], rng.randbytes(rng.randrange(400))]))
        check(run, -1)


async def test_the_recorded_stream_itself_is_answered_as_meant() -> None:
    run = Run()
    run.feed(iter([b"".join(GOOD)]))
    one, three, five, seven, nine, eleven = run.recorders
    assert one.trailers == [(b"x-t", b"1")]
    assert three.trailers == seven.trailers == nine.trailers == []
    assert type(five.error) is UpstreamReset
    assert type(eleven.error) is UpstreamReset  # above GOAWAY's last, but it had an answer
    assert run.connection.closed
    assert run.transport.closing
    check(run, 0)


async def test_the_recorded_stream_cut_anywhere_is_the_same() -> None:
    whole = b"".join(GOOD)
    expected = told([whole])
    for at in range(len(whole)):
        assert told([whole[:at], whole[at:]]) == expected


async def test_the_recorded_stream_byte_by_byte_is_the_same() -> None:
    whole = b"".join(GOOD)
    assert told([whole[at : at + 1] for at in range(len(whole))]) == told([whole])


async def test_a_mutated_stream_that_is_cut_anywhere_ends_each_request_alike() -> None:
    """Also with an error in it: data before it is told, and the error is the same."""
    for seed in range(60):
        rng = random.Random(seed)
        data = mutated(rng)
        expected = told([data])
        for _ in range(20):
            at = rng.randrange(len(data))
            assert told([data[:at], data[at:]]) == expected, (seed, at)


def told(reads: list[bytes]) -> list[object]:
    run = Run()
    for read in reads:
        run.connection.data_received(read)
    run.end()
    return run.tale()
