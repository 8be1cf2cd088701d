"""Values that are noted and counted together: nothing is lost, and a bucket names an exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.samples import Exemplar, Sample

from proxy.observe.series import CountedHistograms, Histograms, Whose

parse: Callable[[str], Iterable[Metric]] = text_string_to_metric_families
BOUNDS = (1.0, 2.0, 5.0)
KEY = ("cn",)
GLM_KEY = "8f3c1d9e7b5a4c2f8e6d0b1a9c7e5f3d.Xk29LmPq47RsTv0w"


class Shown:
    """A registry, and what OpenMetrics shows of its one histogram."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.told = (self.registry, "lag_seconds", "Of something.", ("endpoint",), BOUNDS)

    def buckets(self) -> list[float]:
        """How many are in each bucket alone."""
        samples = [s.value for s in self._samples("lag_seconds_bucket")]
        return [b - a for a, b in zip((0.0, *samples), samples, strict=False)]

    def sum(self) -> float:
        (one,) = self._samples("lag_seconds_sum")
        return one.value

    def exemplars(self) -> list[Exemplar | None]:
        return [sample.exemplar for sample in self._samples("lag_seconds_bucket")]

    def _samples(self, name: str) -> Iterator[Sample]:
        text = generate_latest(self.registry).decode()  # type: ignore[no-untyped-call]
        for family in parse(text):
            yield from (sample for sample in family.samples if sample.name == name)


def an_exchange(request_id: str, trace_id: str | None = None) -> Whose:
    return Whose(request_id, trace_id, 1_767_323_045.678)


def test_a_bucket_names_the_last_exchange_that_was_counted_in_it() -> None:
    shown = Shown()
    histograms = Histograms(*shown.told)
    for number, seconds in enumerate((0.5, 1.5, 0.7, 9.0)):
        histograms.observe(KEY, seconds, an_exchange(f"req-{number}"))
    histograms.settle()
    named = [None if one is None else (one.labels, one.value) for one in shown.exemplars()]
    assert named == [
        ({"request_id": "req-2"}, 0.7),
        ({"request_id": "req-1"}, 1.5),
        None,
        ({"request_id": "req-3"}, 9.0),
    ]
    histograms.observe(KEY, 0.1, an_exchange("req-4", "a" * 32))
    histograms.settle()
    latest = shown.exemplars()[0]
    assert latest is not None
    assert latest.labels == {"request_id": "req-4", "trace_id": "a" * 32}
    assert float(latest.timestamp or 0) == pytest.approx(1_767_323_045.678)
    assert shown.buckets() == [3, 1, 0, 1]


def test_values_without_an_exchange_have_no_exemplar() -> None:
    shown = Shown()
    histograms = Histograms(*shown.told)
    for seconds in (0.5, -1.0, 3.0):
        histograms.observe(KEY, seconds)
    histograms.settle()
    assert shown.exemplars() == [None] * 4
    assert (shown.buckets(), shown.sum()) == ([2, 0, 1, 0], 3.5)


@example("\x1b" * 300)
@example("x" * 300)
@given(st.text(st.characters(), max_size=300))
def test_no_id_can_break_the_exposition(request_id: str) -> None:
    shown = Shown()
    histograms = Histograms(*shown.told)
    histograms.observe(KEY, 0.5, an_exchange(request_id, "f" * 32))
    histograms.observe(KEY, 1.5, an_exchange(f'"}} 1 # {{x="{request_id}\n'))
    histograms.settle()
    assert shown.buckets() == [1, 1, 0, 0]
    for one in filter(None, shown.exemplars()):
        assert sum(len(name) + len(value) for name, value in one.labels.items()) <= 128


def test_a_key_that_was_sent_as_an_id_is_not_shown() -> None:
    shown = Shown()
    histograms = Histograms(*shown.told)
    histograms.observe(KEY, 0.5, an_exchange(GLM_KEY))
    histograms.settle()
    first = shown.exemplars()[0]
    assert first is not None
    assert first.labels == {"request_id": "*"}


def test_many_values_between_two_scrapes_are_all_counted() -> None:
    shown = Shown()
    histograms = Histograms(*shown.told)
    for number in range(5_000):
        histograms.observe(KEY, 1.5, an_exchange(str(number)))
    histograms.settle()
    assert (shown.buckets(), shown.sum()) == ([0, 5_000, 0, 0], 7_500.0)
    last = shown.exemplars()[1]
    assert last is not None
    assert last.labels == {"request_id": "4999"}


def test_values_that_were_counted_per_bucket_are_added_with_their_zeros() -> None:
    shown = Shown()
    histograms = CountedHistograms(*shown.told)
    histograms.add(KEY, (1, 2, 0, 3), 10, 40.0)  # four zeros
    histograms.add(KEY, None, 7, 0.0)
    histograms.settle()
    histograms.settle()
    assert (shown.buckets(), shown.sum()) == ([12, 2, 0, 3], 40.0)


def test_counts_of_many_streams_between_two_scrapes_are_all_added() -> None:
    shown = Shown()
    histograms = CountedHistograms(*shown.told)
    for _ in range(1_000):
        histograms.add(KEY, (0, 1, 1, 0), 3, 5.5)
    histograms.settle()
    assert (shown.buckets(), shown.sum()) == ([1_000, 1_000, 1_000, 0], 5_500.0)
