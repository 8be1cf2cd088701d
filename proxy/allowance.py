"""How much callers may use: taken before the upstream is asked, settled when it is over.

A request is expected to take the tokens that its bytes make (a quarter of them). At its end that
is put right: by what the upstream counted of every attempt, and where it did not count, by what
was asked and what came (`proxy.core.policy.spent`).
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from math import ceil
from typing import Final, NamedTuple

from proxy.config import Allowance, Limits
from proxy.core.policy.access import Caller
from proxy.core.policy.limits import TOTAL, Taken, Want, What
from proxy.core.policy.spent import estimated
from proxy.errors import LimitReached
from proxy.state.home import Home

JITTER: Final = 0.2
"""Of a wait that a refused caller is told: so much longer at most, that not all come together."""
LONGEST_JITTER: Final = 30.0
"""Seconds: a day's limit needs no more."""
_KEPT: Final = 10_000
"""Allowances of keys that are remembered."""


class Share(NamedTuple):
    """What one exchange took, or was refused. Give it back with `settle` in either case."""

    wants: tuple[Want, ...]
    lease: str
    taken: Taken

    @property
    def expected(self) -> int:
        """Tokens of the prompt, as estimated."""
        return self.wants[0].tokens


class Allowances:
    """The limits of the settings, counted in the home of state."""

    def __init__(self, limits: Limits, home: Home, roll: Callable[[], float]) -> None:
        """`roll` is a random number from 0 to 1."""
        self._total = limits.total if _limits(limits.total) else None
        self._per_key = limits.per_key
        self._limits_each = _limits(limits.per_key)
        self._home = home
        self._roll = roll
        self._merged: dict[str, tuple[Allowance, Allowance | None]] = {}
        """By key id: what the key says, and what holds for it then; None: nothing."""
        self._process = secrets.token_hex(8)
        self._number = itertools.count()

    def wants(self, caller: Caller, size: int) -> tuple[Want, ...]:
        """What a request of `size` bytes wants to take; nothing where nothing is limited."""
        own = self._own(caller)
        if own is None and self._total is None:
            return ()
        tokens = estimated(size)
        wants = () if own is None else (Want(f"key:{caller.name}", own, tokens),)
        return wants if self._total is None else (*wants, Want(TOTAL, self._total, tokens))

    async def take(self, wants: tuple[Want, ...]) -> Share:
        """Count it for all or for none: see `Share.taken`."""
        lease = f"{self._process}{next(self._number):x}"
        try:
            return Share(wants, lease, await self._home.take(wants, lease))
        except BaseException:  # cancelled, and nobody knows whether it was counted
            self._home.settle(wants, lease, 0)
            raise

    def insist(self, share: Share) -> None:
        """Raises LimitReached for a share that was refused."""
        refused = share.taken.refused
        if refused is None:
            return
        allowance = next(one.allowance for one in share.wants if one.subject == refused.subject)
        whose = "all callers together" if refused.subject == TOTAL else "this caller"
        wait = refused.retry_after
        wait += min(wait * JITTER, LONGEST_JITTER) * self._roll()
        seconds = max(1, ceil(wait))
        raise LimitReached(
            f"the limit of {_told(allowance, refused.what)} of {whose} is reached; try again in"
            f" {seconds} s",
            retry_after=seconds,
        )

    def settle(self, share: Share, tokens: int) -> None:
        """It is over, and took so many tokens. Once for each share."""
        if share.taken.refused is None:
            self._home.settle(share.wants, share.lease, tokens)

    def _own(self, caller: Caller) -> Allowance | None:
        key = caller.key
        if key is None:
            return self._per_key if self._limits_each else None
        known = self._merged.get(key.id)
        if known is None or known[0] is not key.allowance:
            if len(self._merged) >= _KEPT:
                self._merged.clear()
            merged = _over(key.allowance, self._per_key)
            known = key.allowance, merged if _limits(merged) else None
            self._merged[key.id] = known
        return known[1]


def _over(own: Allowance, general: Allowance) -> Allowance:
    """What `own` says, and `general` where it says nothing."""
    said = own.model_dump(exclude_none=True)
    return general.model_copy(update=said) if said else general


def _limits(allowance: Allowance) -> bool:
    """Whether it limits anything."""
    return allowance != Allowance()


def _told(allowance: Allowance, what: What) -> str:
    match what:
        case "requests":
            return f"{allowance.requests_per_minute} requests per minute"
        case "tokens":
            return f"{allowance.tokens_per_minute} tokens per minute"
        case "concurrent":
            return f"{allowance.concurrent} requests under way at once"
        case "day":
            return f"{allowance.tokens_per_day} tokens per day (UTC)"
