"""The home in files of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from proxy.core.policy.access import VirtualKey
from proxy.core.policy.limits import Taken, Want
from proxy.core.policy.switches import Switch
from proxy.state.counting import Counting, Held, Settlement
from proxy.state.home import Entry, Observer, Registry, StateError
from proxy.state.owed import Owed
from proxy.state.reach import Reach
from proxy.state.reader import Reader
from proxy.state.sqlite.counts import CountsFile
from proxy.state.sqlite.database import Damaged, move_aside, one_at_a_time, remove
from proxy.state.sqlite.registry import RegistryFile
from proxy.state.sqlite.thread import DatabaseThread

T = TypeVar("T")

log = logging.getLogger("glm_proxy.state")

_LOOK: Final = 0.1
"""Seconds between two looks for what other processes have changed."""


class SqliteHome:
    """Keys, switches and the audit in `path`; what is used in a file beside it."""

    kind = "sqlite"

    def __init__(self, path: Path, timeout: float, *, strict: bool) -> None:
        """`timeout`: the longest that a request waits to be counted. `strict`: without the file
        nothing may go on, and a damaged one is nobody's to replace, since there may be keys in it;
        else what cannot be used is done without."""
        self._path = path
        self._strict = strict
        self._watchers: list[Callable[[Registry], None]] = []
        self._registry = Registry({}, {})
        self._loop: asyncio.AbstractEventLoop | None = None
        self._trouble: str | None = None
        self._failing = False
        self._reach = Reach(str(path))
        self._thread = DatabaseThread[RegistryFile](
            "state", self._open_registry, _close, self._look, _LOOK
        )
        self._counts = _Counts(path.with_name(f"{path.name}.counts"), timeout)
        self._counting = Counting(self._counts, self._reach, timeout)

    @property
    def trouble(self) -> str | None:
        return self._trouble or self._reach.trouble

    def tell(self, observer: Observer) -> None:
        self._reach.observer = observer
        observer.reached(self._reach.up)

    def watch(self, changed: Callable[[Registry], None]) -> None:
        self._watchers.append(changed)

    async def open(self) -> Registry:
        self._loop = asyncio.get_running_loop()
        try:
            await self._thread.start()
            self._registry = await self._thread.do(RegistryFile.read)
        except StateError as error:
            if self._strict:
                raise
            self._trouble = str(error)
            log.warning("state: %s; nothing is kept, until it can be used at a start", error)
        await self._counting.start()
        return self._registry

    async def close(self) -> None:
        await self._counting.stop()
        await self._counts.stop()
        await self._thread.stop()
        self._watchers.clear()

    # --- what is seldom changed ----------------------------------------------------------------

    async def save_key(self, key: VirtualKey, entry: Entry) -> None:
        await self._write(lambda file: file.save_key(key, entry))

    async def save_switch(self, switch: Switch, entry: Entry) -> None:
        await self._write(lambda file: file.save_switch(switch, entry))

    async def drop_switches(self, models: Collection[str] | None, entry: Entry) -> int:
        return await self._write(lambda file: file.drop_switches(models, entry))

    async def note(self, entry: Entry) -> None:
        await self._do("write", lambda file: file.note(entry))

    async def audit(self, most: int) -> list[Entry]:
        return await self._do("read", lambda file: file.audit(most))

    async def _write(self, change: Callable[[RegistryFile], T]) -> T:
        def both(file: RegistryFile) -> tuple[T, Registry]:
            return change(file), file.read()

        result, registry = await self._do("write", both)
        self._know(registry)
        return result

    async def _do(self, operation: str, work: Callable[[RegistryFile], T]) -> T:
        if self._trouble is not None:
            raise StateError(self._trouble)
        try:
            return await self._thread.do(work)
        except StateError:
            self._reach.observer.failed(operation)
            raise

    async def swap(self, lessons: bytes) -> list[bytes]:
        return await self._counts.swap(lessons)

    # --- counting ------------------------------------------------------------------------------

    async def take(self, wants: Sequence[Want], lease: str) -> Taken:
        return await self._counting.take(wants, lease)

    def settle(self, wants: Sequence[Want], lease: str, tokens: int) -> None:
        self._counting.settle(wants, lease, tokens)

    # --- in the thread -------------------------------------------------------------------------

    def _open_registry(self) -> RegistryFile:
        reader = Reader(str(self._path))
        try:
            return RegistryFile(self._path, reader)
        except Damaged as error:
            if self._strict:
                hint = "restore it from a copy, or move it away: its keys are lost then"
                raise StateError(f"{error}; {hint}") from None
        with one_at_a_time(self._path):
            try:
                return RegistryFile(self._path, reader)  # another process may have been first
            except Damaged as error:
                aside = move_aside(self._path)
                log.warning("state: %s; it is kept as %s, and a new one begins", error, aside)
            return RegistryFile(self._path, reader)

    def _look(self, file: RegistryFile) -> None:
        try:
            registry = file.read() if file.changed() or self._failing else None
            self._failing = False
        except StateError as error:
            if not self._failing:
                self._failing = True
                log.warning("state: %s; what was known of keys and switches is used on", error)
            return
        if registry is not None and self._loop is not None:
            # A loop that is closed needs to know nothing.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._know, registry)

    # -------------------------------------------------------------------------------------------

    def _know(self, registry: Registry) -> None:
        if registry == self._registry:
            return
        self._registry = registry
        for changed in self._watchers:
            changed(registry)


class _Counts:
    """The counts' file as what processes share: whatever is wrong with it, a new one is as good."""

    def __init__(self, path: Path, timeout: float) -> None:
        self._path = path
        self._busy = timeout
        self._thread: DatabaseThread[CountsFile] | None = None

    async def reach(self) -> None:
        if self._thread is None:
            thread = DatabaseThread[CountsFile]("state-counts", self._open, _close)
            await thread.start()
            self._thread = thread

    async def stop(self) -> None:
        if self._thread is not None:
            await self._thread.stop()
            self._thread = None

    async def take(self, wants: Sequence[Want], lease: str) -> Taken:
        return await self._do(lambda file: file.take(wants, lease))

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        await self._do(lambda file: file.settle(settlements))

    async def renew(self, held: Collection[Held], *, again: bool) -> None:
        await self._do(lambda file: file.renew(held, again=again))

    async def add(self, owed: Sequence[Owed]) -> None:
        await self._do(lambda file: file.add(owed))

    async def beat(self) -> int:
        return await self._do(CountsFile.beat)

    async def leave(self) -> None:
        await self._do(CountsFile.leave)

    async def swap(self, lessons: bytes) -> list[bytes]:
        return await self._do(lambda file: file.swap(lessons))

    async def _do(self, work: Callable[[CountsFile], T]) -> T:
        if self._thread is None:
            raise StateError(f"{self._path} is not open")
        try:
            return await self._thread.do(work)
        except Damaged:
            await self.stop()  # the next `reach` makes a new one
            raise

    def _open(self) -> CountsFile:
        make = partial(CountsFile, self._path, self._busy)
        try:
            return make()
        except Damaged:
            pass
        with one_at_a_time(self._path):
            try:
                return make()
            except Damaged:
                remove(self._path)
            return make()


def _close(file: RegistryFile | CountsFile) -> None:
    with contextlib.suppress(StateError):
        file.close()
