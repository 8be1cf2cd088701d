"""A server that answers whatever a test wants where Redis was expected, and a road that is slow."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tests.state.servers import free_port

Answer = Callable[[list[bytes]], bytes]
"""What is sent for a command and its arguments."""


@asynccontextmanager
async def lying(answer: Answer) -> AsyncIterator[int]:
    """The port of a server that reads commands as Redis does."""
    peer = _Peer(answer)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in peer.writers:
            writer.transport.abort()
        await server.wait_closed()


class _Peer:
    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while head := await reader.readline():
                count = int(head[1:])
                command = []
                for _ in range(count):
                    size = int((await reader.readline())[1:])
                    command.append((await reader.readexactly(size + 2))[:-2])
                writer.write(self._answer(command))
                await writer.drain()
        writer.close()


class Road:
    """A TCP relay to a port: how long everything takes on its way, and what is lost on it."""

    def __init__(self, to: int) -> None:
        self._to = to
        self.port = free_port()
        self.delay = 0.0
        """Seconds, for each read in either direction."""
        self.loses_answers = False
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Road:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, out = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.close()
            return
        self._writers += [writer, out]
        await asyncio.gather(
            self._pass(reader, out, answers=False), self._pass(there, writer, answers=True)
        )

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                if answers and self.loses_answers:
                    continue
                writer.write(data)
                await writer.drain()
        writer.close()
