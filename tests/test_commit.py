"""An early commit, with the search for an answer behind it; and streams for who wants it whole."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Final

import anthropic
import openai
import orjson
import pytest

from proxy.simulator import Fault
from tests.fakes.raw_client import Answer, RawClient, chat
from tests.fakes.running import outcomes
from tests.fakes.several import CALLER, CHAT, MESSAGES, Several, several

EARLY: Final[dict[str, Any]] = {"commit": "early", "stream": {"heartbeat": "60ms"}}
HEARTBEAT: Final = b": heartbeat\n\n"
PATHS: Final = {"openai": CHAT, "anthropic": MESSAGES}
BOTH: Final = pytest.mark.parametrize("dialect", PATHS)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDKs read keys and proxies there."""
    for name in ("OPENAI", "ANTHROPIC", "HTTP", "HTTPS", "ALL"):
        for tail in ("API_KEY", "AUTH_TOKEN", "BASE_URL", "PROXY"):
            monkeypatch.delenv(f"{name}_{tail}", raising=False)
            monkeypatch.delenv(f"{name}_{tail}".lower(), raising=False)


async def ask(proxy: Several, dialect: str, **fields: Any) -> Answer:
    return await proxy.ask(path=PATHS[dialect], body=chat(**{"max_tokens": 500, **fields}))


def split(answer: Answer) -> tuple[int, list[bytes]]:
    """How many heartbeats came first, and the events after them."""
    chunks, count = list(answer.chunks), 0
    while chunks and chunks[0] == HEARTBEAT:
        del chunks[0]
        count += 1
    return count, chunks


def is_whole(answer: Answer) -> bool:
    last = answer.chunks[-1]
    return answer.clean and (b"[DONE]" in last or b'"message_stop"' in last)


def error_of(chunk: bytes) -> dict[str, Any]:
    """The error that an event tells."""
    name, _, data = chunk.rpartition(b"data: ")
    told: dict[str, Any] = orjson.loads(data)
    if told.get("type") == "error":
        assert name == b"event: error\n"
    return dict(told["error"])


# --- commit: early -----------------------------------------------------------------------------


@BOTH
async def test_heartbeats_come_until_the_answer_does(tmp_path: Path, dialect: str) -> None:
    async with several(tmp_path, **EARLY) as proxy:
        proxy.inject(Fault(first_token=0.4))
        answer = await ask(proxy, dialect)
        beats, events = split(answer)
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-request-id"]
        assert 4 <= beats <= 7
        assert is_whole(answer)
        assert HEARTBEAT not in events
        assert proxy.asked == ["a"]
        assert await proxy.figure("glm_proxy_heartbeats_total") == beats


async def test_a_quick_answer_is_committed_as_ever(tmp_path: Path) -> None:
    async with several(tmp_path, **EARLY) as proxy:
        answer = await ask(proxy, "openai")
        beats, _ = split(answer)
        assert (beats, is_whole(answer)) == (0, True)
        assert answer.headers["x-glm-proxy-attempts"] == "1"
        assert answer.headers["x-glm-proxy-endpoint"] == "a"


async def test_a_quick_failure_still_has_a_status(tmp_path: Path) -> None:
    async with several(tmp_path, **EARLY) as proxy:
        proxy.inject(Fault(code="1210"))
        answer = await ask(proxy, "openai")
        assert (answer.status, answer.json()["error"]["code"]) == (400, "1210")


@BOTH
async def test_another_candidate_takes_over_behind_the_commit(tmp_path: Path, dialect: str) -> None:
    async with several(tmp_path, "ab", timeouts={"first_token": "250ms"}, **EARLY) as proxy:
        proxy.inject(Fault(stall_at_event=0), on="a")
        proxy.inject(Fault(first_token=0.2), on="b")
        answer = await ask(proxy, dialect)
        beats, events = split(answer)
        assert proxy.asked == ["a", "b"]
        assert 5 <= beats <= 8
        assert is_whole(answer)
        assert not any(b"error" in event for event in events)


FAILURES: Final = {
    "status": (Fault(code="1234", delay=0.1), "1234"),
    "parameter": (Fault(code="1210", delay=0.1), "1210"),
    "page": (Fault(html=True, status=405, delay=0.1), "upstream_failed"),
    "not a stream": (Fault(html=True, delay=0.1), "upstream_not_a_stream"),
    "empty": (Fault(empty=True, delay=0.1), "upstream_empty"),
    "error event": (Fault(code="1234", error_at_event=0, delay=0.1), "1234"),
    "silent": (Fault(no_headers=True), "first_token_timeout"),
}


@BOTH
@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failure_behind_the_commit_is_an_error_event(
    tmp_path: Path, dialect: str, failure: str
) -> None:
    fault, code = FAILURES[failure]
    settings: dict[str, Any] = {
        "timeouts": {"first_token": "1500ms"},
        "attempts": {"retries": 0},
        **EARLY,
    }
    async with several(tmp_path, **settings) as proxy:
        proxy.inject(fault)
        answer = await ask(proxy, dialect)
        beats, events = split(answer)
        assert answer.status == 200
        assert beats >= 1
        assert len([event for event in events if b"error" in event]) == 1
        assert len(events) <= 2  # an end event of the upstream's own is no harm
        assert error_of(events[0])["code"] == code
        if failure != "error event":
            assert not answer.clean
        assert "completed" not in await outcomes(proxy.app)


async def test_no_place_behind_the_commit_is_an_error_event(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"admission": {"limit": 1, "wait": "250ms"}, **EARLY}
    async with several(tmp_path, **settings) as proxy, RawClient(proxy.app.data_address) as holder:
        holder.post(CHAT, chat(simulate={"stall_at_event": 0}), CALLER)
        await proxy.endpoints["a"].ledger.until(lambda ledger: len(ledger) == 1)
        answer = await ask(proxy, "openai")
        beats, events = split(answer)
        assert beats >= 2
        assert error_of(events[0])["code"] == "admission_refused"
        assert not answer.clean


async def test_without_a_heartbeat_nothing_is_committed_early(tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "commit": "early",
        "stream": {"heartbeat": 0},
        "attempts": {"retries": 0},
    }
    async with several(tmp_path, **settings) as proxy:
        proxy.inject(Fault(code="1234", delay=0.3))
        answer = await ask(proxy, "openai")
        assert (answer.status, answer.json()["error"]["code"]) == (500, "1234")


async def test_who_leaves_behind_the_commit_ends_the_search(tmp_path: Path) -> None:
    async with several(tmp_path, **EARLY) as proxy:
        proxy.inject(Fault(stall_at_event=0))
        async with RawClient(proxy.app.data_address) as client:
            client.post(CHAT, chat(), CALLER)
            assert (await client.head()).status == 200
            assert await client.chunk() == HEARTBEAT
            left = time.monotonic()
        ledger = proxy.endpoints["a"].ledger
        await ledger.until(lambda ledger: ledger[0].cancelled is not None)
        assert (ledger[0].cancelled or 0.0) - left < 0.1
        async with asyncio.timeout(2):
            while await outcomes(proxy.app) != {"client_gone": 1}:
                await asyncio.sleep(0.01)


async def test_a_connection_serves_on_after_an_early_commit(tmp_path: Path) -> None:
    async with several(tmp_path, **EARLY) as proxy, RawClient(proxy.app.data_address) as client:
        for _ in range(3):
            proxy.inject(Fault(first_token=0.15))
            client.post(CHAT, chat(), CALLER)
            assert is_whole(await client.whole())


async def test_a_whole_answer_is_never_committed_early(tmp_path: Path) -> None:
    async with several(tmp_path, **EARLY) as proxy:
        proxy.inject(Fault(delay=0.2))
        answer = await ask(proxy, "openai", stream=False)
        assert answer.status == 200
        assert answer.json()["choices"]


# --- stream.upgrade ----------------------------------------------------------------------------

UPGRADE: Final[dict[str, Any]] = {"stream": {"upgrade": True}}
HEDGE: Final = {"after": "p90", "min": "100ms", "max": "100ms", "budget": "50%"}
CITY: Final[Any] = {"type": "object", "properties": {"city": {"type": "string"}}}
QUESTION: Final[Any] = [{"role": "user", "content": "weather of Qingdao, by the tool please"}]
PLAIN: Final[Any] = [{"role": "user", "content": "Explain machine learning."}]


def base(proxy: Several) -> str:
    host, port = proxy.app.data_address
    return f"http://{host}:{port}"


def openai_of(proxy: Several) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        api_key="caller.secret",
        base_url=f"{base(proxy)}/v1",
        max_retries=0,
        timeout=10,
        # No TLS is spoken here, and each client would read all root certificates first.
        http_client=openai.DefaultAsyncHttpxClient(verify=False),
    )


def anthropic_of(proxy: Several) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(
        api_key="caller.secret",
        base_url=base(proxy),
        max_retries=0,
        timeout=10,
        http_client=anthropic.DefaultAsyncHttpxClient(verify=False),
    )


@pytest.mark.parametrize("tools", [False, True], ids=["text", "tools"])
async def test_openais_sdk_gets_the_same_whole_answer(tmp_path: Path, tools: bool) -> None:
    more: Any = {}
    if tools:
        function = {"name": "get_weather", "description": "tells it", "parameters": CITY}
        more = {"tools": [{"type": "function", "function": function}]}
    found = []
    for settings in ({}, UPGRADE):
        async with several(tmp_path, keys=0, **settings) as proxy, openai_of(proxy) as sdk:
            answer = await sdk.chat.completions.create(
                model="glm-4.6", messages=QUESTION if tools else PLAIN, **more
            )
            assert proxy.entries[0][1].json().get("stream", False) is bool(settings)
            found.append(answer)
    direct, folded = found
    assert folded.object == "chat.completion"
    assert folded.model == direct.model
    assert folded.usage == direct.usage
    one, other = direct.choices[0], folded.choices[0]
    assert other.finish_reason == one.finish_reason == ("tool_calls" if tools else "stop")
    assert (other.message.role, other.message.content) == (one.message.role, one.message.content)
    said = [getattr(choice.message, "reasoning_content", None) for choice in (one, other)]
    assert said[0] == said[1]
    calls = [
        [(call.type, call.function) for call in choice.message.tool_calls or ()]
        for choice in (one, other)
    ]
    assert calls[0] == calls[1]
    assert len(calls[1]) == tools


@pytest.mark.parametrize("tools", [False, True], ids=["text", "tools"])
async def test_anthropics_sdk_gets_the_same_whole_answer(tmp_path: Path, tools: bool) -> None:
    more: Any = {}
    if tools:
        more = {"tools": [{"name": "get_weather", "description": "it", "input_schema": CITY}]}
    found = []
    for settings in ({}, UPGRADE):
        async with several(tmp_path, keys=0, **settings) as proxy, anthropic_of(proxy) as sdk:
            answer = await sdk.messages.create(
                model="glm-4.6", max_tokens=900, messages=QUESTION if tools else PLAIN, **more
            )
            assert proxy.entries[0][1].json().get("stream", False) is bool(settings)
            found.append(answer)
    direct, folded = (one.model_dump(exclude={"id"}) for one in found)
    for answer in (direct, folded):
        for block in answer["content"]:
            block.pop("id", None)
            block.pop("signature", None)
    assert folded == direct
    assert folded["stop_reason"] == ("tool_use" if tools else "end_turn")


UPGRADE_FAILURES: Final = {
    "status": (Fault(code="1113"), 429, "1113"),
    "error event": (Fault(code="1210", error_at_event=0), None, "1210"),
    "error on the way": (Fault(code="1234", error_at_event=6, gap=0.002), None, "1234"),
    "cut": (Fault(cut_at_event=6, gap=0.002), 502, "upstream_reset"),
    "no end": (Fault(no_finish=True, gap=0.002), 502, "upstream_cut"),
    "page": (Fault(html=True), 502, "upstream_not_a_stream"),
    "glued": (Fault(glue_at_event=6, gap=0.002), 502, None),
    "stall": (Fault(stall_at_event=6, gap=0.002), 504, "idle_timeout"),
}


@BOTH
@pytest.mark.parametrize("failure", UPGRADE_FAILURES)
async def test_half_an_answer_is_an_error_with_a_status(
    tmp_path: Path, dialect: str, failure: str
) -> None:
    fault, status, code = UPGRADE_FAILURES[failure]
    settings: dict[str, Any] = {
        "timeouts": {"idle": "200ms"},
        "attempts": {"retries": 0},
        **UPGRADE,
    }
    async with several(tmp_path, **settings) as proxy:
        proxy.inject(fault)
        answer = await ask(proxy, dialect, stream=False)
        assert answer.clean
        assert answer.headers["content-type"].startswith("application/json")
        assert answer.status >= 400
        assert status in (None, answer.status)
        assert (answer.json().get("type") == "error") is (dialect == "anthropic")
        assert code in (None, answer.json()["error"]["code"])
        assert "completed" not in await outcomes(proxy.app)


@BOTH
async def test_first_token_deadlines_work_for_who_wants_it_whole(
    tmp_path: Path, dialect: str
) -> None:
    async with several(tmp_path, "ab", timeouts={"first_token": "200ms"}, **UPGRADE) as proxy:
        proxy.inject(Fault(stall_at_event=0), on="a")
        answer = await ask(proxy, dialect, stream=False)
        assert answer.status == 200
        assert proxy.asked == ["a", "b"]
        assert answer.headers["x-glm-proxy-endpoint"] == "b"
        assert answer.headers["content-type"].startswith("application/json")


@BOTH
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_late_answer_gets_a_hedge_beside_it(
    tmp_path: Path, dialect: str, stream: bool
) -> None:
    async with several(tmp_path, "ab", hedge=HEDGE, **UPGRADE) as proxy:
        proxy.inject(Fault(first_token=5.0), on="a")
        began = time.monotonic()
        answer = await ask(proxy, dialect, stream=stream)
        took = time.monotonic() - began
        assert answer.status == 200
        assert proxy.asked == ["a", "b"]
        assert answer.headers["x-glm-proxy-endpoint"] == "b"
        assert 0.1 <= took < 0.4
        lost = proxy.endpoints["a"].ledger[0]
        await proxy.endpoints["a"].ledger.until(lambda _: lost.cancelled is not None)
        won = proxy.endpoints["b"].ledger[0]
        assert (lost.cancelled or 0.0) - (won.first_event or 0.0) < 0.05
        assert await proxy.figure("glm_proxy_hedges_total", result="won") == 1


async def test_a_whole_answer_is_not_hedged_where_it_is_not_streamed(tmp_path: Path) -> None:
    """Nobody could say when it is late."""
    async with several(tmp_path, "ab", hedge=HEDGE) as proxy:
        proxy.inject(Fault(delay=0.3), on="a")
        assert (await ask(proxy, "openai", stream=False)).status == 200
        assert proxy.asked == ["a"]


async def test_who_leaves_while_it_is_put_together_ends_the_stream(tmp_path: Path) -> None:
    async with several(tmp_path, **UPGRADE) as proxy:
        proxy.inject(Fault(stall_at_event=5))
        async with RawClient(proxy.app.data_address) as client:
            client.post(CHAT, chat(stream=False), CALLER)
            ledger = proxy.endpoints["a"].ledger
            await ledger.until(lambda ledger: ledger[0].events == 5)
        await ledger.until(lambda ledger: ledger[0].cancelled is not None)
