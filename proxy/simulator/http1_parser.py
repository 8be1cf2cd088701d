"""HTTP/1.1 requests from bytes (RFC 9112): heads, body parts, ends. No socket here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from proxy.simulator.ledger import Headers

HEAD_LIMIT = 64 * 1024
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class BadRequest(Exception):
    """The bytes are no request; `status` is what to answer before closing."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Head(NamedTuple):
    """Request line and headers; names in lower case."""

    method: str
    target: str
    version: str
    headers: Headers

    def get(self, name: bytes) -> bytes | None:
        return next((value for n, value in self.headers if n == name), None)

    @property
    def keep_alive(self) -> bool:
        """The client wants the connection to last (RFC 9112 §9.3)."""
        options = (self.get(b"connection") or b"").lower()
        return b"keep-alive" in options if self.version == "HTTP/1.0" else b"close" not in options


class End(NamedTuple):
    """The request's body is whole."""


END: Final = End()


class RequestParser:
    """`feed` bytes, then take what they hold with `next` until it gives None."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._step: Callable[[], Head | bytes | End | None] = self._head
        self._left = 0

    @property
    def buffered(self) -> int:
        """Bytes not yet taken."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> Head | bytes | End | None:
        """A head, part of a body, its end, or None: feed more. Raises `BadRequest`."""
        return self._step()

    def _head(self) -> Head | None:
        while self._buffer.startswith(b"\r\n"):  # RFC 9112 §2.2: empty lines before a request
            del self._buffer[:2]
        end = self._buffer.find(b"\r\n\r\n")
        if end > HEAD_LIMIT or (end < 0 and len(self._buffer) > HEAD_LIMIT):
            raise BadRequest(431, "the request's head is too long")
        if end < 0:
            return None
        lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        head = _parse_head(lines)
        self._step = self._body_of(head)
        return head

    def _body_of(self, head: Head) -> Callable[[], Head | bytes | End | None]:
        coding, length = head.get(b"transfer-encoding"), head.get(b"content-length")
        if coding is not None:
            if coding.lower() != b"chunked" or length is not None:
                raise BadRequest(400, "the request's length is ambiguous")
            return self._chunk_size
        if length is None:
            return self._end
        if not length.isdigit():
            raise BadRequest(400, "Content-Length is not a number")
        self._left = int(length)
        return self._sized if self._left else self._end

    def _sized(self) -> bytes | None:
        part = self._take(self._left)
        if part is not None and self._left == 0:
            self._step = self._end
        return part

    def _chunk_size(self) -> bytes | End | None:
        line = self._line()
        if line is None:
            return None
        size = line.partition(b";")[0].strip()
        try:
            self._left = int(size, 16)
        except ValueError as error:
            raise BadRequest(400, "a chunk's size is not a number") from error
        self._step = self._chunk if self._left else self._trailer
        return self._step()

    def _chunk(self) -> bytes | None:
        part = self._take(self._left)
        if part is not None and self._left == 0:
            self._step = self._chunk_end
        return part

    def _chunk_end(self) -> bytes | End | None:
        if len(self._buffer) < 2:
            return None
        if self._buffer[:2] != b"\r\n":
            raise BadRequest(400, "a chunk does not end where it said")
        del self._buffer[:2]
        self._step = self._chunk_size
        return self._chunk_size()

    def _trailer(self) -> End | None:
        line = self._line()
        if line is None:
            return None
        return self._trailer() if line else self._end()

    def _end(self) -> End:
        self._step = self._head
        return END

    def _take(self, count: int) -> bytes | None:
        if not self._buffer:
            return None
        part = bytes(self._buffer[:count])
        del self._buffer[:count]
        self._left -= len(part)
        return part

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_LIMIT:
                raise BadRequest(400, "a line has no end")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line


def _parse_head(lines: list[bytes]) -> Head:
    parts = lines[0].split(b" ")
    if len(parts) != 3 or parts[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise BadRequest(400, "the request line is not HTTP/1")
    headers = [_parse_field(line) for line in lines[1:]]
    method, target, version = (part.decode("latin-1") for part in parts)
    return Head(method, target, version, headers)


def _parse_field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not name or not _TOKEN.issuperset(name):
        raise BadRequest(400, "a header is malformed")
    return name.lower(), value.strip(b" \t")
