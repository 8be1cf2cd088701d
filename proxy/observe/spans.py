"""From one finished record to its spans, named as OpenTelemetry's conventions say.

One SERVER span for the exchange, and below it one CLIENT span for each attempt: failed ones, and
those that lost a race, are siblings of the one that answered. Where nothing is known, an attribute
is left out.

    SERVER  `POST /v1/chat/completions`; of paths without end (passthrough) only the method
        http.request.method url.scheme url.path http.route http.response.status_code error.type
        gen_ai.operation.name gen_ai.provider.name gen_ai.request.model gen_ai.request.stream
        gen_ai.response.model gen_ai.response.finish_reasons
        gen_ai.response.time_to_first_chunk           seconds
        gen_ai.usage.input_tokens .output_tokens .cache_read.input_tokens
                     .reasoning.output_tokens
        glm_proxy.request_id .kind .dialect .route .endpoint .reason .changes .decisions .shared
                 .outcome .stage .upstream_code       as in the access log
        events: parsed sent headers first_byte first_token first_content committed
        link: where the answer is shared, the attempt that brought it
    CLIENT  `chat glm-4-flash`; of passthrough only the method
        gen_ai.operation.name gen_ai.provider.name gen_ai.request.model
        gen_ai.usage.input_tokens .output_tokens
        http.request.method http.response.status_code server.address server.port
        network.protocol.name network.protocol.version error.type
        glm_proxy.endpoint .role .won .outcome .upstream_code .reused .waited_s
        events: sent headers first_byte first_token first_content

`error.type` is the outcome, where that is not `completed`. Never in a span: prompt, answer, key,
query string, header values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Final, NamedTuple

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.sdk.version import __version__ as SDK_VERSION
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from proxy.core.record import AttemptRecord, Record, SpanIds, Usage
from proxy.observe.instruments import PROVIDER
from proxy.observe.redact import (
    PATH_LIMIT,
    assignment,
    decision,
    identifier,
    plain,
    sentence,
    word,
)

Value = str | bool | int | float | list[str]
Marks = tuple[tuple[str, float | None], ...]

_METHODS: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
_OTHER_METHOD: Final = "_OTHER"
_ROUTED: Final = frozenset({"chat", "models"})
"""Kinds whose paths are few."""
_VERSIONS: Final = {"h2": "2", "http/1.1": "1.1"}
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_NOBODYS_FAULT: Final = frozenset({"completed", "client_gone", "cancelled"})
_QUEUED: Final = SpanContext(1, 1, False, _SAMPLED)
"""The SDK's queue takes only what is sampled."""
_NO_STATUS: Final = Status(StatusCode.UNSET)
_NO_USAGE: Final = Usage()


class Address(NamedTuple):
    """Where an endpoint is."""

    host: str
    port: int


class Clock(NamedTuple):
    """One moment on both clocks: the timeline's in seconds, Unix time in nanoseconds."""

    monotonic: float
    wall: int

    def at(self, mark: float) -> int:
        """Unix time of a mark, in nanoseconds."""
        return self.wall - round((self.monotonic - mark) * 1e9)


class Finished(ReadableSpan):
    """A finished exchange as it waits in the SDK's queue, in place of its spans: they are made by
    the thread that sends them, since the event loop has better things to do."""

    def __init__(self, record: Record, clock: Clock) -> None:
        """`clock` is any moment near its end."""
        super().__init__("exchange", _QUEUED, resource=Resource.get_empty())
        self.record = record
        self.clock = clock


def sampled(record: Record) -> Iterator[tuple[SpanIds, AttemptRecord | None]]:
    """The spans to be sent: that of the exchange, which has no attempt, and those of its attempts.

    A shared answer's attempts may be of a trace that is sampled while the exchange is not.
    """
    if record.span is not None and record.span.sampled:
        yield record.span, None
    for attempt in record.attempts:
        if attempt.span is not None and attempt.span.sampled:
            yield attempt.span, attempt


class Spans:
    """Makes the spans of one process."""

    def __init__(self, service: str, version: str, addresses: Mapping[str, Address]) -> None:
        """`service` is the name of this one; `addresses` are by endpoint."""
        self.addresses = addresses
        """By endpoint; replaced whole, in another thread."""
        # Not `create`, which reads the environment.
        self._resource = Resource(
            {
                "service.name": service,
                "service.version": version,
                "telemetry.sdk.language": "python",
                "telemetry.sdk.name": "opentelemetry",
                "telemetry.sdk.version": SDK_VERSION,
            }
        )
        self._scope = InstrumentationScope("glm-proxy", version)

    def of(self, finished: Finished) -> Iterator[ReadableSpan]:
        """Those of one exchange. In any thread."""
        record, clock = finished.record, finished.clock
        for ids, attempt in sampled(record):
            if attempt is None:
                yield self._exchange(record, ids, clock)
            else:
                yield self._attempt(attempt, ids, record, clock)

    def _exchange(self, record: Record, ids: SpanIds, clock: Clock) -> ReadableSpan:
        timeline = record.timeline
        marks: Marks = (
            ("parsed", timeline.parsed),
            ("sent", timeline.sent),
            ("headers", timeline.headers),
            ("first_byte", timeline.first_byte),
            ("first_token", timeline.first_token),
            ("first_content", timeline.first_content),
            ("committed", timeline.committed),
        )
        shared = record.answer_span
        return ReadableSpan(
            _exchange_name(record),
            _context(ids),
            _parent(ids, remote=True),
            self._resource,
            _known(_exchange_attributes(record)),
            _events(marks, clock),
            () if shared is None else (Link(_context(shared)),),
            SpanKind.SERVER,
            status=_status(record.outcome, record.status, record.error),
            start_time=clock.at(timeline.received),
            end_time=clock.at(timeline.finished or timeline.received),
            instrumentation_scope=self._scope,
        )

    def _attempt(
        self, attempt: AttemptRecord, ids: SpanIds, record: Record, clock: Clock
    ) -> ReadableSpan:
        marks: Marks = (
            ("sent", attempt.sent),
            ("headers", attempt.headers),
            ("first_byte", attempt.first_byte),
            ("first_token", attempt.first_token),
            ("first_content", attempt.first_content),
        )
        address = self.addresses.get(attempt.endpoint)
        return ReadableSpan(
            _attempt_name(attempt, record),
            _context(ids),
            _parent(ids, remote=False),
            self._resource,
            _known(_attempt_attributes(attempt, record, address)),
            _events(marks, clock),
            (),
            SpanKind.CLIENT,
            status=_status(attempt.outcome, None, None),
            start_time=clock.at(attempt.started),
            end_time=clock.at(attempt.ended),
            instrumentation_scope=self._scope,
        )


def _exchange_name(record: Record) -> str:
    method = _verb(record)
    return f"{method} {plain(record.path)}" if record.kind in _ROUTED else method


def _attempt_name(attempt: AttemptRecord, record: Record) -> str:
    if record.kind == "chat":
        return f"chat {plain(attempt.model)}"
    return _verb(record)


def _verb(record: Record) -> str:
    """The method as a span's name says it, where one that is not known is HTTP."""
    return record.method if record.method in _METHODS else "HTTP"


def _exchange_attributes(record: Record) -> dict[str, Value | None]:
    path = plain(record.path, PATH_LIMIT)
    attributes: dict[str, Value | None] = {
        "http.request.method": _method(record),
        "url.scheme": "http",
        "url.path": path,
        "http.route": path if record.kind in _ROUTED else None,
        "http.response.status_code": record.status,
        "error.type": _error_type(record.outcome),
        "glm_proxy.request_id": identifier(record.request_id),
        "glm_proxy.kind": record.kind,
        "glm_proxy.dialect": record.dialect,
        "glm_proxy.route": record.route,
        "glm_proxy.endpoint": record.endpoint,
        "glm_proxy.reason": record.reason,
        "glm_proxy.changes": [assignment(one) for one in record.changes] or None,
        "glm_proxy.decisions": [decision(one) for one in record.decisions] or None,
        "glm_proxy.shared": record.shared,
        "glm_proxy.outcome": record.outcome,
        "glm_proxy.stage": record.stage,
        "glm_proxy.upstream_code": word(record.upstream_code),
    }
    if record.kind == "chat":
        attributes |= _gen_ai(record)
    return attributes


def _gen_ai(record: Record) -> dict[str, Value | None]:
    usage = record.usage or _NO_USAGE
    reason = word(record.finish_reason)
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": plain(record.requested_model),
        "gen_ai.request.stream": record.stream,
        "gen_ai.response.model": plain(record.served_model),
        "gen_ai.response.finish_reasons": None if reason is None else [reason],
        "gen_ai.response.time_to_first_chunk": record.ttfb if record.stream else None,
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }


def _attempt_attributes(
    attempt: AttemptRecord, record: Record, address: Address | None
) -> dict[str, Value | None]:
    is_chat = record.kind == "chat"
    usage = attempt.usage or _NO_USAGE
    version = _VERSIONS.get(attempt.protocol or "")
    return {
        "gen_ai.operation.name": "chat" if is_chat else None,
        "gen_ai.provider.name": PROVIDER if is_chat else None,
        "gen_ai.request.model": plain(attempt.model) if is_chat else None,
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "http.request.method": _method(record),
        "http.response.status_code": attempt.status,
        "server.address": None if address is None else address.host,
        "server.port": None if address is None else address.port,
        "network.protocol.name": None if version is None else "http",
        "network.protocol.version": version,
        "error.type": _error_type(attempt.outcome),
        "glm_proxy.endpoint": attempt.endpoint,
        "glm_proxy.role": attempt.role,
        "glm_proxy.won": attempt.won,
        "glm_proxy.outcome": attempt.outcome,
        "glm_proxy.upstream_code": word(attempt.upstream_code),
        "glm_proxy.reused": attempt.reused,
        "glm_proxy.waited_s": round(attempt.waited, 6),
    }


def _method(record: Record) -> str:
    return record.method if record.method in _METHODS else _OTHER_METHOD


def _error_type(outcome: str) -> str | None:
    return None if outcome == "completed" else outcome


def _status(outcome: str, status: int | None, error: str | None) -> Status:
    """Error, unless nobody is to blame or the caller is (of a SERVER span: a status 4xx)."""
    if outcome in _NOBODYS_FAULT or (status is not None and 400 <= status < 500):
        return _NO_STATUS
    return Status(StatusCode.ERROR, None if error is None else sentence(error))


def _known(attributes: dict[str, Value | None]) -> dict[str, Value]:
    return {name: value for name, value in attributes.items() if value is not None}


def _events(marks: Marks, clock: Clock) -> list[Event]:
    """Those that were reached, in the order of time; at one time in that of `marks`."""
    reached = [(clock.at(mark), name) for name, mark in marks if mark is not None]
    reached.sort(key=itemgetter(0))
    return [Event(name, timestamp=at) for at, name in reached]


def _context(ids: SpanIds) -> SpanContext:
    return SpanContext(int(ids.trace_id, 16), int(ids.span_id, 16), False, _SAMPLED)


def _parent(ids: SpanIds, *, remote: bool) -> SpanContext | None:
    if ids.parent_id is None:
        return None
    return SpanContext(int(ids.trace_id, 16), int(ids.parent_id, 16), remote, _SAMPLED)
