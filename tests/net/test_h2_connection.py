"""The connection on real sockets: exchanges, cancels, its event loop."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest
import uvloop
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from proxy.errors import (
    Refused,
    UpstreamProtocolError,
)
from proxy.net.h2.connection import Connection, Head, Reader, Stream
from proxy.net.h2.frames import ErrorCode
from tests.fakes.h2_connect import connect, fine, greeted
from tests.fakes.h2_peer import Peer, Request
from tests.fakes.h2_scripts import echo_or_silence, flowing, silent
from tests.fakes.h2_sinks import GET, OK, POST, Changes, Headers, Recorder, Waiting

# --- a plain exchange ----------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [True, False], ids=["TLS", "plain"])
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_an_exchange_works_on_every_loop_with_and_without_tls(
    loop: Callable[[], asyncio.AbstractEventLoop], tls: bool
) -> None:
    async def script(request: Request) -> None:
        await request.until_ended()
        request.head([(b":status", b"201"), (b"set-cookie", b"a"), (b"set-cookie", b"b")])
        await request.data(bytes(request.body))
        request.trailers([(b"x-checksum", b"7")])

    async def story() -> None:
        async with Peer(script, tls=tls) as peer:
            connection = await connect(peer)
            recorder = Recorder()
            body = b"request body" * 20_000
            stream = connection.request([*POST, (b"x-a", b"1")], recorder, body)
            await recorder.over()
            assert recorder.head == (201, [(b"set-cookie", b"a"), (b"set-cookie", b"b")])
            assert recorder.body == body
            assert recorder.trailers == [(b"x-checksum", b"7")]
            assert stream.over
            request = await peer.request(stream.id)
            assert request.headers == [*POST, (b"x-a", b"1")]
            assert (connection.open_streams, connection.requests) == (0, 1)
            assert connection.rtt is not None
            assert 0 < connection.rtt < 5
            connection.drain()
            await connection.wait_closed()
            there = await peer.connection()
            assert [f.error_code for f in there.seen(GoAwayFrame)] == [ErrorCode.NO_ERROR]

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(story())


async def test_interim_responses_are_passed_over() -> None:
    async def script(request: Request) -> None:
        request.head([(b":status", b"103"), (b"link", b"</a>")])
        request.head([(b":status", b"100")])
        request.head(OK, end=True)

    async with Peer(script) as peer:
        recorder = Recorder()
        (await connect(peer)).request(GET, recorder)
        await recorder.over()
        assert recorder.head == (200, OK[1:])
        assert recorder.trailers == []


async def test_requests_go_out_right_behind_the_preface() -> None:
    """No round trip is spent on waiting for SETTINGS."""
    async with Peer(raw=True) as peer:
        connection = await connect(peer)
        recorders = [Recorder() for _ in range(3)]
        for recorder in recorders:
            connection.request(POST, recorder, b"body")
        there = await peer.connection()
        await there.frame(HeadersFrame, 5)
        assert connection.settings_seen is False
        assert connection.capacity == 97
        kinds = [type(frame) for frame in there.frames[:4]]
        assert kinds == [SettingsFrame, WindowUpdateFrame, HeadersFrame, DataFrame]
        there.send(there.settings(max_concurrent_streams=2), RstStreamFrame(5, 7))
        await recorders[2].over()
        assert type(recorders[2].error) is Refused
        for stream_id in (1, 3):
            there.send(there.block(stream_id, OK, "END_STREAM"))
        await recorders[0].over()
        await recorders[1].over()
        assert (connection.settings_seen, connection.capacity) == (True, 2)


async def test_what_is_sent_in_one_turn_leaves_in_one_write() -> None:
    async with Peer(raw=True, tls=False) as peer:
        connection, there = await greeted(peer)
        there.reads.clear()
        connection.request(POST, Recorder(), b"x" * 40_000)
        await there.frame(DataFrame, 1, count=3)
        assert len(there.reads) == 1


async def test_answers_to_one_read_leave_in_one_write() -> None:
    class Quitting(Recorder):
        stream: Stream

        def on_head(self, head: Head) -> None:
            super().on_head(head)
            self.stream.cancel()

    changes = Changes()
    async with Peer(raw=True, tls=False) as peer:
        connection, there = await greeted(peer, on_change=changes)
        sinks = [Quitting() for _ in range(5)]
        for sink in sinks:
            sink.stream = connection.request(GET, sink)
        await there.frame(HeadersFrame, 9)
        there.reads.clear()
        changes.count = 0
        heads = [there.block(sink.stream.id, OK) for sink in sinks]
        there.send(*heads, there.settings(), PingFrame(0, b"a marker"))
        await there.until(there.acks)
        assert len(there.seen(RstStreamFrame)) == 5
        assert len(there.reads) == 1
        assert changes.count == 1


async def test_the_peers_limit_of_streams_is_kept() -> None:
    async with Peer(echo_or_silence, max_concurrent_streams=3) as peer:
        changes = Changes()
        connection = await connect(peer, on_change=changes)
        await changes.until(lambda: connection.settings_seen)
        streams = [connection.request(GET, Recorder()) for _ in range(3)]
        assert connection.capacity == 0
        with pytest.raises(Refused):
            connection.request(GET, Recorder())
        before = changes.count
        streams[0].cancel()
        assert changes.count == before + 1
        assert (connection.capacity, connection.open_streams) == (1, 2)
        await fine(connection)


@pytest.mark.parametrize("size", [1_000, 17_000, 40_000])
async def test_request_headers_of_any_length_arrive(size: int) -> None:
    long = (b"x-long", b"v" * size)
    async with Peer() as peer:
        connection = await connect(peer)
        reader = Reader.open(connection, [*POST, long], b"body")
        assert await reader.read() == b"body"
        there = await peer.scripted()
        assert long in there.requests[1].headers
        assert len(there.seen(ContinuationFrame, 1)) == size // 16_384


@pytest.mark.parametrize("size", [0, 100, 4096, 65_536])
async def test_any_compression_table_of_the_peer_is_used_rightly(size: int) -> None:
    async with Peer(header_table_size=size) as peer:
        changes = Changes()
        connection = await connect(peer, on_change=changes)
        await changes.until(lambda: connection.settings_seen)
        for n in range(30):
            extra = [(b"x-%d" % (n % 7), b"v" * n * 9), (b"authorization", b"Bearer %d" % n)]
            assert await Reader.open(connection, [*POST, *extra], b"body").read() == b"body"
            assert (await peer.request(2 * n + 1)).headers == [*POST, *extra]


# --- cancel --------------------------------------------------------------------------------------


async def at_once(connection: Connection, peer: Peer) -> tuple[Stream, Recorder]:
    recorder = Recorder()
    return connection.request(GET, recorder), recorder


async def before_the_head(connection: Connection, peer: Peer) -> tuple[Stream, Recorder]:
    stream, recorder = await at_once(connection, peer)
    await peer.request(stream.id)
    return stream, recorder


async def after_the_head(connection: Connection, peer: Peer) -> tuple[Stream, Recorder]:
    stream, recorder = await before_the_head(connection, peer)
    (await peer.request(stream.id)).head()
    await recorder.until(lambda: recorder.head)
    return stream, recorder


async def in_mid_stream(connection: Connection, peer: Peer) -> tuple[Stream, Recorder]:
    stream, recorder = await after_the_head(connection, peer)
    await (await peer.request(stream.id)).data(b"data: one\n\n")
    await recorder.until(lambda: recorder.body)
    return stream, recorder


async def while_paused(connection: Connection, peer: Peer) -> tuple[Stream, Recorder]:
    stream, recorder = await in_mid_stream(connection, peer)
    stream.pause_reading()
    return stream, recorder


async def in_mid_upload(connection: Connection, peer: Peer) -> tuple[Stream, Recorder]:
    recorder = Recorder()
    peer.takes_uploads = False
    stream = connection.request([(b":method", b"PUT"), *GET[1:]], recorder, b"x" * 100_000)
    request = await peer.request(stream.id)
    await request.connection.until(lambda: len(request.body) == 65_535)
    return stream, recorder


Phase = Callable[[Connection, Peer], Awaitable[tuple[Stream, Recorder]]]
PHASES: list[Phase] = [
    at_once,
    before_the_head,
    after_the_head,
    in_mid_stream,
    while_paused,
    in_mid_upload,
]


@pytest.mark.parametrize("phase", PHASES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("tls", [True, False], ids=["TLS", "plain"])
async def test_cancel_resets_the_stream_and_keeps_the_connection(phase: Phase, tls: bool) -> None:
    async with Peer(echo_or_silence, tls=tls) as peer:
        connection = await connect(peer)
        stream, recorder = await phase(connection, peer)
        started = time.monotonic()
        stream.cancel()
        assert (stream.over, connection.open_streams) == (True, 0)
        request = await peer.request(stream.id)
        assert await request.until_reset() == ErrorCode.CANCEL
        assert time.monotonic() - started < 1
        assert not recorder.done
        stream.cancel()
        stream.resume_reading()
        if phase is in_mid_upload:  # the connection's window is used up, and never given back
            reader = Reader.open(connection, GET)
            (await peer.request(3)).head(end=True)
            assert await reader.read() == b""
        else:
            await fine(connection)
        assert len(request.connection.seen(RstStreamFrame)) == 1
        assert not recorder.done


async def test_cancel_after_the_end_sends_nothing() -> None:
    async with Peer() as peer:
        connection = await connect(peer)
        recorder = Recorder()
        stream = connection.request(POST, recorder, b"body")
        await recorder.over()
        stream.cancel()
        await fine(connection)
        assert (await peer.connection()).seen(RstStreamFrame) == []


async def test_cancel_from_within_the_sink_is_heard_at_once() -> None:
    class Enough(Recorder):
        stream: Stream

        def on_data(self, data: bytes) -> None:
            super().on_data(data)
            self.stream.cancel()

    async with Peer(flowing) as peer:
        connection = await connect(peer)
        sink = Enough()
        sink.stream = connection.request(GET, sink)
        assert await (await peer.request(1)).until_reset() == ErrorCode.CANCEL
        assert len(sink.reads) == 1
        assert not sink.done


async def test_a_hundred_cancels_use_nothing_up() -> None:
    async with Peer(echo_or_silence, max_concurrent_streams=5) as peer:
        connection = await connect(peer)
        for _ in range(100):
            connection.request(GET, Recorder()).cancel()
        await fine(connection)
        there = await peer.connection()
        assert [f.error_code for f in there.seen(RstStreamFrame)] == [ErrorCode.CANCEL] * 100


# --- the loop, and the long run ------------------------------------------------------------------


def test_a_connection_refuses_a_second_event_loop() -> None:
    """There it would hang."""
    kept: list[Connection] = []
    streams: list[Stream] = []

    async def first() -> None:
        async with Peer(silent, tls=False) as peer:
            kept.append(await connect(peer))
            streams.append(kept[0].request(POST, Recorder(), end=False))

    async def second() -> None:
        (connection,) = kept
        with pytest.raises(RuntimeError, match="another event loop"):
            connection.request(GET, Recorder())
        with pytest.raises(RuntimeError, match="another event loop"):
            connection.drain()
        with pytest.raises(RuntimeError, match="another event loop"):
            await connection.wait_closed()
        with pytest.raises(RuntimeError, match="another event loop"):
            await streams[0].send(b"x")

    for story in (first, second):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(story())


async def test_on_change_may_use_the_connection() -> None:
    """The pool opens the next request as soon as there is room."""
    opened: list[Recorder] = []
    changes = Waiting()

    def on_change(connection: Connection) -> None:
        changes.touched()
        if connection.settings_seen and connection.capacity and len(opened) < 10:
            opened.append(Recorder())
            connection.request(POST, opened[-1], b"%d" % len(opened))

    async with Peer(max_concurrent_streams=1) as peer:
        await connect(peer, on_change=on_change)
        await changes.until(lambda: len(opened) == 10 and opened[-1].done)
        assert [r.body for r in opened] == [b"%d" % n for n in range(1, 11)]


async def test_a_malformed_answer_harms_no_other_stream() -> None:
    async with Peer(raw=True) as peer:
        connection, there = await greeted(peer)
        bad, good = Recorder(), Recorder()
        connection.request(GET, bad)
        connection.request(GET, good)
        there.send(there.block(1, [(b":status", b"200"), (b"Bad", b"1")]))
        there.send(there.block(3, OK), there.data(3, b"fine", "END_STREAM"))
        await good.over()
        assert type(bad.error) is UpstreamProtocolError
        assert good.body == b"fine"


@pytest.mark.long
async def test_forty_thousand_requests_leave_memory_flat() -> None:
    """Of what our own lines allocated; the peer, in this process too, remembers its streams."""
    headers: Headers = [*POST, (b"authorization", b"Bearer key"), (b"content-length", b"4")]

    async def requests(connection: Connection, count: int) -> None:
        for n in range(count):
            reader = Reader.open(connection, headers, b"body")
            if n % 20 == 0:
                reader.cancel()
            else:
                assert await reader.read() == b"body"

    async with Peer(tls=False) as peer:
        connection = await connect(peer)
        tracemalloc.start()
        await requests(connection, 10_000)  # with more cancels than are remembered
        before = allocated_in("*/proxy/*")
        await requests(connection, 30_000)
        after = allocated_in("*/proxy/*")
        tracemalloc.stop()
        assert connection.requests == 40_000
        assert before > 0
        assert after - before < 4 * 1024


def allocated_in(files: str) -> int:
    """Bytes that lines of these files allocated and that are still held."""
    gc.collect()
    snapshot = tracemalloc.take_snapshot()
    snapshot = snapshot.filter_traces([tracemalloc.Filter(inclusive=True, filename_pattern=files)])
    return sum(trace.size for trace in snapshot.traces)
