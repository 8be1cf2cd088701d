"""Traces of whole exchanges: what upstreams are told, what a collector gets, what costs nothing."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import yaml
from aiohttp import web
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from proxy.app import App
from tests.fakes.collector import Collector, Received, collecting
from tests.fakes.raw_client import Answer, RawClient, ask, chat
from tests.fakes.running import running, samples
from tests.fakes.upstream import Call, Script, ScriptedUpstream

CHAT = "/v1/chat/completions"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CALLER = f"traceparent: 00-{TRACE}-{SPAN}-01"
KEY = "sk-canary0123456789abcdef"
PROMPT, ANSWER = "the prompt nobody may read", "the answer nobody may read"
DONE = b"data: [DONE]\n\n"
VALID = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]")
# Long enough for the first attempt to have failed before, also on a busy machine.
HEDGE = {"after": "p50", "min": "500ms", "max": "500ms", "budget": "100%"}
EAGER = {"retry_budget": "100%", "breaker": "off"}


def event(**delta: str) -> bytes:
    return b"data: " + orjson.dumps({"id": "1", "choices": [{"delta": delta}]}) + b"\n\n"


async def answer(call: Call) -> None:
    call.head()
    call.send(event(content=ANSWER) + DONE)
    call.finish()


async def hang(call: Call) -> None:
    await call.gone.wait()


async def fail(call: Call) -> None:
    call.head(500, content_type="application/json", framing="2")
    call.send(b"{}")
    call.finish()


async def plain_answer(call: Call) -> None:
    call.head(content_type="application/json", framing="2")
    call.send(b"{}")
    call.finish()


class Scene:
    """A proxy that traces, its endpoints by name, and the collector."""

    def __init__(
        self, app: App, upstreams: dict[str, ScriptedUpstream], collector: Collector
    ) -> None:
        self.app = app
        self.upstreams = upstreams
        self.collector = collector

    async def ask(self, *headers: str, path: str = CHAT, body: bytes | None = None) -> Answer:
        body = chat() if body is None else body
        return await asyncio.wait_for(ask(self.app.data_address, path, body, *headers), 15)

    def told(self, name: str = "up") -> list[str | None]:
        """The traceparent of each request that an endpoint got."""
        return [call.headers.get("traceparent") for call in self.upstreams[name].calls]


@asynccontextmanager
async def scene(
    folder: Path, tracing: dict[str, Any] | None = None, **more: Any
) -> AsyncIterator[Scene]:
    """`up` in front unless `scripts` names others, which are tried in their order."""
    scripts: dict[str, Script] = more.pop("scripts", {"up": answer})
    async with AsyncExitStack() as stack:
        collector = await stack.enter_async_context(collecting())
        upstreams = {
            name: await stack.enter_async_context(ScriptedUpstream(script))
            for name, script in scripts.items()
        }
        settings: dict[str, Any] = {
            "endpoints": [{"name": name, "base_url": one.url} for name, one in upstreams.items()],
            "tracing": {"endpoint": collector.url, **(tracing or {})},
            "attempts": EAGER,
        }
        app = await stack.enter_async_context(running(folder, settings | more))
        yield Scene(app, upstreams, collector)


# --- a hedged exchange that failed over ----------------------------------------------------------

THREE: dict[str, Any] = {
    "scripts": {"bad": fail, "late": hang, "good": answer},
    "hedge": HEDGE,
    "routes": [
        {
            "name": "three",
            "candidates": [{"endpoint": "bad"}, {"endpoint": "late"}, {"endpoint": "good"}],
        }
    ],
}


async def test_the_attempts_of_a_hedged_exchange_that_failed_over_are_sibling_spans(
    tmp_path: Path,
) -> None:
    async with scene(tmp_path, **THREE) as at:
        body = chat(messages=[{"role": "user", "content": PROMPT}])
        answered = await at.ask(
            CALLER, "tracestate: a=1", f"Authorization: Bearer {KEY}", path=CHAT, body=body
        )
        assert answered.clean
        spans = await at.collector.has(4)
        server, attempts = apart(spans)
        assert (server.trace_id, server.parent_id) == (TRACE, SPAN)
        assert {one.trace_id for one in spans} == {TRACE}
        assert {one.parent_id for one in attempts} == {server.span_id}
        assert len({one.span_id for one in spans}) == 4
        seen = [
            tuple(one.attributes.get(f"glm_proxy.{name}") for name in ("endpoint", "role", "won"))
            for one in attempts
        ]
        assert seen == [
            ("bad", "first", False),
            ("late", "failover", False),
            ("good", "hedge", True),
        ]
        assert [one.attributes.get("error.type") for one in attempts] == [
            "upstream_failed",
            "cancelled",
            None,
        ]
        assert [one.attributes.get("http.response.status_code") for one in attempts] == [
            500,
            None,
            200,
        ]
        assert [one.failed for one in (server, *attempts)] == [False, True, False, False]
        for name, one in zip(at.upstreams, attempts, strict=True):
            assert at.told(name) == [f"00-{TRACE}-{one.span_id}-01"]
            assert at.upstreams[name].calls[0].headers["tracestate"] == "a=1"
            assert one.attributes["server.port"] == at.upstreams[name].port
        exported = b"".join(at.collector.bodies)
        for secret in (KEY, PROMPT, ANSWER):
            assert secret.encode() not in exported


async def test_spans_are_nested_in_time_and_their_events_lie_within(tmp_path: Path) -> None:
    async with scene(tmp_path, **THREE) as at:
        await at.ask(CALLER)
        server, attempts = apart(await at.collector.has(4))
        for one in attempts:
            assert server.start <= one.start <= one.end <= server.end
        for one in (server, *attempts):
            times = [at for _, at in one.events]
            assert times == sorted(times)
            assert all(one.start <= at <= one.end for at in times)
        bad, late, good = attempts
        assert bad.end <= late.start < good.start
        assert good.start < late.end
        assert [name for name, _ in good.events] == [
            *("sent", "headers", "first_byte", "first_token", "first_content"),
        ]
        assert {"parsed", "committed"} <= {name for name, _ in server.events}


def apart(spans: list[Received]) -> tuple[Received, list[Received]]:
    """The exchange's span, and its attempts' in the order they began."""
    (server,) = [one for one in spans if one.server]
    return server, sorted((one for one in spans if not one.server), key=lambda one: one.start)


async def test_one_id_links_the_trace_the_log_line_the_exemplar_and_the_admin_listener(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with scene(tmp_path, **THREE, log={"format": "json"}) as at:
        answered = await at.ask()
        request_id = answered.headers["x-request-id"]
        server, _ = apart(await at.collector.has(4))
        assert server.attributes["glm_proxy.request_id"] == request_id
        assert at.told("good")[0] is not None
        admin = "http://{}:{}".format(*at.app.admin_address)
        accept = {"accept": "application/openmetrics-text"}
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{admin}/metrics", headers=accept) as metrics:
                families = parsed(await metrics.text())
            async with session.get(f"{admin}/admin/exchanges/{request_id}") as shown:
                exchange = await shown.json()
    (line,) = [
        orjson.loads(line) for line in capfd.readouterr().out.splitlines() if line.startswith("{")
    ]
    exemplars = [
        sample.exemplar.labels
        for family in families
        for sample in family.samples
        if sample.exemplar is not None
    ]
    assert exemplars
    for labels in exemplars:
        assert labels == {"request_id": request_id, "trace_id": server.trace_id}
    for told in (line, exchange):
        assert (told["request_id"], told["trace_id"]) == (request_id, server.trace_id)


def parsed(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


# --- what upstreams are told ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sample", "header"),
    [("100%", CALLER.replace("-01", "-00")), ("0%", None)],
    ids=["the caller's", "ours"],
)
async def test_of_an_unsampled_trace_nothing_is_exported_and_upstreams_still_hear(
    tmp_path: Path, sample: str, header: str | None
) -> None:
    async with scene(tmp_path, {"sample": sample}) as at:
        await at.ask(*([header] if header else []))
        (told,) = at.told()
        assert told is not None
        assert VALID.fullmatch(told)
        assert told.endswith("-00")
        if header:
            assert told.split("-")[1] == TRACE
            assert told.split("-")[2] != SPAN
        await at.ask(CALLER)  # is sampled, and comes alone
        assert {one.trace_id for one in await at.collector.has(2)} == {TRACE}
    assert len(at.collector.spans) == 2


async def test_what_is_passed_through_is_traced_too(tmp_path: Path) -> None:
    async with scene(tmp_path, scripts={"up": plain_answer}) as at:
        await at.ask(CALLER, path=f"/v1/embeddings?key={KEY}", body=b"{}")
        server, (attempt,) = apart(await at.collector.has(2))
        assert (server.name, server.parent_id) == ("POST", SPAN)
        assert attempt.parent_id == server.span_id
        assert at.told() == [f"00-{TRACE}-{attempt.span_id}-01"]
        assert not any(KEY.encode() in body for body in at.collector.bodies)


async def test_exchanges_that_ask_nobody_have_a_span(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        await at.ask(path="/nowhere")
        await at.ask(body=b"{")
        nowhere, broken = await at.collector.has(2)
        assert (nowhere.name, nowhere.attributes["http.response.status_code"]) == ("POST", 404)
        assert (broken.name, broken.attributes["http.response.status_code"]) == (
            f"POST {CHAT}",
            400,
        )
        assert not nowhere.failed


HOSTILE = {
    "two": [CALLER, CALLER],
    "upper case": [f"traceparent: 00-{TRACE.upper()}-{SPAN}-01"],
    "zeros": [f"traceparent: 00-{'0' * 32}-{SPAN}-01"],
    "version ff": [f"traceparent: ff-{TRACE}-{SPAN}-01"],
    "long": [f"traceparent: 00-{TRACE}-{SPAN}-01-{'a' * 4000}"],
    "not ASCII": ["traceparent: 00-\u00e9"],
    "empty": ["traceparent:"],
    "nominated": ["Connection: traceparent", CALLER],
    "many states": [CALLER, "tracestate: " + ",".join(f"k{n}=1" for n in range(200))],
    "a wrong state": [CALLER, "tracestate: a=1,=,B"],
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_whatever_a_caller_sends_an_upstream_gets_one_valid_traceparent(
    tmp_path: Path, case: str
) -> None:
    async with scene(tmp_path) as at:
        assert (await at.ask(*HOSTILE[case])).status == 200
        (told,) = at.told()
        assert told is not None
        assert VALID.fullmatch(told)
        assert told.split("-")[2] != SPAN
        assert "tracestate" not in at.upstreams["up"].calls[0].headers


async def test_with_tracing_off_the_callers_headers_pass_as_they_came(tmp_path: Path) -> None:
    async with off(tmp_path) as at:
        await at.ask("traceparent: what-ever", "tracestate: A=1")
        await at.ask()
        first, second = at.upstreams["up"].calls
        assert (first.headers["traceparent"], first.headers["tracestate"]) == ("what-ever", "A=1")
        assert "traceparent" not in second.headers
    assert not at.collector.bodies


@asynccontextmanager
async def off(folder: Path) -> AsyncIterator[Scene]:
    async with collecting() as collector, ScriptedUpstream(answer) as upstream:
        settings = {"endpoints": [{"name": "up", "base_url": upstream.url}]}
        async with running(folder, settings) as app:
            yield Scene(app, {"up": upstream}, collector)


async def test_who_shares_an_answer_links_to_the_attempt_of_who_asked_first(
    tmp_path: Path,
) -> None:
    go_on = asyncio.Event()

    async def slowly(call: Call) -> None:
        call.head()
        call.send(event(content="a"))
        await go_on.wait()
        call.send(DONE)
        call.finish()

    share = [{"name": "together", "share": True}]
    async with (
        scene(tmp_path, scripts={"up": slowly}, routes=share) as at,
        RawClient(at.app.data_address) as first,
        RawClient(at.app.data_address) as second,
    ):
        key = f"Authorization: Bearer {KEY}"
        first.post(CHAT, chat(), key, CALLER)
        await first.head()
        second.post(CHAT, chat(), key, CALLER.replace(TRACE, "ab" * 16))
        await second.head()
        await second.chunk()
        go_on.set()
        spans = await at.collector.has(3)
        (attempt,) = [one for one in spans if not one.server]
        asked, shared = sorted(
            (one for one in spans if one.server), key=lambda one: one.attributes["glm_proxy.shared"]
        )
        assert (asked.trace_id, asked.links) == (TRACE, ())
        assert (attempt.trace_id, attempt.parent_id) == (TRACE, asked.span_id)
        assert at.told() == [f"00-{TRACE}-{attempt.span_id}-01"]
        assert shared.trace_id == "ab" * 16
        assert shared.links == ((TRACE, attempt.span_id),)


# --- a collector that fails ----------------------------------------------------------------------


async def test_spans_that_a_collector_does_not_take_are_counted(tmp_path: Path) -> None:
    async with scene(tmp_path) as at:
        at.collector.answer = refuses
        await at.ask()
        async with asyncio.timeout(15):
            while await samples(at.app, "glm_proxy_spans_dropped_total") != [({}, 2.0)]:
                await asyncio.sleep(0.01)


async def refuses() -> web.Response:
    return web.Response(status=500)


async def is_busy() -> web.Response:
    return web.Response(status=503, headers={"retry-after": "3600"})


async def hangs() -> web.Response:
    await asyncio.sleep(3600)
    raise AssertionError


@pytest.mark.parametrize("failure", [refuses, is_busy, hangs, None])
async def test_no_exchange_waits_for_a_collector_and_a_stop_does_not_either(
    tmp_path: Path, failure: Callable[[], Awaitable[web.Response]] | None
) -> None:
    async with collecting() as collector:
        url = collector.url
        if failure is not None:
            collector.answer = failure
            await exchanges_past(tmp_path, url)
            assert collector.bodies
            assert not collector.spans
    if failure is None:  # nobody listens there any more
        await exchanges_past(tmp_path, url)


async def exchanges_past(folder: Path, collector: str) -> None:
    async with ScriptedUpstream(answer) as upstream:
        settings = {
            "endpoints": [{"name": "up", "base_url": upstream.url}],
            "tracing": {"endpoint": collector},
        }
        async with asyncio.timeout(20), running(folder, settings) as app:
            for _ in range(50):  # more spans than go at once
                answered = await ask(app.data_address, CHAT, chat(), CALLER)
                assert answered.clean
            for told in upstream.calls:
                assert told.headers["traceparent"].startswith(f"00-{TRACE}-")


# --- the packages it needs -----------------------------------------------------------------------


def test_serve_says_in_one_line_that_the_packages_are_missing(tmp_path: Path) -> None:
    path = tmp_path / "proxy.yaml"
    tracing = {"endpoint": "http://127.0.0.1:4318"}
    endpoints = [{"name": "cn", "base_url": "https://open.bigmodel.cn"}]
    path.write_text(yaml.safe_dump({"endpoints": endpoints, "tracing": tracing}))
    code = (
        "import sys; sys.modules['opentelemetry'] = None;"
        "from proxy.__main__ import main; sys.argv[0] = 'glm-proxy'; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "OTEL_EXPORTER_OTLP_HEADERS": f"x={KEY}"},
        check=False,
    )
    assert done.returncode == 1
    ignored, missing = done.stderr.splitlines()
    assert ignored == (
        "warning: no effect on tracing, which the settings are for: OTEL_EXPORTER_OTLP_HEADERS"
    )
    assert "'opentelemetry'" in missing
    assert "pip install '.[otel]'" in missing


async def test_nothing_of_it_is_imported_while_tracing_is_off() -> None:
    code = (
        "import sys, proxy.app, proxy.cli.serve;"
        "print({name.partition('.')[0] for name in sys.modules} & {'opentelemetry', 'requests'})"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out.strip() == b"set()"
