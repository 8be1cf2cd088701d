"""All requests of a run: every way is asked the same, one after the other, in random order.

So whatever changes during the run (load, caches, the hour) meets both ways alike.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import aiohttp

from proxy.bench.measure import HOPELESS, Clock, Sample, measure
from proxy.bench.plan import Plan

_CONNECT_WITHIN = 10.0


@dataclass(slots=True)
class Run:
    """What a run has found, while it goes on and when it is over."""

    samples: list[Sample] = field(default_factory=list)
    stopped: str | None = None
    """Why it ended early, in one line."""

    def add(self, sample: Sample) -> None:
        """Takes a sample; the run stops when nothing else is to be expected of this way."""
        self.samples.append(sample)
        worked = any(s.complete for s in self.samples if s.way == sample.way)
        if sample.outcome in HOPELESS and not worked:
            self.stopped = sample.detail

    @property
    def failed(self) -> bool:
        return self.stopped is not None or not all(s.complete for s in self.samples)


async def run(
    plan: Plan, tls: ssl.SSLContext, clock: Clock, on_sample: Callable[[Sample], None]
) -> Run:
    """Carries the plan out; `on_sample` is called after each request."""
    found = Run()
    numbers = iter(range(plan.requests))
    order = random.Random(plan.seed)
    connector = aiohttp.TCPConnector(limit=0, ssl=tls, force_close=plan.fresh_connections)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_WITHIN)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        asyncio.TaskGroup() as tasks,
    ):

        async def worker() -> None:
            for number in _until_stopped(numbers, found):
                for way in order.sample(plan.ways, len(plan.ways)):
                    sample = await measure(session, plan.ask(way, number), clock)
                    found.add(sample)
                    on_sample(sample)

        for _ in range(min(plan.concurrency, plan.requests)):
            tasks.create_task(worker())
    return found


def _until_stopped(numbers: Iterator[int], found: Run) -> Iterator[int]:
    """The numbers that are left, shared by all workers, until the run is stopped."""
    while found.stopped is None and (number := next(numbers, None)) is not None:
        yield number
