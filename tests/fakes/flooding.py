"""An upstream that says as much as it can, in a process of its own: python -m tests.fakes.flooding.

Prints its port. The model `flood` never ends and never pauses; `steady` says an event each 20 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from typing import Final

EVENT: Final = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (
    b"x" * 40
)
_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
PACE: Final = 0.02
"""Seconds between two events of a steady stream."""


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (
                    int(line[15:])
                    for line in head.lower().split(b"\r\n")
                    if b"content-length:" in line
                ),
                0,
            )
            body = await reader.readexactly(length)
            writer.write(_HEAD)
            if b'"flood"' in body:
                many = _chunk(EVENT) * 200
                while True:
                    writer.write(many)
                    await writer.drain()
            while True:
                writer.write(_chunk(EVENT))
                await writer.drain()
                await asyncio.sleep(PACE)
    writer.close()


async def _main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)  # or it takes gigabytes
    server = await asyncio.start_server(_answer, sock=listener, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main())
