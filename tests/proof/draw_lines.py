"""Time series: axes left and right, lines, stacked areas, limits, marks, a legend."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from tests.proof.draw_data import NAMED, Box, Drawn, Line, Time
from tests.proof.draw_scale import clock, moments, shown, ticks
from tests.proof.svg import Svg, fitted, text_width

_LEGEND_LINE = 16.0
_LEGEND_LINES = 3
_AXIS = 56.0
_FILLED = 4
"""Most lines that have their area filled, where they are not stacked."""
_SIZE = 11.0


def timeseries(svg: Svg, of: Drawn, box: Box) -> None:
    """All lines of the panel within the box."""
    legend = _legend_rows(of.lines, box.width, int(box.height * 0.3 / _LEGEND_LINE))
    plot = Box(
        box.x + _AXIS,
        box.y + 4,
        box.width - _AXIS - (_AXIS if any(line.right for line in of.lines) else 8),
        box.height - 4 - 18 - _LEGEND_LINE * len(legend),
    )
    time_axis(svg, of, plot)
    for right in (False, True):
        lines = [line for line in of.lines if line.right == right]
        if lines:
            _side(svg, of, plot, lines, right)
    _marks(svg, of, plot)
    _legend(svg, legend, box, plot.y + plot.height + 18)


def time_axis(svg: Svg, of: Drawn, plot: Box) -> None:
    """Minutes and seconds since the begin of what is shown."""
    for moment in moments(of.time.end - of.time.start, max(2, int(plot.width // 70))):
        x = _across(of.time, plot, of.time.start + moment)
        svg.line(x, plot.y, x, plot.y + plot.height, "grid")
        svg.text(x, plot.y + plot.height + 14, clock(moment), "soft", anchor="middle", size=_SIZE)


def _across(time: Time, plot: Box, moment: float) -> float:
    return plot.x + plot.width * (moment - time.start) / (time.end - time.start)


def _side(svg: Svg, of: Drawn, plot: Box, lines: Sequence[Line], right: bool) -> None:
    """The lines of one axis, and the axis."""
    mode = of.custom.get("stacking", {}).get("mode", "none") if not right else "none"
    unit = "percentunit" if mode == "percent" else lines[0].unit
    stacked = list(_stacked(lines, mode))
    values = [value for _, upper, _ in stacked for _, value in upper if not math.isinf(value)]
    low = min([0.0 if of.defaults.get("min") == 0 else math.inf, *values], default=0.0)
    high = 1.0 if mode == "percent" else max(values, default=1.0)
    if of.custom.get("axisSoftMin") == 0:
        low = min(low, 0.0)
    scale = ticks(low, high, max(2, int(plot.height // 34)), unit in ("bytes", "Bps"))
    if right:
        _scale_right(svg, plot, scale, unit)
    else:
        _scale_left(svg, plot, scale, unit)

    def y(value: float) -> float:
        share = (min(value, scale[-1]) - scale[0]) / (scale[-1] - scale[0])
        return plot.y + plot.height * (1 - share)

    filled = of.custom.get("fillOpacity", 0)
    if mode == "none" and len(lines) > _FILLED:
        filled = 0  # they would only hide one another
    for line, upper, under in stacked:
        for piece, floor in _pieces(upper, under, of.time.step):
            top = thinned([(_across(of.time, plot, at), y(value)) for at, value in piece])
            if filled and len(top) > 1:
                lower = [(_across(of.time, plot, at), y(max(v, scale[0]))) for at, v in floor]
                base = thinned(lower)
                css = "thick" if filled > 30 else "thin"
                svg.area([*top, *reversed(base)], f"f{line.colour} {css}")
            svg.path(top, f"line s{line.colour}")
    if of.custom.get("thresholdsStyle", {}).get("mode", "off") != "off" and not right:
        _limits(svg, of, plot, scale, y)


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Without the points inside a level part: a third of most pictures."""
    return [
        point
        for n, point in enumerate(points)
        if n in (0, len(points) - 1)
        or not abs(points[n - 1][1] - point[1]) < 0.1 > abs(points[n + 1][1] - point[1])
    ]


def _limits(
    svg: Svg, of: Drawn, plot: Box, scale: list[float], y: Callable[[float], float]
) -> None:
    """The values at which a colour begins, as far as they are in sight."""
    for step in of.defaults.get("thresholds", {}).get("steps", []):
        value = step.get("value")
        if value is not None and scale[0] <= value <= scale[-1]:
            colour = step["color"] if step["color"] in NAMED else "soft"
            height = y(value)
            svg.line(plot.x, height, plot.x + plot.width, height, f"limit s-{colour}")


def _stacked(lines: Sequence[Line], mode: str) -> Iterator[tuple[Line, _Points, _Points]]:
    """Each line with its upper and lower edge."""
    if mode == "none":
        for line in lines:
            yield line, line.points, tuple((at, 0.0) for at, _ in line.points)
        return
    total: dict[float, float] = {}
    for line in lines:
        for at, value in line.points:
            total[at] = total.get(at, 0.0) + value
    below = dict.fromkeys(sorted(total), 0.0)
    for line in lines:
        own = dict(line.points)
        share = {
            at: own.get(at, 0.0) / (total[at] or 1.0) if mode == "percent" else own.get(at, 0.0)
            for at in below
        }
        lower = tuple(below.items())
        below = {at: below[at] + share[at] for at in below}
        yield line, tuple(below.items()), lower


_Points = tuple[tuple[float, float], ...]


def _pieces(upper: _Points, lower: _Points, step: float) -> Iterator[tuple[_Points, _Points]]:
    """What is connected: where a value is missing, the line is broken."""
    begin = 0
    for n in range(1, len(upper) + 1):
        if n == len(upper) or upper[n][0] - upper[n - 1][0] > step * 1.5:
            yield upper[begin:n], lower[begin:n]
            begin = n


def _scale_left(svg: Svg, plot: Box, scale: list[float], unit: str) -> None:
    for value in scale:
        y = plot.y + plot.height * (1 - (value - scale[0]) / (scale[-1] - scale[0]))
        svg.line(plot.x, y, plot.x + plot.width, y, "grid")
        svg.text(plot.x - 6, y + 4, shown(value, unit), "soft", anchor="end", size=_SIZE)


def _scale_right(svg: Svg, plot: Box, scale: list[float], unit: str) -> None:
    for value in scale:
        y = plot.y + plot.height * (1 - (value - scale[0]) / (scale[-1] - scale[0]))
        svg.text(plot.x + plot.width + 6, y + 4, shown(value, unit), "soft", size=_SIZE)


def _marks(svg: Svg, of: Drawn, plot: Box) -> None:
    """Annotations."""
    for name, moment in of.marks:
        if of.time.start <= moment <= of.time.end:
            x = _across(of.time, plot, moment)
            colour = "orange" if "reaker" in name else "blue"
            svg.line(x, plot.y, x, plot.y + plot.height, f"mark s-{colour}")


# --- the legend -----------------------------------------------------------------------------------


def _legend_rows(
    lines: Sequence[Line], width: float, most: int
) -> list[list[tuple[str, str, float]]]:
    """Name, colour and place of each entry, line by line; what has no room is counted."""
    rows: list[list[tuple[str, str, float]]] = [[]]
    x = 0.0
    for n, line in enumerate(lines):
        name = fitted(line.name, _SIZE, width - 24)
        needed = text_width(name, _SIZE) + 26
        if x + needed > width - 40 and x > 0:
            if len(rows) == max(1, min(most, _LEGEND_LINES)):
                rows[-1].append((f"+ {len(lines) - n}", "", x))
                return rows
            rows.append([])
            x = 0.0
        rows[-1].append((name, line.colour, x))
        x += needed
    return rows if lines else []


def _legend(svg: Svg, rows: list[list[tuple[str, str, float]]], box: Box, y: float) -> None:
    for number, row in enumerate(rows):
        line = y + _LEGEND_LINE * number + 10
        for name, colour, x in row:
            if colour:
                svg.rect(box.x + x, line - 5, 12, 3, f"f{colour}")
            svg.text(box.x + x + (16 if colour else 0), line, name, "t", size=_SIZE)
