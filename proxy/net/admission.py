"""Admission: the right to have one request in flight, given at once, waited for, or refused.

Who gets it is decided by `proxy.core.policy.admission`; here are the futures and timers of those
who wait. Where nothing was ever refused a permit costs one look-up and no turn of the event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from math import ceil
from typing import Final

from proxy.config import Admission as Settings
from proxy.core.policy.admission import Figures, Gate, Place, most_of
from proxy.core.policy.admission_limit import Ending, Grant
from proxy.core.policy.admission_queue import Ticket
from proxy.core.policy.lessons import Limited
from proxy.errors import TooBusy

__all__ = ["Admission", "Figures", "Permit", "Place"]

MOST_PLACES: Final = 4096
SWEPT_EVERY: Final = 60.0
SWEPT_FULL: Final = 0.1
"""The same while there is no room: a sweep looks at all places."""
SHORTEST_TIMER: Final = 0.001
"""A timer may be early; it must not come again in the same moment."""


class Permit:
    """The right to have one request in flight with `key`. Release it in every ending."""

    __slots__ = ("_door", "_grant", "waited")

    def __init__(self, door: _Door, grant: Grant, waited: float) -> None:
        self._door = door
        self._grant = grant
        self.waited = waited
        """Seconds in the queue."""

    @property
    def key(self) -> str:
        """Which of the keys to send the request with."""
        return self._grant.key

    def release(self, *, refused: bool = False, sent: bool = True) -> None:
        """Give it back; whoever is next has it when this returns. Only the first call counts.

        refused   the upstream said that it is one too many (1302)
        sent      false: no byte of the request reached the upstream, so nothing is learned
        """
        if refused:
            self._door.release(self._grant, Ending.REFUSED)
        else:
            self._door.release(self._grant, Ending.DONE if sent else Ending.UNSENT)


class Admission:
    """The permits of one event loop. `clock` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._doors: dict[Place, _Door] = {}
        self._swept = clock()
        self._lent: dict[Place, dict[str, int]] = {}

    async def admit(
        self,
        place: Place,
        keys: Sequence[str],
        settings: Settings,
        start: int | None,
        caller: str,
        *,
        since: float,
        deadline: float,
    ) -> Permit:
        """A permit for one of `keys`. Await it directly: a task around it could lose the permit.

        start      requests of one key that the model's record allows, where it says so
        since      when the request came; asked again after a refusal, it keeps its place by it
        deadline   when to give up, on the clock of this object

        TooBusy at the deadline, at once when the wait would be longer, and where too many wait:
        then for the last of the caller that most of them are of.
        """
        now = self._clock()
        door = self._open(place, keys, settings, start, now)
        if settings.limit == "off":
            return Permit(door, door.gate.enter_anyway(now), 0.0)
        grant = door.gate.enter(now, caller)
        if grant is None:
            return await door.wait(caller, since, deadline, now, settings.queue)
        return Permit(door, grant, 0.0)

    def try_admit(
        self,
        place: Place,
        keys: Sequence[str],
        settings: Settings,
        start: int | None,
        caller: str,
        *,
        spare: bool,
    ) -> Permit | None:
        """A permit without waiting, for an attempt that could be left out; None while somebody
        waits, or none is free. `spare`: also None when a tenth of the limit, or one place if that
        is more, would not stay free beside it."""
        now = self._clock()
        door = self._open(place, keys, settings, start, now)
        if settings.limit == "off":
            return Permit(door, door.gate.enter_anyway(now), 0.0)
        grant = door.gate.enter_spare(now, caller, spare=spare)
        return Permit(door, grant, 0.0) if grant is not None else None

    def predicted_wait(self, place: Place, now: float) -> float:
        """Seconds that a new caller's request would wait; 0 also where nothing is known."""
        door = self._doors.get(place)
        return door.gate.predicted_wait(now) if door is not None else 0.0

    def rest(self, place: Place, key: str, until: float) -> None:
        """Leave a key alone until then. While all rest, the one that returns first is used."""
        door = self._doors.get(place)
        if door is not None:
            door.gate.rest(key, until)
            door.serve()

    def has_other_key(self, place: Place, key: str) -> bool:
        """Whether another key of the place could take over from this one now."""
        door = self._doors.get(place)
        return door is not None and door.gate.has_other_key(key, self._clock())

    def forget(self, endpoints: Collection[str]) -> None:
        """What was learned there is not true any more. Who runs or waits there is not moved."""
        for place in [one for one in self._doors if one.endpoint in endpoints]:
            del self._doors[place]

    def is_alone(self, place: Place) -> bool:
        """Whether at most one request of ours runs there, and nobody waits."""
        door = self._doors.get(place)
        return door is None or (door.gate.in_flight <= 1 and not door.gate.waiting)

    def figures(self) -> dict[tuple[str, str], Figures]:
        """By endpoint and model: those who wait and run, the limits, the keys that rest."""
        now = self._clock()
        sums: dict[tuple[str, str], Figures] = {}
        for place, door in self._doors.items():
            name = (place.endpoint, place.model)
            more, sofar = door.gate.figures(now), sums.get(name, Figures(0, 0, 0, 0))
            sums[name] = Figures(*(a + b for a, b in zip(sofar, more, strict=True)))
        return sums

    # --- other processes -------------------------------------------------------------------

    def learned(self) -> list[Limited]:
        """The limits that were learned."""
        return [
            Limited(place, key, limit)
            for place, door in self._doors.items()
            for key, limit in door.gate.learned().items()
        ]

    def lend(self, limits: Iterable[Limited]) -> None:
        """Limits that others have learned: where a place is used for the first time, it begins with
        them."""
        self._lent = {}
        for place, key, limit in limits:
            self._lent.setdefault(place, {})[key] = limit
        now = self._clock()
        for place, lent in self._lent.items():
            if (door := self._doors.get(place)) is not None:
                door.gate.lend(lent, now)

    # --- the places ------------------------------------------------------------------------

    def _open(
        self, place: Place, keys: Sequence[str], settings: Settings, start: int | None, now: float
    ) -> _Door:
        door = self._doors.get(place)
        if door is None:
            if now >= self._swept + (SWEPT_EVERY if self._has_room() else SWEPT_FULL):
                self._sweep(now)
            door = _Door(Gate(now), self._clock)
            if self._has_room():  # else too many are busy: this one has no limit, and learns none
                self._doors[place] = door
            door.gate.use(keys, most_of(settings, start), now)
            door.gate.lend(self._lent.get(place, {}), now)
        else:
            door.gate.use(keys, most_of(settings, start), now)
        return door

    def _has_room(self) -> bool:
        return len(self._doors) < MOST_PLACES

    def _sweep(self, now: float) -> None:
        """Forget places long unused; when there are too many, also half of those now idle."""
        self._swept = now
        for place in [p for p, door in self._doors.items() if door.gate.is_forgotten(now)]:
            del self._doors[place]
        if not self._has_room():
            idle = [p for p, door in self._doors.items() if door.gate.is_idle()]
            idle.sort(key=lambda place: self._doors[place].gate.used)
            for place in idle[: -(-len(idle) // 2)]:
                del self._doors[place]


class _Door:
    """A gate, and the futures of those who wait before it."""

    def __init__(self, gate: Gate, clock: Callable[[], float]) -> None:
        self.gate = gate
        self._clock = clock
        self._waiting: dict[Ticket, asyncio.Future[Grant]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def wait(
        self, caller: str, since: float, deadline: float, now: float, most: int
    ) -> Permit:
        """Raises TooBusy; `most` may wait at once."""
        expected = self.gate.expected_wait(caller, since, now) or 0.0
        if now >= deadline or expected > deadline - now:
            raise self._too_busy(now, expected)
        if self.gate.waiting >= most:
            self._make_room(caller, now)
        loop = asyncio.get_running_loop()
        ticket = self.gate.join(caller, since)
        future = self._waiting[ticket] = loop.create_future()
        timer = loop.call_later(deadline - now, self._give_up, ticket)
        try:
            self.serve()
            grant = await future
            return Permit(self, grant, self._clock() - now)
        except BaseException:
            self._leave(ticket)
            raise
        finally:
            del self._waiting[ticket]
            timer.cancel()

    def _make_room(self, caller: str, now: float) -> None:
        """Raises TooBusy where the caller itself is the one too many."""
        out = self.gate.crowded_out(caller)
        if out is None:
            raise self._too_busy(now, self.gate.predicted_wait(now))
        self._give_up(out)

    def release(self, grant: Grant, ending: Ending) -> None:
        self.gate.release(grant, ending, self._clock())
        if self._waiting:
            self.serve()

    def serve(self) -> None:
        """Wake all who may go now, and come back when time alone can let another go."""
        now = self._clock()
        while served := self.gate.serve(now):
            for ticket in served:
                self._wake(ticket, now)
        self._plan(now)

    def _wake(self, ticket: Ticket, now: float) -> None:
        future = self._waiting[ticket]
        if future.done():  # it was cancelled in this turn of the loop: on to the next one
            self.gate.leave(ticket, now)
        else:
            assert ticket.grant is not None
            future.set_result(ticket.grant)

    def _leave(self, ticket: Ticket) -> None:
        self.gate.leave(ticket, self._clock())
        self.serve()

    def _give_up(self, ticket: Ticket) -> None:
        future = self._waiting[ticket]
        if not future.done():
            now = self._clock()
            self.gate.leave(ticket, now)
            future.set_exception(self._too_busy(now, self.gate.predicted_wait(now)))

    def _too_busy(self, now: float, wait: float) -> TooBusy:
        figures = self.gate.figures(now)
        return TooBusy(
            f"the in-flight limit of this key and model is reached: {figures.in_flight} requests"
            f" run, {figures.waiting} wait",
            retry_after=max(1.0, float(ceil(wait))),
        )

    def _plan(self, now: float) -> None:
        when = self.gate.look_again(now)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when is not None:
            delay = max(SHORTEST_TIMER, when - now)
            self._timer = asyncio.get_running_loop().call_later(delay, self._due)

    def _due(self) -> None:
        self._timer = None
        self.serve()
