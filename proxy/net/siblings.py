"""Processes on one machine tell each other something over Unix sockets: connect, read to the end.

Nothing is asked: who connects is told. The folder that holds the sockets says who may.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

_WITHIN = 2.0
"""Seconds for a sibling to tell everything. It takes some tenths of one when there are many series
and the machine is busy."""
_AT_ONCE = 16
"""Siblings asked at the same time."""
_LARGEST = 64 * 1024 * 1024
"""Bytes that are taken from one."""
_READ = 256 * 1024


class Teller:
    """Tells whoever connects to a Unix socket. `start` once, `close` once."""

    def __init__(self, path: Path, prepare: Callable[[], None], tell: Callable[[], bytes]) -> None:
        """For each that connects, `prepare` is called on the loop and then `tell` in a thread."""
        self._path = path
        self._prepare = prepare
        self._tell = tell
        self._one = asyncio.Lock()
        self._telling: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises OSError."""
        self._server = await asyncio.start_unix_server(self._connected, self._path)
        self._path.chmod(0o600)

    async def close(self) -> None:
        """Nobody new is told; who is being told gets some seconds for the rest."""
        if self._server is None:
            return
        self._server.close()
        if self._telling:
            await asyncio.wait(self._telling, timeout=_WITHIN)
        for task in tuple(self._telling):
            task.cancel()
        await asyncio.gather(*self._telling, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _connected(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._telling.add(task)
        try:
            async with self._one:
                self._prepare()
                told = await asyncio.to_thread(self._tell)
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_WITHIN):
                    writer.write(told)
                    writer.close()
                    await writer.wait_closed()
        finally:
            writer.transport.abort()
            self._telling.discard(task)


def ask(paths: Sequence[Path], within: float = _WITHIN) -> list[bytes | None]:
    """What is told at each path; `None` where nothing is, not all of it in time, or too much.

    Blocks for `within` seconds at most, whatever the others do.
    """
    if not paths:
        return []
    deadline = time.monotonic() + within
    with ThreadPoolExecutor(min(len(paths), _AT_ONCE), "ask") as threads:
        return list(threads.map(lambda path: _ask(path, deadline), paths))


def _ask(path: Path, deadline: float) -> bytes | None:
    told = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(_left(deadline))
            asking.connect(str(path))
            while data := asking.recv(_READ):
                told += data
                if len(told) > _LARGEST:
                    return None
                asking.settimeout(_left(deadline))
    except OSError:
        return None
    return bytes(told)


def _left(deadline: float) -> float:
    """Seconds until then. Raises TimeoutError when there are none: 0 would mean not to wait."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
