"""Gauges that are read when somebody looks: pools, admission, breakers, dropped log lines.

The figures come from functions given by the wiring, so that this room needs to know no pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.observe.labels import LabelNames, known

Stats = Callable[[], Mapping[str, float]]
Admission = Callable[[], Iterable[tuple[str, str, Mapping[str, float | None]]]]
"""Endpoint, model, and its figures: see `_ADMISSION`."""
Breakers = Callable[[], Iterable[tuple[str, str, str]]]
"""Endpoint, model, and state: see `STATES`."""

_Place = tuple[str, str]
"""An endpoint and a model, as label values."""
_PLACE = ("endpoint", "served_model")

CONNECTIONS = {"open": "connections", "opening": "opening", "idle": "idle"}
"""The `state` label, and the figure of a pool it shows."""

_ADMISSION = {
    "waiting": "Requests that wait for a place of their key.",
    "in_flight": "Requests that have a place.",
    "limit": "Places that there are, of all keys together; absent while no limit is known.",
    "resting_keys": "Keys that are not used for a while because the upstream turned them away.",
}
STATES = {"closed": 0, "half_open": 1, "open": 2}
"""How bad each state is."""


class Watched(Collector):
    """Shows what was put under `pools` (by endpoint), `logs` (by name), `admission`, `breakers`,
    `spans`.

    A scrape's text is made in a thread, and pools belong to the loop's: so `look` reads them there,
    and `collect` shows what was seen last.
    """

    def __init__(self, names: LabelNames) -> None:
        self.pools: dict[str, Stats] = {}
        self.logs: dict[str, Callable[[], int]] = {}
        self.spans: Callable[[], int] = int
        self.admission: Admission = tuple
        self.breakers: Breakers = tuple
        self.names = names
        self._places: dict[_Place, dict[str, float | None]] = {}
        self._states: dict[_Place, str] = {}
        self._stats: dict[str, Mapping[str, float]] = {}
        self._dropped: dict[str, int] = {}
        self._dropped_spans = 0

    def look(self) -> None:
        """Reads all figures. On the loop."""
        self._stats = {endpoint: read() for endpoint, read in self.pools.items()}
        self._dropped = {name: read() for name, read in self.logs.items()}
        self._dropped_spans = self.spans()
        self._places = self._summed()
        self._states = self._worst()

    def _summed(self) -> dict[_Place, dict[str, float | None]]:
        """A sum with something unlimited in it is unlimited."""
        places: dict[_Place, dict[str, float | None]] = {}
        for endpoint, model, figures in self.admission():
            total = places.setdefault(self._place(endpoint, model), dict.fromkeys(_ADMISSION, 0))
            for name, so_far in total.items():
                more = figures[name]
                total[name] = None if so_far is None or more is None else so_far + more
        return places

    def _worst(self) -> dict[_Place, str]:
        states: dict[_Place, str] = {}
        for endpoint, model, state in self.breakers():
            place = self._place(endpoint, model)
            states[place] = max(states.get(place, state), state, key=STATES.__getitem__)
        return states

    def _place(self, endpoint: str, model: str) -> _Place:
        return known(endpoint, self.names.endpoints), known(model, self.names.models)

    def collect(self) -> Iterator[Metric]:
        stats, places = self._stats, self._places
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
        for figure, meaning in _ADMISSION.items():
            yield _admission(figure, meaning, places)
        yield _breakers(self._states)
        yield self._dropped_lines()
        yield CounterMetricFamily(
            "glm_proxy_spans_dropped",
            "Spans of traces lost because the collector did not take them, or not fast enough.",
            value=self._dropped_spans,
        )

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
        "HTTP/2 connections to an endpoint: open (established), opening, idle (established, without"
        " a stream).",
        labels=["endpoint", "state"],
    )
    for endpoint, figures in stats.items():
        for state, figure in CONNECTIONS.items():
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


def _admission(
    figure: str, meaning: str, places: Mapping[_Place, Mapping[str, float | None]]
) -> Metric:
    family = GaugeMetricFamily(f"glm_proxy_admission_{figure}", meaning, labels=_PLACE)
    for place, figures in places.items():
        if (value := figures[figure]) is not None:
            family.add_metric(place, value)
    return family


def _breakers(states: Mapping[_Place, str]) -> Metric:
    family = GaugeMetricFamily(
        "glm_proxy_breaker_state",
        "1 for the state that a candidate's breaker is in: closed (it is asked), open (it is left"
        " out after failures in a row), half_open (one attempt may try it).",
        labels=(*_PLACE, "state"),
    )
    for place, state in states.items():
        for one in STATES:
            family.add_metric((*place, one), float(one == state))
    return family
