"""Which request gets which fault: rules in a queue, and rules from text."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from proxy.simulator.faults import Fault, fault_of


@dataclass(slots=True)
class FaultRule:
    """Which requests get a fault: shell patterns for path and model, then counting."""

    fault: Fault
    times: int | None
    """How often it is played; None = without end."""
    every: int = 1
    """Every Nth of the requests that match."""
    after: int = 0
    """So many matching requests are let through first."""
    path: str = "*"
    model: str = "*"
    seen: int = 0

    def matches(self, path: str, model: str) -> bool:
        return fnmatchcase(path, self.path) and fnmatchcase(model, self.model)

    def fires(self) -> bool:
        """Counts one matching request; whether it gets the fault."""
        self.seen += 1
        due = self.seen - self.after
        return due > 0 and due % self.every == 0 and self.times != 0


class FaultQueue:
    """The rules in force, first in first out."""

    def __init__(self, rules: tuple[FaultRule, ...] = ()) -> None:
        self.rules = list(rules)

    def take_early(self, path: str) -> Fault | None:
        """The fault of a request whose body is not to be read whole."""
        rules = (r for r in self.rules if r.fault.early is not None and r.matches(path, ""))
        return self._first_due(list(rules))

    def take(self, path: str, model: str) -> Fault | None:
        """The fault of this request, if a rule fires; every rule that matches counts it."""
        rules = [r for r in self.rules if r.fault.early is None and r.matches(path, model)]
        return self._first_due(rules)

    def _first_due(self, rules: list[FaultRule]) -> Fault | None:
        for rule in rules:
            if rule.fires():
                self._played(rule)
                return rule.fault
        return None

    def _played(self, rule: FaultRule) -> None:
        if rule.times is not None:
            rule.times -= 1
            if rule.times <= 0:
                self.rules.remove(rule)


def parse_rule(spec: str) -> FaultRule:
    """A rule from text: `code=1302,every=3,model=glm-4.6`; raises `ValueError` when it is wrong.

    A field without `=` is set to true (`no_done`). Text has no commas; `raw=@FILE`, `wire=@FILE`
    and `after_end=@FILE` read a file.
    """
    values: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in spec.split(","))):
        name, equals, text = part.partition("=")
        values[name] = text if equals else True
    rule = {name: values.pop(name) for name in ("path", "model") if name in values}
    counts = {name: int(values.pop(name)) for name in ("times", "every", "after") if name in values}
    for name in ("raw", "wire", "after_end"):
        values = _from_file(values, name)
    return FaultRule(
        fault_of(values),
        times=counts.get("times"),
        every=max(1, counts.get("every", 1)),
        after=counts.get("after", 0),
        **rule,
    )


def _from_file(values: dict[str, Any], name: str) -> dict[str, Any]:
    text = values.get(name)
    if not isinstance(text, str) or not text.startswith("@"):
        return values
    return {**values, name: Path(text[1:]).read_bytes()}
