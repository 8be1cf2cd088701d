"""A WebSocket to an upstream: asked for over HTTP/1.1, then one end of it is ours."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, cast

import aiohttp
from aiohttp.http import StreamWriter
from aiohttp.streams import EMPTY_PAYLOAD

from proxy.core.wire import handshake
from proxy.errors import HeadersTimeout, UpstreamProtocolError, UpstreamReset
from proxy.net.h2.connection import Head
from proxy.net.http1 import translate
from proxy.net.open_sockets import Limits
from proxy.net.upstream import Outgoing, Upstream, head_of
from proxy.net.websocket import Socket

_LAST_WORDS = 1.0
"""Seconds that an upstream gets to read them."""
_LOOK = 0.01
_LARGEST_REFUSAL = 1 << 16
"""Bytes that are read of it."""


class UpstreamSocket(Socket):
    """Our end of a WebSocket to an upstream."""

    __slots__ = ("_writer",)

    def __init__(self, line: Any, limits: Limits) -> None:
        super().__init__(line, limits, is_client=True)
        self._writer = StreamWriter(line, self._loop)

    async def drain(self) -> None:
        try:
            await self._writer.drain()
        except ConnectionError:
            self.feed_eof()

    async def leave(self) -> None:
        """Drop the connection, the last of what was said sent if it ended well."""
        transport = self._line.transport
        waits = _LAST_WORDS if self.is_over else 0.0
        while waits > 0.0 and transport is not None and transport.get_write_buffer_size():
            await asyncio.sleep(_LOOK)
            waits -= _LOOK
        if transport is None or not self.is_over or transport.get_write_buffer_size():
            self.abort()


class Refused(NamedTuple):
    """What the upstream answered in place of a WebSocket."""

    head: Head
    body: bytes


@asynccontextmanager
async def dialled(
    upstream: Upstream, outgoing: Outgoing, limits: Limits, timeout: float
) -> AsyncIterator[UpstreamSocket | Refused]:
    """Ask for one; it ends with the context. `timeout`, in seconds, is for the answer.

    Raises UpstreamError.
    """
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    response = await _asked(upstream, outgoing, key, timeout)
    try:
        if response.status != 101:
            yield Refused(head_of(response), await _body(response, timeout))
            return
        _check(response, key)
        connection = response.connection
        if connection is None or connection.protocol is None:
            raise UpstreamReset("the upstream closed the connection behind its answer")
        socket = UpstreamSocket(connection.protocol, limits)
        connection.protocol.set_parser(cast(Any, socket), EMPTY_PAYLOAD)
        try:
            yield socket
        finally:
            await socket.leave()
    finally:
        response.close()


async def _asked(
    upstream: Upstream, outgoing: Outgoing, key: str, timeout: float
) -> aiohttp.ClientResponse:
    headers = [
        *outgoing.headers,
        ("upgrade", "websocket"),
        ("connection", "Upgrade"),
        ("sec-websocket-key", key),
        handshake.VERSION,
    ]
    try:
        async with asyncio.timeout(timeout):
            return await upstream.pool.http1.request(
                "GET",
                upstream.url(outgoing.path),
                headers=headers,
                allow_redirects=False,  # the key is for this endpoint alone
                read_until_eof=False,
            )
    except TimeoutError as error:
        if isinstance(error, aiohttp.ServerTimeoutError):
            raise translate(error) from None
        raise HeadersTimeout("the upstream opened no WebSocket in time") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise translate(error) from None


async def _body(response: aiohttp.ClientResponse, timeout: float) -> bytes:
    try:
        async with asyncio.timeout(timeout):
            return await response.content.read(_LARGEST_REFUSAL)
    except (aiohttp.ClientError, OSError):  # what it says is not worth more
        return b""


def _check(response: aiohttp.ClientResponse, key: str) -> None:
    """RFC 6455 §4.1. No extension and no subprotocol were asked for."""
    headers = response.headers
    if headers.get("upgrade", "").lower() != "websocket" or (
        "upgrade" not in headers.get("connection", "").lower()
    ):
        raise UpstreamProtocolError("the upstream changed to another protocol than a WebSocket's")
    if headers.get("sec-websocket-accept", "").strip() != handshake.accepted(key):
        raise UpstreamProtocolError("the upstream's answer is not to our key")
    if "sec-websocket-extensions" in headers or "sec-websocket-protocol" in headers:
        raise UpstreamProtocolError("the upstream agreed on what it was not asked for")
