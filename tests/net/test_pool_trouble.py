"""Pools whose peer is down, silent, hostile or another than expected; and the end of a pool."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import pytest

from proxy.core.policy.pooling import FIRST_BACKOFF
from proxy.errors import ConnectFailed, ConnectTimeout, PoolExhausted, UpstreamError
from proxy.net.dns import Address
from proxy.net.pool import Origin, Pool
from tests.fakes.dialling import black_hole, closed_again, closed_port, open_sockets, settings
from tests.fakes.pool_peer import GUARD, Observed, PoolPeer, a_pool, send

THREE_PAUSES = FIRST_BACKOFF * (2 + 4 + 8) / 2
"""The least three pauses can be after two failures: 0.2, 0.4 and 0.8 s, each jittered to a half."""


async def test_a_refused_connection_fails_everybody_who_waits_at_once() -> None:
    observed = Observed()
    async with a_pool(closed_port(), observed) as pool, asyncio.timeout(2):
        waiting = (pool.acquire(None) for _ in range(30))
        errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(error) for error in errors} == {ConnectFailed}
    assert len({id(error) for error in errors}) == 30
    assert "refused" in str(errors[0])
    assert observed.failures == ["upstream_connect_failed"]


async def test_every_new_request_gets_an_attempt_during_the_back_off() -> None:
    observed = Observed()
    async with PoolPeer() as peer, a_pool(peer, observed) as pool:
        peer.refuse()
        async with asyncio.timeout(2):
            for _ in range(10):
                with pytest.raises(ConnectFailed):
                    await pool.acquire(None)
        assert len(observed.failures) == 10
        await peer.listen()
        assert (await (await send(pool)).whole()).body == b"ok"
        assert pool.stats().failures == 0


async def test_warming_backs_off_while_the_peer_is_down_and_recovers_by_itself() -> None:
    observed = Observed()
    async with PoolPeer() as peer, a_pool(peer, observed, warm_connections=2) as pool:
        peer.refuse()
        started = time.monotonic()
        await pool.start()
        await observed.until(lambda: len(observed.failures) == 5)
        assert time.monotonic() - started >= THREE_PAUSES
        await peer.listen()
        await peer.until(lambda: len(peer.alive) == 2)


async def test_a_peer_that_accepts_and_closes_is_not_called_without_a_pause() -> None:
    async with (
        PoolPeer(hangs_up=True) as peer,
        a_pool(peer, warm_connections=2) as pool,
    ):
        started = time.monotonic()
        await pool.start()
        await peer.until(lambda: len(peer.connections) == 5)
        assert time.monotonic() - started >= THREE_PAUSES


async def test_requests_to_a_peer_that_accepts_and_closes_fail_at_once() -> None:
    async with PoolPeer(hangs_up=True) as peer, a_pool(peer) as pool:

        async def fails() -> None:
            with pytest.raises(UpstreamError):
                await (await send(pool)).whole()

        async with asyncio.timeout(2):
            await asyncio.gather(*(fails() for _ in range(10)))
        assert len(peer.connections) <= 10


async def test_a_silent_address_ends_in_a_connect_timeout() -> None:
    observed = Observed()
    with black_hole() as port:
        async with a_pool(port, observed, connect_timeout=0.3) as pool:
            with pytest.raises(ConnectTimeout, match="connecting by TCP"):
                await pool.acquire(None)
            assert observed.failures == ["upstream_connect_timeout"]
            with pytest.raises(ConnectTimeout, match="no connection in time"):
                await pool.acquire(time.monotonic() + 0.05)


async def test_a_peer_that_never_sends_settings_gets_one_stream_per_connection() -> None:
    async with PoolPeer(mute=True) as peer, a_pool(peer, acquire_timeout=0.2) as pool:
        await send(pool)
        with pytest.raises(PoolExhausted):
            await send(pool)
        assert len(peer.connections) == 1


async def test_while_some_connections_live_a_failed_attempt_fails_nobody() -> None:
    observed = Observed()
    async with PoolPeer() as peer, a_pool(peer, observed, streams_per_connection=1) as pool:
        held = await send(pool, "/hold")
        await peer.until(lambda: peer.held == 1)
        peer.refuse()
        waits = asyncio.create_task(send(pool))
        await observed.until(lambda: len(observed.failures) == 3)
        assert not waits.done()
        peer.connections[0].release()
        await held.whole()
        async with asyncio.timeout(GUARD):
            assert (await (await waits).whole()).body == b"ok"


async def test_an_attempt_that_fails_beside_one_that_lives_fails_nobody() -> None:
    async with PoolPeer() as peer:
        ports = iter([closed_port(), peer.port])

        async def resolve(host: str, port: int) -> list[Address]:
            port = next(ports)
            await asyncio.sleep(0)  # so that both attempts ask
            if port == peer.port:
                await observed.until(lambda: bool(observed.failures))
            return [Address(socket.AF_INET, ("127.0.0.1", port))]

        observed = Observed()
        limits: dict[str, Any] = {"streams_per_connection": 1, "resolver": resolve}
        async with a_pool(peer, observed, **limits) as pool:
            first, second = await asyncio.gather(send(pool), send(pool))
            await asyncio.gather(first.whole(), second.whole())
        assert observed.failures == ["upstream_connect_failed"]


async def test_a_pool_is_refused_to_a_second_event_loop() -> None:
    pool = Pool(Origin("http", "127.0.0.1", closed_port()), settings(), None)
    await pool.start()

    def elsewhere() -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            asyncio.run(pool.acquire(None))

    await asyncio.to_thread(elsewhere)
    await pool.close()


async def test_closing_leaves_no_task_and_no_socket() -> None:
    observed = Observed()
    async with PoolPeer() as peer:
        tasks, sockets = asyncio.all_tasks(), open_sockets()
        limits: dict[str, Any] = {"streams_per_connection": 2, "max_connections": 4}
        async with a_pool(peer, observed, warm_connections=2, **limits) as pool:
            await pool.start()
            answers = [await send(pool, "/hold") for _ in range(8)]
            await peer.until(lambda: peer.held == 8)
            waits = asyncio.create_task(pool.acquire(None))
            peer.connections[0].go_away()
            await observed.until(lambda: pool.stats().draining == 1)
            await pool.close()
            # All of it is true at once, not some time later.
            assert asyncio.all_tasks() <= tasks | {waits}
            assert len(observed.ends) == len(observed.phases)
            assert all(answer.over for answer in answers)
            await pool.close()
            with pytest.raises(PoolExhausted, match="closed"):
                await waits
            with pytest.raises(PoolExhausted, match="closed"):
                await pool.acquire(None)
        await closed_again(sockets)


async def test_closing_ends_an_attempt_to_connect() -> None:
    with black_hole() as port:
        tasks, sockets = asyncio.all_tasks(), open_sockets()
        async with a_pool(port, warm_connections=3) as pool, asyncio.timeout(2):
            await pool.start()
            for _ in range(3):
                await asyncio.sleep(0)
            assert pool.stats().opening == 3
            await pool.close()
        assert asyncio.all_tasks() == tasks
        assert open_sockets() == sockets
