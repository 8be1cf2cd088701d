"""The rules of deploy/prometheus as they are on disk, their tests, and what stands in both."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.selectors import Matcher, Selector

FOLDER = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = sorted((FOLDER / "rules").glob("*.yml"))
TESTS = sorted((FOLDER / "tests").glob("*.yml"))

_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_LABELS = re.compile(r"\b(?:by|on|without)\s*\(([^)]*)\)")
_OURS = ("glm_proxy_", "gen_ai_", "process_", "up")


@dataclass(frozen=True)
class Case:
    """One moment of a test at which an alert is looked at."""

    path: Path
    alert: str
    fired: tuple[dict[str, str], ...]
    """The labels of what fires then."""


GROUPS: dict[str, list[dict[str, Any]]] = {
    group["name"]: group["rules"]
    for path in RULES
    for group in yaml.safe_load(path.read_text("utf-8"))["groups"]
}
_RULES = [rule for rules in GROUPS.values() for rule in rules]
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in _RULES if "alert" in rule}
RECORDS: dict[str, str] = {rule["record"]: rule["expr"] for rule in _RULES if "record" in rule}
EXPRESSIONS = {**RECORDS, **{name: alert["expr"] for name, alert in ALERTS.items()}}


def cases() -> list[Case]:
    """Every look at an alert, of all tests."""
    return [
        Case(path, case["alertname"], tuple(one["exp_labels"] for one in case["exp_alerts"]))
        for path, test in _tests()
        for case in test.get("alert_rule_test", ())
    ]


def valued() -> set[str]:
    """What the tests have a value for: the expressions that are to be something."""
    return {
        selector.metric
        for _, test in _tests()
        for one in test.get("promql_expr_test", ())
        if one["exp_samples"]
        for selector in selectors(one["expr"])
    }


def _tests() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in TESTS:
        for test in yaml.safe_load(path.read_text("utf-8"))["tests"]:
            yield path, test


def selectors(expr: str) -> list[Selector]:
    """Every selector of an expression, of a metric of ours or of a recording rule."""
    return [
        Selector(name, tuple(Matcher(*one) for one in _MATCHER.findall(matchers)))
        for name, matchers in _SELECTOR.findall(_LABELS.sub("", expr))
        if name.startswith(_OURS) or ":" in name
    ]


def grouped(expr: str) -> set[str]:
    """Labels that series are added up or compared by."""
    return {label.strip() for found in _LABELS.findall(expr) for label in found.split(",") if label}


def runbook() -> dict[str, str]:
    """Each alert's section of the runbook, by the alert's name."""
    parts = re.split(r"^### (\w+)$", (FOLDER / "RUNBOOK.md").read_text("utf-8"), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))
