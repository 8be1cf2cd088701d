"""Memories in one SQLite file, for the thread that owns it.

Whose they are, and of which session, is in it as HMACs only, under a salt of the file: whoever
has a copy learns what was said, and not by whom.

The index is a table: which terms (`stores.terms`) which memory of which session has. A search reads
what is of one session and nothing else, and what is rare is rare within it. SQLite's own FTS5 is
not used: it has one index for all, counts words over all callers, its trigrams pass by most Chinese
words, and what is deleted stays in it until its parts are merged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from proxy.memory.store import Turn
from proxy.memory.stores.answers import clipped
from proxy.memory.stores.names import Names
from proxy.memory.stores.terms import terms
from proxy.state.sqlite.database import Schema, opened, told, transaction

SCHEMA: Final = Schema(
    0x676C6D6D,  # "glmm"
    (
        # Terms are removed by splitting the text once more: whoever changes `stores.terms` adds a
        # step that makes `words` anew.
        """
        CREATE TABLE about (salt BLOB NOT NULL);
        INSERT INTO about VALUES (randomblob(32));
        CREATE TABLE sessions (
            number INTEGER PRIMARY KEY AUTOINCREMENT, scope BLOB NOT NULL,
            name BLOB NOT NULL UNIQUE, latest INTEGER NOT NULL
        );
        CREATE INDEX sessions_by_latest ON sessions (latest);
        CREATE INDEX sessions_by_scope ON sessions (scope);
        CREATE TABLE items (
            id INTEGER PRIMARY KEY AUTOINCREMENT, session INTEGER NOT NULL, role TEXT NOT NULL,
            text TEXT NOT NULL, at REAL NOT NULL, expires REAL NOT NULL
        );
        CREATE INDEX items_by_session ON items (session);
        CREATE INDEX items_by_end ON items (expires);
        CREATE TABLE words (
            session INTEGER NOT NULL, term TEXT NOT NULL, item INTEGER NOT NULL,
            PRIMARY KEY (session, term, item)
        ) WITHOUT ROWID;
        PRAGMA application_id = 0x676C6D6D;
        PRAGMA user_version = 1
        """,
    ),
)
_FEW: Final = 20
"""Memories that are removed while others wait to write."""
_PAGES: Final = 64
"""Of the file that are given back while others wait."""
_WHILE: Final = 0.5
"""Seconds that putting things in order may take at a time."""
_ROOM: Final = 0.9
"""Of the largest size that is left when it was reached."""
_WAL: Final = 8 << 20
"""Bytes of the file of what is newest, when nobody writes."""


class MemoryFile:
    """Open from the start. Everything raises StateError."""

    def __init__(
        self, path: Path, busy: float, max_size: int, wall: Callable[[], float] = time.time
    ) -> None:
        """`busy`: seconds to wait for other processes that write; `max_size` in bytes."""
        self._path = path
        self._max_size = max_size
        self._wall = wall
        self._removed = True
        """Something was, by this process or another, and may still be in the file beside this."""
        self._db = opened(path, SCHEMA, busy=busy, synchronous="NORMAL", shrinks=True)
        with told(path):
            self._db.execute("PRAGMA secure_delete=ON")
            self._db.execute(f"PRAGMA journal_size_limit={_WAL}")
            self.names = Names(self._db)

    def close(self) -> None:
        with told(self._path):
            self._db.close()

    def add(self, scope: str, session: str, turns: Sequence[Turn], retention: float) -> None:
        ends = self._wall() + retention
        rows = [(turn.role, clipped(turn.text), turn.at, ends) for turn in turns]
        with told(self._path), transaction(self._db):
            number = self._numbered(scope, session)
            for row in rows:
                made = self._db.execute(
                    "INSERT INTO items (session, role, text, at, expires) VALUES (?, ?, ?, ?, ?)",
                    (number, *row),
                )
                self._db.executemany(
                    "INSERT INTO words (session, term, item) VALUES (?, ?, ?)",
                    [(number, term, made.lastrowid) for term in terms(row[1])],
                )
                self._db.execute(
                    "UPDATE sessions SET latest = ? WHERE number = ?", (made.lastrowid, number)
                )
        self._make_room(time.monotonic() + _WHILE)

    def forget(self, scope: str, session: str | None) -> int:
        """They are not found any more. Soon after, `look` has removed them from the file."""
        if session is None:
            of, name = "scope", self.names.scope(scope)
        else:
            of, name = "name", self.names.session(scope, session)
        with told(self._path), transaction(self._db):
            return self._db.execute(
                "UPDATE items SET expires = 0 WHERE expires > ? AND session IN"
                f" (SELECT number FROM sessions WHERE {of} = ?)",
                (self._wall(), name),
            ).rowcount

    def look(self) -> None:
        """Called every second or so: what is over is removed, and the file is put in order. What
        takes long is gone on with at the next look."""
        until = time.monotonic() + _WHILE
        while time.monotonic() < until and self._remove(
            "SELECT id, session, text FROM items WHERE expires <= ? ORDER BY expires LIMIT ?",
            (self._wall(), _FEW),
        ):
            pass
        self._make_room(until)
        self._give_back(until)

    # --- within ----------------------------------------------------------------------------------

    def _numbered(self, scope: str, session: str) -> int:
        name = self.names.session(scope, session)
        found = self._db.execute("SELECT number FROM sessions WHERE name = ?", (name,)).fetchone()
        if found is not None:
            return int(found[0])
        made = self._db.execute(
            "INSERT INTO sessions (scope, name, latest) VALUES (?, ?, 0)",
            (self.names.scope(scope), name),
        )
        assert made.lastrowid is not None
        return made.lastrowid

    def _remove(self, which: str, values: tuple[object, ...]) -> int:
        """What `which` selects, a part at a time: others shall have their turn. How many."""
        with told(self._path):
            if self._db.execute(which, values).fetchone() is None:
                return 0
            with transaction(self._db):
                rows = self._db.execute(which, values).fetchall()
                for id_, session, text in rows:
                    self._db.executemany(
                        "DELETE FROM words WHERE session = ? AND term = ? AND item = ?",
                        [(session, term, id_) for term in terms(text)],
                    )
                self._db.executemany("DELETE FROM items WHERE id = ?", [(row[0],) for row in rows])
                self._db.executemany(
                    "DELETE FROM sessions WHERE number = ?1"
                    " AND NOT EXISTS (SELECT 1 FROM items WHERE session = ?1)",
                    [(session,) for session in {row[1] for row in rows}],
                )
        self._removed = True
        return len(rows)

    def _make_room(self, until: float) -> None:
        """The sessions that were left longest ago go, until the file is well below its largest
        size, or a moment has come on the monotonic clock.

        Whole sessions: each has pages of its own in the file, which are free then.
        """
        if self._used() <= self._max_size:
            return
        while self._used() > _ROOM * self._max_size and time.monotonic() < until:
            if not self._remove(
                "SELECT id, session, text FROM items WHERE session ="
                " (SELECT number FROM sessions ORDER BY latest LIMIT 1) ORDER BY id LIMIT ?",
                (_FEW,),
            ):
                return

    def _give_back(self, until: float) -> None:
        """The file shrinks by what it does not need."""
        with told(self._path):
            while self._free() and time.monotonic() < until:
                with transaction(self._db):
                    self._db.execute(f"PRAGMA incremental_vacuum({_PAGES})").fetchall()
            if self._removed and time.monotonic() < until:
                self._removed = False
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _free(self) -> int:
        (pages,) = self._db.execute("PRAGMA freelist_count").fetchone()
        return int(pages)

    def _used(self) -> int:
        """Bytes."""
        with told(self._path):
            (pages,) = self._db.execute("PRAGMA page_count").fetchone()
            (size,) = self._db.execute("PRAGMA page_size").fetchone()
            return (int(pages) - self._free()) * int(size)
