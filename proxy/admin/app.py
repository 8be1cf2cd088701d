"""The operator's web application: is it alive, is it ready, what are its figures, and its page.

It has a listener of its own, on a loopback address by default; `proxy.admin.guard` and
`proxy.admin.rules` say who may use it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from aiohttp import web

from proxy.admin import page
from proxy.admin.answers import as_json
from proxy.admin.guard import Hosts, TokenCheck, harden, host_check, origin_check
from proxy.admin.rules import access_check, require_rules
from proxy.observe.metrics import Scrape

_LARGEST_BODY = 64 * 1024
"""Bytes: a prompt of the playground."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether new exchanges are welcome, and why not.

    `endpoints` tells the state of each upstream, for the reader's eye only: a proxy whose upstream
    is down still answers, and taking it out of service would help nobody.
    """

    ready: bool
    reasons: tuple[str, ...] = ()
    endpoints: Mapping[str, str] = field(default_factory=dict)


def make_admin(
    scrape: Callable[[str], Scrape] | None,
    ready: Callable[[], Readiness],
    allowed_hosts: Hosts | None = None,
    routes: Iterable[web.AbstractRouteDef] = (),
    *,
    token: TokenCheck | None = None,
    anybody_reads: bool = True,
) -> web.Application:
    """The application, to be served on a listener of its own with `access_log=None`.

    `scrape` gives the metrics for an `Accept` header (None: there are none), `ready` is asked at
    each `/readyz`. `allowed_hosts` are names, without a port, that the listener is reached by
    besides addresses and `localhost`. `routes` are those below `/admin`. `token` lets act; without
    one nobody may. `anybody_reads`: no token is needed to look, the listener being on loopback.

    Raises LookupError for a route without a rule in `proxy.admin.rules`.
    """
    admin = _Admin(scrape, ready)
    app = web.Application(
        middlewares=[
            host_check(allowed_hosts or Hosts()),
            origin_check,
            access_check(token or TokenCheck(None), anybody_reads=anybody_reads),
        ],
        client_max_size=_LARGEST_BODY,
    )
    app.router.add_get("/livez", admin.live)
    app.router.add_get("/readyz", admin.ready)
    app.router.add_get("/metrics", admin.metrics)
    app.add_routes([*page.routes(), *routes])
    require_rules(app)
    app.on_response_prepare.append(harden)
    app.on_cleanup.append(admin.close)
    return app


class _Admin:
    """One method per path."""

    def __init__(
        self, scrape: Callable[[str], Scrape] | None, ready: Callable[[], Readiness]
    ) -> None:
        self._scrape = scrape
        self._ready = ready
        self._one = asyncio.Lock()
        self._making: dict[str, asyncio.Task[bytes]] = {}
        """Texts in the making, by content type."""

    async def live(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(self, request: web.Request) -> web.Response:
        state = self._ready()
        answer = {
            "ready": state.ready,
            "reasons": state.reasons,
            "endpoints": dict(state.endpoints),
        }
        return as_json(answer, 200 if state.ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        if self._scrape is None:
            raise web.HTTPNotFound(text="404: there are no metrics; see metrics.enabled\n")
        scrape = self._scrape(request.headers.get("Accept", ""))
        making = self._making.get(scrape.content_type)
        if making is None:
            making = self._making[scrape.content_type] = asyncio.create_task(self._text(scrape))
            making.add_done_callback(lambda _: self._making.pop(scrape.content_type))
        try:
            body = await asyncio.shield(making)  # who leaves holds up nobody who shares it
        except OSError as error:  # a part of the sum would look as if counters had been reset
            text = f"503: metrics.folder cannot be read: {error.strerror or error}\n"
            raise web.HTTPServiceUnavailable(text=text) from None
        return web.Response(body=body, headers={"Content-Type": scrape.content_type})

    async def _text(self, scrape: Scrape) -> bytes:
        """One at a time, and in a thread, so that the streams on this loop go on."""
        async with self._one:
            return await asyncio.to_thread(scrape.text)

    async def close(self, app: web.Application) -> None:
        """Waits for texts in the making: a thread cannot be cancelled."""
        await asyncio.gather(*self._making.values(), return_exceptions=True)
