"""Kept in a SQLite file that the processes of one machine share.

Two threads, each with a connection of its own: what a request asks for is never behind what is
being written. Losing the file loses copies, so nothing here waits for the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from proxy.state.home import StateError
from proxy.state.sqlite.database import (
    Damaged,
    Schema,
    move_aside,
    one_at_a_time,
    opened,
    told,
    transaction,
)
from proxy.state.sqlite.thread import DatabaseThread
from proxy.store.shelf import OVERHEAD, SALT, Gone, Item

T = TypeVar("T")

log = logging.getLogger("glm_proxy.store")

SCHEMA: Final = Schema(
    0x676C6D61,  # "glma"
    (
        # Apart from the values, so that noting that one was used does not write it again.
        """
        CREATE TABLE entries (
            id INTEGER PRIMARY KEY, place BLOB NOT NULL UNIQUE, ends INTEGER NOT NULL,
            used INTEGER NOT NULL, size INTEGER NOT NULL
        );
        CREATE INDEX entries_by_end ON entries (ends);
        CREATE INDEX entries_by_use ON entries (used);
        CREATE TABLE bodies (id INTEGER PRIMARY KEY, value BLOB NOT NULL);
        CREATE TABLE store (id INTEGER PRIMARY KEY CHECK (id = 1), salt BLOB NOT NULL,
            held INTEGER NOT NULL);
        PRAGMA application_id = 0x676C6D61;
        PRAGMA user_version = 1
        """,
    ),
)
_BUSY: Final = 1.0
"""Seconds that a write waits for another process's."""
_AT_ONCE: Final = 500
"""Entries that are removed in one go."""
_PAGES: Final = 1000
"""Of what the file needs no more, so many are given back in one go."""
_LARGEST_LOG: Final = 8 << 20
"""Bytes that the file beside it, with what was written last, shrinks to."""


class SqliteShelf:
    """See `proxy.store.shelf.Shelf`."""

    def __init__(self, path: Path, timeout: float, most: int) -> None:
        """`timeout`: the longest that a request waits, in seconds; `most`: bytes it may hold."""
        self.name = str(path)
        self._path = path
        self._writer = _Thread("answers", lambda: _Writer(path, most))
        self._reader = _Thread("answers-read", lambda: _Reader(path, timeout))

    async def reach(self) -> bytes:
        await self._writer.start()
        await self._reader.start()
        return await self._do(self._writer, _Writer.salt)

    async def get(self, place: bytes) -> bytes | None:
        return await self._do(self._reader, lambda file: file.get(place))

    async def write(self, items: Sequence[Item], used: Collection[bytes]) -> int:
        return await self._do(self._writer, lambda file: file.write(items, used))

    async def sweep(self) -> int:
        return await self._do(self._writer, _Writer.sweep)

    async def delete(self, place: bytes) -> bool:
        return await self._do(self._writer, lambda file: file.delete(place))

    async def clear(self, start: bytes) -> int:
        return await self._do(self._writer, lambda file: file.clear(start))

    async def stop(self) -> None:
        await self._reader.stop()
        await self._writer.stop()

    async def _do(self, thread: _Thread[C], work: Callable[[C], T]) -> T:
        try:
            return await thread.do(work)
        except Damaged as error:
            await self.stop()
            raise Gone(str(error)) from None


class _File:
    """A connection of the thread that made it. Everything raises StateError."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.path = path
        self.db = db

    def close(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            self.db.close()


C = TypeVar("C", bound=_File)


class _Thread(DatabaseThread[C]):
    """One whose opening goes on when nobody waits for it any more: a large file takes time to be
    looked through."""

    def __init__(self, name: str, make: Callable[[], C]) -> None:
        super().__init__(name, make, _File.close)
        self._starting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        if self._starting is None:
            self._starting = asyncio.create_task(super().start())
        starting = self._starting
        try:
            await asyncio.shield(starting)
        except StateError:
            self._starting = None
            raise

    async def stop(self) -> None:
        starting, self._starting = self._starting, None
        if starting is not None:
            starting.cancel()
            await asyncio.wait((starting,))
        await super().stop()


class _Reader(_File):
    """What requests ask for."""

    def __init__(self, path: Path, timeout: float) -> None:
        with told(path):
            db = sqlite3.connect(path, timeout=timeout, isolation_level=None)
            db.execute("PRAGMA query_only=1")
        super().__init__(path, db)

    def get(self, place: bytes) -> bytes | None:
        with told(self.path):
            row = self.db.execute(
                "SELECT value FROM entries JOIN bodies USING (id) WHERE place = ? AND ends > ?",
                (place, _now()),
            ).fetchone()
        return row[0] if row is not None and isinstance(row[0], bytes) else None


class _Writer(_File):
    """All that changes the file."""

    def __init__(self, path: Path, most: int) -> None:
        super().__init__(path, _opened(path))
        self._most = most
        with told(path):
            self.db.execute(f"PRAGMA journal_size_limit={_LARGEST_LOG}")
            # What is deleted is gone, and not only out of sight.
            self.db.execute("PRAGMA secure_delete=ON")
            self.db.execute(
                "INSERT OR IGNORE INTO store VALUES (1, ?, 0)", (secrets.token_bytes(SALT),)
            )
        self._file = _identity(path)

    def salt(self) -> bytes:
        with self._use():
            (salt,) = self.db.execute("SELECT salt FROM store").fetchone() or (b"",)
        if not isinstance(salt, bytes) or len(salt) != SALT:
            raise Damaged(f"{self.path} is damaged")
        return salt

    def write(self, items: Sequence[Item], used: Collection[bytes]) -> int:
        with self._use(), transaction(self.db):
            now = _now()
            for place, value, ttl in items:
                self._remove("place = ?", place)
                size = len(value) + OVERHEAD
                new = self.db.execute(
                    "INSERT INTO entries (place, ends, used, size) VALUES (?, ?, ?, ?)",
                    (place, now + round(ttl * 1000), now, size),
                )
                self.db.execute("INSERT INTO bodies VALUES (?, ?)", (new.lastrowid, value))
                self._add(size)
            self.db.executemany(
                "UPDATE entries SET used = ? WHERE place = ?", [(now, place) for place in used]
            )
            while self._held() > self._most and self._remove(_OLDEST, _AT_ONCE // 50):
                pass
            return self._held()

    def sweep(self) -> int:
        with self._use(), transaction(self.db):
            self._remove(_OVER, _now(), _AT_ONCE)
            self.db.execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
            return self._held()

    def delete(self, place: bytes) -> bool:
        with self._use(), transaction(self.db):
            return self._remove("place = ?", place) > 0

    def clear(self, start: bytes) -> int:
        cleared = 0
        while True:
            with self._use(), transaction(self.db):
                removed = self._remove(_BEGINNING, start, start + b"\xff" * 65, _AT_ONCE)
            if not removed:
                return cleared
            cleared += removed

    # --- inside a transaction ------------------------------------------------------------------

    def _remove(self, which: str, *values: object) -> int:
        """How many there were. `which`: one of the conditions here, never from outside."""
        found = self.db.execute(f"SELECT id, size FROM entries WHERE {which}", values).fetchall()
        if found:
            ids = [(entry,) for entry, _ in found]
            self.db.executemany("DELETE FROM entries WHERE id = ?", ids)
            self.db.executemany("DELETE FROM bodies WHERE id = ?", ids)
            self._add(-sum(size for _, size in found))
        return len(found)

    def _add(self, size: int) -> None:
        self.db.execute("UPDATE store SET held = held + ?", (size,))

    def _held(self) -> int:
        (held,) = self.db.execute("SELECT held FROM store").fetchone() or (0,)
        return int(held)

    @contextmanager
    def _use(self) -> Iterator[None]:
        """As long as the file is the one that others open too."""
        if _identity(self.path) != self._file:
            raise Damaged(f"{self.path} was replaced")
        with told(self.path):
            yield


_OLDEST: Final = "id IN (SELECT id FROM entries ORDER BY used LIMIT ?)"
_OVER: Final = "id IN (SELECT id FROM entries WHERE ends <= ? LIMIT ?)"
_BEGINNING: Final = "id IN (SELECT id FROM entries WHERE place BETWEEN ? AND ? LIMIT ?)"


def _opened(path: Path) -> sqlite3.Connection:
    """The file, or a new one where it is damaged; the damaged one is kept beside it."""

    def make() -> sqlite3.Connection:
        return opened(path, SCHEMA, busy=_BUSY, synchronous="OFF", shrinks=True)

    try:
        return make()
    except Damaged:
        pass
    with one_at_a_time(path):
        try:
            return make()  # another process may have been first
        except Damaged as error:
            aside = move_aside(path)
            log.warning("answers: %s; it is kept as %s, and a new one begins", error, aside)
        return make()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _now() -> int:
    """Unix time in milliseconds: it is the same after a restart."""
    return time.time_ns() // 1_000_000
