"""Prometheus' HTTP API, as much as is needed of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.proof.queries import Span


class QueryFailed(Exception):
    """Prometheus refuses a query; the message says why."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer: labels, and (Unix seconds, value) in order of time, NaN left out."""

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]


class Prometheus:
    """One server. Its methods raise QueryFailed."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url

    async def range(self, text: str, span: Span) -> list[Series]:
        """A query over a time; series without a number in it are left out."""
        data = await self._ask(
            "query_range",
            {"query": text, "start": span.start, "end": span.end, "step": span.step},
        )
        return _series(data, "values")

    async def at(self, text: str, moment: float) -> list[Series]:
        """A query at one moment."""
        data = await self._ask("query", {"query": text, "time": moment})
        if data["resultType"] == "scalar":
            points = _numbers([data["result"]])
            return [Series({}, points)] if points else []
        return _series(data, "value")

    async def number(self, text: str, moment: float) -> float | None:
        """The one value of a query; None when there is none."""
        found = await self.at(text, moment)
        return found[0].points[0][1] if found else None

    async def label_values(self, label: str, selector: str | None, span: Span) -> list[str]:
        """The values of a label, of the series that match the selector."""
        asked: dict[str, Any] = {"start": span.start, "end": span.end}
        if selector is not None:
            asked["match[]"] = selector
        values: list[str] = await self._ask(f"label/{label}/values", asked)
        return values

    async def rules(self) -> list[dict[str, Any]]:
        """All rules, with the health of each."""
        groups = (await self._ask("rules", {}))["groups"]
        return [{**rule, "group": group["name"]} for group in groups for rule in group["rules"]]

    async def targets(self) -> list[dict[str, Any]]:
        """What is scraped, and how that went last."""
        active: list[dict[str, Any]] = (await self._ask("targets", {}))["activeTargets"]
        return active

    async def exemplars(self, text: str, span: Span) -> int:
        """How many exemplars the series of a query have."""
        found = await self._ask(
            "query_exemplars", {"query": text, "start": span.start, "end": span.end}
        )
        return sum(len(one["exemplars"]) for one in found)

    async def ready(self) -> bool:
        """Whether it answers queries already."""
        try:
            async with self._session.get(f"{self.url}/-/ready") as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    async def _ask(self, what: str, asked: Mapping[str, Any]) -> Any:
        form = {name: str(value) for name, value in asked.items()}
        async with self._session.get(f"{self.url}/api/v1/{what}", params=form) as response:
            answer = await response.json()
        if answer["status"] != "success":
            raise QueryFailed(f"{answer.get('errorType')}: {answer.get('error')}")
        return answer["data"]


def _series(data: Mapping[str, Any], key: str) -> list[Series]:
    if data["resultType"] == "scalar":
        return []
    found = []
    for one in data["result"]:
        points = _numbers(one[key] if key == "values" else [one[key]])
        if points:
            found.append(Series(one["metric"], points))
    return found


def _numbers(pairs: list[list[Any]]) -> tuple[tuple[float, float], ...]:
    read = ((float(moment), float(value)) for moment, value in pairs)
    return tuple(pair for pair in read if not math.isnan(pair[1]))
