"""How many requests of one key may run on one model at once: learned from the upstream's refusals.

The upstream counts requests in flight and refuses (1302) what is above its limit, a number that it
does not tell and may change. Without a refusal there is no limit here. The first ones set it:

    burst       refused requests leave those that run; so many is the limit
    late free   the upstream gives a place back a moment after the answer's end was seen here, so
                the next request can be refused although the limit is right. A refusal within the
                limit therefore changes nothing at first: for a short pause no more run than
                those beside it, then one does, as a check. Only checks that are refused again and
                again lower the limit.
    probe       while somebody waits, one request above the limit is tried now and then: after one
                second without a refusal, which would show that no place is free; and after a
                refused probe twice as long as before, up to a minute

Times are seconds on one monotonic clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

LATE_FREE: Final = 0.05
"""So long after an end the upstream may still count the request."""
FIRST_PAUSE: Final = 0.005
LONGEST_PAUSE: Final = 0.5
CHECKS: Final = 4
"""Refused checks that prove the limit too high; their pauses add up to 75 ms."""
CHECKS_ON_TRIAL: Final = 3
"""The same for a limit that was raised a moment ago: a place that became free while the probe was
on its way explains why that was taken in, and nothing explains the refusals."""
FIRST_QUIET: Final = 1.0
LONGEST_QUIET: Final = 60.0
REMEMBERED: Final = 0.9
"""Of the longest time that a refusal took, at each further one."""
LAPSE: Final = 1.0
"""A pause that nobody has waited out for so long is forgotten."""


class Ending(Enum):
    """How a request that had a place gave it back."""

    DONE = auto()
    """The upstream had taken it, whatever came of it."""
    REFUSED = auto()
    """1302: one more than the upstream allows."""
    UNSENT = auto()
    """It never reached the upstream, and so proves nothing."""


class Kind(Enum):
    """Why a place was given."""

    PLAIN = auto()
    CHECK = auto()
    """Within the limit, after a refusal."""
    PROBE = auto()
    """One above the limit."""
    FREE = auto()
    """Admission is off."""


@dataclass(slots=True, eq=False)
class Grant:
    """One place given to one request, to be given back once."""

    limit: KeyLimit
    kind: Kind
    level: int
    """Requests in flight at that moment, itself included."""
    at: float
    epoch: int
    """Lowerings of the limit before it."""
    ends: int
    """Good ends before it, less one that the upstream may not know of yet."""
    alone: bool
    """Nothing has ended since the last refusal: no late place explains another one."""
    caller: str | None = None
    """Whose turn in the queue it was; None: it did not wait."""
    turn: float = 0.0
    """The caller's turn before this one."""
    owner: str | None = None
    """Whose share of the places it is of; None: nobody's."""
    returned: bool = False

    @property
    def key(self) -> str:
        """The key to send the request with."""
        return self.limit.key


class KeyLimit:
    """One key on one model: who is in flight, and how many more may be."""

    def __init__(self, key: str, most: int | None = None) -> None:
        self.key = key
        self.in_flight = 0
        self.limit = most
        """None: no refusal so far."""
        self.resting_until = 0.0
        self._most = most
        self._epoch = 0
        self._ends = 0
        self._last_end = float("-inf")
        # After a refusal: `_ceiling` may run, and from `_next_at` on `_step` more. Steps are so far
        # apart that the one before would have been refused meanwhile: until then only `_sure` is
        # known to run.
        self._pausing = False
        self._held_at = float("-inf")
        self._next_at = 0.0
        self._step = 1
        self._ceiling = 0
        self._sure = 0
        self._misses = 0
        self._round_trip = 0.0
        # Upwards.
        self._probe_at = 0.0
        self._quiet = FIRST_QUIET
        self._raised_at = float("-inf")
        self._stood = True

    def set_most(self, most: int | None) -> None:
        """The operator's number: never more than that, and less only while refusals prove it too
        high. None: there is none."""
        if most == self._most:
            return
        unproven = self.limit is None or self.limit == self._most
        if unproven or (most is not None and self.limit is not None and self.limit > most):
            self.limit = most
        self._most = most

    # --- may one more start? ---------------------------------------------------------------

    def has_room(self, now: float) -> bool:
        """Whether one more may start, without a try above the limit."""
        if self.limit is None:
            return True
        if self.in_flight >= self.limit:
            return False
        return not self.is_pausing(now) or self.in_flight < self._ceiling or now >= self._next_at

    def may_probe(self, now: float) -> bool:
        """Whether to try one above the limit, for somebody who would wait otherwise."""
        probe_at = self._next_probe()
        return probe_at is not None and now >= probe_at and not self.is_pausing(now)

    def look_again(self, now: float) -> float | None:
        """When time alone could make room for somebody who waits."""
        if self.limit is not None and self.in_flight < self.limit:
            return self._next_at if self.is_pausing(now) else None
        probe_at = self._next_probe()
        if probe_at is not None and self.is_pausing(now):
            return max(probe_at, self._next_at + LAPSE)
        return probe_at

    def is_pausing(self, now: float) -> bool:
        """Whether a refusal was a moment ago, and it is not clear yet what it meant."""
        return self._pausing and now < self._next_at + LAPSE

    def _next_probe(self) -> float | None:
        if self.limit is None or self.in_flight != self.limit or self.limit == self._most:
            return None
        return self._probe_at

    def told(self, limit: int, now: float) -> None:
        """Others have learned it: a beginning, where nothing has been learned here."""
        if self.limit is None:
            self._lower(max(limit, self.in_flight), now)

    # --- a place is given ------------------------------------------------------------------

    def take(self, now: float, *, free: bool = False) -> Grant:
        """Give a place; ask `has_room` or `may_probe` before, or say `free`: without any limit."""
        self.in_flight += 1
        kind = Kind.FREE if free else self._kind(now)
        ends = self._ends - (now - self._last_end < LATE_FREE)
        alone = self._last_end <= self._held_at
        return Grant(self, kind, self.in_flight, now, self._epoch, ends, alone)

    def _kind(self, now: float) -> Kind:
        if self.limit is None:
            return Kind.PLAIN
        if self.in_flight > self.limit:
            self._raise(now)
            return Kind.PROBE
        if not self.is_pausing(now):
            self._pausing = False
            return Kind.PLAIN
        if self.in_flight > self._ceiling:
            self._sure = self.in_flight - 1
            self._ceiling = self._sure + self._step
            self._step *= 2
            self._next_at = now + self._pause() + self._round_trip
        if self.in_flight == self.limit:
            self._pausing = False
        return Kind.CHECK if self.in_flight > self._sure else Kind.PLAIN

    def _raise(self, now: float) -> None:
        self.limit = self.in_flight
        if self._stood:
            self._quiet = FIRST_QUIET
        self._stood = True
        self._raised_at = now
        self._probe_at = now + FIRST_QUIET

    # --- and given back --------------------------------------------------------------------

    def give_back(self, grant: Grant, ending: Ending, now: float) -> None:
        """A place is free again; what its ending tells is learned."""
        self.in_flight -= 1
        if ending is Ending.DONE:
            self._ends += 1
            self._last_end = now
            if grant.epoch == self._epoch and self.limit is not None and grant.level >= self.limit:
                self._misses = 0  # the limit holds
        elif ending is Ending.REFUSED and grant.kind is not Kind.FREE:
            self._round_trip = max(now - grant.at, REMEMBERED * self._round_trip)
            self._probe_at = max(self._probe_at, now + FIRST_QUIET)
            # Of checks let go together, the first refusal counts.
            checked = grant.kind is Kind.CHECK and grant.at > self._held_at
            self._misses += checked
            self._judge(grant, checked, now)
            if checked or not self.is_pausing(now):
                self._hold(now)
            self._ceiling = min(self._ceiling, self.in_flight)
            self._sure = min(self._sure, self.in_flight)

    def _judge(self, grant: Grant, checked: bool, now: float) -> None:
        if self.limit is None or grant.epoch < self._epoch:
            # At that moment the upstream ran no more than those that run now and those that ended.
            self._lower(self.in_flight + self._ends - grant.ends, now)
        elif grant.kind is Kind.PROBE:
            self._withdraw(now)
        elif checked and self._misses >= self._proof(grant, now):
            self._too_high(now)

    def _proof(self, grant: Grant, now: float) -> int:
        """How many refused checks in a row prove the limit too high."""
        checks = CHECKS_ON_TRIAL if self._is_on_trial(now) else CHECKS
        return checks if grant.alone else 2 * checks

    def _is_on_trial(self, now: float) -> bool:
        return now < self._raised_at + FIRST_QUIET

    def _too_high(self, now: float) -> None:
        if self._is_on_trial(now):
            self._withdraw(now)  # the probe was taken in, and another request had no place
        else:
            self._lower(self.in_flight, now)

    def _lower(self, limit: int, now: float) -> None:
        limit = max(1, limit)
        if self.limit is None or limit < self.limit:
            self.limit = limit
            self._epoch += 1
            self._quiet = FIRST_QUIET
            self._probe_at = now + FIRST_QUIET

    def _withdraw(self, now: float) -> None:
        """The last probe was one too many."""
        assert self.limit is not None
        self.limit = max(1, self.limit - 1)
        self._raised_at = float("-inf")
        self._stood = False
        self._quiet = min(LONGEST_QUIET, self._quiet * 2)
        self._probe_at = now + self._quiet

    def _hold(self, now: float) -> None:
        self._pausing = True
        self._held_at = now
        self._next_at = now + self._pause()
        self._step = 1
        # Places that become free meanwhile are used, unless the limit is on its way down: then
        # each would be one more refusal.
        self._sure = self._ceiling = self.in_flight if self._misses < CHECKS else 0

    def _pause(self) -> float:
        longest: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._misses, 16))
        return longest
