"""The suite `lumosai`, carried out: the report's scenes, direct and through proxies."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from proxy.bench.figures import percentile
from proxy.bench.suite import lumosai
from proxy.bench.suite.asking import Asking, OnSample
from proxy.bench.suite.conditions import Conditions
from proxy.bench.suite.lumosai import LEVERS, PROXIED, SCENES, V1, V2, Way, without
from proxy.bench.suite.lumosai_figures import Found
from proxy.cli.suite.machine import Busy, describe
from proxy.cli.suite.stage import Proxy, Stage, Upstream, fast_settings

TIME_SCALE = 0.1
REQUESTS = 20
"""Of each scene on each way."""


def total(requests: int) -> int:
    """How many requests the suite makes."""
    return requests * len(SCENES) * (3 + len(LEVERS))


async def measure(requests: int, scale: float, seed: int, on_sample: OnSample) -> Found:
    """All of it. Raises NotRunning."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="glm-proxy-bench-") as folder:
        async with Stage.open(Path(folder), scale, seed) as stage:
            upstream = await stage.upstream("lumosai")
            proxies = dict(await asyncio.gather(*_proxies(stage, upstream)))
            busy = Busy(stage.pids)
            async with Asking.ready(upstream.trust(), time.perf_counter, on_sample) as asking:
                await _ask(asking, upstream, proxies, requests, seed, scale)
            share, own = busy.share(), busy.own()
            for proxy in proxies.values():
                await proxy.logged(requests * len(SCENES))
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
        {name: proxy.lines for name, proxy in proxies.items()},
    )


def _proxies(stage: Stage, upstream: Upstream) -> Iterator[asyncio.Task[tuple[str, Proxy]]]:
    fast = fast_settings()
    settings = {PROXIED.name: fast}
    settings |= {without(name).name: lumosai.settings_without(name, fast) for name in LEVERS}
    for name, own in settings.items():

        async def start(name: str = name, own: lumosai.Settings = own) -> tuple[str, Proxy]:
            return name, await stage.proxy(name.replace("+", "-"), own, upstream)

        yield asyncio.create_task(start())


async def _ask(
    asking: Asking,
    upstream: Upstream,
    proxies: Mapping[str, Proxy],
    requests: int,
    seed: int,
    scale: float,
) -> None:
    """All ways at the same time, so that whatever happens to the machine happens to all of them."""
    ways: list[Way] = [V1, V2, PROXIED, *map(without, LEVERS)]
    async with asyncio.TaskGroup() as tasks:
        for way in ways:
            url = proxies[way.name].base_url if way.proxied else upstream.base_url
            asks = lumosai.asks(way, url, requests, seed, scale)
            tasks.create_task(asking.in_turn(asks, way.workers))
