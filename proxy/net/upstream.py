"""One endpoint: send a request to it over the best connection there is.

HTTP/2 by our own pool; HTTP/1.1, where the upstream speaks only that or a big body goes faster
over it, by aiohttp's client. Whatever goes wrong becomes one of `proxy.errors` here.
"""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple, Protocol

import aiohttp
from yarl import URL

from proxy.net.h2.connection import Connection, Head, Sink
from proxy.net.h2.frames import DEFAULT_WINDOW
from proxy.net.halves import Flow
from proxy.net.http1 import Use, translate
from proxy.net.http1_probe import Http1Probe
from proxy.net.pool import Pool

_AT_ONCE = 0.001
"""Seconds: for aiohttp a timeout of 0 is none."""


class Outgoing(NamedTuple):
    """A request as it goes upstream: built by us, never copied from the client's URL."""

    method: str
    path: str
    """With query, percent-encoded; begins with `/`."""
    headers: list[tuple[str, str]]
    body: bytes


class Opened(Protocol):
    """A sink that wants to know what it was opened on: see `proxy.net.attempt.Attempt`."""

    reused: bool
    """The connection had served before; over HTTP/1.1 known with the head."""

    def opened(self, flow: Flow, protocol: str, *, reused: bool) -> None: ...


class StreamSink(Sink, Opened, Protocol):
    """What an upstream stream is read by."""


class Upstream:
    """One endpoint's origin: its pool, and how requests are put on it."""

    def __init__(
        self, pool: Pool, probe: Http1Probe | None, *, prefix: str, http1_bodies_over: int
    ) -> None:
        """`probe` is None where no body may take HTTP/1.1 instead of HTTP/2."""
        self.pool = pool
        self._probe = probe
        self.prefix = prefix
        """The path that the endpoint's base_url begins with, often empty."""
        self._http1_bodies_over = http1_bodies_over
        origin = pool.origin
        default = 443 if origin.scheme == "https" else 80
        host = f"[{origin.host}]" if ":" in origin.host else origin.host
        authority = host if origin.port == default else f"{host}:{origin.port}"
        self._base = f"{origin.scheme}://{authority}"
        self._authority = authority.encode("ascii")
        self._scheme = origin.scheme.encode("ascii")
        self._pumps: set[asyncio.Task[None]] = set()

    @property
    def round_trip(self) -> float | None:
        """Seconds: the latest PING's, else what opening a connection by TCP took; None: unknown."""
        return self.pool.round_trip

    async def open(
        self, outgoing: Outgoing, sink: StreamSink, deadline: float | None = None
    ) -> None:
        """Send; the answer goes to `sink`. `deadline`: a `time.monotonic()` value for a connection.

        Raises ConnectFailed, ConnectTimeout, PoolExhausted, Refused: nothing was sent.
        """
        connection = await self.acquire(len(outgoing.body), deadline)
        if connection is None:
            self._open_http1(outgoing, sink, deadline)
            return
        reused = connection.requests > 0
        headers = self.h2_headers(outgoing, len(outgoing.body))
        stream = connection.request(headers, sink, outgoing.body)
        sink.opened(stream, "h2", reused=reused)

    async def acquire(self, size: int, deadline: float | None = None) -> Connection | None:
        """A connection for a body of `size` bytes, or None: send it over HTTP/1.1.

        Raises ConnectFailed, ConnectTimeout, PoolExhausted. Use it before the next `await`.
        """
        connection = await self.pool.acquire(deadline)
        if connection is not None and self._better_over_http1(size, connection):
            return None
        return connection

    def _better_over_http1(self, size: int, connection: Connection) -> bool:
        """A small HTTP/2 window costs a big body a round trip per window; HTTP/1.1 has none."""
        return (
            size > self._http1_bodies_over
            and connection.peer_initial_window <= DEFAULT_WINDOW
            and self._probe is not None
            and self._probe.speaks_http1()
        )

    def h2_headers(self, outgoing: Outgoing, length: int | None) -> list[tuple[bytes, bytes]]:
        """RFC 9113 §8.3.1: pseudo-headers first, names in lower case.

        `length` is the body's, None when it is not known or there is none.
        """
        headers = [
            (b":method", outgoing.method.encode("ascii")),
            (b":scheme", self._scheme),
            (b":authority", self._authority),
            (b":path", outgoing.path.encode("ascii")),
        ]
        headers += [(name.encode("ascii"), value.encode()) for name, value in outgoing.headers]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        return headers

    def url(self, path: str) -> URL:
        """The full URL of a path here."""
        return URL(self._base + path, encoded=True)

    def _open_http1(self, outgoing: Outgoing, sink: StreamSink, deadline: float | None) -> None:
        pump = Pump(self.pool.http1, sink)
        connect = None if deadline is None else deadline - time.monotonic()
        answer = pump.run(outgoing, self.url(outgoing.path), connect)
        task = asyncio.get_running_loop().create_task(answer)
        pump.task = task
        self._pumps.add(task)
        task.add_done_callback(self._pumps.discard)
        sink.opened(pump, "http/1.1", reused=False)

    async def close(self) -> None:
        """End what still runs here, then the pool."""
        for task in tuple(self._pumps):
            task.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        if self._probe is not None:
            await self._probe.close()
        await self.pool.close()


_PIECE = 32 * 1024
"""Bytes that are handed on at most, before a look whether the client still reads. What comes
together is hardly ever more, except of an upstream that floods."""


class Pump:
    """An HTTP/1.1 answer, read by a task of its own and handed to a sink: one call per read."""

    def __init__(self, session: aiohttp.ClientSession, sink: StreamSink) -> None:
        self._session = session
        self._sink = sink
        self._readable: asyncio.Future[None] | None = None
        self._response: aiohttp.ClientResponse | None = None
        self.task: asyncio.Task[None] | None = None

    def pause_reading(self) -> None:
        if self._readable is None:
            self._readable = asyncio.get_running_loop().create_future()
            transport = self._transport()
            if transport is not None:  # or aiohttp would hold one more read of an answer
                transport.pause_reading()

    def resume_reading(self) -> None:
        readable, self._readable = self._readable, None
        if readable is not None and not readable.done():
            readable.set_result(None)
            transport = self._transport()
            if transport is not None and not transport.is_closing():
                transport.resume_reading()

    def _transport(self) -> asyncio.Transport | None:
        """None when the answer has come whole: then it may be another's already."""
        connection = None if self._response is None else self._response.connection
        return None if connection is None else connection.transport

    def cancel(self) -> None:
        if self.task is not None:
            self.task.cancel()

    async def run(self, outgoing: Outgoing, url: URL, connect: float | None) -> None:
        """Send, then read to the end. The task ends with the answer; errors go to the sink.

        `connect`: seconds for a connection, if that is less than the session's.
        """
        sink, use = self._sink, Use()
        timeout = self._session.timeout
        if connect is not None:
            connect = max(min(connect, timeout.connect or connect), _AT_ONCE)
            timeout = aiohttp.ClientTimeout(total=None, connect=connect)
        try:
            async with self._session.request(
                outgoing.method,
                url,
                headers=outgoing.headers,
                data=outgoing.body or None,
                allow_redirects=False,
                timeout=timeout,
                trace_request_ctx=use,
            ) as response:
                del outgoing  # its body may be large, and the answer long
                self._response = response
                sink.reused = use.reused
                sink.on_head(head_of(response))
                content = response.content
                while data := await content.read(_PIECE):
                    sink.on_data(data)
                    if self._readable is not None:
                        del data  # who does not read now may never do
                        await self._readable
            sink.on_end([])
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # asyncio's TimeoutError is an OSError here
            sink.on_error(translate(error))


def head_of(response: aiohttp.ClientResponse) -> Head:
    """The head of an HTTP/1.1 answer as HTTP/2 would bring it."""
    return Head(response.status, [(name.lower(), value) for name, value in response.raw_headers])
