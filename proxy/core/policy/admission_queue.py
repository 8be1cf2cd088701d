"""Who is next: round robin between callers, the oldest first within one.

A caller's turn comes by time: the moment it came, or of its last turn, whichever is later. So one
that had its turn is behind all who were there, one with a hundred requests delays another by one
at most, and with one request each it is first come, first served. A request that was let go and
refused gets its caller's turn back and stands where its arrival puts it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Collection
from operator import attrgetter

from proxy.core.policy.admission_limit import Grant

_age = attrgetter("age")


class Ticket:
    """One request that waits."""

    __slots__ = ("age", "caller", "grant", "left")

    def __init__(self, caller: str, since: float, number: int) -> None:
        self.caller = caller
        self.age = (since, number)
        """When it came, and of equals which was the first in the queue."""
        self.grant: Grant | None = None
        """Its place, once it has one."""
        self.left = False
        """It does not wait any more, for whatever reason but a place."""


class _Line:
    """The requests of one caller, the oldest first."""

    __slots__ = ("rank", "tickets", "turn")

    def __init__(self) -> None:
        self.tickets: list[Ticket] = []
        self.turn = float("-inf")
        """When the last turn was."""
        self.rank: tuple[float, int, str] | None = None
        """Its entry in the order of callers."""


class FairQueue:
    """All who wait for one place."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._order: list[tuple[float, int, str]] = []
        self._at_least: list[int] = []
        """By n - 1: the callers that have n requests here, or more."""
        self._number = 0
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    @property
    def callers(self) -> Collection[str]:
        """Those who have a request here."""
        return self._lines.keys()

    def add(self, caller: str, since: float) -> Ticket:
        """Stand in line; `since` is the arrival, also of a request that comes again."""
        self._number += 1
        ticket = Ticket(caller, since, self._number)
        line = self._lines.get(caller)
        if line is None:
            line = self._lines[caller] = _Line()
        insort(line.tickets, ticket, key=_age)
        self._count(len(line.tickets), 1)
        if line.tickets[0] is ticket:
            self._place(caller, line)
        return ticket

    def next(self, may: Callable[[str], bool]) -> str | None:
        """The caller whose turn it is, of those who may have one; None: nobody."""
        return next((caller for _, _, caller in self._order if may(caller)), None)

    def pop(self, now: float, caller: str | None = None) -> tuple[Ticket, float]:
        """The next one, or the next of `caller`, and its caller's turn before. Somebody waits."""
        caller = self._order[0][2] if caller is None else caller
        line = self._lines[caller]
        ticket, turn = line.tickets[0], line.turn
        line.turn = now
        self._take_out(ticket, line)
        return ticket, turn

    def remove(self, ticket: Ticket) -> None:
        """It does not wait any more."""
        self._take_out(ticket, self._lines[ticket.caller])

    def give_back_turn(self, caller: str, turn: float, at: float) -> None:
        """The turn that `caller` had at `at` led to nothing: it has its former one again."""
        line = self._lines.get(caller)
        if line is not None and line.turn == at:
            line.turn = turn
            self._place(caller, line)

    def crowded_out(self, caller: str) -> Ticket | None:
        """Who goes where one of `caller` is one too many: the last of the longest line; None: that
        one itself, as no line is longer than its own."""
        longest = max(self._lines.values(), key=lambda line: len(line.tickets), default=None)
        own = self._lines.get(caller)
        if longest is None or (own is not None and len(own.tickets) >= len(longest.tickets)):
            return None
        return longest.tickets[-1]

    def ahead(self, caller: str | None, since: float) -> int:
        """How many would be let go before a request of `caller` (None: a new one)."""
        line = self._lines.get(caller) if caller is not None else None
        if line is None:
            return self._at_least[0] if self._at_least else 0
        older = bisect_right(line.tickets, since, key=lambda ticket: ticket.age[0])
        turns = sum(self._at_least[: older + 1])
        return turns - (len(line.tickets) > older)

    def _take_out(self, ticket: Ticket, line: _Line) -> None:
        self._count(len(line.tickets), -1)
        index = bisect_left(line.tickets, ticket.age, key=_age)
        del line.tickets[index]
        if index == 0:
            self._place(ticket.caller, line)

    def _count(self, size: int, change: int) -> None:
        """A line of `size`, its last one included, has just got that one or is losing it."""
        self._waiting += change
        if size > len(self._at_least):
            self._at_least.append(0)
        self._at_least[size - 1] += change
        if not self._at_least[-1]:
            self._at_least.pop()

    def _place(self, caller: str, line: _Line) -> None:
        """Put the caller where its first request and its last turn belong."""
        if line.rank is not None:
            del self._order[bisect_left(self._order, line.rank)]
        if not line.tickets:
            del self._lines[caller]
            return
        since, number = line.tickets[0].age
        if line.turn >= since:
            self._number += 1
            number = self._number
        line.rank = (max(since, line.turn), number, caller)
        insort(self._order, line.rank)
