"""Model names that the operator switched at run time, over what the settings say."""

from __future__ import annotations

from typing import NamedTuple


class Switch(NamedTuple):
    """Who asks for `model` is served by `to`, on the endpoints its route names."""

    model: str
    to: str
    until: float | None
    """Unix seconds; None: until it is undone."""
    since: float
    by: str
    """Who switched it: `cli:USER` or `admin`."""
