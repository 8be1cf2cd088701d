"""Several endpoints for one model: the nearest is used, a sick one is left and probed back."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
import trustme

from proxy.simulator import Fault, Simulator, SimulatorSettings
from proxy.simulator.faults import Ending
from tests.fakes.raw_client import Answer, RawClient, ask, chat
from tests.fakes.running import running, samples
from tests.fakes.several import CALLER, CHAT, Several, several
from tests.fakes.upstream import Call, ScriptedUpstream

EVENT: Final = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'
DONE: Final = b"data: [DONE]\n\n"
ANYWHERE: Final[dict[str, Any]] = {
    "routes": [{"name": "anywhere", "candidates": [{"model": "glm-4.6"}]}]
}
"""One candidate without an endpoint: each of them, the nearest first."""


def prompt(number: int) -> bytes:
    """Of another conversation each time."""
    return chat(messages=[{"role": "user", "content": f"question {number}"}])


async def asked_of(proxy: Several, times: int, first: int = 0) -> Counter[str]:
    """Which endpoint got how many of so many requests, one after the other."""
    before = len(proxy.entries)
    for number in range(first, first + times):
        assert (await proxy.ask(body=prompt(number))).status == 200
    return Counter(proxy.asked[before:])


def slow(proxy: Several, name: str, seconds: float) -> Any:
    """From now on each first token of an endpoint comes after so long."""
    return proxy.endpoints[name].inject(Fault(first_token=seconds), times=None)


# --- the nearest -------------------------------------------------------------------------------


async def test_of_several_endpoints_the_one_that_answers_sooner_is_used(tmp_path: Path) -> None:
    async with several(tmp_path, "ab", **ANYWHERE) as proxy:
        slow(proxy, "a", 0.4)
        slow(proxy, "b", 0.08)
        await asked_of(proxy, 10)
        later = await asked_of(proxy, 20, 10)
        assert later["b"] >= 18


async def test_one_that_became_slow_is_left(tmp_path: Path) -> None:
    async with several(tmp_path, "ab", **ANYWHERE) as proxy:
        slow(proxy, "b", 0.06)
        fast = slow(proxy, "a", 0.02)
        await asked_of(proxy, 15)
        assert (await asked_of(proxy, 10, 20))["a"] >= 9
        proxy.endpoints["a"].faults.rules.remove(fast)
        slow(proxy, "a", 0.2)
        await asked_of(proxy, 15, 30)
        assert (await asked_of(proxy, 10, 50))["b"] >= 8


async def test_when_the_nearest_becomes_slower_others_are_tried_more_often(tmp_path: Path) -> None:
    async with several(tmp_path, "ab", **ANYWHERE) as proxy:
        slow(proxy, "b", 0.08)
        fast = slow(proxy, "a", 0.01)
        await asked_of(proxy, 25)
        proxy.endpoints["a"].faults.rules.remove(fast)
        slow(proxy, "a", 0.03)
        await asked_of(proxy, 10, 30)
        reasons = [
            (await proxy.ask(body=prompt(number))).headers["x-glm-proxy-reason"]
            for number in range(40, 70)
        ]
        assert reasons.count("explore") >= 2


async def test_a_conversation_stays_where_it_began(tmp_path: Path) -> None:
    async with several(tmp_path, "abc", **ANYWHERE) as proxy:
        for name in "abc":
            slow(proxy, name, 0.02)
        await asked_of(proxy, 24)
        began: list[str] = []
        for conversation in range(8):
            messages: list[dict[str, str]] = []
            where = []
            for turn in range(3):
                messages.append({"role": "user", "content": f"{conversation}, turn {turn}"})
                answer = await proxy.ask(body=chat(messages=messages))
                messages.append({"role": "assistant", "content": "well"})
                if answer.headers["x-glm-proxy-reason"] == "sticky":
                    where.append(answer.headers["x-glm-proxy-endpoint"])
            assert len(set(where)) <= 1
            began += where[:1]
        assert len(began) >= 4
        assert len(set(began)) > 1  # and not all of them at one place


async def test_metrics_tell_the_region(tmp_path: Path) -> None:
    async with several(tmp_path, "ab", each={"region": "edge-fra"}) as proxy:
        found = await samples(proxy.app, "glm_proxy_endpoint_info")
        assert [labels["region"] for labels, _ in found] == ["edge-fra", "edge-fra"]


# --- breakers ----------------------------------------------------------------------------------

BREAKER: Final[dict[str, Any]] = {"failures": 3, "within": "10s", "open_for": "400ms"}
ONCE: Final[dict[str, Any]] = {"attempts": {"retries": 0, "breaker": BREAKER}}


async def test_one_that_fails_again_and_again_is_left_alone(tmp_path: Path) -> None:
    attempts: dict[str, Any] = {"breaker": BREAKER | {"open_for": "30s"}}
    async with several(tmp_path, "ab", attempts=attempts) as proxy:
        proxy.inject(Fault(code="1234"), times=None, on="a")
        for _ in range(6):
            assert (await proxy.ask()).status == 200
        assert proxy.asked == ["a", "b"] * 3 + ["b"] * 3
        assert await state_of(proxy, "a") == "open"


async def test_one_probe_goes_through_and_a_good_one_opens_the_way(tmp_path: Path) -> None:
    async with several(tmp_path, "ab", attempts={"breaker": BREAKER}) as proxy:
        proxy.inject(Fault(code="1234"), times=3, on="a")
        for _ in range(3):
            await proxy.ask()
        slow(proxy, "a", 0.1)
        await until_state(proxy, "a", "half_open")
        before = len(proxy.entries)
        answers = await together(proxy, 20)
        assert {answer.status for answer in answers} == {200}
        assert proxy.asked[before:].count("a") == 1
        assert (await proxy.ask()).headers["x-glm-proxy-endpoint"] == "a"


@pytest.mark.parametrize("hedge", ["off", {"after": "p90"}], ids=["plain", "hedged"])
async def test_one_probe_goes_through_of_many_at_once(tmp_path: Path, hedge: Any) -> None:
    """The probe fails too, and the next one has to wait longer."""
    async with several(tmp_path, "ab", attempts={"breaker": BREAKER}, hedge=hedge) as proxy:
        proxy.inject(Fault(code="1234"), times=None, on="a")
        for _ in range(3):
            await proxy.ask()
        await until_state(proxy, "a", "half_open")
        before = len(proxy.entries)
        answers = await together(proxy, 20)
        assert {answer.status for answer in answers} == {200}
        assert proxy.asked[before:].count("a") == 1


async def together(proxy: Several, number: int) -> list[Answer]:
    return list(await asyncio.gather(*(proxy.ask() for _ in range(number))))


async def state_of(proxy: Several, name: str) -> str:
    """The state of an endpoint's breaker, of the only model that was asked for."""
    found = await samples(proxy.app, "glm_proxy_breaker_state")
    states = [had["state"] for had, value in found if had["endpoint"] == name and value]
    assert len(states) == 1
    return states[0]


async def until_state(proxy: Several, name: str, state: str) -> None:
    async with asyncio.timeout(5):
        while await state_of(proxy, name) != state:
            await asyncio.sleep(0.01)


async def test_with_every_breaker_open_the_caller_is_told_when_to_come_again(
    tmp_path: Path,
) -> None:
    attempts: dict[str, Any] = {"breaker": BREAKER | {"open_for": "20s"}}
    async with several(tmp_path, "ab", attempts=attempts) as proxy:
        proxy.inject(Fault(code="1234"), times=None)
        for _ in range(3):
            assert (await proxy.ask()).status == 500
        asked = len(proxy.entries)
        answer = await proxy.ask()
        assert len(proxy.entries) == asked
        assert (answer.status, answer.json()["error"]["code"]) == (503, "no_candidate")
        assert 15 <= int(answer.headers["retry-after"]) <= 24


async def test_the_only_endpoint_comes_back_by_its_probe(tmp_path: Path) -> None:
    async with several(tmp_path, **ONCE) as proxy:
        proxy.inject(Fault(status=500), times=3)
        assert [(await proxy.ask()).status for _ in range(4)] == [500, 500, 500, 503]
        assert len(proxy.entries) == 3
        await until_state(proxy, "a", "half_open")
        assert (await proxy.ask()).status == 200
        assert await state_of(proxy, "a") == "closed"


@pytest.mark.parametrize("code", ["1210", "1301", "1113", "1302", "1305"])
@pytest.mark.parametrize("names", ["a", "ab"], ids=["one", "two"])
async def test_what_is_the_callers_fault_or_limit_opens_no_breaker(
    tmp_path: Path, code: str, names: str
) -> None:
    settings: dict[str, Any] = {"admission": {"limit": "off"}, **ONCE}
    async with several(tmp_path, names, **settings) as proxy:
        proxy.inject(Fault(code=code), times=5)
        for _ in range(5):
            assert (await proxy.ask()).status in (400, 429)
        answer = await proxy.ask()
        assert (answer.status, answer.headers["x-glm-proxy-endpoint"]) == (200, "a")


async def test_callers_who_leave_open_no_breaker(tmp_path: Path) -> None:
    async with several(tmp_path, **ONCE) as proxy:
        ledger = proxy.endpoints["a"].ledger
        for _ in range(5):
            async with RawClient(proxy.app.data_address) as client:
                client.post(CHAT, chat(simulate={"stall_at_event": 3}), CALLER)
                await client.head()
            await ledger.until(lambda ledger: ledger[-1].cancelled is not None)
        assert (await proxy.ask()).status == 200


# --- failover ----------------------------------------------------------------------------------

FAILURES: Final = {
    "5xx": Fault(status=502, html=True),
    "500": Fault(code="1234"),
    "529": Fault(status=529),
    "silent 200": Fault(stall_at_event=0),
    "no head": Fault(no_headers=True),
    "reset": Fault(no_headers=True, ending=Ending.RESET),
    "closed": Fault(no_headers=True, ending=Ending.CLOSE),
    "error event": Fault(code="1234", error_at_event=0),
    "empty stream": Fault(empty=True),
    "only comments": Fault(raw=b": hello\n\n: hello\n\n"),
    "html": Fault(html=True),
    "json": Fault(raw=b"{}", headers=(("content-type", "application/json"),)),
    "network_error": Fault(finish_reason="network_error", tokens=0, thinking_tokens=0),
    "cut at once": Fault(cut_at_event=0),
    "bad gzip": Fault(headers=(("content-encoding", "br"),)),
    "too late": Fault(first_token=20.0),
}


@pytest.fixture(scope="module", params=["http1", "h2"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("failure", FAILURES)
async def test_a_failure_before_the_first_token_is_followed_by_the_next_candidate(
    tmp_path: Path, failure: str, protocol: str
) -> None:
    pool = {"http2": "always" if protocol == "h2" else "off"}
    timeouts = {"first_token": "600ms"}
    async with several(tmp_path, "ab", pool=pool, timeouts=timeouts) as proxy:
        proxy.inject(FAILURES[failure], on="a")
        answer = await proxy.ask(within=3)
        assert proxy.asked == ["a", "b"]
        assert answer.status == 200
        assert answer.clean
        assert b"error" not in answer.body
        assert answer.headers["x-glm-proxy-attempts"] == "2"
        assert answer.headers["x-glm-proxy-endpoint"] == "b"
        counted = await proxy.figure("glm_proxy_failovers_total")
        assert counted == 1
        lost = proxy.entries[0][1]
        await proxy.endpoints["a"].ledger.until(lambda _: not lost.open)


@asynccontextmanager
async def with_backup(
    folder: Path, first: dict[str, Any], **settings: Any
) -> AsyncIterator[tuple[Any, Simulator]]:
    """A proxy with a troublesome endpoint, and a good one behind it."""
    async with Simulator(SimulatorSettings(tls_port=None)) as good:
        endpoints = [{"name": "a", **first}, {"name": "b", "base_url": good.http_url}]
        async with running(folder, {"endpoints": endpoints, **settings}) as app:
            yield app, good


async def served_by_backup(folder: Path, first: dict[str, Any], **settings: Any) -> float:
    """Seconds that it took."""
    async with with_backup(folder, first, **settings) as (app, good):
        began = time.monotonic()
        answer = await asyncio.wait_for(ask(app.data_address, CHAT, chat(), CALLER), 5)
        took = time.monotonic() - began
        assert (answer.status, answer.clean, len(good.ledger)) == (200, True, 1)
        assert answer.headers["x-glm-proxy-endpoint"] == "b"
    return took


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_refused_connection_is_followed_by_the_next_candidate(
    tmp_path: Path, scheme: str
) -> None:
    assert await served_by_backup(tmp_path, {"base_url": f"{scheme}://127.0.0.1:9"}) < 0.5


async def test_a_certificate_of_somebody_else_is_followed_by_the_next_candidate(
    tmp_path: Path,
) -> None:
    async def script(call: Call) -> None:
        raise AssertionError("nothing may be sent")

    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    async with ScriptedUpstream(script, h2=True) as upstream:
        first = {"base_url": upstream.url, "ca_file": str(other)}
        assert await served_by_backup(tmp_path, first) < 0.5


async def test_a_refused_stream_is_followed_by_the_next_candidate(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        call.finish("refused_late")  # REFUSED_STREAM, before any head

    async with ScriptedUpstream(script, h2=True) as upstream:
        first = {"base_url": upstream.url, "ca_file": str(upstream.write_ca(tmp_path))}
        assert await served_by_backup(tmp_path, first) < 0.5
        assert len(upstream.calls) == 1


@contextmanager
def never_accepts() -> Iterator[int]:
    """A port whose TLS handshake is never answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener.getsockname()[1]


async def test_a_handshake_that_is_not_answered_costs_the_connect_deadline(tmp_path: Path) -> None:
    with never_accepts() as port:
        first = {"base_url": f"https://127.0.0.1:{port}"}
        took = await served_by_backup(tmp_path, first, timeouts={"connect": "300ms"})
    assert 0.28 < took < 0.6


async def test_the_last_candidate_keeps_its_patience(tmp_path: Path) -> None:
    async with several(tmp_path, "ab", timeouts={"first_token": "150ms"}) as proxy:
        proxy.inject(Fault(stall_at_event=0), on="a")
        proxy.inject(Fault(first_token=0.6), on="b")
        answer = await proxy.ask()
        assert (answer.status, answer.clean) == (200, True)
        assert proxy.asked == ["a", "b"]


async def test_a_role_alone_is_no_token_while_another_candidate_could_take_over(
    tmp_path: Path,
) -> None:
    """Its first event opens the answer, and then it is silent."""
    opened = orjson.dumps({"id": "1", "choices": [{"index": 0, "delta": {"role": "assistant"}}]})
    stall = Fault(raw=b"data: " + opened + b"\n\n", ending=Ending.HOLD)
    async with several(tmp_path, "ab", timeouts={"first_token": "200ms"}) as proxy:
        proxy.inject(stall, on="a")
        answer = await proxy.ask()
        assert proxy.asked == ["a", "b"]
        assert answer.clean
        assert opened not in answer.body


async def test_when_every_candidate_fails_the_last_failure_is_told(tmp_path: Path) -> None:
    async with several(tmp_path, "abc") as proxy:
        for name, code in zip("abc", ("1234", "1200", "1230"), strict=True):
            proxy.inject(Fault(code=code), on=name)
        answer = await proxy.ask()
        assert proxy.asked == ["a", "b", "c"]
        assert (answer.status, answer.json()["error"]["code"]) == (500, "1230")
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers["x-glm-proxy-attempts"] == "3"


async def test_an_endpoint_that_goes_down_is_left_and_used_again_when_it_is_up(
    tmp_path: Path,
) -> None:
    attempts: dict[str, Any] = {"breaker": BREAKER}
    async with several(tmp_path, "ab", attempts=attempts) as proxy:
        assert (await proxy.ask()).headers["x-glm-proxy-endpoint"] == "a"
        await proxy.endpoints["a"].go_down()
        for _ in range(8):
            answer = await proxy.ask()
            assert (answer.status, answer.headers["x-glm-proxy-endpoint"]) == (200, "b")
        await proxy.endpoints["a"].come_up()
        async with asyncio.timeout(8):
            while (await proxy.ask()).headers["x-glm-proxy-endpoint"] != "a":
                await asyncio.sleep(0.02)
