"""A dashboard as one picture: its panels in the grid of 24 columns, drawn from answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tests.proof.draw_data import Box, Drawn, Time, drawn
from tests.proof.draw_lines import timeseries
from tests.proof.draw_other import bargauge, heatmap, stat, states, table
from tests.proof.prometheus import Series
from tests.proof.queries import Dashboard, Panel
from tests.proof.svg import Svg

WIDTH = 1366.0
_MARGIN = 16.0
_COLUMNS = 24
_UNIT = 30.0
"""Height of one unit of the grid."""
_GAP = 8.0
_HEAD = 58.0
_TITLE = 26.0

Draw = Callable[[Svg, Drawn, Box], None]
_KINDS: Mapping[str, Draw] = {
    "timeseries": timeseries,
    "stat": stat,
    "bargauge": bargauge,
    "heatmap": heatmap,
    "state-timeline": states,
    "table": table,
}


def picture(
    board: Dashboard,
    answers: Mapping[tuple[str, int, str], Sequence[Series]],
    marks: Sequence[tuple[str, float]],
    time: Time,
    said: str,
) -> str:
    """The SVG document; `said` is the line below its title."""
    bottom = max((panel.y + panel.height for panel in board.panels), default=1)
    height = _HEAD + bottom * _UNIT + _MARGIN
    svg = Svg(WIDTH, height, f"{board.title}: {said}")
    svg.text(_MARGIN, 28, board.title, "b", size=20)
    svg.text(_MARGIN, 47, said, "soft", size=12.5)
    for panel in board.panels:
        box = _place(panel)
        if panel.type == "row":
            svg.text(box.x + 2, box.y + 19, panel.title, "b", size=14.5)
            continue
        own = {t.ref: answers.get((board.file, panel.id, t.ref), ()) for t in panel.targets}
        _panel(svg, drawn(panel, own, marks, time), box)
    return svg.document()


def _place(panel: Panel) -> Box:
    column = (WIDTH - 2 * _MARGIN + _GAP) / _COLUMNS
    return Box(
        _MARGIN + panel.x * column,
        _HEAD + panel.y * _UNIT,
        panel.width * column - _GAP,
        panel.height * _UNIT - _GAP,
    )


def _panel(svg: Svg, of: Drawn, box: Box) -> None:
    svg.begin(of.panel.title)
    svg.rect(box.x, box.y, box.width, box.height, "panel", round_=3)
    svg.text(box.x + 10, box.y + 18, of.panel.title, "b", size=13, fit=box.width - 20)
    inner = Box(box.x + 10, box.y + _TITLE + 2, box.width - 20, box.height - _TITLE - 8)
    draw = _KINDS.get(of.panel.type)
    if draw is None or not any(line.points for line in of.lines):
        text = of.nothing if draw else f"a panel of type {of.panel.type} is not drawn"
        middle = box.y + box.height / 2
        svg.text(box.x + box.width / 2, middle, text, "soft", anchor="middle", size=13)
    else:
        draw(svg, of, inner)
    svg.end()
