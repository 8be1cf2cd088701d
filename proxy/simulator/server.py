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
            "pip install 'glm-proxy[simulator]'"
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
        glm = Glm(self.settings, self.ledger, self.faults)
        self._wire = Wire(self.settings, self.ledger, glm.serve)
        self._closing = AsyncExitStack()

    async def __aenter__(self) -> Self:
        settings = self.settings
        async with AsyncExitStack() as opened:
            http2 = None if settings.http1_only else _http2_factory()
            opened.push_async_callback(self._wire.close)
            port = await self._listen(opened, settings.port, http2, None)
            self.http_url = f"http://{_in_url(settings.host)}:{port}"
            if settings.tls_port is not None:
                self.ca_file = settings.ca_file or _temporary_ca_file(opened)
                context = _tls(self.ca_file, settings)
                tls_port = await self._listen(opened, settings.tls_port, http2, context)
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

    async def _listen(
        self, opened: AsyncExitStack, port: int, http2: Factory | None, tls: ssl.SSLContext | None
    ) -> int:
        """A listener that is closed with the rest; its port."""
        host = self.settings.host
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
        opened.callback(server.close)
        return int(server.sockets[0].getsockname()[1])


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
