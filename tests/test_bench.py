"""`glm-proxy bench`: what it measures, what it calls a failure, and what it tells."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result

from proxy.bench.figures import percentile, summarise, times_sooner
from proxy.bench.measure import Sample
from proxy.cli.bench import command

Step = float | bytes
"""Seconds to wait, or bytes to send as one HTTP chunk."""
Serve = Callable[..., Awaitable[str]]


def event(**delta: object) -> bytes:
    chunk = {"model": "glm-4-flash", "choices": [{"index": 0, "delta": delta}]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


ROLE = event(role="assistant", content="")
THINKING = event(reasoning_content="hm")
TEXT = event(content="Hello")
TOOL = event(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": "{}"}}])
FINISH = (
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"completion_tokens":9}}\n\n'
)
DONE = b"data: [DONE]\n\n"
WHOLE: Sequence[Step] = (ROLE, TEXT, FINISH, DONE)


class Api:
    """A scripted API on a real socket, and what it was asked."""

    def __init__(self, *steps: Step, status: int = 200, name: str = "") -> None:
        self.steps = steps
        self.status = status
        self.name = name
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[dict[str, object]] = []
        self.ports: list[int] = []
        self.order: list[str] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.paths.append(request.path)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.bodies.append(await request.json())
        self.order.append(self.name)
        assert request.transport is not None
        self.ports.append(request.transport.get_extra_info("peername")[1])
        if self.status != 200:
            error = {"error": {"code": "1302", "message": "too many"}}
            return web.json_response(error, status=self.status)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for step in self.steps:
            if isinstance(step, bytes):
                await response.write(step)
            else:
                await asyncio.sleep(step)
        return response


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    servers: list[TestServer] = []

    async def start(api: Api, tls: ssl.SSLContext | None = None) -> str:
        app = web.Application()
        app.router.add_post("/{path:.*}", api.answer)
        server = TestServer(app)
        servers.append(server)
        await server.start_server(ssl=tls)
        return f"{'https' if tls else 'http'}://127.0.0.1:{server.port}/v1"

    yield start
    for server in servers:
        await server.close()


async def bench(*arguments: str, **environ: str) -> Result:
    """The command in a thread with a loop of its own, while the server runs in this one."""
    return await asyncio.to_thread(CliRunner().invoke, command, arguments, env=environ)


async def samples(tmp_path: Path, url: str, *arguments: str) -> list[dict[str, object]]:
    file = tmp_path / "report.json"
    result = await bench(url, "--requests", "1", "--json", str(file), *arguments)
    assert file.exists(), result.output
    found: list[dict[str, object]] = json.loads(file.read_text())["samples"]
    return found


# --- figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([7], 0.5, 7),
        ([7], 0.99, 7),
        ([3, 1, 2], 0.5, 2),
        ([4, 3, 2, 1], 0.5, 2),
        (range(1, 21), 0.9, 18),
        (range(1, 21), 0.95, 19),
        (range(1, 21), 0.99, 20),
        (range(1, 101), 0.95, 95),
        (range(1, 101), 0.99, 99),
        (range(1, 101), 0.0, 1),
        (range(1, 101), 1.0, 100),
    ],
)
def test_a_percentile_is_the_nearest_rank(
    values: Sequence[float], share: float, expected: float
) -> None:
    assert percentile(values, share) == expected


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1], -0.1), ([1], 1.1)])
def test_a_percentile_of_nothing_is_an_error(values: list[float], share: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(values, share)


def test_nothing_is_sooner_than_what_was_not_measured() -> None:
    assert times_sooner(None, None) is None


def test_stages_are_of_complete_answers_only() -> None:
    whole = Sample(
        way="direct",
        number=0,
        outcome="complete",
        detail=None,
        status=200,
        model=None,
        headers=0.1,
        ttfb=0.2,
        first_event=0.2,
        ttft=0.2,
        first_content=0.3,
        last_byte=2.3,
        gap_mean=None,
        gap_max=None,
        events=4,
        chunks=2,
        output_tokens=11,
    )
    cut = replace(whole, outcome="cut", ttfb=9.0)
    elsewhere = replace(whole, way="proxied", ttfb=0.01)
    summary = summarise([whole, cut, elsewhere], "direct", "ttfb")
    assert summary is not None
    assert (summary.n, summary.p99) == (1, 0.2)
    assert summarise([whole, cut], "direct", "gap_mean") is None
    assert whole.events_per_chunk == 2
    assert whole.tokens_per_second == pytest.approx(10 / 2.1)


# --- one answer, stage by stage -------------------------------------------------------------------


async def test_first_content_is_the_first_visible_token_not_the_first_thought(
    serve: Serve, tmp_path: Path
) -> None:
    api = Api(ROLE, 0.05, THINKING, 0.1, TEXT, 0.05, FINISH, DONE)
    (sample,) = await samples(tmp_path, await serve(api))
    marks = [sample[m] for m in ("ttfb", "first_event", "ttft", "first_content", "last_byte")]
    assert all(isinstance(mark, float) for mark in marks)
    ttfb, first_event, ttft, first_content, last_byte = (float(str(mark)) for mark in marks)
    assert ttfb == first_event
    assert ttft - ttfb > 0.04
    assert first_content - ttft > 0.09
    assert last_byte - first_content > 0.04
    assert float(str(sample["gap_max"])) > 0.09
    assert sample["outcome"] == "complete"
    assert sample["output_tokens"] == 9
    assert sample["model"] == "glm-4-flash"


async def test_a_tool_call_is_first_content(serve: Serve, tmp_path: Path) -> None:
    (sample,) = await samples(tmp_path, await serve(Api(ROLE, TOOL, FINISH, DONE)))
    assert sample["first_content"] == sample["ttft"] is not None


async def test_an_answer_of_thoughts_alone_has_no_first_content(
    serve: Serve, tmp_path: Path
) -> None:
    (sample,) = await samples(tmp_path, await serve(Api(THINKING, FINISH, DONE)))
    assert sample["outcome"] == "complete"
    assert sample["ttft"] is not None
    assert sample["first_content"] is None


async def test_a_heartbeat_is_a_first_byte_and_no_event(serve: Serve, tmp_path: Path) -> None:
    api = Api(b": wait\n\n", 0.05, *WHOLE)
    (sample,) = await samples(tmp_path, await serve(api))
    assert float(str(sample["first_event"])) - float(str(sample["ttfb"])) > 0.04
    assert sample["events"] == 4


async def test_events_are_counted_against_http_chunks(serve: Serve, tmp_path: Path) -> None:
    (apart,) = await samples(tmp_path, await serve(Api(*WHOLE)))
    (together,) = await samples(tmp_path, await serve(Api(ROLE + TEXT + FINISH, DONE)))
    (split,) = await samples(tmp_path, await serve(Api(ROLE, TEXT[:9], TEXT[9:], FINISH, DONE)))
    # A chunk of several reads is one chunk.
    (large,) = await samples(tmp_path, await serve(Api(b": " + b"x" * 500_000 + b"\n\n", *WHOLE)))
    found = [(sample["events"], sample["chunks"]) for sample in (apart, together, split, large)]
    assert found == [(4, 4), (4, 2), (4, 5), (4, 5)]


async def test_the_anthropic_dialect_ends_with_message_stop(serve: Serve, tmp_path: Path) -> None:
    api = Api(
        b"event: message_start\n"
        b'data: {"type": "message_start", "message": {"model": "glm-4.6"}}\n\n',
        b'event: content_block_delta\ndata: {"type": "content_block_delta",'
        b' "delta": {"type": "text_delta", "text": "Hi"}}\n\n',
        b'event: message_stop\ndata: {"type": "message_stop"}\n\n',
    )
    url = (await serve(api)).removesuffix("/v1")
    (sample,) = await samples(tmp_path, url, "--dialect", "anthropic")
    assert sample["outcome"] == "complete"
    assert sample["model"] == "glm-4.6"
    assert sample["first_content"] is not None
    assert api.paths == ["/v1/messages"]
    assert "anthropic-version" in api.headers[0]


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "outcome"),
    [
        ((ROLE, TEXT), "cut"),
        ((ROLE, TEXT, FINISH), "cut"),
        ((ROLE, TEXT, FINISH, b"data: [DO"), "cut"),
        ((), "cut"),
        ((ROLE, b'data: {"error":{"code":"1234","message":"oops"}}\n\n', DONE), "error_event"),
    ],
)
async def test_an_answer_that_is_not_whole_is_a_failure(
    serve: Serve, tmp_path: Path, steps: tuple[bytes, ...], outcome: str
) -> None:
    (sample,) = await samples(tmp_path, await serve(Api(*steps)))
    assert sample["outcome"] == outcome


async def test_a_failed_request_makes_the_exit_code_1_and_is_told(serve: Serve) -> None:
    result = await bench(await serve(Api(ROLE, TEXT)), "--requests", "2")
    assert result.exit_code == 1
    assert "2 x cut: the stream ended after 2 events, unfinished" in result.stdout


async def test_a_refusal_is_told_with_the_upstreams_own_code(serve: Serve) -> None:
    result = await bench(await serve(Api(status=429)), "--requests", "2")
    assert result.exit_code == 1
    assert "answered with status 429 (code 1302, too many)" in result.stdout


async def test_an_answer_that_takes_too_long_is_a_failure(serve: Serve) -> None:
    arguments = ("--requests", "1", "--timeout", "0.1")
    result = await bench(await serve(Api(ROLE, 5.0, *WHOLE)), *arguments)
    assert result.exit_code == 1
    assert "no whole answer within 0.1 s" in result.stdout


@pytest.mark.parametrize(("status", "words"), [(401, "refuses the key"), (404, "was not found")])
async def test_what_cannot_work_stops_the_run_with_one_line(
    serve: Serve, status: int, words: str
) -> None:
    api = Api(status=status)
    result = await bench(await serve(api), "--requests", "9")
    assert result.exit_code == 1
    assert words in result.stderr
    assert len(result.output.splitlines()) == 1
    assert len(api.paths) == 1


async def test_an_unreachable_url_is_told_in_one_line() -> None:
    with socket.socket() as bound:  # and not listening: the port is taken, and refuses
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        result = await bench(url)
    assert result.exit_code == 1
    assert f"{url}/chat/completions cannot be reached" in result.stderr
    assert len(result.output.splitlines()) == 1


async def test_a_certificate_is_trusted_with_its_authority_only(
    serve: Serve, tmp_path: Path
) -> None:
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    url = await serve(Api(*WHOLE), tls)
    refused = await bench(url, "--requests", "1")
    assert refused.exit_code == 1
    assert "--ca-file" in refused.stderr
    assert len(refused.output.splitlines()) == 1
    trusted = await bench(url, "--requests", "1", "--ca-file", str(tmp_path / "ca.pem"))
    assert trusted.exit_code == 0


# --- direct against proxied -----------------------------------------------------------------------


async def test_both_ways_are_asked_the_same_in_turn_and_compared(
    serve: Serve, tmp_path: Path
) -> None:
    order: list[str] = []
    slow, fast = Api(0.1, *WHOLE, name="direct"), Api(*WHOLE, name="proxied")
    slow.order = fast.order = order
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\n\ntwo\n")
    files = [tmp_path / "report.json", tmp_path / "report.md"]
    result = await bench(
        *(await serve(fast), "--against", await serve(slow), "--requests", "5"),
        *("--prompts", str(prompts), "--model", "glm-4.6", "--max-tokens", "7"),
        *("--json", str(files[0]), "--markdown", str(files[1])),
    )
    assert result.exit_code == 0, result.output
    pairs = [set(order[i : i + 2]) for i in range(0, 10, 2)]
    assert pairs == [{"direct", "proxied"}] * 5
    assert order != ["direct", "proxied"] * 5
    assert slow.bodies == fast.bodies
    asked = [body["messages"][0]["content"] for body in fast.bodies]  # type: ignore[index]
    assert asked == ["one", "two", "one", "two", "one"]
    assert (fast.bodies[0]["model"], fast.bodies[0]["max_tokens"]) == ("glm-4.6", 7)
    assert files[1].read_text() == result.stdout
    assert "| stage | direct p50 | p90 | p95 | p99 | proxied p50 |" in result.stdout
    report = json.loads(files[0].read_text())
    assert report["outcomes"] == {"direct": {"complete": 5}, "proxied": {"complete": 5}}
    assert report["stages"]["direct"]["first_content"]["p50"] > 0.09
    assert [goal["reached"] for goal in report["goals"]] == [True, True]
    assert "- reached: first content at least 3 times sooner" in result.stdout


async def test_a_goal_that_is_missed_is_said_and_is_no_failure(serve: Serve) -> None:
    fast, slow = await serve(Api(*WHOLE)), await serve(Api(0.03, *WHOLE))
    result = await bench(slow, "--against", fast, "--requests", "3")
    assert result.exit_code == 0
    assert "- not reached: first content at least 3 times sooner" in result.stdout


async def test_the_key_is_sent_and_never_told(serve: Serve, tmp_path: Path) -> None:
    api = Api(*WHOLE)
    file = tmp_path / "report.json"
    arguments = ("--requests", "1", "--api-key", "env:BENCH_KEY", "--json", str(file))
    result = await bench(await serve(api), *arguments, BENCH_KEY="id.secret")
    assert result.exit_code == 0
    assert api.headers[0]["authorization"] == "Bearer id.secret"
    assert "id.secret" not in result.output + file.read_text()


@pytest.mark.parametrize(("option", "connections"), [((), 1), (("--fresh-connections",), 3)])
async def test_connections_are_kept_unless_fresh_ones_are_asked_for(
    serve: Serve, option: tuple[str, ...], connections: int
) -> None:
    api = Api(*WHOLE)
    result = await bench(await serve(api), "--requests", "3", *option)
    assert result.exit_code == 0
    assert len(set(api.ports)) == connections


async def test_requests_run_at_the_same_time_when_asked_to(serve: Serve) -> None:
    together = asyncio.Barrier(3)

    class Meeting(Api):
        async def answer(self, request: web.Request) -> web.StreamResponse:
            async with asyncio.timeout(5):
                await together.wait()
            return await super().answer(request)

    result = await bench(await serve(Meeting(*WHOLE)), "--requests", "3", "--concurrency", "3")
    assert result.exit_code == 0


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("127.0.0.1:8080",),
        ("ftp://127.0.0.1/v1",),
        ("http://127.0.0.1:99999/v1",),
        ("http://u:p@127.0.0.1/v1",),
        ("http://127.0.0.1/v1?x=1",),
        ("http://127.0.0.1/v1", "--requests", "0"),
        ("http://127.0.0.1/v1", "--api-key", "id.secret"),
        ("http://127.0.0.1/v1", "--api-key", "env:NOT_SET_ANYWHERE"),
        ("http://127.0.0.1/v1", "--ca-file", __file__),
        ("http://127.0.0.1/v1", "--prompts", "/dev/null/none"),
        ("http://127.0.0.1/v1", "--prompt", "x", "--prompts", __file__),
        ("http://127.0.0.1/v1", "--json", "/nowhere/report.json"),
        ("http://127.0.0.1/v1", "--dialect", "french"),
    ],
)
async def test_wrong_arguments_end_with_2_before_anything_is_asked(
    arguments: tuple[str, ...],
) -> None:
    result = await bench(*arguments)
    assert result.exit_code == 2
    assert "id.secret" not in result.output
