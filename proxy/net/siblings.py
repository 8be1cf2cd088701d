"""Processes on one machine tell each other something over Unix sockets: connect, read to the end.

Who connects says in a line what it asks for: nothing, for what is always told. The folder that
holds the sockets says who may.
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
_QUESTION = 1.0
"""Seconds for a question; without one in time there is none."""
_AT_ONCE = 16
"""Siblings asked at the same time."""
_LARGEST = 64 * 1024 * 1024
"""Bytes that are taken from one."""
_READ = 256 * 1024


class Teller:
    """Tells whoever connects to a Unix socket. `start` once, `close` once."""

    def __init__(
        self,
        path: Path,
        prepare: Callable[[], None],
        tell: Callable[[], bytes],
        answer: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """For each that connects, `prepare` is called on the loop and then `tell` in a thread; for
        one that asks, `answer` on the loop instead."""
        self._path = path
        self._answer = answer
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

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._telling.add(task)
        try:
            told = await self._told(reader)
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_WITHIN):
                    writer.write(told)
                    writer.close()
                    await writer.wait_closed()
        finally:
            writer.transport.abort()
            self._telling.discard(task)

    async def _told(self, reader: asyncio.StreamReader) -> bytes:
        # What is left unread when a Unix socket is closed is a reset for the other side.
        question = await _question(reader)
        if question and self._answer is not None:
            return self._answer(question)
        async with self._one:
            self._prepare()
            return await asyncio.to_thread(self._tell)


async def _question(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(_QUESTION):
            return (await reader.readuntil(b"\n")).strip()
    except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError):
        return b""


def ask(
    paths: Sequence[Path], within: float = _WITHIN, question: bytes = b""
) -> list[bytes | None]:
    """What is told at each path; `None` where nothing is, not all of it in time, or too much.

    Blocks for `within` seconds at most, whatever the others do.
    """
    if not paths:
        return []
    deadline = time.monotonic() + within
    with ThreadPoolExecutor(min(len(paths), _AT_ONCE), "ask") as threads:
        return list(threads.map(lambda path: _ask(path, deadline, question), paths))


def _ask(path: Path, deadline: float, question: bytes) -> bytes | None:
    told = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(_left(deadline))
            asking.connect(str(path))
            asking.sendall(question + b"\n")
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
