"""Many chats on one WebSocket: a client made of the `websockets` library, and what it is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.fakes.upstream import Call

Told = dict[str, Any]
PATH = "/v1/chat/completions"


class Chatting:
    """One WebSocket; what is said on it goes to whoever waits for that id."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._told: dict[str | None, asyncio.Queue[Told]] = {}
        self.events: dict[str, list[bytes]] = {}
        """The messages with data, as they came, by chat."""
        self.first: dict[str, float] = {}
        """When the first of them came, on the monotonic clock."""
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for message in self.socket:
                told = orjson.loads(message)
                if "data" in told:
                    assert isinstance(message, str)
                    self.first.setdefault(told["id"], time.monotonic())
                    self.events.setdefault(told["id"], []).append(message.encode())
                self._of(told.get("id")).put_nowait(told)
        except ConnectionClosed:
            pass

    def _of(self, id: str | None) -> asyncio.Queue[Told]:
        return self._told.setdefault(id, asyncio.Queue())

    async def say(self, **fields: Any) -> None:
        """One message."""
        await self.socket.send(orjson.dumps(fields).decode())

    async def begin(self, id: str, *, stream: bool = True, **more: Any) -> None:
        """Begin a chat; the upstream finds its id in `user_id`."""
        body = {
            "model": more.pop("model", "glm-4.6"),
            "messages": [{"role": "user", "content": "hi"}],
            "stream": stream,
            "user_id": id,
        }
        await self.say(id=id, body=body, **more)

    async def next(self, id: str | None = None) -> Told:
        """The next message of a chat, or the next without an id."""
        return await asyncio.wait_for(self._of(id).get(), 20)

    def waits(self, id: str | None = None) -> int:
        """How many messages of a chat were not taken yet."""
        return self._of(id).qsize()

    async def rest(self, id: str) -> list[Told]:
        """All messages of a chat up to its last one."""
        told = [await self.next(id)]
        while not ({"done", "error", "cancelled"} & told[-1].keys()):
            told.append(await self.next(id))
        return told

    async def closed(self) -> tuple[int | None, str]:
        """How the proxy ended it."""
        await asyncio.wait_for(self.socket.wait_closed(), 20)
        return self.socket.close_code, self.socket.close_reason or ""

    async def stop(self) -> None:
        """Close it as a good client does."""
        await self.socket.close()
        await self._reading


@asynccontextmanager
async def chatting(
    address: tuple[str, int], path: str = PATH, **headers: str
) -> AsyncIterator[Chatting]:
    """A WebSocket to the proxy at `address`."""
    host, port = address
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    async with connect(
        f"ws://{host}:{port}{path}", additional_headers=given, proxy=None, compression=None
    ) as socket:
        chats = Chatting(socket)
        try:
            yield chats
        finally:
            await chats.stop()


def chunk(id: str, text: str) -> bytes:
    """An event of an answer."""
    said = {"id": id, "choices": [{"index": 0, "delta": {"content": text}}]}
    return b"data: " + orjson.dumps(said) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def of(call: Call) -> str:
    """The id of the chat that a request upstream is for."""
    return str(orjson.loads(call.body)["user_id"])
