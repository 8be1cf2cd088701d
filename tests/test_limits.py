"""The upstream's limit of requests in flight, as callers meet it through a whole proxy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import pytest

from proxy.simulator import Fault, SimulatorSettings
from tests.fakes.raw_client import RawClient, chat
from tests.fakes.running import outcomes
from tests.fakes.several import CHAT, Several, account, several

SERVICE: Final = 0.06
"""Seconds that the upstream takes for an answer."""
ANSWER: Final[dict[str, Any]] = {
    "simulate": {"first_token": SERVICE, "gap": 0, "tokens": 2, "thinking_tokens": 0}
}
LIMIT: Final = 2
MODEL: Final = "glm-4.6"


def limited(limit: int = LIMIT) -> SimulatorSettings:
    return SimulatorSettings(tls_port=None, in_flight=limit)


async def ask_in_turn(proxy: Several, caller: int, times: int) -> list[tuple[int, float]]:
    """One caller, who asks again when it is answered: statuses and seconds."""
    found = []
    async with RawClient(proxy.app.data_address) as client:
        for _ in range(times):
            began = time.monotonic()
            client.post(CHAT, chat(**ANSWER), f"Authorization: Bearer caller{caller}.secret")
            answer = await client.whole()
            found.append((answer.status, time.monotonic() - began))
    return found


async def crowd(proxy: Several, callers: int, times: int) -> list[list[tuple[int, float]]]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(ask_in_turn(proxy, one, times)) for one in range(callers)]
    return [task.result() for task in tasks]


def refused(proxy: Several) -> int:
    return sum(entry.status == 429 for _, entry in proxy.entries)


def share_of_ideal(proxy: Several, limit: int) -> float:
    """Of the answers that so many places could have given in the same time."""
    good = [entry for _, entry in proxy.entries if entry.status == 200]
    spans = [(entry.finished or 0.0) - entry.arrived for entry in good]
    took = max(entry.finished or 0.0 for entry in good) - min(entry.arrived for entry in good)
    return len(good) / took / (limit / fmean(spans))


def unfairness(waits: Sequence[Sequence[tuple[int, float]]]) -> float:
    """How many times as long the one who waited longest waited as the one who waited least."""
    means = [fmean(seconds for _, seconds in one) for one in waits]
    return max(means) / min(means)


@pytest.mark.parametrize("http2", ["off", "always"], ids=["http1", "h2"])
async def test_fifty_callers_of_a_key_that_runs_two_never_see_its_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], http2: str
) -> None:
    settings: dict[str, Any] = {"admission": {"wait": "30s"}, "pool": {"http2": http2}}
    async with several(tmp_path, simulators=limited(), **settings) as proxy:
        waits = await crowd(proxy, 50, 3)
        assert {status for one in waits for status, _ in one} == {200}
        learned = await proxy.figure("glm_proxy_admission_limit", endpoint="a")
        share, unfair = share_of_ideal(proxy, LIMIT), unfairness(waits)
        with capsys.disabled():
            print(
                f"\n50 callers, 2 places: {share:.1%} of the ideal throughput,"
                f" {refused(proxy)} refusals for {len(proxy.entries)} calls,"
                f" longest mean wait {unfair:.2f} times the shortest"
            )
        assert learned == LIMIT
        assert share >= 0.8
        assert unfair < 2
        # Those that came before anything was known, and a few that looked for more.
        assert refused(proxy) < 50 + 20


@pytest.mark.parametrize(
    ("limit", "most"), [(3, 3), ("model", 2), ("off", 10)], ids=["number", "model", "off"]
)
async def test_the_settings_say_how_many_run(tmp_path: Path, limit: Any, most: int) -> None:
    records = tmp_path / "models.yaml"
    record = "{family: glm-4.6, rank: 460, thinking: toggle, in_flight: 2}"
    records.write_text(f"models: {{glm-4.6: {record}}}", encoding="utf-8")
    settings: dict[str, Any] = {"admission": {"limit": limit}, "models_file": str(records)}
    async with several(tmp_path, **settings) as proxy:
        waits = await crowd(proxy, 10, 2)
        assert {status for one in waits for status, _ in one} == {200}
        assert most_at_once(proxy) == most
        if limit != "off":
            assert await proxy.figure("glm_proxy_admission_limit", endpoint="a") == most


def most_at_once(proxy: Several) -> int:
    changes = []
    for _, entry in proxy.entries:
        changes += [(entry.arrived, 1), (entry.finished or entry.cancelled or 0.0, -1)]
    most = running = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most


async def test_without_admission_the_upstreams_limit_reaches_the_caller(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"admission": {"limit": "off"}, "attempts": {"retries": 0}}
    async with several(tmp_path, simulators=limited(), **settings) as proxy:
        waits = await crowd(proxy, 5, 1)
        assert sorted(status for one in waits for status, _ in one) == [200, 200, 429, 429, 429]


async def test_two_keys_run_twice_as_many(tmp_path: Path) -> None:
    async with several(tmp_path, keys=2, simulators=limited()) as proxy:
        waits = await crowd(proxy, 12, 6)
        assert {status for one in waits for status, _ in one} == {200}
        assert share_of_ideal(proxy, 2 * LIMIT) >= 0.75  # one key alone could come to 0.5
        answered = [account(entry) for _, entry in proxy.entries if entry.status == 200]
        assert abs(answered.count("a1") - answered.count("a2")) < len(answered) / 5


async def test_callers_with_keys_of_their_own_do_not_wait_for_each_other(tmp_path: Path) -> None:
    async with several(tmp_path, keys=0, simulators=limited(1)) as proxy:
        began = time.monotonic()
        waits = await crowd(proxy, 10, 2)
        assert {status for one in waits for status, _ in one} == {200}
        assert time.monotonic() - began < 6 * SERVICE
        assert refused(proxy) == 0


HELD: Final[dict[str, Any]] = {"simulate": {"no_headers": True}}


async def hold_places(proxy: Several, stack: AsyncExitStack, number: int) -> list[RawClient]:
    """So many callers whose requests are never answered, in flight at the upstream."""
    before = len(proxy.entries)
    clients = []
    for _ in range(number):
        client = await stack.enter_async_context(RawClient(proxy.app.data_address))
        client.post(CHAT, chat(**HELD), "Authorization: Bearer holder.secret")
        clients.append(client)
    ledger = proxy.endpoints["a"].ledger
    await ledger.until(lambda ledger: len(ledger) >= before + number)
    return clients


async def test_who_would_wait_too_long_is_told_so_at_once(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"admission": {"limit": LIMIT, "wait": "100ms"}}
    async with several(tmp_path, **settings) as proxy:
        await crowd(proxy, 1, 3)  # so long takes an answer
        waiting = asyncio.create_task(crowd(proxy, 6, 1))
        await proxy.endpoints["a"].ledger.until(lambda ledger: len(ledger.open) == LIMIT)
        began = time.monotonic()
        answer = await proxy.ask(body=chat(**ANSWER))
        took = time.monotonic() - began
        assert answer.status == 429
        assert answer.json()["error"]["code"] == "admission_refused"
        assert int(answer.headers["retry-after"]) >= 1
        assert took < 0.05
        await waiting


async def test_who_waits_in_vain_is_told_at_the_deadline(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"admission": {"limit": 1, "wait": "300ms"}}
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(several(tmp_path, **settings))
        await hold_places(proxy, stack, 1)
        began = time.monotonic()
        answer = await proxy.ask()
        took = time.monotonic() - began
        assert (answer.status, answer.json()["error"]["code"]) == (429, "admission_refused")
        assert int(answer.headers["retry-after"]) >= 1
        assert 0.28 < took < 0.5
        assert len(proxy.entries) == 1


async def test_a_full_candidate_gives_way_to_the_next(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"admission": {"limit": 1, "wait": "200ms"}}
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(several(tmp_path, "ab", **settings))
        await hold_places(proxy, stack, 1)
        answer = await proxy.ask()
        assert answer.status == 200
        assert proxy.asked == ["a", "b"]


PHASES: Final[dict[str, dict[str, Any]]] = {
    "queued": {},
    "sent": {"no_headers": True},
    "silent": {"stall_at_event": 0},
    "flowing": {"gap": 0.02, "tokens": 1000},
    "pausing": {"code": "1234", "headers": [["retry-after", "30"]]},
}


@pytest.mark.parametrize("phase", PHASES)
async def test_who_leaves_gives_its_place_back(tmp_path: Path, phase: str) -> None:
    settings: dict[str, Any] = {"admission": {"limit": 2, "wait": "5s"}}
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(several(tmp_path, **settings))
        held = await hold_places(proxy, stack, 2 if phase == "queued" else 1)
        async with RawClient(proxy.app.data_address) as leaving:
            leaving.post(CHAT, chat(simulate=PHASES[phase]), "Authorization: Bearer l.secret")
            await reached(proxy, leaving, phase)
        if phase == "queued":
            held[0].writer.close()
        began = time.monotonic()
        assert (await proxy.ask()).status == 200
        assert time.monotonic() - began < 0.5
        for client in held:
            client.writer.close()
        await until_figure(proxy, "glm_proxy_admission_in_flight", 0)
        assert await proxy.figure("glm_proxy_admission_waiting", endpoint="a") == 0
        left = 3 if phase == "queued" else 2
        await until_figure(proxy, "glm_proxy_client_leaves_total", left)
        assert (await outcomes(proxy.app))["client_gone"] == left


async def reached(proxy: Several, client: RawClient, phase: str) -> None:
    """Returns when the client's request is in that phase."""
    ledger = proxy.endpoints["a"].ledger
    match phase:
        case "queued":
            await until_figure(proxy, "glm_proxy_admission_waiting", 1)
        case "flowing":
            await client.head()
            await client.chunk()
        case "silent":
            await ledger.until(lambda ledger: ledger[1].headers_sent is not None)
        case "pausing":
            await ledger.until(lambda ledger: ledger[1].finished is not None)
            await until_figure(proxy, "glm_proxy_admission_in_flight", 1)
        case _:
            await ledger.until(lambda ledger: len(ledger) == 2)


async def until_figure(proxy: Several, name: str, value: float) -> None:
    async with asyncio.timeout(5):
        while await proxy.figure(name) != value:
            await asyncio.sleep(0)


async def test_a_place_that_becomes_free_is_used_at_once(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"admission": {"limit": 1}}
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(several(tmp_path, **settings))
        held = await hold_places(proxy, stack, 1)
        waiting = asyncio.create_task(proxy.ask())
        await until_figure(proxy, "glm_proxy_admission_waiting", 1)
        began = time.monotonic()
        held[0].writer.close()
        assert (await waiting).status == 200
        assert proxy.entries[-1][1].arrived - began < 0.1


async def test_each_ending_gives_its_place_back_once(tmp_path: Path) -> None:
    faults = [
        Fault(code="1210"),
        Fault(code="1302"),
        Fault(code="1305"),
        Fault(code="1234", error_at_event=0),
        Fault(empty=True),
        Fault(html=True),
        Fault(cut_at_event=0),
        Fault(cut_at_event=9),
        Fault(no_headers=True),
        Fault(finish_reason="network_error", tokens=0),
    ]
    settings: dict[str, Any] = {
        "admission": {"limit": 1, "wait": "5s"},
        "timeouts": {"first_token": "200ms"},
        "attempts": {"breaker": "off"},
    }
    async with several(tmp_path, **settings) as proxy:
        for fault in faults:
            proxy.inject(fault)
            await proxy.ask()
            assert await proxy.figure("glm_proxy_admission_in_flight") == 0, fault.text()
        assert (await proxy.ask()).status == 200


async def test_who_waits_for_a_place_when_the_proxy_stops_is_told(tmp_path: Path) -> None:
    async with several(tmp_path, admission={"limit": 1}) as proxy:
        proxy.inject(Fault(stall_at_event=1))
        running_one = asyncio.create_task(proxy.ask())
        await proxy.endpoints["a"].ledger.until(lambda ledger: ledger[0].events >= 1)
        waiting = asyncio.create_task(proxy.ask())
        while not await proxy.figure("glm_proxy_admission_waiting"):
            await asyncio.sleep(0.01)
        await proxy.app.stop(0)
        told = await waiting
        assert (told.status, told.json()["error"]["code"]) == (503, "proxy_draining")
        assert b"proxy_draining" in (await running_one).body
