"""Wiring: each part is built once, started in order, stopped in the opposite order."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ipaddress
import itertools
import logging
import random
import secrets
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from aiohttp import web

from proxy.admin import audit, exchanges, live, status
from proxy.admin.app import Readiness, make_admin
from proxy.admin.guard import TokenCheck
from proxy.admin.keys import Keys
from proxy.admin.models import Models
from proxy.admin.playground import Playground, Way, Ways
from proxy.allowance import Allowances
from proxy.config import Config, Endpoint, bundled
from proxy.config.origin import is_loopback
from proxy.core.policy import capability
from proxy.core.policy.capability import Capabilities
from proxy.core.policy.route import Router, models_body, served_models
from proxy.core.policy.switches import Switches
from proxy.core.wire.anthropic import ANTHROPIC
from proxy.core.wire.glm import GLM
from proxy.errors import Draining
from proxy.exchange import Exchange
from proxy.gate import Gate
from proxy.house import House
from proxy.knowledge import Knowledge
from proxy.net.admission import Admission
from proxy.net.door import door_of, limits_of
from proxy.net.downstream import Client, DataServer
from proxy.net.http1_probe import Http1Probe
from proxy.net.listen import BACKLOG, Listeners
from proxy.net.pool import Origin, Pool, client_context
from proxy.net.upstream import Upstream
from proxy.observe.app_log import LOGGER
from proxy.state.home import Home, Registry
from proxy.state.memory import MemoryHome
from proxy.status import Status, state_of
from proxy.telling import Telling

log = logging.getLogger(LOGGER)

_LAST_WORDS = 1.0
"""Seconds that interrupted exchanges get to tell their clients."""
_LAST_LOOK = 0.1
"""Seconds to wait for connections whose exchanges are over; aiohttp takes 0 for ever."""
_LAST_SCRAPES = 3.0
"""Seconds for what is asked on the operator's listener to be answered."""


class App:
    """One proxy: two listeners, a pool for each endpoint. `start` once, `stop` once."""

    def __init__(self, config: Config, home: Home | None = None) -> None:
        """`home` is where keys, switches and counts are kept; without one, as long as it lives.

        Raises ValueError for settings that contradict the model records.
        """
        self._config = config
        capabilities = _capabilities(config.models_file)
        models = served_models(config.routes, capabilities)
        self._telling = Telling(config, models)
        self._upstreams = {one.name: self._upstream(one) for one in config.endpoints}
        self._running: dict[Exchange, None] = {}
        """In the order they came."""
        self._idle = asyncio.Event()
        self._ready = False
        self._server: DataServer | None = None
        self._listener: asyncio.Server | None = None
        self._admin: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        self._hurried = asyncio.Event()
        created = int(time.time())
        self._admission = Admission()
        self._switches = Switches()
        self.home: Home = MemoryHome() if home is None else home
        self._knowledge = Knowledge(
            config,
            wait=self._admission.predicted_wait,
            round_trip=lambda endpoint: self._upstreams[endpoint].round_trip,
        )
        self._house = House(
            config=config,
            router=Router(config, self._switches),
            capabilities=capabilities,
            dialects={dialect.name: dialect for dialect in (GLM, ANTHROPIC)},
            upstreams=self._upstreams,
            models=models,
            list_models=partial(models_body, created=created),
            knowledge=self._knowledge,
            admission=self._admission,
            gate=Gate(config, fingerprint=_fingerprint, wall=time.time, broke=_gate_broke),
            allowances=Allowances(config.limits, self.home, random.random),
            clock=time.monotonic,
            wall=time.time,
            roll=random.random,
            flights={},
            new_id=_ids(),
            finish=self._telling.finish,
            broke=lambda request_id: log.exception("exchange %s broke", request_id),
            tracer=self._telling.tracer,
        )
        self._telling.watch(self._house)
        self._status = Status(
            self._house,
            self._telling.window,
            self._telling.exchanges,
            models=models,
            running=self._running,
            reasons=lambda: self._readiness().reasons,
        )
        self.data_address: tuple[str, int] = ("", 0)
        self.admin_address: tuple[str, int] = ("", 0)

    async def start(self, listeners: Listeners | None = None) -> None:
        """Listen, on sockets that are given or opened as the settings say, and warm the pools.

        Raises StateError, CannotListen and CannotShare, having closed what was open.
        """
        server, admin = self._config.server, self._config.admin
        async with contextlib.AsyncExitStack() as opened:
            opened.push_async_callback(self.home.close)
            self.home.watch(self._know)
            self._know(await self.home.open())
            if listeners is None:
                listeners = Listeners.open((server.host, server.port), (admin.host, admin.port))
            opened.callback(listeners.close)
            await self._telling.start()
            opened.pop_all()
        loop = asyncio.get_running_loop()
        self._server = DataServer(
            self._serve,
            head_timeout=server.header_timeout,
            keepalive_timeout=server.keepalive_timeout,
            client_stall=self._config.stream.client_stall,
            limits=limits_of(server),
            door=door_of(server, self._telling.refused),
        )
        self._listener = await loop.create_server(
            self._server, sock=listeners.data, backlog=BACKLOG
        )
        self.data_address = listeners.data.getsockname()[:2]
        self.admin_address = listeners.admin.getsockname()[:2]
        await self._start_admin(listeners.admin)
        for upstream in self._upstreams.values():
            await upstream.pool.start()
        self._ready = True

    async def stop(self, timeout: float, *, replaced: bool = False) -> None:
        """Take nothing new, let what runs finish for `timeout` seconds, tell and end the rest.

        `replaced`: other processes have the listeners and are ready, so nobody is told otherwise.
        """
        if replaced and self._site is not None:
            await self._site.stop()
        self._ready = replaced
        if self._listener is not None:
            self._listener.close()
        if self._server is not None:
            self._server.pre_shutdown()
            await self._drain(timeout)
            await self._server.shutdown(_LAST_LOOK)
        for upstream in self._upstreams.values():
            await upstream.close()
        if self._admin is not None:
            await self._admin.cleanup()
        await self.home.close()
        await self._telling.stop()

    def _know(self, registry: Registry) -> None:
        """What the operator changes while we run, here or elsewhere."""
        self._house.gate.know(registry.keys if registry.known else None)
        if registry.known:  # else those that were known go on
            self._switches.replace(registry.switches)

    def hurry(self) -> None:
        """Whatever `stop` still lets finish has had its time."""
        self._hurried.set()

    async def _drain(self, timeout: float) -> None:
        assert self._server is not None
        over = [asyncio.ensure_future(self._server.emptied())]
        over.append(asyncio.ensure_future(self._hurried.wait()))
        try:
            await asyncio.wait(over, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in over:
                waiting.cancel()
        for exchange in tuple(self._running):
            exchange.interrupt(Draining("the proxy is stopping; send the request again"))
        await self._all_over(_LAST_WORDS)

    async def _all_over(self, timeout: float) -> None:
        if not self._running:
            return
        self._idle.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout)

    async def _serve(self, client: Client) -> None:
        exchange = Exchange(self._house, client)
        self._running[exchange] = None
        self._telling.started()
        try:
            await exchange.run()
        finally:
            del self._running[exchange]
            if not self._running:
                self._idle.set()

    async def _start_admin(self, operator: socket.socket) -> None:
        admin, telling = self._config.admin, self._telling
        playground = Playground(self._ways())
        keys = Keys(self.home, lambda: self._house.gate.keys, wall=time.time)
        models = Models(
            self.home,
            self._status.models,
            capabilities=lambda: self._house.capabilities,
            wall=time.time,
        )
        watching = live.Live(telling.exchanges, self._status.moving)
        app = make_admin(
            None if telling.metrics is None else telling.metrics.scrape,
            self._readiness,
            [admin.host, *admin.hosts],
            [
                *playground.routes(),
                *exchanges.routes(telling.exchanges),
                *status.routes(self._status.whole),
                *live.routes(watching),
                *keys.routes(),
                *models.routes(),
                *audit.routes(self.home),
            ],
            token=TokenCheck(admin.token),
            anybody_reads=is_loopback(admin.host),
        )
        app.on_shutdown.append(watching.close)
        # A page that is left ends what was asked for it.
        self._admin = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            shutdown_timeout=_LAST_SCRAPES,
        )
        await self._admin.setup()
        self._site = web.SockSite(self._admin, operator, backlog=BACKLOG)
        await self._site.start()

    def _ways(self) -> Ways:
        """Where the page's prompts are sent: this proxy, and each endpoint past it.

        Without a token none is, and no second trust store is loaded for each endpoint.
        """
        endpoints = self._config.endpoints if self._config.admin.token is not None else ()
        host, port = self.data_address
        if ipaddress.ip_address(host).is_unspecified:
            host = "::1" if ":" in host else "127.0.0.1"
        own = f"[{host}]" if ":" in host else host
        return Ways(
            Way(f"http://{own}:{port}/v1/chat/completions"),
            {one.name: _direct(one) for one in endpoints},
        )

    def _readiness(self) -> Readiness:
        endpoints = {name: state_of(upstream.pool) for name, upstream in self._upstreams.items()}
        if self._ready:
            return Readiness(True, endpoints=endpoints)
        return Readiness(False, ("starting or draining",), endpoints)

    def _upstream(self, endpoint: Endpoint) -> Upstream:
        origin = Origin.of(endpoint.base_url)
        tls = client_context(endpoint.ca_file) if origin.scheme == "https" else None
        settings = self._config.pool
        return Upstream(
            Pool(origin, settings, tls, observer=self._telling.observer(endpoint.name)),
            Http1Probe(origin, tls, settings) if tls and settings.http2 == "auto" else None,
            prefix=urlsplit(endpoint.base_url).path,
            http1_bodies_over=settings.http1_bodies_over,
        )


def _direct(endpoint: Endpoint) -> Way:
    url = f"{endpoint.base_url}{endpoint.paas_path}/chat/completions"
    tls = client_context(endpoint.ca_file) if url.startswith("https") else None
    return Way(url, next(iter(endpoint.keys()), None), tls)


def _ids() -> Callable[[], str]:
    """Request ids: unlike any other process's, one after the other within this one."""
    count = itertools.count(1)
    prefix = secrets.token_hex(8)
    return lambda: f"{prefix}{next(count):08x}"


def _gate_broke() -> None:
    log.exception("the look at a key broke; its caller was refused")


_FINGERPRINT_KEY = secrets.token_bytes(32)
"""Of this process: the same key has another fingerprint after a restart."""


def _fingerprint(key: str) -> str:
    """Tells callers apart in the log without telling their keys (keyed BLAKE2, RFC 7693)."""
    return hashlib.blake2s(key.encode(), key=_FINGERPRINT_KEY, digest_size=6).hexdigest()


def _capabilities(models_file: Path | None) -> Capabilities:
    path = models_file or bundled("models.yaml")
    return capability.load(yaml.safe_load(path.read_text(encoding="utf-8")))
