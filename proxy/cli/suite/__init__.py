"""`glm-proxy bench --suite`: starts a simulated service and proxies, measures, ends them.

upstream.py   the simulated service, a process of its own that can be told to be slow or gone
stage.py      the processes of a suite, their settings and their logs
machine.py    what machine it is, and how busy it was
lumosai.py tail.py   what each suite does, in order
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from proxy.bench.suite import lumosai_report, tail_report
from proxy.bench.suite.asking import OnSample
from proxy.cli.suite import lumosai, tail


@dataclass(frozen=True, slots=True)
class Suite:
    """One suite: its defaults, how it is measured and told."""

    requests: int
    time_scale: float
    total: Callable[[int], int]
    """How many requests are made in all."""
    measure: Callable[[int, float, int, OnSample], Awaitable[Any]]
    """Requests, time scale, seed -> what was found. Raises NotRunning."""
    markdown: Callable[[Any, str], str]
    """What was found, language -> the report."""
    as_json: Callable[[Any], str]


def suite(name: str) -> Suite:
    """Raises KeyError."""
    ways, report = {"lumosai": (lumosai, lumosai_report), "tail": (tail, tail_report)}[name]
    return Suite(
        ways.REQUESTS,
        ways.TIME_SCALE,
        ways.total,
        ways.measure,
        report.markdown,
        report.as_json,
    )
