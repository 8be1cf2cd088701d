"""What a panel's settings and answers come to: named series, colours, single values. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.proof.prometheus import Series
from tests.proof.queries import Panel, Target
from tests.proof.svg import SERIES_COLOURS

NAMED = frozenset({"green", "orange", "red", "blue", "text"})
_LEGEND = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@dataclass(frozen=True, slots=True)
class Line:
    """One series with its name, its colour's class, and where its settings differ."""

    name: str
    colour: str
    points: tuple[tuple[float, float], ...]
    unit: str
    right: bool
    """Its axis is the one on the right."""
    labels: Mapping[str, str]
    ref: str

    @property
    def last(self) -> float:
        return self.points[-1][1]


@dataclass(frozen=True, slots=True)
class Box:
    """A part of the page."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Time:
    """The time that is shown, Unix seconds, and how far apart the points are."""

    start: float
    end: float
    step: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """A panel to be drawn: its settings and its answers."""

    panel: Panel
    lines: tuple[Line, ...]
    marks: tuple[tuple[str, float], ...]
    time: Time

    @property
    def defaults(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.panel.json.get("fieldConfig", {}).get("defaults", {})
        return found

    @property
    def custom(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.defaults.get("custom", {})
        return found

    @property
    def unit(self) -> str:
        return self.defaults.get("unit") or "none"

    @property
    def decimals(self) -> int | None:
        found: int | None = self.defaults.get("decimals")
        return found

    @property
    def nothing(self) -> str:
        """What stands where there is nothing to show."""
        return self.defaults.get("noValue") or "no data"


def drawn(
    panel: Panel,
    answers: Mapping[str, Sequence[Series]],
    marks: Sequence[tuple[str, float]],
    time: Time,
) -> Drawn:
    """`answers`: by target."""
    lines: list[Line] = []
    for target in panel.targets:
        for series in answers.get(target.ref, ()):
            name = _name(target, series)
            own = overrides(panel, name)
            unit = own.get("unit") or _unit(panel)
            right = own.get("custom.axisPlacement") == "right"
            colour = _colour(own.get("color"), len(lines))
            points = _sorted(series.points)
            lines.append(Line(name, colour, points, unit, right, series.labels, target.ref))
    return Drawn(panel, tuple(lines), tuple(marks), time)


def overrides(panel: Panel, name: str) -> dict[str, Any]:
    """What the panel says of this field alone, by property."""
    found: dict[str, Any] = {}
    for one in panel.json.get("fieldConfig", {}).get("overrides", []):
        kind, wanted = one["matcher"]["id"], str(one["matcher"].get("options", ""))
        fits = name == wanted if kind == "byName" else False
        if kind == "byRegexp":
            fits = re.fullmatch(wanted.strip("/"), name) is not None
        if fits:
            found |= {each["id"]: each["value"] for each in one["properties"]}
    return found


def threshold(steps: Sequence[Mapping[str, Any]], value: float) -> str:
    """The colour of the last step that is reached."""
    colour = "text"
    for step in steps:
        if step.get("value") is None or value >= step["value"]:
            colour = step["color"]
    return colour if colour in NAMED else "text"


def mapped(mappings: Sequence[Mapping[str, Any]], value: float) -> tuple[str, str] | None:
    """Text and colour that stand for a value."""
    for one in mappings:
        told = one.get("options", {}).get(f"{value:g}") if one.get("type") == "value" else None
        if told:
            colour = told.get("color", "text")
            return told.get("text", f"{value:g}"), colour if colour in NAMED else "text"
    return None


def _name(target: Target, series: Series) -> str:
    if target.legend and target.legend != "__auto":
        return _LEGEND.sub(lambda found: series.labels.get(found[1], ""), target.legend)
    own = {k: v for k, v in series.labels.items() if k != "__name__"}
    return ", ".join(f"{k} {v}" for k, v in own.items()) or series.labels.get("__name__", "value")


def _unit(panel: Panel) -> str:
    return panel.json.get("fieldConfig", {}).get("defaults", {}).get("unit") or "none"


def _colour(told: Any, number: int) -> str:
    fixed = told.get("fixedColor") if isinstance(told, dict) else None
    return f"-{fixed}" if fixed in NAMED else str(number % SERIES_COLOURS)


def _sorted(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    return tuple(sorted(points))
