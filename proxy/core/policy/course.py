"""What to try next: the course of one exchange until one of its attempts has something to say.

A course knows which candidates there are, in the order of the choice, and what has failed. It
starts nothing and waits for nothing: `proxy.pursuit` asks it after each failure, and when an
attempt is late, and does what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from proxy.config import Attempts
from proxy.core.policy.budget import Budget
from proxy.core.policy.retry import Reaction, Verdict

LIMIT_REPEATS: Final = 200
"""A request goes back into the queue this often; its patience ends sooner."""
ALONE_REPEATS: Final = 5
"""The same while nothing else of ours runs on the key: who holds its places, and how long, is not
for us to know, so the refusal is soon the answer."""
_SAME_AGAIN: Final = frozenset({Reaction.AGAIN, Reaction.OVERLOAD})


class Start(NamedTuple):
    """An attempt to make."""

    candidate: int
    """Its index in the route."""
    role: str
    """`first`, `retry`, `failover` or `hedge`: see `AttemptRecord.role`."""
    pause: float = 0.0
    """Seconds to wait before it."""


class Course:
    """One exchange's way through its candidates. `order`: their indexes, best first."""

    __slots__ = ("_again", "_budget", "_left", "_order", "_settings", "decisions", "tried")

    def __init__(self, order: Sequence[int], settings: Attempts, budget: Budget) -> None:
        self._order = order
        self._settings = settings
        self._budget = budget
        self._left = settings.retries
        self._again: dict[int, int] = {}
        self.tried: set[int] = set()
        self.decisions: list[str] = []
        """What was decided, for the log: `retry_again:1234`, `hedge_started`, …"""

    @property
    def can_fail_over(self) -> bool:
        """Whether a failed attempt could be followed by one at another candidate."""
        return self._left > 0 and self._untried() is not None

    def again(self, candidate: int) -> int:
        """How often this candidate was asked again."""
        return self._again.get(candidate, 0)

    def first(self) -> Start:
        """The attempt to begin with."""
        return self._start(self._order[0], "first")

    def beside(self) -> Start:
        """The attempt to make beside a late one: the next candidate, else the first one again.

        It is not yet made: `join` it, or leave its candidate to those that may follow a failure.
        """
        candidate = self._untried()
        return Start(self._order[0] if candidate is None else candidate, "hedge")

    def join(self, start: Start) -> None:
        """The attempt that `beside` named is made."""
        self.tried.add(start.candidate)
        self.decisions.append("hedge_started")

    def turned_away(self) -> Start | None:
        """What follows when the candidate has no place in time: another one, if there is one."""
        other = self._untried()
        return None if other is None else self._start(other, "failover")

    def next(
        self,
        candidate: int,
        verdict: Verdict,
        code: str,
        now: float,
        *,
        other_key: bool,
        alone: bool,
    ) -> Start | None:
        """What follows the failure of `candidate`; None: the failure is the answer.

        `code` names the failure, for the log. `other_key`: the endpoint has another key that does
        not rest. `alone`: nothing else of ours runs on the key.
        """
        reaction = verdict.reaction
        if reaction is Reaction.RETURN or (reaction is Reaction.KEY and not other_key):
            return None
        step: Start | None
        if reaction is Reaction.KEY:
            tired = self.again(candidate) >= LIMIT_REPEATS
            step = None if tired else self._repeat(candidate, 0.0)
        elif reaction is Reaction.LIMIT:
            tired = self.again(candidate) >= (ALONE_REPEATS if alone else LIMIT_REPEATS)
            step = self.turned_away() if tired else self._repeat(candidate, verdict.pause)
        else:
            step = self._elsewhere(candidate, verdict, code, now)
        if step is not None:
            self.decisions.append(f"retry_{reaction.name.lower()}:{code}")
        return step

    def _elsewhere(self, candidate: int, verdict: Verdict, code: str, now: float) -> Start | None:
        """Another candidate; without one the same again, if the failure allows that."""
        other = self._untried()
        if other is None:
            if verdict.reaction not in _SAME_AGAIN:
                return None
            if verdict.reaction is Reaction.OVERLOAD and not self._settings.overload_wait:
                return None
        if self._left <= 0:
            self.decisions.append(f"retry_denied_count:{code}")
            return None
        if not self._budget.take(now):
            self.decisions.append(f"retry_denied_budget:{code}")
            return None
        self._left -= 1
        if other is not None:
            return self._start(other, "failover")
        return self._repeat(candidate, verdict.pause)

    def _repeat(self, candidate: int, pause: float) -> Start:
        self._again[candidate] = self.again(candidate) + 1
        return Start(candidate, "retry", pause)

    def _start(self, candidate: int, role: str) -> Start:
        self.tried.add(candidate)
        return Start(candidate, role)

    def _untried(self) -> int | None:
        return next((one for one in self._order if one not in self.tried), None)
