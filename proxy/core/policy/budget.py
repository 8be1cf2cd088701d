"""How many extra attempts may be made: a share of all requests, and a few in any case.

An upstream that is down must not be asked more often than one that is well. Every request earns
a share of an attempt; a retry or a hedge takes a whole one. Times are seconds on one clock.
"""

from __future__ import annotations

from typing import Final

_ROUNDING: Final = 1e-9
"""Ten times a tenth is a little less than one in binary; it is meant to be one."""


class Budget:
    """A token bucket, full at first, that fills with requests and, if asked, with time.

    Whatever happens, no more is taken than `burst + share * requests + per_second * seconds`.
    """

    __slots__ = ("_balance", "_burst", "_per_second", "_share", "_updated")

    def __init__(self, share: float, *, burst: float, per_second: float = 0.0) -> None:
        """`share` of an attempt is earned by each request and `per_second` by each second; what
        would go over `burst` is not kept, so a quiet hour does not pay for a storm."""
        self._share = share
        self._burst = burst
        self._per_second = per_second
        self._balance = burst
        self._updated: float | None = None

    def request(self, now: float) -> None:
        """One request came, whatever becomes of it."""
        self._earn(self._share, now)

    def take(self, now: float) -> bool:
        """Whether one more attempt may be made; if so, it is paid for."""
        self._earn(0.0, now)
        if self._balance < 1.0 - _ROUNDING:
            return False
        self._balance -= 1.0
        return True

    def _earn(self, amount: float, now: float) -> None:
        if self._updated is not None:
            amount += self._per_second * (now - self._updated)
        self._updated = now
        self._balance = min(self._burst, self._balance + amount)
