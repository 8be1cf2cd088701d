"""A `glm-proxy serve` process between attackers and an upstream that floods, and what it costs."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.fakes.raw_client import RawClient, chat
from tests.fakes.serving import Served, serving

HEALTHY = 10
"""Streams of clients that behave."""


@asynccontextmanager
async def program(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A module of the tests as a process; it ends with its standard input."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, stdin=pipe, stdout=pipe
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@dataclass
class Stage:
    """A proxy under attack."""

    served: Served

    def resident(self) -> int:
        """Bytes of memory that the proxy has."""
        pid = self.served.process.pid
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096

    async def gaps(self, seconds: float) -> list[float]:
        """Seconds between the events of streams that are read at once, sorted."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._gaps(seconds)) for _ in range(HEALTHY)]
        return sorted(gap for task in tasks for gap in task.result())

    async def _gaps(self, seconds: float) -> list[float]:
        async with RawClient(self.served.data_address) as client:
            client.post("/v1/chat/completions", chat("steady"))
            assert (await client.head()).status == 200
            until = time.monotonic() + seconds
            moments = [time.monotonic()]
            while moments[-1] < until:
                await client.chunk()
                moments.append(time.monotonic())
            client.writer.transport.abort()
        return [after - before for before, after in pairwise(moments)]

    async def attacked(
        self, kind: str, count: int, seconds: float, *, quiet_for: float = 4.0
    ) -> Damage:
        """What an attack does to the streams of others and to the proxy's memory.

        Gaps while the attackers come are told apart from those while they stay.
        """
        before = self.resident()
        quiet = await self.gaps(quiet_for)
        port = str(self.served.data_address[1])
        arguments = ("tests.fakes.attackers", kind, port, str(count), str(seconds))
        async with program(*arguments) as attackers:
            assert attackers.stdout is not None
            watching = asyncio.create_task(self._watch(kind, count))
            coming = await self._gaps_until(attackers.stdout.readline(), seconds)
            if kind.endswith("readers"):
                coming += await self._gaps_until(asyncio.wait_for(self._all.wait(), 20), seconds)
            lived = asyncio.create_task(attackers.stdout.readline())
            gaps = await self._gaps_until(lived, seconds)
            watching.cancel()
            await asyncio.wait([watching])
            found = json.loads(lived.result())
        quiet += await self.gaps(quiet_for)
        return Damage(
            kind,
            count,
            *(sorted(quiet), sorted(coming), sorted(gaps)),
            self._memory - before,
            self._running,
            sorted(found),
        )

    async def _gaps_until(self, over: Awaitable[object], seconds: float) -> list[float]:
        """Until `over`, or for a moment at least."""
        task = asyncio.ensure_future(over)
        gaps = await self.gaps(0.3)
        while not task.done():
            gaps += await self.gaps(min(seconds, 2.0))
        task.result()
        return gaps

    async def _watch(self, kind: str, count: int) -> None:
        self._memory = self._running = 0
        self._all = asyncio.Event()
        while True:
            if not self._all.is_set():  # to read the figures takes time of the streams' readers
                running = await self.served.gauge("glm_proxy_exchanges_in_flight")
                self._running = max(self._running, int(running) - HEALTHY)
                if self._running >= count or not kind.endswith("readers"):
                    self._all.set()
            for _ in range(5):
                self._memory = max(self._memory, self.resident())
                await asyncio.sleep(0.1)

    async def is_quiet(self, files: int) -> None:
        """Until the proxy has no more files open, and nothing in flight."""
        async with asyncio.timeout(30):
            while self.served.open_files() > files or await self.served.gauge(
                "glm_proxy_exchanges_in_flight"
            ):
                await asyncio.sleep(0.05)


@dataclass(frozen=True)
class Damage:
    """What came of an attack."""

    kind: str
    count: int
    quiet: list[float]
    """Seconds between two events of others, before and after."""
    coming: list[float]
    """While the attackers came."""
    gaps: list[float]
    """While they stayed."""
    growth: int
    """Bytes of memory."""
    running: int
    """Exchanges of attackers at once."""
    lived: list[float]
    """Seconds until the proxy closed them, of those it closed."""

    @property
    def slowdown(self) -> float:
        """By how much the p99 of the gaps grew."""
        return percentile(self.gaps, 0.99) / percentile(self.quiet, 0.99)

    def told(self) -> str:
        """One line of figures."""
        closed = f", closed {len(self.lived)} in ≤ {self.lived[-1]:.1f} s" if self.lived else ""
        return (
            f"{self.count} {self.kind}: p99 gap {percentile(self.gaps, 0.99) * 1e3:.1f} ms"
            f" (quiet {percentile(self.quiet, 0.99) * 1e3:.1f},"
            f" while they came {percentile(self.coming, 0.99) * 1e3:.1f}),"
            f" max {self.gaps[-1] * 1e3:.0f} ms, memory +{self.growth / 1048576:.1f} MiB"
            f" ({self.growth / self.count / 1024:.0f} KiB each),"
            f" {self.running} at once{closed}"
        )


def percentile(values: list[float], rank: float) -> float:
    """Of sorted values."""
    return values[min(len(values) - 1, int(len(values) * rank))]


@asynccontextmanager
async def attacked(folder: Path, settings: dict[str, Any]) -> AsyncIterator[Stage]:
    """A proxy with `settings`, in front of one upstream for attackers and one for the others."""
    async with program("tests.fakes.flooding") as bad, program("tests.fakes.flooding") as good:
        endpoints = []
        for name, upstream in (("bad", bad), ("good", good)):
            assert upstream.stdout is not None
            port = int(await upstream.stdout.readline())
            endpoints.append({"name": name, "base_url": f"http://127.0.0.1:{port}"})
        routes = [
            {"name": "bad", "match": {"model": ["flood"]}, "candidates": [{"endpoint": "bad"}]},
            {"name": "good", "candidates": [{"endpoint": "good"}]},
        ]
        found = {"endpoints": endpoints, "routes": routes, **settings}
        async with serving(folder, found) as served:
            yield Stage(served)
