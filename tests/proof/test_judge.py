"""What counts as an answer: data, or for a condition that is not met the data it compares."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import aiohttp
import pytest

from tests.proof import judge
from tests.proof.judge import Judge, Verdict
from tests.proof.prometheus import Prometheus, QueryFailed, Series
from tests.proof.queries import Annotation, Dashboard, Panel, Query, Span, Target, Variable

_SPAN = Span(0.0, 10.0, 1.0, 20.0)
_POINTS = ((1.0, 1.0), (2.0, 0.0), (3.0, 1.0), (4.0, 1.0))


class _Knows(Prometheus):
    """A Prometheus that has data for some queries and refuses one."""

    def __init__(self, session: aiohttp.ClientSession, *texts: str) -> None:
        super().__init__(session, "http://127.0.0.1")
        self.texts = texts
        self.asked: list[str] = []

    async def range(self, text: str, span: Span) -> list[Series]:
        self.asked.append(text)
        if text == "sum(":
            raise QueryFailed("bad_data: no end")
        return [Series({}, _POINTS)] if text in self.texts else []

    async def label_values(self, label: str, selector: str | None, span: Span) -> list[str]:
        return ["one", "two"] if selector else []


def _rule(kind: str, text: str) -> Query:
    return Query("rules", f"group · {kind}", kind, text)


async def _judged(rules: Iterable[Query], *known: str) -> list[Verdict]:
    async with aiohttp.ClientSession() as session:
        answers = await Judge(_Knows(session, *known), _SPAN).judge([], rules)
        return answers.verdicts


@pytest.mark.parametrize(
    ("kind", "text", "known", "judged"),
    [
        ("record", "sum(a)", ("sum(a)",), judge.AS_IT_IS),
        ("record", "sum(a)", ("a",), judge.NOT),
        ("alert", "a > 1", ("a > 1",), judge.AS_IT_IS),
        ("alert", "a > 1", ("a",), judge.WITHOUT_COMPARISON),
        ("alert", "a > 1 and b > 2", ("a",), judge.NOT),
        ("alert", 'max(a{b="c"} > 1) + 1', ("a",), judge.BY_ITS_METRICS),
        ("alert", "sum(", ("a",), judge.NOT),
    ],
)
async def test_a_rule_is_judged_by_what_has_data(
    kind: str, text: str, known: tuple[str, ...], judged: str
) -> None:
    [verdict] = await _judged([_rule(kind, text)], *known)
    assert verdict.judged == judged
    assert verdict.passed == (judged != judge.NOT)
    assert ("no end" in verdict.error) == (text == "sum(")


async def test_a_dashboard_is_asked_with_all_values_of_its_variables() -> None:
    def panel(text: str, number: int) -> Panel:
        targets = (Target("A", text, "", False),)
        return Panel(number, "stat", f"panel {number}", 0, 0, 6, 4, targets, {})

    board = Dashboard(
        "board",
        "Board",
        (panel('a{r=~"$route"}', 1), panel("b", 2), panel("c{x='$nobody'}", 3)),
        (Variable("route", "query", "label_values(a, route)", True, None, ""),),
        (Annotation("Opened", "open", by_value=False), Annotation("Loaded", "loaded", True)),
    )
    async with aiohttp.ClientSession() as session:
        knows = _Knows(session, 'a{r=~"(one|two)"}', "open", "loaded")
        answers = await Judge(knows, _SPAN).judge([board], [])
    missing: list[Any] = [verdict.query.place for verdict in answers.unanswered]
    assert missing == ["panel 2 · A", "panel 3 · A"]
    assert answers.series["board", 1, "A"][0].points == _POINTS
    assert answers.marks["board"] == [
        ("Opened", 1.0),
        ("Opened", 3.0),
        ("Loaded", 0.0),
    ]
