"""Under which conditions a suite was measured: what its figures may be trusted with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under which the figures of a suite were taken."""

    time_scale: float
    requests: int
    seed: int
    took: float
    """Seconds of the whole suite."""
    machine: str
    busy: float | None
    """Share of the machine's processors that was in use; None: not known."""
    own: float | None
    """Share of them that this suite alone used: client, proxies and service."""
    late: float
    """By how many seconds this client's timers were late, 99 % of them less."""
