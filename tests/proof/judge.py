"""Asks every query, and says of each whether it was answered and how that was judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.proof import promql, queries
from tests.proof.prometheus import Prometheus, QueryFailed, Series
from tests.proof.queries import Annotation, Dashboard, Query, Span, Variable

AS_IT_IS = "as it is"
WITHOUT_COMPARISON = "without its comparison"
BY_ITS_METRICS = "its metrics exist"
BY_THE_FILE = "fixed in the file"
NOT = "no data"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One query, filled in and asked."""

    query: Query
    asked: str
    judged: str
    """How it was answered, or NOT."""
    series: int = 0
    samples: int = 0
    error: str = ""

    @property
    def passed(self) -> bool:
        return self.judged != NOT


@dataclass(slots=True)
class Answers:
    """All verdicts, and the series that a picture is drawn from."""

    verdicts: list[Verdict] = field(default_factory=list)
    series: dict[tuple[str, int, str], list[Series]] = field(default_factory=dict)
    """By dashboard, panel's id and target."""
    marks: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    """By dashboard: the moments at which each annotation stands."""

    @property
    def unanswered(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if not verdict.passed]


class Judge:
    """Asks one Prometheus about one span."""

    def __init__(self, prometheus: Prometheus, span: Span) -> None:
        self._prometheus = prometheus
        self._span = span

    async def judge(self, boards: Iterable[Dashboard], rules: Iterable[Query]) -> Answers:
        """Everything."""
        answers = Answers()
        for board in boards:
            await self._dashboard(board, answers)
        for rule in rules:
            answers.verdicts.append(await self._rule(rule))
        return answers

    async def _dashboard(self, board: Dashboard, answers: Answers) -> None:
        values = self._span.builtins()
        for variable in board.variables:
            query = Query(board.file, f"${variable.name}", "variable", variable.query)
            values[variable.name], verdict = await self._variable(variable, query, values)
            answers.verdicts.append(verdict)
        for panel in board.panels:
            for target in panel.targets:
                place = f"{panel.title or panel.type} · {target.ref}"
                query = Query(board.file, place, "panel", target.text)
                verdict, series = await self._whole(query, values)
                answers.verdicts.append(verdict)
                answers.series[board.file, panel.id, target.ref] = series
        for one in board.annotations:
            query = Query(board.file, one.name, "annotation", one.text)
            verdict, series = await self._whole(query, values)
            answers.verdicts.append(verdict)
            marks = answers.marks.setdefault(board.file, [])
            marks += [(one.name, moment) for moment in _marks(one, series, self._span.step)]

    async def _variable(
        self, variable: Variable, query: Query, values: dict[str, str]
    ) -> tuple[str, Verdict]:
        """What stands for it in a query, and whether it has values."""
        if variable.type != "query":
            value = variable.default or variable.query
            return value, Verdict(query, query.text, BY_THE_FILE, 1, 1)
        try:
            asked = queries.filled(variable.query, values)
            found = await self._values(asked)
        except (QueryFailed, KeyError) as error:
            return variable.default, Verdict(query, query.text, NOT, error=str(error))
        judged = AS_IT_IS if found else NOT
        return queries.chosen(variable, found), Verdict(query, asked, judged, len(found), 0)

    async def _values(self, asked: str) -> list[str]:
        labels = queries.label_values(asked)
        if labels is None:
            raise QueryFailed(f"not a query of values: {asked}")
        return await self._prometheus.label_values(labels[1], labels[0], self._span)

    async def _whole(self, query: Query, values: dict[str, str]) -> tuple[Verdict, list[Series]]:
        """A query that must return data as it stands."""
        try:
            asked = queries.filled(query.text, values)
            series = await self._prometheus.range(asked, self._span)
        except (QueryFailed, KeyError) as error:
            return Verdict(query, query.text, NOT, error=f"{error!r}"), []
        return _verdict(query, asked, series, AS_IT_IS), series

    async def _rule(self, rule: Query) -> Verdict:
        """A rule; a condition that was never met is judged by what it compares."""
        verdict, _ = await self._whole(rule, {})
        if verdict.passed or verdict.error:
            return verdict
        grounds = promql.grounds(rule.text)
        if await self._all_answered(grounds) and grounds != [rule.text.strip()]:
            return Verdict(rule, " ; ".join(grounds), WITHOUT_COMPARISON, len(grounds))
        names = sorted(promql.metrics(rule.text))
        if rule.kind == "alert" and names and await self._all_answered(names):
            return Verdict(rule, " ; ".join(names), BY_ITS_METRICS, len(names))
        return verdict

    async def _all_answered(self, texts: list[str]) -> bool:
        for text in texts:
            try:
                if not await self._prometheus.range(text, self._span):
                    return False
            except QueryFailed:
                return False
        return bool(texts)


def _verdict(query: Query, asked: str, series: list[Series], judged: str) -> Verdict:
    samples = sum(len(one.points) for one in series)
    return Verdict(query, asked, judged if samples else NOT, len(series), samples)


def _marks(annotation: Annotation, series: list[Series], step: float) -> list[float]:
    """Where the annotation stands: its values, or where each run of moments begins."""
    points = [point for one in series for point in one.points]
    if annotation.by_value:
        return sorted({round(value / 1000, 1) for _, value in points})
    moments = {moment for moment, value in points if value}
    return sorted(moment for moment in moments if moment - step not in moments)
