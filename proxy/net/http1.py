"""The HTTP/1.1 client of one origin: aiohttp's session, dialled our way."""

from __future__ import annotations

import ssl
from types import SimpleNamespace

import aiohttp

from proxy.config import PoolSettings
from proxy.net.dns import Addresses, AiohttpResolver
from proxy.net.sockets import STAGGER, new_socket, socket_options

_AUTOMATIC = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""Headers aiohttp would add; ours are complete."""


class Use:
    """Give it to a request as `trace_request_ctx`: it learns what connection the request took."""

    __slots__ = ("reused",)

    def __init__(self) -> None:
        self.reused = False
        """The connection had served before."""


async def _note_reuse(
    session: aiohttp.ClientSession,
    context: SimpleNamespace,
    params: aiohttp.TraceConnectionReuseconnParams,
) -> None:
    if isinstance(context.trace_request_ctx, Use):
        context.trace_request_ctx.reused = True


_READ_AHEAD = 64 * 1024
"""Bytes; twice as many of an answer are held for a client that does not read."""


def new_session(
    settings: PoolSettings, tls: ssl.SSLContext | None, addresses: Addresses
) -> aiohttp.ClientSession:
    """A session that forwards: no cookies, no decompression, no environment, no total timeout.

    `connect` covers the wait for the connection limit too, so nobody waits for ever. Redirects are
    the caller's to refuse (`allow_redirects=False`). Must be made inside the event loop.
    """
    options = socket_options(settings)
    connector = aiohttp.TCPConnector(
        ssl=tls if tls is not None else True,
        limit=settings.max_connections * settings.streams_per_connection,
        keepalive_timeout=settings.idle_timeout,
        resolver=AiohttpResolver(addresses),
        use_dns_cache=False,
        happy_eyeballs_delay=STAGGER,
        interleave=1,
        socket_factory=lambda address: new_socket(address[0], options),
    )
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_note_reuse)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=_READ_AHEAD,
        skip_auto_headers=_AUTOMATIC,
        trace_configs=[trace],
        timeout=aiohttp.ClientTimeout(total=None, connect=settings.connect_timeout),
    )
