"""Our histograms and counters, against the library's."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from proxy.observe.series import Catalogue, Counters, Histograms, escaped, number

BOUNDS = (0.001, 0.005, 0.1, 1, 5)


def figures(collector: Collector | CollectorRegistry) -> list[Metric]:
    """What the library shows, without creation times, which we do not keep."""
    families: Iterable[Metric] = collector.collect()
    kept = []
    for family in families:
        family.samples = [s for s in family.samples if not s.name.endswith("_created")]
        kept.append(family)
    return kept


def test_a_histogram_counts_as_the_library_does() -> None:
    catalogue, registry = Catalogue(), CollectorRegistry()
    ours = Histograms(catalogue, "h_seconds", "Spans.", ["a", "b"], BOUNDS)
    theirs = Histogram("h_seconds", "Spans.", ["a", "b"], registry=registry, buckets=BOUNDS)
    values = [*BOUNDS, 0.0, 5.0001, 1e9, *random.Random(1).choices(range(9), k=50)]
    for step, value in enumerate(values):
        key = ("x", f"{step % 3}")
        ours.observe(key, value)
        theirs.labels(*key).observe(value)
    assert figures(catalogue) == figures(registry)


def test_a_counter_counts_as_the_library_does() -> None:
    catalogue, registry = Catalogue(), CollectorRegistry()
    ours = Counters(catalogue, "c_total", "Things.", ["a"])
    theirs = Counter("c_total", "Things.", ["a"], registry=registry)
    for step in range(10):
        ours.add((f"{step % 3}",), step)
        theirs.labels(f"{step % 3}").inc(step)
    ours.add(("0",))
    theirs.labels("0").inc()
    assert figures(catalogue) == figures(registry)


def test_what_is_below_zero_counts_as_zero() -> None:
    catalogue = Catalogue()
    histograms = Histograms(catalogue, "h_seconds", "Spans.", [], BOUNDS)
    histograms.observe((), -3.0)
    assert "h_seconds_count{} 1.0\nh_seconds_sum{} 0.0\n" in "".join(histograms.text())
    counters = Counters(catalogue, "c_total", "Things.", [])
    counters.add((), 2)
    counters.add((), -5)
    assert "".join(counters.text()) == "c_total{} 2.0\n"


def test_a_key_of_the_wrong_length_is_a_defect_and_makes_no_series() -> None:
    counters = Counters(Catalogue(), "c_total", "Things.", ["a", "b"])
    with pytest.raises(ValueError, match="shorter"):
        counters.add(("x",))
    assert list(counters.text()) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1.0"),
        (0.1, "0.1"),
        (1e-9, "1e-09"),
        (1e18, "1e+18"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
    ],
)
def test_a_number_is_written_as_the_formats_ask(value: float, text: str) -> None:
    assert number(value) == text


def test_a_label_is_escaped() -> None:
    assert escaped('a"b\\c\nd') == 'a\\"b\\\\c\\nd'
    assert escaped('say "hi"', quote=False) == 'say "hi"'
