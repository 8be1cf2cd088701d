"""One store: what is to be kept waits in a bounded queue, what is asked for is told in time or not.

A request waits for the shelf no longer than the settings say, and after the first that waited in
vain nobody waits: all is a miss until the shelf has answered a probe in time. Writing is done in
the background, and what fails there is lost: it was a copy.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple, TypeVar

from proxy.state.home import StateError
from proxy.store.place import place, sealed, unsealed
from proxy.store.shelf import OVERHEAD, Gone, Item, Observer, Shelf, Unobserved

T = TypeVar("T")

log = logging.getLogger("glm_proxy.store")

LARGEST: Final = 32 << 20
"""Bytes of one value."""
_MOST_WAITING: Final = 1000
_MOST_BYTES: Final = 48 << 20
"""Values that wait to be written, and their bytes; further ones are dropped."""
_AT_ONCE: Final = 64
_BYTES_AT_ONCE: Final = 4 << 20
"""Values that are written together."""
_MOST_USED: Final = 10_000
"""Places whose use is noted until it is written down."""
_PATIENCE: Final = 2.0
"""Seconds for what no request waits for."""
_BEAT: Final = 5.0
"""Seconds between two looks for what is over."""
_FIRST_PROBE: Final = 0.25
_LAST_PROBE: Final = 2.0
"""Seconds between two probes of a shelf that is out of reach; they double."""
_UNSTEADY: Final = 10.0
"""Seconds: what is lost again within them is probed as if it had not returned."""
_COMPLAINT: Final = 10.0
"""Seconds between two lines of what could come with each answer."""
_LAST_WORDS: Final = 1.0
"""Seconds at the end for what still waits to be written."""


class _Name(NamedTuple):
    purpose: bytes
    scope: str
    key: str


class _Waiting(NamedTuple):
    value: bytes
    ends: float
    """On the monotonic clock."""


class Kept:
    """From the first question, or `open`, to `close`; in one event loop."""

    def __init__(
        self,
        shelf: Shelf,
        *,
        timeout: float,
        most: int,
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`timeout`: the longest that a request waits for the shelf, in seconds. `most`: bytes
        that the shelf may hold."""
        self._shelf = shelf
        self._timeout = timeout
        self._most = most
        self._observer = observer or Unobserved()
        self._clock = clock
        self._salt: bytes | None = None
        """None while the shelf is out of reach."""
        self._lost_at: float | None = None
        self._complained = -_COMPLAINT
        self._queue: dict[_Name, _Waiting] = {}
        self._writing: dict[_Name, _Waiting] = {}
        self._size = 0
        """Bytes in both."""
        self._used: dict[bytes, None] = {}
        self._news = asyncio.Event()
        self._opening: asyncio.Task[bool] | None = None
        self._task: asyncio.Task[None] | None = None

    # --- its life ------------------------------------------------------------------------------

    async def open(self) -> None:
        """Never raises: what is out of reach is tried again."""
        await asyncio.shield(self._start())

    async def close(self) -> None:
        """What waits is written, if that is possible soon. Safe also without `open`, and twice."""
        task, self._task = self._task, None
        if task is None:
            return
        with contextlib.suppress(TimeoutError, StateError):
            async with asyncio.timeout(_LAST_WORDS):
                while self._salt is not None and (self._queue or self._writing):
                    self._news.set()
                    await asyncio.sleep(0.005)
        assert self._opening is not None
        for one in (self._opening, task):
            one.cancel()
        await asyncio.wait((self._opening, task))
        self._salt = None
        await self._shelf.stop()

    def _start(self) -> asyncio.Task[bool]:
        if self._opening is None:
            self._opening = asyncio.create_task(self._reach("open"))
            self._task = asyncio.create_task(self._tend(self._opening))
        return self._opening

    # --- on the path of a request --------------------------------------------------------------

    async def get(self, purpose: bytes, scope: str, key: str) -> bytes | None:
        """As `AnswerStore.get`."""
        if self._salt is None and not await self._opened():
            return None
        name = _Name(purpose, scope, key)
        waiting = self._queue.get(name) or self._writing.get(name)
        if waiting is not None:
            return waiting.value if self._clock() < waiting.ends else None
        salt = self._salt
        if salt is None:
            return None
        where = place(salt, *name)
        try:
            kept = await self._in_time(self._shelf.get(where), self._timeout)
        except StateError as error:
            self._lost("get", error)
            return None
        if kept is None:
            return None
        value = unsealed(salt, where, kept)
        if value is None:
            self._observer.failed("damaged")
        elif len(self._used) < _MOST_USED:
            self._used[where] = None
        return value

    def put(self, purpose: bytes, scope: str, key: str, value: bytes, ttl: float) -> None:
        """As `AnswerStore.put`."""
        name, size = _Name(purpose, scope, key), len(value)
        self._start()
        self._forget(name)
        if (
            self._task is None  # closed
            or self._lost_at is not None
            or size > min(LARGEST, self._most - OVERHEAD)
            or len(self._queue) >= _MOST_WAITING
            or self._size + size > _MOST_BYTES
        ):
            self._observer.failed("dropped")
            return
        self._queue[name] = _Waiting(value, self._clock() + ttl)
        self._size += size
        self._news.set()

    async def delete(self, purpose: bytes, scope: str, key: str) -> bool:
        """As `AnswerStore.delete`."""
        await self._opened()
        name = _Name(purpose, scope, key)
        waited = self._forget(name) or self._writing.pop(name, None) is not None
        if self._salt is None:
            self._observer.failed("delete")
            return waited
        try:
            # Behind what is being written now: a shelf writes in order.
            there = await self._in_time(self._shelf.delete(place(self._salt, *name)), _PATIENCE)
        except StateError as error:
            self._failed("delete", error)
            return waited
        return there or waited

    async def clear(self, purpose: bytes) -> int:
        """Delete all that was kept for it, of all callers; how many there were. Raises StateError:
        whoever asks for it is to know."""
        await self._opened()
        for name in [name for name in self._queue if name.purpose == purpose]:
            self._forget(name)
        try:
            if self._salt is None:
                raise StateError(f"{self._shelf.name} is out of reach")
            return await self._shelf.clear(purpose)
        except StateError:
            self._observer.failed("clear")
            raise

    async def _opened(self) -> bool:
        """Whether the shelf is in use. Who comes first waits for that as long as for an answer."""
        if self._opening is None or not self._opening.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._timeout):
                    await self.open()
        return self._salt is not None

    def _forget(self, name: _Name) -> bool:
        waiting = self._queue.pop(name, None)
        if waiting is not None:
            self._size -= len(waiting.value)
        return waiting is not None

    # --- in the background ---------------------------------------------------------------------

    async def _tend(self, opening: asyncio.Task[bool]) -> None:
        pause = _FIRST_PROBE
        await asyncio.wait((opening,))
        while True:
            if self._salt is not None:
                returned = self._clock()
                await self._write_on()
                if self._clock() - returned > _UNSTEADY:
                    pause = _FIRST_PROBE
            await asyncio.sleep(pause)
            if not await self._reach("probe"):
                pause = min(2 * pause, _LAST_PROBE)

    async def _reach(self, operation: str) -> bool:
        """Whether the shelf is in use, and answers in the time of a request."""
        try:
            salt = await self._in_time(self._shelf.reach(), _PATIENCE)
            # A first answer may take long for reasons of its own; the second shows how it will be.
            await self._in_time(self._shelf.get(b"probe"), _PATIENCE)
            await self._in_time(self._shelf.get(b"probe"), self._timeout)
        except StateError as error:
            self._lost(operation, error)
            return False
        self._salt = salt
        if self._lost_at is not None:
            away = self._clock() - self._lost_at
            log.warning("answers: %s is in use again, %.1f s later", self._shelf.name, away)
            self._lost_at = None
        return True

    async def _write_on(self) -> None:
        """Until the shelf is out of reach."""
        pause, swept = _FIRST_PROBE, -_BEAT
        while self._salt is not None:
            await self._hear(swept + _BEAT - self._clock())
            operation = "put"
            try:
                while self._queue and self._salt is not None:
                    await self._write(self._salt)
                if self._clock() >= swept + _BEAT:
                    operation, swept = "sweep", self._clock()
                    await self._sweep()
                pause = _FIRST_PROBE
            except StateError as error:
                self._failed(operation, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LAST_PROBE)

    async def _write(self, salt: bytes) -> None:
        """The oldest of what waits. Raises StateError, and it is lost then."""
        now, size = self._clock(), 0
        for name, waiting in tuple(self._queue.items())[:_AT_ONCE]:
            if self._writing and size + len(waiting.value) > _BYTES_AT_ONCE:
                break
            size += len(waiting.value)
            self._writing[name] = self._queue.pop(name)
        items = []
        for name, (value, ends) in self._writing.items():
            if ends > now:
                where = place(salt, *name)
                items.append(Item(where, sealed(salt, where, value), ends - now))
        try:
            held = await self._in_time(self._shelf.write(items, ()), _PATIENCE)
            self._observer.holds(self._shelf.name, held)
        finally:
            self._size -= size
            self._writing.clear()

    async def _sweep(self) -> None:
        used = tuple(self._used)
        self._used.clear()
        if used:
            await self._in_time(self._shelf.write((), used), _PATIENCE)
        held = await self._in_time(self._shelf.sweep(), _PATIENCE)
        self._observer.holds(self._shelf.name, held)

    async def _hear(self, seconds: float) -> None:
        """Wait for something to write, or for so long."""
        if not self._queue:
            self._news.clear()
            # Not `wait_for`, which may swallow a cancellation (Python 3.11).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, seconds)):
                    await self._news.wait()

    # -------------------------------------------------------------------------------------------

    async def _in_time(self, asked: Coroutine[Any, Any, T], timeout: float) -> T:
        """Raises StateError, also when it takes longer."""
        try:
            async with asyncio.timeout(timeout):
                return await asked
        except TimeoutError:
            text = f"{self._shelf.name} did not answer within {timeout * 1000:.0f} ms"
            raise StateError(text) from None

    def _lost(self, operation: str, error: StateError) -> None:
        """Nobody waits for the shelf any more, until it has answered a probe. What waits to be
        written waits on: it may be the turn of a conversation that goes on."""
        self._observer.failed(operation)
        self._salt = None
        self._news.set()
        if self._lost_at is None:
            self._lost_at = self._clock()
            log.warning("answers: %s; nothing is found or kept until it can be used", error)

    def _failed(self, operation: str, error: StateError) -> None:
        """One thing was not done."""
        if isinstance(error, Gone):
            self._lost(operation, error)
            return
        self._observer.failed(operation)
        now = self._clock()
        if now - self._complained >= _COMPLAINT:
            self._complained = now
            log.warning("answers: %s (%s)", error, operation)
