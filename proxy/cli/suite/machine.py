"""What machine this is, and how busy it was: figures of a busy one say little."""

from __future__ import annotations

import os
import platform
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
    """The share of all processors that was in use since this was made, by whomever."""

    def __init__(self) -> None:
        self._begun = _ticks()

    def share(self) -> float | None:
        """None where the system does not say."""
        if self._begun is None or (now := _ticks()) is None:
            return None
        total, idle = now[0] - self._begun[0], now[1] - self._begun[1]
        return 1.0 - idle / total if total > 0 else None


def _ticks() -> tuple[int, int] | None:
    """All time and idle time of all processors."""
    try:
        line = _STAT.read_text().splitlines()[0]
    except OSError:
        return None
    # The last two of ten are of guests, and counted before.
    numbers = [int(word) for word in line.split()[1:9]]
    return sum(numbers), sum(numbers[_IDLE])
