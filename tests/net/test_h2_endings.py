"""How streams and connections end on real sockets: GOAWAY, refusals, resets, lost connections."""

from __future__ import annotations

import asyncio

import pytest
from hyperframe.frame import (
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
)

from proxy.errors import (
    Refused,
    UpstreamReset,
)
from proxy.net.h2.connection import Connection, H2Settings
from proxy.net.h2.frames import ErrorCode
from tests.fakes.h2_connect import congested, connect, fine, greeted
from tests.fakes.h2_peer import Peer, Request, answer_ok
from tests.fakes.h2_scripts import echo_or_silence
from tests.fakes.h2_sinks import GET, OK, POST, Changes, Recorder

# --- GOAWAY --------------------------------------------------------------------------------------


async def test_goaway_lets_open_streams_finish_and_takes_no_new_ones() -> None:
    async with Peer(raw=True) as peer:
        connection, there = await greeted(peer)
        one, three = Recorder(), Recorder()
        connection.request(GET, one)
        connection.request(GET, three)
        there.send(there.block(1, OK), there.data(1, b"first "))
        there.goaway(last=3)
        there.send(there.block(3, OK), there.data(1, b"second"))
        await three.until(lambda: three.head)
        assert (connection.draining, connection.closed, connection.capacity) == (True, False, 0)
        with pytest.raises(Refused):
            connection.request(GET, Recorder())
        there.send(there.data(1, b"", "END_STREAM"))
        await one.over()
        assert (one.body, one.trailers) == (b"first second", [])
        assert not connection.closed
        there.send(there.data(3, b"all", "END_STREAM"))
        await three.over()
        assert three.body == b"all"
        assert connection.closed
        await connection.wait_closed()
        await there.until(lambda: there.closed)
        assert len(there.seen(GoAwayFrame)) == 1


async def test_streams_above_the_last_of_goaway_are_refused() -> None:
    async with Peer(raw=True) as peer:
        connection, there = await greeted(peer)
        recorders = [Recorder() for _ in range(3)]
        for recorder in recorders:
            connection.request(POST, recorder, b"x")
        there.goaway(last=3, code=11, debug=b"calm \xff down")
        await recorders[2].over()
        error = recorders[2].error
        assert type(error) is Refused
        assert error.retryable
        assert "ENHANCE_YOUR_CALM" in error.message
        assert not recorders[0].done
        assert not recorders[1].done


async def test_a_graceful_goaway_is_followed_by_the_final_one() -> None:
    async with Peer(raw=True) as peer:
        connection, there = await greeted(peer)
        one, three = Recorder(), Recorder()
        connection.request(GET, one)
        connection.request(GET, three)
        there.goaway(last=2**31 - 1)
        there.send(there.block(1, OK))
        await one.until(lambda: one.head)
        assert connection.draining
        assert not three.done
        there.goaway(last=1)
        await three.over()
        assert type(three.error) is Refused
        there.send(there.data(1, b"all", "END_STREAM"))
        await one.over()
        assert one.body == b"all"
        await connection.wait_closed()


async def test_goaway_closes_an_idle_connection() -> None:
    async with Peer(raw=True) as peer:
        connection, there = await greeted(peer)
        there.goaway()
        await connection.wait_closed()
        assert connection.closed


async def test_a_connection_cut_after_goaway_says_why() -> None:
    async with Peer(raw=True) as peer:
        connection, there = await greeted(peer)
        recorder = Recorder()
        connection.request(GET, recorder)
        there.goaway(code=2, debug=b"too old")
        there.transport.close()
        await recorder.over()
        assert type(recorder.error) is UpstreamReset
        assert "GOAWAY INTERNAL_ERROR too old" in recorder.error.message


# --- refusals and resets -------------------------------------------------------------------------


async def test_a_refused_stream_is_retryable_and_the_connection_lives() -> None:
    async def script(request: Request) -> None:
        if request.stream_id == 1:
            request.connection.h2.reset_stream(1, ErrorCode.REFUSED_STREAM)
            request.connection.flush()
        else:
            await answer_ok(request)

    async with Peer(script) as peer:
        connection = await connect(peer)
        recorder = Recorder()
        connection.request(GET, recorder)
        await recorder.over()
        assert type(recorder.error) is Refused
        await fine(connection)


async def test_a_reset_without_error_after_the_end_is_no_error() -> None:
    """A server that has answered tells us to stop uploading (RFC 9113 §8.1)."""
    async with Peer(raw=True) as peer:
        connection, there = await greeted(peer)
        recorder = Recorder()
        connection.request(POST, recorder, b"x" * 100_000)
        there.send(there.block(1, OK), there.data(1, b"enough", "END_STREAM"), RstStreamFrame(1, 0))
        await recorder.over()
        assert (recorder.body, recorder.error) == (b"enough", None)
        assert (await there.frame(RstStreamFrame, 1)).error_code == ErrorCode.NO_ERROR
        await there.synced()
        assert not connection.closed


@pytest.mark.parametrize("tls", [True, False], ids=["TLS", "plain"])
@pytest.mark.parametrize("how", ["drop", "close"])
async def test_a_lost_connection_ends_every_stream(tls: bool, how: str) -> None:
    async with Peer(raw=True, tls=tls) as peer:
        connection, there = await greeted(peer)
        one, three = Recorder(), Recorder()
        connection.request(GET, one)
        connection.request(GET, three)
        await there.frame(HeadersFrame, 3)
        there.send(there.block(1, OK), there.data(1, b"half"))
        await one.until(lambda: one.body)
        if how == "drop":
            there.drop()
        else:
            there.transport.close()
        await one.over()
        await three.over()
        for recorder in (one, three):
            assert type(recorder.error) is UpstreamReset
        assert one.body == b"half"
        await connection.wait_closed()
        assert (connection.closed, connection.capacity, connection.open_streams) == (True, 0, 0)
        with pytest.raises(Refused):
            connection.request(GET, Recorder())


@pytest.mark.parametrize("tls", [True, False], ids=["TLS", "plain"])
async def test_a_request_that_never_reached_the_transport_is_refused(tls: bool) -> None:
    async with Peer(raw=True, tls=tls) as peer:
        connection, there, stuck = await congested(peer)
        held = Recorder()
        connection.request(GET, held)
        there.drop()
        await held.over()
        await stuck.over()
        assert type(held.error) is Refused
        assert type(stuck.error) is UpstreamReset


async def test_abort_ends_every_stream_with_the_given_error() -> None:
    async with Peer(echo_or_silence) as peer:
        changes = Changes()
        connection = await connect(peer, on_change=changes)
        one, three = Recorder(), Recorder()
        connection.request(GET, one)
        connection.request(GET, three)
        connection.abort(UpstreamReset("enough of it"))
        assert one.error is not None
        assert one.error.message == "enough of it"
        assert type(three.error) is UpstreamReset
        assert one.error is not three.error
        assert connection.closed
        assert changes.count
        await connection.wait_closed()
        await (there := await peer.connection()).until(lambda: there.closed)
        count = changes.count
        connection.abort()
        assert changes.count == count


async def test_a_connection_given_up_before_it_is_made_closes_at_once() -> None:
    async with Peer(tls=False) as peer:
        connection = Connection(H2Settings(), lambda _: None)
        with pytest.raises(Refused):
            connection.request(GET, Recorder())
        assert connection.capacity == 0
        await connection.wait_closed()
        connection.abort()
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: connection, "127.0.0.1", peer.port)
        await connection.wait_closed()
        assert connection.closed


async def test_drain_waits_for_the_last_stream() -> None:
    async with Peer(echo_or_silence) as peer:
        connection = await connect(peer)
        recorder = Recorder()
        connection.request(GET, recorder)
        connection.drain()
        connection.drain()
        assert (connection.draining, connection.closed, connection.capacity) == (True, False, 0)
        with pytest.raises(Refused):
            connection.request(GET, Recorder())
        request = await peer.request(1)
        request.head()
        await request.data(b"all", end=True)
        await recorder.over()
        assert recorder.body == b"all"
        await connection.wait_closed()
        assert len((await peer.connection()).seen(GoAwayFrame)) == 1
