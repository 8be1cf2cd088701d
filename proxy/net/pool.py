"""The connections to one origin: kept warm, grown, replaced, and shared by all requests.

What to do is decided by `proxy.core.policy.pooling`; here it is done. A pool belongs to one event
loop. Whatever changes (a stream ends, SETTINGS or GOAWAY come, a connection opens or breaks, a
timer is due) leads to one `_tend` in the next turn of the loop.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time

import aiohttp

from proxy.config import PoolSettings
from proxy.core.policy import pooling
from proxy.errors import ConnectFailed, ConnectTimeout, PoolExhausted, UpstreamError
from proxy.net.dial import ConnectPhases, Dialer, Origin
from proxy.net.dns import Addresses, Resolve, system_resolve
from proxy.net.h2.connection import Connection, H2Settings
from proxy.net.http1 import new_session
from proxy.net.member import Member, PoolObserver, PoolStats
from proxy.net.tls import H2, HTTP1, client_context, offering
from proxy.net.waiting import WaitingLine

__all__ = [
    "ConnectPhases",
    "Origin",
    "Pool",
    "PoolObserver",
    "PoolStats",
    "client_context",
]


class Pool:
    """Connections to `origin`. Make it anywhere, use it in one event loop, close it there.

    tls        the trust for https (`client_context`); its own ALPN list is not used
    resolver   (host, port) -> addresses; the system's without one
    """

    def __init__(
        self,
        origin: Origin,
        settings: PoolSettings,
        tls: ssl.SSLContext | None,
        *,
        rng: random.Random | None = None,
        resolver: Resolve | None = None,
        observer: PoolObserver | None = None,
    ) -> None:
        if origin.scheme != "https":
            tls = None
        elif tls is None:
            raise ValueError(f"{origin}: https needs a TLS context")
        self.origin = origin
        self.may_use_http1 = settings.http2 != "always"
        self.speaks: str | None = None
        """`h2`, `http/1.1`, or None before the first connection."""
        if settings.http2 == "off" or (settings.http2 == "auto" and tls is None):
            self.speaks = HTTP1
        self._settings = settings
        self._fixed_http1 = self.speaks == HTTP1
        self._random = rng or random.Random()
        self._observer = observer
        self._addresses = Addresses(resolver or system_resolve)
        self._h1_tls = None if tls is None else offering(tls, HTTP1)
        offered = (H2, HTTP1) if self.may_use_http1 else (H2,)
        h2_tls = None if tls is None else offering(tls, *offered)
        self._dialer = Dialer(origin, h2_tls, self._addresses, settings)
        self._h2 = H2Settings(
            ping_interval=settings.ping_interval, ping_timeout=settings.ping_timeout
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: aiohttp.ClientSession | None = None
        self._warm = 0
        self._closed = False
        self._members: list[Member] = []
        self._opening: set[asyncio.Task[None]] = set()
        self._ending: dict[asyncio.Task[None], Connection] = {}
        self._line = WaitingLine(self._schedule)
        self._failures = 0
        self._http1_failures = 0
        self._retry_at = 0.0
        self._retest_at = 0.0
        self._tcp: float | None = None
        self._share = pooling.Share(settings.streams_per_connection, peer_limit=None)
        self._due: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None

    # --- for everybody ---------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to keep `warm_connections` open. An upstream that is down is called again, later
        and later; it is no failure here."""
        self._bind()
        self._warm = self._settings.warm_connections
        self._schedule()

    def rest(self) -> None:
        """Keep nothing open that nobody uses, until it is started again."""
        self._warm = 0
        if self._loop is not None:
            self._schedule()

    async def acquire(self, deadline: float | None) -> Connection | None:
        """A connection with a free stream; None: send over `http1`.

        `deadline` is a `time.monotonic()` value; `acquire_timeout` limits the wait in any case.
        Call `request()` on the connection before the next `await`, and await `acquire` itself, not
        a task around it: until then nobody else can take the stream.
        Raises ConnectFailed, ConnectTimeout, PoolExhausted.
        """
        self._bind()
        if self._closed:
            raise PoolExhausted(f"{self.origin}: the pool is closed")
        if not self._line and (connection := self._take()) is not None:
            return connection
        limit = time.monotonic() + self._settings.acquire_timeout
        limit = limit if deadline is None else min(limit, deadline)
        again = False
        while self.speaks != HTTP1:
            await self._line.wait(limit, self._too_late, again=again)
            again = True
            if (connection := self._take()) is not None:
                return connection
        return None

    @property
    def http1(self) -> aiohttp.ClientSession:
        """The session for HTTP/1.1, made at first use and closed with the pool.

        Raises PoolExhausted when the pool is closed.
        """
        self._bind()
        if self._closed:
            raise PoolExhausted(f"{self.origin}: the pool is closed")
        if self._session is None:
            self._session = new_session(
                self._settings,
                self._h1_tls,
                self._addresses,
                connected=self._http1_connected,
                failed=self._http1_failed,
            )
        return self._session

    def stats(self) -> PoolStats:
        """How the pool stands now."""
        return PoolStats.of(
            self._members,
            speaks=self.speaks,
            opening=len(self._opening),
            waiting=len(self._line) + self._line.promised,
            failures=self._http1_failures if self.speaks == HTTP1 else self._failures,
        )

    @property
    def round_trip(self) -> float | None:
        """Seconds to the peer and back: the least that a PING of an open connection took, else
        what the latest connection took by TCP; None before the first."""
        rtts = [member.connection.rtt for member in self._members]
        return min((rtt for rtt in rtts if rtt is not None), default=self._tcp)

    async def close(self) -> None:
        """Break every connection, end every task and every wait. May be called again."""
        self._closed = True
        for handle in (self._due, self._timer):
            if handle is not None:
                handle.cancel()
        self._line.fail(PoolExhausted(f"{self.origin}: the pool is closed"))
        opening = tuple(self._opening)
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        for member in self._members:
            member.connection.abort()
            self._let_end(member)
        self._members = []
        for connection in self._ending.values():
            connection.abort()
        await asyncio.gather(*self._ending)
        if self._session is not None:
            await self._session.close()

    # --- requests --------------------------------------------------------------------------

    def _bind(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError(f"the pool of {self.origin} belongs to another event loop")

    def _take(self) -> Connection | None:
        """The best connection with a stream that is promised to nobody else."""
        now = time.monotonic()
        seen = [member.seen(now) for member in self._members]
        which = pooling.pick(seen, self._share, now, self._line.promised)
        return None if which is None else self._members[which].connection

    def _too_late(self) -> UpstreamError:
        stats = self.stats()
        if stats.opening and not stats.connections:
            return ConnectTimeout(f"{self.origin}: no connection in time")
        return PoolExhausted(
            f"{self.origin}: no free stream in time; {stats.streams} are open on"
            f" {stats.connections} connections (pool.max_connections, streams_per_connection)"
        )

    # --- connections -----------------------------------------------------------------------

    def _schedule(self) -> None:
        if self._due is None and not self._closed and not self._fixed_http1:
            assert self._loop is not None
            self._due = self._loop.call_soon(self._tend)

    def _changed(self, _: Connection) -> None:
        self._schedule()

    def _tend(self) -> None:
        """Look at everything once, and do what the plan says."""
        self._due = None
        now = time.monotonic()
        self._sweep(now)
        seen = tuple(member.seen(now) for member in self._members)
        free = sum(map(self._share.free, seen)) - self._line.promised
        # Over HTTP/1.1 nobody needs a stream of ours.
        self._line.promise(len(self._line) if self.speaks == HTTP1 else free)
        plan = pooling.plan(self._snapshot(now, seen), self._settings)
        for which, reason in plan.retire:
            self._members[which].left = reason
            self._members[which].connection.drain()
        for _ in range(plan.open):
            self._spawn()
        self._look_again(now, plan.look_again)

    def _snapshot(self, now: float, seen: tuple[pooling.Seen, ...]) -> pooling.Snapshot:
        http1 = self.speaks == HTTP1
        return pooling.Snapshot(
            now=now,
            connections=seen,
            opening=len(self._opening),
            waiting=len(self._line) + self._line.promised,
            untried=self._line.untried and bool(self._line),
            failures=self._failures,
            retry_at=self._retry_at,
            warm=0 if http1 else self._warm,
            share=self._share,
            retest_at=self._retest_at if http1 else None,
        )

    def _look_again(self, now: float, when: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if when is not None:
            assert self._loop is not None
            self._timer = self._loop.call_later(when - now, self._schedule)

    def _sweep(self, now: float) -> None:
        """Note what connections have become, and drop those that are closed."""
        for member in self._members:
            self._note(member, now)
        closed = [member for member in self._members if member.connection.closed]
        self._members = [member for member in self._members if member not in closed]
        for member in closed:
            self._let_end(member)

    def _note(self, member: Member, now: float) -> None:
        connection = member.connection
        if not member.settled and pooling.has_settled(
            connection.settings_seen, connection.requests, now - member.opened
        ):
            member.settled = True
            self._failures = 0
        if member.accepting:
            if connection.settings_seen:
                limit = connection.engine.streams.peer_limit
                self._share = self._share._replace(peer_limit=limit)
        elif member.left is None:
            member.left = "goaway" if connection.draining else "lost"
            if not member.settled:
                self._failed(ConnectFailed(f"{self.origin}: it closed a new connection"))

    def _let_end(self, member: Member) -> None:
        """It is of no more use; its socket may take a moment to close."""
        assert self._loop is not None
        task = self._loop.create_task(self._end(member))
        self._ending[task] = member.connection
        task.add_done_callback(self._ending.pop)

    async def _end(self, member: Member) -> None:
        await member.connection.wait_closed()
        if self._observer is not None:
            age = time.monotonic() - member.opened
            self._observer.closed(member.left or "pool_closed", age)

    def _spawn(self) -> None:
        assert self._loop is not None
        self._opening.add(self._loop.create_task(self._open()))

    async def _open(self) -> None:
        """One attempt to connect; counted in `_opening` from before it runs until it is over."""
        made: Connection | None = None

        def select(alpn: str | None) -> Connection | None:
            nonlocal made
            if alpn == H2 or self.origin.scheme == "http":
                made = Connection(self._h2, self._changed)
            return made

        task = asyncio.current_task()
        assert task is not None
        try:
            try:
                phases = await self._dialer.dial(select)
            finally:
                self._opening.discard(task)
            self._opened(phases, made)
        except ConnectFailed as error:
            self._failed(error)
            if self._observer is not None:
                self._observer.connect_failed(error)
        finally:
            self._schedule()

    def _opened(self, phases: ConnectPhases, connection: Connection | None) -> None:
        if connection is None and not self.may_use_http1:
            raise ConnectFailed(
                f"{self.origin}: it does not speak HTTP/2 (ALPN chose {phases.alpn or 'nothing'})"
                " and pool.http2 is always; set it to auto or off"
            )
        now = time.monotonic()
        self._tcp = phases.tcp
        expires = now + pooling.lifetime(self._settings.max_age, self._random.random())
        if connection is None:
            self.speaks = HTTP1
            self._failures = self._http1_failures = 0
            self._retest_at = expires
        else:
            self.speaks = H2
            phases = phases._replace(alpn=H2)  # by prior knowledge, if not by ALPN
            self._members.append(Member(connection, now, expires))
        if self._observer is not None:
            self._observer.connected(phases)

    def _failed(self, error: ConnectFailed) -> None:
        """Wait longer before the next attempt; tell those who have nothing else to hope for."""
        self._failures += 1
        self._http1_failures += 1
        self._line.untried = False
        pause = pooling.backoff(self._failures, self._random.random())
        self._retry_at = time.monotonic() + pause
        if not self._opening and not any(member.accepting for member in self._members):
            self._line.fail(error)

    # --- HTTP/1.1: aiohttp connects, once for each request that finds no free connection -------

    def _http1_connected(self, phases: ConnectPhases) -> None:
        self._http1_failures = 0
        if self._observer is not None:
            self._observer.connected(phases)

    def _http1_failed(self, error: ConnectFailed) -> None:
        self._http1_failures += 1
        if self._observer is not None:
            self._observer.connect_failed(error)
