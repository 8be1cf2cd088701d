"""Every query that a dashboard or a rule file holds, and its variables filled in. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

_REFERENCE: Final = re.compile(r"\$\{(\w+)(?::\w+)?\}|\[\[(\w+)(?::\w+)?\]\]|\$(\w+)")
_LABEL_VALUES: Final = re.compile(
    r"label_values\(\s*(?:(?P<selector>.+?)\s*,\s*)?(?P<label>\w+)\s*\)", re.S
)


@dataclass(frozen=True, slots=True)
class Query:
    """One expression and where it stands."""

    file: str
    """Name of the file, without its ending."""
    place: str
    """Panel and target, variable, annotation, or group and rule."""
    kind: str
    """`panel`, `variable`, `annotation`, `record` or `alert`."""
    text: str


@dataclass(frozen=True, slots=True)
class Variable:
    """A dashboard's variable."""

    name: str
    type: str
    query: str
    multi: bool
    every: str | None
    """What stands for all of its values, if the dashboard says it."""
    default: str
    """The value it has in the file."""


@dataclass(frozen=True, slots=True)
class Target:
    """One query of a panel."""

    ref: str
    text: str
    legend: str
    instant: bool


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel, or the heading of a row of them, and its place in the grid of 24 columns."""

    id: int
    type: str
    title: str
    x: int
    y: int
    width: int
    height: int
    targets: tuple[Target, ...]
    json: Mapping[str, Any] = field(repr=False)
    """All of it, for who draws it."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """A query whose answers are marks on every panel."""

    name: str
    text: str
    by_value: bool
    """The value is the moment, in milliseconds; else each moment with a value is one."""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard's file."""

    file: str
    title: str
    panels: tuple[Panel, ...]
    variables: tuple[Variable, ...]
    annotations: tuple[Annotation, ...]

    def queries(self) -> Iterator[Query]:
        """All of them, unfilled, but for its variables'."""
        for panel in self.panels:
            for target in panel.targets:
                place = f"{panel.title or panel.type} · {target.ref}"
                yield Query(self.file, place, "panel", target.text)
        for one in self.annotations:
            yield Query(self.file, one.name, "annotation", one.text)


def dashboards(folder: Path) -> list[Dashboard]:
    """All dashboards in a folder."""
    return [dashboard(path) for path in sorted(folder.glob("*.json"))]


def dashboard(path: Path) -> Dashboard:
    """One dashboard."""
    read = json.loads(path.read_text("utf-8"))
    variables = read.get("templating", {}).get("list", [])
    annotations = read.get("annotations", {}).get("list", [])
    return Dashboard(
        file=path.stem,
        title=read.get("title", path.stem),
        panels=tuple(_panels(read.get("panels", []))),
        variables=tuple(map(_variable, variables)),
        annotations=tuple(
            Annotation(one["name"], one["expr"], bool(one.get("useValueForTime")))
            for one in annotations
            if one.get("expr")
        ),
    )


def rules(folder: Path) -> list[Query]:
    """All recording and alerting rules of a folder's files."""
    found = []
    for path in sorted(folder.glob("*.y*ml")):
        for group in yaml.safe_load(path.read_text("utf-8"))["groups"]:
            for rule in group["rules"]:
                kind = "alert" if "alert" in rule else "record"
                place = f"{group['name']} · {rule[kind]}"
                found.append(Query(path.stem, place, kind, rule["expr"]))
    return found


def _panels(listed: list[dict[str, Any]]) -> Iterator[Panel]:
    for one in listed:
        yield _panel(one)
        yield from _panels(one.get("panels", []))


def _panel(one: Mapping[str, Any]) -> Panel:
    grid = one.get("gridPos", {})
    targets = tuple(
        Target(
            target.get("refId", "A"),
            target["expr"],
            target.get("legendFormat", ""),
            bool(target.get("instant")),
        )
        for target in one.get("targets", [])
        if target.get("expr")
    )
    place = (grid.get("x", 0), grid.get("y", 0), grid.get("w", 12), grid.get("h", 8))
    return Panel(one.get("id", 0), one["type"], one.get("title", ""), *place, targets, one)


def _variable(one: Mapping[str, Any]) -> Variable:
    query = one.get("query", "")
    if isinstance(query, dict):
        query = query.get("query", "")
    default = one.get("current", {}).get("value", "")
    if isinstance(default, list):
        default = default[0] if default else ""
    every = one.get("allValue") if one.get("includeAll") else None
    return Variable(
        one["name"],
        one["type"],
        query,
        bool(one.get("multi") or one.get("includeAll")),
        every,
        str(default),
    )


# --- filling in -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """The time that queries are asked about. Unix seconds, and seconds."""

    start: float
    end: float
    step: float
    rate: float
    """`$__rate_interval`: over how long rates are taken."""

    def builtins(self) -> dict[str, str]:
        """Grafana's own variables."""
        length = self.end - self.start
        return {
            "__interval": f"{self.step:.0f}s",
            "__interval_ms": f"{self.step * 1000:.0f}",
            "__rate_interval": f"{self.rate:.0f}s",
            "__range": f"{length:.0f}s",
            "__range_s": f"{length:.0f}",
            "__range_ms": f"{length * 1000:.0f}",
            "__from": f"{self.start * 1000:.0f}",
            "__to": f"{self.end * 1000:.0f}",
        }


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text with its variables replaced. Raises KeyError for one that has no value."""

    def value(found: re.Match[str]) -> str:
        return values[found[1] or found[2] or found[3]]

    return _REFERENCE.sub(value, text)


def label_values(query: str) -> tuple[str | None, str] | None:
    """The selector (None: any) and the label of `label_values(…)`; None for another query."""
    found = _LABEL_VALUES.fullmatch(query.strip())
    return None if found is None else (found["selector"], found["label"])


def chosen(variable: Variable, values: list[str]) -> str:
    """What stands in a query for this variable when all of its values are chosen."""
    if variable.every is not None:
        return variable.every
    if not values:
        return variable.default
    if not variable.multi:
        return values[0]
    return "(" + "|".join(map(_escaped, values)) + ")" if len(values) > 1 else _escaped(values[0])


def _escaped(value: str) -> str:
    """For a regular expression inside a PromQL string, as Grafana does it."""
    return re.sub(r"([\\^$.|?*+()\[\]{}/])", r"\\\\\1", value)
