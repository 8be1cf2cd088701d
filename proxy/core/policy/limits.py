"""How much a caller may still use: what is wanted, what is left, and why something is refused.

Requests and tokens per minute are counted in windows of 60 s: of the window before, as much counts
as a minute ending now still covers of it, rounded. So no window takes in more than the limit, and
whoever always asks for too much gets the limit, evenly. Tokens that were more than expected can
make a window fuller than its limit; what is over belongs to those after it: the mean holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from typing import Final, Literal, NamedTuple

from proxy.config import Allowance

TOTAL: Final = "total"
"""The subject that stands for all callers together."""
WINDOW: Final = 60_000
"""Milliseconds: all times are rounded to them, so that every home counts alike."""
HALF: Final = WINDOW // 2
"""A sum over windows is rounded, as only whole requests are let in: without it whoever may send
one per minute would get one in two."""
DAY: Final = 86_400
"""Seconds."""
LEASE: Final = 60.0
"""Seconds that a place is held for somebody who does not say that it is still needed."""
PLACE_AGAIN: Final = 1.0
"""Seconds after which to ask again for a place: nobody knows when one becomes free."""
MOST_SUBJECTS: Final = 65_536
"""Of one meter. The one that was used least recently is forgotten for a new one."""

What = Literal["requests", "tokens", "concurrent", "day"]


class Want(NamedTuple):
    """One request, as one of the subjects it is counted for sees it."""

    subject: str
    """`key:ID`, or `total`."""
    allowance: Allowance
    tokens: int
    """Expected; `settle` says what they were."""


class Left(NamedTuple):
    """What remains of one limit, as `x-ratelimit-*` tells it."""

    limit: int
    remaining: int
    reset: float
    """Seconds until nothing of it is used."""


class Refusal(NamedTuple):
    """A limit that is reached."""

    what: What
    subject: str
    retry_after: float
    """Seconds until it is worth to ask again."""


class Taken(NamedTuple):
    """The answer to what was wanted: all of it counted, or nothing."""

    refused: Refusal | None = None
    """Of several the one that lasts longest; of equals the first."""
    requests: Left | None = None
    """Of the subject that has the least left; None: no such limit."""
    tokens: Left | None = None


class Window:
    """What one subject used of one limit per minute. `at` is in milliseconds.

    Ask `roll` before anything else.
    """

    __slots__ = ("before", "count", "index")

    def __init__(self) -> None:
        self.index = 0
        self.before = 0
        """Of the window before this one."""
        self.count = 0

    def roll(self, at: int, limit: int) -> None:
        """Go on to the window of `at`. What is over the limit is used in the windows that follow,
        a limit in each."""
        passed = at // WINDOW - self.index
        if passed > 0:
            rest = max(0, self.count - (passed - 1) * limit)
            self.before = min(rest, limit)
            self.count = rest - self.before
            self.index += passed

    def wait(self, more: int, at: int, limit: int) -> int:
        """Milliseconds until `more` (at most the limit) fits in, if nobody else asks; 0: now."""
        elapsed = self._elapsed(at)
        room = limit - self.count - more
        if room >= 0:
            if self.before * (WINDOW - elapsed) <= room * WINDOW + HALF:
                return 0
            return WINDOW - (room * WINDOW + HALF) // self.before - elapsed
        windows = -(-(self.count + more) // limit) - 1
        rest = self.count - (windows - 1) * limit
        before = min(rest, limit)
        room = limit - (rest - before) - more
        return windows * WINDOW - elapsed + max(0, WINDOW - (room * WINDOW + HALF) // before)

    def add(self, amount: int) -> None:
        """Less than nothing is never used."""
        self.count = max(0, self.count + amount)

    def left(self, at: int, limit: int) -> Left:
        rest = WINDOW - self._elapsed(at)
        free = (limit - self.count) * WINDOW - self.before * rest + HALF
        if self.count:
            reset = rest + -(-self.count // limit) * WINDOW
        else:
            reset = rest if self.before else 0
        return Left(limit, max(0, free // WINDOW), reset / 1000)

    def _elapsed(self, at: int) -> int:
        """Of this window; who shares the counts may be a moment ahead."""
        return max(0, at - self.index * WINDOW)


class Used:
    """What one subject has used: ask `roll` before anything else."""

    __slots__ = ("day", "requests", "today", "tokens")

    def __init__(self) -> None:
        self.requests = Window()
        self.tokens = Window()
        self.day = 0
        self.today = 0
        """Tokens of that day."""

    def roll(self, allowance: Allowance, at: int, day: int) -> None:
        if allowance.requests_per_minute is not None:
            self.requests.roll(at, allowance.requests_per_minute)
        if allowance.tokens_per_minute is not None:
            self.tokens.roll(at, allowance.tokens_per_minute)
        if day != self.day:
            self.day, self.today = day, 0

    def count(self, want: Want) -> None:
        """One more request, with the tokens that are expected."""
        allowance = want.allowance
        if allowance.requests_per_minute is not None:
            self.requests.add(1)
        if allowance.tokens_per_minute is not None:
            self.tokens.add(want.tokens)
        if allowance.tokens_per_day is not None:
            self.today += want.tokens

    def settle(self, want: Want, tokens: int, held: bool) -> None:
        """It took so many; nothing is given back to one that is not `held` to have a place."""
        more = tokens - want.tokens
        if not held:
            more = max(0, more)
        if want.allowance.tokens_per_minute is not None:
            self.tokens.add(more)
        if want.allowance.tokens_per_day is not None:
            self.today = max(0, self.today + more)


class _Holding(Used):
    """The same, and who holds its places."""

    __slots__ = ("places",)

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, float] = {}
        """By lease, when it ends by itself, in milliseconds; the first to end is first."""


def decide(subjects: Sequence[tuple[Want, Used, int]], at: int, wall: float) -> Taken:
    """Count one request for all subjects, each with the number of its places that are held, or for
    none. `at` is milliseconds, `wall` unix seconds."""
    refusals = [one for each in subjects for one in _refusals(*each, at, wall)]
    if not refusals:
        for want, used, _ in subjects:
            used.count(want)
    return Taken(
        max(refusals, key=lambda one: one.retry_after, default=None),
        least(
            used.requests.left(at, want.allowance.requests_per_minute)
            for want, used, _ in subjects
            if want.allowance.requests_per_minute is not None
        ),
        least(
            used.tokens.left(at, want.allowance.tokens_per_minute)
            for want, used, _ in subjects
            if want.allowance.tokens_per_minute is not None
        ),
    )


class Meter:
    """The counts of all subjects: plain state, of one process or under one lock.

    `now` is monotonic seconds and decides about minutes and places; `wall` is unix seconds and only
    says which day (UTC) it is. Seconds after which a place that nobody renews is free: `lease`.
    """

    def __init__(self, lease: float = LEASE, most: int = MOST_SUBJECTS) -> None:
        self._lease = lease * 1000
        self._most = most
        self._used: OrderedDict[str, _Holding] = OrderedDict()
        self._holders: dict[str, list[str]] = {}
        """By lease, the subjects whose places it holds."""

    def __len__(self) -> int:
        """Subjects that are known."""
        return len(self._used)

    def places(self) -> dict[str, int]:
        """Places that are held, by subject; those that have ended by themselves count until the
        subject asks for another."""
        return {subject: len(used.places) for subject, used in self._used.items()}

    def take(self, wants: Sequence[Want], lease: str, now: float, wall: float) -> Taken:
        """Count one request, the tokens that are expected, and a place, for all subjects or none.

        At least one token must be left; who expects more than a whole limit is let in when all of
        it is left, because it would never be, else.
        """
        at = round(now * 1000)
        subjects = [(want, self._subject(want, at, int(wall // DAY))) for want in wants]
        taken = decide([(want, used, len(used.places)) for want, used in subjects], at, wall)
        if taken.refused is None:
            for want, used in subjects:
                used.places[lease] = at + self._lease
                self._holders.setdefault(lease, []).append(want.subject)
        return taken

    def settle(
        self, wants: Sequence[Want], lease: str, tokens: int, now: float, wall: float
    ) -> None:
        """It took so many tokens, and its places are free. What that differs from the expected is
        counted now: in this minute, and this day.

        To one that has no place (any more, or because it was never let in) nothing is given back:
        what it took beyond the expected is counted, and that is all.
        """
        at = round(now * 1000)
        for want in wants:
            used = self._subject(want, at, int(wall // DAY))
            used.settle(want, tokens, lease in used.places)
        for subject in tuple(self._holders.get(lease, ())):
            self._free(subject, self._used[subject], lease)

    def renew(self, leases: Iterable[str], now: float) -> None:
        """These are still needed. One that has ended by itself is not taken again."""
        at = round(now * 1000)
        for lease in leases:
            for subject in self._holders.get(lease, ()):
                places = self._used[subject].places
                if places[lease] > at:
                    del places[lease]  # the last to end is last
                    places[lease] = at + self._lease
                    self._used.move_to_end(subject)

    def _subject(self, want: Want, at: int, day: int) -> _Holding:
        used = self._used.get(want.subject)
        if used is None:
            if len(self._used) >= self._most:
                self._forget()
            used = self._used[want.subject] = _Holding()
        else:
            self._used.move_to_end(want.subject)
        used.roll(want.allowance, at, day)
        for lease in tuple(takewhile(lambda lease: used.places[lease] <= at, used.places)):
            self._free(want.subject, used, lease)
        return used

    def _forget(self) -> None:
        subject, used = self._used.popitem(last=False)
        for lease in tuple(used.places):
            self._free(subject, used, lease)

    def _free(self, subject: str, used: _Holding, lease: str) -> None:
        del used.places[lease]
        holders = self._holders[lease]
        holders.remove(subject)
        if not holders:
            del self._holders[lease]


def _refusals(want: Want, used: Used, running: int, at: int, wall: float) -> Iterator[Refusal]:
    allowance, subject = want.allowance, want.subject
    most = allowance.requests_per_minute
    if most is not None and (wait := used.requests.wait(1, at, most)):
        yield Refusal("requests", subject, wait / 1000)
    most = allowance.tokens_per_minute
    if most is not None and (wait := used.tokens.wait(_least_needed(want, most), at, most)):
        yield Refusal("tokens", subject, wait / 1000)
    most = allowance.concurrent
    if most is not None and running >= most:
        yield Refusal("concurrent", subject, PLACE_AGAIN)
    most = allowance.tokens_per_day
    if most is not None and used.today + _least_needed(want, most) > most:
        yield Refusal("day", subject, DAY - wall % DAY)


def _least_needed(want: Want, most: int) -> int:
    return min(max(1, want.tokens), most)


def least(lefts: Iterable[Left]) -> Left | None:
    """Of several subjects the one that has the least left, as `Taken` tells it."""
    return min(lefts, key=lambda left: left.remaining, default=None)
