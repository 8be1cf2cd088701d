"""Files of memories, and what is done to them."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from proxy.memory.store import Turn
from proxy.memory.stores.sqlite import SqliteStore

LONG = 1e6
"""Seconds."""


@asynccontextmanager
async def opened(
    folder: Path, max_size: int = 1 << 30, timeout: float = 5.0
) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(folder / "memory.db", timeout, max_size)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


def said(*texts: str, at: float = 1.0) -> list[Turn]:
    return [Turn("user", text, at + number) for number, text in enumerate(texts)]


async def texts(
    store: SqliteStore, scope: str, session: str, query: str = "", most: int = 8
) -> list[str]:
    return [item.text for item in await store.search(scope, session, query, most)]


def everything(folder: Path) -> bytes:
    """All bytes of all files."""
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


def rows(folder: Path, statement: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(folder / "memory.db")) as db:
        return db.execute(statement).fetchall()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Another process writes, and does not come to an end."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")
