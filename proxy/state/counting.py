"""Counting together: in a place that several processes share, and alone while it is out of reach.

A request waits for the common count no longer than the settings say, and after the first that
waited in vain nobody waits: decisions are this process's own until the common count has answered a
probe in time. Everything that need not be known at once (how a request ended, that a place is
still held) goes there in the background.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from proxy.config import Allowance
from proxy.core.policy.limits import LEASE, Meter, Taken, Want
from proxy.state.home import StateError
from proxy.state.owed import Ledger, Owed
from proxy.state.reach import Reach

T = TypeVar("T")

BEAT: Final = 2.0
"""Seconds between two signs of life."""
ALIVE: Final = 8.0
"""Seconds after its last sign of life for which a process counts as alive."""
MOST_TEACHERS: Final = 32
"""Processes of which one listens to what they have learned."""
_RENEW: Final = LEASE / 3
"""Seconds between two renewals of the places that are held."""
_FIRST_PROBE: Final = 0.25
_LAST_PROBE: Final = 2.0
"""Seconds between two probes of a place that is out of reach; they double."""
_UNSTEADY: Final = 10.0
"""Seconds: what is lost again within them is probed as if it had not returned."""
_REACHING: Final = 1.0
"""Seconds for a connection to be made, off the path of any request."""
_HELD_UP: Final = 0.01
"""Seconds that an answer gets when it was this process that had no time to read it."""
_MOST_WAITING: Final = 10_000
"""Ends of requests that wait to be told. Further ones are dropped: places end by themselves."""
_AT_ONCE: Final = 200
"""Ends that are told together."""


class Settlement(NamedTuple):
    """A request that is over."""

    wants: tuple[Want, ...]
    lease: str
    tokens: int | None
    """None: only its places, since what it took is counted elsewhere or was told before."""


class Held(NamedTuple):
    """A request that runs."""

    lease: str
    wants: tuple[Want, ...]


class Common(Protocol):
    """The count that several processes share. Everything raises StateError."""

    async def reach(self) -> None:
        """Make it usable again; where it is, do nothing."""

    async def take(self, wants: Sequence[Want], lease: str) -> Taken: ...

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Places of leases that have ended are free; twice is once."""

    async def renew(self, held: Collection[Held], *, again: bool) -> None:
        """These still run. `again`: also where their places have ended or were lost."""

    async def add(self, owed: Sequence[Owed]) -> None:
        """Count what was let in elsewhere."""

    async def beat(self) -> int:
        """A sign of life that changes something, and how many processes gave one lately."""

    async def leave(self) -> None:
        """The last sign of life."""


class Counting:
    """From `start` to `stop`; in one event loop."""

    def __init__(
        self,
        common: Common,
        reach: Reach,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`timeout`: the longest that a request waits for the common count, in seconds."""
        self._common = common
        self._reach = reach
        self._timeout = timeout
        self._clock = clock
        self._wall = wall
        self._own = Meter()
        """All that this process let in: what it decides by when it is alone."""
        self._held: dict[str, tuple[Want, ...]] = {}
        self._alone: dict[str, bool] = {}
        """Leases that were given alone, and whether the common count may have counted them too."""
        self._catching_up = False
        self._ledger = Ledger()
        self._waiting: deque[Settlement] = deque()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Never raises: what is out of reach is tried again."""
        await self._try_to_return("open")
        self._task = asyncio.create_task(self._tend())

    async def stop(self) -> None:
        """Tell what is still to be told, if that is possible soon."""
        if self._task is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        if self._reach.up:
            with contextlib.suppress(StateError):
                await self._flush()
                await self._quickly(self._common.leave())

    # --- on the path of a request --------------------------------------------------------------

    async def take(self, wants: Sequence[Want], lease: str) -> Taken:
        """As `Home.take`: never fails."""
        wants = tuple(wants)
        if not self._reach.up:
            return self._decide(wants, lease, unsure=False)
        began = self._clock()
        try:
            taken = await self._in_time(wants, lease)
        except StateError as error:
            self._reach.lost("take", error)
            self._news.set()
            return self._decide(wants, lease, unsure=True)
        except asyncio.CancelledError:
            # It may have been counted, and nobody will settle it.
            self._tell(Settlement(wants, lease, 0))
            raise
        self._reach.observer.took(self._clock() - began)
        if taken.refused is None:
            self._held[lease] = wants
            self._own.take(wants, lease, self._clock(), self._wall())
        return taken

    def settle(self, wants: Sequence[Want], lease: str, tokens: int) -> None:
        """As `Home.settle`."""
        wants, wall = tuple(wants), self._wall()
        self._own.settle(wants, lease, tokens, self._clock(), wall)
        if self._held.pop(lease, None) is None:
            return
        unsure = self._alone.pop(lease, None)
        if unsure is None:
            self._tell(Settlement(wants, lease, tokens))
            return
        self._ledger.settled(wants, tokens, self._now(), wall)
        if unsure or self._catching_up:
            self._tell(Settlement(wants, lease, None))

    async def _in_time(self, wants: tuple[Want, ...], lease: str) -> Taken:
        """The common count's answer. Raises StateError, also when it takes too long."""
        asked = asyncio.ensure_future(self._common.take(wants, lease))
        began = self._clock()
        try:
            await asyncio.wait((asked,), timeout=self._timeout)
            if not asked.done() and self._clock() - began > self._timeout + _HELD_UP:
                await asyncio.wait((asked,), timeout=_HELD_UP)
            if asked.done():
                return asked.result()
            raise StateError(
                f"{self._reach.name} did not answer within {self._timeout * 1000:.0f} ms"
            )
        finally:
            asked.cancel()

    def _decide(self, wants: tuple[Want, ...], lease: str, *, unsure: bool) -> Taken:
        """By what this process let in, and its share of the limits."""
        shares = [
            want._replace(allowance=share_of(want.allowance, self._reach.replicas))
            for want in wants
        ]
        taken = self._own.take(shares, lease, self._clock(), self._wall())
        if taken.refused is None:
            self._held[lease] = wants
            self._alone[lease] = unsure
            self._ledger.took(wants, self._now(), self._wall())
        elif unsure:
            self._tell(Settlement(wants, lease, 0))
        return taken

    # --- in the background ---------------------------------------------------------------------

    async def _tend(self) -> None:
        pause = _FIRST_PROBE
        while True:
            if self._reach.up:
                returned = self._clock()
                await self._keep_in_touch()
                if self._clock() - returned > _UNSTEADY:
                    pause = _FIRST_PROBE
            await asyncio.sleep(pause)
            self._own.renew(self._held, self._clock())
            if not await self._try_to_return("probe"):
                pause = min(2 * pause, _LAST_PROBE)

    async def _keep_in_touch(self) -> None:
        """Until the common count is out of reach."""
        renewed = beaten = self._clock()
        while self._reach.up:
            await self._hear(beaten + BEAT - self._clock())
            operation = "settle"
            try:
                await self._flush()
                operation = "renew"
                if self._clock() >= beaten + BEAT:
                    beaten = self._clock()
                    self._own.renew(self._held, beaten)
                    self._reach.replicas = max(1, await self._quickly(self._common.beat()))
                if self._clock() >= renewed + _RENEW:
                    renewed = self._clock()
                    again = self._common.renew(self._running(), again=False)
                    await self._quickly(again, longer=True)
            except StateError as error:
                self._reach.lost(operation, error)

    async def _hear(self, seconds: float) -> None:
        """Wait for something to tell, or for so long."""
        if not self._waiting:
            self._news.clear()
            # Not `wait_for`, which may swallow a cancellation (Python 3.11).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, seconds)):
                    await self._news.wait()

    async def _try_to_return(self, operation: str) -> bool:
        """Whether the common count is in use again, with what it had missed."""
        try:
            async with asyncio.timeout(_REACHING):
                await self._common.reach()
            # A first answer may take long for reasons of its own; the second shows how it will be.
            replicas = await self._quickly(self._common.beat(), longer=True)
            await self._quickly(self._common.beat())
            await self._catch_up()
        except TimeoutError:
            text = f"{self._reach.name} cannot be reached within {_REACHING:g} s"
            self._reach.lost(operation, StateError(text))
            return False
        except StateError as error:
            self._reach.lost(operation, error)
            return False
        self._reach.replicas = max(1, replicas)
        self._reach.returned()
        return True

    async def _catch_up(self) -> None:
        """Tell what was let in meanwhile, and what still runs."""
        alone = tuple(self._alone)
        owed = self._ledger.pay(self._now(), self._wall())
        self._catching_up = True
        try:
            await self._quickly(self._common.add(owed), longer=True)
            await self._quickly(self._common.renew(self._running(), again=True), longer=True)
        finally:
            self._catching_up = False
        for lease in alone:
            self._alone.pop(lease, None)

    async def _flush(self) -> None:
        while self._waiting:
            batch = [self._waiting[i] for i in range(min(_AT_ONCE, len(self._waiting)))]
            for _ in batch:
                self._waiting.popleft()
            try:
                await self._quickly(self._common.settle(batch), longer=True)
            except StateError:
                # Nobody knows whether it was counted: only the places can be told again.
                self._waiting.extendleft(one._replace(tokens=None) for one in batch)
                raise

    async def _quickly(self, told: Coroutine[Any, Any, T], *, longer: bool = False) -> T:
        """Raises StateError, also when it takes longer than a request may wait (`longer`: several
        times as long)."""
        timeout = self._timeout * (10 if longer else 1)
        try:
            async with asyncio.timeout(timeout):
                return await told
        except TimeoutError:
            text = f"{self._reach.name} did not answer within {timeout * 1000:.0f} ms"
            raise StateError(text) from None

    def _tell(self, settlement: Settlement) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._reach.observer.failed("settle")
            return
        self._waiting.append(settlement)
        self._news.set()

    def _running(self) -> list[Held]:
        return [Held(lease, wants) for lease, wants in self._held.items()]

    def _now(self) -> int:
        return round(self._clock() * 1000)


def share_of(allowance: Allowance, replicas: int) -> Allowance:
    """What one of so many processes may let in when none knows of the others: at least one."""
    if replicas <= 1:
        return allowance
    return Allowance(
        **{name: None if limit is None else max(1, limit // replicas) for name, limit in allowance}
    )
