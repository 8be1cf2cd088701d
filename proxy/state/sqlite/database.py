"""A SQLite file: made for its user alone, checked, and brought to the form this version knows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, NamedTuple

from proxy.state.home import StateError

_PATIENCE: Final = 5.0
"""Seconds to wait for others who open the same file at the same moment."""
_SYNCHRONOUS: Final = {
    "FULL": "PRAGMA synchronous=FULL",
    "NORMAL": "PRAGMA synchronous=NORMAL",
    "OFF": "PRAGMA synchronous=OFF",
}
_DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_BUSY: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class Damaged(StateError):
    """The file is not a database, or not a sound one."""


class Schema(NamedTuple):
    """What is in a file."""

    application: int
    """`PRAGMA application_id`, by which a file of another program is told apart."""
    steps: tuple[str, ...]
    """Statements that lead from each version to the next, from an empty file on; the last of each
    sets `user_version`. Never change a step that was released: add another."""

    @property
    def version(self) -> int:
        return len(self.steps)


def opened(
    path: Path,
    schema: Schema,
    *,
    busy: float,
    synchronous: Literal["FULL", "NORMAL", "OFF"],
    shrinks: bool = False,
) -> sqlite3.Connection:
    """The file at `path`, made if it is missing. `busy`: seconds to wait for others who write;
    `shrinks`: a new one can give back what it needs no more (`PRAGMA incremental_vacuum`).

    Raises StateError, and Damaged where another file would help.
    """
    with told(path):
        _make(path)
        connection = sqlite3.connect(path, timeout=busy, isolation_level=None)
        try:
            _prepare(connection, path, schema, shrinks=shrinks)
            _keep_to_its_user(path)  # only now: another program's file is left as it is
            connection.execute(_SYNCHRONOUS[synchronous])
        except BaseException:
            connection.close()
            raise
        return connection


@contextmanager
def told(path: Path) -> Iterator[None]:
    """What SQLite and the system say, as StateError."""
    try:
        yield
    except sqlite3.Error as error:
        raise _explained(path, error) from None
    except OSError as error:
        why = f"{error.strerror}; see to its folder, or name another file"
        raise StateError(f"{path} cannot be used: {why}") from None


@contextmanager
def transaction(
    connection: sqlite3.Connection, begin: Literal["BEGIN", "BEGIN IMMEDIATE"] = "BEGIN IMMEDIATE"
) -> Iterator[None]:
    """All of it or nothing, and nobody else writes meanwhile; with BEGIN, what is read is of one
    moment."""
    connection.execute(begin)
    try:
        yield
    except BaseException:
        # SQLite has rolled back by itself after some errors.
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Among the processes of this machine that replace the file. Raises StateError."""
    with told(path):
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def move_aside(path: Path) -> Path:
    """Out of the way, with what belongs to it; where to. Raises StateError."""
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns() // 1_000_000}")
    with told(path):
        for end in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}{end}", f"{aside}{end}")
    return aside


def remove(path: Path) -> None:
    """Raises StateError."""
    with told(path):
        for end in ("-wal", "-shm", ""):
            Path(f"{path}{end}").unlink(missing_ok=True)


def _make(path: Path) -> None:
    """Only its user may read it; SQLite gives the files beside it the same mode."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _keep_to_its_user(path: Path) -> None:
    """A file that was there may have let others read it, and with it those beside it."""
    for end in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            if os.stat(f"{path}{end}").st_mode & 0o177:
                os.chmod(f"{path}{end}", 0o600)


def _prepare(connection: sqlite3.Connection, path: Path, schema: Schema, *, shrinks: bool) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            # First of all: what it finds here decides whether the file may be touched.
            with transaction(connection, "BEGIN"):
                _recognize(connection, path, schema)
            if shrinks:  # it can only be said of a file that is still empty
                connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            # Everybody who has the file open notices a change of this mode; SQLite does not wait
            # for them by itself.
            (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _BUSY or time.monotonic() >= until:
                raise
            time.sleep(0.02)
    if mode != "wal":
        raise StateError(f"{path} is on a file system that SQLite cannot share; use a local one")
    with transaction(connection):
        version = _recognize(connection, path, schema)
        for step in schema.steps[version:]:
            for statement in filter(str.strip, step.split(";")):
                connection.execute(statement)
    if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
        raise Damaged(f"{path} is damaged")


def _recognize(connection: sqlite3.Connection, path: Path, schema: Schema) -> int:
    """The version of what is there; 0: nothing. Raises StateError for what is not ours."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != schema.application and (application or version or tables):
        raise StateError(f"{path} belongs to another program; name another file")
    if version > schema.version:
        raise StateError(
            f"{path} was written by a newer glm-proxy (form {version}; this one knows"
            f" {schema.version}); use that version, or another file"
        )
    return int(version)


def _explained(path: Path, error: sqlite3.Error) -> StateError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _DAMAGED:
        return Damaged(f"{path} is damaged")
    return StateError(f"{path} cannot be used: {_WORDS.get(code, 'SQLite failed')}")


_WORDS: Final = {
    sqlite3.SQLITE_BUSY: "another process has been writing to it for too long",
    sqlite3.SQLITE_LOCKED: "another process has been writing to it for too long",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_IOERR: "the disk fails, or is full",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_PERM: "permission denied",
    sqlite3.SQLITE_NOMEM: "out of memory",
}
