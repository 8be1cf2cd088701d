"""What a pool keeps of each of its connections, and how it tells others of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol, Self

from proxy.core.policy import pooling
from proxy.errors import ConnectFailed
from proxy.net.dial import ConnectPhases
from proxy.net.h2.connection import Connection


class PoolObserver(Protocol):
    """Told what happens to connections; must return at once."""

    def connected(self, phases: ConnectPhases) -> None: ...
    def connect_failed(self, error: ConnectFailed) -> None: ...
    def closed(self, reason: str, age: float) -> None:
        """`reason`: `max_age`, `idle` or `pool_closed` (ours), `goaway` or `lost` (the peer's).

        `age` is in seconds, from open to the socket's end.
        """


class Member:
    """One connection of the pool."""

    __slots__ = ("busy", "connection", "expires", "left", "opened", "settled", "used")

    def __init__(self, connection: Connection, now: float, expires: float) -> None:
        self.connection = connection
        self.opened = now
        self.expires = expires
        self.used = now
        self.busy = (0, 0)
        self.settled = False
        self.left: str | None = None
        """Why it takes no more streams; None: it does."""

    def seen(self, now: float) -> pooling.Seen:
        """As it stands, with `used` brought up to date."""
        connection = self.connection
        streams = connection.open_streams
        busy = (connection.requests, streams)
        if streams or busy != self.busy:
            self.busy, self.used = busy, now
        return pooling.Seen(
            streams,
            connection.capacity,
            connection.settings_seen,
            self.accepting,
            self.expires,
            self.used,
        )

    @property
    def accepting(self) -> bool:
        """It takes new streams."""
        return not (self.connection.draining or self.connection.closed)


class PoolStats(NamedTuple):
    """A pool as gauges show it. Of connections only those of HTTP/2 are counted: aiohttp keeps its
    own to itself. Failures are of what the pool speaks."""

    speaks: str | None
    connections: int
    """Open and accepting new streams."""
    draining: int
    """Open, finishing their last streams."""
    opening: int
    idle: int
    """Accepting, without a stream."""
    streams: int
    """On all connections, draining ones too."""
    waiting: int
    """Requests that wait for a stream."""
    failures: int
    """Failed attempts to connect since the last good connection."""
    rtt: float | None
    """Smallest round trip of the open connections, seconds."""

    @classmethod
    def of(
        cls,
        members: Iterable[Member],
        *,
        speaks: str | None,
        opening: int,
        waiting: int,
        failures: int,
    ) -> Self:
        """Counted over `members`; what they cannot tell is given."""
        alive = [member.connection for member in members if not member.connection.closed]
        accepting = [connection for connection in alive if not connection.draining]
        rtts = [connection.rtt for connection in alive if connection.rtt is not None]
        return cls(
            speaks=speaks,
            connections=len(accepting),
            draining=len(alive) - len(accepting),
            opening=opening,
            idle=sum(not connection.open_streams for connection in accepting),
            streams=sum(connection.open_streams for connection in alive),
            waiting=waiting,
            failures=failures,
            rtt=min(rtts, default=None),
        )
