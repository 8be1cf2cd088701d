"""Clients that leave: what becomes of their answers, what is kept of them, who comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from proxy.core.record import Record
from proxy.observe.labels import known
from proxy.observe.series import Counters, Group

BECAME: Final = frozenset({"cancelled", "drained", "gave_up", "kept"})
RESULTS: Final = frozenset({"forgotten", "refused", "resumed", "unknown"})
_OF_STATUS: Final = {None: "resumed", 200: "resumed", 404: "unknown", 410: "forgotten"}


class Leaving(Group):
    """Metrics of answers that outlive their clients."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.left = Counters(
            registry,
            "glm_proxy_clients_left_total",
            "Exchanges whose client left before its answer was whole, by what became of the"
            " answer.",
            ("route", "then"),
        )
        self.resumed = Counters(
            registry,
            "glm_proxy_streams_resumed_total",
            "Requests for a kept stream.",
            ("result",),
        )
        self.streams = Gauge(
            "glm_proxy_kept_streams", "Streams that can be fetched again.", registry=registry
        )
        self.size = Gauge(
            "glm_proxy_kept_bytes",
            "Bytes that they take; keep.max_size is the most.",
            registry=registry,
        )
        self.read: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """How many streams are kept, and how many bytes."""

    def settle(self) -> None:
        """Reads what is kept. On the loop."""
        streams, size = self.read()
        self.streams.set(streams)
        self.size.set(size)

    def finish(self, record: Record, route: str, outcome: str) -> None:
        """An exchange has ended."""
        if outcome == "client_gone" and record.kind == "chat":
            self.left.add((route, known(record.left or "cancelled", BECAME)))
        if record.kind == "streams":
            self.resumed.add((_OF_STATUS.get(record.status, "refused"),))
