"""Counters and histograms with their children kept: how they are counted, not what.

An exchange makes some thirty observations. They are only noted then, and counted together before
they are shown. `labels` of the library takes longer than what it is asked for.
"""

from __future__ import annotations

import operator
import re
from bisect import bisect_left
from collections import Counter as Counted
from collections.abc import Iterable, Iterator, Sequence
from itertools import starmap
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.samples import Exemplar

from proxy.observe.labels import Gone
from proxy.observe.redact import identifier

Key = tuple[str, ...]
"""The values of a metric's labels, in their order."""

_NOTED = 1024
"""Values of one child that wait to be counted: some KB, between scrapes that are far apart."""
_COUNTED = 64
"""Streams of one child whose counts wait: some KB too."""
_LONGEST_ID = 64
"""Characters of a request's id in an exemplar. All its names and values together may have 128
(OpenMetrics 1.0, "Exemplars"): 18 are the names' and 32 a trace id's."""

_UNUSUAL = re.compile(r"[^\w.*:/+=@-]", re.ASCII)
"""Not every parser knows quotes, braces and escapes within an exemplar."""


class Whose(NamedTuple):
    """The exchange that a value came from."""

    request_id: str
    trace_id: str | None
    ended: float
    """Unix time in seconds."""

    def exemplar(self, value: float) -> Exemplar:
        """What OpenMetrics shows beside a bucket: one of the exchanges that are counted in it."""
        word = _UNUSUAL.sub("_", identifier(self.request_id))
        names = {"request_id": word[:_LONGEST_ID]}
        if self.trace_id is not None:
            names["trace_id"] = self.trace_id[:32]
        return Exemplar(names, value, self.ended)


class Group:
    """Instruments that belong together."""


class BulkHistogram(Histogram):
    """The library's histogram, which takes many values at once."""

    def add(self, values: Sequence[float], whose: Sequence[Whose] = ()) -> None:
        """Adds them all: each finds its bucket by bisection, each bucket is told once.

        `whose`, one for each value or none at all: a bucket's last becomes its exemplar.
        """
        self._sum.inc(sum(values))
        found = [bisect_left(self._upper_bounds, one) for one in values]
        for bucket, count in Counted(found).items():
            self._buckets[bucket].inc(count)
        if whose:
            last = dict(zip(found, zip(whose, values, strict=True), strict=True))
            for bucket, exemplar in zip(last, starmap(Whose.exemplar, last.values()), strict=True):
                self._buckets[bucket].set_exemplar(exemplar)

    def add_counted(self, counts: Iterable[int], total: float) -> None:
        """Adds values that were counted elsewhere, `counts` per bucket, `total` their sum."""
        self._sum.inc(total)
        for bucket, count in zip(self._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


class Histograms:
    """A histogram and its children."""

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        meaning: str,
        labels: Sequence[str],
        bounds: Sequence[float],
    ) -> None:
        self._parent = BulkHistogram(name, meaning, labels, registry=registry, buckets=bounds)
        self._noted: dict[Key, tuple[list[float], list[Whose]]] = {}

    def observe(self, key: Key, value: float, whose: Whose | None = None) -> None:
        """Adds one value; below zero (marks out of order) it counts as zero.

        `whose`, for exemplars, is given with all values of an instrument or with none.
        """
        noted = self._noted.get(key)
        if noted is None:
            noted = self._noted[key] = ([], [])
        values, exchanges = noted
        values.append(value if value > 0.0 else 0.0)
        if whose is not None:
            exchanges.append(whose)
        if len(values) >= _NOTED:
            self._settle(key, values, exchanges)

    def forget(self, gone: Gone) -> None:
        """The series with such a label end."""
        _end(self._parent, self._noted, gone)

    def settle(self) -> None:
        """Count what was noted: call it, in the same thread as `observe`, before a scrape."""
        for key, (values, exchanges) in self._noted.items():
            if values:
                self._settle(key, values, exchanges)

    def _settle(self, key: Key, values: list[float], exchanges: list[Whose]) -> None:
        self._parent.labels(*key).add(values, exchanges)
        values.clear()
        exchanges.clear()


class CountedHistograms:
    """A histogram and its children, of values that were counted per bucket as they came."""

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        meaning: str,
        labels: Sequence[str],
        bounds: Sequence[float],
    ) -> None:
        self._parent = BulkHistogram(name, meaning, labels, registry=registry, buckets=bounds)
        self._none = (0,) * (len(bounds) + 1)
        self._noted: dict[Key, list[tuple[Sequence[int], int, float]]] = {}

    def add(self, key: Key, counts: Sequence[int] | None, number: int, total: float) -> None:
        """Adds `number` values with the sum `total`.

        `counts` per bucket, the last for what is beyond all bounds (None: none were counted); those
        of `number` that are missing in it are zeros. It must not change any more.
        """
        noted = self._noted.get(key)
        if noted is None:
            noted = self._noted[key] = []
        noted.append((counts or self._none, number, total))
        if len(noted) >= _COUNTED:
            self._settle(key, noted)

    def forget(self, gone: Gone) -> None:
        """The series with such a label end."""
        _end(self._parent, self._noted, gone)

    def settle(self) -> None:
        """Count what was noted: call it, in the same thread as `add`, before a scrape."""
        for key, noted in self._noted.items():
            if noted:
                self._settle(key, noted)

    def _settle(self, key: Key, noted: list[tuple[Sequence[int], int, float]]) -> None:
        counts, numbers, totals = zip(*noted, strict=True)
        noted.clear()
        buckets = list(map(sum, zip(*counts, strict=True)))
        buckets[0] += sum(numbers) - sum(buckets)
        self._parent.labels(*key).add_counted(buckets, sum(totals))


class Counters:
    """A counter and its children."""

    def __init__(
        self, registry: CollectorRegistry, name: str, meaning: str, labels: Sequence[str]
    ) -> None:
        self._parent = Counter(name, meaning, labels, registry=registry)
        self._children: dict[Key, Counter] = {}

    def add(self, key: Key, amount: float = 1.0) -> None:
        """Adds `amount`; nothing when it is below zero (an upstream may report nonsense)."""
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._parent.labels(*key)
        child.inc(max(amount, 0.0))

    def forget(self, gone: Gone) -> None:
        """The series with such a label end."""
        _end(self._parent, self._children, gone)


Kept = Histograms | CountedHistograms | Counters


def instruments(room: object) -> Iterator[Kept]:
    """All of a group of instruments, and of the groups in it."""
    for one in vars(room).values():
        if isinstance(one, Kept):
            yield one
        elif isinstance(one, Group):
            yield from instruments(one)


def _end(parent: MetricWrapperBase, children: dict[Key, Any], gone: Gone) -> None:
    names = parent._labelnames
    values = [gone.get(name, frozenset()) for name in names]
    if not any(values):
        return
    for key in [one for one in children if any(map(operator.contains, values, one))]:
        del children[key]
        parent.remove(*key)
