"""Who may start now, with which key, and who waits: one gate for one place.

A place is one model at one endpoint with one group of keys. Its gate is plain state: `proxy.net`
asks it, wakes those it lets go, and comes back when time alone could change the answer. Times are
seconds on one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from math import ceil
from typing import Final, NamedTuple

from proxy.config import Admission
from proxy.core.policy.admission_limit import Ending, Grant, KeyLimit
from proxy.core.policy.admission_queue import FairQueue, Ticket
from proxy.core.policy.admission_share import Kept, Shares

KEPT_UNUSED: Final = 600.0
"""A gate that nobody used for so long is forgotten, with what it has learned."""
SPARE: Final = 0.1
"""Of a limit: what a request that could as well not be made leaves free."""
NEWS: Final = 0.1
"""Weight of the latest service time in their mean."""


class Place(NamedTuple):
    """What has a limit of its own, for each key."""

    endpoint: str
    group: str
    """A key group's name, or the fingerprint of the caller's own key."""
    model: str


class Figures(NamedTuple):
    """For gauges; they add up."""

    waiting: int
    in_flight: int
    limit: int
    """Of the keys whose limit is known; 0: of none."""
    resting: int


def most_of(settings: Admission, start: int | None) -> int | None:
    """The number that is never exceeded; None: it is learned. `start` is the model's own."""
    if isinstance(settings.limit, int):
        return settings.limit
    return start if settings.limit == "model" else None


class Gate:
    """One place: its keys with their limits, and those who wait."""

    def __init__(self, now: float) -> None:
        self.used = now
        self._keys: tuple[str, ...] = ()
        self._limits: dict[str, KeyLimit] = {}
        self._only: KeyLimit | None = None
        self._queue = FairQueue()
        self._shares = Shares()
        self._most: int | None = None
        self._service: float | None = None

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        return sum(limit.in_flight for limit in self._limits.values())

    def use(self, keys: Sequence[str], most: int | None, now: float) -> None:
        """Say which keys there are (one at least, their order decides ties) and the number that
        is never exceeded on any of them."""
        self.used = now
        keys = tuple(keys)
        if keys == self._keys and most == self._most:
            return
        self._keys, self._most = keys, most
        old = self._limits
        self._limits = {key: old.get(key) or KeyLimit(key, most) for key in self._keys}
        # A key that is gone stays until what it runs is over.
        self._limits |= {k: v for k, v in old.items() if v.in_flight and k not in self._limits}
        for limit in self._limits.values():
            limit.set_most(most)
        self._only = self._limits[keys[0]] if len(keys) == 1 else None

    def learned(self) -> dict[str, int]:
        """By key, the limits that are known and not set."""
        if self._most is not None:
            return {}
        return {key: one.limit for key, one in self._limits.items() if one.limit is not None}

    def lend(self, limits: Mapping[str, int], now: float) -> None:
        """What others have learned of these keys; only for what is learned here too."""
        if self._most is None:
            for key, limit in limits.items():
                if key in self._limits:
                    self._limits[key].told(limit, now)

    # --- start -----------------------------------------------------------------------------

    def enter(self, now: float, caller: str) -> Grant | None:
        """A place at once, when there is one, and nobody waits for it or comes back for it."""
        if self._queue or not self.lets(caller, now):
            return None
        limit = self._pick(now)
        return self._give(limit, caller, now) if limit is not None else None

    def enter_spare(self, now: float, caller: str, *, spare: bool) -> Grant | None:
        """A place that nobody waits for, never above the limit; with `spare`, only one that leaves
        a tenth of its key's limit free, and one place at least."""
        if self._queue or not self.lets(caller, now):
            return None
        limit = self._least_loaded(one for one in self._usable(now) if one.has_room(now))
        if limit is None:
            return None
        if spare and limit.limit is not None:
            left = limit.limit - limit.in_flight - 1
            if limit.is_pausing(now) or left < ceil(limit.limit * SPARE):
                return None
        return self._give(limit, caller, now)

    def enter_anyway(self, now: float) -> Grant:
        """A place without any limit: admission is off. Resting keys are left alone here too."""
        limit = self._least_loaded(self._usable(now))
        assert limit is not None
        return limit.take(now, free=True)

    # --- wait ------------------------------------------------------------------------------

    def join(self, caller: str, since: float) -> Ticket:
        """Wait for a place; then call `serve`."""
        return self._queue.add(caller, since)

    def serve(self, now: float) -> list[Ticket]:
        """Let go who may, in order. Call it after every change, and when `look_again` says."""
        served: list[Ticket] = []
        while self._queue and (limit := self._pick(now)) is not None:
            kept = self._kept(self._queue.callers, now)
            caller = self._queue.next(_anybody if kept is None else kept.lets)
            if caller is None:
                break
            ticket, turn = self._queue.pop(now, caller)
            grant = ticket.grant = self._give(limit, caller, now)
            grant.caller, grant.turn = caller, turn
            served.append(ticket)
        return served

    def leave(self, ticket: Ticket, now: float) -> None:
        """It waits no more; a place that it got and did not use is free. Then call `serve`."""
        if ticket.grant is None:
            if not ticket.left:
                self._queue.remove(ticket)
        else:
            self.release(ticket.grant, Ending.UNSENT, now)
        ticket.left = True

    def look_again(self, now: float) -> float | None:
        """When time alone could let somebody go who waits; None: only an event can."""
        if not self._queue:
            return None
        times = [one.look_again(now) for one in self._usable(now)]
        times += [self._limits[key].resting_until for key in self._keys]
        if self._kept(self._queue.callers, now) is not None:
            times.append(self._shares.next_change(now))
        return min((time for time in times if time is not None and time > now), default=None)

    # --- end -------------------------------------------------------------------------------

    def release(self, grant: Grant, ending: Ending, now: float) -> None:
        """Give a place back; only the first time counts. Then call `serve`."""
        if grant.returned:
            return
        grant.returned = True
        self.used = now
        limit = grant.limit
        limit.give_back(grant, ending, now)
        if grant.owner is not None:
            self._shares.end(grant.owner, now, keep=self._places() is not None)
        if ending is Ending.DONE:
            self._took(now - grant.at)
        elif grant.caller is not None:
            self._queue.give_back_turn(grant.caller, grant.turn, grant.at)
        if not limit.in_flight and limit.key not in self._keys:
            self._limits.pop(limit.key, None)

    def rest(self, key: str, until: float) -> None:
        """Leave a key alone until then; while all rest, the one that returns first is used."""
        if key in self._limits:
            self._limits[key].resting_until = until

    def has_other_key(self, key: str, now: float) -> bool:
        """Whether another key than this one is there and does not rest."""
        return any(one != key and self._limits[one].resting_until <= now for one in self._keys)

    # --- foresight -------------------------------------------------------------------------

    def expected_wait(self, caller: str | None, since: float, now: float) -> float | None:
        """Seconds until those before a request of `caller` are let go; None: not known."""
        return self._time_for(self._queue.ahead(caller, since), now)

    def predicted_wait(self, now: float) -> float:
        """Seconds that a new caller's request would wait; 0 also where nothing is known."""
        if not self._queue and any(one.has_room(now) for one in self._usable(now)):
            return 0.0
        return self._time_for(self._queue.ahead(None, now) + 1, now) or 0.0

    def figures(self, now: float) -> Figures:
        limits = self._limits.values()
        return Figures(
            self.waiting,
            self.in_flight,
            sum(one.limit or 0 for one in limits),
            sum(one.resting_until > now for one in limits),
        )

    def is_idle(self) -> bool:
        """Nobody is in flight or waits."""
        return not self._queue and not self.in_flight

    def is_forgotten(self, now: float) -> bool:
        """Nothing is lost without it: long unused, and none of its keys has to rest."""
        unused = self.is_idle() and now >= self.used + KEPT_UNUSED
        return unused and all(one.resting_until <= now for one in self._limits.values())

    # --- whose place -----------------------------------------------------------------------

    def lets(self, caller: str, now: float) -> bool:
        """Whether the caller may have what is free: others may be coming back for it."""
        asking = {caller, *self._queue.callers} if self._queue else (caller,)
        kept = self._kept(asking, now)
        return kept is None or kept.lets(caller)

    def crowded_out(self, caller: str) -> Ticket | None:
        """Who goes where one of `caller` is one too many in the queue; None: that one itself."""
        return self._queue.crowded_out(caller)

    def _kept(self, asking: Collection[str], now: float) -> Kept | None:
        places = self._places()
        if places is None:
            return None
        return self._shares.kept(asking, places, places - self.in_flight, now)

    def _places(self) -> int | None:
        """Of all keys together; None: of one of them the limit is not known."""
        if self._only is not None:
            return self._only.limit
        limits = [self._limits[key].limit for key in self._keys]
        return None if None in limits else sum(limit or 0 for limit in limits)

    def _give(self, limit: KeyLimit, caller: str, now: float) -> Grant:
        grant = limit.take(now)
        grant.owner = caller
        self._shares.begin(caller, now)
        return grant

    # --- which key -------------------------------------------------------------------------

    def _pick(self, now: float) -> KeyLimit | None:
        if self._only is not None and self._only.has_room(now):
            return self._only
        usable = self._usable(now)
        with_room = self._least_loaded(one for one in usable if one.has_room(now))
        if with_room is not None:
            return with_room
        return self._least_loaded(one for one in usable if one.may_probe(now))

    def _usable(self, now: float) -> list[KeyLimit]:
        limits = [self._limits[key] for key in self._keys]
        awake = [one for one in limits if one.resting_until <= now]
        return awake or [min(limits, key=lambda one: one.resting_until)]

    def _least_loaded(self, limits: Iterable[KeyLimit]) -> KeyLimit | None:
        return min(limits, key=lambda one: one.in_flight, default=None)

    def _took(self, seconds: float) -> None:
        mean = self._service
        self._service = seconds if mean is None else mean + NEWS * (seconds - mean)

    def _time_for(self, turns: int, now: float) -> float | None:
        if self._service is None:
            return None
        places = sum(one.limit or max(1, one.in_flight) for one in self._usable(now))
        return turns * self._service / places


def _anybody(caller: str) -> bool:
    return True
