"""The suite `tail`, carried out: three phases before one proxy, two of them beside direct ones."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

from proxy.bench.figures import percentile
from proxy.bench.suite import tail
from proxy.bench.suite.asking import Asking, OnSample
from proxy.bench.suite.conditions import Conditions
from proxy.bench.suite.tail import DIRECT, PROXIED, Found
from proxy.cli.suite.machine import Busy, describe
from proxy.cli.suite.stage import Stage, Upstream, fast_settings

TIME_SCALE = 0.65
REQUESTS = 2000
"""On each way of the first phase."""
_SETTLING = 5.0
"""Seconds at the begin of the last phase that do not count as steady."""


def total(requests: int) -> int:
    """How many requests the suite makes."""
    return sum(p.requests * len(p.ways) for p in tail.phases(requests))


async def measure(requests: int, scale: float, seed: int, on_sample: OnSample) -> Found:
    """All of it. Raises NotRunning."""
    begun = time.monotonic()
    quick, slow, down = tail.phases(requests)
    parts = tail.outage(requests)
    with tempfile.TemporaryDirectory(prefix="glm-proxy-bench-") as folder:
        async with Stage.open(Path(folder), scale, seed) as stage:
            upstream = await stage.upstream(quick.profile)
            proxy = await stage.proxy(PROXIED, fast_settings(), upstream)
            urls = {DIRECT: upstream.base_url, PROXIED: proxy.base_url}
            busy = Busy(stage.pids)
            async with Asking.ready(upstream.trust(), time.monotonic, on_sample) as asking:
                for phase in (quick, slow):
                    await upstream.tell(f"/profile?name={phase.profile}")
                    await asking.at_moments(tail.asks(phase, urls, seed, scale))
                await upstream.tell(f"/profile?name={down.profile}")
                last = time.monotonic()
                gone, _ = await asyncio.gather(
                    _outage(upstream, parts, scale),
                    asking.at_moments(tail.asks(down, urls, seed, scale)),
                )
            share, own = busy.share(), busy.own()
            await proxy.logged(sum(sample.way == PROXIED for sample in asking.samples))
            arrivals = await upstream.arrivals(tail.key(PROXIED, down.name))
    return Found(
        Conditions(
            time_scale=scale,
            requests=requests,
            seed=seed,
            took=time.monotonic() - begun,
            machine=describe(),
            busy=share,
            own=own,
            late=percentile(asking.late, 0.99),
        ),
        asking.samples,
        proxy.lines,
        arrivals,
        *gone,
        steady_from=last + min(_SETTLING, parts.before / 4) * scale,
    )


async def _outage(upstream: Upstream, parts: tail.Outage, scale: float) -> tuple[float, float]:
    """The service goes and comes back; when it did."""
    await asyncio.sleep(parts.before * scale)
    down_at = time.monotonic()
    await upstream.tell("/down")
    await asyncio.sleep(parts.down * scale)
    up_at = time.monotonic()
    await upstream.tell("/up")
    return down_at, up_at
