"""The home of one process: nothing is kept."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from math import inf
from typing import Final

from proxy.core.policy.access import VirtualKey, kept
from proxy.core.policy.limits import Meter, Taken, Want
from proxy.core.policy.switches import Switch
from proxy.state.home import Entry, Observer, Registry

_AUDITED: Final = 1000


class MemoryHome:
    """Everything in this process, as long as it lives."""

    kind = "memory"
    trouble = None

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._meter = Meter(lease=inf)  # who holds places and who counts them end together
        self._keys: dict[str, VirtualKey] = {}
        self._switches: dict[str, Switch] = {}
        self._audit: deque[Entry] = deque(maxlen=_AUDITED)
        self._watchers: list[Callable[[Registry], None]] = []

    def tell(self, observer: Observer) -> None:
        observer.reached(True)

    async def open(self) -> Registry:
        return self._registry()

    async def close(self) -> None:
        self._watchers.clear()

    def watch(self, changed: Callable[[Registry], None]) -> None:
        self._watchers.append(changed)

    async def save_key(self, key: VirtualKey, entry: Entry) -> None:
        self._keys[key.id] = kept(self._keys.get(key.id), key)
        self._changed(entry)

    async def save_switch(self, switch: Switch, entry: Entry) -> None:
        self._switches[switch.model] = switch
        self._changed(entry)

    async def drop_switches(self, models: Collection[str] | None, entry: Entry) -> int:
        there = [model for model in self._switches if models is None or model in models]
        for model in there:
            del self._switches[model]
        self._changed(entry)
        return len(there)

    async def note(self, entry: Entry) -> None:
        self._audit.appendleft(entry)

    async def audit(self, most: int) -> list[Entry]:
        return list(islice(self._audit, most))

    async def swap(self, lessons: bytes) -> list[bytes]:
        return []

    async def take(self, wants: Sequence[Want], lease: str) -> Taken:
        return self._meter.take(wants, lease, self._clock(), self._wall())

    def settle(self, wants: Sequence[Want], lease: str, tokens: int) -> None:
        self._meter.settle(wants, lease, tokens, self._clock(), self._wall())

    def places(self) -> dict[str, int]:
        """Requests that run, by subject."""
        return self._meter.places()

    def _changed(self, entry: Entry) -> None:
        self._audit.appendleft(entry)
        registry = self._registry()
        for changed in self._watchers:
            changed(registry)

    def _registry(self) -> Registry:
        return Registry(dict(self._keys), dict(self._switches))
