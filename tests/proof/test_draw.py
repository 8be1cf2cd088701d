"""The pictures: a document that is well formed, shows what was answered, and escapes names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.proof import queries
from tests.proof.draw import WIDTH, picture
from tests.proof.draw_data import Time, drawn, mapped, overrides, threshold
from tests.proof.draw_scale import clock, moments, shown, ticks
from tests.proof.prometheus import Series
from tests.proof.queries import Dashboard, Panel, Target
from tests.proof.run import DASHBOARDS
from tests.proof.svg import Svg, fitted, text_width

_TIME = Time(1000.0, 1100.0, 1.0)
_NAMES = {"route": '<script>alert("x")</script> & co \x07'}


def _panel(kind: str, **more: Any) -> Panel:
    targets = (Target("A", "a", "{{route}}", False), Target("B", "b", "", False))
    return Panel(1, kind, "A <panel> & more", 0, 1, 12, 8, targets, {"type": kind, **more})


def _series(value: float, **labels: str) -> Series:
    return Series(labels or _NAMES, tuple((1000.0 + n, value + n % 7) for n in range(100)))


def _drawn(panel: Panel, *series: Series) -> str:
    row = Panel(0, "row", "A heading", 0, 0, 24, 1, (), {})
    board = Dashboard("one", "Board", (row, panel), (), ())
    answers = {("one", 1, "A"): list(series)}
    return picture(board, answers, [("Breaker open", 1050.0)], _TIME, "simulated upstream")


@pytest.mark.parametrize(
    "kind",
    ["timeseries", "stat", "bargauge", "table", "state-timeline", "heatmap", "unknown"],
)
@pytest.mark.parametrize("count", [0, 1, 30])
def test_every_kind_of_panel_is_a_well_formed_document(kind: str, count: int) -> None:
    series = [_series(n, le=str(n), route=f"r{n}") for n in range(count)]
    text = _drawn(_panel(kind), *series)
    root = ElementTree.fromstring(text)
    assert root.get("width") == f"{WIDTH:.0f}"
    assert "simulated upstream" in text
    assert "A heading" in text
    assert ("no data" in text) == (count == 0 and kind != "unknown")


@pytest.mark.parametrize("kind", ["timeseries", "stat", "bargauge", "table", "state-timeline"])
def test_names_from_outside_are_text(kind: str) -> None:
    text = _drawn(_panel(kind), _series(1.0), _series(2.0))
    root = ElementTree.fromstring(text)
    assert "<script" not in text
    assert "\x07" not in text
    assert any("alert" in (one.text or "") for one in root.iter())


def test_a_line_is_broken_where_values_are_missing() -> None:
    panel = _panel("timeseries")
    whole = Series({"route": "a"}, tuple((1000.0 + n, 1.0) for n in range(100)))
    holed = Series({"route": "a"}, tuple(p for p in whole.points if not 1040 < p[0] < 1060))
    assert _drawn(panel, holed).count('class="line s0"') == 2
    assert _drawn(panel, whole).count('class="line s0"') == 1


def test_values_without_end_do_not_break_an_axis() -> None:
    points = tuple((1000.0 + n, math.inf if n == 5 else 1.0) for n in range(100))
    ElementTree.fromstring(_drawn(_panel("timeseries"), Series({"route": "a"}, points)))


def test_stacked_lines_lie_on_one_another() -> None:
    custom = {"stacking": {"mode": "percent"}, "fillOpacity": 60}
    panel = _panel("timeseries", fieldConfig={"defaults": {"custom": custom}})
    text = _drawn(panel, _series(1.0, route="a"), _series(3.0, route="b"))
    assert text.count("thick") >= 2
    assert "100 %" in text


def test_a_series_may_have_an_axis_and_a_unit_of_its_own() -> None:
    own = {
        "matcher": {"id": "byRegexp", "options": "to.*"},
        "properties": [
            {"id": "unit", "value": "s"},
            {"id": "custom.axisPlacement", "value": "right"},
        ],
    }
    panel = _panel("timeseries", fieldConfig={"defaults": {"unit": "cpm"}, "overrides": [own]})
    found = drawn(panel, {"A": [_series(1.0, route="tokens")]}, [], _TIME)
    assert (found.lines[0].unit, found.lines[0].right) == ("s", True)
    assert overrides(panel, "other") == {}


def test_thresholds_and_mappings_give_colours() -> None:
    steps: list[dict[str, Any]] = [
        {"color": "green", "value": None},
        {"color": "red", "value": 5},
    ]
    assert [threshold(steps, value) for value in (0.0, 5.0)] == ["green", "red"]
    told = [{"type": "value", "options": {"2": {"text": "open", "color": "red"}}}]
    assert mapped(told, 2.0) == ("open", "red")
    assert mapped(told, 1.0) is None


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.00002, "s", "20 µs"),
        (0.25, "s", "250 ms"),
        (2.5, "s", "2.5 s"),
        (90, "s", "1.5 min"),
        (7200, "s", "2 h"),
        (864_000, "s", "10 days"),
        (0, "s", "0 s"),
        (0.953, "percentunit", "95.3 %"),
        (3 * 1024**2, "bytes", "3 MiB"),
        (2048, "Bps", "2 KiB/s"),
        (12.0, "reqps", "12 req/s"),
        (3.0, "cpm", "3/min"),
        (1500, "short", "1.5 K"),
        (40, "suffix: tok/s", "40 tok/s"),
        (math.inf, "s", "∞"),
    ],
)
def test_values_are_shown_with_their_unit(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text


def test_ticks_are_round_and_hold_the_values() -> None:
    assert ticks(0, 9.3) == [0, 2.5, 5, 7.5, 10]
    assert ticks(0, 0) == [0, 0.25, 0.5, 0.75, 1]
    assert ticks(0, 100 * 1024**2, binary=True)[1] == 32 * 1024**2
    assert moments(185) == [0, 60, 120, 180]
    assert clock(185) == "3:05"


def test_a_long_text_is_cut_to_its_room() -> None:
    short = fitted("a name that is far too long", 12, 60)
    assert short.endswith("…")
    assert text_width(short, 12) <= 60
    assert fitted("fits", 12, 60) == "fits"


def test_both_themes_are_in_the_document() -> None:
    text = Svg(10, 10, "x").document()
    assert "prefers-color-scheme:dark" in text


@pytest.mark.parametrize("name", ["overview", "upstream", "streams", "process"])
def test_the_dashboards_of_this_project_are_drawn_even_without_answers(name: str) -> None:
    board = queries.dashboard(Path(DASHBOARDS / f"{name}.json"))
    ElementTree.fromstring(picture(board, {}, [], _TIME, "simulated upstream"))
