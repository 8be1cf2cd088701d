"""The data listener: a connection for each client, an exchange for each request on it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import ClassVar

from aiohttp import web

from proxy.config import Server
from proxy.net.client_connection import ClientConnection
from proxy.net.door import Door, HardLimits, Store, limits_of
from proxy.net.downstream import HttpClient
from proxy.net.halves import Client
from proxy.net.open_sockets import Sockets

_LINGER = 2.0
"""Seconds that the rest of a refused body is read for: a client that is still sending it would see
a reset in place of its answer."""
_GRACE = 2.0
"""Seconds a connection without a request is kept by a server that stops: a client may have sent
one before it could know. It is served, and told that the connection ends with it."""
_LOOK = 0.05
"""Seconds between two looks at the connections of a server that stops."""


class DataServer(web.Server):
    """The data listener's protocol factory; pass it to `loop.create_server`."""

    make_client: ClassVar[type[HttpClient]] = HttpClient

    def __init__(
        self,
        serve: Callable[[Client], Awaitable[None]],
        *,
        head_timeout: float,
        keepalive_timeout: float,
        client_stall: float = 60.0,
        limits: HardLimits | None = None,
        door: Door | None = None,
    ) -> None:
        """In seconds: for a request's head, for a connection without a request, and for a client
        that reads nothing of what was written. `door`: who may be in; without one everybody."""
        # handler_cancellation: without it a client that leaves while the upstream is silent is
        # never noticed, and the upstream goes on generating what nobody will read.
        super().__init__(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            keepalive_timeout=keepalive_timeout,
            auto_decompress=False,
            lingering_time=_LINGER,
        )
        self._serve = serve
        self._head_timeout = head_timeout
        self._client_stall = client_stall
        self._limits = limits or HardLimits()
        self._store = Store(self._limits.bodies)
        self._door = door or Door(sys.maxsize)
        self.sockets = Sockets()
        self._stopping = False

    def __call__(self) -> web.RequestHandler:
        return ClientConnection(
            self,
            loop=self._loop,
            head_timeout=self._head_timeout,
            client_stall=self._client_stall,
            head_limit=self._limits.head,
            head_lines=self._limits.head_lines,
            door=self._door,
            **self._kwargs,
        )

    def use(self, server: Server, client_stall: float) -> None:
        """Other settings, for connections that come from now on."""
        self._head_timeout = server.header_timeout
        self._kwargs["keepalive_timeout"] = server.keepalive_timeout
        self._client_stall = client_stall
        self._limits = limits_of(server)
        self._store.most = self._limits.bodies
        self._door.use(server)

    def pre_shutdown(self) -> None:
        """Every answer that begins from now on is the last on its connection."""
        self._stopping = True
        self.sockets.stop()

    async def emptied(self) -> None:
        """Until no connection is left: one that serves nothing any more is closed, after a grace.

        aiohttp's own `close` drops what a connection reads from then on.
        """
        began = self._loop.time()
        while self._connections:
            since = self._loop.time() - _GRACE
            for connection in self.connections if since >= began else ():
                if isinstance(connection, ClientConnection):
                    connection.close_if_idle(since)
            await asyncio.sleep(_LOOK)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        client = self.make_client(
            request,
            self._limits,
            self._store,
            stopping=lambda: self._stopping,
            sockets=self.sockets,
        )
        try:
            await self._serve(client)
        finally:
            client.release()
        assert client.response is not None
        if self._stopping and not client.response.prepared:
            client.response.force_close()
        return client.response
