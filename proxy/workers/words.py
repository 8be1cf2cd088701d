"""What the operator reads of a process on its standard streams, besides the log."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from proxy import __version__
from proxy.config import Problem
from proxy.net.listen import url_of

OUT: Final = 1
ERROR: Final = 2


def say(text: str, stream: int) -> None:
    """Lines for the operator. Where they cannot be written (a full disk, a pipe that nobody reads)
    the proxy goes on without."""
    with suppress(OSError):
        if select.select((), (stream,), (), 0)[1]:
            os.write(stream, f"{text}\n".encode())


class Direct:
    """Writes log lines without a thread, which a process that forks must not have."""

    def __init__(self, stream: int) -> None:
        self._stream = stream

    def write(self, line: bytes) -> None:
        say(line.decode().removesuffix("\n"), self._stream)


def listening(data: tuple[str, int], admin: tuple[str, int]) -> str:
    return f"glm-proxy {__version__} listens on {url_of(data)}, admin on {url_of(admin)}"


def stopping(timeout: float) -> str:
    return f"stopping within {timeout:g}s; a second signal ends within 2s"


def refused(problems: Iterable[Problem]) -> str:
    """New settings that are not used, with every reason."""
    return "\n".join(
        ["glm-proxy: the settings stay as they were", *(f"  {one}" for one in problems)]
    )
