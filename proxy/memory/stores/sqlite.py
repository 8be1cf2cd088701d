"""Memories in a file of this machine, which several processes may use at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from proxy.memory.store import Item, StoreFailed, Turn
from proxy.memory.stores.file import MemoryFile
from proxy.memory.stores.fortune import Fortune
from proxy.memory.stores.reader import MemoryReader
from proxy.state.home import StateError
from proxy.state.sqlite.database import Damaged, move_aside, one_at_a_time
from proxy.state.sqlite.thread import DatabaseThread

T = TypeVar("T")
C = TypeVar("C")

log = logging.getLogger("glm_proxy.memory")

_LOOK: Final = 1.0
"""Seconds between two looks for what is over, and for what is to be put in order."""


class SqliteStore:
    """Two threads: one writes, and one searches whatever the other is doing.

    A file that is found to be damaged, at the start or later, is moved aside and a new one begins:
    memories are a help and no truth, and without them the proxy does all that it has to.
    """

    def __init__(self, path: Path, timeout: float, max_size: int) -> None:
        """`timeout`: seconds to wait for other processes that write; `max_size` in bytes."""
        self._path = path
        make = partial(MemoryFile, path, timeout, max_size)
        self._writer = DatabaseThread[MemoryFile](
            "memory", lambda: self._make(make), _close, self._look, _LOOK
        )
        self._reader = DatabaseThread[MemoryReader](
            "memory-search", partial(MemoryReader, path, timeout), _close
        )
        self._fortune = Fortune(str(path))
        self._is_open = False
        self._inode: int | None = None
        """The file in use."""
        self._spoilt: int | None = None
        """The one that was found to be damaged while it was in use."""
        self._renewal: asyncio.Task[None] | None = None

    async def open(self) -> None:
        try:
            await self._start()
        except StateError as error:
            raise StoreFailed(str(error)) from None
        self._is_open = True

    async def close(self) -> None:
        self._is_open = False
        if self._renewal is not None:
            await asyncio.wait([self._renewal])
        await self._stop()

    async def search(self, scope: str, session: str, query: str, most: int) -> list[Item]:
        return await self._do(self._reader, lambda file: file.search(scope, session, query, most))

    async def add(self, scope: str, session: str, turns: Sequence[Turn], retention: float) -> None:
        await self._do(self._writer, lambda file: file.add(scope, session, turns, retention))

    async def forget(self, scope: str, session: str | None) -> int:
        return await self._do(self._writer, lambda file: file.forget(scope, session))

    # --- within ----------------------------------------------------------------------------------

    async def _do(self, thread: DatabaseThread[C], work: Callable[[C], T]) -> T:
        if not self._is_open:
            raise StoreFailed(f"{self._path} is closed")
        try:
            result = await thread.do(work)
        except StateError as error:
            self._fortune.failed(str(error))
            if isinstance(error, Damaged) and (self._renewal is None or self._renewal.done()):
                self._spoilt = self._inode
                self._renewal = asyncio.create_task(self._renew())
            raise StoreFailed(str(error)) from None
        self._fortune.worked()
        return result

    async def _start(self) -> None:
        """Raises StateError."""
        await self._writer.start()
        try:
            await self._reader.start()
        except BaseException:
            await self._writer.stop()
            raise

    async def _stop(self) -> None:
        await self._reader.stop()
        await self._writer.stop()

    async def _renew(self) -> None:
        """With another file; what is asked meanwhile fails."""
        await self._stop()
        with contextlib.suppress(StateError):  # what is asked from now on fails, and says so
            await self._start()

    # --- in the threads --------------------------------------------------------------------------

    def _make(self, make: Callable[[], MemoryFile]) -> MemoryFile:
        file = self._sound(make)
        with contextlib.suppress(OSError):
            self._inode = os.stat(self._path).st_ino
        return file

    def _sound(self, make: Callable[[], MemoryFile]) -> MemoryFile:
        spoilt, self._spoilt = self._spoilt, None
        if spoilt is None:
            try:
                return make()
            except Damaged:
                pass
        with one_at_a_time(self._path):  # another process may have been first
            try:
                if spoilt is None or os.stat(self._path).st_ino != spoilt:
                    return make()
            except (Damaged, FileNotFoundError):
                pass
            aside = move_aside(self._path)
            log.warning("memory: %s is damaged; it is kept as %s", self._path, aside)
            return make()

    def _look(self, file: MemoryFile) -> None:
        # What fails here fails for whoever asks next, and is told then.
        with contextlib.suppress(StateError):
            file.look()


def _close(file: MemoryFile | MemoryReader) -> None:
    with contextlib.suppress(StateError):
        file.close()
