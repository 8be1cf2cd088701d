"""The table of all metrics, for a reader: made from the code, so that it is never behind it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from proxy.observe.catalogue import Entry
from proxy.observe.labels import LabelNames
from proxy.observe.legend import Label, legend
from proxy.observe.metrics import Metrics

_FOREWORD = """\
# Metrics of glm-proxy

`glm-proxy metrics` prints this page from the code; a test holds the file against it.

- `GET /metrics` on the admin listener: Prometheus text 0.0.4, or OpenMetrics 1.0 for who accepts
  `application/openmetrics-text`, as Prometheus does.
- Every label has a bounded set of values: names from the settings and the words below. What a
  client or an upstream makes up becomes `other`, what is absent `none`.
- Histograms are classic ones, with fixed buckets: the client library's instruments
  (prometheus-client 0.26) make no native ones.
- With OpenMetrics, the buckets of `glm_proxy_duration_seconds`, `_time_to_first_byte_seconds`,
  `_time_to_first_token_seconds`, `_first_content_seconds`, `_overhead_seconds` and
  `_stage_seconds` carry an exemplar: the `request_id` of the latest exchange in them, and its
  `trace_id` when its trace is exported. Prometheus keeps exemplars with
  `--enable-feature=exemplar-storage`.
- *Merge* tells how the values of several processes that share a `metrics.folder` become one.
- An exchange counts when it has ended.
"""


def entries() -> list[Entry]:
    """Every metric, by name."""
    listing = _Listing()
    names = LabelNames.of(routes=(), models=(), endpoints=("endpoint",))
    metrics = Metrics(names, listing)
    metrics.process.config_loaded("")
    return sorted(
        Entry.of(family, _labels(collector, family))
        for collector in listing.collectors
        for family in collector.collect()
    )


def markdown() -> str:
    """The whole page."""
    return "\n".join((_FOREWORD, *_metrics(entries()), "", *_legend(legend()), ""))


class _Listing(CollectorRegistry):
    """A registry that tells what is registered with it."""

    def __init__(self) -> None:
        super().__init__()
        self.collectors: list[Collector] = []

    def register(self, collector: Collector) -> None:
        super().register(collector)
        self.collectors.append(collector)


def _labels(collector: Collector, family: Metric) -> tuple[str, ...]:
    """In their order. An info's own are known by its value alone."""
    told = collector if isinstance(collector, MetricWrapperBase) else family
    names = tuple(getattr(told, "_labelnames", ()))
    if family.type == "info":
        names += tuple(name for name in family.samples[0].labels if name not in names)
    return names


def _metrics(all_of_them: Iterable[Entry]) -> Iterator[str]:
    yield from ("## Metrics", "", "| name | type | labels | unit | merge | meaning |")
    yield "| --- | --- | --- | --- | --- | --- |"
    for one in all_of_them:
        labels = ", ".join(f"`{name}`" for name in one.labels)
        yield _row(f"`{one.name}`", one.kind, labels, one.unit, one.merge, one.meaning)


def _legend(all_of_them: Iterable[Label]) -> Iterator[str]:
    yield from ("## Labels", "", "| label | of | meaning | values |", "| --- | --- | --- | --- |")
    for one in all_of_them:
        metrics = ", ".join(f"`{name}`" for name in one.metrics)
        values = ", ".join(f"`{value}`" for value in one.values)
        yield _row(f"`{one.name}`", metrics, one.meaning, values)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
