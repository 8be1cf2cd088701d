"""The line of prompts that a model serves in few places: a queue, not a time.

The free glm-4-flash leaves one per cent of its concurrency to prompts above 8K tokens (documented).
So there are a few places, all callers of the service wait for them together, and what one request
waits is what those before it need. How many others come and how long they stay is assumed: more
than fit, of whom those leave again who find `room` waiting.

Times are seconds of the service, before the time scale.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import heapreplace
from random import Random

from proxy.simulator.distributions import Distribution

_WARM = 120.0
"""Seconds of others' requests before the first of ours, and the longest gap that is filled in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crowd:
    """A line's places and who else is in it."""

    places: int
    """Requests served at a time."""
    holds: Distribution
    """How long one request has its place."""
    others: float
    """Requests of others per second."""
    room: int
    """Others who find so many waiting leave again."""


class Line:
    """One line while the simulator runs. `random` is its own: others do not know of ours."""

    def __init__(self, crowd: Crowd, random: Random) -> None:
        self._crowd = crowd
        self._random = random
        self._free = [0.0] * crowd.places
        """When each place is free for the next in line: a heap."""
        self._starts: deque[float] = deque()
        """When those who wait will start, in order."""
        self._next: float | None = None
        """When the next of the others comes."""

    def join(self, now: float) -> float:
        """How long a request that comes now waits; `now` never goes back."""
        self._let_others_come(now)
        return self._enter(now) - now

    def _let_others_come(self, until: float) -> None:
        if self._next is None or self._next < until - _WARM:
            self._next = until - _WARM
        while self._next <= until:
            if self._waiting(self._next) < self._crowd.room:
                self._enter(self._next)
            self._next += self._random.expovariate(self._crowd.others)

    def _waiting(self, now: float) -> int:
        while self._starts and self._starts[0] <= now:
            self._starts.popleft()
        return len(self._starts)

    def _enter(self, now: float) -> float:
        """The moment at which a request that joins now gets its place."""
        start = max(now, self._free[0])
        heapreplace(self._free, start + self._crowd.holds.draw(self._random))
        self._starts.append(start)
        return start
