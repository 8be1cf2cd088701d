"""`server-timing` on answers, and the stage times in the last comment of `emit_metadata`: the same
names, in both dialects, as the exchange's record has them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

from proxy.app import App
from tests.fakes.operator import get
from tests.fakes.raw_client import Answer, ask, chat
from tests.fakes.running import in_front_of, running
from tests.fakes.upstream import Call, Script, ScriptedUpstream

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
AT_COMMIT: Final = [
    *("parsed", "admitted", "sent", "headers", "first_byte", "first_event", "first_token"),
    *("committed", "overhead"),
]
AT_END: Final = [*AT_COMMIT[:7], "first_content", "committed", "last_event", "overhead"]
OPENAI: Final = [
    b'data: {"id":"1","choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}\n\n',
    b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n',
    b"data: [DONE]\n\n",
]
ANTHROPIC: Final = [
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"thinking_delta","thinking":"hm"}}\n\n',
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"x"}}\n\n',
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
]
DIALECTS: Final = [(CHAT, OPENAI), (MESSAGES, ANTHROPIC)]


def telling(events: list[bytes]) -> Script:
    """Each event by itself, some time after the one before."""

    async def script(call: Call) -> None:
        await asyncio.sleep(0.05)
        call.head()
        for event in events:
            call.send(event)
            await asyncio.sleep(0.05)
        call.finish()

    return script


@asynccontextmanager
async def proxy(folder: Path, script: Script, **settings: Any) -> AsyncIterator[App]:
    async with (
        ScriptedUpstream(script) as upstream,
        running(folder, in_front_of(upstream, folder, **settings)) as app,
    ):
        yield app


def header(answer: Answer) -> dict[str, float]:
    """`server-timing` in seconds."""
    found = re.findall(r"(\w+);dur=([\d.]+)", answer.headers.get("server-timing", ""))
    return {name: float(value) / 1000 for name, value in found}


def comment(answer: Answer) -> dict[str, float]:
    """The last comment of the answer."""
    told = [chunk for chunk in answer.chunks if chunk.startswith(b": glm-proxy ")][-1]
    times = orjson.loads(told.removeprefix(b": glm-proxy "))
    assert isinstance(times, dict)
    return {name.removesuffix("_s"): value for name, value in times.items()}


async def detail(app: App, answer: Answer) -> dict[str, Any]:
    host, port = app.admin_address
    told = await get(f"http://{host}:{port}/admin/exchanges/{answer.headers['x-request-id']}")
    found = told.json()
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(("path", "events"), DIALECTS)
async def test_a_stream_tells_what_is_known_when_it_begins_and_the_rest_at_its_end(
    tmp_path: Path, path: str, events: list[bytes]
) -> None:
    settings = {"stream": {"emit_metadata": True}}
    async with proxy(tmp_path, telling(events), **settings) as app:
        answer = await ask(app.data_address, path, chat(stream=True, max_tokens=9))
        record = await detail(app, answer)
    early, late = header(answer), comment(answer)
    assert list(early) == AT_COMMIT
    assert list(late) == AT_END
    assert answer.chunks[-1] == events[-1]  # the end event is the last all the same
    marks = [late[name] for name in AT_END if name not in ("overhead", "first_content")]
    assert marks == sorted(marks)
    assert late["committed"] < late["first_content"] <= late["last_event"]
    for name, value in early.items():
        assert late[name] == pytest.approx(value, abs=1e-4)
    for name, field in (
        ("committed", "ttfb_s"),
        ("first_token", "ttft_s"),
        ("first_content", "first_content_s"),
        ("overhead", "overhead_s"),
    ):
        assert late[name] == pytest.approx(record[field], abs=2e-6)
    assert late["admitted"] == pytest.approx(record["attempts"][0]["start_s"], abs=2e-6)
    assert late["last_event"] <= record["duration_s"]


async def test_a_whole_answer_tells_what_it_has(tmp_path: Path) -> None:
    body = b'{"choices":[{"message":{"content":"x"}}]}'

    async def script(call: Call) -> None:
        call.head(content_type="application/json", framing=str(len(body)))
        call.send(body)
        call.finish()

    async with proxy(tmp_path, script) as app:
        answer = await ask(app.data_address, CHAT, chat(stream=False))
    assert {"parsed", "admitted", "sent", "headers", "committed"} <= set(header(answer))
    assert "first_token" not in header(answer)


async def test_an_answer_put_together_here_tells_its_tokens_too(tmp_path: Path) -> None:
    async with proxy(tmp_path, telling(OPENAI), stream={"upgrade": True}) as app:
        answer = await ask(app.data_address, CHAT, chat(stream=False))
    told = header(answer)
    assert answer.status == 200
    assert told["first_token"] < told["first_content"] < told["committed"]


async def test_an_early_commit_tells_what_there_was_by_then(tmp_path: Path) -> None:
    stream = {"heartbeat": "20ms", "emit_metadata": True}
    async with proxy(tmp_path, telling(OPENAI), commit="early", stream=stream) as app:
        answer = await ask(app.data_address, CHAT, chat(stream=True))
    assert list(header(answer)) == ["parsed", "committed"]
    told = comment(answer)
    assert told["committed"] < told["first_event"]
    assert 0 <= told["overhead"] < told["first_event"]


async def test_what_was_refused_at_once_has_reached_nothing(tmp_path: Path) -> None:
    async with proxy(tmp_path, telling(OPENAI)) as app:
        answer = await ask(app.data_address, CHAT, b"{")
    assert answer.status == 400
    assert header(answer) == {}


async def test_an_attempt_that_led_to_nothing_is_no_overhead(tmp_path: Path) -> None:
    calls = 0

    async def script(call: Call) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            await telling(OPENAI)(call)
            return
        await asyncio.sleep(0.3)
        call.head(500, content_type="application/json", framing="2")
        call.send(b"{}")
        call.finish()

    async with proxy(tmp_path, script) as app:
        answer = await ask(app.data_address, CHAT, chat(stream=True))
        record = await detail(app, answer)
    told = header(answer)
    assert calls == 2
    assert told["admitted"] == pytest.approx(record["attempts"][1]["start_s"], abs=1e-4)
    assert told["admitted"] > 0.3
    assert told["overhead"] == pytest.approx(record["overhead_s"], abs=1e-4)
    assert told["overhead"] < 0.3


async def test_the_stages_of_what_is_passed_through_are_told(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        call.head(content_type="application/json", framing="2")
        call.send(b"{}")
        call.finish()

    async with proxy(tmp_path, script) as app:
        answer = await ask(app.data_address, "/v1/files", b"{}")
    assert list(header(answer)) == ["parsed", "sent", "headers", "committed"]
