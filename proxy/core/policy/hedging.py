"""When a late attempt gets another one beside it, and when it does not.

A hedge is worth a call when the attempt is one of the few slow ones; it makes things worse when
everything is slow, when the upstream fails, or when the key has no room. So the delay is learned
from the candidate's own first tokens, and each reason not to hedge has a name.
"""

from __future__ import annotations

from typing import Final

from proxy.config import Hedge
from proxy.core.policy.health import Shape, Vitals

ENOUGH: Final = 20.0
"""Answers to have seen before the delay is learned from them."""
TOO_MANY_ERRORS: Final = 0.3
"""Share of failures of a candidate from which on a second call only adds load."""
TOO_MANY_LATE: Final = 3.0
"""Times the share that is expected to be late: more are late, so it is not this one attempt."""
_MEMORY: Final = 0.02
"""Weight of the newest request in the share of late ones: about the last fifty count."""


def delay(hedge: Hedge, vitals: Vitals, shape: Shape, now: float) -> float:
    """Seconds after which an attempt is late.

    Never sooner than the budget can pay for: with `budget: 5%` the slowest 5 % are hedged, rather
    than half of the slowest 10 %, whichever came first.
    """
    if vitals.first_tokens(shape, now) < ENOUGH:
        return hedge.max
    learned = vitals.first_token(min(max(hedge.after, 1 - hedge.budget), 0.999), shape, now)
    return hedge.max if learned is None else min(max(learned, hedge.min), hedge.max)


class Lateness:
    """The share of a route's attempts that were late, of about the last fifty."""

    __slots__ = ("share",)

    def __init__(self) -> None:
        self.share = 0.0

    def saw(self, *, late: bool) -> None:
        """One more attempt has answered in time, or has not."""
        self.share += _MEMORY * (late - self.share)

    def is_general(self, hedge: Hedge) -> bool:
        """Whether so many are late that another call would be late too."""
        return self.share > TOO_MANY_LATE * max(1 - hedge.after, hedge.budget)


def denial(hedge: Hedge, vitals: Vitals, lateness: Lateness, now: float) -> str | None:
    """In one word, what speaks against another call whoever would get it; None: nothing does."""
    if vitals.error_rate(now) > TOO_MANY_ERRORS:
        return "errors"
    return "slow" if lateness.is_general(hedge) else None
