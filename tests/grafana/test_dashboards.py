"""The dashboards' form: they are what the source says, readable, linked, with their variables."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from grafana.build import FOLDER, texts
from tests.grafana.reading import FILES, dashboard, panels

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
UIDS = {file: f"glm-proxy-{Path(file).stem}" for file in FILES}
# What Grafana adapts to the light and to the dark theme: names and palettes.
COLOURS = re.compile(r"(dark-|semi-dark-|light-)?(green|yellow|orange|red|blue|purple)|text")
EACH = pytest.mark.parametrize("file", FILES)


def test_the_files_are_what_the_source_says() -> None:
    written = {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.json")}
    assert written == texts(), "run: python -m grafana.build"


def test_every_dashboard_has_its_own_lasting_address() -> None:
    assert {file: dashboard(file)["uid"] for file in FILES} == UIDS
    assert len({dashboard(file)["title"] for file in FILES}) == len(FILES)


@EACH
def test_it_is_imported_as_a_new_dashboard_of_the_schema_it_was_made_for(file: str) -> None:
    read = dashboard(file)
    assert (read["id"], read["schemaVersion"]) == (None, 39)
    assert read["description"]


@EACH
def test_no_two_panels_overlap(file: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard(file)["panels"]:
        grid = panel["gridPos"]
        for x in range(grid["x"], grid["x"] + grid["w"]):
            for y in range(grid["y"], grid["y"] + grid["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]


@EACH
def test_panels_fit_into_the_grid_and_are_wide_enough_at_1366_pixels(file: str) -> None:
    wrong = [
        panel["title"]
        for panel in panels(file)
        if panel["gridPos"]["w"] < 6 or panel["gridPos"]["x"] + panel["gridPos"]["w"] > 24
    ]
    assert wrong == []


@EACH
def test_every_line_of_panels_is_filled(file: str) -> None:
    """A hole in a line is a slip in the widths."""
    width: Counter[int] = Counter()
    for panel in panels(file):
        width[panel["gridPos"]["y"]] += panel["gridPos"]["w"]
    assert {y: total for y, total in width.items() if total != 24} == {}


@EACH
def test_ids_and_titles_of_panels_are_unique(file: str) -> None:
    ids = [panel["id"] for panel in dashboard(file)["panels"]]
    titles = [panel["title"] for panel in panels(file)]
    assert len(set(ids)) == len(ids)
    assert [title for title, count in Counter(titles).items() if count > 1] == []


@EACH
def test_every_panel_says_what_it_shows(file: str) -> None:
    for panel in panels(file):
        assert panel["title"]
        assert len(panel["description"]) > 30, panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["noValue"], panel["title"]
        assert panel["interval"] == "15s", panel["title"]


@EACH
def test_every_query_goes_to_the_chosen_data_source(file: str) -> None:
    for panel in panels(file):
        assert panel["datasource"] == DATASOURCE
        assert panel["targets"], panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        for target in panel["targets"]:
            assert target["datasource"] == DATASOURCE
            assert target["instant"] is not target["range"]


@EACH
def test_series_are_told_apart(file: str) -> None:
    """Queries of one panel have legends of their own; a table's columns have its headings."""
    for panel in panels(file):
        legends = [target["legendFormat"] for target in panel["targets"]]
        if panel["type"] == "table":
            renamed = panel["transformations"][1]["options"]["renameByName"]
            assert {f"Value #{target['refId']}" for target in panel["targets"]} <= set(renamed)
        else:
            assert "__auto" not in legends, panel["title"]
            assert len(set(legends)) == len(legends), panel["title"]


@EACH
def test_colours_are_names_and_palettes_that_both_themes_have(file: str) -> None:
    for name, value in _leaves(dashboard(file)):
        if name in ("color", "iconColor", "fill", "fixedColor") and isinstance(value, str):
            assert COLOURS.fullmatch(value), value
        assert not (isinstance(value, str) and re.search(r"#[0-9a-fA-F]{6}|rgba?\(", value)), value


@pytest.mark.parametrize("kind", ["overview.json", "upstream.json"])
def test_the_target_is_a_line_where_first_content_is_drawn(kind: str) -> None:
    drawn = [
        panel
        for panel in panels(kind)
        if panel["type"] == "timeseries"
        and any("first_content_seconds_bucket" in one["expr"] for one in panel["targets"])
        and panel["fieldConfig"]["defaults"]["unit"] == "s"
    ]
    assert drawn
    for panel in drawn:
        defaults = panel["fieldConfig"]["defaults"]
        assert 5.0 in [step["value"] for step in defaults["thresholds"]["steps"]]
        assert defaults["custom"]["thresholdsStyle"]["mode"] == "dashed"


@EACH
def test_thresholds_rise(file: str) -> None:
    for panel in panels(file):
        steps = panel["fieldConfig"]["defaults"].get("thresholds", {"steps": [{"value": None}]})
        first, *others = (step["value"] for step in steps["steps"])
        assert first is None
        assert others == sorted(set(others)), panel["title"]


# --- links and variables --------------------------------------------------------------------------


@EACH
def test_links_lead_to_the_other_dashboards_with_time_and_choices(file: str) -> None:
    links = dashboard(file)["links"]
    assert {link["url"] for link in links} == {
        f"/d/{uid}" for other, uid in UIDS.items() if other != file
    }
    assert all(link["keepTime"] and link["includeVars"] for link in links)


@EACH
def test_links_of_panels_lead_to_another_dashboard_with_time_and_choices(file: str) -> None:
    for panel in panels(file):
        for link in panel["links"]:
            uid, _, query = link["url"].removeprefix("/d/").partition("?")
            assert uid in UIDS.values(), link
            assert uid != UIDS[file], link
            assert query == "${__url_time_range}&${__all_variables}"


@EACH
def test_all_dashboards_have_the_same_variables_so_that_links_keep_the_choice(file: str) -> None:
    variables = dashboard(file)["templating"]["list"]
    names = [one["name"] for one in variables]
    assert names == ["datasource", "instance", "route", "model", "endpoint"]
    for one in variables[1:]:
        assert one["multi"], one["name"]
        assert one["includeAll"], one["name"]
        assert one["allValue"] == ".*"
        assert one["definition"] == one["query"]["query"]
        assert one["datasource"] == DATASOURCE


@EACH
def test_a_variable_is_shown_only_where_something_is_chosen_by_it(file: str) -> None:
    asked = " ".join(target["expr"] for panel in panels(file) for target in panel["targets"])
    for one in dashboard(file)["templating"]["list"][1:]:
        if one["hide"] == 0:
            assert f"${one['name']}" in asked, one["name"]


@EACH
def test_reloads_and_open_breakers_are_marked(file: str) -> None:
    marks = {
        one["name"]: one["expr"]
        for one in dashboard(file)["annotations"]["list"]
        if not one.get("builtIn")
    }
    assert "config_last_reload_success_timestamp_seconds" in marks["Settings loaded"]
    assert 'glm_proxy_breaker_state{state="open"' in marks["Breaker open"]


def _leaves(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """All values in a JSON document, each with the name it has."""
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, key)]
    if isinstance(value, list):
        return [leaf for inner in value for leaf in _leaves(inner, name)]
    return [(name, value)]
