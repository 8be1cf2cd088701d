"""The pool on real sockets: growth, limits, waiting, and how connections are kept and replaced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest

from proxy.errors import PoolExhausted
from proxy.net.dial import ConnectPhases
from proxy.net.h2.connection import Connection
from tests.fakes.pool_peer import GUARD, Answer, Observed, PoolPeer, a_pool, ask, send

T = TypeVar("T")


async def at_once(count: int, each: Callable[[], Awaitable[T]]) -> list[T]:
    async with asyncio.timeout(GUARD):
        return await asyncio.gather(*(each() for _ in range(count)))


async def a_turn() -> None:
    """Let tasks that were just made run to their first wait."""
    await asyncio.sleep(0)


# --- growth and limits --------------------------------------------------------------------------


@pytest.mark.parametrize(("streams", "connections"), [(32, 1), (33, 2), (200, 7)])
async def test_the_pool_grows_by_streams_per_connection(streams: int, connections: int) -> None:
    async with PoolPeer() as peer, a_pool(peer) as pool:
        for _ in range(streams):
            await send(pool, "/hold")
        await peer.until(lambda: peer.held == streams)
        assert len(peer.connections) == connections
        assert max(served.most_open for served in peer.connections) <= 32
        assert pool.stats().streams == streams


async def test_a_cold_burst_opens_what_it_needs_and_no_more() -> None:
    async with PoolPeer() as peer, a_pool(peer) as pool:
        burst = asyncio.create_task(at_once(20, lambda: send(pool, "/hold")))
        await a_turn()
        while not pool.stats().opening:
            await a_turn()
        assert pool.stats().waiting == 20
        assert pool.stats().opening == 1
        await burst
        assert len(peer.connections) == 1
        await at_once(180, lambda: send(pool, "/hold"))
        assert len(peer.connections) == 7


@pytest.mark.parametrize("limit", [1, 3])
async def test_the_peers_stream_limit_is_kept_even_by_a_cold_burst(limit: int) -> None:
    async with PoolPeer(max_streams=limit) as peer, a_pool(peer) as pool:
        await at_once(12, lambda: send(pool, "/hold"))
        await peer.until(lambda: peer.held == 12)
        assert len(peer.connections) == 12 // limit
        assert {served.most_open for served in peer.connections} == {limit}


async def test_the_peers_limit_once_known_sizes_the_growth() -> None:
    class Counting(Observed):
        def connected(self, phases: ConnectPhases) -> None:
            still_opening.append(pool.stats().opening)
            super().connected(phases)

    still_opening: list[int] = []
    async with PoolPeer(max_streams=3) as peer, a_pool(peer, Counting()) as pool:
        await at_once(12, lambda: send(pool, "/hold"))
    # The first alone, then, with its SETTINGS, the other three together.
    assert still_opening == [0, 2, 1, 0]


async def test_requests_go_to_the_least_loaded_connection() -> None:
    async with PoolPeer() as peer, a_pool(peer, warm_connections=4) as pool:
        await pool.start()
        await peer.until(lambda: pool.stats().connections == 4)
        await at_once(40, lambda: send(pool, "/hold"))
        await peer.until(lambda: peer.held == 40)
        assert [len(served.held) for served in peer.connections] == [10] * 4


async def test_full_connections_make_requests_wait_in_order() -> None:
    limits: dict[str, Any] = {"streams_per_connection": 2, "max_connections": 1}
    async with PoolPeer() as peer, a_pool(peer, **limits) as pool:
        await at_once(2, lambda: send(pool, "/hold"))
        order: list[int] = []

        async def queue(number: int) -> None:
            await send(pool, "/hold")
            order.append(number)

        tasks = []
        for number in range(6):
            tasks.append(asyncio.create_task(queue(number)))
            await a_turn()
        assert pool.stats().waiting == 6
        for done in range(1, 7):
            await peer.until(lambda: peer.held == 2)
            peer.connections[0].release(1)
            async with asyncio.timeout(GUARD):
                await tasks[done - 1]
            assert order == list(range(done))


async def test_a_newcomer_does_not_overtake_those_who_wait() -> None:
    newcomer: asyncio.Task[Connection | None] | None = None

    class ThenAnother(Answer):
        """Its end brings the newcomer, in the same turn of the loop that frees the stream."""

        def on_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
            nonlocal newcomer
            newcomer = asyncio.create_task(pool.acquire(time.monotonic() + 0.05))
            super().on_end(trailers)

    limits: dict[str, Any] = {"streams_per_connection": 1, "max_connections": 1}
    async with PoolPeer() as peer, a_pool(peer, **limits) as pool:
        connection = await pool.acquire(None)
        assert connection is not None
        first = ask(connection, "/hold", ThenAnother())
        waits = asyncio.create_task(send(pool, "/hold"))
        await peer.until(lambda: peer.held == 1)
        for _ in range(3):  # all that was due is done
            await a_turn()
        peer.connections[0].release()
        await first.whole()
        assert newcomer is not None
        with pytest.raises(PoolExhausted):
            await newcomer
        assert not (await waits).over


async def test_a_request_that_waited_too_long_is_told_that_the_pool_is_full() -> None:
    limits: dict[str, Any] = {
        "streams_per_connection": 1,
        "max_connections": 1,
        "acquire_timeout": 0.05,
    }
    async with PoolPeer() as peer, a_pool(peer, **limits) as pool:
        await send(pool, "/hold")
        for deadline in (None, time.monotonic() + 60, time.monotonic() - 1):
            with pytest.raises(PoolExhausted, match="1 are open on 1 connections"):
                await pool.acquire(deadline)
        assert pool.stats().waiting == 0


async def test_a_request_that_leaves_the_line_passes_its_turn_on() -> None:
    limits: dict[str, Any] = {"streams_per_connection": 1, "max_connections": 1}
    async with PoolPeer() as peer, a_pool(peer, **limits) as pool:
        held = await send(pool, "/hold")
        leaves, stays = [asyncio.create_task(pool.acquire(None)) for _ in range(2)]
        await peer.until(lambda: peer.held == 1)
        leaves.cancel()
        peer.connections[0].release()
        await held.whole()
        async with asyncio.timeout(GUARD):
            assert await stays is not None
        assert pool.stats().waiting == 0


async def test_nobody_takes_the_stream_between_acquire_and_request() -> None:
    async with PoolPeer(max_streams=2) as peer, a_pool(peer, max_connections=3) as pool:

        async def ask_many_times() -> None:
            for _ in range(25):
                connection = await pool.acquire(None)
                assert connection is not None
                await ask(connection).whole()  # would raise Refused

        await at_once(30, ask_many_times)
        assert len(peer.connections) == 3


# --- warm, old, idle, GOAWAY --------------------------------------------------------------------


async def test_warm_connections_are_opened_at_start_and_again_when_the_peer_drops_them() -> None:
    async with PoolPeer() as peer, a_pool(peer, warm_connections=2) as pool:
        await pool.start()
        await peer.until(lambda: pool.stats().connections == 2)
        await at_once(2, lambda: send(pool))
        for served in peer.alive:
            served.drop()
        await peer.until(lambda: len(peer.connections) == 4 and len(peer.alive) == 2)
        assert (await (await send(pool)).whole()).body == b"ok"


async def test_goaway_replaces_the_connection_and_its_streams_finish() -> None:
    observed = Observed()
    async with PoolPeer() as peer, a_pool(peer, observed, warm_connections=1) as pool:
        await pool.start()
        old = await send(pool, "/hold")
        assert [(phases.tls, phases.alpn) for phases in observed.phases] == [(0.0, "h2")]
        await peer.until(lambda: peer.held == 1)
        peer.connections[0].go_away()
        await observed.until(lambda: len(observed.phases) == 2)
        new = await send(pool)
        assert (await new.whole()).body == b"ok"
        assert (pool.stats().connections, pool.stats().draining) == (1, 1)
        peer.connections[0].release()
        assert (await old.whole()).status == 200
        await observed.until(lambda: [reason for reason, _ in observed.ends] == ["goaway"])


async def test_a_connection_is_replaced_before_it_is_too_old_and_drains() -> None:
    observed = Observed()
    async with (
        PoolPeer() as peer,
        a_pool(peer, observed, warm_connections=1, max_age=0.5) as pool,
    ):
        await pool.start()
        await observed.until(lambda: len(observed.phases) == 1)
        held = await send(pool, "/hold")
        await observed.until(lambda: len(observed.phases) == 2)
        assert pool.stats().streams == 1
        assert (await (await send(pool)).whole()).body == b"ok"
        assert peer.connections[1].requests == 1
        peer.connections[0].release()
        await held.whole()
        await observed.until(lambda: bool(observed.ends))
        reason, age = observed.ends[0]
        assert reason == "max_age"
        assert age >= 0.4


async def test_while_no_replacement_can_be_had_the_old_connection_serves_on() -> None:
    observed = Observed()
    async with (
        PoolPeer() as peer,
        a_pool(peer, observed, warm_connections=1, max_age=0.1) as pool,
    ):
        await pool.start()
        await observed.until(lambda: len(observed.phases) == 1)
        peer.refuse()
        await observed.until(lambda: len(observed.failures) == 2)
        assert (await (await send(pool)).whole()).body == b"ok"
        assert observed.ends == []


async def test_idle_connections_above_the_limit_are_closed() -> None:
    observed = Observed()
    limits: dict[str, Any] = {
        "streams_per_connection": 1,
        "max_idle_per_host": 2,
        "idle_timeout": 0.1,
    }
    async with PoolPeer() as peer, a_pool(peer, observed, warm_connections=1, **limits) as pool:
        await pool.start()
        answers = await at_once(5, lambda: send(pool, "/hold"))
        await peer.until(lambda: peer.held == 5)
        await asyncio.sleep(0.15)  # however long a stream lasts, its connection is not idle
        released = time.monotonic()
        for served in peer.connections:
            served.release()
        for answer in answers:
            await answer.whole()
        await observed.until(lambda: len(observed.ends) == 3)
        assert time.monotonic() - released >= 0.1
        assert [reason for reason, _ in observed.ends] == ["idle"] * 3
        assert (pool.stats().connections, pool.stats().idle) == (2, 2)
