"""A sink that is awaited: for callers that read a response instead of forwarding it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from proxy.errors import AnswerTooLarge, UpstreamError
from proxy.net.h2.state import Head
from proxy.net.h2.stream import Stream, copy_of

if TYPE_CHECKING:
    from proxy.net.h2.connection import Connection

_HIGH_WATER = 64 * 1024
"""Unread bytes over which the stream is paused."""


class Reader:
    """`await reader.head()`, then `await reader.read()` or `async for chunk in reader`.

    Every method raises the stream's error once what came before it is read. One task at a time.
    """

    def __init__(self) -> None:
        self.trailers: list[tuple[bytes, bytes]] = []
        self.stream: Stream | None = None
        self._head: Head | None = None
        self._chunks: list[bytes] = []
        self._held = 0
        self._ended = False
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @classmethod
    def open(
        cls,
        connection: Connection,
        headers: list[tuple[bytes, bytes]],
        body: bytes = b"",
        end: bool = True,
    ) -> Reader:
        """`Connection.request` with a new reader as its sink. Raises `Refused`."""
        reader = cls()
        reader.stream = connection.request(headers, reader, body, end)
        return reader

    async def head(self) -> Head:
        """The response head."""
        while self._head is None:
            self._raise_error()
            await self._wait()
        return self._head

    async def read(self, limit: int | None = None) -> bytes:
        """The whole body. Over `limit` bytes: the stream is cancelled, raises `AnswerTooLarge`."""
        parts: list[bytes] = []
        size = 0
        async for chunk in self:
            parts.append(chunk)
            size += len(chunk)
            if limit is not None and size > limit:
                self.cancel()
                raise AnswerTooLarge(f"the upstream's answer is over {limit} bytes")
        return b"".join(parts)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            if self._chunks:
                yield self._take()
            elif self._ended:
                return
            else:
                self._raise_error()
                await self._wait()

    def cancel(self) -> None:
        """Give the response up; the connection lives on."""
        if self.stream is not None:
            self.stream.cancel()

    # --- Sink ------------------------------------------------------------------------------------

    def on_head(self, head: Head) -> None:
        self._head = head
        self._wake()

    def on_data(self, data: bytes) -> None:
        self._chunks.append(data)
        self._held += len(data)
        if self._held > _HIGH_WATER and self.stream is not None:
            self.stream.pause_reading()
        self._wake()

    def on_end(self, trailers: list[tuple[bytes, bytes]]) -> None:
        self.trailers = trailers
        self._ended = True
        self._wake()

    def on_error(self, error: UpstreamError) -> None:
        self._error = error
        self._wake()

    # --- inside ----------------------------------------------------------------------------------

    def _take(self) -> bytes:
        data = b"".join(self._chunks)
        self._chunks.clear()
        self._held = 0
        if self.stream is not None:
            self.stream.resume_reading()
        return data

    def _raise_error(self) -> None:
        if self._error is not None:
            raise copy_of(self._error)

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("another task reads this response")
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
