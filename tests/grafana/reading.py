"""The dashboards as they are on disk, and what stands in their queries."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from grafana.build import FOLDER
from tests.selectors import Matcher, Selector

FILES = ("overview.json", "upstream.json", "streams.json", "conversations.json", "process.json")

# Grafana's own, with what it would put there; ours choose everything.
_BUILT_IN = {"__rate_interval": "1m", "__range": "1h", "__interval": "15s"}
_LABEL_VALUES = re.compile(r"label_values\((.+), (\w+)\)")
_SELECTOR = re.compile(r"(?P<metric>[a-zA-Z_:][\w:]*)\{(?P<matchers>[^}]*)\}")
_MATCHER = re.compile(r'(?P<label>\w+)(?P<operator>=~|!~|!=|=)"(?P<value>[^"]*)"')
_BY = re.compile(r"by \(([^)]*)\) \(")
_NAMED = re.compile(r"\b(?:glm_proxy|gen_ai|process|scrape)_\w+(?!\w|\{)")


@dataclass(frozen=True)
class Asked:
    """One query, and where it stands."""

    place: str
    expr: str
    legend: str = ""


def dashboard(file: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((FOLDER / file).read_text("utf-8"))
    return read


def panels(file: str) -> list[dict[str, Any]]:
    """Without the rows' headings."""
    return [panel for panel in dashboard(file)["panels"] if panel["type"] != "row"]


def queries(file: str) -> list[Asked]:
    """Of the panels, the annotations, and the variables (the series that they look at)."""
    return [*_of_panels(file), *_of_annotations(file), *_of_variables(file)]


def _of_panels(file: str) -> Iterator[Asked]:
    for panel in panels(file):
        for target in panel["targets"]:
            place = f"{file}: {panel['title']} {target['refId']}"
            yield Asked(place, target["expr"], target["legendFormat"])


def _of_annotations(file: str) -> Iterator[Asked]:
    for one in dashboard(file)["annotations"]["list"]:
        if "expr" in one:
            yield Asked(f"{file}: {one['name']}", one["expr"], one["textFormat"])


def _of_variables(file: str) -> Iterator[Asked]:
    for one in dashboard(file)["templating"]["list"]:
        if one["type"] == "query":
            found = _LABEL_VALUES.fullmatch(one["query"]["query"])
            assert found is not None, one["query"]
            selector, label = found.groups()
            braced = selector if "{" in selector else f"{selector}{{}}"
            yield Asked(f"{file}: variable {one['name']}", f"count by ({label}) ({braced})")


def filled(expr: str) -> str:
    """With every variable replaced: Grafana's own by a time, ours by everything."""
    return re.sub(r"\$\{?(\w+)\}?", lambda found: _BUILT_IN.get(found[1], ".*"), expr)


def selectors(expr: str) -> list[Selector]:
    """Every selector of an expression."""
    return [
        Selector(
            found["metric"],
            tuple(Matcher(*one.groups()) for one in _MATCHER.finditer(found["matchers"])),
        )
        for found in _SELECTOR.finditer(expr)
    ]


def without_braces(expr: str) -> list[str]:
    """Metrics that are named and not chosen by anything."""
    bare = re.sub(r"\{[^}]*\}", "{", re.sub(r"by \([^)]*\)", "", expr))
    return _NAMED.findall(bare)


def groups(expr: str) -> list[tuple[list[str], str]]:
    """Of each `by (labels) (body)`: the labels and the body."""
    return [
        (found[1].split(", "), expr[found.end() : _end(expr, found.end())])
        for found in _BY.finditer(expr)
    ]


def _end(expr: str, start: int) -> int:
    """Where the bracket is closed that was opened before `start`."""
    depth = 1
    for at in range(start, len(expr)):
        depth += {"(": 1, ")": -1}.get(expr[at], 0)
        if depth == 0:
            return at
    raise AssertionError(f"a bracket is not closed: {expr}")
