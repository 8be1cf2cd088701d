"""A trace collector on a real socket: OTLP over HTTP, as protobuf, with the SDK's own messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

Kind = Span.SpanKind
PATH = "/v1/traces"
_WITHIN = 20.0


@dataclass(frozen=True)
class Received:
    """One span, its ids in hex and its attributes as Python values."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    server: bool
    start: int
    end: int
    attributes: dict[str, Any]
    events: tuple[tuple[str, int], ...]
    links: tuple[tuple[str, str], ...]
    failed: bool
    message: str
    resource: dict[str, Any]


class Collector:
    """What it got; `answer` may be replaced to refuse, or to hang."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[], Awaitable[web.Response]] = _taken
        self.url = ""

    async def has(self, count: int) -> list[Received]:
        """So many spans, when they are there."""
        async with asyncio.timeout(_WITHIN):
            while len(self.spans) < count:
                await asyncio.sleep(0.005)
        return self.spans

    async def asked(self) -> None:
        """Somebody wanted to bring something."""
        async with asyncio.timeout(_WITHIN):
            while not self.bodies:
                await asyncio.sleep(0.005)

    async def take(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        body = await request.read()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        answer = await self.answer()
        if answer.status == 200:
            self.spans += _spans(ExportTraceServiceRequest.FromString(body))
        return answer


async def _taken() -> web.Response:
    body = ExportTraceServiceResponse().SerializeToString()
    return web.Response(body=body, content_type="application/x-protobuf")


@asynccontextmanager
async def collecting(port: int = 0) -> AsyncIterator[Collector]:
    """A collector that listens on loopback."""
    collector = Collector()
    app = web.Application()
    app.router.add_post(PATH, collector.take)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()


def _spans(request: ExportTraceServiceRequest) -> Iterable[Received]:
    for of_resource in request.resource_spans:
        resource = _values(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield _received(span, resource)


def _received(span: Span, resource: dict[str, Any]) -> Received:
    return Received(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        server=span.kind == Kind.SPAN_KIND_SERVER,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=_values(span.attributes),
        events=tuple((event.name, event.time_unix_nano) for event in span.events),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        failed=span.status.code == Status.StatusCode.STATUS_CODE_ERROR,
        message=span.status.message,
        resource=resource,
    )


def _values(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    assert kind is not None
    return getattr(value, kind)
