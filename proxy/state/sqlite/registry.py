"""Keys, switches and the audit in one SQLite file, for the thread that owns it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, TypeVar

from proxy.core.policy.access import VirtualKey, kept
from proxy.core.policy.switches import Switch
from proxy.state import codec
from proxy.state.home import Entry, Registry
from proxy.state.reader import Reader
from proxy.state.sqlite.database import Schema, opened, told, transaction

T = TypeVar("T")

SCHEMA: Final = Schema(
    0x676C6D70,  # "glmp"
    (
        """
        CREATE TABLE keys (id TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
        CREATE TABLE switches (model TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
        CREATE TABLE audit (number INTEGER PRIMARY KEY AUTOINCREMENT, body BLOB NOT NULL);
        PRAGMA application_id = 0x676C6D70;
        PRAGMA user_version = 1
        """,
    ),
)
_BUSY: Final = 5.0
"""Seconds that a change waits for another process's."""
AUDITED: Final = 10_000
"""Entries of the audit that are kept."""


class RegistryFile:
    """Open from the start. Everything raises StateError."""

    def __init__(self, path: Path, reader: Reader) -> None:
        self._path = path
        self._reader = reader
        self._db = opened(path, SCHEMA, busy=_BUSY, synchronous="FULL")
        self._seen = self._version()

    def close(self) -> None:
        with told(self._path):
            self._db.close()

    def changed(self) -> bool:
        """Whether somebody else has written since the last time."""
        with told(self._path):
            version = self._version()
        changed, self._seen = version != self._seen, version
        return changed

    def read(self) -> Registry:
        """What cannot be understood is left out."""
        with told(self._path):
            keys = self._db.execute("SELECT id, body FROM keys").fetchall()
            switches = self._db.execute("SELECT model, body FROM switches").fetchall()
        return Registry(
            self._reader.read("key", keys, codec.key_of, lambda key: key.id),
            self._reader.read("switch", switches, codec.switch_of, lambda one: one.model),
        )

    def save_key(self, key: VirtualKey, entry: Entry) -> None:
        def save(db: sqlite3.Connection) -> None:
            row = db.execute("SELECT body FROM keys WHERE id = ?", (key.id,)).fetchone()
            text = codec.key_text(kept(_before(row), key))
            db.execute("REPLACE INTO keys VALUES (?, ?)", (key.id, text))

        self._write(entry, save)

    def save_switch(self, switch: Switch, entry: Entry) -> None:
        row = (switch.model, codec.switch_text(switch))
        self._write(entry, lambda db: db.execute("REPLACE INTO switches VALUES (?, ?)", row))

    def drop_switches(self, models: Collection[str] | None, entry: Entry) -> int:
        def drop(db: sqlite3.Connection) -> int:
            if models is None:
                return db.execute("DELETE FROM switches").rowcount
            return sum(
                db.execute("DELETE FROM switches WHERE model = ?", (model,)).rowcount
                for model in set(models)
            )

        return self._write(entry, drop)

    def note(self, entry: Entry) -> None:
        self._write(entry, lambda db: None)

    def audit(self, most: int) -> list[Entry]:
        with told(self._path):
            rows = self._db.execute(
                "SELECT number, body FROM audit ORDER BY number DESC LIMIT ?", (most,)
            ).fetchall()
        return list(self._reader.read("audit entry", rows, codec.entry_of, lambda _: None).values())

    def _write(self, entry: Entry, change: Callable[[sqlite3.Connection], T]) -> T:
        """The change and what the audit says of it, or neither."""
        with told(self._path), transaction(self._db):
            result = change(self._db)
            self._db.execute("INSERT INTO audit (body) VALUES (?)", (codec.entry_text(entry),))
            self._db.execute(
                "DELETE FROM audit WHERE number <= (SELECT max(number) FROM audit) - ?", (AUDITED,)
            )
        return result

    def _version(self) -> int:
        """Another one after every change by another connection."""
        (version,) = self._db.execute("PRAGMA data_version").fetchone()
        return int(version)


def _before(row: tuple[bytes] | None) -> VirtualKey | None:
    try:
        return None if row is None else codec.key_of(row[0])
    except ValueError:  # it is left out wherever it is read
        return None
