"""PING: dead peers are found, living ones left alone."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from hyperframe.frame import (
    DataFrame,
    HeadersFrame,
    PingFrame,
    WindowUpdateFrame,
)

from proxy.errors import (
    UpstreamDead,
)
from proxy.net.h2.connection import Connection, H2Settings
from tests.fakes.h2_connect import congested, connect, greeted
from tests.fakes.h2_peer import Peer
from tests.fakes.h2_sinks import GET, OK, POST, Recorder

EAGER = H2Settings(ping_interval=0.05, ping_timeout=0.05)


async def test_a_peer_that_died_silently_is_found() -> None:
    async with Peer(raw=True) as peer:
        connection, there = await greeted(peer, EAGER)
        one, three = Recorder(), Recorder()
        connection.request(GET, one)
        connection.request(GET, three)
        there.send(there.block(1, OK))
        await there.frame(HeadersFrame, 3)
        there.deaf = True
        started = time.monotonic()
        await one.over()
        await three.over()
        assert 0.05 < time.monotonic() - started < 2
        for recorder in (one, three):
            assert type(recorder.error) is UpstreamDead
        assert connection.closed
        await connection.wait_closed()


async def test_a_peer_that_dies_before_its_settings_is_found() -> None:
    async with Peer(raw=True, tls=False) as peer:
        connection = await connect(peer, EAGER)
        recorder = Recorder()
        connection.request(GET, recorder)
        await recorder.over()
        assert type(recorder.error) is UpstreamDead


@pytest.mark.parametrize("streams", [0, 1])
async def test_a_silent_peer_that_answers_ping_is_left_alone(streams: int) -> None:
    async with Peer(raw=True) as peer:
        connection, there = await greeted(peer, EAGER)
        there.answers_pings = True
        recorders = [Recorder() for _ in range(streams)]
        for recorder in recorders:
            connection.request(GET, recorder)
        await there.frame(PingFrame, count=4)
        assert not connection.closed
        assert not any(recorder.done for recorder in recorders)
        assert connection.rtt is not None
        assert connection.rtt < 1


async def test_no_ping_is_sent_while_something_is_received() -> None:
    now = 1000.0

    def clock() -> float:
        return now

    async with Peer(raw=True, tls=False) as peer:
        await connect(peer, EAGER, clock=clock)
        there = await peer.connection()
        there.send(there.settings())
        for _ in range(5):  # the timer comes by, and finds that nothing is due
            await asyncio.sleep(0.03)
            now += 0.04
            await there.synced()
        assert there.seen(PingFrame) == []
        now += 0.05
        await there.frame(PingFrame)


async def test_any_sign_of_life_will_do() -> None:
    async with Peer(raw=True) as peer:
        connection, there = await greeted(peer, EAGER)
        for n in range(1, 5):
            await there.frame(PingFrame, count=n)
            there.send(WindowUpdateFrame(0, 1))  # no ACK
        assert not connection.closed


async def test_pings_can_be_switched_off() -> None:
    async with Peer(raw=True, tls=False) as peer:
        connection, there = await greeted(peer, H2Settings(ping_interval=0, ping_timeout=0.01))
        await asyncio.sleep(0.05)
        assert there.seen(PingFrame) == []
        assert not connection.closed


async def test_a_stall_of_our_own_loop_is_not_taken_for_a_dead_peer() -> None:
    """After it the timers run before the sockets are read."""
    async with Peer(raw=True, tls=False) as peer:
        connection, there = await greeted(peer, EAGER)
        there.answers_pings = True
        there.stalls = 0.2
        await there.frame(PingFrame, count=3)
        assert not connection.closed


def shrink_send_buffer(connection: Connection) -> None:
    assert connection._transport is not None
    connection._transport.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384
    )


async def test_a_slow_upload_is_not_taken_for_a_dead_peer() -> None:
    """The PING waits behind it."""
    body = b"x" * 1_500_000
    async with Peer(raw=True, tls=False, receive_buffer=16_384) as peer:
        connection, there = await greeted(peer, EAGER, initial_window_size=2**30)
        shrink_send_buffer(connection)
        there.send(WindowUpdateFrame(0, 2**30))
        there.answers_pings = True
        there.sips = 0.01
        recorder = Recorder()
        started = time.monotonic()
        connection.request(POST, recorder, body)
        await there.until(lambda: sum(f.body_len for f in there.seen(DataFrame)) == len(body))
        assert time.monotonic() - started > 3 * EAGER.ping_timeout
        there.send(there.block(1, OK, "END_STREAM"))
        await recorder.over()
        assert recorder.error is None


async def test_a_peer_that_stops_reading_in_mid_upload_is_dead() -> None:
    async with Peer(raw=True, tls=False, receive_buffer=16_384) as peer:
        connection, _, recorder = await congested(peer, EAGER)
        held = Recorder()
        connection.request(GET, held)
        await recorder.over()
        await held.over()
        assert type(recorder.error) is UpstreamDead
