"""A client on a raw socket: it sees the chunks as they are framed, and how the answer ended."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass
class Answer:
    """An answer as it stood on the wire."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    chunks: list[bytes] = field(default_factory=list)
    clean: bool = False
    """It ended as HTTP/1.1 says a whole answer ends."""

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def json(self) -> Any:
        return orjson.loads(self.body)


class RawClient:
    """One connection to the proxy."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def __aenter__(self) -> RawClient:
        self.reader, self.writer = await asyncio.open_connection(*self._address)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()

    def post(self, path: str, body: bytes, *headers: str) -> None:
        """Send a request; `headers` are whole lines."""
        lines = [f"POST {path} HTTP/1.1", "Host: proxy", f"Content-Length: {len(body)}", *headers]
        self.writer.write("\r\n".join([*lines, "", ""]).encode(errors="surrogateescape") + body)

    async def head(self) -> Answer:
        """The status line and the headers."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        answer = Answer(int(first.split(" ")[1]))
        for line in lines:
            name, _, value = line.partition(":")
            answer.headers[name.lower()] = value.strip()
        return answer

    async def chunk(self) -> bytes:
        """The next chunk; empty for the last one. IncompleteReadError where there is none."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        data = await self.reader.readexactly(size + 2)
        return data[:-2]

    async def whole(self) -> Answer:
        """Everything up to the end, however it ends."""
        answer = await self.head()
        try:
            if "content-length" in answer.headers:
                length = int(answer.headers["content-length"])
                answer.chunks.append(await self.reader.readexactly(length))
            else:
                while data := await self.chunk():
                    answer.chunks.append(data)
            answer.clean = True
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        return answer


def chat(model: str = "glm-4.6", *, stream: bool = True, **fields: Any) -> bytes:
    """The body of a chat request."""
    messages = [{"role": "user", "content": "hi"}]
    return orjson.dumps({"model": model, "messages": messages, "stream": stream, **fields})


async def ask(address: tuple[str, int], path: str, body: bytes, *headers: str) -> Answer:
    """One request on a connection of its own."""
    async with RawClient(address) as client:
        client.post(path, body, *headers)
        return await client.whole()
