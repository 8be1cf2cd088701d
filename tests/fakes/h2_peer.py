"""HTTP/2 servers for tests, on real sockets, with TLS or in plain text (prior knowledge).

`Peer(script)` speaks through python-hyper `h2`, which also judges what the client sends (`judged`);
the script is a coroutine run for each request. `Peer(raw=True)` says only what it is told, frame by
frame. Both log every frame they get, and can misbehave: `send`, `goaway`, `reset`, `drop`, `deaf`.

    async with Peer(script) as peer:
        connection = await connect(peer)
        recorder = Recorder()
        connection.request(GET, recorder)
        await recorder.over()
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)

from proxy.net.h2.connection import Connection
from tests.fakes.h2_sinks import OK, Headers, Waiting
from tests.fakes.h2_tls import server_tls

SomeFrame = TypeVar("SomeFrame", bound=Frame)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class PeerConnection(Waiting, asyncio.Protocol):
    """One accepted connection: logs frames, sends what it is told."""

    transport: asyncio.Transport

    def __init__(self, peer: Peer) -> None:
        super().__init__()
        self.peer = peer
        self.frames: list[Frame] = []  # all that came, in order
        self.preface = b""
        self.closed = False
        self.deaf = False  # from now on what comes is not looked at, nor answered
        self.answers_pings = False
        self.stalls = 0.0  # seconds for which the whole process stops behind the next such answer
        self.reads: list[int] = []  # sizes
        self.sips = 0.0  # seconds without reading after each read
        self.hpack = Encoder()
        self.decoder = Decoder()
        self._pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert not isinstance(transport, asyncio.DatagramTransport)
        self.transport = transport  # type: ignore[assignment]
        self.peer.connections.append(self)
        self.peer.touched()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self.touched()

    def data_received(self, data: bytes) -> None:
        self.reads.append(len(data))
        if self.deaf:
            return
        if self.sips:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_later(self.sips, self._sip)
        self._pending += data
        if not self.preface and len(self._pending) >= len(PREFACE):
            self.preface, self._pending = self._pending[:24], self._pending[24:]
        while self.preface and len(self._pending) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(self._pending[:9]))
            if len(self._pending) < 9 + length:
                break
            frame.parse_body(memoryview(self._pending[9 : 9 + length]))
            self._pending = self._pending[9 + length :]
            self.frames.append(frame)
            if self.answers_pings and isinstance(frame, PingFrame) and "ACK" not in frame.flags:
                self.send(PingFrame(0, frame.opaque_data, flags=["ACK"]))
                time.sleep(self.stalls)
                self.stalls = 0.0
        self.touched()

    def _sip(self) -> None:
        if not self.closed:
            self.transport.resume_reading()

    # --- what tests do ---------------------------------------------------------------------------

    def seen(self, kind: type[SomeFrame], stream_id: int | None = None) -> list[SomeFrame]:
        """Frames of a kind that came so far."""
        return [
            f
            for f in self.frames
            if isinstance(f, kind) and stream_id in (None, f.stream_id) and "ACK" not in f.flags
        ]

    async def frame(
        self, kind: type[SomeFrame], stream_id: int | None = None, count: int = 1
    ) -> SomeFrame:
        """The count-th frame of a kind; waits for it."""
        await self.until(lambda: len(self.seen(kind, stream_id)) >= count)
        return self.seen(kind, stream_id)[count - 1]

    async def acked(self, kind: type[SettingsFrame] | type[PingFrame]) -> None:
        """Until an ACK of that kind has come."""
        await self.until(lambda: any(isinstance(f, kind) and "ACK" in f.flags for f in self.frames))

    async def synced(self) -> None:
        """Sends a PING and awaits its ACK: the client has dealt with all that was sent before."""
        before = len(self.acks())
        self.send(PingFrame(0, b"a marker"))
        await self.until(lambda: len(self.acks()) > before)

    def acks(self) -> list[PingFrame]:
        return [f for f in self.frames if isinstance(f, PingFrame) and "ACK" in f.flags]

    def send(self, *parts: Frame | bytes) -> None:
        """Frames, or bytes as they are, in one write."""
        parts_as_bytes = [p if isinstance(p, bytes) else p.serialize() for p in parts]
        self.transport.write(b"".join(parts_as_bytes))

    def settings(self, **values: int) -> SettingsFrame:
        """SETTINGS; names are those of hyperframe in lower case."""
        return SettingsFrame(0, {getattr(SettingsFrame, k.upper()): v for k, v in values.items()})

    def block(self, stream_id: int, headers: Headers, *flags: str) -> HeadersFrame:
        """HEADERS, whole."""
        return HeadersFrame(stream_id, self.hpack.encode(headers), flags=["END_HEADERS", *flags])

    def data(self, stream_id: int, data: bytes, *flags: str) -> DataFrame:
        return DataFrame(stream_id, data, flags=flags)

    def goaway(self, last: int = 2**31 - 1, code: int = 0, debug: bytes = b"") -> None:
        self.send(GoAwayFrame(0, last, code, debug))

    def reset(self, stream_id: int, code: int = 0) -> None:
        self.send(RstStreamFrame(stream_id, code))

    def drop(self) -> None:
        """The connection breaks, with a TCP reset where the loop can."""
        self.transport.abort()

    async def request_headers(self, stream_id: int) -> Headers:
        """The header block of a request, decoded; ask for each stream once and in order."""
        head = await self.frame(HeadersFrame, stream_id)
        rest = [f.data for f in self.seen(ContinuationFrame, stream_id)]
        block = b"".join([head.data, *rest])
        return [(bytes(n), bytes(v)) for n, v in self.decoder.decode(block, raw=True)]


class Request:
    """One request as the scripted peer got it."""

    def __init__(self, connection: Scripted, stream_id: int, headers: Headers) -> None:
        self.connection = connection
        self.stream_id = stream_id
        self.headers = headers
        self.body = bytearray()
        self.sent = 0  # bytes of DATA
        self.ended = False
        self.reset: int | None = None  # the code of the client's RST_STREAM

    async def until_ended(self) -> None:
        await self.connection.until(lambda: self.ended)

    async def until_reset(self) -> int:
        await self.connection.until(lambda: self.reset is not None)
        assert self.reset is not None
        return self.reset

    def head(self, headers: Headers = OK, *, end: bool = False) -> None:
        if self.gone:
            return
        self.connection.h2.send_headers(self.stream_id, headers, end_stream=end)
        self.connection.flush()

    async def data(self, data: bytes, *, end: bool = False) -> None:
        """Send DATA as the client's windows allow; waits for them."""
        connection, at = self.connection, 0
        while at < len(data) or (end and not data):
            await connection.until(lambda: self.gone or self.room() > 0 or not data)
            if self.gone:
                return
            chunk = data[at : at + self.room()]
            at += len(chunk)
            self.sent += len(chunk)
            connection.h2.send_data(self.stream_id, chunk, end_stream=end and at == len(data))
            connection.flush()
            if not data:
                return
            await connection.writable.wait()

    @property
    def gone(self) -> bool:
        return self.reset is not None or self.connection.closed

    def room(self) -> int:
        """Bytes of DATA that may go now in one frame."""
        h2 = self.connection.h2
        return min(h2.local_flow_control_window(self.stream_id), h2.max_outbound_frame_size)

    def trailers(self, headers: Headers) -> None:
        if self.gone:
            return
        self.connection.h2.send_headers(self.stream_id, headers, end_stream=True)
        self.connection.flush()


Script = Callable[[Request], Awaitable[None]]


async def answer_ok(request: Request) -> None:
    """The default script: the whole request, then 200 and its body back."""
    await request.until_ended()
    request.head()
    await request.data(bytes(request.body) or b"ok", end=True)


class Scripted(PeerConnection):
    """A connection spoken through `h2`, which raises for whatever a client may not send."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer)
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self.h2 = h2.connection.H2Connection(config)
        self.requests: dict[int, Request] = {}
        self.judged: Exception | None = None  # what `h2` found wrong with the client
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.h2.initiate_connection()
        codes = h2.settings.SettingCodes
        self.h2.update_settings({codes[k.upper()]: v for k, v in self.peer.settings.items()})
        self.flush()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        if self.deaf:
            return
        try:
            for event in self.h2.receive_data(data):
                self._on_event(event)
        except h2.exceptions.ProtocolError as error:
            self.judged = error
        self.flush()
        super().data_received(data)

    def flush(self) -> None:
        data = self.h2.data_to_send()
        if data and not self.closed:
            self.transport.write(data)
            self.touched()

    def _on_event(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived(stream_id=int(stream_id), headers=list(headers)):
                request = Request(self, stream_id, [(bytes(n), bytes(v)) for n, v in headers])
                self.requests[stream_id] = request
                self.peer.start(request)
            case h2.events.DataReceived(stream_id=int(stream_id), data=bytes(data)):
                self.requests[stream_id].body += data
                if self.peer.takes_uploads and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, stream_id)
            case h2.events.StreamEnded(stream_id=int(stream_id)):
                self.requests[stream_id].ended = True
            case h2.events.StreamReset(stream_id=int(stream_id), error_code=code):
                if stream_id in self.requests:
                    self.requests[stream_id].reset = int(code or 0)


class Peer(Waiting):
    """Listens on a free port of 127.0.0.1 while its `async with` lasts."""

    def __init__(
        self,
        script: Script = answer_ok,
        *,
        tls: bool = True,
        raw: bool = False,
        alpn: Iterable[str] = ("h2",),
        takes_uploads: bool = True,
        receive_buffer: int = 0,
        **settings: int,
    ) -> None:
        super().__init__()
        self.script = script
        self.tls = tls
        self.settings = settings
        self.takes_uploads = takes_uploads  # gives windows back for what it receives
        self.connections: list[PeerConnection] = []
        self.clients: list[Connection] = []  # ours, closed with this peer: see `h2_connect`
        self.port = 0
        self._receive_buffer = receive_buffer  # SO_RCVBUF, when not 0
        self._alpn = tuple(alpn)
        self._protocol = PeerConnection if raw else Scripted
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []  # raised by scripts

    async def __aenter__(self) -> Peer:
        listener = socket.socket()
        if self._receive_buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        listener.bind(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self._server = await asyncio.get_running_loop().create_server(
            lambda: self._protocol(self),
            sock=listener,
            ssl=server_tls(*self._alpn) if self.tls else None,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self.clients:
            client.abort()
            await client.wait_closed()
        for connection in self.connections:
            connection.transport.abort()
        for connection in self.connections:
            await connection.until(lambda c=connection: c.closed)  # type: ignore[misc]
        self.check()

    def check(self) -> None:
        """Raises what `h2` found wrong with the client, or what a script raised."""
        for connection in self.connections:
            if isinstance(connection, Scripted) and connection.judged is not None:
                raise connection.judged
        for failure in self._failures:
            raise failure

    def start(self, request: Request) -> None:
        """Run the script for a request, as a task of this peer."""
        task = asyncio.ensure_future(self.script(request))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failures.append(error)

    async def connection(self, index: int = 0) -> PeerConnection:
        """The index-th connection; waits for it."""
        await self.until(lambda: len(self.connections) > index)
        return self.connections[index]

    async def scripted(self, index: int = 0) -> Scripted:
        connection = await self.connection(index)
        assert isinstance(connection, Scripted)
        return connection

    async def request(self, stream_id: int, index: int = 0) -> Request:
        """A request of the index-th connection; waits for it."""
        connection = await self.scripted(index)
        await connection.until(lambda: stream_id in connection.requests)
        return connection.requests[stream_id]
