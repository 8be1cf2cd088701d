"""Causes that need a running simulator: connections, keys beside each other, the line, outages."""

from __future__ import annotations

import asyncio
import ssl
import time
from itertools import pairwise
from typing import Any

import aiohttp
import pytest

from proxy.simulator import Simulator
from tests.simulator.conftest import Simulate
from tests.simulator.peers import CHAT, chat

HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "你好"}]}


async def ask(
    url: str, key: str = "k", tls: ssl.SSLContext | None = None, **fields: Any
) -> tuple[int, str]:
    """Status and body of a request on a connection of its own."""
    headers = {"authorization": f"Bearer {key}"}
    connector = aiohttp.TCPConnector(ssl=tls or True, force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector, headers=headers) as http,
        http.post(url + CHAT, json=chat(**fields)) as response,
    ):
        return response.status, await response.text()


def took(sim: Simulator, index: int) -> float:
    """Seconds from a request's arrival to its first event."""
    entry = sim.ledger[index]
    assert entry.first_event is not None
    return entry.first_event - entry.arrived


async def test_a_new_tls_connection_costs_the_way_there_and_back_and_one_that_is_there_nothing(
    simulate: Simulate,
) -> None:
    sim = await simulate(profile="lumosai", time_scale=1.0, gap=0.0)
    assert sim.https_url is not None
    trust = ssl.create_default_context(cafile=sim.ca_file)
    headers = {"authorization": "Bearer k"}
    fault: dict[str, Any] = {
        "simulate": {"first_token": 0.0, "gap": 0.0, "tokens": 1},
        "model": "glm-4-flash",
    }
    connector = aiohttp.TCPConnector(ssl=trust)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as http:
        for _ in range(2):
            async with http.post(sim.https_url + CHAT, json=chat(**fault)) as response:
                await response.read()
    await ask(sim.http_url, **fault)
    assert len({entry.connection.number for entry in sim.ledger}) == 2
    fresh, kept, plain = (took(sim, index) for index in range(3))
    assert fresh > 0.1
    assert kept < 0.1
    assert plain < 0.1


async def test_the_nth_request_of_each_key_waits_for_the_same_things(simulate: Simulate) -> None:
    sim = await simulate(profile="tail", time_scale=0.05)
    for n in range(4):
        await ask(sim.http_url, "first", **HELLO)
        if n % 2:
            await ask(sim.http_url, "other", **HELLO)
            await ask(sim.http_url, "other", **HELLO)
    times: dict[str | None, list[float]] = {}
    for index, entry in enumerate(sim.ledger):
        times.setdefault(entry.header("authorization"), []).append(took(sim, index))
    assert times["Bearer first"] == pytest.approx(times["Bearer other"], abs=0.01)
    assert all(abs(a - b) > 1e-4 for a, b in pairwise(times["Bearer first"]))


async def test_long_prompts_stand_in_line_and_short_ones_do_not(simulate: Simulate) -> None:
    sim = await simulate(profile="lumosai", time_scale=0.02)
    long: dict[str, Any] = {"messages": [{"role": "user", "content": "词" * 20_000}]}
    await ask(sim.http_url, model="glm-4-flash", **long)
    await ask(sim.http_url, model="glm-4-flash", **HELLO)
    await ask(sim.http_url, model="glm-4.5-air", thinking={"type": "disabled"}, **long)
    in_line, short, elsewhere = (took(sim, index) / 0.02 for index in range(3))
    assert in_line > 8
    assert short < 6
    assert elsewhere < in_line


async def test_one_key_may_have_200_in_flight_in_tail(simulate: Simulate) -> None:
    sim = await simulate(profile="tail", time_scale=0.0)
    holding: dict[str, Any] = {"simulate": {"no_headers": True}}
    held = [asyncio.create_task(ask(sim.http_url, **HELLO, **holding)) for _ in range(200)]
    await sim.ledger.until(lambda ledger: sum(e.accepted is not None for e in ledger) == 200)
    status, body = await ask(sim.http_url, **HELLO)
    assert (status, '"1302"' in body) == (429, True)
    assert (await ask(sim.http_url, "another", **HELLO))[0] == 200
    for task in held:
        task.cancel()
    await asyncio.gather(*held, return_exceptions=True)


async def test_another_profile_can_be_used_from_now_on(simulate: Simulate) -> None:
    sim = await simulate(profile="tail", time_scale=0.01)
    await ask(sim.http_url, **HELLO)
    sim.use("slow")
    await ask(sim.http_url, **HELLO)
    assert took(sim, 0) < 0.06 <= took(sim, 1)
    with pytest.raises(KeyError):
        sim.use("none")


async def test_a_service_that_is_down_refuses_and_breaks_what_runs_until_it_is_up(
    simulate: Simulate,
) -> None:
    sim = await simulate(profile="slow")
    running = asyncio.create_task(ask(sim.http_url, **HELLO))
    await sim.ledger.until(lambda ledger: ledger[0].accepted is not None)
    await sim.go_down()
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await running
    assert sim.https_url is not None
    for url in (sim.http_url, sim.https_url):
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(url, **HELLO)
    sim.use("instant")
    await sim.come_up()
    began = time.monotonic()
    assert (await ask(sim.http_url, **HELLO))[0] == 200
    trust = ssl.create_default_context(cafile=sim.ca_file)
    assert (await ask(sim.https_url, tls=trust, **HELLO))[0] == 200
    assert time.monotonic() - began < 5


async def test_glm_5_3_flash_cannot_switch_thinking_off(simulate: Simulate) -> None:
    sim = await simulate()
    status, body = await ask(sim.http_url, model="glm-5.3-flash", thinking={"type": "disabled"})
    assert status == 400
    assert '"1210"' in body
