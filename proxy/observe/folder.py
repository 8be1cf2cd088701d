"""The folder in which processes that are scraped as one find each other, and outlive themselves.

Each process has files there, named by an id of its own:

    ID.lock   held (flock) as long as the process lives: what tells the living from the gone, as
              process numbers are given again
    ID.sock   where it tells its figures
    ID.http   where it is asked for streams that it keeps
    ID.json   the figures it told last

Who looks finds the gone and folds their figures into `gone.json`, so that neither counts nor
restarts are lost, nor does the folder grow. That file also names those it holds: ended between the
fold and the removal of a file, nothing is counted twice. `folder.lock` lets one at a time look.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from proxy.observe.app_log import LOGGER
from proxy.observe.merge import Family, Snapshot, lasting, merge
from proxy.observe.snapshot import decode, encode

log = logging.getLogger(LOGGER)

_LONGEST_ADDRESS = 107
"""Bytes of a Unix socket's path (unix(7): 108 with the zero at its end)."""
_PATIENCE = 2.0
"""Seconds to wait for whoever looks just now; it takes them milliseconds."""
_PAUSE = 0.005
"""Seconds between two tries."""
_LARGEST = 64 * 1024 * 1024
"""Bytes of a file that are read."""
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Links are not followed, and a pipe by the name of a file stops nobody."""
_LOCKS = re.compile(r"([0-9a-f]{16})\.lock")
_GONE = "gone.json"


class CannotShare(Exception):
    """The folder cannot be used. `str()` is one line for the operator."""

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(folder, why)
        self.folder = folder
        self.why = why

    def __str__(self) -> str:
        return f"metrics.folder {self.folder} {self.why}"


class Others(NamedTuple):
    """Who else there is."""

    alive: Mapping[str, bytes]
    """By id: what each left last; empty if nothing."""
    gone: tuple[Family, ...]
    """Counters and histograms of all that are gone."""


class Folder:
    """One process's place in the folder. May be used in any thread; blocks for milliseconds."""

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._id = secrets.token_hex(8)
        self._folder = -1
        self._life = -1
        self._past: tuple[bytes | None, Snapshot] = (None, Snapshot(()))
        """What `gone.json` held when it was looked at last: it seldom changes."""

    def socket(self, one: str | None = None) -> Path:
        """Where the process with that id, or this one, tells its figures."""
        return self._path / f"{one or self._id}.sock"

    @property
    def id(self) -> str:
        """This process's, 16 hex digits."""
        return self._id

    def relay(self, one: str) -> Path:
        """Where the process with that id is asked for streams that it keeps."""
        return self._path / f"{one}.http"

    def enter(self) -> None:
        """Be there from now on, for the others. Raises CannotShare."""
        over = len(os.fsencode(self.socket())) - _LONGEST_ADDRESS
        if over > 0:
            raise CannotShare(self._path, f"is {over} bytes too long for the path of a socket")
        try:
            self._folder = self._opened()
            with self._alone():
                self._life = self._open(f"{self._id}.lock", os.O_RDWR | os.O_CREAT | os.O_EXCL)
                fcntl.flock(self._life, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.look()
        except OSError as error:
            self.leave()
            reason = error.strerror or str(error)
            raise CannotShare(
                self._path, f"cannot be used ({reason}); name a folder that this user may make"
            ) from None

    def _opened(self) -> int:
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        found = os.fstat(folder)
        wrong = None
        if found.st_uid != os.geteuid():
            wrong = "belongs to another user"
        elif found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            wrong = "can be written to by other users; chmod 700 it"
        if wrong is not None:
            os.close(folder)
            raise CannotShare(self._path, wrong)
        return folder

    def keep(self, figures: bytes) -> None:
        """These are the figures told last. Without room on the disk the ones before stay."""
        try:
            self._write(f"{self._id}.json", figures)
        except OSError as error:
            log.warning("metrics.folder %s: figures are not kept: %s", self._path, error)

    def leave(self) -> None:
        """Be gone, for the others. The figures kept last stay in the sum."""
        for held in (self._life, self._folder):
            if held >= 0:
                os.close(held)
        self._life = self._folder = -1

    def look(self) -> Others:
        """Who else is there, and what the gone had counted.

        Raises OSError when that cannot be known: to leave somebody out would look like a restart.
        """
        with self._alone():
            found = (_LOCKS.fullmatch(name) for name in self._files())
            ids = [one[1] for one in found if one is not None and one[1] != self._id]
            alive = [one for one in ids if self.lives(one)]
            gone = self._fold([one for one in ids if one not in alive])
            return Others({one: self._read(f"{one}.json") or b"" for one in alive}, gone)

    def lives(self, one: str) -> bool:
        """Whether the process with that id does."""
        try:
            lock = self._open(f"{one}.lock", os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    # --- the gone ------------------------------------------------------------------------------

    def _fold(self, ids: list[str]) -> tuple[Family, ...]:
        data = self._read(_GONE)
        if data != self._past[0]:
            self._past = (data, self._figures(_GONE, data))
        past = self._past[1]
        new = [one for one in ids if one not in past.folded]
        if new:
            names = [f"{one}.json" for one in new]
            left = (lasting(self._figures(name, self._read(name)).families) for name in names)
            # Those folded before whose files are no more need no longer be named.
            past = Snapshot(merge([past.families, *left], {}), frozenset(ids))
            try:
                self._write(_GONE, encode(past))
            except OSError as error:
                log.warning("metrics.folder %s: nothing is folded: %s", self._path, error)
                return past.families
        for one in ids:
            # The lock last: without it nobody would find the others.
            for kind in ("sock", "http", "json", "json.tmp", "lock"):
                self._remove(f"{one}.{kind}")
        return past.families

    def _figures(self, name: str, data: bytes | None) -> Snapshot:
        """What a file has; one that cannot be understood is moved aside."""
        if data is None:
            return Snapshot(())
        try:
            return decode(data)
        except ValueError as error:
            aside = f"{name}.damaged"
            os.replace(name, aside, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            log.warning("metrics.folder: %s is damaged (%s)", self._path / aside, error)
            return Snapshot(())

    # --- files ---------------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[None]:
        lock = self._open("folder.lock", os.O_RDWR | os.O_CREAT)
        try:
            _flock(lock)
            yield
        finally:
            os.close(lock)

    def _files(self) -> list[str]:
        with os.scandir(self._folder) as entries:
            return [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | _OPEN, 0o600, dir_fd=self._folder)

    def _read(self, name: str) -> bytes | None:
        """`None` if there is no such file; nothing if it is none that we wrote."""
        try:
            file = self._open(name, os.O_RDONLY)
        except FileNotFoundError:
            return None
        except OSError:
            return b""
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST:
                return b""
            with open(file, "rb", closefd=False) as reading:
                return reading.read()
        finally:
            os.close(file)

    def _write(self, name: str, data: bytes) -> None:
        """All of it or nothing: who is killed meanwhile leaves what was there."""
        new = f"{name}.tmp"
        self._remove(new)
        with open(self._open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as writing:
            writing.write(data)
        os.replace(new, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._folder)


def _flock(lock: int) -> None:
    """Raises TimeoutError when somebody holds it who does not move."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError("another process holds folder.lock and does not move") from None
            time.sleep(_PAUSE)
