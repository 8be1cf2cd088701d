"""Where a connection comes in: which HTTP it speaks is decided by ALPN, or by its first bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from proxy.simulator.ledger import Connection
from proxy.simulator.wire import Wire

Factory = Callable[[Wire, Connection], asyncio.Protocol]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # RFC 9113 §3.4


class Entrance(asyncio.Protocol):
    """Hands its transport to the protocol of the right version; without `http2` there is one."""

    def __init__(self, wire: Wire, http1: Factory, http2: Factory | None) -> None:
        self._wire = wire
        self._http1 = http1
        self._http2 = http2
        self._first = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's in all but their class.
        self._transport = cast(asyncio.Transport, transport)
        self._connection = self._wire.connected(self._transport, "http/1.1")
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._become(self._http2 if tls.selected_alpn_protocol() == "h2" else self._http1)
        elif self._http2 is None:
            self._become(self._http1)

    def data_received(self, data: bytes) -> None:
        """Only on a plain port, until the first bytes are known (HTTP/2 by prior knowledge)."""
        self._first += data
        if len(self._first) < len(_PREFACE) and _PREFACE.startswith(self._first):
            return
        self._become(self._http2 if self._first.startswith(_PREFACE) else self._http1)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wire.disconnected(self._transport, self._connection)

    def _become(self, factory: Factory | None) -> None:
        assert factory is not None
        if factory is self._http2:
            self._connection.protocol = "h2"
        protocol = factory(self._wire, self._connection)
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        if self._first:
            protocol.data_received(self._first)
