"""The home of state: whether it is in use, what failed there, how long requests waited for it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

from proxy.observe import buckets
from proxy.observe.labels import known
from proxy.observe.series import Counters, Group, Histograms

HOMES = frozenset({"memory", "redis", "sqlite"})
OPERATIONS = frozenset({"open", "probe", "read", "renew", "settle", "swap", "take", "write"})


class State(Group):
    """Metrics of where keys, switches and counts are kept."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.up = Gauge(
            "glm_proxy_state_up",
            "1: the home of state is in use, as memory always is; 0: it is out of reach, and this"
            " process goes on with what it knows and its own share of the limits.",
            ["home"],
            registry=registry,
        )
        self.errors = Counters(
            registry,
            "glm_proxy_state_errors_total",
            "What was asked of the home of state and failed, or was not answered in time.",
            ("home", "operation"),
        )
        self.seconds = Histograms(
            registry,
            "glm_proxy_state_seconds",
            "Seconds that a request waited to be counted for its limits, where the home answered.",
            ("home",),
            buckets.STATE,
        )


class HomeObserver:
    """Carries what is told of one home to the metrics."""

    def __init__(self, state: State, home: str) -> None:
        self._state = state
        self._home = known(home, HOMES)

    def reached(self, up: bool) -> None:
        self._state.up.labels(self._home).set(up)

    def failed(self, operation: str) -> None:
        self._state.errors.add((self._home, known(operation, OPERATIONS)))

    def took(self, seconds: float) -> None:
        self._state.seconds.observe((self._home,), seconds)
