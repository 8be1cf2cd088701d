"""Spans from finished records, and a collector that takes them, or does not."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk.trace import ReadableSpan

from proxy.config import Secret, Tracing
from proxy.core.record import Record, SpanIds
from proxy.observe import tracing as module
from proxy.observe.app_log import LOGGER
from proxy.observe.spans import Address, Clock, Finished, Spans
from tests.fakes.collector import collecting
from tests.fakes.records import RECEIVED, a_loser, a_record, an_attempt
from tests.fakes.until import until

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CANARY = "sk-canary0123456789abcdef"
ENDED = 1_700_000_000_000_000_000
CLOCK = Clock(RECEIVED + 2.5, ENDED)


def ids(number: int, parent: int | None = 1, *, sampled: bool = True) -> SpanIds:
    above = CALLER if parent is None else f"{parent:016x}"
    return SpanIds(TRACE, f"{number:016x}", above, sampled)


def traced(*, sampled: bool = True, **changes: Any) -> Record:
    """An exchange whose attempts are spans 2, 3, ...; its own is span 1."""
    span = ids(1, None, sampled=sampled)
    record = a_record(span=span, **changes)
    attempts = (
        a_copy(one, ids(number, sampled=sampled)) for number, one in enumerate(record.attempts, 2)
    )
    return a_record(span=span, **{**changes, "attempts": tuple(attempts)})


def a_copy(attempt: Any, span: SpanIds) -> Any:
    fields = {name: getattr(attempt, name) for name in type(attempt).__slots__}
    return an_attempt(**{**fields, "span": span})


def spans(record: Record) -> list[ReadableSpan]:
    return list(
        Spans("glm-proxy", "1.0", {"cn": Address("up.example", 443)}).of(Finished(record, CLOCK))
    )


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


# --- what a span says ----------------------------------------------------------------------------


def test_an_exchange_is_a_server_span_with_the_names_of_the_conventions() -> None:
    server, client = spans(traced())
    assert server.name == "POST /v1/chat/completions"
    assert attributes(server) == {
        "http.request.method": "POST",
        "url.scheme": "http",
        "url.path": "/v1/chat/completions",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "zhipu",
        "gen_ai.request.model": "glm-4.6",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "glm-4-flash",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.time_to_first_chunk": pytest.approx(0.301),
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 101,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.reasoning.output_tokens": 60,
        "glm_proxy.request_id": "req-1",
        "glm_proxy.kind": "chat",
        "glm_proxy.dialect": "openai",
        "glm_proxy.route": "fast-chat",
        "glm_proxy.endpoint": "cn",
        "glm_proxy.reason": "only",
        "glm_proxy.shared": False,
        "glm_proxy.outcome": "completed",
        "glm_proxy.stage": "done",
    }
    assert client.name == "chat glm-4-flash"
    assert attributes(client) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "zhipu",
        "gen_ai.request.model": "glm-4-flash",
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "up.example",
        "server.port": 443,
        "network.protocol.name": "http",
        "network.protocol.version": "2",
        "glm_proxy.endpoint": "cn",
        "glm_proxy.role": "first",
        "glm_proxy.won": True,
        "glm_proxy.outcome": "completed",
        "glm_proxy.reused": True,
        "glm_proxy.waited_s": 0.0,
    }


def test_marks_become_events_on_the_wall_clock_in_the_order_of_time() -> None:
    server, client = spans(traced())
    begun = ENDED - 2_500_000_000
    assert (server.start_time, server.end_time) == (begun, ENDED)
    assert [(event.name, event.timestamp - begun) for event in server.events] == [
        ("parsed", 1_000_000),
        ("sent", 10_000_000),
        ("headers", 200_000_000),
        ("first_byte", 300_000_000),
        ("first_token", 300_000_000),
        ("committed", 301_000_000),
        ("first_content", 1_500_000_000),
    ]
    assert client.start_time == begun + 4_000_000
    assert client.end_time == begun + 2_450_000_000
    names = ["sent", "headers", "first_byte", "first_token", "first_content"]
    assert [event.name for event in client.events] == names


def test_the_attempts_are_siblings_below_the_exchange_which_is_below_its_caller() -> None:
    record = traced(attempts=(a_loser(), an_attempt(role="hedge")))
    server, lost, won = spans(record)
    assert [f"{span.context.trace_id:032x}" for span in (server, lost, won)] == [TRACE] * 3
    assert server.parent is not None
    assert (f"{server.parent.span_id:016x}", server.parent.is_remote) == (CALLER, True)
    for attempt in (lost, won):
        assert attempt.parent is not None
        assert attempt.parent.span_id == server.context.span_id
        assert not attempt.parent.is_remote
    assert attributes(lost)["error.type"] == "cancelled"
    assert attributes(won)["glm_proxy.role"] == "hedge"


@pytest.mark.parametrize(
    ("outcome", "status", "is_error", "error_type"),
    [
        ("completed", 200, False, None),
        ("client_gone", None, False, "client_gone"),
        ("upstream_failed", 429, False, "upstream_failed"),
        ("upstream_failed", 500, True, "upstream_failed"),
        ("stream_cut", 200, True, "stream_cut"),
        ("too_busy", 429, False, "too_busy"),
    ],
)
def test_a_span_has_failed_where_neither_nobody_nor_the_caller_is_to_blame(
    outcome: str, status: int | None, is_error: bool, error_type: str | None
) -> None:
    server, _ = spans(traced(outcome=outcome, status=status))
    assert (not server.status.is_ok and not server.status.is_unset) == is_error
    assert attributes(server).get("error.type") == error_type


def test_of_paths_without_end_the_name_is_the_method() -> None:
    record = traced(kind="passthrough", method="DELETE", path="/v1/files/abc", served_model=None)
    server, client = spans(record)
    assert (server.name, client.name) == ("DELETE", "DELETE")
    assert "http.route" not in attributes(server)
    assert not [name for name in (*attributes(server), *attributes(client)) if "gen_ai" in name[:6]]
    (other, *_) = spans(traced(kind="unknown", method="BREW", path="/x", attempts=()))
    assert (other.name, attributes(other)["http.request.method"]) == ("HTTP", "_OTHER")


def test_whoever_shares_an_answer_links_to_the_attempt_and_tells_of_it_in_its_own_trace() -> None:
    other = SpanIds("ab" * 16, "cd" * 8, "ef" * 8, True)
    record = traced(shared=True, answer_span=other, attempts=())
    (server,) = spans(record)
    (link,) = server.links
    assert (f"{link.context.trace_id:032x}", f"{link.context.span_id:016x}") == other[:2]
    unsampled = a_record(span=ids(1, None, sampled=False), attempts=(an_attempt(span=other),))
    (attempt,) = spans(unsampled)
    assert f"{attempt.context.trace_id:032x}" == other.trace_id


def test_what_is_not_sampled_or_not_traced_has_no_span() -> None:
    assert spans(traced(sampled=False)) == []
    assert spans(a_record()) == []


def test_no_key_and_no_control_character_gets_into_a_span() -> None:
    hostile = f"{CANARY}\r\n\x1b[2J\ud800"
    record = traced(
        method=hostile,
        path=f"/v1/{hostile}",
        requested_model=hostile,
        served_model=hostile,
        finish_reason=hostile,
        upstream_code=hostile,
        error=f"Bearer {hostile}",
        request_id=CANARY,
        changes=(f"model={hostile}",),
        decisions=(f"retry_again:{hostile}",),
        outcome="stream_cut",
        attempts=(an_attempt(model=hostile, upstream_code=hostile, outcome="stream_cut"),),
    )
    for span in spans(record):
        for text in texts(span):
            assert "canary" not in text
            assert text.isprintable()


def texts(span: ReadableSpan) -> Iterator[str]:
    yield span.name
    yield span.status.description or ""
    for value in attributes(span).values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, tuple | list):
            yield from map(str, value)


# --- to the collector ----------------------------------------------------------------------------


@contextmanager
def sending(url: str, **settings: Any) -> Iterator[module.Tracing]:
    tracing = module.Tracing(Tracing(endpoint=url, **settings), {"cn": "https://up.example"})
    try:
        yield tracing
    finally:
        tracing.close(0.1)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


async def closed(tracing: module.Tracing, timeout: float = 5.0) -> float:
    begun = time.monotonic()
    await asyncio.to_thread(tracing.close, timeout)
    return time.monotonic() - begun


async def test_the_last_spans_are_sent_when_it_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    headers = {"authorization": Secret(f"Bearer {CANARY}")}
    async with collecting() as collector:
        with sending(collector.url, service="the-service", headers=headers) as tracing:
            for _ in range(70):
                tracing.finish(traced())
            await closed(tracing)
            assert len(collector.spans) == 140
            assert tracing.dropped == 0
        assert {one.resource["service.name"] for one in collector.spans} == {"the-service"}
        assert {head["Authorization"] for head in collector.headers} == {f"Bearer {CANARY}"}
        assert not any(CANARY.encode() in body for body in collector.bodies)
    assert not [one for one in caplog.records if one.name != "asyncio"]


async def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies would get the spans, and credentials of a `.netrc` another's host."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("ENDPOINT", "TRACES_ENDPOINT"):
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "1")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "who=environment")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "environment")
    async with collecting() as collector:
        with sending(collector.url) as tracing:
            tracing.finish(traced())
            await closed(tracing)
        assert len(collector.spans) == 2
        assert {one.resource["service.name"] for one in collector.spans} == {"glm-proxy"}
        assert "who" not in collector.spans[0].resource
        assert "Content-Encoding" not in collector.headers[0]


async def refuse() -> web.Response:
    return web.Response(status=401, text=CANARY)


async def test_a_collector_that_refuses_is_told_of_once_and_its_spans_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    secret = {"x-key": Secret(CANARY)}
    async with collecting() as collector:
        collector.answer, take = refuse, collector.answer
        with sending(collector.url, headers=secret) as tracing:
            for _ in range(40):
                tracing.finish(traced())
            await until(lambda: tracing.dropped == 80)
            collector.answer = take
            tracing.finish(traced())
            await collector.has(2)
            await closed(tracing)
            assert tracing.dropped == 80
    said = [one.getMessage() for one in caplog.records if one.name == LOGGER]
    assert said == [
        f"tracing.endpoint {collector.url} takes no traces (status 401); they are dropped and"
        " counted",
        f"tracing.endpoint {collector.url} takes traces again",
    ]
    assert CANARY not in caplog.text


async def test_an_answer_without_end_is_not_read_to_its_end() -> None:
    said = 0

    async def without_end() -> AsyncIterator[bytes]:
        nonlocal said
        for _ in range(1000):
            said += 64 * 1024
            yield b"x" * 64 * 1024

    async def answer() -> web.Response:
        return web.Response(body=without_end())

    async with collecting() as collector:
        collector.answer, take = answer, collector.answer
        with sending(collector.url) as tracing:
            tracing.finish(traced())
            await collector.has(2)
            collector.answer = take
            tracing.finish(traced())
            await collector.has(4)
            assert tracing.dropped == 0
    assert said < 32 * 1024 * 1024


async def test_a_header_that_cannot_be_sent_is_not_quoted(caplog: pytest.LogCaptureFixture) -> None:
    async with collecting() as collector:
        with sending(collector.url, headers={"x": Secret(f"{CANARY}\n")}) as tracing:
            tracing.finish(traced())
            await closed(tracing)
            assert tracing.dropped == 2
    assert "(no answer)" in caplog.text
    assert CANARY not in caplog.text


async def test_without_a_collector_nothing_waits_and_closing_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with sending(f"http://127.0.0.1:{free_port()}") as tracing:
        for _ in range(10):
            tracing.finish(traced())
        assert await closed(tracing, 0.2) < 5
        await until(lambda: tracing.dropped == 20)
    assert [one.name for one in caplog.records if one.name != "asyncio"] == [LOGGER]
    assert "no answer" in caplog.text


async def test_a_collector_that_hangs_holds_a_bounded_number_of_spans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_QUEUE", 64)
    async with collecting() as collector:
        hangs = asyncio.Event()

        async def hang() -> web.Response:
            await hangs.wait()
            return web.Response(status=503)

        collector.answer = hang
        with sending(collector.url) as tracing:
            for _ in range(16):
                tracing.finish(traced())
            await collector.asked()  # these wait no more, the next 64 do
            for _ in range(100):
                tracing.finish(traced())
            assert tracing.dropped == 72
            assert await closed(tracing, 0.2) < 5
            hangs.set()
            await until(lambda: tracing.dropped == 232)
    await until(lambda: "OtelBatch" not in " ".join(one.name for one in threading.enumerate()))


def test_the_exporter_says_nothing_itself() -> None:
    with sending(f"http://127.0.0.1:{free_port()}"):
        for name in (trace_exporter.__name__, "urllib3.connectionpool"):
            assert not logging.getLogger(name).isEnabledFor(logging.CRITICAL)
