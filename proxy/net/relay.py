"""From one process to another: a kept stream whose client came to the wrong one.

Each process that keeps streams listens on a Unix socket that nobody but its user can open. Another
one asks there with its client's own headers, so that the same is looked at as with the client
itself, and says the address it calls from. What comes passes at the client's pace; what breaks off
is never given a clean end. Who was asked in this way asks nobody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final

import aiohttp
from yarl import URL

from proxy.config import Server
from proxy.core.wire import event_ids
from proxy.core.wire.answers import error_message
from proxy.errors import ClientError, Crowded, Forbidden, Forgotten, NotFound, ProxyError, StreamCut
from proxy.net.data_server import DataServer
from proxy.net.downstream import HttpClient
from proxy.net.halves import Client, Headers

PATH: Final = "/v1/streams/"
_PEER: Final = "x-glm-proxy-peer"
_ASKS: Final = frozenset(
    {
        *("authorization", "x-api-key", "anthropic-version", "x-request-id"),
        *(event_ids.ASKED, event_ids.LAST),
    }
)
_TELLS: Final = ("content-type", event_ids.STREAM)
_CONNECT: Final = 2.0
"""Seconds."""
_LARGEST: Final = 64 * 1024
"""Bytes of an error."""
_SAID: Final = {one.status: one for one in (ClientError, Forbidden, NotFound, Forgotten)}


class RelayedClient(HttpClient):
    """A client of another process."""

    __slots__ = ()

    @property
    def peer(self) -> str:
        """The address it calls from, as that process says: nobody else can."""
        return self._request.headers.get(_PEER, "")

    def check_head(self) -> None:
        """Raises BadHead, and NotFound for what is not asked for here."""
        super().check_head()
        if not self.raw_path.startswith(PATH):
            raise NotFound("here are kept streams only")


class RelayServer(DataServer):
    """What listens on the Unix socket."""

    make_client = RelayedClient


class RelayListener:
    """A process's own socket. `open` and `close` it as often as you like."""

    def __init__(self, path: Path | None, serve: Callable[[Client], Awaitable[None]]) -> None:
        """`path`: of the socket; None: there are no other processes. `serve` answers a client of
        one."""
        self._path = path
        self._serve = serve
        self._server: RelayServer | None = None
        self._listener: asyncio.Server | None = None

    async def open(self, settings: Server, client_stall: float) -> None:
        """Be asked by the others. Raises OSError."""
        if self._path is None or self._server is not None:
            return
        server = RelayServer(
            self._serve,
            head_timeout=settings.header_timeout,
            keepalive_timeout=settings.keepalive_timeout,
            client_stall=client_stall,
        )
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_unix_server(server, str(self._path))
        self._server = server
        self._path.chmod(0o600)

    async def close(self, timeout: float) -> None:
        """Be asked no more; who reads gets `timeout` seconds."""
        server, self._server = self._server, None
        if self._path is None or self._listener is None or server is None:
            return
        self._listener.close()
        server.pre_shutdown()
        await server.shutdown(timeout)
        self._path.unlink(missing_ok=True)


async def relay(client: Client, socket: Path, commit: Callable[[], Headers]) -> None:
    """Answer with what the process behind `socket` says; `commit` is called before its stream
    begins, and says headers of ours. Raises NotFound where it is gone, its own error, StreamCut,
    ClientError, ClientGone."""
    headers = [(name, value) for name, value in client.headers() if name.lower() in _ASKS]
    _check(headers)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT)
    connector = aiohttp.UnixConnector(path=str(socket))
    url = URL("http://worker" + client.raw_path, encoded=True)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.get(
                url, headers=[*headers, (_PEER, client.peer)], allow_redirects=False
            ) as answer,
        ):
            if answer.status != 200:
                raise _said(answer.status, await answer.content.read(_LARGEST))
            told = [(name, answer.headers[name]) for name in _TELLS if name in answer.headers]
            await client.open_body(200, [*told, *commit()])
            async for event in _chunks(answer):
                await client.write_body(event)
    except (aiohttp.ClientError, OSError):
        if client.has_begun:
            raise StreamCut("the process that keeps the stream broke it off") from None
        raise NotFound("there is no such stream any more") from None


def _check(headers: Headers) -> None:
    """Bytes that are not UTF-8 would be left out on the way: another key is another caller's.
    Raises ClientError."""
    try:
        for _, value in headers:
            value.encode()
    except UnicodeEncodeError:
        raise ClientError("a header of the request is not UTF-8") from None


async def _chunks(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """The HTTP chunks as they were sent: one event each, for this client as well."""
    parts = bytearray()
    async for part, is_whole in answer.content.iter_chunks():
        parts += part
        if is_whole and parts:
            yield bytes(parts)
            parts.clear()


def _said(status: int, body: bytes) -> ProxyError:
    message = error_message(body) or "the process that keeps the stream does not tell it"
    kind = _SAID.get(status)
    return Crowded(message) if kind is None else kind(message)
