"""A snapshot of all figures as bytes: what processes tell one another, and leave when they go.

JSON, which has neither NaN nor infinity: these are written as words. What is read may be damaged,
or of a version to come: everything is checked before any of it is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf, isfinite

import orjson
from prometheus_client.core import Exemplar
from prometheus_client.metrics_core import METRIC_TYPES

from proxy.observe.merge import Buckets, Child, Family, Key, Labels, Snapshot, Value, well_formed

_FORMAT = 1
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_SUFFIX = re.compile(r"(_[a-z]+)?")
_WORDS = {"nan", "inf", "-inf"}


def encode(snapshot: Snapshot) -> bytes:
    """As bytes that `decode` understands."""
    return orjson.dumps(
        {
            "format": _FORMAT,
            "folded": sorted(snapshot.folded),
            "families": [_family(family) for family in snapshot.families],
        }
    )


def _family(family: Family) -> dict[str, object]:
    return {
        "name": family.name,
        "kind": family.kind,
        "meaning": family.meaning,
        "unit": family.unit,
        "children": [_child(*key, child) for key, child in family.children.items()],
    }


def _child(suffix: str, labels: Labels, child: Child) -> list[object]:
    if isinstance(child, Value):
        exemplar = None if child.exemplar is None else _exemplar(child.exemplar)
        return [suffix, dict(labels), _number(child.value), exemplar]
    return [
        suffix,
        dict(labels),
        child.bounds[:-1],  # the last is infinite
        [_number(count) for count in child.counts],
        _number(child.total),
        [[_number(bound), _exemplar(one)] for bound, one in child.exemplars.items()],
    ]


def _exemplar(exemplar: Exemplar) -> list[object]:
    seconds = None if exemplar.timestamp is None else float(exemplar.timestamp)
    return [dict(exemplar.labels), _number(exemplar.value), seconds]


def _number(value: float) -> float | str:
    return value if isfinite(value) else str(value)


# --- and back ----------------------------------------------------------------------------------


def decode(data: bytes) -> Snapshot:
    """Raises ValueError for anything that `encode` of this version does not write."""
    told = _a_dict(orjson.loads(data))
    if told.get("format") != _FORMAT:
        raise ValueError(f"format {told.get('format')!r} is not known")
    return Snapshot(
        tuple(_read_family(_a_dict(one)) for one in _a_list(told.get("families"))),
        frozenset(_a_text(one) for one in _a_list(told.get("folded"))),
    )


def _read_family(told: Mapping[str, object]) -> Family:
    name, kind = _a_text(told.get("name")), _a_text(told.get("kind"))
    if not _NAME.fullmatch(name) or kind not in METRIC_TYPES:
        raise ValueError(f"no metric: {name!r}, {kind!r}")
    unit = _a_text(told.get("unit"))
    if unit and not name.endswith(f"_{unit}"):
        raise ValueError(f"{name} is not in {unit!r}")
    read = _read_buckets if kind == "histogram" else _read_value
    children = dict(read(_a_list(one)) for one in _a_list(told.get("children")))
    return Family(name, kind, _a_text(told.get("meaning")), unit, children)


def _read_value(told: list[object]) -> tuple[Key, Child]:
    if len(told) != 4:
        raise ValueError("no sample")
    suffix, labels, value, exemplar = told
    return _key(suffix, labels), Value(
        _a_number(value), None if exemplar is None else _read_exemplar(exemplar)
    )


def _read_buckets(told: list[object]) -> tuple[Key, Child]:
    if len(told) != 6:
        raise ValueError("no histogram")
    suffix, labels, bounds, counts, total, exemplars = told
    child = Buckets(
        (*map(_a_number, _a_list(bounds)), inf),
        tuple(map(_a_number, _a_list(counts))),
        _a_number(total),
        dict(_bound_and_exemplar(_a_list(one)) for one in _a_list(exemplars)),
    )
    if not well_formed(child):
        raise ValueError("no buckets")
    return _key(suffix, labels), child


def _bound_and_exemplar(told: list[object]) -> tuple[float, Exemplar]:
    if len(told) != 2:
        raise ValueError("no exemplar")
    return _a_number(told[0]), _read_exemplar(told[1])


def _read_exemplar(told: object) -> Exemplar:
    parts = _a_list(told)
    if len(parts) != 3:
        raise ValueError("no exemplar")
    labels, value, seconds = parts
    return Exemplar(
        dict(_labels(labels)),
        _a_number(value),
        None if seconds is None else _a_number(seconds),
    )


def _key(suffix: object, labels: object) -> Key:
    text = _a_text(suffix)
    if not _SUFFIX.fullmatch(text):
        raise ValueError(f"no sample: {text!r}")
    return text, _labels(labels)


def _labels(told: object) -> Labels:
    labels = _a_dict(told)
    if not all(map(_NAME.fullmatch, labels)):
        raise ValueError("no labels")
    return tuple(sorted((name, _a_text(value)) for name, value in labels.items()))


def _a_dict(told: object) -> Mapping[str, object]:
    if not isinstance(told, dict):
        raise ValueError("no object")
    return told


def _a_list(told: object) -> list[object]:
    if not isinstance(told, list):
        raise ValueError("no list")
    return told


def _a_text(told: object) -> str:
    if not isinstance(told, str):
        raise ValueError("no text")
    return told


def _a_number(told: object) -> float:
    if isinstance(told, str) and told in _WORDS:
        return float(told)
    if isinstance(told, bool) or not isinstance(told, int | float):
        raise ValueError("no number")
    return float(told)
