"""One new connection to an origin: DNS, TCP to the first address that answers, TLS.

All three together have one deadline. Every failure is a ConnectFailed (or ConnectTimeout) that
says in one sentence what failed and, where a setting can help, which.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from proxy.config import PoolSettings
from proxy.errors import ConnectFailed, ConnectTimeout
from proxy.net.dns import Address, Addresses
from proxy.net.sockets import first_to_answer, reason_of, socket_options
from proxy.net.tls import handshake_failure

Select = Callable[[str | None], asyncio.BaseProtocol | None]
"""The ALPN result of a new connection -> the protocol that takes it; None closes it."""


class Origin(NamedTuple):
    """Where connections go (RFC 6454)."""

    scheme: str
    host: str
    """Without the brackets of an IPv6 address."""
    port: int

    @classmethod
    def of(cls, base_url: str) -> Self:
        """The origin of an endpoint's `base_url`. Raises ValueError when it has none."""
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"{base_url!r} is not an http:// or https:// URL")
        return cls(url.scheme, url.hostname, url.port or (443 if url.scheme == "https" else 80))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


class ConnectPhases(NamedTuple):
    """Seconds each stage of a connection took (0 for TLS without it), what ALPN chose (empty:
    nothing), and when the peer's certificate expires (unix time; None without TLS)."""

    dns: float
    tcp: float
    tls: float
    alpn: str
    certificate_expires: float | None = None


class _Marks:
    """The stage one attempt is in, and when those before it were over."""

    def __init__(self) -> None:
        self.stage = "resolving the name"
        self.started = self.resolved = self.connected = time.monotonic()

    def name_resolved(self) -> None:
        self.stage = "connecting by TCP"
        self.resolved = time.monotonic()

    def tcp_connected(self) -> None:
        self.stage = "in the TLS handshake"
        self.connected = time.monotonic()

    def phases(self, chosen: _Chooser, *, secured: bool) -> ConnectPhases:
        return ConnectPhases(
            dns=self.resolved - self.started,
            tcp=self.connected - self.resolved,
            tls=time.monotonic() - self.connected if secured else 0.0,
            alpn=chosen.alpn or "",
            certificate_expires=chosen.certificate_expires,
        )


class Dialer:
    """Opens connections to one origin."""

    def __init__(
        self,
        origin: Origin,
        tls: ssl.SSLContext | None,
        addresses: Addresses,
        settings: PoolSettings,
    ) -> None:
        self._origin = origin
        self._tls = tls
        self._addresses = addresses
        self._options = socket_options(settings)
        self._timeout = settings.connect_timeout

    async def dial(self, select: Select) -> ConnectPhases:
        """Open one connection and give it to the protocol `select` returns, before any byte of it
        is read. Raises ConnectFailed, ConnectTimeout."""
        marks = _Marks()
        try:
            async with asyncio.timeout(self._timeout):
                return await self._dial(select, marks)
        except TimeoutError:  # _dial's own are typed
            self._addresses.forget()
            raise ConnectTimeout(
                f"{self._origin}: no connection within {self._timeout:g} s"
                f" (pool.connect_timeout); it was still {marks.stage}"
            ) from None

    async def _dial(self, select: Select, marks: _Marks) -> ConnectPhases:
        remaining = await self._resolve()
        marks.name_resolved()
        refusal: ConnectFailed | None = None
        while remaining:
            try:
                address, connected = await self._reach(remaining)
            except ConnectFailed as error:
                refusal = refusal or error
                break
            marks.tcp_connected()
            try:
                chosen = await self._hand_over(connected, select, marks, len(remaining))
            except ConnectFailed as error:
                # Never a second handshake with this address; the others may be better.
                refusal = refusal or error
                remaining = [other for other in remaining if other != address]
                continue
            return marks.phases(chosen, secured=self._tls is not None)
        self._addresses.forget()
        assert refusal is not None
        raise refusal

    async def _resolve(self) -> list[Address]:
        try:
            return await self._addresses.of(self._origin.host, self._origin.port)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConnectFailed(f"{self._origin}: the name was not resolved: {reason}") from None

    async def _reach(self, addresses: Sequence[Address]) -> tuple[Address, socket.socket]:
        try:
            return await first_to_answer(addresses, self._options)
        except OSError as error:
            where = ", ".join(str(address) for address in addresses)
            raise ConnectFailed(
                f"{self._origin}: no connection to {where}: {reason_of(error)}"
            ) from None

    async def _hand_over(
        self, connected: socket.socket, select: Select, marks: _Marks, addresses: int
    ) -> _Chooser:
        """TLS, if any, then the protocol. Returns what the handshake told.

        While there are other addresses a silent one gets only its share of the time left.
        """
        left = marks.started + self._timeout - time.monotonic()
        try:
            async with asyncio.timeout(left / addresses):
                return await self._secure(connected, select)
        except TimeoutError:
            raise ConnectTimeout(f"{self._origin}: the TLS handshake was not answered") from None
        except OSError as error:
            reason = handshake_failure(error, self._origin.host)
            raise ConnectFailed(f"{self._origin}: {reason}") from None

    async def _secure(self, connected: socket.socket, select: Select) -> _Chooser:
        # The loop owns the socket from here and closes it when the handshake fails. Closing it
        # twice could hit a stranger that got its number meanwhile.
        loop = asyncio.get_running_loop()
        chooser = _Chooser(select)
        if self._tls is None:
            transport, _ = await loop.create_connection(lambda: chooser, sock=connected)
        else:
            transport, _ = await loop.create_connection(
                lambda: chooser,
                sock=connected,
                ssl=self._tls,
                server_hostname=self._origin.host,
                # One that is given up is kept, buffers and all, until this: a minute by default.
                ssl_handshake_timeout=self._timeout,
            )
        if not chooser.taken:
            transport.abort()
        return chooser


class _Chooser(asyncio.Protocol):
    """Holds a new connection until ALPN is known, and passes it on before its first byte."""

    def __init__(self, select: Select) -> None:
        self._select = select
        self.alpn: str | None = None
        self.certificate_expires: float | None = None
        self.taken = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.alpn = tls.selected_alpn_protocol()
            self.certificate_expires = expiry_of(tls)
        protocol = self._select(self.alpn)
        if protocol is not None:
            self.taken = True
            transport.set_protocol(protocol)
            protocol.connection_made(transport)


def expiry_of(tls: ssl.SSLObject) -> float | None:
    """Unix time at which the peer's certificate expires; None where it does not say."""
    until = (tls.getpeercert() or {}).get("notAfter")
    return ssl.cert_time_to_seconds(until) if isinstance(until, str) else None
