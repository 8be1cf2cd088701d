"""The operator's listener, wired: the web application of `proxy.admin`, what it tells and does."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from proxy.admin import audit, cache, exchanges, live, memory, reload, status
from proxy.admin.app import Readiness, make_admin
from proxy.admin.connection import Runner
from proxy.admin.guard import Hosts, TokenCheck
from proxy.admin.keys import Keys
from proxy.admin.models import Models
from proxy.admin.playground import Playground, Way, Ways
from proxy.config import Endpoint
from proxy.config.origin import is_loopback
from proxy.forgetting import forget_key
from proxy.generation import Generation
from proxy.net.listen import BACKLOG, url_of
from proxy.state.home import Home
from proxy.status import Status
from proxy.telling import Telling

_LAST_SCRAPES = 3.0
"""Seconds for what is asked on the operator's listener to be answered."""


class Desk:
    """From `start` to `stop`; `use` says which settings it is about."""

    def __init__(
        self,
        home: Home,
        telling: Telling,
        status: Status,
        *,
        readiness: Callable[[], Readiness],
        reread: Callable[[str], Awaitable[str]],
    ) -> None:
        """`reread` loads the settings again for whom it is told, and tells their digest."""
        self._home = home
        self._telling = telling
        self._status = status
        self._readiness = readiness
        self._reread = reread
        self._hosts = Hosts()
        self._token = TokenCheck(None)
        self._playground = Playground(Ways(Way("")))
        self._generation: Generation | None = None
        self._data_address = ("", 0)
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None

    def use(self, generation: Generation) -> None:
        """From now on it is about that one."""
        self._generation = generation
        admin = generation.house.config.admin
        self._hosts.use((admin.host, *admin.hosts))
        self._token.use(admin.token)
        self._playground.use(self._ways(generation))

    async def start(self, listener: socket.socket, data_address: tuple[str, int]) -> None:
        """`data_address` is the data listener's."""
        assert self._generation is not None
        self._data_address = data_address
        self.use(self._generation)
        kept = self._telling.exchanges
        self._telling.answer(lambda one: exchanges.for_another(kept, one))
        watching = live.Live(kept, self._status.moving)
        app = self._application(watching, anybody_reads=is_loopback(listener.getsockname()[0]))
        app.on_shutdown.append(watching.close)
        # A page that is left ends what was asked for it.
        self._runner = Runner(
            app,
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            shutdown_timeout=_LAST_SCRAPES,
        )
        await self._runner.setup()
        self._site = web.SockSite(self._runner, listener, backlog=BACKLOG)
        await self._site.start()

    async def leave(self) -> None:
        """Others have the listener now; what is under way is still answered."""
        if self._site is not None:
            await self._site.stop()

    async def stop(self) -> None:
        """Answers what is asked, for a few seconds."""
        if self._runner is not None:
            await self._runner.cleanup()

    def _application(self, watching: live.Live, *, anybody_reads: bool) -> web.Application:
        telling, status_ = self._telling, self._status
        keys = Keys(self._home, lambda: self._now.house.gate.keys, wall=time.time)
        models = Models(
            self._home,
            status_.models,
            switches=lambda: self._now.house.router.switches,
            capabilities=lambda: self._now.house.capabilities,
            wall=time.time,
        )
        return make_admin(
            None if telling.metrics is None else telling.metrics.scrape,
            self._readiness,
            self._hosts,
            [
                *self._playground.routes(),
                *exchanges.routes(telling.exchanges, telling.elsewhere),
                *status.routes(status_.whole),
                *live.routes(watching),
                *keys.routes(),
                *models.routes(),
                *memory.routes(
                    self._home, lambda key: forget_key(self._now.house, key), wall=time.time
                ),
                *cache.routes(
                    self._home,
                    lambda: self._now.house.answers.clear("cache"),
                    wall=time.time,
                ),
                *audit.routes(self._home),
                *reload.routes(self._reread),
            ],
            token=self._token,
            anybody_reads=anybody_reads,
        )

    @property
    def _now(self) -> Generation:
        assert self._generation is not None
        return self._generation

    def _ways(self, generation: Generation) -> Ways:
        """Where the page's prompts are sent: this proxy, and each endpoint past it. Without a token
        none is."""
        config = generation.house.config
        endpoints = config.endpoints if config.admin.token is not None else ()
        return Ways(
            Way(f"{_url(self._data_address)}/v1/chat/completions"),
            {one.name: _direct(one, generation) for one in endpoints},
        )


def _url(address: tuple[str, int]) -> str:
    """Where this machine reaches what listens there."""
    host, port = address
    if host and ipaddress.ip_address(host).is_unspecified:
        host = "::1" if ":" in host else "127.0.0.1"
    return url_of((host, port))


def _direct(endpoint: Endpoint, generation: Generation) -> Way:
    url = f"{endpoint.base_url}{endpoint.paas_path}/chat/completions"
    tls = generation.upstreams[endpoint.name].tls
    return Way(url, next(iter(endpoint.keys()), None), tls)
