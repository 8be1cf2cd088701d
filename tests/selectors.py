"""What a PromQL query chooses its series by: for tests of the dashboards and of the rules."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Matcher:
    """One condition of a selector."""

    label: str
    operator: str
    value: str


@dataclass(frozen=True)
class Selector:
    """A metric's name, and what it is chosen by."""

    metric: str
    matchers: tuple[Matcher, ...]
