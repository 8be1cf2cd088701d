"""A realtime API made of the `websockets` library: what it was asked, and what it says."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import orjson
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

Talk = Callable[[ServerConnection], Awaitable[None]]


async def echo(socket: ServerConnection) -> None:
    async for message in socket:
        await socket.send(message)


class RealtimePeer:
    """One upstream."""

    def __init__(self, talk: Talk, refuses: int | None) -> None:
        self._talk, self._refuses = talk, refuses
        self.sockets: list[ServerConnection] = []
        self.requests: list[Request] = []
        self.ended: asyncio.Queue[tuple[int | None, str | None]] = asyncio.Queue()
        """Close code and reason of each that is over; 1006 for one that was dropped."""
        self.url = ""

    async def handle(self, socket: ServerConnection) -> None:
        self.sockets.append(socket)
        try:
            await self._talk(socket)
        except ConnectionClosed:
            pass
        finally:
            await socket.wait_closed()
            self.ended.put_nowait((socket.close_code, socket.close_reason))

    def answer(self, socket: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        if self._refuses is None:
            return None
        status = HTTPStatus(self._refuses)
        refusal = socket.respond(status, "")
        key = request.headers.get("authorization", "")
        error = {"error": {"code": "1113", "message": f"no money for {key}"}}
        refusal.body = orjson.dumps(error)
        del refusal.headers["content-length"], refusal.headers["content-type"]
        refusal.headers["content-length"] = str(len(refusal.body))
        refusal.headers["content-type"] = "application/json"
        if 300 <= self._refuses < 400:
            refusal.headers["location"] = "/elsewhere"
        return refusal


@asynccontextmanager
async def realtime_peer(
    talk: Talk = echo,
    *,
    refuses: int | None = None,
    tls: ssl.SSLContext | None = None,
    **options: Any,
) -> AsyncIterator[RealtimePeer]:
    """`refuses`: the status with which it opens no WebSocket."""
    peer = RealtimePeer(talk, refuses)
    options = {"max_size": None, "compression": None, "close_timeout": 1.0, **options}
    server: Server = await serve(
        peer.handle, "127.0.0.1", 0, process_request=peer.answer, ssl=tls, **options
    )
    port = next(iter(server.sockets)).getsockname()[1]
    peer.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{port}"
    try:
        yield peer
    finally:
        server.close()
        await server.wait_closed()
