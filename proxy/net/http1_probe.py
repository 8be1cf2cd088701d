"""Whether an origin that speaks HTTP/2 takes HTTP/1.1 as well: asked once, when it matters.

Only ALPN can tell. An HTTP/1.1 request on a connection whose peer expected HTTP/2 is lost.
"""

from __future__ import annotations

import asyncio
import ssl

from proxy.config import PoolSettings
from proxy.errors import ConnectFailed
from proxy.net.dial import Dialer, Origin
from proxy.net.dns import Addresses, system_resolve
from proxy.net.h2.connection import Connection
from proxy.net.tls import HTTP1, offering


class Http1Probe:
    """Offers the origin HTTP/1.1 alone and sees what ALPN says. Belongs to one event loop."""

    def __init__(self, origin: Origin, tls: ssl.SSLContext, settings: PoolSettings) -> None:
        addresses = Addresses(system_resolve)
        self._dialer = Dialer(origin, offering(tls, HTTP1), addresses, settings)
        self._speaks: bool | None = None
        self._asking: asyncio.Task[None] | None = None

    def speaks_http1(self) -> bool:
        """What is known. The first call asks, in the background: nobody waits for the answer."""
        if self._speaks is None and self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask())
        return self._speaks is True

    async def close(self) -> None:
        """End the question, if it is still open."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> None:
        def decline(alpn: str | None) -> Connection | None:
            return None  # the handshake has answered; the connection is of no other use

        try:
            phases = await self._dialer.dial(decline)
        except ConnectFailed:
            self._speaks = False  # an ALPN alert is the usual reason
        else:
            self._speaks = phases.alpn == HTTP1
