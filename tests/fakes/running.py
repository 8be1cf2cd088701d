"""A whole proxy in the test's own event loop, through its own start-up code."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from prometheus_client.parser import text_string_to_metric_families

from proxy.app import App
from proxy.config import load
from proxy.state.home import Home
from tests.fakes.upstream import ScriptedUpstream


@asynccontextmanager
async def running(
    folder: Path, settings: dict[str, Any], home: Home | None = None
) -> AsyncIterator[App]:
    """A proxy with `settings`, on free ports, its access log off; `home` is its home of state."""
    base = {
        "server": {"port": 0, "drain_timeout": 0},
        "admin": {"port": 0},
        "log": {"format": "off"},
    }
    path = folder / "proxy.yaml"
    path.write_text(yaml.safe_dump(base | settings), encoding="utf-8")
    app = App(load(path, {}), home)
    await app.start()
    try:
        yield app
    finally:
        await app.stop(0)


def in_front_of(upstream: ScriptedUpstream, folder: Path, **settings: Any) -> dict[str, Any]:
    """Settings with `upstream` as the only endpoint."""
    endpoint: dict[str, Any] = {"name": "up", "base_url": upstream.url}
    if upstream.url.startswith("https"):
        endpoint["ca_file"] = str(upstream.write_ca(folder))
    return {"endpoints": [endpoint], **settings}


async def samples(app: App, name: str) -> list[tuple[dict[str, str], float]]:
    """The samples of one series on the admin listener: labels and value."""
    host, port = app.admin_address
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{host}:{port}/metrics") as answer,
    ):
        families = text_string_to_metric_families(await answer.text())
    return [
        (sample.labels, sample.value)
        for family in families
        for sample in family.samples
        if sample.name == name
    ]


async def total(app: App, name: str, **labels: str) -> float:
    """The sum of those that have these labels."""
    found = await samples(app, name)
    return sum(value for of, value in found if labels.items() <= of.items())


async def outcomes(app: App, counter: str = "glm_proxy_exchanges_total") -> Counter[str]:
    """How often each outcome is counted on the admin listener."""
    counted: Counter[str] = Counter()
    for labels, value in await samples(app, counter):
        counted[labels["outcome"]] += int(value)
    return counted
