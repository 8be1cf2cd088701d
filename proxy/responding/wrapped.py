"""A client that is another one, but for what is told differently to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from proxy.config import WebSocketLimits
from proxy.errors import ClientError
from proxy.net.halves import Client, Headers
from proxy.net.websocket import Socket


class WrappedClient:
    """All that `proxy.net.halves.Client` is, by way of another one."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def on_flow(self) -> Callable[[bool], None] | None:
        return self._client.on_flow

    @on_flow.setter
    def on_flow(self, call: Callable[[bool], None] | None) -> None:
        self._client.on_flow = call

    @property
    def paused_since(self) -> float | None:
        return self._client.paused_since

    @paused_since.setter
    def paused_since(self, since: float | None) -> None:
        self._client.paused_since = since

    @property
    def bytes_out(self) -> int:
        return self._client.bytes_out

    @bytes_out.setter
    def bytes_out(self, count: int) -> None:
        self._client.bytes_out = count

    @property
    def peer(self) -> str:
        return self._client.peer

    @property
    def method(self) -> str:
        return self._client.method

    @property
    def raw_path(self) -> str:
        return self._client.raw_path

    @property
    def content_length(self) -> int | None:
        return self._client.content_length

    @property
    def has_body(self) -> bool:
        return self._client.has_body

    @property
    def bytes_in(self) -> int:
        return self._client.bytes_in

    @property
    def fault(self) -> ClientError | None:
        return self._client.fault

    @property
    def has_begun(self) -> bool:
        return self._client.has_begun

    @property
    def carrier(self) -> str:
        return self._client.carrier

    def headers(self) -> list[tuple[str, str]]:
        return self._client.headers()

    def check_head(self) -> None:
        self._client.check_head()

    async def read_body(self, *, limit: int, timeout: float) -> bytes:
        return await self._client.read_body(limit=limit, timeout=timeout)

    def hold(self, size: int, *, kept: int) -> None:
        self._client.hold(size, kept=kept)

    def body_parts(self, *, limit: int | None) -> AsyncIterator[bytes]:
        return self._client.body_parts(limit=limit)

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        self._client.answer(status, headers, body)

    def open(self, headers: Headers) -> None:
        self._client.open(headers)

    async def open_body(self, status: int, headers: Headers) -> None:
        await self._client.open_body(status, headers)

    async def write_body(self, data: bytes) -> None:
        await self._client.write_body(data)

    def write(self, events: list[bytes], last: bool = False) -> None:
        self._client.write(events, last)

    def cut(self, events: list[bytes]) -> None:
        self._client.cut(events)

    def upgrade(self, headers: Headers, settings: WebSocketLimits) -> Socket:
        return self._client.upgrade(headers, settings)

    def has_taken(self, now: float) -> bool:
        return self._client.has_taken(now)

    def abort(self) -> None:
        self._client.abort()
