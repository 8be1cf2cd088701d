"""An upstream that reads HTTP/1.1 as strictly as it can be read, and keeps every byte."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, cast

_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
_LINE: Final = re.compile(rb"[A-Z]+ /[\x21-\x7e]* HTTP/1\.1")
_FIELD: Final = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\xff](?:[\t\x20-\xff]*[\x21-\xff])?|)"
)
_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,8}")


class Broken(Exception):
    """What came is no HTTP."""


class Recorder:
    """What it was sent."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[bytes] = []
        """Each with its head and body as they came."""
        self.broken: list[bytes] = []
        """What a connection held that is not a request."""

    @property
    def paths(self) -> list[str]:
        """The targets, as they were asked for."""
        return [one.split(b" ", 2)[1].decode("latin-1") for one in self.requests]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class _Connection(asyncio.Protocol):
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._buffer = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            while (length := _length(self._buffer)) is not None:
                request, self._buffer = self._buffer[:length], self._buffer[length:]
                self._recorder.requests.append(request)
                self._transport.write(_ANSWER)
        except Broken:
            self._recorder.broken.append(self._buffer)
            self._transport.abort()


def _length(data: bytes) -> int | None:
    """Bytes of the request that `data` begins with; None while it is not whole. Raises Broken."""
    head, blank, _ = data.partition(b"\r\n\r\n")
    if not blank:
        return None
    line, *fields = head.split(b"\r\n")
    if not _LINE.fullmatch(line):
        raise Broken
    found: dict[bytes, bytes] = {}
    for field in fields:
        match = _FIELD.fullmatch(field)
        if match is None:
            raise Broken
        name = match[1].lower()
        if name in found and name in (b"host", b"content-length", b"transfer-encoding"):
            raise Broken
        found[name] = match[2]
    if b"host" not in found:
        raise Broken
    start = len(head) + 4
    if b"transfer-encoding" in found:
        if found[b"transfer-encoding"] != b"chunked" or b"content-length" in found:
            raise Broken
        return _chunked(data, start)
    length = found.get(b"content-length", b"0")
    if not length.isdigit():
        raise Broken
    end = start + int(length)
    return end if len(data) >= end else None


def _chunked(data: bytes, at: int) -> int | None:
    while (end := data.find(b"\r\n", at)) >= 0:
        if not _SIZE.fullmatch(data[at:end]):
            raise Broken
        size = int(data[at:end], 16)
        at = end + 2 + size
        if len(data) < at + 2:
            return None
        if data[at : at + 2] != b"\r\n":
            raise Broken
        at += 2
        if not size:
            return at
    return None


@asynccontextmanager
async def recording() -> AsyncIterator[Recorder]:
    """One that listens on loopback."""
    recorder = Recorder()
    server = await asyncio.get_running_loop().create_server(
        lambda: _Connection(recorder), "127.0.0.1", 0
    )
    recorder.port = server.sockets[0].getsockname()[1]
    try:
        yield recorder
    finally:
        server.close()
