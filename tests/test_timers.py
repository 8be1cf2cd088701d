"""The deadlines of one attempt: of the settings, of a route, and of a request's own headers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson
import pytest

from proxy.simulator import Fault
from tests.fakes.dialling import black_hole, silent_port
from tests.fakes.raw_client import Answer, ask, chat
from tests.fakes.running import running
from tests.fakes.several import CALLER, CHAT, MESSAGES, several

SHORT: Final = "250ms"
LEAST, MOST = 0.24, 2.0
"""Seconds that SHORT may take, on a machine that does other things too."""


class Case(NamedTuple):
    """What is too slow for a deadline, and what is told then."""

    fault: Fault
    code: str
    answer_begun: bool = False


CASES: Final = {
    "headers": Case(Fault(no_headers=True), "headers_timeout"),
    "first_token": Case(Fault(stall_at_event=0), "first_token_timeout"),
    "idle": Case(Fault(stall_at_event=3), "idle_timeout", answer_begun=True),
    "total": Case(Fault(gap=0.02, tokens=300), "total_timeout", answer_begun=True),
}
NAMES: Final = pytest.mark.parametrize("name", CASES)


def code_of(answer: Answer, *, answer_begun: bool) -> str:
    told = answer.chunks[-1].removeprefix(b"data: ") if answer_begun else answer.body
    return str(orjson.loads(told)["error"]["code"])


def check(answer: Answer, case: Case, took: float) -> None:
    assert LEAST <= took < MOST
    assert code_of(answer, answer_begun=case.answer_begun) == case.code
    assert answer.status == (200 if case.answer_begun else 504)
    assert answer.clean is not case.answer_begun


@NAMES
async def test_a_deadline_of_the_settings_holds(tmp_path: Path, name: str) -> None:
    async with several(tmp_path, timeouts={name: SHORT}) as proxy:
        proxy.inject(CASES[name].fault)
        began = time.monotonic()
        answer = await proxy.ask()
        check(answer, CASES[name], time.monotonic() - began)
        assert len(proxy.entries) == 1
        ledger = proxy.endpoints["a"].ledger
        await ledger.until(lambda ledger: ledger[0].cancelled is not None)


@NAMES
async def test_a_route_has_deadlines_of_its_own(tmp_path: Path, name: str) -> None:
    hasty = {
        "name": "hasty",
        "match": {"model": ["glm-4.6"]},
        "timeouts": {name: SHORT},
    }
    async with several(tmp_path, routes=[hasty], timeouts={name: "20s"}) as proxy:
        proxy.inject(CASES[name].fault)
        began = time.monotonic()
        answer = await proxy.ask()
        check(answer, CASES[name], time.monotonic() - began)
        assert answer.headers["x-glm-proxy-route"] == "hasty"


@NAMES
async def test_a_caller_may_shorten_a_deadline(tmp_path: Path, name: str) -> None:
    header = f"X-GLM-Proxy-Timeout-{name.replace('_', '-')}: {SHORT}"
    async with several(tmp_path) as proxy:
        proxy.inject(CASES[name].fault)
        began = time.monotonic()
        answer = await proxy.ask(header)
        check(answer, CASES[name], time.monotonic() - began)
        # It is ours, not the upstream's.
        assert proxy.entries[0][1].header(f"x-glm-proxy-timeout-{name.replace('_', '-')}") is None


async def test_deadlines_count_from_when_the_request_was_sent(tmp_path: Path) -> None:
    """Not from the head: an upstream that sends one early has no more time for it."""
    async with several(tmp_path, timeouts={"first_token": "300ms"}) as proxy:
        proxy.inject(Fault(stall_at_event=0, delay=0.2))
        began = time.monotonic()
        answer = await proxy.ask()
        assert 0.28 <= time.monotonic() - began < 0.45
        assert answer.json()["error"]["code"] == "first_token_timeout"


async def test_waiting_in_the_queue_uses_up_no_deadline(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"admission": {"limit": 1}, "timeouts": {"first_token": "300ms"}}
    async with several(tmp_path, **settings) as proxy:
        slow = chat(simulate={"gap": 0.02, "tokens": 15, "thinking_tokens": 5})
        answers = [proxy.ask(body=slow), proxy.ask(body=slow), proxy.ask(body=slow)]
        for answer in await asyncio.gather(*answers):
            assert (answer.status, answer.clean) == (200, True)


async def test_each_attempt_has_the_whole_of_a_deadline_but_the_total(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"timeouts": {"first_token": "300ms", "total": "500ms"}}
    async with several(tmp_path, "abc", **settings) as proxy:
        proxy.inject(Fault(stall_at_event=0))
        began = time.monotonic()
        answer = await proxy.ask()
        took = time.monotonic() - began
        assert proxy.asked == ["a", "b"]
        first, second = (entry for _, entry in proxy.entries)
        assert 0.28 <= (first.cancelled or 0.0) - first.arrived < 0.4
        assert 0.48 <= took < 0.8
        assert (second.cancelled or 0.0) - second.arrived < 0.3
        assert answer.json()["error"]["code"] == "total_timeout"


async def test_nobody_waits_longer_for_another_attempt_than_there_is_time(tmp_path: Path) -> None:
    async with several(tmp_path, timeouts={"total": "300ms"}) as proxy:
        proxy.inject(Fault(code="1234", headers=(("retry-after", "2"),)))
        began = time.monotonic()
        answer = await proxy.ask()
        assert time.monotonic() - began < 0.6
        assert (answer.status, answer.json()["error"]["code"]) == (500, "1234")
        assert len(proxy.entries) == 1


async def test_heartbeats_of_the_upstream_hold_off_no_deadline(tmp_path: Path) -> None:
    async with several(tmp_path, timeouts={"first_token": SHORT}) as proxy:
        proxy.inject(Fault(stall_at_event=0, held_comments=0.02))
        began = time.monotonic()
        answer = await proxy.ask()
        check(answer, CASES["first_token"], time.monotonic() - began)


async def test_a_whole_answer_has_its_deadlines_too(tmp_path: Path) -> None:
    async with several(tmp_path) as proxy:
        for header, code in (("headers", "headers_timeout"), ("total", "total_timeout")):
            proxy.inject(Fault(no_headers=True))
            began = time.monotonic()
            answer = await proxy.ask(
                f"x-glm-proxy-timeout-{header}: {SHORT}", body=chat(stream=False)
            )
            assert LEAST <= time.monotonic() - began < MOST
            assert (answer.status, answer.json()["error"]["code"]) == (504, code)


# --- connect -----------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["settings", "route", "header"])
@pytest.mark.parametrize("where", ["http", "https"])
async def test_a_connection_has_its_deadline(tmp_path: Path, by: str, where: str) -> None:
    timeouts = {"connect": SHORT}
    settings: dict[str, Any] = {"attempts": {"retries": 0}}
    if by == "settings":
        settings["timeouts"] = timeouts
    elif by == "route":
        settings["routes"] = [{"name": "hasty", "timeouts": timeouts}]
    headers = [f"x-glm-proxy-timeout-connect: {SHORT}"] if by == "header" else []
    with black_hole() if where == "http" else silent_port() as port:
        endpoint = {"name": "a", "base_url": f"{where}://127.0.0.1:{port}"}
        async with running(tmp_path, {"endpoints": [endpoint], **settings}) as app:
            began = time.monotonic()
            answer = await ask(app.data_address, CHAT, chat(), CALLER, *headers)
            took = time.monotonic() - began
    assert LEAST <= took < MOST
    assert answer.status in (503, 504)
    assert answer.json()["error"]["code"] in ("upstream_connect_timeout", "pool_exhausted")


# --- what a caller may say ---------------------------------------------------------------------


async def test_a_caller_cannot_lengthen_the_total(tmp_path: Path) -> None:
    async with several(tmp_path, timeouts={"total": SHORT}) as proxy:
        for header in ("total: 1h", "first-token: 1h", "idle: 1h"):
            proxy.inject(CASES["total"].fault)
            began = time.monotonic()
            answer = await proxy.ask(f"x-glm-proxy-timeout-{header}")
            check(answer, CASES["total"], time.monotonic() - began)


async def test_a_caller_may_lengthen_what_is_below_the_total(tmp_path: Path) -> None:
    async with several(tmp_path, timeouts={"first_token": "100ms"}) as proxy:
        proxy.inject(Fault(first_token=0.3))
        answer = await proxy.ask("x-glm-proxy-timeout-first-token: 2s")
        assert (answer.status, answer.clean) == (200, True)


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("first-token: soon", "x-glm-proxy-timeout-first-token"),
        ("first-token: ", "x-glm-proxy-timeout-first-token"),
        ("first-token: -1s", "x-glm-proxy-timeout-first-token"),
        ("first-token: 0", "x-glm-proxy-timeout-first-token"),
        ("idle: nan", "x-glm-proxy-timeout-idle"),
        ("idle: 1e999", "x-glm-proxy-timeout-idle"),
        ("total: 5 parsecs", "x-glm-proxy-timeout-total"),
        ("first_token: 5s", "connect, headers, first-token, idle, total"),
        ("everything: 5s", "connect, headers, first-token, idle, total"),
    ],
)
async def test_what_is_no_deadline_is_refused_by_name(
    tmp_path: Path, path: str, header: str, words: str
) -> None:
    async with several(tmp_path) as proxy:
        answer = await proxy.ask(f"x-glm-proxy-timeout-{header}", path=path)
        error = answer.json()["error"]
        assert answer.status == 400
        assert words in error["message"]
        assert proxy.entries == []
        assert (answer.json().get("type") == "error") is (path == MESSAGES)


@pytest.mark.parametrize("name", ["headers", "first-token", "total"])
@pytest.mark.parametrize("names", ["a", "ab"], ids=["one", "two"])
async def test_who_has_no_patience_closes_no_endpoint_to_others(
    tmp_path: Path, name: str, names: str
) -> None:
    async with several(tmp_path, names) as proxy:
        proxy.inject(Fault(delay=0.1), times=6, on="a")
        taken_over = names == "ab" and name != "total"
        for _ in range(6):
            answer = await proxy.ask(f"x-glm-proxy-timeout-{name}: 30ms")
            assert answer.status == (200 if taken_over else 504)
        answer = await proxy.ask()
        assert (answer.status, answer.headers["x-glm-proxy-endpoint"]) == (200, "a")
