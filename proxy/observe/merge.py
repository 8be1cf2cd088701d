"""The figures of several processes become one: as bytes and back, and added up.

Counters add up, and so do histograms, bucket by bucket. A gauge follows its rule; one without a
rule, of another version, shows the largest. Of exemplars the newest stays. Where one side does not
know a value (NaN) the other's stands.

Histograms of one series may have different bounds while versions change. Cumulative counts are
step functions, and these add up on all bounds of both: a value counts at the first bound its own
histogram had. So no bucket ever falls, and `+Inf` is the count.

Families of one name and different types cannot be added: the first one stands.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf
from typing import NamedTuple

from prometheus_client.core import Exemplar, Metric, Sample
from prometheus_client.utils import floatToGoString

Labels = tuple[tuple[str, str], ...]
"""Names and values, by name."""
Key = tuple[str, Labels]
"""What a sample's name adds to its family's (`_total`, `_info`), and the labels."""


class Value(NamedTuple):
    """A sample of anything but a histogram."""

    value: float
    exemplar: Exemplar | None = None


class Buckets(NamedTuple):
    """One series of a histogram."""

    bounds: tuple[float, ...]
    """Ascending; the last is infinite."""
    counts: tuple[float, ...]
    """Values up to each bound: cumulative."""
    total: float
    """The sum of all values."""
    exemplars: dict[float, Exemplar]
    """By bound."""


Child = Value | Buckets


@dataclass(frozen=True, slots=True)
class Family:
    """A metric and all its series: `Buckets` if it is a histogram, else `Value`."""

    name: str
    kind: str
    meaning: str
    unit: str
    children: Mapping[Key, Child]

    @property
    def lasts(self) -> bool:
        """Whether what was counted stays true when the process that counted it is gone."""
        return self.kind in ("counter", "histogram")


class Snapshot(NamedTuple):
    """What one process told, or what was kept of many."""

    families: tuple[Family, ...]
    folded: frozenset[str] = frozenset()
    """Of a sum of processes that are gone: those whose files may still be there."""


# --- from the library's metrics, and back ------------------------------------------------------


def families(metrics: Iterable[Metric]) -> tuple[Family, ...]:
    """What a registry collected. Creation times are left out: a sum was created at no one time."""
    return tuple(
        Family(
            metric.name,
            metric.type,
            metric.documentation,
            metric.unit,
            _buckets(metric) if metric.type == "histogram" else _values(metric),
        )
        for metric in metrics
    )


def _values(metric: Metric) -> dict[Key, Child]:
    of = len(metric.name)
    return {
        (sample.name[of:], tuple(sorted(sample.labels.items()))): Value(
            sample.value, sample.exemplar
        )
        for sample in metric.samples
        if not sample.name.endswith("_created")
    }


def _buckets(metric: Metric) -> dict[Key, Child]:
    totals: dict[Labels, float] = {}
    found: dict[Labels, list[tuple[float, float, Exemplar | None]]] = {}
    for sample in metric.samples:
        labels = dict(sample.labels)
        bound = labels.pop("le", None)
        series = tuple(sorted(labels.items()))
        if bound is not None:
            one = (float(bound), sample.value, sample.exemplar)
            found.setdefault(series, []).append(one)
        elif sample.name.endswith("_sum"):
            totals[series] = sample.value
    return {
        ("", series): Buckets(
            tuple(bound for bound, _, _ in buckets),
            tuple(count for _, count, _ in buckets),
            totals.get(series, 0.0),
            {bound: exemplar for bound, _, exemplar in buckets if exemplar is not None},
        )
        for series, buckets in found.items()
    }


def metrics(shown: Iterable[Family]) -> Iterator[Metric]:
    """Families as the library writes them."""
    for family in shown:
        metric = Metric(family.name, family.meaning, family.kind, family.unit)
        for (suffix, labels), child in family.children.items():
            if isinstance(child, Buckets):
                metric.samples.extend(_samples(family.name, dict(labels), child))
            else:
                name = family.name + suffix
                metric.samples.append(Sample(name, dict(labels), child.value, None, child.exemplar))
        yield metric


def _samples(name: str, labels: dict[str, str], child: Buckets) -> Iterator[Sample]:
    for bound, count in zip(child.bounds, child.counts, strict=True):
        le = floatToGoString(bound)  # type: ignore[no-untyped-call]
        exemplar = child.exemplars.get(bound)
        yield Sample(f"{name}_bucket", {**labels, "le": le}, count, None, exemplar)
    yield Sample(f"{name}_count", labels, child.counts[-1])
    yield Sample(f"{name}_sum", labels, child.total)


# --- many become one ---------------------------------------------------------------------------


def lasting(shown: Iterable[Family]) -> tuple[Family, ...]:
    """What stays of a process that is gone: its counters and histograms."""
    return tuple(family for family in shown if family.lasts)


def merge(snapshots: Iterable[Iterable[Family]], rules: Mapping[str, str]) -> tuple[Family, ...]:
    """All of them as one. `rules` says `sum`, `max` or `min` for a gauge's name."""
    merged: dict[str, tuple[Family, dict[Key, Child]]] = {}
    for snapshot in snapshots:
        for family in snapshot:
            first, children = merged.setdefault(family.name, (family, {}))
            if first.kind == family.kind:
                _merge(children, family.children, _rule(family, rules))
    return tuple(replace(family, children=children) for family, children in merged.values())


def _merge(
    children: dict[Key, Child], more: Mapping[Key, Child], pick: Callable[[float, float], float]
) -> None:
    for key, child in more.items():
        there = children.get(key)
        if there is None:
            children[key] = child
        elif isinstance(there, Buckets) and isinstance(child, Buckets):
            children[key] = _added(there, child)
        elif isinstance(there, Value) and isinstance(child, Value):
            children[key] = Value(
                _known(pick, there.value, child.value), _newest(there.exemplar, child.exemplar)
            )


def _rule(family: Family, rules: Mapping[str, str]) -> Callable[[float, float], float]:
    if family.lasts:
        return _sum
    return _RULES[rules.get(family.name, "max")]


def _sum(one: float, other: float) -> float:
    return one + other


def _min(one: float, other: float) -> float:
    return min(one, other)


def _max(one: float, other: float) -> float:
    return max(one, other)


_RULES = {"sum": _sum, "min": _min, "max": _max}


def _known(pick: Callable[[float, float], float], one: float, other: float) -> float:
    """What is chosen of two values; NaN is no value."""
    if one != one:
        return other
    return one if other != other else pick(one, other)


def _newest(one: Exemplar | None, other: Exemplar | None) -> Exemplar | None:
    if one is None or other is None:
        return one or other
    return other if float(other.timestamp or 0) > float(one.timestamp or 0) else one


def _added(one: Buckets, other: Buckets) -> Buckets:
    exemplars = one.exemplars
    if other.exemplars:
        exemplars = dict(one.exemplars)
        for bound, exemplar in other.exemplars.items():
            exemplars[bound] = _newest(exemplars.get(bound), exemplar) or exemplar
    bounds = one.bounds
    counts, more = one.counts, other.counts
    if other.bounds != bounds:
        bounds = tuple(sorted({*bounds, *other.bounds}))
        counts, more = _on(bounds, one), _on(bounds, other)
    added = tuple(map(_sum, counts, more))
    return Buckets(bounds, added, _known(_sum, one.total, other.total), exemplars)


def _on(bounds: Iterable[float], child: Buckets) -> tuple[float, ...]:
    """Its counts on other bounds, its own among them: what it has up to its last one before."""
    places = (bisect_right(child.bounds, bound) for bound in bounds)
    return tuple(child.counts[place - 1] if place else 0.0 for place in places)


def well_formed(child: Buckets) -> bool:
    """Whether these are buckets: ascending bounds up to infinity, counts that never fall."""
    bounds, counts = child.bounds, child.counts
    return (
        len(bounds) == len(counts) > 0
        and bounds[-1] == inf
        and all(low < high for low, high in pairwise(bounds))
        and all(low <= high for low, high in pairwise(counts))
    )
