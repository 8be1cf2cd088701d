"""Model names that the operator switched at run time, over what the settings say.

Nothing is chained: what a name is switched to is asked for as it stands, whether or not that name
is switched itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from proxy.core.policy.capability import Capabilities

_NAME: Final = re.compile(r"[!-~]{1,128}")


class Switch(NamedTuple):
    """Who asks for `model` is served by `to`, on the endpoints its route names."""

    model: str
    to: str
    until: float | None
    """Unix seconds; None: until it is undone."""
    since: float
    by: str
    """Who switched it: `cli:USER` or `admin`."""

    def holds(self, now: float) -> bool:
        """Whether it has not expired at `now`, Unix seconds."""
        return self.until is None or now < self.until

    def told(self) -> dict[str, object]:
        """In JSON's own types; times are Unix seconds."""
        return self._asdict()


class Switches:
    """Those that are set, for every router of a process. Expired ones have no effect."""

    def __init__(self, switches: Mapping[str, Switch] | None = None) -> None:
        """`switches` by the model that is asked for."""
        self._by_model: Mapping[str, Switch] = switches or {}

    def replace(self, switches: Mapping[str, Switch]) -> list[str]:
        """From now on these, by the model that is asked for: what is different, for the log."""
        before, self._by_model = self._by_model, switches
        return [
            _line(model, switches.get(model))
            for model in sorted({*before, *switches})
            if before.get(model) != switches.get(model)
        ]

    def all(self) -> Iterable[Switch]:
        """Expired ones too."""
        return self._by_model.values()

    def target(self, model: str, now: float) -> str | None:
        """What `model` is switched to at `now`, Unix seconds; None: it is not."""
        switch = self._by_model.get(model)
        return switch.to if switch is not None and switch.holds(now) else None

    def active(self, now: float) -> list[Switch]:
        """Those in effect at `now`, in the order of their names."""
        return in_effect(self.all(), now)


def in_effect(switches: Iterable[Switch], now: float) -> list[Switch]:
    """Those that have not expired at `now`, Unix seconds, in the order of their names."""
    return sorted(switch for switch in switches if switch.holds(now))


def _line(model: str, switch: Switch | None) -> str:
    if switch is None:
        return f"{model} is served as the settings say"
    return f"{model} is served by {switch.to} (switched by {switch.by})"


def switched(model: str, to: str, span: float | None, *, by: str, now: float) -> Switch:
    """`model` served by `to` for `span` seconds from `now`, or until it is undone.

    Raises ValueError, whose text says which name is wrong.
    """
    switch = Switch(
        check_name(model), check_name(to), None if span is None else now + span, now, by
    )
    if model == to:
        raise ValueError(f"{model} cannot be switched to itself; to undo a switch, reset it")
    return switch


def check_name(text: str) -> str:
    """The name. Raises ValueError for what is no model's that can be switched, or switched to."""
    if _NAME.fullmatch(text) is None:
        raise ValueError("a model's name is 1 to 128 printable ASCII characters without blanks")
    return text


def doubt(to: str, capabilities: Capabilities) -> str | None:
    """What to tell who switches to a model without a record; None: it has one."""
    if capabilities.of(to) is not None:
        return None
    return f"there is no record of {to!r} in the model records: it is asked for as it stands"
