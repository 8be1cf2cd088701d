"""The two text formats, read back by the library's own parsers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as library
from prometheus_client.openmetrics import parser
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from proxy.observe.exposition import OPEN_METRICS, PLAIN, exposition

# The library's own, which come without types.
parse_open_metrics: Callable[[str], Iterable[Metric]] = parser.text_string_to_metric_families
generate_open_metrics: Callable[[CollectorRegistry], bytes] = library.generate_latest

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;"
    "q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.fixture
def registry() -> CollectorRegistry:
    """One of each kind, with everything that has to be escaped."""
    registry = CollectorRegistry()
    Counter("c_total", 'Of "things", \\ and\nmore.', ["l"], registry=registry).labels(
        'a"b\\c\nd'
    ).inc(3)
    gauge = Gauge("g", "Strange numbers.", ["n"], registry=registry)
    for name, value in {"inf": math.inf, "-inf": -math.inf, "tiny": 1e-9, "huge": 1e18}.items():
        gauge.labels(name).set(value)
    histogram = Histogram("h_seconds", "Spans.", ["l"], registry=registry, buckets=(0.5, 5))
    for number in range(300):  # more lines than one piece holds
        histogram.labels(f"模型{number}").observe(number / 100)
    Gauge("plain", "No labels.", registry=registry).set(7)
    Info("build", "What runs.", registry=registry).info({"version": "1"})
    return registry


def text(registry: CollectorRegistry, accept: str) -> str:
    return b"".join(exposition(registry, accept).pieces).decode()


def without_created(text: str) -> list[str]:
    return [line for line in text.splitlines() if "_created" not in line]


def samples(text: str) -> set[tuple[str, frozenset[tuple[str, str]], float]]:
    return {
        (sample.name, frozenset(sample.labels.items()), sample.value)
        for family in parse_plain(text)
        for sample in family.samples
    }


def test_plain_text_says_what_the_library_says_but_creation_times(
    registry: CollectorRegistry,
) -> None:
    ours = text(registry, "text/plain")
    theirs = "\n".join(without_created(generate_latest(registry).decode())) + "\n"
    assert samples(ours) == samples(theirs)
    assert len(samples(ours)) > 1500
    heads = [line for line in ours.splitlines() if line.startswith("#")]
    assert heads == [line for line in theirs.splitlines() if line.startswith("#")]


def test_open_metrics_says_what_the_library_says_but_creation_times(
    registry: CollectorRegistry,
) -> None:
    ours = text(registry, PROMETHEUS)
    theirs = "\n".join(without_created(generate_open_metrics(registry).decode())) + "\n"
    assert list(parse_open_metrics(ours)) == list(parse_open_metrics(theirs))
    assert ours.endswith("# EOF\n")


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", PLAIN),
        ("*/*", PLAIN),
        ("text/plain;version=0.0.4", PLAIN),
        ("application/openmetrics-text", OPEN_METRICS),
        ("Application/OpenMetrics-Text; version=1.0.0", OPEN_METRICS),
        (PROMETHEUS, OPEN_METRICS),
    ],
)
def test_the_format_follows_the_accept_header(
    registry: CollectorRegistry, accept: str, content_type: str
) -> None:
    assert exposition(registry, accept).content_type == content_type


def test_a_large_family_comes_in_several_pieces(registry: CollectorRegistry) -> None:
    pieces = list(exposition(registry, "").pieces)
    assert max(piece.count(b"\n") for piece in pieces) <= 250
    assert all(piece.endswith(b"\n") for piece in pieces)


def test_a_number_that_is_none_is_written_as_such() -> None:
    registry = CollectorRegistry()
    Gauge("g", "Not a number.", registry=registry).set(math.nan)
    assert "g NaN\n" in text(registry, "")
