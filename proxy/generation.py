"""What is made of one set of settings, and kept as long as somebody uses it.

A reload makes the next generation whole, beside the one in use. From then on exchanges begin with
the new one; those that run end with the one they began with: its routes, timeouts and connections.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from proxy.allowance import Allowances
from proxy.config import Cache, Config, ConfigError, Problem, Responses, bundled
from proxy.core.policy import capability
from proxy.core.policy.capability import Capabilities
from proxy.core.policy.route import Router, models_body, served_models
from proxy.core.policy.switches import Switches
from proxy.core.wire.anthropic import ANTHROPIC
from proxy.core.wire.glm import GLM
from proxy.gate import Gate
from proxy.house import House
from proxy.knowledge import Knowledge
from proxy.memory.memories import Memories
from proxy.net.admission import Admission
from proxy.net.halves import Client
from proxy.net.keeping import Keeper
from proxy.observe.app_log import LOGGER
from proxy.pools import Kept, Pools
from proxy.state.home import Home, Registry, StateError
from proxy.store.open import Stores
from proxy.telling import Telling

log = logging.getLogger(LOGGER)


class Materials(NamedTuple):
    """All that settings need from outside, read before anything is made of them."""

    config: Config
    capabilities: Capabilities
    upstreams: Mapping[str, Kept]
    """By endpoint name."""


class Generation:
    """Counts who uses it: once it is replaced, the last one's leaving gives its pools back."""

    def __init__(self, house: House, upstreams: Mapping[str, Kept], pools: Pools) -> None:
        self.house = house
        self.upstreams = upstreams
        """By endpoint name."""
        self._pools = pools
        self._users = 0
        self._is_replaced = False
        pools.take(upstreams.values())

    def begin(self) -> None:
        """An exchange begins."""
        self._users += 1

    def end(self) -> None:
        """It is over."""
        self._users -= 1
        self._end()

    async def start(self) -> None:
        """Begin to warm what is cold."""
        for kept in self.upstreams.values():
            await kept.upstream.pool.start()
        house = self.house
        house.memories.warm(rule.memory.store for rule in house.config.routes if rule.memory)

    def replaced(self, by: Generation) -> None:
        """No exchange begins here any more."""
        self._is_replaced = True
        self.house.admission.forget(by.house.knowledge.replaced(self.house.knowledge))
        remaining = by.upstreams.values()
        for kept in self.upstreams.values():
            if kept not in remaining:
                kept.upstream.pool.rest()
        self._end()

    def _end(self) -> None:
        if self._is_replaced and not self._users:
            self._pools.give_back(self.upstreams.values())


class Builder:
    """Makes the generations of one process. What all of them share is here."""

    def __init__(
        self, home: Home, telling: Telling, serve: Callable[[Client], Awaitable[None]]
    ) -> None:
        """`serve` lives one exchange."""
        self._serve = serve
        self.pools = Pools(telling.observer)
        self.keeper = Keeper(telling.process, telling.relay_of)
        self.answers = Stores(telling.answers)
        self.memories = Memories(telling.memory)
        self._home = home
        self._telling = telling
        self._registry: Registry | None = None
        self._switches = Switches()
        self._admission = Admission()
        self._new_id = _ids()
        self._created = int(time.time())

    def know(self, registry: Registry, house: House) -> list[str]:
        """What the operator changed, here or elsewhere: for `house`, and all that are made from now
        on. Which models are served by others than before, for the log."""
        self._registry = registry
        _tell(house, registry)
        if not registry.known:  # those that were known go on
            return []
        return self._switches.replace(registry.switches)

    def gather(self, config: Config) -> Materials:
        """Read what is needed, in any thread, with the pools held. Raises ConfigError."""
        problems: list[Problem] = []
        try:
            capabilities = _capabilities(config.models_file)
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            problems.append(Problem("models_file", _one_line(error)))
        try:
            upstreams = self.pools.prepare(config)
        except ConfigError as error:
            problems.extend(error.problems)
        problems.extend(self._prepare_answers(config))
        if problems:
            raise ConfigError("settings", problems)
        return Materials(config, capabilities, upstreams)

    def _prepare_answers(self, config: Config) -> Iterator[Problem]:
        """The stores that routes name are known from now on."""
        for index, rule in enumerate(config.routes):
            for name in ("cache", "responses"):
                part: Cache | Responses | None = getattr(rule, name)
                if part is None or part.store is None:
                    continue
                try:
                    self.answers.prepare(part.store)
                except StateError as error:
                    yield Problem(f"routes.{index}.{name}.store", str(error))

    def make(self, materials: Materials, before: Generation | None) -> Generation:
        """`before` is in use now, and goes on as it is; what is known there is taken over."""
        config, capabilities, kept = materials
        self.keeper.use(config.keep)
        upstreams = {name: one.upstream for name, one in kept.items()}
        telling = self._telling
        knowledge = Knowledge(
            config,
            wait=self._admission.predicted_wait,
            round_trip=lambda endpoint: upstreams[endpoint].round_trip,
            before=None if before is None else before.house.knowledge,
        )
        house = House(
            config=config,
            router=Router(config, self._switches),
            capabilities=capabilities,
            dialects={dialect.name: dialect for dialect in (GLM, ANTHROPIC)},
            upstreams=upstreams,
            models=served_models(config.routes, capabilities),
            list_models=partial(models_body, created=self._created),
            knowledge=knowledge,
            admission=self._admission,
            gate=Gate(config, fingerprint=_fingerprint, wall=time.time, broke=_gate_broke),
            allowances=Allowances(config.limits, self._home, random.random),
            clock=time.monotonic,
            wall=time.time,
            roll=random.random,
            flights={},
            keeper=self.keeper,
            memories=self.memories,
            fetches={},
            answers=self.answers,
            new_id=self._new_id,
            finish=telling.finish,
            broke=lambda request_id: log.exception("exchange %s broke", request_id),
            serve=self._serve,
            tracer=telling.tracer,
        )
        if self._registry is not None:
            _tell(house, self._registry)
        return Generation(house, kept, self.pools)


def _tell(house: House, registry: Registry) -> None:
    house.gate.know(registry.keys if registry.known else None)


def _one_line(error: Exception) -> str:
    return "; ".join(str(error).split("\n"))


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
    said = key.encode("utf-8", "surrogatepass")  # header bytes that are not UTF-8 are surrogates
    return hashlib.blake2s(said, key=_FINGERPRINT_KEY, digest_size=6).hexdigest()


def _capabilities(models_file: Path | None) -> Capabilities:
    return capability.load(_bundled_models() if models_file is None else _read(models_file))


@cache
def _bundled_models() -> Mapping[str, Any]:
    """Read once: 30 ms of the processor, and the file is part of the program."""
    return _read(bundled("models.yaml"))


def _read(path: Path) -> Mapping[str, Any]:
    content: Mapping[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content
