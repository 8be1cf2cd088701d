"""Which connection takes the next request, how many more to open, and which to let go.

Every decision is made over a snapshot of one pool; `proxy.net.pool` takes it and acts. Times are
seconds on one monotonic clock; a `roll` is a random number from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from proxy.config import PoolSettings

FIRST_BACKOFF = 0.1
LONGEST_BACKOFF = 10.0
SETTLING_TIME = 1.0
"""Seconds after which a connection that never had a request counts as a good one."""
STREAMS_BEFORE_SETTINGS = 1
"""On the very first connection; more could be over the peer's limit. Later ones are expected to
allow what the last one did."""


class Seen(NamedTuple):
    """One connection as it stands."""

    streams: int
    capacity: int
    """How many more the peer allows now; a guess while `known` is false."""
    known: bool
    """The peer's SETTINGS have come."""
    accepting: bool
    """It takes new streams: neither draining nor closed."""
    expires: float
    """When it is to be replaced."""
    used: float
    """When it last took or ended a stream."""


class Share(NamedTuple):
    """How many streams a connection is to carry."""

    target: int
    """Streams on one connection before another is opened."""
    peer_limit: int | None
    """Streams the peer allowed at once on the latest connection; None: not known."""

    @property
    def of_a_new_one(self) -> int:
        """What a connection that is not open yet will take."""
        return self.target if self.peer_limit is None else min(self.target, self.peer_limit)

    def free(self, connection: Seen) -> int:
        """How many more streams may be opened on it now."""
        if not connection.accepting:
            return 0
        allowed = self.target
        if not connection.known:
            limit = STREAMS_BEFORE_SETTINGS if self.peer_limit is None else self.peer_limit
            allowed = min(allowed, limit)
        return max(0, min(allowed - connection.streams, connection.capacity))

    def expected(self, connection: Seen) -> int:
        """How many more it will take once its SETTINGS have come."""
        if connection.known or not connection.accepting:
            return self.free(connection)
        return max(0, self.of_a_new_one - connection.streams)


class Snapshot(NamedTuple):
    """One pool as it stands."""

    now: float
    connections: tuple[Seen, ...]
    opening: int
    """Connections being opened, counted from before their task runs."""
    waiting: int
    """Requests without a connection, with those already promised a stream."""
    untried: bool
    """A request waits that came after the last failed attempt to connect."""
    failures: int
    """Failed attempts since the last good connection."""
    retry_at: float
    """No attempt before this is made only to keep connections warm."""
    warm: int
    """Connections to keep open without any request."""
    share: Share
    retest_at: float | None = None
    """The peer speaks HTTP/1.1: when to look again. None: it speaks HTTP/2, or is not known."""


class Retirement(NamedTuple):
    """A connection to let go: no new streams, closed when the last one ends."""

    which: int
    """Its index in the snapshot."""
    reason: str


class Plan(NamedTuple):
    """What to do now."""

    open: int
    retire: tuple[Retirement, ...]
    look_again: float | None
    """When time alone could change the plan; None: only an event can."""


def pick(connections: Sequence[Seen], share: Share, now: float, promised: int = 0) -> int | None:
    """The index of the least loaded connection with a free stream, expired ones last.

    None when there is none, or when all free streams are promised to requests that came before.
    """
    best: int | None = None
    best_rank = (True, 0)
    free = 0
    for index, connection in enumerate(connections):
        room = share.free(connection)
        if not room:
            continue
        free += room
        rank = (now >= connection.expires, connection.streams)
        if best is None or rank < best_rank:
            best, best_rank = index, rank
    return best if free > promised else None


def plan(pool: Snapshot, settings: PoolSettings) -> Plan:
    """How many connections to open, which to retire, and when to ask again."""
    young: list[int] = []
    expired: list[int] = []
    for index, connection in enumerate(pool.connections):
        if connection.accepting:
            (young if pool.now < connection.expires else expired).append(index)
    keep = _worth_keeping(pool, settings)
    missing = _missing(pool, keep, len(young), settings)
    idle = _idle(pool, young, settings)
    replaced = max(0, len(young) + len(expired) - keep)
    retire = [Retirement(index, "max_age") for index in _by_age(pool, expired)[:replaced]]
    retire += [
        Retirement(index, "idle")
        for index in idle
        if pool.now >= pool.connections[index].used + settings.idle_timeout
    ]
    return Plan(
        _to_open(pool, missing), tuple(retire), _look_again(pool, young, idle, missing, settings)
    )


def backoff(failures: int, roll: float) -> float:
    """Seconds to the next attempt after `failures` in a row: doubled each time, and jittered
    down to a half so that many proxies do not come back as one."""
    longest: float = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2 ** min(failures - 1, 16))
    return longest * (0.5 + roll / 2)


def lifetime(max_age: float, roll: float) -> float:
    """Seconds until a new connection is replaced: before `max_age`, and not all at one moment."""
    return max_age * (0.8 + roll / 5)


def has_settled(known: bool, requests: int, age: float) -> bool:
    """Whether a connection has shown that the peer means it.

    One that is dropped before counts as a failed attempt; otherwise a peer that accepts and
    closes would be called again and again without a pause.
    """
    return known and (requests > 0 or age >= SETTLING_TIME)


def _worth_keeping(pool: Snapshot, settings: PoolSettings) -> int:
    """How many accepting connections today's streams are worth, those on draining ones too: a
    connection that leaves is replaced before its load comes back as new requests."""
    share = pool.share.of_a_new_one
    load = pool.waiting + sum(connection.streams for connection in pool.connections)
    today = len(pool.connections)
    needed = min(today, -(-load // share)) if share else today
    return min(settings.max_connections, max(pool.warm, needed))


def _missing(pool: Snapshot, keep: int, young: int, settings: PoolSettings) -> int:
    """Connections that should be opened, were every attempt a success."""
    if pool.retest_at is not None:
        return int(pool.now >= pool.retest_at) - pool.opening
    missing = max(_unserved(pool), keep - young) - pool.opening
    # Expired connections are on their way out and do not stand in the way of their successors.
    return min(missing, settings.max_connections - young - pool.opening)


def _unserved(pool: Snapshot) -> int:
    """Connections needed for the requests that no open one has a stream for."""
    share = pool.share.of_a_new_one
    unserved = pool.waiting - sum(map(pool.share.expected, pool.connections))
    return -(-unserved // share) if unserved > 0 and share else 0


def _to_open(pool: Snapshot, missing: int) -> int:
    if missing <= 0:
        return 0
    if not pool.failures:
        return missing
    # While the peer fails, one attempt at a time: for a new request now, otherwise when due.
    if pool.opening:
        return 0
    return int(pool.untried or pool.now >= pool.retry_at)


def _by_age(pool: Snapshot, indexes: list[int]) -> list[int]:
    return sorted(indexes, key=lambda index: pool.connections[index].expires)


def _idle(pool: Snapshot, young: list[int], settings: PoolSettings) -> list[int]:
    """The idle connections above those worth keeping, the longest idle first."""
    idle = [index for index in young if not pool.connections[index].streams]
    idle.sort(key=lambda index: pool.connections[index].used)
    return idle[: max(0, len(idle) - max(pool.warm, settings.max_idle_per_host))]


def _look_again(
    pool: Snapshot, young: list[int], idle: list[int], missing: int, settings: PoolSettings
) -> float | None:
    times = [pool.connections[index].expires for index in young]
    times += [pool.connections[index].used + settings.idle_timeout for index in idle]
    if missing > 0 and pool.failures:
        times.append(pool.retry_at)
    if pool.retest_at is not None:
        times.append(pool.retest_at)
    return min((time for time in times if time > pool.now), default=None)
