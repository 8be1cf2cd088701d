"""The simulator as one object: listeners, ledger, faults. `async with Simulator(…) as sim:`."""

from __future__ import annotations

import asyncio
import os
import ssl
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from proxy.simulator.entrance import Entrance, Factory
from proxy.simulator.fault_queue import FaultQueue, FaultRule
from proxy.simulator.faults import Fault
from proxy.simulator.glm import Glm
from proxy.simulator.http1 import Http1Connection
from proxy.simulator.ledger import Ledger
from proxy.simulator.settings import SimulatorSettings
from proxy.simulator.wire import Wire

_BACKLOG = 1024


class MissingExtra(ImportError):
    """TLS or HTTP/2 is asked for and the packages for it are not installed."""

    def __init__(self) -> None:
        super().__init__(
            "the simulator's TLS and HTTP/2 need two more packages: "
            "pip install '.[simulator]' in its folder"
        )


class CannotListen(OSError):
    """An address is taken, or not ours."""


class Simulator:
    """A GLM on this machine, from `async with` to its end. Belongs to one event loop.

    Raises `MissingExtra` and `CannotListen` when it starts.
    """

    def __init__(self, settings: SimulatorSettings | None = None) -> None:
        self.settings = settings or SimulatorSettings()
        self.ledger = Ledger(self.settings.ledger_size)
        self.faults = FaultQueue()
        self.http_url = ""
        self.https_url: str | None = None
        self.ca_file: Path | None = None
        self._glm = Glm(self.settings, self.ledger, self.faults)
        self._wire = Wire(self.settings, self.ledger, self._glm.serve)
        self._http2: Factory | None = None
        self._listeners: dict[int, tuple[asyncio.Server, ssl.SSLContext | None]] = {}
        """By port."""
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        settings = self.settings
        async with AsyncExitStack() as opened:
            self._http2 = None if settings.http1_only else _http2_factory()
            opened.push_async_callback(self._wire.close)
            opened.callback(self._stop_listening)
            port = await self._listen(settings.port, None)
            self.http_url = f"http://{_in_url(settings.host)}:{port}"
            if settings.tls_port is not None:
                self.ca_file = settings.ca_file or _temporary_ca_file(opened)
                context = _tls(self.ca_file, settings)
                tls_port = await self._listen(settings.tls_port, context)
                self.https_url = f"https://{_in_url(settings.host)}:{tls_port}"
            self._closing = opened.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._closing.aclose()

    def inject(
        self,
        fault: Fault,
        *,
        times: int | None = 1,
        every: int = 1,
        after: int = 0,
        path: str = "*",
        model: str = "*",
    ) -> FaultRule:
        """Plays this fault to the next request that matches; see `FaultRule` for the counting.

        Take a rule back with `sim.faults.rules.remove(rule)`.
        """
        rule = FaultRule(fault, times, every, after, path, model)
        self.faults.rules.append(rule)
        return rule

    def use(self, profile: str) -> None:
        """From now on the times of this profile; limits stay. Raises KeyError."""
        self._glm.use(profile)

    async def go_down(self) -> None:
        """Every connection breaks and new ones are refused, until `come_up`."""
        self._stop_listening()
        await self._wire.close()

    async def come_up(self) -> None:
        """Listens again where it did. Raises CannotListen."""
        for port, (_, tls) in list(self._listeners.items()):
            await self._listen(port, tls)

    def _stop_listening(self) -> None:
        for server, _ in self._listeners.values():
            server.close()

    async def _listen(self, port: int, tls: ssl.SSLContext | None) -> int:
        """Opens a listener; its port."""
        host, http2 = self.settings.host, self._http2
        try:
            server = await asyncio.get_running_loop().create_server(
                lambda: Entrance(self._wire, Http1Connection, http2),
                host,
                port,
                ssl=tls,
                backlog=_BACKLOG,
            )
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise CannotListen(f"cannot listen on {host}:{port}: {reason}") from error
        found = int(server.sockets[0].getsockname()[1])
        self._listeners[found] = (server, tls)
        return found


def _http2_factory() -> Factory:
    try:
        from proxy.simulator.http2 import Http2Connection
    except ImportError as error:
        raise MissingExtra from error
    return Http2Connection


def _tls(ca_file: Path, settings: SimulatorSettings) -> ssl.SSLContext:
    try:
        from proxy.simulator.certificate import server_context
    except ImportError as error:
        raise MissingExtra from error
    names = dict.fromkeys(("localhost", "127.0.0.1", "::1", settings.host, *settings.names))
    alpn = ("http/1.1",) if settings.http1_only else ("h2", "http/1.1")
    return server_context(ca_file, tuple(names), alpn)


def _temporary_ca_file(opened: AsyncExitStack) -> Path:
    folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="glm-simulator-"))
    return Path(folder) / "ca.pem"


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
