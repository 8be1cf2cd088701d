"""The page before an admin listener that says what the test has written.

It has a thread and a loop of its own, because a browser is driven by calls that block.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import threading
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from proxy.admin import page
from tests.page.samples import a_detail, a_status, a_switch, an_entry

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; font-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
TOKEN = "the-operator's-token"
WITHIN = 15.0
"""Seconds for anything that a test waits for."""


def event(name: str, data: object) -> bytes:
    """One server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


@dataclass
class Asked:
    """One request of the playground, answered event by event, as the test says."""

    body: dict[str, Any]
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    left: threading.Event = field(default_factory=threading.Event)

    def say(self, name: str, **data: Any) -> None:
        self.loop.call_soon_threadsafe(self.events.put_nowait, event(name, data))

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.events.put_nowait, None)


class FakeAdmin:
    """`with FakeAdmin() as admin:` serves on `admin.url`; what it says is in plain attributes."""

    def __init__(self) -> None:
        self.status: dict[str, Any] = a_status()
        self.exchanges: dict[str, list[dict[str, Any]]] = {}
        """By kind, newest or slowest first."""
        self.details: dict[str, dict[str, Any]] = {}
        self.entries: list[dict[str, Any]] = []
        """Of the audit, newest first."""
        self.orders: list[tuple[str, str, dict[str, Any] | None]] = []
        """What was to be switched or undone: method, model or nothing, body."""
        self.refusal: tuple[int, str] | None = None
        """Status and message of the answer to the playground, or to an order."""
        self.silent = False
        """No status each second, only what the test says."""
        self.port = 0
        self._asked: queue.Queue[Asked] = queue.Queue()
        self._watchers: set[asyncio.Queue[bytes]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake admin")
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> FakeAdmin:
        self._thread.start()
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WITHIN)
        self._loop.close()

    def open(self) -> None:
        """Listens, on the port it had before if there was one."""
        self._run(self._open())

    def close(self) -> None:
        """Goes away: nothing listens, and every stream is cut."""
        self._run(self._close())

    def say(self, name: str, data: object) -> None:
        """One live event to whoever watches; a status is also what is said from now on."""
        if name == "status" and isinstance(data, dict):
            self.status = self.status | data
            data = self._live_status()
        self._run(self._say(event(name, data)))

    def asked(self) -> Asked:
        """The next request that the playground has sent."""
        return self._asked.get(timeout=WITHIN)

    def asked_both_ways(self) -> dict[str, Asked]:
        """The next two, by way."""
        both = {asked.body["way"]: asked for asked in (self.asked(), self.asked())}
        assert both.keys() == {"proxied", "direct"}
        return both

    @property
    def watchers(self) -> int:
        return len(self._watchers)

    # --- on the loop -------------------------------------------------------------------------

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(WITHIN)

    async def _open(self) -> None:
        app = web.Application()
        app.add_routes(page.routes())
        app.router.add_get("/admin/status", self._get_status)
        app.router.add_get("/admin/live", self._get_live)
        app.router.add_get("/admin/exchanges", self._get_exchanges)
        app.router.add_get("/admin/exchanges/{id}", self._get_exchange)
        app.router.add_post("/admin/playground", self._post_playground)
        app.router.add_get("/admin/audit", self._get_audit)
        app.router.add_get("/admin/models", self._get_models)
        app.router.add_put("/admin/models/{model:[^/]+}", self._put_model)
        app.router.add_delete("/admin/models/{model:[^/]+}", self._delete_models)
        app.router.add_delete("/admin/models", self._delete_models)
        app.on_response_prepare.append(_harden)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.01)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _close(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _say(self, data: bytes) -> None:
        for watcher in self._watchers:
            watcher.put_nowait(data)

    async def _get_status(self, request: web.Request) -> web.Response:
        return web.json_response(self.status)

    async def _get_exchanges(self, request: web.Request) -> web.Response:
        return web.json_response({"exchanges": self.exchanges.get(request.query["kind"], [])})

    async def _get_exchange(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        detail = self.details.get(name, a_detail(name))
        if not detail:
            return _error(404, "not_found", "it is no longer kept")
        return web.json_response(detail)

    async def _get_audit(self, request: web.Request) -> web.Response:
        return web.json_response({"entries": self.entries})

    async def _get_models(self, request: web.Request) -> web.Response:
        return web.json_response({"switches": self.status["switches"]})

    async def _put_model(self, request: web.Request) -> web.Response:
        model, body = request.match_info["model"], await request.json()
        if (refused := self._refused(request)) is not None:
            return refused
        self.orders.append(("PUT", model, body))
        made = a_switch(model=model, to=body["to"], by="admin", until=None)
        self.status["switches"] = [*self.status["switches"], made]
        self.entries.insert(0, an_entry(actor="admin", subject=f"{model} -> {body['to']}"))
        return web.json_response(made)

    async def _delete_models(self, request: web.Request) -> web.Response:
        if (refused := self._refused(request)) is not None:
            return refused
        model = request.match_info.get("model", "")
        self.orders.append(("DELETE", model, None))
        before: list[dict[str, Any]] = self.status["switches"]
        self.status["switches"] = [one for one in before if model not in ("", one["model"])]
        return web.json_response({"reset": len(before) - len(self.status["switches"])})

    def _refused(self, request: web.Request) -> web.Response | None:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _error(401, "unauthorized", "the token is wrong")
        if self.refusal is not None:
            return _error(self.refusal[0], "bad_request", self.refusal[1])
        return None

    async def _get_live(self, request: web.Request) -> web.StreamResponse:
        """The status at once and each second, and what the test says."""
        async with self._stream(request) as stream:
            waiting: asyncio.Queue[bytes] = asyncio.Queue()
            self._watchers.add(waiting)
            try:
                while True:
                    if not self.silent:
                        await stream.write(event("status", self._live_status()))
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(1):
                            while True:
                                await stream.write(await waiting.get())
            finally:
                self._watchers.discard(waiting)

    def _live_status(self) -> dict[str, Any]:
        seldom = {"routes", "models", "settings", "playground"}
        return {name: value for name, value in self.status.items() if name not in seldom}

    async def _post_playground(self, request: web.Request) -> web.StreamResponse:
        if (refused := self._refused(request)) is not None:
            return refused
        asked = Asked(await request.json(), self._loop)
        self._asked.put(asked)
        try:
            async with self._stream(request) as stream:
                while (data := await asked.events.get()) is not None:
                    await stream.write(data)
            return stream
        finally:
            asked.left.set()

    @contextlib.asynccontextmanager
    async def _stream(self, request: web.Request) -> AsyncIterator[web.StreamResponse]:
        stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await stream.prepare(request)
        yield stream


def _error(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"error": {"code": code, "message": message}}, status=status)


async def _harden(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
