"""WebSockets: how many there are, what was said on them, and how they ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy.observe.labels import OTHER

CODES: Final = frozenset(
    {
        *("1000", "1001", "1002", "1003", "1005", "1006", "1007", "1008", "1009", "1011"),
        *("1012", "1013"),
    }
)
DIRECTIONS: Final = ("received", "sent")


class Figures(NamedTuple):
    """Since the start."""

    open: int = 0
    """Now."""
    received: int = 0
    sent: int = 0
    closed: Mapping[int, int] = {}
    """By close code."""


class Sockets(Collector):
    """Shows what `read` tells. It is called on the loop; a scrape is collected in a thread."""

    def __init__(self) -> None:
        self.read: Callable[[], Figures] = Figures
        self._figures = Figures()

    def settle(self) -> None:
        """Reads them. On the loop."""
        figures = self.read()
        self._figures = figures._replace(closed=dict(figures.closed))

    def collect(self) -> Iterator[Metric]:
        figures = self._figures
        yield GaugeMetricFamily("glm_proxy_websockets", "Open WebSockets.", value=figures.open)
        messages = CounterMetricFamily(
            "glm_proxy_websocket_messages",
            "Messages on the WebSockets of clients.",
            labels=["direction"],
        )
        for direction, count in zip(DIRECTIONS, (figures.received, figures.sent), strict=True):
            messages.add_metric([direction], count)
        yield messages
        closed = CounterMetricFamily(
            "glm_proxy_websocket_closed",
            "WebSockets that ended, by the code of the first Close: the client's or ours.",
            labels=["code"],
        )
        by_label = dict.fromkeys((*sorted(CODES), OTHER), 0)
        for code, count in figures.closed.items():
            by_label[str(code) if str(code) in CODES else OTHER] += count
        for label, count in by_label.items():
            closed.add_metric([label], count)
        yield closed
