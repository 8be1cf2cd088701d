"""`/admin/live`: the proxy as it goes, as server-sent events for the operator's page.

    status      at once and each second: `/admin/status` without what does not change
    exchange    each exchange that finished: its summary, at most 20 a second
    skipped     {"count"}: how many more there were within the last second

While nobody watches nothing is made; while somebody does, it is made once for all. A watcher that
does not read has a queue of its own, and is dropped when that is full.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import orjson
from aiohttp import web
from aiohttp_sse import EventSourceResponse

from proxy.admin.answers import refusal
from proxy.admin.exchanges import summary
from proxy.observe.exchanges import Exchanges

WATCHERS: Final = 16
"""At once."""
QUEUE: Final = 64
"""Events that wait for one watcher."""
EXCHANGES: Final = 20
"""Shown each second."""
_TICKS: Final = 4
"""A second: how often finished exchanges are looked for."""
_SEND: Final = 10.0
"""Seconds in which a watcher has to take some bytes."""
_SOCKET: Final = 64 * 1024
"""Bytes of one watcher that the kernel holds: with its own measure it would be megabytes."""


class Event(NamedTuple):
    """One server-sent event."""

    name: str
    data: str


class Live:
    """All watchers. `close` belongs into the application's `on_shutdown`: a stream that nobody
    ends would keep the listener from closing."""

    def __init__(self, exchanges: Exchanges, status: Callable[[], Mapping[str, object]]) -> None:
        """`status` is asked once a second while somebody watches."""
        self._exchanges = exchanges
        self._status = status
        self._watchers: set[_Watcher] = set()
        self._telling: asyncio.Task[None] | None = None
        self._latest = Event("status", "{}")
        self._closed = False

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    async def watch(self, request: web.Request) -> web.StreamResponse:
        """One watcher, from its request to its end."""
        if self._closed:
            return refusal(503, "stopping", "the proxy is stopping")
        if len(self._watchers) >= WATCHERS:
            message = f"{WATCHERS} watch already; close a page, or try again later"
            return refusal(503, "too_many_watchers", message, retry_after=10)
        watcher = _Watcher(request)
        self._join(watcher)
        try:
            return await watcher.run()
        finally:
            self._leave(watcher)

    async def close(self, app: web.Application) -> None:
        """End all watchers at once, and take no more."""
        self._closed = True
        for watcher in tuple(self._watchers):
            watcher.end()
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)

    def _join(self, watcher: _Watcher) -> None:
        if self._telling is None:
            self._latest = self._now()
            self._telling = asyncio.create_task(self._tell())
        self._watchers.add(watcher)
        watcher.put(self._latest)

    def _leave(self, watcher: _Watcher) -> None:
        self._watchers.discard(watcher)
        if not self._watchers and self._telling is not None:
            self._telling.cancel()
            self._telling = None

    # --- what is told ------------------------------------------------------------------------

    async def _tell(self) -> None:
        """Tells everybody, second by second, until it is cancelled."""
        seen = self._exchanges.count
        while True:
            left, skipped = 0, 0
            for _ in range(_TICKS):
                await asyncio.sleep(1.0 / _TICKS)
                left += EXCHANGES // _TICKS
                shown = self._exchanges.since(seen)[-left:] if left else []
                skipped += self._exchanges.count - seen - len(shown)
                seen = self._exchanges.count
                left -= len(shown)
                self._put(*(_event("exchange", summary(kept)) for kept in shown))
            if skipped:
                self._put(_event("skipped", {"count": skipped}))
            self._latest = self._now()
            self._put(self._latest)

    def _now(self) -> Event:
        return _event("status", self._status())

    def _put(self, *events: Event) -> None:
        for watcher in tuple(self._watchers):
            for event in events:
                watcher.put(event)


class _Watcher:
    """One open stream."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUE)
        self._is_over = False

    async def run(self) -> EventSourceResponse:
        """Send what is put, until the watcher leaves, stalls or is ended."""
        response = EventSourceResponse(sep="\n", send_timeout=_SEND)
        self._keep_little()
        try:
            await response.prepare(self._request)
            async with response:
                while (event := await self._queue.get()) is not None:
                    await response.send(event.data, event=event.name)
        except (ConnectionError, TimeoutError):
            pass  # it left, or took nothing for too long
        return response

    def put(self, event: Event) -> None:
        """Never waits: who has let the queue become full is dropped."""
        if self._is_over:
            return
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self._drop()

    def end(self) -> None:
        """The stream ends now: cleanly where everything sent has been taken."""
        transport = self._request.transport
        if transport is not None and transport.get_write_buffer_size():
            self._drop()
            return
        self._is_over = True
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)

    def _drop(self) -> None:
        self._is_over = True
        if self._request.transport is not None:
            self._request.transport.abort()

    def _keep_little(self) -> None:
        transport = self._request.transport
        connection = None if transport is None else transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET)


def routes(live: Live) -> list[web.AbstractRouteDef]:
    """For GET."""
    return [web.get("/admin/live", live.watch, allow_head=False)]


def _event(name: str, content: Mapping[str, Any]) -> Event:
    return Event(name, orjson.dumps(content).decode())
