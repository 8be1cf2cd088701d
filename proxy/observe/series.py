"""Histograms and counters with labels, made for one writer: the event loop's thread.

They stand beside the library's own and differ in two figures: an observation costs 0.2 us instead
of 1.1, and a line of text 0.5 us instead of 9, because it is written from a kept prefix. A scrape
must not hold the event loop; with 18,000 lines that is 10 ms instead of 170.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

Key = tuple[str, ...]
"""The values of an instrument's labels, in their order."""


class Catalogue(Collector):
    """All instruments of one process, in the order they were made."""

    def __init__(self) -> None:
        self.instruments: list[Histograms | Counters] = []
        self.plain = CollectorRegistry()
        """Gauges and what else the library does well."""

    def collect(self) -> Iterator[Metric]:
        """The figures in the library's own form, for its tools."""
        for instrument in self.instruments:
            yield instrument.family()
        yield from self.plain.collect()


class Histograms:
    """A histogram for each combination of label values."""

    kind = "histogram"

    def __init__(
        self,
        catalogue: Catalogue,
        name: str,
        meaning: str,
        labels: Sequence[str],
        bounds: Sequence[float],
    ) -> None:
        """`bounds` are the upper bounds of the buckets, rising; `+Inf` is added."""
        self.name = name
        self.meaning = meaning
        self._labels = tuple(labels)
        self._bounds = tuple(map(float, bounds))
        self._ends = [number(bound) for bound in (*self._bounds, math.inf)]
        self._children: dict[Key, _Histogram] = {}
        catalogue.instruments.append(self)

    def observe(self, key: Key, value: float) -> None:
        """Adds one value; below zero (marks out of order) it counts as zero."""
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._child(key)
        if value > 0.0:
            child.counts[bisect_left(self._bounds, value)] += 1
            child.sum += value
        else:
            child.counts[0] += 1

    def text(self) -> Iterator[str]:
        """The lines of one child after the other."""
        for child in tuple(self._children.values()):
            yield child.text()

    def family(self) -> Metric:
        """The same figures in the library's form."""
        family = HistogramMetricFamily(self.name, self.meaning, labels=self._labels)
        for key, child in self._children.items():
            buckets = list(zip(self._ends, accumulate(child.counts), strict=True))
            family.add_metric(key, buckets, child.sum)
        return family

    def _child(self, key: Key) -> _Histogram:
        labels = _labels(self._labels, key)
        return _Histogram(
            [f'{self.name}_bucket{{{labels},le="{end}"}} ' for end in self._ends],
            f"{self.name}_count{{{labels}}} ",
            f"{self.name}_sum{{{labels}}} ",
        )


class _Histogram:
    """The figures of one combination, and how each of its lines begins."""

    __slots__ = ("_beginnings", "_count", "_sum", "counts", "sum")

    def __init__(self, beginnings: list[str], count: str, total: str) -> None:
        self.counts = [0] * len(beginnings)
        self.sum = 0.0
        self._beginnings = beginnings
        self._count = count
        self._sum = total

    def text(self) -> str:
        counts = list(accumulate(self.counts))
        lines = [
            f"{beginning}{count}.0\n"
            for beginning, count in zip(self._beginnings, counts, strict=True)
        ]
        lines.append(f"{self._count}{counts[-1]}.0\n{self._sum}{number(self.sum)}\n")
        return "".join(lines)


class Counters:
    """A counter for each combination of label values."""

    kind = "counter"

    def __init__(
        self, catalogue: Catalogue, name: str, meaning: str, labels: Sequence[str]
    ) -> None:
        """`name` ends in `_total`."""
        self.name = name
        self.meaning = meaning
        self._labels = tuple(labels)
        self._children: dict[Key, _Counter] = {}
        catalogue.instruments.append(self)

    def add(self, key: Key, amount: float = 1.0) -> None:
        """Adds `amount`; nothing when it is below zero (an upstream may report nonsense)."""
        child = self._children.get(key)
        if child is None:
            beginning = f"{self.name}{{{_labels(self._labels, key)}}} "
            child = self._children[key] = _Counter(beginning)
        if amount > 0.0:
            child.total += amount

    def text(self) -> Iterator[str]:
        """The line of one child after the other."""
        for child in tuple(self._children.values()):
            yield f"{child.beginning}{number(child.total)}\n"

    def family(self) -> Metric:
        """The same figures in the library's form."""
        family = CounterMetricFamily(self.name, self.meaning, labels=self._labels)
        for key, child in self._children.items():
            family.add_metric(key, child.total)
        return family


class _Counter:
    """The total of one combination, and how its line begins."""

    __slots__ = ("beginning", "total")

    def __init__(self, beginning: str) -> None:
        self.beginning = beginning
        self.total = 0.0


def number(value: float) -> str:
    """A sample's value, or a bucket's end, as both text formats write it."""
    if math.isfinite(value):
        return repr(float(value))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"


def escaped(text: str, *, quote: bool = True) -> str:
    """A label's value, or a help text, whose quotes only OpenMetrics escapes."""
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


def _labels(names: Sequence[str], values: Key) -> str:
    pairs = zip(names, values, strict=True)
    return ",".join([f'{name}="{escaped(value)}"' for name, value in pairs])
