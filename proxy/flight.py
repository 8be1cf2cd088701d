"""Coming in together: identical requests that run at the same time share one upstream answer.

The first of them makes a flight, which asks the upstream; it and all that come while the flight
lasts have a seat, and read the answer from its start. A flight ends when its answer does, or when
nobody is left. Answers are not cached: who comes afterwards makes a flight anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Final, NamedTuple

from proxy.asked import Asked
from proxy.config import Timeouts
from proxy.core.flow.timeline import Timeline
from proxy.core.policy.route import Route
from proxy.core.wire.request import ChatRequest
from proxy.core.wire.target import Target
from proxy.errors import InternalError, ProxyError
from proxy.house import LARGEST_ANSWER, House
from proxy.lane import Lane
from proxy.net.broadcast import Broadcast, Errand, Reader
from proxy.pursuit import Pursuit

_MEANING: Final = ("accept-language", "anthropic-")
"""How request headers begin that change what is answered; others only say who asks."""


class Key(NamedTuple):
    """What identical requests have in common."""

    caller: str
    """A fingerprint of the caller's key, or the caller's address."""
    route: str
    model: str
    """Of its first candidate: the operator may have switched it since."""
    target: Target
    timeouts: Timeouts
    headers: tuple[tuple[str, str], ...]
    body: bytes
    """Its BLAKE2 hash (RFC 7693)."""


class Flight:
    """One upstream answer for all who have a seat."""

    def __init__(
        self,
        house: House,
        table: dict[Key, Flight],
        key: Key,
        route: Route,
        request: ChatRequest,
        asked: Asked,
    ) -> None:
        """Asks at once, and is in the table from then on. Raises NoCandidate."""
        self.pursuit = Pursuit(house, route, request, asked)
        self.broadcast = Broadcast(LARGEST_ANSWER, route.stream.client_stall)
        self.lane: Lane | None = None
        """The one that has something to say, when there is one."""
        self._house = house
        self._table = table
        self._key = key
        self._id = asked.id
        table[key] = self
        self._errand = Errand(self._fly())

    async def _fly(self) -> None:
        error: ProxyError | None = None
        try:
            lane = await self.pursuit.first_answer()
            attempt = lane.attempt
            assert attempt is not None
            self.lane = lane
            if attempt.is_stream:
                self.broadcast.begin(attempt.timeline)
                error = await attempt.stream_into(self.broadcast.write, self.broadcast)
        except ProxyError as failure:
            error = failure
        except Exception:  # a defect of ours must not leave those who wait without an answer
            self._house.broke(self._id)
            error = InternalError(f"the proxy failed; its log says why under {self._id}")
        finally:
            self.land()
            self.broadcast.finish(error)

    def land(self) -> None:
        """Nobody joins any more, and everything is given back to the house. Idempotent."""
        if self._table.get(self._key) is self:
            del self._table[self._key]
        self.pursuit.finish()

    def abandon(self) -> None:
        """Nobody is left: the upstream is told in this very moment, if it has not finished."""
        self.land()
        self._errand.cancel()


class Seat:
    """One exchange's place in a flight."""

    __slots__ = ("_flight", "is_first", "reader")

    def __init__(self, flight: Flight, reader: Reader, *, is_first: bool) -> None:
        self._flight = flight
        self.reader = reader
        self.is_first = is_first
        """It made the flight; the others found it under way."""

    @property
    def pursuit(self) -> Pursuit:
        return self._flight.pursuit

    async def first_answer(self) -> Lane:
        """As a pursuit's own. Raises ProxyError: the same one for all."""
        flight = self._flight
        await flight.broadcast.begun()
        if flight.lane is not None:
            return flight.lane
        error = flight.broadcast.error
        assert error is not None
        raise error.with_traceback(None)

    def interrupt(self, error: ProxyError) -> None:
        """End the flight for `error`, and this seat wherever it has come to."""
        self._flight.pursuit.interrupt(error)
        self.reader.stop(error)

    def leave(self) -> bool:
        """The exchange is over. Whether nobody is left, so that it accounts for the flight."""
        is_last = self._flight.broadcast.leave(self.reader)
        if is_last:
            self._flight.abandon()
        return is_last


def board(
    house: House, route: Route, request: ChatRequest, asked: Asked, timeline: Timeline
) -> Seat:
    """A seat in the flight of an identical request, or in a new one. Raises NoCandidate.

    `timeline` is the exchange's own; it gets the marks of what comes to it.
    """
    table = house.flights
    key = Key(
        asked.caller,
        route.name,
        route.candidates[0].model,
        asked.target,
        route.timeouts,
        _with_meaning(asked.headers),
        blake2b(request.body, digest_size=32).digest(),
    )
    flight = table.get(key)
    is_first = flight is None or not flight.broadcast.has_start
    if flight is None or is_first:
        flight = Flight(house, table, key, route, request, asked)
    return Seat(flight, flight.broadcast.join(timeline), is_first=is_first)


def _with_meaning(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    lower = ((name.lower(), value) for name, value in headers)
    return tuple(sorted(pair for pair in lower if pair[0].startswith(_MEANING)))
