"""Every query of a dashboard and a rule file is found, and its variables are filled in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.proof import queries
from tests.proof.queries import Span, Variable
from tests.proof.run import DASHBOARDS, RULES

_BOARD = {
    "title": "A board",
    "templating": {
        "list": [
            {"name": "datasource", "type": "datasource", "query": "prometheus"},
            {
                "name": "route",
                "type": "query",
                "query": {"query": "label_values(a_total, route)", "refId": "A"},
                "includeAll": True,
                "allValue": ".*",
            },
        ]
    },
    "annotations": {
        "list": [
            {"name": "Built in", "builtIn": 1},
            {"name": "Loaded", "expr": "1000 * loaded", "useValueForTime": True},
        ]
    },
    "panels": [
        {"type": "row", "title": "First", "gridPos": {"x": 0, "y": 0, "w": 24, "h": 1}},
        {
            "type": "row",
            "title": "Folded",
            "panels": [
                {
                    "id": 7,
                    "type": "stat",
                    "title": "Inside",
                    "gridPos": {"x": 6, "y": 2, "w": 6, "h": 4},
                    "targets": [{"refId": "A", "expr": "up"}, {"refId": "B"}],
                }
            ],
        },
    ],
}


def test_queries_are_found_in_panels_folded_rows_and_annotations(tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    file.write_text(json.dumps(_BOARD))
    board = queries.dashboard(file)
    assert [(one.kind, one.place, one.text) for one in board.queries()] == [
        ("panel", "Inside · A", "up"),
        ("annotation", "Loaded", "1000 * loaded"),
    ]
    assert board.annotations[0].by_value
    assert [(v.name, v.query, v.every) for v in board.variables] == [
        ("datasource", "prometheus", None),
        ("route", "label_values(a_total, route)", ".*"),
    ]


def test_rules_are_found_by_group_and_kind(tmp_path: Path) -> None:
    (tmp_path / "a.yml").write_text(
        "groups:\n- name: g\n  rules:\n"
        "  - {record: 'x:y', expr: sum(a)}\n  - {alert: Bad, expr: a > 1}\n"
    )
    assert [(one.kind, one.place, one.text) for one in queries.rules(tmp_path)] == [
        ("record", "g · x:y", "sum(a)"),
        ("alert", "g · Bad", "a > 1"),
    ]


def test_variables_are_filled_in_however_they_are_written() -> None:
    values = {"route": "plain", "__rate_interval": "20s"}
    text = 'rate(a{r="$route",s="${route:regex}",t="[[route]]"}[$__rate_interval])'
    filled = 'rate(a{r="plain",s="plain",t="plain"}[20s])'
    assert queries.filled(text, values) == filled
    with pytest.raises(KeyError):
        queries.filled("a{x='$unknown'}", values)


def test_all_values_of_a_variable_are_one_pattern() -> None:
    many = Variable("model", "query", "", multi=True, every=None, default="")
    assert queries.chosen(many, ["glm-4.6", "b"]) == r"(glm-4\\.6|b)"
    one = Variable("model", "query", "", multi=False, every=None, default="x")
    assert queries.chosen(one, ["a", "b"]) == "a"
    assert queries.chosen(one, []) == "x"
    said = Variable("model", "query", "", multi=True, every=".*", default="")
    assert queries.chosen(said, ["a"]) == ".*"


def test_queries_of_values_are_understood() -> None:
    assert queries.label_values("label_values(job)") == (None, "job")
    chained = 'label_values(a_total{instance=~"$instance", x="y"}, route)'
    assert queries.label_values(chained) == ('a_total{instance=~"$instance", x="y"}', "route")
    assert queries.label_values("query_result(up)") is None


def test_the_span_gives_grafanas_own_variables() -> None:
    given = Span(1000.0, 1180.0, 2.0, 20.0).builtins()
    assert given["__range"] == "180s"
    assert given["__interval"] == "2s"
    assert given["__rate_interval"] == "20s"
    assert given["__from"] == "1000000"


def test_the_dashboards_and_rules_of_this_project_are_read_whole() -> None:
    boards = queries.dashboards(DASHBOARDS)
    assert {board.file for board in boards} >= {"overview", "upstream", "streams", "process"}
    given = Span(0, 100, 1, 20).builtins()
    for board in boards:
        names = given | {variable.name: "x" for variable in board.variables}
        for query in board.queries():
            queries.filled(query.text, names)
    kinds = {rule.kind for rule in queries.rules(RULES)}
    assert kinds == {"record", "alert"}
