"""Requests by the thousand, each as it is written, over a few kept connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

AT_ONCE = 8
"""Connections."""
LONGEST = 10.0
"""Seconds for one answer; a guard, no measure."""


class Got(NamedTuple):
    """An answer's status and body; 0: the connection was closed without one."""

    status: int
    body: bytes = b""


class _Connection:
    """One connection, opened anew when the other side has closed it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes) -> Got:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(*self._address)
        self._writer.write(request)
        try:
            async with asyncio.timeout(LONGEST):
                return await self._answer(without_body=request.startswith(b"HEAD "))
        except (asyncio.IncompleteReadError, ConnectionError):
            await self.close()
            return Got(0)

    async def _answer(self, *, without_body: bool) -> Got:
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split(b" ", 2)[1])
        body = b""
        length = _field(head, b"content-length")
        if without_body or status in (204, 304):
            pass
        elif length is not None:
            body = await self._reader.readexactly(int(length))
        else:  # a stream: its head says enough
            await self.close()
            return Got(status)
        if _field(head, b"connection") == b"close" or head.startswith(b"http/1.0"):
            await self.close()
        return Got(status, body)

    async def close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def _field(head: bytes, name: bytes) -> bytes | None:
    _, found, rest = head.partition(b"\r\n" + name + b":")
    return rest.partition(b"\r\n")[0].strip() if found else None


async def ask_all(address: tuple[str, int], requests: Sequence[bytes]) -> list[Got]:
    """An answer for each request, in their order."""
    got: list[Got] = [Got(0)] * len(requests)
    waiting = iter(enumerate(requests))

    async def work(share: Iterable[tuple[int, bytes]]) -> None:
        connection = _Connection(address)
        try:
            for index, request in share:
                got[index] = await connection.ask(request)
        finally:
            await connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work(waiting))
    return got
