"""The processes of a suite: one simulated service, and proxies before it, on free loopback ports.

Their settings are those of a bundled file with another endpoint, every duration times the time
scale. What is no setting (pauses between retries, how fast latencies are forgotten) is not scaled.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import yaml

from proxy.cli.demo.children import Child, Children, NotRunning
from proxy.config import ConfigError, bundled, load
from proxy.config.units import DURATION, Quantity

_UNITS = "|".join(DURATION.units)
_DURATION = re.compile(rf"\d+(\.\d+)? ?({_UNITS})")
_NAMES = frozenset({"name", "model", "endpoint", "keys", "host", "region"})
"""Keys whose values may look like a duration and are none."""
_LOG_WITHIN = 10.0


@dataclass(slots=True)
class Upstream:
    """The simulated service."""

    url: str
    ca_file: Path
    control: str

    @property
    def base_url(self) -> str:
        """As an SDK is given it."""
        return f"{self.url}/api/paas/v4"

    def endpoint(self) -> dict[str, str]:
        """As a proxy's settings have it."""
        return {"name": "simulator", "base_url": self.url, "ca_file": str(self.ca_file)}

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca_file)

    async def tell(self, path: str) -> None:
        """One order of its control address: see `upstream`."""
        async with aiohttp.ClientSession() as http, http.post(self.control + path) as response:
            response.raise_for_status()

    async def arrivals(self, whose: str) -> list[float]:
        """When each request under this key came, on the clock of `time.monotonic`."""
        async with (
            aiohttp.ClientSession() as http,
            http.get(self.control + "/arrivals") as response,
        ):
            found = orjson.loads(await response.read())
        return [moment for moment, key in found if key == whose]


@dataclass(slots=True)
class Proxy:
    """A proxy, and its access log as far as it was read."""

    base_url: str
    lines: list[dict[str, Any]] = field(default_factory=list)
    _grown: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self, child: Child) -> None:
        """The access log until the process ends; unread, its pipe would fill."""
        assert child.process.stdout is not None
        async for line in child.process.stdout:
            self.lines.append(orjson.loads(line))
            self._grown.set()

    async def logged(self, count: int) -> None:
        """Returns when so many exchanges are in the log. Raises NotRunning."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOG_WITHIN):
                while len(self.lines) < count:
                    self._grown.clear()
                    await self._grown.wait()
        if len(self.lines) < count:
            raise NotRunning(f"the proxy's log has {len(self.lines)} of {count} exchanges")


class Stage:
    """`async with Stage.open(folder, scale, seed) as stage:` ends all processes at its end."""

    def __init__(self, children: Children, folder: Path, scale: float, seed: int) -> None:
        self._children = children
        self._folder = folder
        self._scale = scale
        self._seed = seed
        self._reading: list[asyncio.Task[None]] = []
        self.pids: list[int] = []
        """Of all processes so far."""

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path, scale: float, seed: int) -> AsyncIterator[Stage]:
        async with Children(folder) as children:
            stage = cls(children, folder, scale, seed)
            try:
                yield stage
            finally:
                for task in stage._reading:
                    task.cancel()
                await asyncio.gather(*stage._reading, return_exceptions=True)

    async def upstream(self, profile: str) -> Upstream:
        """Starts the service. Raises NotRunning."""
        ca_file = self._folder / "ca.pem"
        child = await self._children.start(
            "the simulator",
            *("--profile", profile, "--time-scale", self._scale, "--seed", self._seed),
            *("--ca-file", ca_file),
            module="proxy.cli.suite.upstream",
        )
        self.pids.append(child.process.pid)
        url, control = (await child.says(r"on (https://\S+, control on http://\S+)")).split(", ")
        return Upstream(url, ca_file, control.removeprefix("control on "))

    async def proxy(self, name: str, settings: dict[str, Any], upstream: Upstream) -> Proxy:
        """Starts a proxy with these settings before the service. Raises NotRunning."""
        file = write(self._folder / f"{name}.yaml", settings, upstream.endpoint(), self._scale)
        child = await self._children.start(
            f"the proxy {name}", "serve", "--config", file, "--port", 0, "--admin-port", 0
        )
        self.pids.append(child.process.pid)
        proxy = Proxy(await child.says(r"listens on (http://\S+),") + "/v1")
        self._reading.append(asyncio.create_task(proxy.read(child)))
        return proxy


def fast_settings() -> dict[str, Any]:
    """What config/fast.yaml says."""
    settings: dict[str, Any] = yaml.safe_load(bundled("fast.yaml").read_text("utf-8"))
    return settings


def write(file: Path, settings: dict[str, Any], endpoint: dict[str, str], scale: float) -> Path:
    """Writes the settings with this one endpoint, and every duration, defaults too, scaled.

    Raises NotRunning when they are not settings.
    """
    own = {
        **settings,
        "endpoints": [endpoint],
        "log": {"format": "json", "level": "warning"},
        "state": "memory",
    }
    file.write_text(yaml.safe_dump(own, allow_unicode=True), "utf-8")
    try:
        whole = load(file, {}).model_dump(mode="json", exclude_none=True)
    except ConfigError as error:
        raise NotRunning(str(error)) from None
    file.write_text(yaml.safe_dump(scaled(whole, scale), allow_unicode=True), "utf-8")
    return file


def scaled(value: Any, scale: float) -> Any:
    """Settings as plain values, every duration in them times `scale`; what is empty left out."""
    if isinstance(value, dict):
        said = {k: v for k, v in value.items() if v not in ([], {})}
        return {k: v if k in _NAMES else scaled(v, scale) for k, v in said.items()}
    if isinstance(value, list):
        return [scaled(item, scale) for item in value]
    if isinstance(value, str) and _DURATION.fullmatch(value):
        seconds = Quantity(DURATION).read(value, strict=True) * scale
        return f"{seconds * 1000:.6f}".rstrip("0").rstrip(".") + "ms"
    return value
