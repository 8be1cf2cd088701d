"""The two text formats, read back by the library's own parsers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Info, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as library
from prometheus_client.openmetrics import parser
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from proxy.observe.exposition import OPEN_METRICS, PLAIN, exposition
from proxy.observe.series import Catalogue, Counters, Histograms

# The library's own, which come without types.
parse_open_metrics: Callable[[str], Iterable[Metric]] = parser.text_string_to_metric_families
generate_open_metrics: Callable[[CollectorRegistry], bytes] = library.generate_latest

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;"
    "q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.fixture
def catalogue() -> Catalogue:
    """One of each kind, with everything that has to be escaped."""
    catalogue = Catalogue()
    counters = Counters(catalogue, "c_total", 'Of "things", \\ and\nmore.', ["a", "b"])
    counters.add(('a"b\\c\nd', "模型"), 3)
    counters.add(("", "x"), 0.5)
    histograms = Histograms(catalogue, "h_seconds", "Spans.", ["l"], (0.00005, 0.5, 5))
    for count in range(300):
        histograms.observe((f"模型{count}",), count / 100)
    registry = catalogue.plain
    gauge = Gauge("g", "Strange numbers.", ["n"], registry=registry)
    for name, value in {"inf": math.inf, "-inf": -math.inf, "tiny": 1e-9, "huge": 1e18}.items():
        gauge.labels(name).set(value)
    Counter("d_total", 'The "library\'s".', ["l"], registry=registry).labels("\n").inc(2)
    Gauge("plain", "No labels.", registry=registry).set(7)
    Info("build", "What runs.", registry=registry).info({"version": "1"})
    return catalogue


@pytest.fixture
def registry(catalogue: Catalogue) -> CollectorRegistry:
    """The same, as the library sees it."""
    registry = CollectorRegistry()
    registry.register(catalogue)
    return registry


def text(catalogue: Catalogue, accept: str) -> str:
    return b"".join(exposition(catalogue, accept).pieces).decode()


def without_created(text: str) -> list[str]:
    return [line for line in text.splitlines() if "_created" not in line]


def samples(text: str) -> set[tuple[str, frozenset[tuple[str, str]], float]]:
    return {
        (sample.name, frozenset(sample.labels.items()), sample.value)
        for family in parse_plain(text)
        for sample in family.samples
    }


def test_plain_text_says_what_the_library_says_but_creation_times(
    catalogue: Catalogue, registry: CollectorRegistry
) -> None:
    ours = text(catalogue, "text/plain")
    theirs = "\n".join(without_created(generate_latest(registry).decode())) + "\n"
    assert samples(ours) == samples(theirs)
    assert len(samples(ours)) > 1500
    heads = [line for line in ours.splitlines() if line.startswith("#")]
    assert heads == [line for line in theirs.splitlines() if line.startswith("#")]


def test_open_metrics_says_what_the_library_says_but_creation_times(
    catalogue: Catalogue, registry: CollectorRegistry
) -> None:
    ours = text(catalogue, PROMETHEUS)
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
    catalogue: Catalogue, accept: str, content_type: str
) -> None:
    assert exposition(catalogue, accept).content_type == content_type


def test_a_large_family_comes_in_many_pieces_of_whole_lines(catalogue: Catalogue) -> None:
    pieces = list(exposition(catalogue, "").pieces)
    assert len(pieces) > 300
    assert max(piece.count(b"\n") for piece in pieces) < 20
    assert all(piece.endswith(b"\n") for piece in pieces)


def test_a_child_that_is_made_while_pieces_are_taken_waits_for_the_next_scrape() -> None:
    catalogue = Catalogue()
    counters = Counters(catalogue, "c_total", "Things.", ["l"])
    counters.add(("a",))
    counters.add(("b",))
    taken = []
    for piece in exposition(catalogue, "").pieces:
        taken.append(piece)
        counters.add((f"new {len(taken)}",))
    assert b'c_total{l="b"} 1.0\n' in taken
    assert not any(b"new 2" in piece for piece in taken)


def test_a_number_that_is_none_is_written_as_such() -> None:
    catalogue = Catalogue()
    Gauge("g", "Not a number.", registry=catalogue.plain).set(math.nan)
    assert "g NaN\n" in text(catalogue, "")
