"""Peers that hold on to what they are given, in a process of their own: `python -m
tests.fakes.attackers KIND PORT COUNT SECONDS`.

Prints `ready` when all of them are there, and at the end one line of JSON: for each that the proxy
closed, how many seconds it lived.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final

SMALL: Final = 4096
"""SO_RCVBUF of a slow reader."""
_CHAT: Final = b'{"model":"flood","stream":true,"messages":[{"role":"user","content":"x"}]}'
_ASK: Final = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (
    len(_CHAT),
    _CHAT,
)
_BEGUN: Final = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-Slow: "
_UPLOAD: Final = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"


class Peer:
    """One connection, and how long it lived."""

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.began = 0.0
        self.lived: float | None = None

    async def connect(self, port: int, first: bytes, buffer: int | None) -> None:
        if buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self.socket, ("127.0.0.1", port))
        self.began = time.monotonic()
        await loop.sock_sendall(self.socket, first)

    def read(self, most: int) -> None:
        """As much as is there."""
        self._try(lambda: self.socket.recv(most))

    def dribble(self) -> None:
        """One byte of a request, and a look whether it is still wanted."""
        self._try(lambda: b"x" * self.socket.send(b"x"))
        self.read(1000)

    def look(self) -> None:
        """Whether it was closed; nothing is taken out of the kernel."""
        state = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if self.lived is None and state not in (1, 2):  # neither ESTABLISHED nor SYN_SENT
            self.lived = time.monotonic() - self.began

    def _try(self, act: Callable[[], bytes]) -> None:
        if self.lived is not None:
            return
        try:
            over = not act()
        except BlockingIOError:
            return
        except OSError:
            over = True
        if over:
            self.lived = time.monotonic() - self.began


async def hold(
    port: int,
    count: int,
    seconds: float,
    first: bytes,
    each: Callable[[Peer], None],
    buffer: int | None = None,
    every: float = 1.0,
) -> list[float]:
    """So many peers, for so long; `each` is done with each of them `every` second."""
    peers = [Peer() for _ in range(count)]
    for start in range(0, count, 50):
        some = peers[start : start + 50]
        await asyncio.gather(*(peer.connect(port, first, buffer) for peer in some))
        await asyncio.sleep(0.1)
    print("ready", flush=True)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await asyncio.sleep(every)
        for peer in peers:
            each(peer)
    for peer in peers:
        peer.socket.close()
    return [peer.lived for peer in peers if peer.lived is not None]


async def slow_readers(port: int, count: int, seconds: float) -> list[float]:
    return await hold(port, count, seconds, _ASK, lambda peer: peer.read(100), SMALL)


async def never_readers(port: int, count: int, seconds: float) -> list[float]:
    return await hold(port, count, seconds, _ASK, Peer.look, SMALL)


async def slow_headers(port: int, count: int, seconds: float) -> list[float]:
    return await hold(port, count, seconds, _BEGUN, Peer.dribble, every=0.25)


async def slow_bodies(port: int, count: int, seconds: float) -> list[float]:
    return await hold(port, count, seconds, _UPLOAD, Peer.dribble)


async def silent(port: int, count: int, seconds: float) -> list[float]:
    return await hold(port, count, seconds, b"", lambda peer: peer.read(1000), every=0.25)


async def churn(port: int, count: int, seconds: float) -> list[float]:
    """Connect and reset, a few hundred at once; `seconds` is not looked at."""
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    linger = struct.pack("ii", 1, 0)

    async def some(number: int) -> None:
        for index in range(number):
            one = socket.socket()
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            await loop.sock_connect(one, ("127.0.0.1", port))
            if index % 2:
                await loop.sock_sendall(one, _ASK if index % 4 == 1 else _BEGUN)
            one.close()

    await asyncio.gather(*(some(count // 100) for _ in range(100)))
    return []


async def bombs(port: int, count: int, seconds: float) -> list[float]:
    """Bodies that cost more to understand than to send, one after the other."""
    size = 32 << 20
    start = b'{"model":"flood","messages":['
    units = (b"[],", b'{"a":{}},', b'{"role":"user","content":"hi"},', b'"",', b"1,", b"[" * 1000)
    bodies = [start + unit * ((size - 100) // len(unit)) + b"1]}" for unit in units[:count]]
    print("ready", flush=True)
    for index in range(count):
        body = bodies[index % len(bodies)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(body))
        writer.write(body)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert b" 400 " in answer, answer
        writer.transport.abort()
    return []


KINDS: Final[dict[str, Callable[[int, int, float], Awaitable[list[float]]]]] = {
    "slow_readers": slow_readers,
    "never_readers": never_readers,
    "slow_headers": slow_headers,
    "slow_bodies": slow_bodies,
    "silent": silent,
    "churn": churn,
    "bombs": bombs,
}


async def _main() -> None:
    kind, port, count, seconds = sys.argv[1:]
    print(json.dumps(await KINDS[kind](int(port), int(count), float(seconds))))


if __name__ == "__main__":
    asyncio.run(_main())
