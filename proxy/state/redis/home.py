"""The home in Redis or Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Final, TypeVar

from proxy.config import State
from proxy.core.policy.access import VirtualKey
from proxy.core.policy.limits import Taken, Want
from proxy.core.policy.switches import Switch
from proxy.state.counting import Counting
from proxy.state.home import Entry, Observer, Registry, StateError
from proxy.state.reach import Reach
from proxy.state.redis.counts import RedisCounts
from proxy.state.redis.link import Link
from proxy.state.redis.registry import RedisRegistry

T = TypeVar("T")

log = logging.getLogger("glm_proxy.state")

_LOOK: Final = 0.5
"""Seconds between two looks for what others have changed."""
_PATIENCE: Final = 1.0
"""Seconds for what no request waits for."""
_TOLD_AFTER: Final = 10.0
"""Seconds for which the registry alone must fail before that is told."""


class RedisHome:
    """Two connections: one is on the path of requests, the other must not hold them up."""

    kind = "redis"

    def __init__(self, state: State) -> None:
        self._counts = counts = RedisCounts(Link(state, state.timeout), state.prefix)
        self._registry = RedisRegistry(Link(state, _PATIENCE), state.prefix)
        self._reach = Reach(counts.link.name)
        self._counting = Counting(counts, self._reach, state.timeout)
        self._watchers: list[Callable[[Registry], None]] = []
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    @property
    def trouble(self) -> str | None:
        return self._reach.trouble

    def tell(self, observer: Observer) -> None:
        self._reach.observer = observer
        observer.reached(self._reach.up)

    def watch(self, changed: Callable[[Registry], None]) -> None:
        self._watchers.append(changed)

    async def open(self) -> Registry:
        await self._counting.start()
        if self._reach.up:
            with contextlib.suppress(StateError):
                await self._refresh()
        self._task = asyncio.create_task(self._follow())
        return self._registry.known

    async def close(self) -> None:
        self._watchers.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None
        await self._counting.stop()
        await self._registry.link.close()
        await self._counts.link.close()

    # --- what is seldom changed ----------------------------------------------------------------

    async def save_key(self, key: VirtualKey, entry: Entry) -> None:
        await self._write(lambda: self._registry.save_key(key, entry))

    async def save_switch(self, switch: Switch, entry: Entry) -> None:
        await self._write(lambda: self._registry.save_switch(switch, entry))

    async def drop_switches(self, models: Collection[str] | None, entry: Entry) -> int:
        return await self._write(lambda: self._registry.drop_switches(models, entry))

    async def note(self, entry: Entry) -> None:
        await self._ask("write", lambda: self._registry.note(entry))

    async def audit(self, most: int) -> list[Entry]:
        return await self._ask("read", lambda: self._registry.audit(most))

    async def swap(self, lessons: bytes) -> list[bytes]:
        if not self._reach.up:
            raise StateError(self._reach.trouble or "state is out of reach")
        return await self._ask("swap", lambda: self._counts.swap(self._registry.link, lessons))

    async def _write(self, change: Callable[[], Awaitable[T]]) -> T:
        result = await self._ask("write", change)
        # It is written; where it cannot be read now, `_follow` will.
        with contextlib.suppress(StateError):
            await self._refresh()
        return result

    async def _ask(self, operation: str, work: Callable[[], Awaitable[T]]) -> T:
        try:
            async with self._lock, asyncio.timeout(2 * _PATIENCE):
                await self._registry.link.connect()
                return await work()
        except TimeoutError:
            self._reach.observer.failed(operation)
            text = f"{self._registry.link.name} did not answer within {2 * _PATIENCE:g} s"
            raise StateError(text) from None
        except StateError:
            self._reach.observer.failed(operation)
            raise

    # --- counting ------------------------------------------------------------------------------

    async def take(self, wants: Sequence[Want], lease: str) -> Taken:
        return await self._counting.take(wants, lease)

    def settle(self, wants: Sequence[Want], lease: str, tokens: int) -> None:
        self._counting.settle(wants, lease, tokens)

    # --- in the background ---------------------------------------------------------------------

    async def _follow(self) -> None:
        failing: float | None = None
        told = False
        while True:
            await asyncio.sleep(_LOOK)
            try:
                await self._refresh()
            except StateError as error:
                now = time.monotonic()
                failing = now if failing is None else failing
                # Where nothing is reached at all, the count has said so.
                if self._reach.up and now - failing >= _TOLD_AFTER and not told:
                    told = True
                    log.warning("state: %s; keys and switches are used as they are known", error)
            else:
                failing, told = None, False

    async def _refresh(self) -> None:
        if await self._ask("read", self._registry.refresh):
            for changed in self._watchers:
                changed(self._registry.known)
