"""A data listener whose every request becomes a WebSocket, and a client that writes raw frames."""

from __future__ import annotations

import asyncio
import contextlib
import socket as sockets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from proxy.config import WebSocketLimits
from proxy.core.wire import websocket as wire
from proxy.core.wire.websocket import Close, Event, Frames, Message
from proxy.errors import ProxyError
from proxy.net.data_server import DataServer
from proxy.net.door import Door, HardLimits
from proxy.net.halves import Client
from proxy.net.websocket import Socket

KEY = b"\x12\x34\x56\x78"
ASKING = (
    "Host: proxy",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


class RawSocket:
    """One connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._frames = Frames(1 << 24, masked=False)

    def ask(self, *lines: str, path: str = "/", behind: bytes = b"") -> None:
        """The request; `behind` goes in the same packet."""
        head = "\r\n".join([f"GET {path} HTTP/1.1", *(lines or ASKING), "", ""])
        self.writer.write(head.encode() + behind)

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the answer."""
        text = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = text.rstrip().split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}

    def say(self, opcode: int, payload: bytes = b"") -> None:
        self.writer.write(wire.encode(opcode, payload, KEY))

    async def hear(self) -> Event | None:
        """The next frame; None: the connection ended."""
        while (event := self._frames.next()) is None:
            try:
                data = await self.reader.read(1 << 16)
            except ConnectionError:
                return None
            if not data:
                return None
            self._frames.feed(data)
        return event

    async def hear_all(self) -> list[Event]:
        """Up to the end of the connection."""
        heard: list[Event] = []
        while (event := await self.hear()) is not None:
            heard.append(event)
        return heard

    async def ended_with(self) -> int | None:
        """The code of the last Close, the connection being closed behind it; None without one."""
        closes = [one for one in await self.hear_all() if isinstance(one, Close)]
        return closes[-1].code if closes else None

    def close(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def raw_socket(
    address: tuple[str, int], *, opened: bool = True, receive: int | None = None
) -> AsyncIterator[RawSocket]:
    """`opened`: the handshake is done. `receive`: bytes that its kernel holds for it."""
    own = sockets.socket()
    own.setblocking(False)
    if receive is not None:
        own.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, receive)
    await asyncio.get_running_loop().sock_connect(own, address)
    client = RawSocket(*await asyncio.open_connection(sock=own, limit=1 << 16))
    try:
        if opened:
            client.ask()
            assert (await client.head())[0] == 101
        yield client
    finally:
        client.close()
        with contextlib.suppress(ConnectionError):
            await client.writer.wait_closed()


class SocketServer:
    """What is known of a listener under test."""

    def __init__(self, factory: DataServer, door: Door) -> None:
        self.factory, self.door = factory, door
        self.address = ("", 0)
        self.sockets: list[Socket] = []
        """All that were opened."""
        self.running = 0
        """Whose talk is not over."""
        self.cancelled = 0

    @property
    def url(self) -> str:
        return f"ws://{self.address[0]}:{self.address[1]}/"


async def echo(socket: Socket) -> None:
    while (message := await socket.receive()) is not None:
        socket.send(message.data, text=message.text)
        await socket.drain()


async def listen(socket: Socket) -> None:
    """Says nothing."""
    while await socket.receive() is not None:
        pass


@asynccontextmanager
async def socket_server(
    talk: Callable[[Socket], Awaitable[None]] = echo,
    *,
    client_stall: float = 60.0,
    head_timeout: float = 5.0,
    limits: HardLimits | None = None,
    **settings: Any,
) -> AsyncIterator[SocketServer]:
    """`settings` are those of `websocket`."""
    state: list[SocketServer] = []
    allowed = WebSocketLimits(**settings)

    async def serve(client: Client) -> None:
        (server,) = state
        try:
            client.check_head()
            socket = client.upgrade([], allowed)
        except ProxyError as error:
            client.answer(error.status, [("x-code", error.code)], error.openai_body())
            return
        server.sockets.append(socket)
        server.running += 1
        try:
            await talk(socket)
            await socket.close()
        except asyncio.CancelledError:
            server.cancelled += 1
            raise
        finally:
            server.running -= 1

    door = Door(1000)
    factory = DataServer(
        serve,
        head_timeout=head_timeout,
        keepalive_timeout=60.0,
        client_stall=client_stall,
        limits=limits,
        door=door,
    )
    server = SocketServer(factory, door)
    state.append(server)
    listener = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    server.address = listener.sockets[0].getsockname()
    try:
        async with asyncio.timeout(30.0):
            yield server
    finally:
        listener.close()
        await factory.shutdown(0.1)


def texts(events: list[Event]) -> list[bytes]:
    return [one.data for one in events if isinstance(one, Message)]
