"""What is used of the limits, in a SQLite file that the processes of one machine share.

Times are those of the monotonic clock, which all processes of a machine have in common. After the
machine starts anew that clock begins again, and what lies in the future was written before: it is
forgotten. Only tokens per day go by the calendar, and are kept. Losing the file loses counts and
nothing else, so nothing here waits for the disk.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

from proxy.core.policy.limits import (
    DAY,
    LEASE,
    MOST_SUBJECTS,
    WINDOW,
    Taken,
    Used,
    Want,
    Window,
    decide,
)
from proxy.state.counting import ALIVE, MOST_TEACHERS, Held, Settlement
from proxy.state.owed import Owed
from proxy.state.sqlite.database import Schema, opened, told, transaction

SCHEMA: Final = Schema(
    0x676C6D63,  # "glmc"
    (
        """
        CREATE TABLE used (
            subject TEXT PRIMARY KEY, at INTEGER NOT NULL,
            requests_index INTEGER NOT NULL, requests_before INTEGER NOT NULL,
            requests_count INTEGER NOT NULL,
            tokens_index INTEGER NOT NULL, tokens_before INTEGER NOT NULL,
            tokens_count INTEGER NOT NULL,
            day INTEGER NOT NULL, today INTEGER NOT NULL
        ) WITHOUT ROWID;
        CREATE INDEX used_at ON used (at);
        CREATE TABLE places (
            subject TEXT NOT NULL, lease TEXT NOT NULL, ends INTEGER NOT NULL,
            PRIMARY KEY (subject, lease)
        ) WITHOUT ROWID;
        CREATE INDEX places_by_lease ON places (lease);
        CREATE TABLE replicas (id TEXT PRIMARY KEY, ends INTEGER NOT NULL) WITHOUT ROWID;
        CREATE TABLE lessons (id TEXT PRIMARY KEY, ends INTEGER NOT NULL, body BLOB NOT NULL);
        PRAGMA application_id = 0x676C6D63;
        PRAGMA user_version = 1
        """,
    ),
)
_LEASE: Final = round(LEASE * 1000)
_ALIVE: Final = round(ALIVE * 1000)


class CountsFile:
    """Open from the start, for the thread that owns it. Everything raises StateError."""

    def __init__(
        self,
        path: Path,
        busy: float,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`busy`: seconds that a count waits for another process's."""
        self._path = path
        self._clock = clock
        self._wall = wall
        self._id = secrets.token_hex(8)
        self._db = opened(path, SCHEMA, busy=busy, synchronous="OFF")

    def close(self) -> None:
        with told(self._path):
            self._db.close()

    def take(self, wants: Sequence[Want], lease: str) -> Taken:
        with told(self._path), transaction(self._db):
            at, wall = self._now(), self._wall()
            subjects = [
                (want, self._load(want, at, wall), self._running(want, at)) for want in wants
            ]
            taken = decide(subjects, at, wall)
            if taken.refused is None:
                for want, used, _ in subjects:
                    self._store(want.subject, used, at)
                    self._hold(want.subject, lease, at)
        return taken

    def settle(self, settlements: Sequence[Settlement]) -> None:
        with told(self._path), transaction(self._db):
            at, wall = self._now(), self._wall()
            for wants, lease, tokens in settlements:
                for want in wants:
                    held = self._release(want.subject, lease, at)
                    if tokens is not None:
                        used = self._load(want, at, wall)
                        used.settle(want, tokens, held)
                        self._store(want.subject, used, at)

    def renew(self, held: Collection[Held], *, again: bool) -> None:
        with told(self._path), transaction(self._db):
            at = self._now()
            for lease, wants in held:
                if again:
                    for want in wants:
                        self._hold(want.subject, lease, at)
                else:
                    self._db.execute(
                        "UPDATE places SET ends = ? WHERE lease = ? AND ends > ?",
                        (at + _LEASE, lease, at),
                    )

    def add(self, owed: Sequence[Owed]) -> None:
        with told(self._path), transaction(self._db):
            at, wall = self._now(), self._wall()
            for want, requests, tokens, today in owed:
                used = self._load(want, at, wall)
                used.requests.add(requests)
                used.tokens.add(tokens)
                used.today += today
                self._store(want.subject, used, at)

    def beat(self) -> int:
        """Besides, what nobody needs any more is removed."""
        with told(self._path), transaction(self._db):
            at = self._now()
            self._db.execute("REPLACE INTO replicas VALUES (?, ?)", (self._id, at + _ALIVE))
            for statement, ends in (
                ("DELETE FROM replicas WHERE ends NOT BETWEEN ? AND ?", at + _ALIVE),
                ("DELETE FROM lessons WHERE ends NOT BETWEEN ? AND ?", at + _LEASE),
                ("DELETE FROM places WHERE ends NOT BETWEEN ? AND ?", at + _LEASE),
            ):
                self._db.execute(statement, (at + 1, ends))
            self._db.execute(
                "DELETE FROM used WHERE at NOT BETWEEN ? AND ? AND day < ?",
                (at - DAY * 1000, at, int(self._wall() // DAY)),
            )
            self._db.execute(
                "DELETE FROM used WHERE at <="
                " (SELECT at FROM used ORDER BY at DESC LIMIT 1 OFFSET ?)",
                (MOST_SUBJECTS,),
            )
            (replicas,) = self._db.execute("SELECT count(*) FROM replicas").fetchone()
        return int(replicas)

    def leave(self) -> None:
        with told(self._path), transaction(self._db):
            self._db.execute("DELETE FROM replicas WHERE id = ?", (self._id,))

    def swap(self, lessons: bytes) -> list[bytes]:
        with told(self._path), transaction(self._db):
            at = self._now()
            row = (self._id, at + _ALIVE, lessons)
            self._db.execute("REPLACE INTO lessons VALUES (?, ?, ?)", row)
            found = self._db.execute(
                "SELECT body FROM lessons WHERE id <> ? AND ends BETWEEN ? AND ? LIMIT ?",
                (self._id, at + 1, at + _LEASE, MOST_TEACHERS),
            ).fetchall()
        return [body for (body,) in found if isinstance(body, bytes)]

    # --- rows ----------------------------------------------------------------------------------

    def _load(self, want: Want, at: int, wall: float) -> Used:
        row = self._db.execute(
            "SELECT requests_index, requests_before, requests_count,"
            " tokens_index, tokens_before, tokens_count, day, today FROM used WHERE subject = ?",
            (want.subject,),
        ).fetchone()
        used = Used()
        if row is not None:
            _fill(used.requests, at, *row[0:3])
            _fill(used.tokens, at, *row[3:6])
            used.day, used.today = row[6:8]
        used.roll(want.allowance, at, int(wall // DAY))
        return used

    def _store(self, subject: str, used: Used, at: int) -> None:
        windows = (used.requests, used.tokens)
        counts = [n for one in windows for n in (one.index, one.before, one.count)]
        self._db.execute(
            "REPLACE INTO used VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (subject, at, *counts, used.day, used.today),
        )

    def _running(self, want: Want, at: int) -> int:
        if want.allowance.concurrent is None:
            return 0
        (running,) = self._db.execute(
            "SELECT count(*) FROM places WHERE subject = ? AND ends BETWEEN ? AND ?",
            (want.subject, at + 1, at + _LEASE),
        ).fetchone()
        return int(running)

    def _hold(self, subject: str, lease: str, at: int) -> None:
        self._db.execute("REPLACE INTO places VALUES (?, ?, ?)", (subject, lease, at + _LEASE))

    def _release(self, subject: str, lease: str, at: int) -> bool:
        """Whether it was held."""
        place = (subject, lease)
        row = self._db.execute(
            "SELECT ends FROM places WHERE subject = ? AND lease = ?", place
        ).fetchone()
        self._db.execute("DELETE FROM places WHERE subject = ? AND lease = ?", place)
        return row is not None and at < row[0] <= at + _LEASE

    def _now(self) -> int:
        return round(self._clock() * 1000)


def _fill(window: Window, at: int, index: int, before: int, count: int) -> None:
    """Unless it is of before the machine's last start."""
    if index <= at // WINDOW:
        window.index, window.before, window.count = index, before, count
