"""The operator's web application: is it alive, is it ready, what are its figures.

It has a listener of its own, on a loopback address by default. A page in the operator's browser
must not be able to read it by pointing a name at that address (DNS rebinding), so the `Host` of
every request has to be an address, `localhost` or a configured name.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from proxy.observe.metrics import Scrape

_HEADERS = {
    "Server": "glm-proxy",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_INDEX = """\
glm-proxy

/livez    200 while the event loop turns
/readyz   200 when new exchanges are welcome, else 503; why, as JSON
/metrics  Prometheus text, or OpenMetrics when asked for
"""


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
    scrape: Callable[[str], Scrape],
    ready: Callable[[], Readiness],
    allowed_hosts: Iterable[str] = (),
) -> web.Application:
    """The application, to be served on a listener of its own with `access_log=None`.

    `scrape` gives the metrics for an `Accept` header, `ready` is asked at each `/readyz`.
    `allowed_hosts` are names, without a port, that the listener is reached by besides addresses
    and `localhost`.
    """
    admin = _Admin(scrape, ready)
    app = web.Application(
        middlewares=[_host_check(frozenset(map(_canonical, allowed_hosts)))],
        client_max_size=1,
    )
    app.router.add_get("/", admin.index)
    app.router.add_get("/livez", admin.live)
    app.router.add_get("/readyz", admin.ready)
    app.router.add_get("/metrics", admin.metrics)
    app.on_response_prepare.append(_harden)
    app.on_cleanup.append(admin.close)
    return app


class _Admin:
    """One method per path."""

    def __init__(self, scrape: Callable[[str], Scrape], ready: Callable[[], Readiness]) -> None:
        self._scrape = scrape
        self._ready = ready
        self._one = asyncio.Lock()
        self._making: dict[str, asyncio.Task[bytes]] = {}
        """Texts in the making, by content type."""

    async def index(self, request: web.Request) -> web.Response:
        return web.Response(text=_INDEX)

    async def live(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(self, request: web.Request) -> web.Response:
        state = self._ready()
        answer = {
            "ready": state.ready,
            "reasons": state.reasons,
            "endpoints": dict(state.endpoints),
        }
        return web.Response(
            status=200 if state.ready else 503,
            body=orjson.dumps(answer, option=orjson.OPT_APPEND_NEWLINE),
            content_type="application/json",
        )

    async def metrics(self, request: web.Request) -> web.Response:
        scrape = self._scrape(request.headers.get("Accept", ""))
        making = self._making.get(scrape.content_type)
        if making is None:
            making = self._making[scrape.content_type] = asyncio.create_task(self._text(scrape))
            making.add_done_callback(lambda _: self._making.pop(scrape.content_type))
        body = await asyncio.shield(making)  # who leaves holds up nobody who shares it
        return web.Response(body=body, headers={"Content-Type": scrape.content_type})

    async def _text(self, scrape: Scrape) -> bytes:
        """One at a time, and in a thread, so that the streams on this loop go on."""
        async with self._one:
            return await asyncio.to_thread(scrape.text)

    async def close(self, app: web.Application) -> None:
        """Waits for texts in the making: a thread cannot be cancelled."""
        await asyncio.gather(*self._making.values(), return_exceptions=True)


async def _harden(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _host_check(names: frozenset[str]) -> Middleware:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not _is_ours(hosts[0], names):
            raise web.HTTPMisdirectedRequest(text="421: unknown Host\n")
        return await handler(request)

    return check


def _is_ours(host: str, names: frozenset[str]) -> bool:
    """Whether a `Host` value is an address, `localhost` or one of `names`; a port may follow."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        return bool(bracket) and _is_port(port) and _is_address(name)
    name, colon, port = host.partition(":")
    if not _is_port(colon + port):
        return False
    name = _canonical(name)
    return name == "localhost" or name in names or _is_address(name)


def _is_port(text: str) -> bool:
    """Nothing, or a colon and digits (RFC 3986, section 3.2.3)."""
    return not text or (text[0] == ":" and (text[1:].isdecimal() or not text[1:]))


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _canonical(name: str) -> str:
    """Names differ neither by case nor by the root's dot."""
    return name.lower().removesuffix(".")
