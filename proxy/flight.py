"""Answers that are not one client's alone: identical requests share one, and clients may leave.

The first of identical requests makes a flight, which asks the upstream; it and all that come while
the flight lasts have a seat, and read the answer from its start. A flight ends when its answer
does, or when nobody is left. Answers are not cached: who comes afterwards makes a flight anew.

Where a route says what becomes of an answer whose client leaves (`on_disconnect`), each request has
a flight, one of its own if it does not share. When the last seat is left the flight goes on: it is
read for the usage alone, for a limited time; or kept (`proxy.net.keeping`), if its client was told
where it can be fetched. The exchange that left it is over when the flight is.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Final, NamedTuple

from proxy.asked import Asked
from proxy.config import OnDisconnect, Timeouts
from proxy.core.policy.cache import with_meaning
from proxy.core.policy.route import Route
from proxy.core.policy.scope import scope_of
from proxy.core.wire import headers as policy
from proxy.core.wire.answers import error_message, masked
from proxy.core.wire.event_ids import STREAM, Write, are_numbered, numbered
from proxy.core.wire.request import ChatRequest
from proxy.core.wire.target import Target
from proxy.errors import InternalError, ProxyError, UpstreamSaid
from proxy.facts import Facts
from proxy.house import LARGEST_ANSWER, House
from proxy.lane import Lane
from proxy.net.broadcast import Broadcast, Errand, Reader
from proxy.net.halves import HTTP, Client, Headers
from proxy.net.keeping import Whose
from proxy.pursuit import Pursuit

_CANCEL: Final = OnDisconnect("cancel")
_RESPONSES: Final = "/v1/responses"


class Key(NamedTuple):
    """What identical requests have in common."""

    caller: str
    """A fingerprint of the caller's key, or the caller's address."""
    route: str
    model: str
    """Of its first candidate: the operator may have switched it since."""
    target: Target
    timeouts: Timeouts
    leaving: OnDisconnect
    headers: tuple[tuple[str, str], ...]
    body: bytes
    """Its BLAKE2 hash (RFC 7693)."""


class Flight:
    """One upstream answer for all who have a seat."""

    def __init__(
        self,
        house: House,
        key: Key | None,
        route: Route,
        request: ChatRequest,
        asked: Asked,
        leaving: OnDisconnect,
        kept: Whose | None,
    ) -> None:
        """Asks at once; with a key, it is in the house's table from then on. `leaving`: what
        becomes of it when the last seat is left. `kept`: it is, for them. Raises NoCandidate."""
        self.pursuit = Pursuit(house, route, request, asked)
        self.ring = ring = None if kept is None else house.keeper.keep(kept)
        self.broadcast = _broadcast(route) if ring is None else ring
        self.lane: Lane | None = None
        """The one that has something to say, when there is one."""
        self.seats = 0
        self.is_abandoned = False
        self._house = house
        self._key = key
        self._id = asked.id
        self._leaving = leaving
        self._streams = asked.wants_stream
        self._has_landed = self._is_given_up = False
        self._left: Callable[[str], None] | None = None
        """Ends the exchange that accounts for it, of the client that left."""
        self._is_accounted = False
        if key is not None:
            house.flights[key] = self
        if ring is not None:
            ring.on_drop = self._forgotten
        self._errand = Errand(self._fly())

    async def _fly(self) -> None:
        error: ProxyError | None = None
        try:
            lane = await self.pursuit.first_answer()
            attempt = lane.attempt
            assert attempt is not None
            self.lane = lane
            if attempt.is_stream:
                broadcast = self.broadcast
                broadcast.begin(attempt.timeline)
                broadcast.on_flow = attempt.flow
                client = broadcast if self._streams else None
                error = await attempt.stream_into(broadcast.write, client)
            elif self.ring is not None:
                error = _said(self._house, lane)
        except ProxyError as failure:
            error = failure
        except Exception:  # a defect of ours must not leave those who wait without an answer
            self._house.broke(self._id)
            error = InternalError(f"the proxy failed; its log says why under {self._id}")
        finally:
            try:
                self.land()
            finally:
                self.broadcast.finish(error)

    def land(self) -> None:
        """Nobody joins any more, and everything is given back to the house. Idempotent."""
        self._has_landed = True
        if self._key is not None and self._house.flights.get(self._key) is self:
            del self._house.flights[self._key]
        self._errand.lift()
        self.pursuit.finish()
        left, self._left = self._left, None
        if left is not None:
            left("gave_up" if self._is_given_up else self._became)

    def abandon(self) -> None:
        """Nobody is left: the upstream is told in this very moment, if it has not finished."""
        self.is_abandoned = self.is_abandoned or not self._has_landed
        self.land()
        self._errand.cancel()
        ring = self.ring
        if ring is not None and not ring.is_told:
            self._house.keeper.drop(ring)

    def interrupt(self, error: ProxyError) -> None:
        """End it for `error`."""
        self._is_given_up = True
        self.pursuit.interrupt(error)

    # --- its clients -------------------------------------------------------------------------

    def joined(self) -> None:
        """Somebody has a seat: also in one that was left, and whose time runs."""
        self.seats += 1
        self._errand.lift()

    def left(self) -> bool:
        """A seat is left. Whether whoever had it accounts for the flight: the last one does, but
        where it goes on for one who left before."""
        self.seats -= 1
        if self.seats:
            return False
        if self._left is not None:
            self._run_out()
            return False
        self.abandon()
        accounts, self._is_accounted = not self._is_accounted, True
        return accounts

    def go_on(self, left: Callable[[str], None]) -> bool:
        """Whether it goes on when its only seat is left; then it is left by this, and `left` is
        called when it has landed, with what became of it."""
        if self.seats != 1 or self._is_accounted or not self._is_worth_it():
            return False
        self._left, self._is_accounted = left, True
        self.seats = 0
        self._run_out()
        return True

    def _is_worth_it(self) -> bool:
        """Whether there is something in it for nobody: what was asked for is billed, and a stream
        whose id is known can be fetched."""
        if self._has_landed or self._leaving.action == "cancel":
            return False
        if self.ring is not None:
            return self.ring.is_told
        asked = (lane.attempt for lane in self.pursuit.lanes if lane.attempt is not None)
        return any(one.sent is not None and one.closed_at is None for one in asked)

    @property
    def became(self) -> str | None:
        """What becomes of it for a client that has left; None: it was cancelled, as ever."""
        if self.is_abandoned or self._leaving.action == "cancel":
            return None
        return None if self.ring is not None and not self.ring.is_told else self._became

    @property
    def _became(self) -> str:
        return "drained" if self.ring is None else "kept"

    def _run_out(self) -> None:
        """Nobody reads it: from now on its time runs."""
        if self.ring is None and not self._has_landed:
            self._errand.limit(self._leaving.seconds, self._overdue)

    def _overdue(self) -> None:
        self._is_given_up = True
        self.abandon()

    def _forgotten(self) -> None:
        """Its room was needed: this may be in the middle of what another stream brought."""
        self._is_given_up = True
        self._errand.cancel()


def _broadcast(route: Route) -> Broadcast:
    stall = route.stream.client_stall
    if route.share:
        return Broadcast(LARGEST_ANSWER, stall)
    return Broadcast(LARGEST_ANSWER, stall, room=0, holds=True)


def _said(house: House, lane: Lane) -> ProxyError:
    """The upstream's own error, for those who wait for a stream."""
    assert lane.attempt is not None
    assert lane.attempt.head is not None
    body, status = lane.attempt.body, lane.attempt.head.status
    for secret in house.knowledge.secrets(lane.candidate.endpoint):
        body = masked(body, secret)
    message = error_message(body) or f"the upstream answered with status {status}"
    return UpstreamSaid(message, status=UpstreamSaid.status, code=lane.upstream_code)


class Seat:
    """One exchange's place in a flight."""

    __slots__ = ("_flight", "_is_left", "is_first", "reader")

    def __init__(self, flight: Flight, reader: Reader, *, is_first: bool) -> None:
        self._flight = flight
        self._is_left = False
        self.reader = reader
        self.is_first = is_first
        """It made the flight; the others found it under way."""
        flight.joined()

    @property
    def pursuit(self) -> Pursuit:
        return self._flight.pursuit

    @property
    def became(self) -> str | None:
        """What becomes of the answer, for a client that has left: see `Record.left`."""
        return self._flight.became

    async def first_answer(self) -> Lane:
        """As a pursuit's own. Raises ProxyError: the same one for all."""
        flight = self._flight
        await flight.broadcast.begun()
        if flight.lane is not None:
            return flight.lane
        error = flight.broadcast.error
        assert error is not None
        raise error.with_traceback(None)

    def told(self) -> list[tuple[str, str]]:
        """The head of the answer is about to be sent: where the stream can be fetched."""
        ring = self._flight.ring
        if ring is None:
            return []
        ring.is_told = True
        return [(STREAM, ring.id)]

    def writer(self, write: Write, headers: Headers) -> Write:
        """`write`, with ids on the events where this client is to have them."""
        ring = self._flight.ring
        if ring is None or not are_numbered(ring.whose.dialect, headers):
            return write
        return numbered(write, 1)

    def interrupt(self, error: ProxyError) -> None:
        """End the flight for `error`, and this seat wherever it has come to."""
        self._flight.interrupt(error)
        self.reader.stop(error)

    def go_on(self, left: Callable[[str], None]) -> bool:
        """The client left. Whether the flight goes on for this exchange, which is over when `left`
        is called, with what became of the answer."""
        if self._is_left or not self._flight.go_on(left):
            return False
        self._is_left = True
        self._flight.broadcast.leave(self.reader)
        return True

    def leave(self) -> bool:
        """The exchange is over. Whether it accounts for the flight: one of all does."""
        if self._is_left:
            return True
        self._is_left = True
        self._flight.broadcast.leave(self.reader)
        return self._flight.left()


def board(
    house: House, client: Client, facts: Facts, route: Route, request: ChatRequest, asked: Asked
) -> Seat:
    """A seat in the flight of an identical request, or in a new one. Raises NoCandidate.

    The timeline of `facts`, the exchange's own, gets the marks of what comes to it.
    """
    leaving = _leaving(route, asked, client)
    key = _key(route, request, asked, leaving) if route.share and request.stream else None
    flight: Flight | None = None if key is None else house.flights.get(key)
    is_first = flight is None or not flight.broadcast.has_start
    if flight is None or is_first:
        kept = None
        if leaving.action == "keep":
            assert facts.caller is not None
            scope = scope_of(facts.caller, policy.caller_key(asked.headers))
            kept = Whose(scope, route, request.model, asked.dialect.name)
        flight = Flight(house, key, route, request, asked, leaving, kept)
    return Seat(flight, flight.broadcast.join(facts.timeline), is_first=is_first)


def _leaving(route: Route, asked: Asked, client: Client) -> OnDisconnect:
    """What becomes of the answer when its client leaves. On a WebSocket a chat is ended by a word
    of its client's, so it is ended. Only streams are kept, and only those of the two dialects: a
    Response is made of its stream for one client."""
    leaving = route.on_disconnect
    is_response = asked.target.pattern.startswith(_RESPONSES)
    can_be_kept = asked.wants_stream and not is_response
    if client.carrier != HTTP or (leaving.action == "keep" and not can_be_kept):
        return _CANCEL
    return leaving


def _key(route: Route, request: ChatRequest, asked: Asked, leaving: OnDisconnect) -> Key:
    return Key(
        asked.caller,
        route.name,
        route.candidates[0].model,
        asked.target,
        route.timeouts,
        leaving,
        with_meaning(asked.headers),
        blake2b(request.body, digest_size=32).digest(),
    )
