"""An event stream as aiohttp sees it: a response that writes neither its head nor its body."""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import formatdate

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion11
from aiohttp_sse import EventSourceResponse


class EventStream(EventSourceResponse):
    """The library's event stream as aiohttp sees it; head and body are written by `Client`.

    The library's own `prepare` serialises the head by way of a header map and starts a ping task
    for each stream. Here the head leaves in one write with the first events, and silence, like a
    client that does not read, is watched by the one timer an attempt has anyway.
    """

    def __init__(self, request: web.BaseRequest) -> None:
        super().__init__(send_timeout=None, allow_all_methods=True)
        self._req = request
        self._payload_writer = request.writer
        self._keep_alive = request.keep_alive and request.version >= HttpVersion11

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return self._payload_writer

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing: `Client.write` has written the last chunk, or `Client.cut` has left it out."""
        self._eof_sent = True

    def head(self, headers: Iterable[tuple[str, str]]) -> bytes:
        """The response head (RFC 9112 §4, §7.1): chunked for HTTP/1.1, close-delimited before."""
        version = "1.1" if self._req_is_http11() else "1.0"
        lines = [f"HTTP/{version} 200 OK", "Server: glm-proxy", f"Date: {formatdate(usegmt=True)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        if self._req_is_http11():
            lines.append("Transfer-Encoding: chunked")
        if not self._keep_alive:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode()

    def _req_is_http11(self) -> bool:
        assert self._req is not None
        return self._req.version >= HttpVersion11


class Upgraded(EventStream):
    """The last answer of a connection that becomes a WebSocket."""

    def upgraded(self, accept: str, headers: Iterable[tuple[str, str]]) -> bytes:
        """The head with which HTTP ends here (RFC 6455 §4.2.2)."""
        self.force_close()
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Server: glm-proxy",
            f"Date: {formatdate(usegmt=True)}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept}",
            *(f"{name}: {value}" for name, value in headers),
        ]
        return "\r\n".join([*lines, "", ""]).encode()
