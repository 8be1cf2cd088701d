"""All metrics of one process, and what a scrape shows of them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from proxy.observe.labels import LabelNames
from proxy.observe.metrics import Metrics

NAMES = LabelNames.of(
    routes=["fast-chat"],
    models=["glm-4.6", "glm-4-flash"],
    endpoints=["cn", "global"],
    regions={"cn": "beijing"},
)


class Scraped:
    """A registry, its `Metrics`, and what a scrape shows."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(NAMES, self.registry)

    def value(self, name: str, **labels: str) -> float | None:
        self.metrics.scrape("")
        return self.registry.get_sample_value(name, labels)

    def total(self, name: str) -> float:
        """The sum over all children of a counter, or of a histogram's `_count`."""
        self.metrics.scrape("")
        return sum(
            sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == name
        )

    def text(self, accept: str = "") -> str:
        return self.metrics.scrape(accept).text().decode()

    def series(self) -> int:
        return sum(not line.startswith("#") for line in self.text().splitlines())
