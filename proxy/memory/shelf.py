"""One store in use: lookups that nobody need wait for, writes that nobody waits for."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from proxy.config import MemoryStore as Settings
from proxy.core.policy.memory import Item, Turn, query_of
from proxy.memory.store import MemoryStore, StoreFailed
from proxy.memory.table import Key, Table, is_of

log = logging.getLogger("glm_proxy.memory")

MOST_LOOKUPS: Final = 64
"""Under way at once, in one process: beyond them the store does not keep up, and is left alone."""
MOST_WAITING: Final = 1024
"""Turns that wait to be written."""
_WRITERS: Final = 4
_TRY_AGAIN: Final = 2.0
"""Seconds after which a store that could not be opened is tried again."""
_GRACE: Final = 0.5
"""Seconds beyond its own timeout after which a store is not waited for any more."""
_WEIGHT: Final = 0.2
"""Of the last answer's time in their running mean."""
_FAILURES: Final = (StoreFailed, TimeoutError)


class Observer(Protocol):
    """Is told how stores fare. Called in the event loop's thread; must not block."""

    def took(self, operation: str, seconds: float) -> None:
        """A store did what it was asked: search, add or forget."""

    def failed(self, operation: str) -> None:
        """open, search, add or forget failed or took too long; skip: too much was under way."""

    def wrote(self, result: str) -> None:
        """A turn was stored, dropped (too many wait) or failed."""


class Unobserved:
    """Of stores that nobody looks at."""

    def took(self, operation: str, seconds: float) -> None:
        return None

    def failed(self, operation: str) -> None:
        return None

    def wrote(self, result: str) -> None:
        return None


class Exchanged(NamedTuple):
    """A turn that is over: what is to be remembered of it."""

    key: Key
    turns: tuple[Turn, ...]
    retention: float
    """Seconds."""
    most: int
    """Memories that the next turn wants."""


class Lookup:
    """A search. It is over when it is; who waits for it does not hold it up by leaving."""

    def __init__(self, begun: float) -> None:
        self.task: asyncio.Task[None] | None = None
        self.begun = begun
        self.took: float | None = None
        """Seconds; None as long as it is not over."""
        self.items: list[Item] | None = None
        """None: not there yet, or it failed."""

    async def wait(self, timeout: float) -> None:
        """Until it is over, `timeout` seconds at most."""
        if self.took is None and self.task is not None:
            await asyncio.wait((self.task,), timeout=timeout)


class Shelf:
    """A store, from its first use to `close`."""

    def __init__(
        self,
        settings: Settings,
        store: MemoryStore,
        observer: Observer,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """`clock` is monotonic, `wall` unix time: seconds."""
        self.table = Table()
        self.usual: float | None = None
        """Running mean of the time an answer takes, in seconds; None before the first."""
        self.clock, self.wall = clock, wall
        self._timeout = settings.timeout + _GRACE
        self._store = store
        self._observer = observer
        self._opening: asyncio.Task[StoreFailed | None] | None = None
        self._tried = -_TRY_AGAIN
        self._lookups: set[asyncio.Task[None]] = set()
        self._waiting: deque[Exchanged] = deque()
        self._writing: dict[Key, asyncio.Event] = {}
        self._writers: set[asyncio.Task[None]] = set()
        self._is_closed = False

    # --- reading -----------------------------------------------------------------------------

    def look(self, key: Key, query: str, most: int, written: Sequence[Item] = ()) -> Lookup | None:
        """Begin to search; what is found is at hand from then on, in place of the last turns that
        were `written`. None: too much is under way."""
        if self._is_closed or len(self._lookups) >= MOST_LOOKUPS:
            self._observer.failed("skip")
            return None
        lookup = Lookup(self.clock())
        looking = self._look(lookup, key, query_of(query), most, written)
        lookup.task = asyncio.create_task(looking)
        _own(lookup.task, self._lookups)
        return lookup

    async def _look(
        self, lookup: Lookup, key: Key, query: str, most: int, written: Sequence[Item]
    ) -> None:
        version = self.table.version
        try:
            async with asyncio.timeout(self._timeout):
                await self._opened()
                items = await self._store.search(key.scope, key.session, query, most)
        except _FAILURES as error:
            self._failed("search", error)
        else:
            self._observer.took("search", self.clock() - lookup.begun)
            if version == self.table.version:
                lookup.items = items
                self.table.found(key, items, self.clock(), written)
        finally:
            took = lookup.took = self.clock() - lookup.begun
            usual = self.usual
            self.usual = took if usual is None else usual + _WEIGHT * (took - usual)

    # --- writing -----------------------------------------------------------------------------

    def keep(self, exchanged: Exchanged) -> None:
        """Have a turn written, and what the next one may need looked for. Never waits."""
        if not self.table.heard(exchanged.key, _items(exchanged), self.clock()):
            return  # the same once more
        if self._is_closed or len(self._waiting) >= MOST_WAITING:
            self._observer.wrote("dropped")
            return
        self._waiting.append(exchanged)
        if len(self._writers) < _WRITERS:
            _own(asyncio.create_task(self._write_all()), self._writers)

    async def _write_all(self) -> None:
        while (exchanged := self._next()) is not None:
            over = self._writing[exchanged.key] = asyncio.Event()
            try:
                if await self._write(exchanged):
                    query = "\n".join(turn.text for turn in exchanged.turns)
                    self.look(exchanged.key, query, exchanged.most, _items(exchanged))
            finally:
                del self._writing[exchanged.key]
                over.set()

    def _next(self) -> Exchanged | None:
        """Of one conversation one turn after the other."""
        for place, exchanged in enumerate(self._waiting):
            if exchanged.key not in self._writing:
                del self._waiting[place]
                return exchanged
        return None

    async def _write(self, exchanged: Exchanged) -> bool:
        begun = self.clock()
        scope, session = exchanged.key
        try:
            async with asyncio.timeout(self._timeout):
                await self._opened()
                await self._store.add(scope, session, exchanged.turns, exchanged.retention)
        except _FAILURES as error:
            self._observer.wrote("failed")
            self._failed("add", error)
            return False
        self._observer.wrote("stored")
        self._observer.took("add", self.clock() - begun)
        return True

    async def forget(self, scope: str, session: str | None) -> int:
        """Forget a conversation, or with None all of the scope, here and in the store; how many
        memories there were in it. Raises StoreFailed."""
        self.table.drop(scope, session)
        kept = [one for one in self._waiting if not is_of(one.key, scope, session)]
        self._waiting.clear()
        self._waiting.extend(kept)
        begun = self.clock()
        try:
            for key, over in tuple(self._writing.items()):
                if is_of(key, scope, session):  # it must not come after what follows
                    await over.wait()
            async with asyncio.timeout(self._timeout):
                await self._opened()
                count = await self._store.forget(scope, session)
        except _FAILURES as error:
            self._failed("forget", error)
            raise StoreFailed(_told(error)) from None
        finally:
            self.table.drop(scope, session)  # what was found meanwhile
        self._observer.took("forget", self.clock() - begun)
        return count

    # --- the store ---------------------------------------------------------------------------

    async def _opened(self) -> None:
        """Raises StoreFailed."""
        if self._is_closed:
            raise StoreFailed("it is closed")
        error = await asyncio.shield(self.open())
        if error is not None:
            raise StoreFailed(str(error))

    def open(self) -> asyncio.Task[StoreFailed | None]:
        """Begin to, if it is not open. What went wrong is known at the end."""
        opening, now = self._opening, self.clock()
        if opening is None or (
            opening.done() and opening.result() is not None and now - self._tried >= _TRY_AGAIN
        ):
            self._tried = now
            opening = self._opening = asyncio.create_task(self._open())
        return opening

    async def _open(self) -> StoreFailed | None:
        try:
            await self._store.open()
        except StoreFailed as error:
            self._failed("open", error)
            return error
        return None

    def _failed(self, operation: str, error: Exception) -> None:
        self._observer.failed(operation)
        if operation == "open":  # of what fails later a store tells by itself
            log.warning("memory: %s; requests go on without it", error)

    async def close(self, timeout: float) -> None:
        """Write what waits, for `timeout` seconds at most, and let go of everything."""
        if self._writers:
            await asyncio.wait(self._writers, timeout=timeout)
        self._is_closed = True
        for _ in range(len(self._waiting) + len(self._writing)):
            self._observer.wrote("dropped")
        self._waiting.clear()
        left: list[asyncio.Task[Any]] = [*self._writers, *self._lookups]
        if self._opening is not None:
            left.append(self._opening)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._store.close()


def _items(exchanged: Exchanged) -> list[Item]:
    return [Item(turn.text, turn.role, turn.at, 0.0) for turn in exchanged.turns]


def _own(task: asyncio.Task[None], owned: set[asyncio.Task[None]]) -> None:
    owned.add(task)
    task.add_done_callback(owned.discard)


def _told(error: Exception) -> str:
    return "it does not answer in time" if isinstance(error, TimeoutError) else str(error)
