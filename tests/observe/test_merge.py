"""Figures of several processes as one: sums that hold in any order, and bytes that say the same.

Invariants of the generated cases: merging is commutative and associative; a merged histogram is
one (buckets ascend, `+Inf` is the count); nothing that was counted gets lost, whatever its bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf, isnan, nan

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.core import Exemplar, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain
from prometheus_client.registry import Collector

from proxy.observe.catalogue import MERGE
from proxy.observe.merge import (
    Buckets,
    Child,
    Family,
    Key,
    Snapshot,
    Value,
    families,
    lasting,
    merge,
    metrics,
    well_formed,
)
from proxy.observe.snapshot import decode, encode
from tests.fakes.records import a_record
from tests.observe.scraped import Scraped

RULES = {"together": "sum", "worst": "max", "oldest": "min"}
NONE: Key = ("", ())
COUNT: Key = ("_total", ())


class Shown(Collector):
    """Families as a registry would show them."""

    def __init__(self, shown: Iterable[Family]) -> None:
        self._shown = tuple(shown)

    def collect(self) -> Iterable[Metric]:
        return metrics(self._shown)


def a_value(
    name: str, kind: str, key: Key, value: float, exemplar: Exemplar | None = None
) -> Family:
    return Family(name, kind, "What it means.", "", {key: Value(value, exemplar)})


def a_histogram(
    counts: Mapping[float, float], total: float = 0.0, exemplars: Mapping[float, Exemplar] = {}
) -> Family:
    child = Buckets(tuple(counts), tuple(counts.values()), total, dict(exemplars))
    return Family("spans", "histogram", "What it means.", "", {NONE: child})


def value(shown: Iterable[Family], name: str, key: Key = NONE) -> float:
    (family,) = (one for one in shown if one.name == name)
    child = family.children[key]
    assert isinstance(child, Value)
    return child.value


def buckets(shown: Iterable[Family]) -> Buckets:
    (family,) = shown
    child = family.children[NONE]
    assert isinstance(child, Buckets)
    return child


# --- rules -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "key", "values", "merged"),
    [
        ("seen", "counter", COUNT, (1, 2, 4), 7),
        ("together", "gauge", NONE, (1, 2, 4), 7),
        ("worst", "gauge", NONE, (1, 4, 2), 4),
        ("oldest", "gauge", NONE, (2, 1, 4), 1),
        ("of a version to come", "gauge", NONE, (2, 4, 1), 4),
        ("build", "info", ("_info", (("version", "1"),)), (1, 1, 1), 1),
        ("together", "gauge", NONE, (1, nan, 4), 5),
        ("worst", "gauge", NONE, (nan, 4, nan), 4),
        ("oldest", "gauge", NONE, (3, nan, -inf), -inf),
    ],
)
def test_each_metric_is_merged_by_its_rule(
    name: str, kind: str, key: Key, values: tuple[float, ...], merged: float
) -> None:
    shown = merge([[a_value(name, kind, key, one)] for one in values], RULES)
    assert value(shown, name, key) == merged


def test_a_value_that_nobody_knows_stays_unknown() -> None:
    unknown = a_value("worst", "gauge", NONE, nan)
    assert isnan(value(merge([[unknown], [unknown]], RULES), "worst"))


def test_every_gauge_of_ours_has_a_rule() -> None:
    shown = families(Scraped().registry.collect())
    gauges = {family.name for family in shown if not family.lasts}
    assert gauges <= MERGE.keys()


def test_series_with_other_labels_stand_side_by_side() -> None:
    cn, world = (("_total", (("endpoint", name),)) for name in ("cn", "global"))
    shown = merge([[a_value("seen", "counter", cn, 1)], [a_value("seen", "counter", world, 2)]], {})
    assert (value(shown, "seen", cn), value(shown, "seen", world)) == (1, 2)


def test_a_family_only_one_side_has_is_there() -> None:
    old, new = a_value("old", "gauge", NONE, 1), a_value("new", "gauge", NONE, 2)
    assert [one.name for one in merge([[old], [new]], {})] == ["old", "new"]


def test_of_two_types_of_one_name_the_first_stands() -> None:
    ours, theirs = a_value("x", "gauge", NONE, 1), a_value("x", "counter", COUNT, 5)
    (family,) = merge([[ours], [theirs]], {})
    assert (family.kind, family.children) == ("gauge", ours.children)


def test_of_the_gone_only_counters_and_histograms_last() -> None:
    histogram = a_histogram({inf: 1})
    counter = a_value("seen", "counter", COUNT, 1)
    others = [a_value(kind, kind, NONE, 1) for kind in ("gauge", "info", "unknown", "stateset")]
    assert lasting([histogram, *others, counter]) == (histogram, counter)


def test_what_is_merged_stays_as_it_was() -> None:
    """A sibling's last figures are merged again at the next scrape."""
    old, new = (Exemplar({"request_id": name}, 0.1, at) for name, at in (("a", 1), ("b", 2)))
    one, other = a_histogram({1: 1, inf: 1}, 1, {1: old}), a_histogram({1: 2, inf: 2}, 2, {1: new})
    merge([[one], [other]], {})
    assert one == a_histogram({1: 1, inf: 1}, 1, {1: old})


# --- histograms and exemplars ------------------------------------------------------------------


def test_histograms_add_up_bucket_by_bucket() -> None:
    one, other = a_histogram({0.5: 1, 5: 3, inf: 4}, 21.5), a_histogram({0.5: 0, 5: 2, inf: 2}, 3)
    assert buckets(merge([[one], [other]], {})) == Buckets((0.5, 5, inf), (1, 5, 6), 24.5, {})


def test_histograms_with_other_bounds_count_each_value_at_a_bound_it_had() -> None:
    """2 of the old are between 1 and 10: nothing says that they are below 5."""
    old, new = a_histogram({1: 1, 10: 3, inf: 3}, 9), a_histogram({1: 1, 5: 2, inf: 4}, 20)
    merged = Buckets((1, 5, 10, inf), (2, 3, 5, 7), 29, {})
    assert buckets(merge([[old], [new]], {})) == merged
    assert buckets(merge([[new], [old]], {})) == merged


def test_a_histogram_whose_first_bound_is_new_adds_nothing_below_its_own() -> None:
    old, new = a_histogram({1: 4, inf: 4}), a_histogram({0.1: 1, 1: 1, inf: 1})
    assert buckets(merge([[old], [new]], {})).counts == (1, 5, 5)


def test_of_exemplars_the_newest_stays_in_each_bucket() -> None:
    def at(request: str, seconds: float | None) -> Exemplar:
        return Exemplar({"request_id": request}, 0.3, seconds)

    one = a_histogram({1: 1, 5: 1, inf: 1}, 0, {1: at("a", 10.0), 5: at("b", 20.0)})
    other = a_histogram({1: 1, 5: 1, inf: 1}, 0, {1: at("c", 11.0), inf: at("d", None)})
    for order in ([one, other], [other, one]):
        kept = buckets(merge([[family] for family in order], {})).exemplars
        assert {bound: found.labels["request_id"] for bound, found in kept.items()} == {
            1: "c",
            5: "b",
            inf: "d",
        }


def test_the_newest_exemplar_of_a_counter_stays() -> None:
    exemplars = [Exemplar({"request_id": name}, 1, at) for name, at in (("new", 2.0), ("old", 1.0))]
    counters = [[a_value("seen", "counter", COUNT, 1, one)] for one in exemplars]
    (family,) = merge(counters, {})
    assert family.children[COUNT] == Value(2, exemplars[0])


# --- as the library shows them -----------------------------------------------------------------


def a_registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    counter = Counter("seen", "Counted.", ["who"], registry=registry)
    counter.labels("a").inc(2, {"request_id": "1"})
    Gauge("level", "How high.", registry=registry).set(1.5)
    Info("build", "Which.", registry=registry).info({"version": "1"})
    spans = Histogram("spans", "Seconds.", ["who"], registry=registry, buckets=(0.1, 1, 5))
    spans.labels("b").observe(0.5, {"request_id": "2"})
    spans.labels("b").observe(20)
    return registry


@pytest.mark.parametrize("write", [generate_latest, openmetrics.generate_latest])
def test_what_one_process_tells_is_shown_as_it_shows_it(
    write: Callable[[Collector], bytes],
) -> None:
    registry = a_registry()
    told = decode(encode(Snapshot(families(registry.collect()))))
    assert write(Shown(told.families)) == write(registry)


def test_all_metrics_of_a_proxy_come_through_unchanged(scraped: Scraped) -> None:
    scraped.metrics.started()
    scraped.metrics.finish(a_record())
    scraped.metrics.settle()
    shown = families(scraped.registry.collect())
    assert decode(encode(Snapshot(shown))).families == shown
    merged = merge([shown, shown, shown], MERGE)
    text = generate_latest(Shown(merged)).decode()
    (family,) = (one for one in parse_plain(text) if one.name == "glm_proxy_exchanges")
    assert [sample.value for sample in family.samples] == [3]


HOSTILE = [
    '"',
    "\\",
    "\n",
    "a\nb 1\n# EOF",
    "é\U0001f600",
    "\x00\x7f",
    "{}",
    "",
    " " * 3,
    "x" * 9999,
]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_label_value_comes_through_as_it_is(hostile: str) -> None:
    registry = CollectorRegistry()
    Counter("seen", "Counted.", ["who"], registry=registry).labels(hostile).inc()
    shown = families(registry.collect())
    told = decode(encode(Snapshot(shown))).families
    assert told == shown
    (family,) = parse_plain(generate_latest(Shown(merge([told, told], {}))).decode())
    assert [(sample.labels, sample.value) for sample in family.samples] == [({"who": hostile}, 2)]


# --- anything at all ---------------------------------------------------------------------------

WHOLE = st.integers(0, 2**40).map(float)  # sums of these are exact, in any order
LABELS = st.sampled_from([(), (("a", "x"),), (("a", "\n"),), (("a", "x"), ("b", "é"))])
EXEMPLARS = st.builds(
    Exemplar, st.dictionaries(st.sampled_from(["request_id"]), st.text()), WHOLE, WHOLE
)


@st.composite
def histograms(draw: st.DrawFn) -> Buckets:
    bounds = sorted(draw(st.sets(st.sampled_from([0.001, 0.5, 1.0, 2.5, 5.0, 10.0, 120.0]))))
    steps = draw(st.lists(WHOLE, min_size=len(bounds) + 1, max_size=len(bounds) + 1))
    counts = [sum(steps[: place + 1]) for place in range(len(steps))]
    return Buckets((*bounds, inf), tuple(counts), draw(WHOLE), {})


ANY = st.one_of(WHOLE, st.sampled_from([nan, inf]))
FAMILIES: dict[str, tuple[str, str, st.SearchStrategy[Child]]] = {
    "seen": ("counter", "_total", WHOLE.map(Value)),
    "together": ("gauge", "", ANY.map(Value)),
    "worst": ("gauge", "", ANY.map(Value)),
    "oldest": ("gauge", "", ANY.map(Value)),
    "spans": ("histogram", "", histograms()),
}


@st.composite
def snapshots(draw: st.DrawFn) -> tuple[Family, ...]:
    return tuple(
        Family(name, kind, name, "", _children(draw, suffix, children))
        for name, (kind, suffix, children) in FAMILIES.items()
        if draw(st.booleans())
    )


def _children(draw: st.DrawFn, suffix: str, children: st.SearchStrategy[Child]) -> dict[Key, Child]:
    series = draw(st.lists(LABELS, unique=True, max_size=3))
    return {(suffix, labels): draw(children) for labels in series}


def same(one: Iterable[Family], other: Iterable[Family]) -> bool:
    """Whatever the order; NaN is NaN."""
    return _plain(one) == _plain(other)


def _plain(shown: Iterable[Family]) -> dict[str, object]:
    return {
        family.name: (family.kind, {key: repr(child) for key, child in family.children.items()})
        for family in shown
    }


@settings(deadline=None)
@given(snapshots(), snapshots())
def test_the_order_of_two_does_not_matter(
    one: tuple[Family, ...], other: tuple[Family, ...]
) -> None:
    assert same(merge([one, other], RULES), merge([other, one], RULES))


@settings(deadline=None)
@given(snapshots(), snapshots(), snapshots())
def test_it_does_not_matter_which_are_merged_first(
    one: tuple[Family, ...], two: tuple[Family, ...], three: tuple[Family, ...]
) -> None:
    """A fold adds the gone to those gone before, whenever that was."""
    at_once = merge([one, two, three], RULES)
    assert same(at_once, merge([merge([one, two], RULES), three], RULES))
    assert same(at_once, merge([one, merge([two, three], RULES)], RULES))


@settings(deadline=None)
@given(st.lists(histograms(), min_size=1, max_size=4))
def test_merged_histograms_are_histograms_and_hold_every_value(many: list[Buckets]) -> None:
    merged = buckets(
        merge([[Family("spans", "histogram", "", "", {NONE: one})] for one in many], {})
    )
    assert well_formed(merged)
    assert merged.counts[-1] == sum(one.counts[-1] for one in many)
    assert merged.total == sum(one.total for one in many)
    for one in many:
        for bound, count in zip(one.bounds, one.counts, strict=True):
            assert merged.counts[merged.bounds.index(bound)] >= count


@settings(deadline=None)
@given(st.lists(histograms(), min_size=2, max_size=4), histograms())
def test_no_bucket_falls_when_one_more_is_added(many: list[Buckets], more: Buckets) -> None:
    def merged(of: list[Buckets]) -> dict[float, float]:
        shown = merge([[Family("spans", "histogram", "", "", {NONE: one})] for one in of], {})
        return dict(zip(buckets(shown).bounds, buckets(shown).counts, strict=True))

    before, after = merged(many), merged([*many, more])
    assert all(after[bound] >= count for bound, count in before.items())


@settings(deadline=None)
@given(snapshots(), st.frozensets(st.text(max_size=5)))
def test_bytes_say_the_same(shown: tuple[Family, ...], folded: frozenset[str]) -> None:
    told = decode(encode(Snapshot(shown, folded)))
    assert same(told.families, shown)
    assert told.folded == folded


@settings(deadline=None)
@given(EXEMPLARS, st.floats())
def test_bytes_say_the_same_of_exemplars_and_any_number(exemplar: Exemplar, number: float) -> None:
    child = Buckets((0.5, inf), (1.0, 2.0), number, {0.5: exemplar, inf: exemplar})
    shown = (
        Family("spans", "histogram", "", "", {NONE: child}),
        Family("seen", "counter", "", "", {COUNT: Value(number, exemplar)}),
    )
    assert same(decode(encode(Snapshot(shown))).families, shown)


# --- garbage -----------------------------------------------------------------------------------

WHOLE_TOLD = encode(Snapshot(families(a_registry().collect())))


def is_refused(data: bytes) -> bool:
    try:
        decode(data)
    except ValueError:
        return True
    return False


@settings(deadline=None)
@given(st.one_of(st.binary(), st.from_regex(rb"[\[\]{}\",:0-9a-z]*")))
def test_garbage_is_a_value_error(data: bytes) -> None:
    assert is_refused(data)


@settings(deadline=None)
@given(st.integers(0, len(WHOLE_TOLD) - 1))
def test_a_part_of_a_snapshot_is_none(length: int) -> None:
    assert is_refused(WHOLE_TOLD[:length])


def _paths(told: object, path: tuple[str | int, ...] = ()) -> Iterable[tuple[str | int, ...]]:
    yield path
    inner = (
        told.items()
        if isinstance(told, dict)
        else enumerate(told)
        if isinstance(told, list)
        else ()
    )
    for name, value in inner:
        yield from _paths(value, (*path, name))


@pytest.mark.parametrize("wrong", [None, True, "wrong\n", -1.5, [], {}, [[]], [None] * 4, {"a": 1}])
def test_a_wrong_part_anywhere_is_a_value_error_or_harmless(wrong: object) -> None:
    """What is read as a snapshot can be shown, whatever was damaged in it."""
    for path in _paths(orjson.loads(WHOLE_TOLD)):
        told = orjson.loads(WHOLE_TOLD)
        if not path:
            continue
        part = told
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = wrong
        try:
            shown = decode(orjson.dumps(told)).families
        except ValueError:
            continue
        merged = merge([shown, families(a_registry().collect())], {})
        assert list(parse_plain(generate_latest(Shown(merged)).decode()))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"format": 2, "families": [], "folded": []}, "format 2 is not known"),
        ({"families": [], "folded": []}, "format None is not known"),
        ([], "no object"),
    ],
)
def test_another_format_is_told_apart(wrong: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        decode(orjson.dumps(wrong))
