"""Gauges that are read when somebody looks: pools, and lines that logs had to drop.

The figures come from functions given by the wiring, so that this room needs to know no pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

Stats = Callable[[], Mapping[str, float]]

_CONNECTIONS = {"open": "connections", "opening": "opening", "idle": "idle"}
"""The `state` label, and the figure of a pool it shows."""


class Watched(Collector):
    """Shows what was put under `pools` (by endpoint) and `logs` (by name).

    A scrape's text is made in a thread, and pools belong to the loop's: so `look` reads them there,
    and `collect` shows what was seen last.
    """

    def __init__(self) -> None:
        self.pools: dict[str, Stats] = {}
        self.logs: dict[str, Callable[[], int]] = {}
        self._stats: dict[str, Mapping[str, float]] = {}
        self._dropped: dict[str, int] = {}

    def look(self) -> None:
        """Reads all figures. On the loop."""
        self._stats = {endpoint: read() for endpoint, read in self.pools.items()}
        self._dropped = {name: read() for name, read in self.logs.items()}

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        yield _connections(stats)
        yield _gauge(
            "glm_proxy_pool_streams",
            "Exchanges in progress on the connections to an endpoint.",
            stats,
            "streams",
        )
        yield _gauge(
            "glm_proxy_pool_waiting",
            "Attempts that wait for a free stream or connection to an endpoint.",
            stats,
            "waiting",
        )
        yield _gauge(
            "glm_proxy_ping_round_trip_seconds",
            "Seconds that the latest HTTP/2 PING to an endpoint took to be answered, on the"
            " connection where it took least.",
            stats,
            "ping_round_trip",
        )
        yield self._dropped_lines()

    def _dropped_lines(self) -> Metric:
        family = CounterMetricFamily(
            "glm_proxy_log_lines_dropped",
            "Log lines dropped because whoever reads the log did not keep up.",
            labels=["log"],
        )
        for name, dropped in self._dropped.items():
            family.add_metric([name], dropped)
        return family


def _connections(stats: Mapping[str, Mapping[str, float]]) -> Metric:
    family = GaugeMetricFamily(
        "glm_proxy_pool_connections",
        "Connections to an endpoint: open (established), opening, idle (established, without a"
        " stream).",
        labels=["endpoint", "state"],
    )
    for endpoint, figures in stats.items():
        for state, figure in _CONNECTIONS.items():
            if figure in figures:
                family.add_metric([endpoint, state], figures[figure])
    return family


def _gauge(
    name: str, meaning: str, stats: Mapping[str, Mapping[str, float]], figure: str
) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=["endpoint"])
    for endpoint, figures in stats.items():
        if figure in figures:
            family.add_metric([endpoint], figures[figure])
    return family
