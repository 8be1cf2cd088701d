"""The timer of silence: what it takes for silence, and what only looks like it."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass, field

from proxy.core.flow.patience import Due
from proxy.net.watchdog import Watchdog

IDLE = 0.05
HELD_UP = 0.3


@dataclass
class Watched:
    """Something that is heard of now and then, and must be within IDLE seconds."""

    heard: float = field(default_factory=time.monotonic)
    acted: asyncio.Future[Due] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def due(self) -> tuple[float, Due]:
        return self.heard + IDLE, Due.IDLE

    def act(self, due: Due, now: float) -> None:
        assert not self.acted.done()
        self.acted.set_result(due)

    def watchdog(self) -> Watchdog:
        return Watchdog(self.due, self.act, shortest=IDLE)


async def test_silence_is_acted_upon_once() -> None:
    watched = Watched()
    watched.watchdog().start()
    assert await asyncio.wait_for(watched.acted, 5) is Due.IDLE


async def test_what_came_while_the_process_did_not_run_is_read_before_silence_is_told() -> None:
    loop, watched = asyncio.get_running_loop(), Watched()
    here, there = socket.socketpair()
    read = asyncio.Event()

    def take() -> None:
        here.recv(100)
        watched.heard = time.monotonic()
        read.set()

    watchdog = watched.watchdog()
    with here, there:
        here.setblocking(False)
        loop.add_reader(here, take)
        try:
            watchdog.start()
            there.send(b"in time")
            time.sleep(HELD_UP)  # noqa: ASYNC251 - what a suspended process is like
            await asyncio.wait_for(read.wait(), 5)
            assert not watched.acted.done()
        finally:
            loop.remove_reader(here)
            watchdog.stop()


async def test_silence_that_lasts_after_the_process_was_held_up_is_acted_upon() -> None:
    watched = Watched()
    watched.watchdog().start()
    time.sleep(HELD_UP)  # noqa: ASYNC251
    await asyncio.sleep(0)
    assert not watched.acted.done()
    assert await asyncio.wait_for(watched.acted, 5) is Due.IDLE


async def test_a_process_that_is_always_late_still_acts() -> None:
    watched = Watched()
    watched.watchdog().start()
    until = time.monotonic() + 5
    while not watched.acted.done():
        assert time.monotonic() < until
        time.sleep(2 * IDLE + 0.05)  # noqa: ASYNC251
        await asyncio.sleep(0)
    assert watched.acted.result() is Due.IDLE
