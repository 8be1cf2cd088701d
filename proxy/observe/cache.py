"""The cache of answers: what became of requests that it could answer, and how its stores fare."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from proxy.observe.labels import known
from proxy.observe.series import Counters, Group

RESULTS: Final = frozenset({"bypass", "hit", "miss"})
OPERATIONS: Final = frozenset(
    {"clear", "damaged", "delete", "dropped", "get", "open", "probe", "put", "sweep"}
)


class Cache(Group):
    """Metrics of answers that are kept."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counters(
            registry,
            "glm_proxy_cache_requests_total",
            "Chat requests on routes with a cache, by whether it answered.",
            ("route", "result"),
        )
        self.failures = Counters(
            registry,
            "glm_proxy_cache_failures_total",
            "What was asked of a store of answers or responses and was not done, or not in time.",
            ("operation",),
        )
        self.stored = Gauge(
            "glm_proxy_cache_stored_bytes",
            "Bytes that the stores of answers hold, as they said last.",
            registry=registry,
        )
        self._held: dict[str, int] = {}

    def failed(self, operation: str) -> None:
        """As `proxy.store.shelf.Observer`."""
        self.failures.add((known(operation, OPERATIONS),))

    def holds(self, store: str, size: int) -> None:
        """As `proxy.store.shelf.Observer`."""
        self._held[store] = size
        self.stored.set(sum(self._held.values()))
