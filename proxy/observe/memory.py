"""Memory: what requests were told, what was written, and how the stores fare."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry

from proxy.core.record import Remembered
from proxy.observe import buckets
from proxy.observe.labels import known
from proxy.observe.series import Counters, Group, Histograms

RESULTS: Final = frozenset({"late", "none", "used"})
WRITES: Final = frozenset({"dropped", "failed", "stored"})
OPERATIONS: Final = frozenset({"add", "forget", "search"})
FAILURES: Final = OPERATIONS | {"open", "skip"}


class Memory(Group):
    """Metrics of what is remembered."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.lookups = Counters(
            registry,
            "glm_proxy_memory_lookups_total",
            "Chat requests on routes with memory, by what it did for them.",
            ("route", "result"),
        )
        self.items = Counters(
            registry,
            "glm_proxy_memory_items_total",
            "Memories that were told to the model.",
            ("route",),
        )
        self.tokens = Counters(
            registry,
            "glm_proxy_memory_tokens_total",
            "Tokens of the memories that were told, as estimated.",
            ("route",),
        )
        self.saved = Counters(
            registry,
            "glm_proxy_memory_saved_seconds_total",
            "Seconds that the first tokens would have been later, had each request waited for its"
            " memories: the time of each lookup, or of the store's answers in the mean where a"
            " lookup was not over with the request, without what was waited.",
            ("route",),
        )
        self.writes = Counters(
            registry,
            "glm_proxy_memory_writes_total",
            "Turns of conversations that were to be remembered, by what became of them.",
            ("result",),
        )
        self.failures = Counters(
            registry,
            "glm_proxy_memory_failures_total",
            "What was asked of a store of memories and was not done, or not in time.",
            ("operation",),
        )
        self.seconds = Histograms(
            registry,
            "glm_proxy_memory_store_seconds",
            "Seconds that a store of memories took for what it did. No request waits longer for it"
            " than its route allows.",
            ("operation",),
            buckets.STATE,
        )

    def finish(self, route: str, remembered: Remembered) -> None:
        """An exchange has ended, and this is what memory did for it."""
        what, items, tokens, saved = remembered
        self.lookups.add((route, known(what, RESULTS)))
        if items:
            self.items.add((route,), items)
            self.tokens.add((route,), tokens)
        if saved:
            self.saved.add((route,), saved)

    def took(self, operation: str, seconds: float) -> None:
        """As `proxy.memory.shelf.Observer`."""
        self.seconds.observe((known(operation, OPERATIONS),), seconds)

    def failed(self, operation: str) -> None:
        """As `proxy.memory.shelf.Observer`."""
        self.failures.add((known(operation, FAILURES),))

    def wrote(self, result: str) -> None:
        """As `proxy.memory.shelf.Observer`."""
        self.writes.add((known(result, WRITES),))
