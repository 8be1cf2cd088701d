"""What machine this is, and how busy it was: figures of a busy one say little."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

_STAT = Path("/proc/stat")
_IDLE = slice(3, 5)
"""Idle, and waiting for a disk, among the numbers of the first line (Linux)."""


def describe() -> str:
    """Processors, system and Python, in one line."""
    return (
        f"{os.cpu_count()} × {platform.machine()}, {platform.system()} {platform.release()},"
        f" Python {platform.python_version()}"
    )


class Busy:
    """The shares of all processors that were in use since this was made.

    `pids` are the processes of the suite beside this one.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._begun = _ticks()
        self._own = self._used()

    def share(self) -> float | None:
        """By whomever; None where the system does not say."""
        passed = self._passed()
        return None if passed is None else 1.0 - passed[1] / passed[0]

    def own(self) -> float | None:
        """By the suite alone; None where the system does not say."""
        passed, used = self._passed(), self._used()
        return None if passed is None else (used - self._own) / passed[0]

    def _used(self) -> int:
        return _used("self") + sum(map(_used, self._pids))

    def _passed(self) -> tuple[int, int] | None:
        if self._begun is None or (now := _ticks()) is None or now[0] == self._begun[0]:
            return None
        return now[0] - self._begun[0], now[1] - self._begun[1]


def _used(pid: int | str) -> int:
    """What one process has had of the processors, in the same ticks; 0 where it is not known."""
    try:
        # After the name, which may hold anything but ends with the last bracket.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


def _ticks() -> tuple[int, int] | None:
    """All time and idle time of all processors."""
    try:
        line = _STAT.read_text().splitlines()[0]
    except OSError:
        return None
    # The last two of ten are of guests, and counted before.
    numbers = [int(word) for word in line.split()[1:9]]
    return sum(numbers), sum(numbers[_IDLE])
