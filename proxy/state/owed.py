"""What a process counted while it was alone, to be added to the common count when it returns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from proxy.core.policy.limits import DAY, WINDOW, Want

_MOST: Final = 4096
"""Subjects that are remembered; of further ones nothing is added."""


class Owed(NamedTuple):
    """Of one subject, with the wants's own limits."""

    want: Want
    requests: int
    tokens: int
    """Of this minute and the one before."""
    today: int


class _Debt:
    __slots__ = ("day", "requests", "today", "tokens", "want", "window")

    def __init__(self, want: Want) -> None:
        self.want = want
        self.window = self.day = self.requests = self.tokens = self.today = 0

    def add(self, requests: int, tokens: int, at: int, wall: float) -> None:
        window, day = at // WINDOW, int(wall // DAY)
        if window - self.window > 1:
            self.requests = self.tokens = 0
        if day != self.day:
            self.today = 0
        self.window, self.day = window, day
        self.requests += requests
        self.tokens += tokens
        self.today += tokens


class Ledger:
    """By subject. `at` is milliseconds of a monotonic clock, `wall` unix seconds."""

    def __init__(self) -> None:
        self._debts: dict[str, _Debt] = {}

    def took(self, wants: Iterable[Want], at: int, wall: float) -> None:
        """A request was let in, with the tokens that it expects."""
        for want in wants:
            self._add(want, 1, want.tokens, at, wall)

    def settled(self, wants: Iterable[Want], tokens: int, at: int, wall: float) -> None:
        """It took so many."""
        for want in wants:
            self._add(want, 0, tokens - want.tokens, at, wall)

    def pay(self, at: int, wall: float) -> list[Owed]:
        """What is still worth to be added; it is not owed any more."""
        window, day = at // WINDOW, int(wall // DAY)
        found = []
        for debt in self._debts.values():
            lately, today = window - debt.window <= 1, debt.day == day
            owed = Owed(
                debt.want,
                debt.requests if lately else 0,
                max(0, debt.tokens) if lately else 0,
                max(0, debt.today) if today else 0,
            )
            if owed.requests or owed.tokens or owed.today:
                found.append(owed)
        self._debts.clear()
        return found

    def _add(self, want: Want, requests: int, tokens: int, at: int, wall: float) -> None:
        debt = self._debts.get(want.subject)
        if debt is None:
            if len(self._debts) >= _MOST:
                return
            debt = self._debts[want.subject] = _Debt(want)
        debt.add(requests, tokens, at, wall)
