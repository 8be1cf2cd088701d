"""The HTTP/1.1 client of one origin: aiohttp's session, dialled our way, its connects told.

aiohttp opens a connection in the task of the request that needs it. Its traces tell when; when
TCP was done and what certificate was shown is seen by the TLS object that is ours.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Final

import aiohttp

from proxy.config import PoolSettings
from proxy.errors import (
    ConnectFailed,
    ConnectTimeout,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamReset,
)
from proxy.net.dial import ConnectPhases, expiry_of
from proxy.net.dns import Addresses, AiohttpResolver
from proxy.net.sockets import STAGGER, new_socket, reason_of, socket_options
from proxy.net.tls import HTTP1, handshake_failure

_AUTOMATIC = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""Headers aiohttp would add; ours are complete."""
_READ_AHEAD = 16 * 1024
"""Bytes; twice as many of an answer are held for a client that does not read."""
_RECEIVE: Final = 64 * 1024
"""Bytes that the kernel holds of an answer. It would make it megabytes for an upstream that floods,
and all that is there comes in one read, for a client that may not take it (tcp(7): SO_RCVBUF)."""
_PATIENCE: Final = 1.0
"""Seconds. Who waits less for a connection learns nothing of the endpoint: TCP repeats a lost
SYN after a second (RFC 6298 §2)."""


class Use:
    """Give it to a request as `trace_request_ctx`: it learns what connection the request took."""

    __slots__ = ("reused",)

    def __init__(self) -> None:
        self.reused = False
        """The connection had served before."""


def new_session(
    settings: PoolSettings,
    tls: ssl.SSLContext | None,
    addresses: Addresses,
    *,
    connected: Callable[[ConnectPhases], None],
    failed: Callable[[ConnectFailed], None],
) -> aiohttp.ClientSession:
    """A session that forwards: no cookies, no decompression, no environment, no total timeout.

    `connect` covers the wait for the connection limit too, so nobody waits for ever. Redirects are
    the caller's to refuse (`allow_redirects=False`). Must be made inside the event loop.

    Each attempt to connect ends in one call of `connected` or `failed`, or in none when its
    request was given up. `tls` must be used here only.
    """
    if tls is not None:
        tls.sslobject_class = _Handshake
    options = [*socket_options(settings), (socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE)]
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
    patience = min(_PATIENCE, settings.connect_timeout / 2)
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        read_bufsize=_READ_AHEAD,
        skip_auto_headers=_AUTOMATIC,
        trace_configs=[_trace(connected, failed, patience)],
        timeout=aiohttp.ClientTimeout(total=None, connect=settings.connect_timeout),
    )


def translate(error: Exception) -> UpstreamError:
    """aiohttp's and the sockets' exceptions, once, at the border."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return ConnectTimeout("no connection to the upstream in time")
        case aiohttp.ClientConnectorCertificateError(certificate_error=OSError() as cause):
            return ConnectFailed(handshake_failure(cause, error.host))
        case aiohttp.ClientConnectorSSLError():
            return ConnectFailed(handshake_failure(error.os_error, error.host))
        case aiohttp.ClientConnectorDNSError():
            reason = error.os_error.strerror or str(error.os_error)
            return ConnectFailed(f"the name {error.host} was not resolved: {reason}")
        case aiohttp.ClientConnectorError():
            return ConnectFailed(
                f"no connection to {error.host}:{error.port}: {reason_of(error.os_error)}"
            )
        case aiohttp.ServerDisconnectedError():
            return UpstreamReset("the upstream closed the connection without an answer")
        case aiohttp.ClientPayloadError():
            return UpstreamReset("the upstream's answer broke off")
        case aiohttp.ClientResponseError():
            # What follows the colon quotes the answer: text of a chat, or a key that came back.
            broken = error.message.partition(":")[0]
            return UpstreamProtocolError(f"the upstream broke HTTP/1.1: {broken}")
        case TimeoutError():
            return ConnectTimeout("the upstream took too long")
        case OSError():
            return UpstreamReset(f"the connection to the upstream broke: {reason_of(error)}")
        case _:
            return UpstreamProtocolError("the upstream's answer could not be read")


class _Marks:
    """When the stages of one attempt to connect were over, on the monotonic clock."""

    __slots__ = ("certificate_expires", "reached", "resolved", "started")

    def __init__(self) -> None:
        self.started = self.resolved = time.monotonic()
        self.reached: float | None = None
        """By TCP, with TLS to follow."""
        self.certificate_expires: float | None = None

    def phases(self) -> ConnectPhases:
        """Of an attempt that succeeds now."""
        now = time.monotonic()
        reached = now if self.reached is None else self.reached
        return ConnectPhases(
            dns=self.resolved - self.started,
            tcp=reached - self.resolved,
            tls=now - reached,
            alpn=HTTP1,
            certificate_expires=self.certificate_expires,
        )


_connecting: ContextVar[_Marks | None] = ContextVar("connecting", default=None)
"""The attempt that this task makes. Event loops carry it over to the transport they make."""


class _Handshake(ssl.SSLObject):
    """Notes the beginning of the handshake and, at its end, what the certificate says."""

    _begun = False

    def do_handshake(self) -> None:
        marks = _connecting.get()
        if marks is not None and not self._begun:
            self._begun = True
            marks.reached = time.monotonic()
        super().do_handshake()  # raises until the peer has said enough
        if marks is not None:
            marks.certificate_expires = expiry_of(self)


def _trace(
    connected: Callable[[ConnectPhases], None],
    failed: Callable[[ConnectFailed], None],
    patience: float,
) -> aiohttp.TraceConfig:
    """What aiohttp shall tell of. A request that takes a free connection costs one short call."""

    async def begin(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        context.marks = _Marks()
        _connecting.set(context.marks)

    async def resolved(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        context.marks.resolved = time.monotonic()

    async def end(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        marks: _Marks = context.marks
        context.marks = None
        _connecting.set(None)
        connected(marks.phases())

    async def broken(
        _: aiohttp.ClientSession,
        context: SimpleNamespace,
        params: aiohttp.TraceRequestExceptionParams,
    ) -> None:
        marks: _Marks | None = getattr(context, "marks", None)
        if marks is None or not isinstance(params.exception, Exception):
            return  # it was not connecting, or was cancelled
        error = translate(params.exception)
        hasty = isinstance(error, ConnectTimeout) and time.monotonic() - marks.started < patience
        if isinstance(error, ConnectFailed) and not hasty:
            failed(error)

    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_note_reuse)
    trace.on_connection_create_start.append(begin)
    trace.on_dns_resolvehost_end.append(resolved)
    trace.on_connection_create_end.append(end)
    trace.on_request_exception.append(broken)
    return trace


async def _note_reuse(
    session: aiohttp.ClientSession,
    context: SimpleNamespace,
    params: aiohttp.TraceConnectionReuseconnParams,
) -> None:
    if isinstance(context.trace_request_ctx, Use):
        context.trace_request_ctx.reused = True
