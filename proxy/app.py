"""Wiring: each part is built once, started in order, stopped in the opposite order.

What is made of the settings is a generation of its own (`proxy.generation`): a reload makes the
next one beside it, and puts it in its place when nothing can go wrong any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

from proxy.admin import audit
from proxy.admin.app import Readiness
from proxy.config import (
    CannotReload,
    Config,
    ConfigError,
    Problem,
    digest,
    exposed,
    unchangeable,
)
from proxy.core.record import Record
from proxy.core.wire.target import Kind
from proxy.desk import Desk
from proxy.errors import Draining
from proxy.exchange import Exchange
from proxy.generation import Builder, Generation, Materials
from proxy.house import House
from proxy.learning import Learning
from proxy.net.data_server import DataServer
from proxy.net.door import door_of, limits_of
from proxy.net.halves import Client
from proxy.net.listen import BACKLOG, Listeners, hold_little
from proxy.net.relay import RelayListener
from proxy.observe.app_log import LOGGER
from proxy.state.home import Entry, Home, Registry, StateError
from proxy.state.open import make_home
from proxy.status import Status, state_of
from proxy.telling import Telling

log = logging.getLogger(LOGGER)

_LAST_WORDS = 1.0
"""Seconds that interrupted exchanges get to tell their clients."""
_LAST_LOOK = 0.1
"""Seconds to wait for connections whose exchanges are over; aiohttp takes 0 for ever."""


class App:
    """One proxy: two listeners, a pool for each endpoint. `start` once, `stop` once."""

    def __init__(self, config: Config, home: Home | None = None) -> None:
        """`home` is where keys, switches and counts are kept; without one, where the settings say,
        or as long as this lives.

        Raises StateError, and ConfigError for what is named in the settings and cannot be used.
        """
        self.on_reload: Callable[[], Awaitable[None]] | None = None
        """Reads the settings again and has them used here, as whoever made this knows how. Raises
        ConfigError, CannotReload."""
        self._running: dict[Exchange, None] = {}
        """In the order they came."""
        self._idle = asyncio.Event()
        self._ready = self._is_serving = False
        self._reloading = asyncio.Lock()
        self._server: DataServer | None = None
        self._listener: asyncio.Server | None = None
        self._hurried = asyncio.Event()
        self.home = _home(config) if home is None else home
        telling = self._telling = Telling(config)
        telling.watch(self.home)
        self._builder = Builder(self.home, telling, self._serve)
        self._generation = self._builder.make(self._builder.gather(config), None)
        self._status = Status(
            self._generation.house,
            telling.window,
            telling.exchanges,
            running=self._running,
            reasons=lambda: self._readiness().reasons,
        )
        self._desk = Desk(
            self.home,
            telling,
            self._status,
            readiness=self._readiness,
            reread=self._reread,
        )
        self._learning = Learning(self.home, lambda: self.house)
        self._desk.use(self._generation)
        telling.use(self._generation.house)
        self._relays = RelayListener(telling.own_relay, self._serve_relayed)
        self.data_address: tuple[str, int] = ("", 0)
        self.admin_address: tuple[str, int] = ("", 0)

    @property
    def house(self) -> House:
        """What an exchange works with that begins now."""
        return self._generation.house

    @property
    def config(self) -> Config:
        """The settings in use."""
        return self._generation.house.config

    async def start(self, listeners: Listeners | None = None, *, follows: bool = False) -> None:
        """Listen, on sockets that are given or opened as the settings say, and warm the pools.
        `follows`: another process serves, and goes on where this one could let nobody in.

        Raises StateError, CannotListen, CannotShare, and ConfigError for listeners that are open to
        more than the settings say, having closed what was open.
        """
        server, admin = self.config.server, self.config.admin
        async with contextlib.AsyncExitStack() as opened:
            opened.push_async_callback(self.home.close)
            self.home.watch(self._know)
            self._know(await self.home.open())
            if follows and not self._knows_whom_to_let_in:
                trouble = self.home.trouble or "its state cannot be read"
                raise StateError(f"the keys are not known: {trouble}")
            if listeners is None:
                listeners = Listeners.open((server.host, server.port), (admin.host, admin.port))
            opened.callback(listeners.close)
            if open_to_all := tuple(exposed(self.config, *listeners.hosts)):
                raise ConfigError("the listeners", list(open_to_all))
            await self._telling.start()
            opened.pop_all()
        loop = asyncio.get_running_loop()
        self._server = DataServer(
            self._serve,
            head_timeout=server.header_timeout,
            keepalive_timeout=server.keepalive_timeout,
            client_stall=self.config.stream.client_stall,
            limits=limits_of(server),
            door=door_of(server, self._telling.refused),
        )
        self._telling.watch_sockets(self._server.sockets)
        hold_little(listeners.data)
        self._listener = await loop.create_server(
            self._server, sock=listeners.data, backlog=BACKLOG
        )
        self.data_address = listeners.data.getsockname()[:2]
        self.admin_address = listeners.admin.getsockname()[:2]
        await self._desk.start(listeners.admin, self.data_address)
        await self._generation.start()
        await self._builder.answers.open()
        await self._be_relayed_to()
        self._learning.start()
        self._ready = self._is_serving = True

    async def stop(self, timeout: float, *, replaced: bool = False) -> None:
        """Take nothing new, let what runs finish for `timeout` seconds, tell and end the rest.

        `replaced`: other processes have the listeners and are ready, so nobody is told otherwise.
        """
        if replaced:
            await self._desk.leave()
        self._ready, self._is_serving = replaced, False
        if self._listener is not None:
            self._listener.close()
        if self._server is not None:
            self._server.pre_shutdown()
            await self._drain(timeout)
            await self._server.shutdown(_LAST_LOOK)
        await self._relays.close(_LAST_LOOK)
        await self._end_what_runs(_LAST_LOOK)
        self._builder.keeper.close()
        await self._builder.pools.close()
        await self._desk.stop()
        await self._learning.stop()
        await self._builder.memories.close()
        await self._builder.answers.close()
        await self.home.close()
        await self._telling.stop()

    # --- exchanges ---------------------------------------------------------------------------

    async def _serve(self, client: Client) -> None:
        exchange = self._begun(client, self.house)
        self._telling.started()
        await exchange.run()

    async def _serve_relayed(self, client: Client) -> None:
        """For another worker, which counts and logs what its client asked it for."""
        await self._begun(client, replace(self.house, finish=_untold)).run()

    def _begun(self, client: Client, house: House) -> Exchange:
        generation, exchange = self._generation, Exchange(house, client)
        exchange.on_over = partial(self._over, exchange, generation)
        generation.begin()
        self._running[exchange] = None
        return exchange

    def _over(self, exchange: Exchange, generation: Generation) -> None:
        """Its client may be gone for long."""
        del self._running[exchange]
        if not self._running:
            self._idle.set()
        generation.end()

    # --- settings ----------------------------------------------------------------------------

    async def reload(self, config: Config) -> None:
        """Use these settings for what comes from now on; what runs goes on with those it has.

        Raises CannotReload with all reasons, and has changed nothing then.
        """
        async with self._reloading:
            try:
                await self._use(config)
            except CannotReload:
                self.settings_refused()
                raise

    def settings_refused(self) -> None:
        """Settings were to be loaded and could not be: those before them stay."""
        self._telling.config_refused()

    async def _reread(self, actor: str) -> str:
        """Settings are read again for `actor`; a digest of those. Raises CannotReload."""
        if self.on_reload is None:
            raise CannotReload([Problem("", "this proxy was not told where its settings are")])
        try:
            await self.on_reload()
        except ConfigError as error:
            raise CannotReload(error.problems) from None
        used = digest(self.config)
        entry = Entry(time.time(), actor, "reload", used)
        audit.tell(entry)
        try:
            await self.home.note(entry)
        except StateError as error:
            log.warning("a reload by %s is not in the audit: %s", actor, error)
        return used

    async def _use(self, config: Config) -> None:
        builder, fixed = self._builder, tuple(unchangeable(self.config, config))
        fixed += tuple(exposed(config, self.data_address[0], self.admin_address[0]))
        with builder.pools.held():
            try:
                materials = await asyncio.to_thread(builder.gather, config)
            except ConfigError as error:
                raise CannotReload((*fixed, *error.problems)) from None
            if not self._is_serving:
                raise CannotReload([Problem("", "the proxy is starting or stopping")])
            if fixed:
                raise CannotReload(fixed)
            await self._swap(materials)

    async def _swap(self, materials: Materials) -> None:
        """Nothing is refused any more. What is in use changes in one turn of the event loop."""
        before = self._generation
        after = self._generation = self._builder.make(materials, before)
        house = after.house
        assert self._server is not None
        self._server.use(house.config.server, house.config.stream.client_stall)
        self._status.use(house)
        self._desk.use(after)
        self._telling.use(house)
        if house.config.log.level != before.house.config.log.level:
            log.setLevel(house.config.log.level.upper())
        before.replaced(after)
        await after.start()
        await self._builder.answers.open()
        await self._be_relayed_to()

    async def _be_relayed_to(self) -> None:
        """Other workers may ask for streams, where some are kept."""
        if Kind.STREAMS not in self.house.router.serves:
            await self._relays.close(_LAST_LOOK)
            return
        try:
            await self._relays.open(self.config.server, self.config.stream.client_stall)
        except OSError as error:
            log.error("other workers cannot fetch the streams that are kept here: %s", error)

    def _know(self, registry: Registry) -> None:
        """What the operator changes while we run, here or elsewhere."""
        for line in self._builder.know(registry, self._generation.house):
            log.info("%s", line)

    # --- the end -----------------------------------------------------------------------------

    def hurry(self) -> None:
        """Whatever `stop` still lets finish has had its time."""
        self._hurried.set()

    async def _drain(self, timeout: float) -> None:
        assert self._server is not None
        over: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._emptied(self._server))]
        over.append(asyncio.ensure_future(self._hurried.wait()))
        try:
            await asyncio.wait(over, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in over:
                waiting.cancel()
        await self._end_what_runs(_LAST_WORDS)

    async def _emptied(self, server: DataServer) -> None:
        """No client is left, and nothing that goes on without one."""
        await server.emptied()
        while self._running:
            self._idle.clear()
            await self._idle.wait()

    async def _end_what_runs(self, timeout: float) -> None:
        for exchange in tuple(self._running):
            exchange.interrupt(Draining("the proxy is stopping; send the request again"))
        await self._all_over(timeout)

    async def _all_over(self, timeout: float) -> None:
        if not self._running:
            return
        self._idle.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), timeout)

    @property
    def _knows_whom_to_let_in(self) -> bool:
        return self.config.access == "open" or self.house.gate.keys is not None

    def _readiness(self) -> Readiness:
        house = self._generation.house
        endpoints = {name: state_of(one.pool) for name, one in house.upstreams.items()}
        reasons: tuple[str, ...] = ()
        if not self._ready:
            reasons = ("starting or draining",)
        elif not self._knows_whom_to_let_in:
            reasons = ("the keys are not known yet, so that nobody is let in",)
        return Readiness(not reasons, reasons, endpoints)


def _untold(record: Record) -> None:
    """Nobody is told."""


def _home(config: Config) -> Home:
    return make_home(config.state, strict=config.access == "keys")
