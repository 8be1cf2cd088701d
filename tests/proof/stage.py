"""The processes of a proof, on free ports of the loopback, in a folder of their own."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from proxy.cli.demo.children import Child, Children, NotRunning
from proxy.cli.suite.stage import Proxy
from tests.bench import machine
from tests.bench.processes import child, free_port
from tests.proof import settings
from tests.proof.plan import TIME_SCALE
from tests.proof.prometheus import Prometheus

_READY = 30.0
_POLL = 0.1


@dataclass(slots=True)
class Endpoints:
    """The simulated upstream."""

    north: str
    south: str
    control: str
    pid: int
    session: aiohttp.ClientSession

    async def tell(self, path: str) -> None:
        """One order: see `tests.proof.upstream`."""
        async with self.session.post(self.control + path) as response:
            response.raise_for_status()

    async def ledger(self) -> list[dict[str, Any]]:
        """Every request so far."""
        async with self.session.get(self.control + "/ledger") as response:
            found: list[dict[str, Any]] = await response.json()
            return found


@dataclass(slots=True)
class Server:
    """One proxy: where it listens, and its process, which can be started again."""

    name: str
    url: str
    admin: str
    """Host and port: its `instance` in Prometheus."""
    config: Path
    child: Child | None = None
    log: list[dict[str, Any]] = field(default_factory=list)
    """Its access log, since it was started last."""
    reading: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Stage:
    """Everything that runs."""

    folder: Path
    session: aiohttp.ClientSession
    endpoints: Endpoints
    servers: list[Server]
    prometheus: Prometheus
    children: Children = field(repr=False)

    @property
    def pids(self) -> list[int]:
        """Of the proxies and the upstream."""
        servers = [one.child.process.pid for one in self.servers if one.child is not None]
        return [self.endpoints.pid, *servers]

    async def restart(self, server: Server) -> None:
        """Ends it, as a deployment does, and starts it again at the same ports."""
        await _stop(server)
        await _start(self.children, server)

    async def next_scrapes(self, count: int) -> None:
        """Returns when each proxy was scraped so many times from now on."""
        for _ in range(count):
            begun = time.time()
            await _until(lambda since=begun: self._scraped(since), "Prometheus does not scrape")

    async def _scraped(self, since: float) -> bool:
        text = 'min(timestamp(up{job="glm-proxy"}))'
        found = await self.prometheus.number(text, time.time())
        return found is not None and found > since


@asynccontextmanager
async def stage(
    folder: Path, prometheus: str, rules: Path, every: int, scrape: int
) -> AsyncIterator[Stage]:
    """Starts all of it and ends it; `prometheus` is the program. Raises NotRunning."""
    async with AsyncExitStack() as opened:
        children = await opened.enter_async_context(Children(folder))
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        session = await opened.enter_async_context(
            aiohttp.ClientSession(connector=connector, timeout=timeout)
        )
        endpoints = await _endpoints(children, folder, session)
        servers = [_server(name, folder, endpoints) for name in ("one", "two")]
        for server in servers:
            opened.push_async_callback(_quiet, server)
        await asyncio.gather(*(_start(children, server) for server in servers))
        port, core = free_port(), machine.cores().measuring
        file = settings.prometheus(
            folder, rules, [server.admin for server in servers], every, scrape
        )
        command = [
            prometheus,
            f"--config.file={file}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
            "--log.level=warn",
        ]
        process = opened.enter_context(child(command, core, folder / "prometheus.log"))
        api = Prometheus(session, f"http://127.0.0.1:{port}")
        await _until(api.ready, f"Prometheus is not ready: {process.last_words}")
        yield Stage(folder, session, endpoints, servers, api, children)


async def _endpoints(children: Children, folder: Path, session: aiohttp.ClientSession) -> Endpoints:
    arguments = ("--time-scale", TIME_SCALE, "--folder", folder)
    process = await children.start("the upstream", *arguments, module="tests.proof.upstream")
    north, south, control = (await process.says(r"on (https://.+)$")).split()
    return Endpoints(north, south, control, process.process.pid, session)


def _server(name: str, folder: Path, endpoints: Endpoints) -> Server:
    for key in ("key-1", "key-2"):
        (folder / key).write_text(key, "utf-8")
    port, admin = free_port(), free_port()
    own = settings.proxy(
        folder,
        north=endpoints.north,
        south=endpoints.south,
        ca_file=str(folder / "ca.pem"),
        port=port,
        admin=admin,
    )
    config = settings.write(folder / f"{name}.yaml", own)
    return Server(name, f"http://127.0.0.1:{port}", f"127.0.0.1:{admin}", config)


async def _start(children: Children, server: Server) -> None:
    started = await children.start(f"the proxy {server.name}", "serve", "--config", server.config)
    await started.says(r"listens on (http://\S+),")
    logged = Proxy(server.url)
    server.child, server.log = started, logged.lines
    server.reading = asyncio.create_task(logged.read(started))


async def _stop(server: Server) -> None:
    if server.child is not None:
        server.child.process.send_signal(signal.SIGTERM)
        await server.child.process.wait()
    await _quiet(server)


async def _quiet(server: Server) -> None:
    if server.reading is not None:
        server.reading.cancel()
        await asyncio.gather(server.reading, return_exceptions=True)


async def _until(condition: Any, what: str) -> None:
    """Raises NotRunning when it does not come true."""
    deadline = time.monotonic() + _READY
    while not await condition():
        if time.monotonic() > deadline:
            raise NotRunning(what)
        await asyncio.sleep(_POLL)
