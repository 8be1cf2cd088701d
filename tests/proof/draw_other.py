"""The panels that are no time series: single values, bars, heat maps, states, tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tests.proof.draw_data import Box, Drawn, Line, mapped, overrides, threshold
from tests.proof.draw_lines import time_axis
from tests.proof.draw_scale import shown
from tests.proof.svg import HEAT_COLOURS, Svg, text_width

_SIZE = 11.0
_NAMES = 130.0
_LEAST_ROW = 18.0


def stat(svg: Svg, of: Drawn, box: Box) -> None:
    """The last value of each series, large."""
    told = [(line, *_told(of, line.last)) for line in of.lines]
    if not told:
        return
    height = box.height / len(told)
    named = of.panel.json.get("options", {}).get("textMode") in ("value_and_name", "name")
    named = named or len(told) > 1
    for number, (line, text, colour) in enumerate(told):
        room = box.width * (0.46 if named else 0.94)
        size = min(44.0, height * 0.6, 44.0 * room / max(text_width(text, 44.0), 1.0))
        middle = box.y + height * (number + 0.5)
        if named:
            svg.text(box.x + 8, middle + 5, line.name, "t", size=14, fit=box.width * 0.44)
            at, anchor = box.x + box.width - 8, "end"
        else:
            at, anchor = box.x + box.width / 2, "middle"
        svg.text(at, middle + size * 0.35, text, f"b f-{colour}", anchor=anchor, size=size)


def _told(of: Drawn, value: float) -> tuple[str, str]:
    """A value's text and colour."""
    found = mapped(of.defaults.get("mappings", []), value)
    if found is not None:
        return found
    steps = of.defaults.get("thresholds", {}).get("steps", [])
    return shown(value, of.unit, of.decimals), threshold(steps, value)


def bargauge(svg: Svg, of: Drawn, box: Box) -> None:
    """A bar for each series, as long as its last value."""
    most = max((line.last for line in of.lines), default=0.0) or 1.0
    names = min(_NAMES, max((text_width(line.name, _SIZE) for line in of.lines), default=0) + 12)
    told = [shown(line.last, line.unit, of.decimals) for line in of.lines]
    room = max((text_width(text, _SIZE + 1) for text in told), default=0.0) + 12
    height = min(34.0, box.height / max(len(of.lines), 1))
    steps = of.defaults.get("thresholds", {}).get("steps", [])
    by_threshold = of.defaults.get("color", {}).get("mode") == "thresholds"
    for number, line in enumerate(of.lines):
        y = box.y + height * number
        colour = f"f-{threshold(steps, line.last)}" if by_threshold else "f-blue"
        width = box.width - names - room
        svg.text(
            box.x + names - 8, y + height / 2 + 4, line.name, anchor="end", size=_SIZE, fit=names
        )
        svg.rect(box.x + names, y + 2, width, height - 4, "track", round_=2)
        svg.rect(
            box.x + names, y + 2, width * max(line.last, 0) / most, height - 4, colour, round_=2
        )
        svg.text(box.x + names + width + 6, y + height / 2 + 4, told[number], "b", size=_SIZE)


# --- heat map -------------------------------------------------------------------------------------


def heatmap(svg: Svg, of: Drawn, box: Box) -> None:
    """Buckets over time, the fuller the stronger."""
    bounds, cells = _cells(of.lines)
    used = [n for n in range(len(bounds)) if any(cell[1] == n for cell in cells)]
    if not used:
        return
    low, high = used[0], used[-1]
    rows = high - low + 1
    plot = Box(box.x + 52, box.y + 4, box.width - 60, box.height - 4 - 18 - 16)
    time_axis(svg, of, plot)
    height = plot.height / rows
    width = plot.width * of.time.step / (of.time.end - of.time.start)
    most = max(value for _, _, value in cells)
    by_colour: dict[int, list[tuple[float, float]]] = {}
    for at, bucket, value in cells:
        colour = min(HEAT_COLOURS - 1, int(math.sqrt(value / most) * HEAT_COLOURS))
        x = plot.x + plot.width * (at - of.time.start) / (of.time.end - of.time.start) - width
        y = plot.y + plot.height - height * (bucket - low + 1)
        if x >= plot.x - 0.5:
            by_colour.setdefault(colour, []).append((x, y))
    for colour, corners in sorted(by_colour.items()):
        svg.cells(corners, max(width - 0.6, 0.5), max(height - 0.6, 0.5), f"h{colour}")
    every = max(1, math.ceil(rows * 13 / plot.height))
    unit = of.panel.json.get("options", {}).get("yAxis", {}).get("unit") or of.unit
    for n in range(low, high + 1, every):
        y = plot.y + plot.height - height * (n - low + 1)
        text = shown(bounds[n], unit)
        svg.text(plot.x - 6, y + 4, text, "soft", anchor="end", size=_SIZE)
    _key(svg, plot.x, plot.y + plot.height + 22, most)


def _key(svg: Svg, x: float, y: float, most: float) -> None:
    svg.text(x, y + 9, "0", "soft", size=_SIZE)
    for colour in range(HEAT_COLOURS):
        svg.rect(x + 12 + 16 * colour, y, 16, 10, f"h{colour}")
    svg.text(x + 18 + 16 * HEAT_COLOURS, y + 9, shown(most), "soft", size=_SIZE)


def _cells(lines: Sequence[Line]) -> tuple[list[float], list[tuple[float, int, float]]]:
    """The bounds, and moment, bucket and count of each cell that is not empty."""
    ordered = sorted(lines, key=lambda line: float(line.labels.get("le", "inf")))
    bounds = [float(line.labels.get("le", "inf")) for line in ordered]
    below: dict[float, float] = {}
    cells = []
    for number, line in enumerate(ordered):
        for at, value in line.points:
            own = value - below.get(at, 0.0)
            below[at] = value
            if own > 1e-6:
                cells.append((at, number, own))
    return bounds, cells


# --- states ---------------------------------------------------------------------------------------


def states(svg: Svg, of: Drawn, box: Box) -> None:
    """A bar for each series, in the colour of the state that it is in."""
    names = min(
        box.width * 0.34,
        max((text_width(line.name, _SIZE) for line in of.lines), default=0.0) + 14,
    )
    plot = Box(box.x + names, box.y + 4, box.width - names - 8, box.height - 4 - 18 - 18)
    time_axis(svg, of, plot)
    height = plot.height / max(len(of.lines), 1)
    mappings = of.defaults.get("mappings", [])
    width = plot.width * of.time.step / (of.time.end - of.time.start)
    for number, line in enumerate(of.lines):
        y = plot.y + height * number
        svg.text(
            plot.x - 8, y + height / 2 + 4, line.name, anchor="end", size=_SIZE, fit=names - 10
        )
        by_colour: dict[str, list[tuple[float, float]]] = {}
        for at, value in line.points:
            found = mapped(mappings, value)
            colour = found[1] if found else "soft"
            x = plot.x + plot.width * (at - of.time.start) / (of.time.end - of.time.start)
            if x + width <= plot.x + plot.width + 1:
                by_colour.setdefault(colour, []).append((x, y + 1.5))
        for colour, corners in by_colour.items():
            svg.cells(corners, width + 0.2, max(height - 3, 1), f"f-{colour} thick")
    at = box.x
    for one in (found for n in range(10) if (found := mapped(mappings, n))):
        svg.rect(at, plot.y + plot.height + 24, 10, 10, f"f-{one[1]} thick")
        svg.text(at + 14, plot.y + plot.height + 33, one[0], size=_SIZE)
        at += text_width(one[0], _SIZE) + 30


# --- table ----------------------------------------------------------------------------------------


def table(svg: Svg, of: Drawn, box: Box) -> None:
    """A line for each set of labels, a column for each label and query."""
    columns = _columns(of)
    rows = _rows(of.lines)
    numbers = {f"Value #{line.ref}" for line in of.lines}
    width = box.width / max(len(columns), 1)
    height = min(26.0, max(_LEAST_ROW, box.height / (len(rows) + 1)))
    size = min(13.0, height * 0.66)
    room = int(box.height / height) - 1
    if len(rows) > room:
        left = f"+ {len(rows) - room + 1} lines"
        svg.text(box.x + 6, box.y + height * (room + 0.7), left, "soft", size=size)
        rows = rows[: room - 1]
    for n, (key, title) in enumerate(columns):
        x, anchor = _cell_at(box, width, n, key in numbers)
        svg.text(x, box.y + height * 0.7, title, "b", anchor=anchor, size=size)
    for number, row in enumerate(rows):
        y = box.y + height * (number + 1)
        svg.line(box.x, y, box.x + box.width, y, "grid")
        for n, (key, title) in enumerate(columns):
            value = row.get(key)
            x, anchor = _cell_at(box, width, n, key in numbers)
            text, css = _cell(of, title, value)
            svg.text(x, y + height * 0.7, text, css, anchor=anchor, size=size, fit=width - 12)


def _cell_at(box: Box, width: float, n: int, is_number: bool) -> tuple[float, str]:
    x = box.x + width * n + 6
    return (x + width - 24, "end") if is_number else (x, "start")


def _cell(of: Drawn, title: str, value: str | float | None) -> tuple[str, str]:
    if value is None:
        return "-", "soft"
    if isinstance(value, str):
        return value, "t"
    own = overrides(of.panel, title)
    steps = own.get("thresholds", {}).get("steps", [])
    colour = threshold(steps, value) if steps else "text"
    return shown(value, own.get("unit") or of.unit), f"f-{colour}"


def _columns(of: Drawn) -> list[tuple[str, str]]:
    """Key and title, in the order that the panel's `organize` gives them."""
    labels = dict.fromkeys(name for line in of.lines for name in line.labels if name != "__name__")
    keys = [*labels, *dict.fromkeys(f"Value #{line.ref}" for line in of.lines)]
    settings: Mapping[str, Any] = {}
    for one in of.panel.json.get("transformations", []):
        if one["id"] == "organize":
            settings = one["options"]
    hidden, order = settings.get("excludeByName", {}), settings.get("indexByName", {})
    titles = settings.get("renameByName", {})
    shown_ = [key for key in keys if not hidden.get(key)]
    shown_.sort(key=lambda key: order.get(key, len(order)))
    return [(key, titles.get(key) or key) for key in shown_]


def _rows(lines: Sequence[Line]) -> list[dict[str, str | float]]:
    rows: dict[tuple[tuple[str, str], ...], dict[str, str | float]] = {}
    for line in lines:
        labels = {k: v for k, v in line.labels.items() if k != "__name__"}
        row = rows.setdefault(tuple(sorted(labels.items())), dict(labels))
        row[f"Value #{line.ref}"] = line.last
    return [rows[key] for key in sorted(rows)]
