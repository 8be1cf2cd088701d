"""A scripted upstream on a real socket: HTTP/1.1 in the clear, or TLS with HTTP/2.

The script is a coroutine that gets one `Call` and answers it as it likes, or breaks it as it likes.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, cast

import h2.config
import h2.connection
import h2.events
import h2.settings
import trustme

SSE = "text/event-stream;charset=UTF-8"


class Call(Protocol):
    """One request, and the ways to answer it."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    gone: asyncio.Event
    """Set when the proxy gave the request up: reset, or connection closed."""

    def head(self, status: int = 200, **headers: str) -> None: ...
    def send(self, data: bytes) -> None: ...
    def finish(self, ending: str = "clean") -> None: ...


Script = Callable[[Call], Awaitable[None]]

H1_ENDINGS = ("clean", "torn", "rst", "close", "short")
H2_ENDINGS = ("clean", "reset", "refused_late", "goaway", "drop")


class ScriptedUpstream:
    """Listens while entered. `calls` are all requests so far, `arrived` counts them."""

    def __init__(self, script: Script, *, h2: bool = False, alpn: Sequence[str] = ("h2",)) -> None:
        self._alpn = list(alpn)
        self.calls: list[Call] = []
        self.arrived = asyncio.Semaphore(0)
        self._waiting: list[tuple[Callable[[Call], bool], asyncio.Future[Call]]] = []
        self._script = script
        self._h2 = h2
        self._server: asyncio.Server | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self.transports: set[asyncio.Transport] = set()
        self.connections = 0
        """Opened so far."""
        self.port = 0
        self._authority = trustme.CA() if h2 else None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        factory = (lambda: _Chosen(self)) if self._h2 else (lambda: _H1Server(self))
        self._server = await loop.create_server(
            factory, "127.0.0.1", self.port, ssl=self._context()
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for transport in tuple(self.transports):
            transport.abort()
        while self.transports:
            await asyncio.sleep(0)

    @property
    def url(self) -> str:
        return f"{'https' if self._h2 else 'http'}://127.0.0.1:{self.port}"

    def write_ca(self, folder: Path) -> Path:
        """The PEM file by which the upstream's certificate is trusted."""
        assert self._authority is not None
        path = folder / "ca.pem"
        path.write_bytes(self._authority.cert_pem.bytes())
        return path

    def _context(self) -> ssl.SSLContext | None:
        if self._authority is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert("127.0.0.1").configure_cert(context)
        context.set_alpn_protocols(self._alpn)
        return context

    async def called(self, is_it: Callable[[Call], bool]) -> Call:
        """The call that `is_it` is true of, when it has come."""
        for call in self.calls:
            if is_it(call):
                return call
        waiting = (is_it, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            return await asyncio.wait_for(waiting[1], 20)
        finally:
            self._waiting.remove(waiting)

    def begin(self, call: Call) -> None:
        self.calls.append(call)
        self.arrived.release()
        for is_it, found in self._waiting:
            if not found.done() and is_it(call):
                found.set_result(call)
        task = asyncio.get_running_loop().create_task(self._run(call))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _run(self, call: Call) -> None:
        await self._script(call)


class _H1Server(asyncio.Protocol):
    """One request at a time; bodies by Content-Length or chunked."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.upstream = upstream
        self.buffer = bytearray()
        self.call: H1Call | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.upstream.transports.add(self.transport)
        self.upstream.connections += 1

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, blank, rest = bytes(self.buffer).partition(b"\r\n\r\n")
        if not blank:
            return
        lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:])
        }
        if headers.get("transfer-encoding") == "chunked":
            if not rest.endswith(b"0\r\n\r\n"):
                return
            body, rest = _dechunked(rest), b""
        else:
            length = int(headers.get("content-length", "0"))
            if len(rest) < length:
                return
            body, rest = rest[:length], rest[length:]
        self.buffer = bytearray(rest)
        method, path, _ = lines[0].split(" ")
        self.call = H1Call(self, method, path, headers, body)
        self.upstream.begin(self.call)

    def connection_lost(self, error: Exception | None) -> None:
        self.upstream.transports.discard(self.transport)
        if self.call is not None:
            self.call.gone.set()


def _dechunked(data: bytes) -> bytes:
    parts: list[bytes] = []
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return b"".join(parts)
        parts.append(data[:length])
        data = data[length + 2 :]


class _Chosen(asyncio.Protocol):
    """Becomes the protocol that ALPN chose."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.upstream = upstream

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        protocol = _H2Server(self.upstream) if chosen == "h2" else _H1Server(self.upstream)
        cast(asyncio.Transport, transport).set_protocol(protocol)
        protocol.connection_made(transport)


class H1Call:
    """See `Call`."""

    def __init__(
        self, server: _H1Server, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> None:
        self.method, self.path, self.headers, self.body = method, path, headers, body
        self.gone = asyncio.Event()
        self._server = server
        self._chunked = True

    def head(self, status: int = 200, **headers: str) -> None:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        fields.setdefault("content-type", SSE)
        framing = fields.pop("framing", "chunked")
        self._chunked = framing == "chunked"
        if self._chunked:
            fields["transfer-encoding"] = "chunked"
        elif framing != "close":
            fields["content-length"] = framing
        lines = [f"HTTP/1.1 {status} Said", *(f"{name}: {value}" for name, value in fields.items())]
        self._write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def send(self, data: bytes) -> None:
        self._write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked and data else data)

    def finish(self, ending: str = "clean") -> None:
        transport = self._server.transport
        if ending == "clean":
            if self._chunked:
                self._write(b"0\r\n\r\n")
            return
        if ending == "torn":
            self._write(b"40\r\nda")
        if ending == "rst":
            reset_on_close(transport)
            transport.abort()
        else:
            transport.close()

    def _write(self, data: bytes) -> None:
        if not self._server.transport.is_closing():
            self._server.transport.write(data)


def reset_on_close(transport: asyncio.Transport) -> None:
    """The peer gets RST instead of FIN."""
    sock = transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class _H2Server(asyncio.Protocol):
    """python-hyper's `h2` as the peer."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.upstream = upstream
        config = h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.calls: dict[int, H2Call] = {}
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.upstream.transports.add(self.transport)
        self.upstream.connections += 1
        self.h2.initiate_connection()
        self.flush()

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            match event:
                case h2.events.RequestReceived():
                    assert event.headers is not None
                    assert event.stream_id is not None
                    headers = {str(name): str(value) for name, value in event.headers}
                    self.calls[event.stream_id] = H2Call(self, event.stream_id, headers)
                case h2.events.DataReceived():
                    assert event.stream_id is not None
                    self.calls[event.stream_id].body += event.data or b""
                    self.h2.acknowledge_received_data(
                        event.flow_controlled_length or 0, event.stream_id
                    )
                case h2.events.StreamEnded():
                    assert event.stream_id is not None
                    self.upstream.begin(self.calls[event.stream_id])
                case h2.events.StreamReset():
                    assert event.stream_id is not None
                    self.calls[event.stream_id].reset_code = int(event.error_code or 0)
                    self.calls[event.stream_id].gone.set()
                case h2.events.WindowUpdated():
                    for call in self.calls.values():
                        call.push()
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self.upstream.transports.discard(self.transport)
        for call in self.calls.values():
            call.gone.set()

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)


class H2Call:
    """See `Call`."""

    def __init__(self, server: _H2Server, stream: int, headers: dict[str, str]) -> None:
        self.method = headers.pop(":method")
        self.path = headers.pop(":path")
        self.headers = headers
        self.body = b""
        self.gone = asyncio.Event()
        self.reset_code: int | None = None
        self._server = server
        self._stream = stream
        self._queue = bytearray()
        self._ending = False

    def head(self, status: int = 200, **headers: str) -> None:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        fields.pop("framing", None)
        fields.setdefault("content-type", SSE)
        self._server.h2.send_headers(self._stream, [(":status", str(status)), *fields.items()])
        self._server.flush()

    def send(self, data: bytes) -> None:
        self._queue += data
        self.push()

    def push(self) -> None:
        while self._queue and not self.gone.is_set():
            room = min(self._server.h2.local_flow_control_window(self._stream), 16_384)
            if room <= 0:
                break
            self._server.h2.send_data(self._stream, bytes(self._queue[:room]))
            del self._queue[:room]
        if self._ending and not self._queue and not self.gone.is_set():
            self._ending = False
            self._server.h2.end_stream(self._stream)
        self._server.flush()

    def finish(self, ending: str = "clean") -> None:
        server = self._server
        if ending == "clean":
            self._ending = True
            self.push()
        elif ending == "reset":
            server.h2.reset_stream(self._stream, 2)
        elif ending == "refused_late":
            server.h2.reset_stream(self._stream, 7)
        elif ending == "goaway":
            server.h2.close_connection(2, last_stream_id=self._stream)
        server.flush()
        if ending in ("goaway", "drop"):
            server.transport.close()
