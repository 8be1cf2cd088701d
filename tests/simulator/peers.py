"""Clients that see what ordinary ones hide: raw HTTP/1.1, and every HTTP/2 frame."""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import orjson
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    PingAckReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)

from proxy.simulator import Simulator

GUARD = 10.0
CHAT = "/api/paas/v4/chat/completions"
CODING = "/api/coding/paas/v4/chat/completions"
MESSAGES = "/api/anthropic/v1/messages"
KEY = ("authorization", "Bearer id.secret")
QUESTION = [{"role": "user", "content": "Tell me about harbours"}]


def chat(model: str = "glm-4-flash", **fields: Any) -> dict[str, Any]:
    """The body of a streaming chat request."""
    return {"model": model, "messages": QUESTION, "stream": True, **fields}


def events(text: str | bytes) -> list[str]:
    """The data of each event."""
    whole = text.decode() if isinstance(text, bytes) else text
    return [block.partition("data: ")[2] for block in whole.split("\n\n") if "data: " in block]


def chunks(text: str | bytes) -> list[dict[str, Any]]:
    """The JSON of each event but `[DONE]`."""
    return [orjson.loads(data) for data in events(text) if data != "[DONE]"]


def content(text: str | bytes) -> str:
    """All visible text of a GLM stream."""
    return "".join(
        choice["delta"].get("content", "") for chunk in chunks(text) for choice in chunk["choices"]
    )


def raw_request(
    path: str, body: bytes = b"", *, method: str = "POST", headers: str = "", version: str = "1.1"
) -> bytes:
    """The bytes of an HTTP/1.1 request."""
    head = (
        f"{method} {path} HTTP/{version}\r\nhost: x\r\nuser-agent: test\r\n"
        f"authorization: Bearer id.secret\r\n{headers}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def address(url: str) -> tuple[str, int]:
    """Host and port of a URL that names both."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


@asynccontextmanager
async def connected(
    url: str, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A raw connection; how it ended is the reader's to tell."""
    reader, writer = await asyncio.open_connection(*address(url), ssl=tls)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def read_all(reader: asyncio.StreamReader) -> tuple[bytes, str]:
    """Everything until the end, and how that came: `eof` or `reset`."""
    got = b""
    async with asyncio.timeout(GUARD):
        while True:
            try:
                part = await reader.read(65536)
            except ConnectionResetError:
                return got, "reset"
            if not part:
                return got, "eof"
            got += part


async def ask_raw(url: str, request: bytes) -> tuple[bytes, str]:
    """One raw exchange: all bytes of the answer, and how the connection ended."""
    async with connected(url) as (reader, writer):
        writer.write(request)
        return await read_all(reader)


class H2Client(asyncio.Protocol):
    """An HTTP/2 client that keeps all it receives, by stream."""

    def __init__(self, *, window: bool = True) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.heads: dict[int, dict[str, str]] = {}
        self.informational: list[dict[str, str]] = []
        self.bodies: defaultdict[int, bytearray] = defaultdict(bytearray)
        self.frames: defaultdict[int, list[bytes]] = defaultdict(list)
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.goaways: list[tuple[int, int]] = []
        self.pongs = 0
        self.closed = False
        self.window = window
        """Give back windows as data comes."""
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.h2.initiate_connection()
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._changed.set()

    def data_received(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self._received(event)
        self.flush()
        self._changed.set()

    def _received(self, event: Event) -> None:
        match event:
            case ResponseReceived():
                self.heads[event.stream_id] = {str(n): str(v) for n, v in event.headers}
            case InformationalResponseReceived():
                self.informational.append({str(n): str(v) for n, v in event.headers})
            case DataReceived():
                self.bodies[event.stream_id] += event.data
                self.frames[event.stream_id].append(event.data)
                if self.window:
                    size = event.flow_controlled_length
                    self.h2.acknowledge_received_data(size, event.stream_id)
            case StreamEnded():
                self.ended.add(event.stream_id)
            case StreamReset():
                self.resets[event.stream_id] = int(event.error_code or 0)
            case PingAckReceived():
                self.pongs += 1
            case ConnectionTerminated():
                self.goaways.append((event.last_stream_id or 0, int(event.error_code or 0)))
                # h2 takes GOAWAY for the end; for the streams in flight it is not.
                self.h2.state_machine.state = type(self.h2.state_machine.state).CLIENT_OPEN

    def flush(self) -> None:
        self.transport.write(self.h2.data_to_send())

    def send(self, path: str, body: bytes = b"", *, method: str = "POST", end: bool = True) -> int:
        """Sends a request, in one go; its stream."""
        stream = self.h2.get_next_available_stream_id()
        headers = [
            (":method", method),
            (":scheme", "https"),
            (":authority", "x"),
            (":path", path),
            ("user-agent", "test"),
            KEY,
        ]
        self.h2.send_headers(stream, headers, end_stream=end and not body)
        if body:
            self.h2.send_data(stream, body, end_stream=end)
        self.flush()
        return stream

    def ask(self, **fields: Any) -> int:
        """Sends a streaming chat; its stream."""
        return self.send(CHAT, orjson.dumps(chat(**fields)))

    async def until(self, condition: Callable[[H2Client], object]) -> None:
        """Returns when the condition is true."""
        async with asyncio.timeout(GUARD):
            while not condition(self):
                self._changed.clear()
                await self._changed.wait()

    def has_body(self, stream: int) -> bool:
        """Some of the stream's response came."""
        return bool(self.bodies[stream])

    async def answer(self, stream: int) -> bytes:
        """The body of a response that ends as it should."""
        await self.until(lambda c: stream in c.ended)
        return bytes(self.bodies[stream])


@asynccontextmanager
async def h2_client(
    sim: Simulator, *, tls: bool = True, window: bool = True
) -> AsyncIterator[H2Client]:
    """A client connected to a simulator, over TLS with ALPN or in clear by prior knowledge."""
    url = sim.https_url if tls else sim.http_url
    assert url is not None
    host, port = address(url)
    transport, client = await asyncio.get_running_loop().create_connection(
        lambda: H2Client(window=window),
        host,
        port,
        ssl=trusting(sim, "h2") if tls else None,
    )
    try:
        yield client
    finally:
        transport.abort()


def trusting(sim: Simulator, *alpn: str) -> ssl.SSLContext:
    """A client's TLS context that trusts the simulator's CA and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    assert sim.ca_file is not None
    context.load_verify_locations(sim.ca_file)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context
