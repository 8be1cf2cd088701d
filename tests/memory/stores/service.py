"""A memory service on a real socket, which answers as a test says."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from proxy.config import MemoryStore
from proxy.config.secret import Secret
from proxy.memory.stores.http import HttpStore


class Asked(NamedTuple):
    """One request."""

    line: str
    headers: dict[str, str]
    body: Any


Say = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Service:
    """What it was asked, and what it says from now on."""

    say: Say
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0
    live: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.live.add(task)
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *lines = head.rstrip().split("\r\n")
                headers = {k.lower(): v for k, _, v in (one.partition(": ") for one in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                asked = Asked(line, headers, orjson.loads(body))
                self.asked.append(asked)
                await self.say(asked, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.live.discard(task)
            writer.transport.abort()


def answering(content: object, status: int = 200, *lines: str) -> Say:
    """An answer with these contents: bytes as they are, else as JSON."""
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *lines, "", ""]
    return raw("\r\n".join(head).encode() + body)


def raw(data: bytes, *, close: bool = False) -> Say:
    async def say(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        if close:
            await writer.drain()
            writer.close()

    return say


async def silence(asked: Asked, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


@asynccontextmanager
async def serving(say: Say, tls: ssl.SSLContext | None = None) -> AsyncIterator[Service]:
    service = Service(say)
    server = await asyncio.start_server(service.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    service.url = f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}/v1"
    try:
        yield service
    finally:
        server.close()
        for task in tuple(service.live):
            task.cancel()
        await asyncio.gather(*service.live, return_exceptions=True)


@asynccontextmanager
async def calling(
    service: Service,
    timeout: float = 5.0,
    token: str | None = None,
    clock: Callable[[], float] = time.monotonic,
    **more: Any,
) -> AsyncIterator[HttpStore]:
    secret = None if token is None else Secret(token)
    settings = MemoryStore(url=service.url, timeout=timeout, **more)
    store = HttpStore(settings.model_copy(update={"token": secret}), clock)
    try:
        await store.open()
        yield store
    finally:
        await store.close()
