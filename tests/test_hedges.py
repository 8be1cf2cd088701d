"""Hedges on real sockets: when one is made, when not, and what becomes of the one that lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.app import App
from proxy.core.record import Record
from proxy.knowledge import HEDGE_BURST
from tests.fakes.raw_client import Answer, RawClient, ask, chat
from tests.fakes.running import running, samples
from tests.fakes.upstream import Call, ScriptedUpstream

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
DONE = b"data: [DONE]\n\n"
SOON = 1.0
HEDGE = {"after": "p50", "min": "20ms", "max": "20ms", "budget": "100%"}
ALONE = {"routes": [{"name": "alone", "candidates": [{"endpoint": "late"}]}]}
Script = Callable[[Call], Awaitable[None]]


def event(text: str) -> bytes:
    return (
        b"data: " + orjson.dumps({"id": text, "choices": [{"delta": {"content": text}}]}) + b"\n\n"
    )


async def hang(call: Call) -> None:
    await call.gone.wait()


async def answer(call: Call) -> None:
    call.head()
    call.send(event("good") + DONE)
    call.finish()


async def fail(call: Call) -> None:
    call.head(500, content_type="application/json", framing="2")
    call.send(b"{}")
    call.finish()


def after(seconds: float, then: Script) -> Script:
    async def script(call: Call) -> None:
        await asyncio.sleep(seconds)
        if not call.gone.is_set():
            await then(call)

    return script


class Two:
    """A proxy before `late`, which comes first, and `other`."""

    def __init__(self, app: App, late: ScriptedUpstream, other: ScriptedUpstream) -> None:
        self.app = app
        self.late = late
        self.other = other

    async def ask(self, path: str = CHAT, body: bytes | None = None) -> Answer:
        return await asyncio.wait_for(ask(self.app.data_address, path, body or chat()), 10)


@asynccontextmanager
async def two(
    folder: Path, late: Script, other: Script = hang, *, h2: bool = False, **settings: Any
) -> AsyncIterator[Two]:
    async with ScriptedUpstream(late, h2=h2) as first, ScriptedUpstream(other, h2=h2) as second:
        endpoints = []
        for name, upstream in (("late", first), ("other", second)):
            (folder / name).mkdir()
            endpoints.append({"name": name, "base_url": upstream.url})
            if h2:
                endpoints[-1]["ca_file"] = str(upstream.write_ca(folder / name))
        attempts = {"retry_budget": "100%", "breaker": "off"}
        base: dict[str, Any] = {
            "hedge": HEDGE,
            "attempts": attempts,
            "routes": [
                {"name": "two", "candidates": [{"endpoint": "late"}, {"endpoint": "other"}]}
            ],
        }
        base["endpoints"] = endpoints
        async with running(folder, base | settings) as app:
            yield Two(app, first, second)


async def of(records: list[Record], count: int) -> list[Record]:
    """So many records, when they are there: a client reads the end a moment before."""
    deadline = time.monotonic() + 5
    while len(records) < count:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)
    return records


@pytest.mark.parametrize("h2", [False, True], ids=["http1", "h2"])
async def test_the_first_useful_event_wins_and_the_late_attempt_hears_of_it_at_once(
    tmp_path: Path, records: list[Record], h2: bool
) -> None:
    async def opens(call: Call) -> None:
        """A head and an event without a token are no answer yet."""
        call.head()
        call.send(b'data: {"id":"bad","choices":[{"delta":{"role":"assistant"}}]}\n\n')
        await call.gone.wait()

    over = asyncio.Event()

    async def streams(call: Call) -> None:
        call.head()
        call.send(event("good"))
        await over.wait()
        call.send(DONE)
        call.finish()

    async with (
        two(tmp_path, opens, streams, h2=h2) as pair,
        RawClient(pair.app.data_address) as one,
    ):
        one.post(CHAT, chat())
        head = await asyncio.wait_for(one.head(), 10)
        began = time.monotonic()
        await asyncio.wait_for(pair.late.calls[0].gone.wait(), SOON)
        assert time.monotonic() - began < SOON
        vitals = [vitals for _, vitals in pair.app.house.knowledge._health[""]]
        assert not any(one.busy for one in vitals)  # known now, not when the answer is over
        over.set()
        assert await one.chunk() == event("good")
        assert await one.chunk() == DONE
        assert await one.chunk() == b""
    assert head.headers["x-glm-proxy-endpoint"] == "other"
    [record] = await of(records, 1)
    assert [(one.role, one.won, one.outcome) for one in record.attempts] == [
        ("first", False, "cancelled"),
        ("hedge", True, "completed"),
    ]
    assert record.decisions == ("hedge_started",)


async def test_a_late_attempt_that_answers_after_all_keeps_the_client(
    tmp_path: Path, records: list[Record]
) -> None:
    async with two(tmp_path, after(0.08, answer), hang) as pair:
        told = await pair.ask()
        assert told.body == event("good") + DONE
        assert told.headers["x-glm-proxy-endpoint"] == "late"
        await asyncio.wait_for(pair.other.calls[0].gone.wait(), SOON)


async def test_once_a_client_has_a_token_nobody_else_is_asked(tmp_path: Path) -> None:
    async def stops(call: Call) -> None:
        call.head()
        call.send(event("good"))
        await call.gone.wait()

    hedge = HEDGE | {"min": "300ms", "max": "300ms"}
    async with two(tmp_path, stops, answer, hedge=hedge, timeouts={"idle": "600ms"}) as pair:
        told = await pair.ask()
        assert told.body.startswith(event("good") + b'data: {"error"')
        assert not told.clean
        assert pair.other.calls == []


async def test_without_a_spare_place_there_is_no_hedge_but_still_a_failover(
    tmp_path: Path, records: list[Record]
) -> None:
    settings: dict[str, Any] = {"admission": {"limit": 1}, "timeouts": {"first_token": "100ms"}}
    async with two(tmp_path, hang, answer, **settings) as pair:
        told = await pair.ask()
    assert told.body == event("good") + DONE
    [record] = await of(records, 1)
    assert record.decisions == (
        "hedge_denied_admission",
        "retry_elsewhere:first_token_timeout",
    )
    assert [one.role for one in record.attempts] == ["first", "failover"]


async def test_a_spent_budget_makes_no_hedge_but_still_a_failover(
    tmp_path: Path, records: list[Record]
) -> None:
    hedge, burst = HEDGE | {"budget": "0.1%"}, int(HEDGE_BURST)
    async with two(tmp_path, hang, answer, hedge=hedge, timeouts={"first_token": "80ms"}) as pair:
        for _ in range(burst + 2):
            assert (await pair.ask()).body == event("good") + DONE
    made = [one.role for record in await of(records, burst + 2) for one in record.attempts]
    assert (made.count("hedge"), made.count("failover")) == (burst, 2)
    assert "hedge_denied_budget" in records[burst].decisions


async def test_where_the_late_candidate_fails_often_there_is_no_hedge(
    tmp_path: Path, records: list[Record]
) -> None:
    healthy = asyncio.Event()

    async def late(call: Call) -> None:
        await (after(0.06, answer) if healthy.is_set() else fail)(call)

    async with two(tmp_path, late, fail, attempts={"retries": 0, "breaker": "off"}) as pair:
        for _ in range(10):
            assert (await pair.ask()).status == 500
        healthy.set()
        assert (await pair.ask()).body == event("good") + DONE
        assert pair.other.calls == []
    assert (await of(records, 11))[-1].decisions == ("hedge_denied_errors",)


async def test_where_everything_is_slow_hedges_stop_within_their_budget(
    tmp_path: Path, records: list[Record]
) -> None:
    hedge = HEDGE | {"after": "p90", "budget": "5%"}
    times, at_once = 120, asyncio.Semaphore(12)
    async with two(tmp_path, after(0.05, answer), after(0.05, answer), hedge=hedge) as pair:

        async def one() -> None:
            async with at_once:
                assert (await pair.ask()).body == event("good") + DONE

        await asyncio.gather(*(one() for _ in range(times)))
        made = len(pair.late.calls) + len(pair.other.calls)
    decisions = [word for record in await of(records, times) for word in record.decisions]
    assert made <= times * 1.05 + HEDGE_BURST
    assert "hedge_denied_slow" in decisions


async def test_a_failure_beside_a_hedge_is_held_against_its_candidate(
    tmp_path: Path, records: list[Record]
) -> None:
    """It starts nothing, because the other one runs; its breaker opens all the same."""
    breaker = {"retry_budget": "100%", "breaker": {"failures": 2, "open_for": "30s"}}
    late = after(0.06, fail)
    async with two(tmp_path, late, after(0.1, answer), attempts=breaker) as pair:
        for _ in range(3):
            assert (await pair.ask()).body == event("good") + DONE
        states = {
            labels["endpoint"]: labels["state"]
            for labels, value in await samples(pair.app, "glm_proxy_breaker_state")
            if value
        }
        assert len(pair.late.calls) == 2
    assert states == {"late": "open", "other": "closed"}
    assert [one.outcome for one in (await of(records, 3))[0].attempts] == [
        "upstream_failed",
        "completed",
    ]


async def test_a_probe_that_loses_to_its_hedge_gives_the_turn_to_the_next_one(
    tmp_path: Path,
) -> None:
    """It says neither well nor ill of the candidate; nor may it, while a long answer lasts, keep
    everybody else from trying."""
    over = asyncio.Event()

    async def late(call: Call) -> None:
        number = len(pair.late.calls)
        await (answer if number <= 4 else fail if number == 5 else hang)(call)

    async def streams(call: Call) -> None:
        call.head()
        call.send(event("good"))
        await over.wait()
        call.send(DONE)
        call.finish()

    async def other(call: Call) -> None:
        await (streams if len(pair.other.calls) == 2 else answer)(call)

    async def state() -> str | None:
        states = await samples(pair.app, "glm_proxy_breaker_state")
        return next(
            (one["state"] for one, value in states if value and one["endpoint"] == "late"), None
        )

    breaker = {"breaker": {"failures": 1, "open_for": "20ms"}}
    async with two(tmp_path, late, other, attempts=breaker) as pair:
        for _ in range(5):
            assert (await pair.ask()).body == event("good") + DONE
        deadline = time.monotonic() + 5
        while await state() != "half_open":
            assert time.monotonic() < deadline
        async with RawClient(pair.app.data_address) as one:
            one.post(CHAT, chat())
            await asyncio.wait_for(one.head(), 10)  # the probe has lost; the answer goes on
            assert len(pair.late.calls) == 6
            assert (await pair.ask()).body == event("good") + DONE
            assert len(pair.late.calls) == 7
            over.set()


async def test_what_a_lost_attempt_consumed_is_counted_apart(
    tmp_path: Path, records: list[Record]
) -> None:
    def said(kind: str, **fields: Any) -> bytes:
        return f"event: {kind}\ndata: ".encode() + orjson.dumps({"type": kind, **fields}) + b"\n\n"

    def opening(tokens: int) -> bytes:
        usage = {"input_tokens": tokens, "output_tokens": 0}
        message = {"id": f"m{tokens}", "type": "message", "role": "assistant", "usage": usage}
        return said("message_start", message=message)

    async def opens(call: Call) -> None:
        call.head()
        call.send(opening(700))
        await call.gone.wait()

    async def answers(call: Call) -> None:
        call.head()
        call.send(opening(40))
        block = {"type": "text", "text": ""}
        call.send(said("content_block_start", index=0, content_block=block))
        delta = {"type": "text_delta", "text": "good"}
        call.send(said("content_block_delta", index=0, delta=delta))
        call.send(said("content_block_stop", index=0))
        done = {"stop_reason": "end_turn"}
        call.send(said("message_delta", delta=done, usage={"output_tokens": 2}))
        call.send(said("message_stop"))
        call.finish()

    async with two(tmp_path, opens, answers) as pair:
        assert b"good" in (await pair.ask(MESSAGES, chat(max_tokens=9))).body
        [record] = await of(records, 1)
        lost = await samples(pair.app, "glm_proxy_lost_tokens_total")
    assert [one.usage and one.usage.input_tokens for one in record.attempts] == [700, 40]
    assert record.usage is not None
    assert record.usage.input_tokens == 40
    assert [value for labels, value in lost if value] == [700]
