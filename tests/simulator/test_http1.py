"""HTTP/1.1 on the wire: connections that stay, clients that leave, and clients that misbehave."""

from __future__ import annotations

import asyncio
import time

import aiohttp
import orjson
import pytest

from proxy.simulator import Fault, Simulator
from proxy.simulator.glm import Glm
from tests.simulator.conftest import Simulate
from tests.simulator.peers import (
    CHAT,
    GUARD,
    address,
    ask_raw,
    chat,
    connected,
    events,
    raw_request,
    read_all,
    trusting,
)

Session = aiohttp.ClientSession
BODY = orjson.dumps(chat())
NOT_STREAMED = orjson.dumps(chat(stream=False))


async def test_one_event_is_one_chunk(simulate: Simulate, http: Session) -> None:
    sim = await simulate()
    async with http.post(sim.http_url + CHAT, json=chat()) as response:
        chunks = [chunk async for chunk, whole in response.content.iter_chunks() if whole]
    assert len(chunks) == 26
    assert all(chunk.startswith(b"data: ") and chunk.endswith(b"\n\n") for chunk in chunks)


async def test_requests_sent_ahead_are_answered_in_turn(simulate: Simulate) -> None:
    sim = await simulate()
    ask = raw_request(CHAT, NOT_STREAMED)
    async with connected(sim.http_url) as (reader, writer):
        writer.write(ask + ask + raw_request("/", method="GET", headers="connection: close\r\n"))
        got, end = await read_all(reader)
    assert got.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert got.endswith(b'{"code":500,"msg":"404 NOT_FOUND"}')
    assert end == "eof"
    assert [e.connection.number for e in sim.ledger] == [1, 1, 1]


async def test_a_request_may_come_byte_by_byte(simulate: Simulate) -> None:
    sim = await simulate()
    async with connected(sim.http_url) as (reader, writer):
        for byte in raw_request(CHAT, BODY, headers="connection: close\r\n"):
            writer.write(bytes((byte,)))
            await writer.drain()
        got, _ = await read_all(reader)
    assert got.endswith(b"0\r\n\r\n")


async def test_a_client_that_waits_for_100_continue_gets_it(simulate: Simulate) -> None:
    sim = await simulate()
    ask = raw_request(CHAT, NOT_STREAMED, headers="expect: 100-continue\r\n")
    head, blank, body = ask.partition(b"\r\n\r\n")
    async with connected(sim.http_url) as (reader, writer), asyncio.timeout(GUARD):
        writer.write(head + blank)
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")


async def test_an_old_client_gets_no_chunks(simulate: Simulate) -> None:
    sim = await simulate()
    got, end = await ask_raw(sim.http_url, raw_request(CHAT, BODY, version="1.0"))
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert body.endswith(b"data: [DONE]\n\n")
    assert end == "eof"


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (raw_request(CHAT, b"x" * 200), b"413"),
        (b"GET / HTTP/1.1\r\na: " + b"x" * 70_000, b"431"),
    ],
)
async def test_what_is_no_request_is_refused_and_the_connection_closed(
    simulate: Simulate, request_bytes: bytes, status: bytes
) -> None:
    sim = await simulate(body_limit=100)
    async with connected(sim.http_url) as (reader, writer):
        writer.write(request_bytes)
        await sim.ledger.until(lambda ledger: len(ledger.connections) == 1)
        async with asyncio.timeout(GUARD):
            got = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"more nonsense\r\n\r\n")
        writer.write_eof()
        rest, end = await read_all(reader)
    assert got.startswith(b"HTTP/1.1 " + status)
    assert rest == b""
    assert end == "eof"


# --- clients that leave ----------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    "fault", [{"no_headers": True}, {"stall_at_event": 2}, {"gap": 0.05, "tokens": 1000}]
)
async def test_a_client_that_leaves_is_noticed_at_once(
    simulate: Simulate, tls: bool, fault: dict[str, object]
) -> None:
    sim = await simulate()
    url = sim.https_url if tls else sim.http_url
    assert url is not None
    async with connected(url, trusting(sim) if tls else None) as (_, writer):
        writer.write(raw_request(CHAT, orjson.dumps(chat(simulate=fault))))
        wanted = 0 if "no_headers" in fault else 2
        await sim.ledger.until(
            lambda ledger: (
                len(ledger) == 1 and ledger[0].accepted is not None and ledger[0].events >= wanted
            )
        )
        left = time.monotonic()
    await sim.ledger.until(lambda ledger: ledger.connections[0].closed is not None)
    entry = sim.ledger[0]
    assert entry.cancelled_by == "closed"
    assert entry.finished is None
    assert entry.cancelled is not None
    assert entry.cancelled - left < 0.5
    assert not sim.ledger.open


async def test_a_client_that_stops_half_way_through_its_request_is_noticed(
    simulate: Simulate,
) -> None:
    sim = await simulate()
    async with connected(sim.http_url) as (_, writer):
        writer.write(raw_request(CHAT, BODY)[:-10])
        await sim.ledger.until(lambda ledger: len(ledger) == 1 and ledger[0].body_size > 0)
    await sim.ledger.until(lambda ledger: ledger[0].cancelled is not None)
    assert sim.ledger[0].accepted is None


async def test_a_slow_client_holds_the_answer_back(simulate: Simulate) -> None:
    """Back-pressure: what is not read is not written either."""
    sim = await simulate()
    sim.inject(Fault(raw=(b"data: " + b"x" * 50_000 + b"\n\n") * 1000))
    async with connected(sim.http_url) as (reader, writer):
        writer.write(raw_request(CHAT, BODY))
        await sim.ledger.until(lambda ledger: len(ledger) == 1 and ledger[0].events > 10)
        written = -1
        while written != sim.ledger[0].events:
            written = sim.ledger[0].events
            await asyncio.sleep(0.05)
        assert written < 900
        async with asyncio.timeout(GUARD):
            while sim.ledger[0].events == written:
                await reader.read(1 << 20)


# --- connections that end ----------------------------------------------------------------------


async def test_an_idle_connection_closes_after_its_time(simulate: Simulate) -> None:
    sim = await simulate(keepalive_timeout=0.05)
    async with connected(sim.http_url) as (reader, writer):
        writer.write(raw_request(CHAT, NOT_STREAMED))
        got, end = await read_all(reader)
    assert b"200 OK" in got
    assert end == "eof"
    assert sim.ledger[0].finished is not None


async def test_an_early_answer_comes_before_the_body_is_sent(simulate: Simulate) -> None:
    sim = await simulate()
    sim.inject(Fault(early=1024, status=413))
    ask = raw_request(CHAT, b"x" * 1_000_000)
    async with connected(sim.http_url) as (reader, writer):
        writer.write(ask[:2048])
        async with asyncio.timeout(GUARD):
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in head.lower()
        assert b'"code"' in await reader.read(1000)
        writer.write(ask[2048:])
        async with asyncio.timeout(GUARD):
            await writer.drain()  # it is thrown away; closing at once would destroy the answer
        assert sim.ledger.connections[0].closed is None
    assert sim.ledger[0].body_size < 3000


async def test_a_defect_is_told_and_ends_the_connection(
    simulate: Simulate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Glm, "serve", broken)
    sim = await simulate()
    got, _ = await ask_raw(sim.http_url, raw_request(CHAT, BODY))
    assert got == b""
    (told,) = caplog.records
    assert told.exc_info is not None
    caplog.clear()


async def test_leaving_the_simulator_ends_what_is_running() -> None:
    async with Simulator() as sim:
        reader, writer = await asyncio.open_connection(*address(sim.http_url))
        writer.write(raw_request(CHAT, orjson.dumps(chat(simulate={"stall_at_event": 1}))))
        await sim.ledger.until(lambda ledger: len(ledger) == 1 and ledger[0].events == 1)
        ca_file = sim.ca_file
        assert ca_file is not None
        assert ca_file.exists()
    _, end = await read_all(reader)
    assert end in {"eof", "reset"}
    assert not ca_file.exists()
    writer.close()


async def test_tls_speaks_http_1_1_to_those_who_offer_nothing_else(
    simulate: Simulate, http: Session
) -> None:
    for sim in (await simulate(), await simulate(http1_only=True)):
        context = trusting(sim, "http/1.1")
        async with http.post(f"{sim.https_url}{CHAT}", json=chat(), ssl=context) as response:
            assert len(events(await response.read())) == 26
            assert "Strict-Transport-Security" in response.headers
        assert sim.ledger[0].protocol == "http/1.1"
        assert sim.ledger[0].connection.tls


async def test_a_stranger_does_not_trust_the_certificate(simulate: Simulate, http: Session) -> None:
    sim, other = await simulate(), await simulate()
    with pytest.raises(aiohttp.ClientConnectorCertificateError):
        await http.get(f"{sim.https_url}/", ssl=trusting(other))
