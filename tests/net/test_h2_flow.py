"""Back-pressure both ways: slow readers, windows, uploads, and readers that await."""

from __future__ import annotations

import asyncio
import time

import pytest
from hyperframe.frame import (
    DataFrame,
    RstStreamFrame,
    WindowUpdateFrame,
)

from proxy.errors import (
    Refused,
)
from proxy.net.h2.connection import H2Settings, Reader, Stream
from proxy.net.h2.frames import ErrorCode
from tests.fakes.h2_connect import congested, connect, greeted
from tests.fakes.h2_peer import Peer, Request
from tests.fakes.h2_scripts import echo_or_silence
from tests.fakes.h2_sinks import GET, POST, Changes, Recorder

# --- responses ----------------------------------------------------------------------------------


class Stuck(Recorder):
    """A client that reads one event and no more."""

    stream: Stream

    def on_data(self, data: bytes) -> None:
        super().on_data(data)
        self.stream.pause_reading()


async def test_stuck_readers_hold_a_window_each_and_slow_nobody() -> None:
    window = 64 * 1024
    limits = H2Settings(initial_window=window, connection_window=1024 * 1024)

    async def script(request: Request) -> None:
        request.head()
        if request.headers[0] == (b":method", b"POST"):
            for n in range(200):
                await request.data(b"data: %d\n\n" % n, end=n == 199)
        else:
            await request.data(b"x" * 16 * window)

    async with Peer(script) as peer:
        connection = await connect(peer, limits)
        sinks = [Stuck() for _ in range(64)]
        for sink in sinks:  # 64 windows are four times the connection's
            sink.stream = connection.request(GET, sink)
        for sink in sinks:
            await sink.until(lambda sink=sink: len(sink.body) == window)  # type: ignore[misc]
        started = time.monotonic()
        assert (await Reader.open(connection, POST).read()).count(b"\n\n") == 200
        assert time.monotonic() - started < 2
        for sink in sinks:
            assert (await peer.request(sink.stream.id)).sent == window
            assert len(sink.body) == window
        sinks[0].stream.resume_reading()
        await sinks[0].until(lambda: len(sinks[0].body) == 2 * window)


async def test_a_paused_stream_that_is_resumed_gets_everything() -> None:
    async def script(request: Request) -> None:
        request.head()
        await request.data(bytes(n % 251 for n in range(300_000)), end=True)

    async with Peer(script) as peer:
        connection = await connect(peer, H2Settings(initial_window=10_000))
        reader = Reader.open(connection, GET)
        body = b""
        async for chunk in reader:
            body += chunk
            await asyncio.sleep(0)
        assert body == bytes(n % 251 for n in range(300_000))


# --- uploads ------------------------------------------------------------------------------------


async def test_a_long_body_goes_as_the_windows_open() -> None:
    body = bytes(n % 253 for n in range(1_000_000))
    async with Peer(initial_window_size=20_000) as peer:
        changes = Changes()
        connection = await connect(peer, on_change=changes)
        await changes.until(lambda: connection.settings_seen)
        assert connection.peer_initial_window == 20_000
        readers = [Reader.open(connection, POST, body[n:]) for n in range(3)]
        for n, reader in enumerate(readers):
            assert await reader.read() == body[n:]


async def test_a_body_may_be_sent_in_parts() -> None:
    async with Peer() as peer:
        connection = await connect(peer)
        reader = Reader.open(connection, POST, b"first ", end=False)
        assert reader.stream is not None
        await reader.stream.send(b"second ")
        await reader.stream.send(b"")
        await reader.stream.send(b"x" * 200_000)
        await reader.stream.send(b" last", end=True)
        assert await reader.read() == b"first second " + b"x" * 200_000 + b" last"


@pytest.mark.parametrize("body", [b"", b"some"])
async def test_the_end_of_a_body_may_come_alone(body: bytes) -> None:
    async with Peer() as peer:
        connection = await connect(peer)
        reader = Reader.open(connection, POST, body, end=False)
        assert reader.stream is not None
        await reader.stream.send(b"", end=True)
        assert await reader.read() == (body or b"ok")


async def test_nothing_is_sent_behind_the_end_of_a_body() -> None:
    async with Peer(echo_or_silence) as peer:
        connection = await connect(peer)
        for body in (b"", b"some"):
            stream = connection.request(GET, Recorder(), body)
            with pytest.raises(RuntimeError, match="has ended"):
                await stream.send(b"more")


async def test_send_waits_for_the_window() -> None:
    async with Peer(raw=True) as peer:
        connection, there = await greeted(peer)
        stream = connection.request(POST, Recorder(), end=False)
        sending = asyncio.ensure_future(stream.send(b"x" * 100_000, end=True))
        await there.until(lambda: sum(f.body_len for f in there.seen(DataFrame)) == 65_535)
        assert not sending.done()
        with pytest.raises(RuntimeError, match="another send"):
            await stream.send(b"more")
        there.send(WindowUpdateFrame(0, 100_000), WindowUpdateFrame(1, 100_000))
        await sending
        await there.until(lambda: sum(f.body_len for f in there.seen(DataFrame)) == 100_000)
        assert "END_STREAM" in there.seen(DataFrame)[-1].flags


async def test_send_waits_for_a_transport_that_is_congested() -> None:
    async with Peer(raw=True, tls=False, receive_buffer=16_384) as peer:
        connection, there, stuck = await congested(peer)
        stream = connection.request(POST, Recorder(), b"", end=False)
        sending = asyncio.ensure_future(stream.send(b"waits"))
        await asyncio.wait([sending], timeout=0.05)
        assert not sending.done()
        there.transport.resume_reading()
        await sending
        assert (await there.frame(DataFrame, stream.id)).data == b"waits"
        assert stuck.error is None


async def test_send_ends_when_the_answer_comes_early() -> None:
    async with Peer(raw=True) as peer:
        connection, there = await greeted(peer)
        recorder = Recorder()
        stream = connection.request(POST, recorder, end=False)
        sending = asyncio.ensure_future(stream.send(b"x" * 100_000))
        await there.frame(DataFrame, count=4)
        assert not sending.done()
        there.send(there.block(1, [(b":status", b"413")], "END_STREAM"))
        await sending
        assert stream.over
        assert recorder.head is not None
        assert recorder.head.status == 413
        assert (await there.frame(RstStreamFrame, 1)).error_code == ErrorCode.NO_ERROR
        await stream.send(b"more", end=True)


async def test_send_raises_what_ended_the_stream() -> None:
    async with Peer(raw=True) as peer:
        connection, there = await greeted(peer)
        recorder = Recorder()
        stream = connection.request(POST, recorder, end=False)
        sending = asyncio.ensure_future(stream.send(b"x" * 100_000))
        await there.frame(DataFrame, count=4)
        there.reset(1, ErrorCode.REFUSED_STREAM)
        with pytest.raises(Refused):
            await sending
        with pytest.raises(Refused):
            await stream.send(b"more")


async def test_a_cancelled_send_leaves_the_stream_usable() -> None:
    async with Peer(raw=True) as peer:
        connection, there = await greeted(peer)
        stream = connection.request(POST, Recorder(), end=False)
        sending = asyncio.ensure_future(stream.send(b"x" * 100_000))
        await there.frame(DataFrame)
        sending.cancel()
        await asyncio.wait([sending])
        there.send(WindowUpdateFrame(0, 100_000), WindowUpdateFrame(1, 100_000))
        assert sending.cancelled()
        await stream.send(b"last", end=True)
        await there.until(lambda: sum(f.body_len for f in there.seen(DataFrame)) == 100_004)
