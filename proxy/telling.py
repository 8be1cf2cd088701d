"""Whatever tells of exchanges and connections after the fact, as one: metrics, log, memory, traces.

What is switched off in the settings is not made.
"""

from __future__ import annotations

import asyncio
import io
import logging
import random
import secrets
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.config import Config, digest
from proxy.core.record import Record
from proxy.core.wire.trace import Tracer
from proxy.errors import ConnectFailed
from proxy.house import House
from proxy.memory.shelf import Observer as MemoryObserver
from proxy.memory.shelf import Unobserved
from proxy.net.admission import Admission
from proxy.net.open_sockets import Sockets
from proxy.net.pool import ConnectPhases
from proxy.observe.access_log import AccessLog
from proxy.observe.app_log import LOGGER
from proxy.observe.exchanges import Exchanges
from proxy.observe.labels import LabelNames
from proxy.observe.metrics import Metrics
from proxy.observe.sockets import Figures
from proxy.observe.window import Window
from proxy.sharing import Sharing
from proxy.state.home import Home
from proxy.status import figures_of
from proxy.store.shelf import Observer

if TYPE_CHECKING:  # its packages are an extra
    from proxy.observe.tracing import Tracing

log = logging.getLogger(LOGGER)

_LAST_LINES = 1.0
"""Seconds to wait for the last lines of the access log to be written."""
_COMPLAINT = 1.0
"""Seconds between two lines of what would come with each connection."""
_LAST_SPANS = 2.0
"""Seconds to wait for the last spans to be sent."""


class Telling:
    """From `start` to `stop`; `started` and `finish` are called for each exchange."""

    def __init__(self, config: Config) -> None:
        """Raises ModuleNotFoundError when there should be traces and the extra `otel` is not
        installed."""
        self.metrics = Metrics(LabelNames()) if config.metrics.enabled else None
        self.exchanges = Exchanges(config.admin.exchanges)
        self.window = Window()
        self.tracer = _tracer(config)
        self._turned_away = 0
        self._complained = -_COMPLAINT
        """When, on the monotonic clock."""
        self._tracing = _tracing(config)
        self._sharing = _sharing(config, self.metrics)
        self._access_log = AccessLog(
            _standard_output(), config.log.format, sample=config.log.sample
        )

    def answer(self, others: Callable[[str], bytes]) -> None:
        """What is said to another worker that asks for an exchange; nothing if it is not known."""
        if self._sharing is not None:
            self._sharing.answer = lambda question: others(question.decode(errors="replace"))

    @property
    def process(self) -> str | None:
        """The name by which other workers find this one; None: there are none."""
        return None if self._sharing is None else self._sharing.process

    @property
    def own_relay(self) -> Path | None:
        """Where other workers ask this one; None: there are none."""
        return None if self._sharing is None else self.relay_of(self._sharing.process)

    def relay_of(self, process: str) -> Path | None:
        """Where the worker of that name is asked for what it keeps; None: there are no others."""
        return None if self._sharing is None else self._sharing.relay_of(process)

    async def elsewhere(self, request_id: str) -> bytes | None:
        """What another worker says of an exchange."""
        if self._sharing is None:
            return None
        return await self._sharing.ask(request_id.encode())

    def watch(self, home: Home) -> None:
        """Show how the home of state fares."""
        if self.metrics is not None:
            home.tell(self.metrics.observer(home.kind))

    def watch_sockets(self, sockets: Sockets) -> None:
        """Show the WebSockets of the data listener."""
        if self.metrics is not None:
            self.metrics.sockets.read = lambda: Figures(
                len(sockets.open), *sockets.messages(), sockets.closed
            )

    @property
    def memory(self) -> MemoryObserver:
        """Is told how stores of memories fare."""
        return Unobserved() if self.metrics is None else self.metrics.memory

    @property
    def answers(self) -> Observer | None:
        """Is told how stores of answers fare."""
        return None if self.metrics is None else self.metrics.answers

    def observer(self, endpoint: str) -> PoolObserver:
        """What is told of the connections to an endpoint."""
        return PoolObserver(endpoint, self.metrics)

    def use(self, house: House) -> None:
        """From now on the settings in use are this house's."""
        config = house.config
        if self._tracing is not None:
            self._tracing.use(_base_urls(config))
        self._access_log.sample = config.log.sample
        if self.metrics is not None:
            self._show(self.metrics, house)
            self.metrics.process.config_loaded(digest(config))

    def _show(self, metrics: Metrics, house: House) -> None:
        """At each scrape, what is known then."""
        metrics.rename(_label_names(house))
        metrics.watch_log("access", lambda: self._access_log.dropped)
        tracing = self._tracing
        if tracing is not None:
            metrics.watch_spans(lambda: tracing.dropped)
        metrics.watch_admission(partial(_admission_figures, house.admission))
        metrics.leaving.read = lambda: (len(house.keeper.rings), house.keeper.size)
        metrics.watch_breakers(lambda: house.knowledge.breakers(time.monotonic()))
        metrics.watch_pools(
            {name: partial(figures_of, one.pool) for name, one in house.upstreams.items()}
        )

    def config_refused(self) -> None:
        """Settings could not be used."""
        if self.metrics is not None:
            self.metrics.process.config_refused()

    async def start(self) -> None:
        """Raises CannotShare."""
        if self._sharing is not None:
            await self._sharing.start()
        if self.metrics is not None:
            self.metrics.process.start()

    async def stop(self) -> None:
        """Nothing may happen any more. Waits a few seconds for what is still to be written."""
        if self.metrics is not None:
            self.metrics.process.stop()
        if self._sharing is not None:
            await self._sharing.stop()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close, _LAST_SPANS)
        await asyncio.to_thread(self._access_log.close, _LAST_LINES)

    def refused(self, setting: str) -> None:
        """A connection was closed at once, for the sake of that limit."""
        if self.metrics is not None:
            self.metrics.turned_away(setting)
        self._turned_away += 1
        now = time.monotonic()
        if now - self._complained >= _COMPLAINT:
            self._complained = now
            log.warning(
                "clients are closed at once: server.%s is reached (%d since the start)",
                setting,
                self._turned_away,
            )

    def started(self) -> None:
        """An exchange begins."""
        if self.metrics is not None:
            self.metrics.started()

    def finish(self, record: Record) -> None:
        """An exchange has ended."""
        if self.metrics is not None:
            self.metrics.finish(record)
        self._access_log.finish(record)
        self.exchanges.finish(record)
        self.window.finish(record)
        if self._tracing is not None:
            self._tracing.finish(record)


class PoolObserver:
    """Carries what happens to an endpoint's connections to the metrics; its ups and downs to the
    log, once each."""

    def __init__(self, endpoint: str, metrics: Metrics | None) -> None:
        self._endpoint = endpoint
        self._metrics = metrics
        self._down = False

    def connected(self, phases: ConnectPhases) -> None:
        if self._down:
            self._down = False
            log.warning("endpoint %s is reached again", self._endpoint)
        if self._metrics is not None:
            self._metrics.connected(
                self._endpoint,
                phases.dns,
                phases.tcp,
                phases.tls or None,
                phases.alpn or "http/1.1",
                phases.certificate_expires,
            )

    def connect_failed(self, error: ConnectFailed) -> None:
        if self._metrics is not None:
            self._metrics.connect_failed(self._endpoint, error.code)
        if not self._down:
            self._down = True
            log.warning("endpoint %s cannot be reached: %s", self._endpoint, error)

    def closed(self, reason: str, age: float) -> None:
        if self._metrics is not None:
            self._metrics.connection_closed(self._endpoint, reason, age)


def _admission_figures(
    admission: Admission,
) -> Iterator[tuple[str, str, dict[str, float | None]]]:
    for (endpoint, model), figures in admission.figures().items():
        yield (
            endpoint,
            model,
            {
                "waiting": figures.waiting,
                "in_flight": figures.in_flight,
                "limit": figures.limit or None,
                "resting_keys": figures.resting,
            },
        )


def _sharing(config: Config, metrics: Metrics | None) -> Sharing | None:
    if metrics is None or config.metrics.folder is None:
        return None
    return Sharing(config.metrics.folder, metrics)


def _tracing(config: Config) -> Tracing | None:
    if config.tracing == "off":
        return None
    from proxy.observe.tracing import Tracing

    return Tracing(config.tracing, _base_urls(config))


def _base_urls(config: Config) -> dict[str, str]:
    return {one.name: one.base_url for one in config.endpoints}


def _tracer(config: Config) -> Tracer | None:
    if config.tracing == "off":
        return None
    return Tracer(config.tracing.sample, random.random, secrets.token_hex)


def _standard_output() -> io.FileIO:
    """Unbuffered: the access log's own thread writes whole lines."""
    return io.FileIO(1, "wb", closefd=False)


def _label_names(house: House) -> LabelNames:
    config = house.config
    candidates = [one.model for rule in config.routes for one in rule.candidates if one.model]
    return LabelNames.of(
        routes=[rule.name for rule in config.routes],
        models=[*house.models, *candidates],
        endpoints=[endpoint.name for endpoint in config.endpoints],
        regions={endpoint.name: endpoint.region for endpoint in config.endpoints},
    )
