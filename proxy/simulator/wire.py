"""What the listeners' connections share: the service behind them, their tasks, rough ends."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from proxy.simulator.ledger import Connection, Entry, Ledger
from proxy.simulator.reply import Outlet
from proxy.simulator.settings import SimulatorSettings

_LOG = logging.getLogger("glm_proxy.simulator")

Serve = Callable[[Entry, Outlet], Awaitable[None]]


class Wire:
    """One per simulator. Owns the task of every request and every open transport."""

    def __init__(self, settings: SimulatorSettings, ledger: Ledger, serve: Serve) -> None:
        self.settings = settings
        self.ledger = ledger
        self.serve = serve
        self._tasks: set[asyncio.Task[None]] = set()
        self._transports: set[asyncio.Transport] = set()
        self._all_gone = asyncio.Event()

    def connected(self, transport: asyncio.Transport, protocol: str) -> Connection:
        """A connection was accepted; its end must be told to `disconnected`."""
        self._transports.add(transport)
        tls = transport.get_extra_info("ssl_object") is not None
        host, port = (transport.get_extra_info("peername") or ("?", 0))[:2]
        return self.ledger.connected(protocol, tls, f"{host}:{port}")

    def disconnected(self, transport: asyncio.Transport, connection: Connection) -> None:
        self._transports.discard(transport)
        if not self._transports:
            self._all_gone.set()
        self.ledger.disconnected(connection)

    def start(
        self, answering: Coroutine[Any, Any, None], transport: asyncio.Transport
    ) -> asyncio.Task[None]:
        """A task for one request, owned by this object until it ends."""
        task = asyncio.get_running_loop().create_task(answering)
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, transport))
        return task

    def _ended(self, transport: asyncio.Transport, task: asyncio.Task[None]) -> None:
        """A defect of ours is told, and ends the connection rather than leave it silent."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("the simulator failed to answer a request", exc_info=error)
            transport.abort()

    async def close(self) -> None:
        """Drops every connection and ends every request."""
        self._all_gone.clear()
        for transport in list(self._transports):
            transport.abort()
        if self._transports:
            await self._all_gone.wait()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def drop(transport: asyncio.Transport) -> None:
    """Ends the connection by TCP RST, after what was written has left or a second has passed."""
    await asyncio.sleep(0)
    for _ in range(1000):
        if not transport.get_write_buffer_size() or transport.is_closing():
            break
        await asyncio.sleep(0.001)
    own = transport.get_extra_info("socket")
    own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
