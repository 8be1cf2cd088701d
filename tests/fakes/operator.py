"""An operator's eyes: a listener for a few admin routes, answers in JSON, server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import orjson
from aiohttp import web
from yarl import URL

LONGEST = 15.0
"""Seconds that anything here may take; a guard, no measure."""


@asynccontextmanager
async def listening(
    routes: Iterable[web.AbstractRouteDef],
    *on_shutdown: Callable[[web.Application], Awaitable[None]],
) -> AsyncIterator[tuple[web.AppRunner, str]]:
    """The routes on a listener of their own: its runner and its URL."""
    app = web.Application()
    app.add_routes(list(routes))
    for close in on_shutdown:
        app.on_shutdown.append(close)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


class Told(NamedTuple):
    """An answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return orjson.loads(self.body)


async def get(url: str, method: str = "GET") -> Told:
    return await send(url, method)


async def send(
    url: str, method: str, body: object = None, headers: Mapping[str, str] | None = None
) -> Told:
    """A request whose path is as it stands; `body` is bytes, or becomes JSON."""
    said = dict(headers or {})
    if body is not None and not isinstance(body, bytes):
        body = orjson.dumps(body)
        said.setdefault("Content-Type", "application/json")
    async with (
        aiohttp.ClientSession() as session,
        asyncio.timeout(LONGEST),
        session.request(method, URL(url, encoded=True), data=body, headers=said) as answer,
    ):
        found = {name.lower(): value for name, value in answer.headers.items()}
        return Told(answer.status, found, await answer.read())


class Watching:
    """One open stream of server-sent events."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def next(self, name: str | None = None) -> tuple[str, Any]:
        """The next event, or the next of that name: its name and its data."""
        async with asyncio.timeout(LONGEST):
            while True:
                kind, data = await self._event()
                if name in (None, kind):
                    return kind, data

    async def ended(self) -> bool:
        """Reads to the end; whether it is the end of a whole answer."""
        try:
            async with asyncio.timeout(LONGEST):
                await self.answer.content.read()
        except aiohttp.ClientError:
            return False
        return True

    async def _event(self) -> tuple[str, Any]:
        kind, data = "message", b""
        while line := (await self.answer.content.readuntil(b"\n")).strip():
            field, _, value = line.partition(b": ")
            if field == b"event":
                kind = value.decode()
            elif field == b"data":
                data += value
        return (kind, orjson.loads(data)) if data else await self._event()


@asynccontextmanager
async def watching(url: str) -> AsyncIterator[Watching]:
    """A watcher of `url`."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as answer:
        yield Watching(answer)
