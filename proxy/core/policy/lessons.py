"""What processes tell each other of what they learned: how soon candidates answer, and how many
requests their keys may have in flight.

Only what a process has seen itself is told, so that nothing comes back to it as if it were new.
Whoever knows enough of its own does not listen. What is read here was written by others, and is
not trusted.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from statistics import median_low
from typing import Any, Final, Literal, NamedTuple

import orjson

from proxy.core.policy.admission import Place
from proxy.core.policy.sketch import BUCKETS

Kind = Literal["token", "content"]
"""Of a time to the first token, or to the first content."""

LARGEST: Final = 128 * 1024
"""Bytes of one process's lessons."""
MOST: Final = 400
"""Sketches and limits of one process, each; those it knows most of."""
_HIGHEST_LIMIT: Final = 100_000
_LARGEST_WEIGHT: Final = 10_000.0


class Sketched(NamedTuple):
    """How long one candidate took, for requests of one shape."""

    scope: str
    """Whose health: a route's own, or empty."""
    model: str
    endpoint: str
    keys: str | None
    size: int
    tools: bool
    kind: Kind
    weights: tuple[tuple[int, float], ...]
    """By bucket; together they are the number of answers it rests on."""

    @property
    def about(self) -> tuple[object, ...]:
        return self[:-1]

    @property
    def weight(self) -> float:
        return sum(weight for _, weight in self.weights)


class Limited(NamedTuple):
    """How many requests of one key may be in flight."""

    place: Place
    key: str
    """Its name, never the key itself."""
    limit: int


class Lessons(NamedTuple):
    """What one process, or several, have learned."""

    sketches: tuple[Sketched, ...] = ()
    limits: tuple[Limited, ...] = ()


def of_models(lessons: Lessons, models: Collection[str]) -> Lessons:
    """Those of models that are known by name: any other name is a caller's own text."""
    return Lessons(
        tuple(one for one in lessons.sketches if one.model in models),
        tuple(one for one in lessons.limits if one.place.model in models),
    )


def text(lessons: Lessons) -> bytes:
    """To be told; no more than others will read."""
    known = sorted(lessons.sketches, key=lambda one: -one.weight)[:MOST]
    while True:
        told = orjson.dumps(
            {"sketches": known, "limits": lessons.limits[:MOST]},
            default=tuple,  # it knows no named ones
        )
        if len(told) <= LARGEST or not known:
            return told
        del known[len(known) // 2 :]


def read(told: bytes) -> Lessons:
    """Raises ValueError for what no process tells."""
    if len(told) > LARGEST:
        raise ValueError("too long")
    fields = orjson.loads(told)
    try:
        sketches, limits = fields["sketches"], fields["limits"]
        if len(sketches) > MOST or len(limits) > MOST:
            raise ValueError("too many")
        return Lessons(tuple(map(_sketched, sketches)), tuple(map(_limited, limits)))
    except (KeyError, TypeError) as error:
        raise ValueError("not lessons") from error


def together(several: Iterable[Lessons]) -> Lessons:
    """As if one process had seen it all. Of limits the middle one: each is what one process found
    beside what the others had in flight."""
    weights: dict[tuple[object, ...], dict[int, float]] = {}
    first: dict[tuple[object, ...], Sketched] = {}
    limits: dict[tuple[Place, str], list[int]] = {}
    for lessons in several:
        for one in lessons.sketches:
            first.setdefault(one.about, one)
            sums = weights.setdefault(one.about, {})
            for bucket, weight in one.weights:
                sums[bucket] = sums.get(bucket, 0.0) + weight
        for place, key, limit in lessons.limits:
            limits.setdefault((place, key), []).append(limit)
    return Lessons(
        tuple(
            one._replace(weights=tuple(sorted(weights[about].items())))
            for about, one in first.items()
        ),
        tuple(Limited(place, key, median_low(found)) for (place, key), found in limits.items()),
    )


def scaled(weights: Sequence[tuple[int, float]], most: float) -> list[tuple[int, float]]:
    """The same, together no heavier than `most`."""
    total = sum(weight for _, weight in weights)
    factor = min(1.0, most / total) if total > 0.0 else 0.0
    return [(bucket, weight * factor) for bucket, weight in weights]


def _sketched(fields: Any) -> Sketched:
    scope, model, endpoint, keys, size, tools, kind, weights = fields
    if kind not in ("token", "content") or not isinstance(tools, bool) or not _is_in(size, 0, 4):
        raise ValueError("no shape")
    return Sketched(
        _text(scope),
        _text(model),
        _text(endpoint),
        None if keys is None else _text(keys),
        size,
        tools,
        kind,
        tuple(_weight(*one) for one in weights),
    )


def _weight(bucket: Any, weight: Any) -> tuple[int, float]:
    if not _is_in(bucket, 0, BUCKETS) or isinstance(weight, bool):
        raise ValueError("no bucket")
    if not isinstance(weight, int | float) or not 0.0 <= weight <= _LARGEST_WEIGHT:
        raise ValueError("no weight")
    return bucket, float(weight)


def _limited(fields: Any) -> Limited:
    (endpoint, group, model), key, limit = fields
    if not _is_in(limit, 1, _HIGHEST_LIMIT):
        raise ValueError("no limit")
    return Limited(Place(_text(endpoint), _text(group), _text(model)), _text(key), limit)


def _is_in(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < high


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > 256:
        raise ValueError("no text")
    return value


def chosen(limits: Iterable[Limited], groups: Collection[tuple[str, str]]) -> list[Limited]:
    """Those of keys that the settings name, by endpoint and group: of callers' own keys nothing is
    told."""
    return [one for one in limits if (one.place.endpoint, one.place.group) in groups]
