"""Asking: in turn by a few workers, or at random moments whatever the answers take.

Each request has a connection of its own, as the client of the starting report had; with `https`
that is a TLS handshake each time.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from itertools import accumulate
from random import Random

import aiohttp

from proxy.bench.measure import Clock, Sample, measure
from proxy.bench.plan import Ask

OnSample = Callable[[Sample], None]
_CONNECT_WITHIN = 10.0
_TICK = 0.02


class Asking:
    """A client, and all it has measured. `async with Asking.ready(...) as asking:`."""

    def __init__(
        self, session: aiohttp.ClientSession, clock: Clock, on_sample: OnSample | None
    ) -> None:
        self._session = session
        self._clock = clock
        self._on_sample = on_sample
        self.samples: list[Sample] = []
        self.late: list[float] = []
        """By how many seconds this client's own timers were late, again and again: the machine
        was too busy for figures as exact as this."""

    @classmethod
    @asynccontextmanager
    async def ready(
        cls, tls: ssl.SSLContext, clock: Clock, on_sample: OnSample | None = None
    ) -> AsyncIterator[Asking]:
        """A client that trusts what `tls` trusts; `on_sample` is told each finished request."""
        connector = aiohttp.TCPConnector(limit=0, ssl=tls, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_WITHIN)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            asking = cls(session, clock, on_sample)
            ticking = asyncio.get_running_loop().create_task(asking._watch())
            try:
                yield asking
            finally:
                ticking.cancel()
                await asyncio.gather(ticking, return_exceptions=True)

    async def in_turn(self, asks: Sequence[Ask], workers: int) -> None:
        """All of them, so many at a time."""
        left = iter(asks)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(workers, len(asks))):
                tasks.create_task(self._work(left))

    async def at_moments(self, due: Iterable[tuple[float, Ask]]) -> None:
        """Each at its moment, in seconds from now, in order; returns when all are answered."""
        begun = self._clock()
        async with asyncio.TaskGroup() as tasks:
            for moment, ask in due:
                wait = begun + moment - self._clock()
                if wait > 0:
                    await asyncio.sleep(wait)
                tasks.create_task(self._one(ask))

    async def _work(self, left: Iterable[Ask]) -> None:
        for ask in left:
            await self._one(ask)

    async def _one(self, ask: Ask) -> None:
        sample = await measure(self._session, ask, self._clock)
        self.samples.append(sample)
        if self._on_sample is not None:
            self._on_sample(sample)

    async def _watch(self) -> None:
        while True:
            before = self._clock()
            await asyncio.sleep(_TICK)
            self.late.append(max(0.0, self._clock() - before - _TICK))


def poisson(rate: float, count: int, random: Random) -> list[float]:
    """So many moments of independent arrivals, `rate` a second on average."""
    return list(accumulate(random.expovariate(rate) for _ in range(count)))
