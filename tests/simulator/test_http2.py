"""HTTP/2 on the wire, against the h2 package as client."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import orjson
import pytest

from proxy.simulator import Fault
from tests.simulator.conftest import Simulate
from tests.simulator.peers import CHAT, H2Client, address, chat, chunks, events, h2_client

HOLD = {"stall_at_event": 1}
REFUSED_STREAM = 7
CANCEL = 8


@pytest.mark.parametrize("tls", [True, False])
async def test_a_stream_comes_by_alpn_or_prior_knowledge(simulate: Simulate, tls: bool) -> None:
    sim = await simulate()
    async with h2_client(sim, tls=tls) as client:
        stream = client.ask()
        body = await client.answer(stream)
    head = client.heads[stream]
    assert head[":status"] == "200"
    assert head["content-type"] == "text/event-stream;charset=UTF-8"
    assert head["x-log-id"] == chunks(body)[0]["id"]
    assert events(body)[-1] == "[DONE]"
    entry = sim.ledger[0]
    assert (entry.protocol, entry.stream, entry.connection.tls) == ("h2", 1, tls)
    assert entry.header("host") == "x"


async def test_one_event_is_one_frame(simulate: Simulate) -> None:
    sim = await simulate()
    async with h2_client(sim) as client:
        stream = client.ask()
        await client.answer(stream)
    frames = [frame for frame in client.frames[stream] if frame]
    assert len(frames) == 26
    assert all(frame.endswith(b"\n\n") for frame in frames)


async def test_many_streams_share_a_connection(simulate: Simulate) -> None:
    sim = await simulate(tokens=50)
    async with h2_client(sim) as client:
        streams = [client.ask() for _ in range(100)]
        bodies = [await client.answer(stream) for stream in streams]
    assert all(len(events(body)) == 52 for body in bodies)
    assert len(sim.ledger.connections) == 1
    assert sim.ledger.connections[0].requests == 100


async def test_a_plain_answer_has_its_length(simulate: Simulate) -> None:
    sim = await simulate()
    async with h2_client(sim) as client:
        stream = client.send(CHAT, orjson.dumps(chat(stream=False)))
        body = await client.answer(stream)
    assert int(client.heads[stream]["content-length"]) == len(body)


# --- flow control --------------------------------------------------------------------------------


async def test_a_window_that_is_used_up_stops_one_stream_only(simulate: Simulate) -> None:
    sim = await simulate()
    async with h2_client(sim, window=False) as client:
        client.h2.increment_flow_control_window(1 << 20)
        big = client.ask(simulate={"tokens": 2000})
        await client.until(lambda c: len(c.bodies[big]) == 65535)
        small = client.ask()
        assert len(events(await client.answer(small))) == 26
        assert len(client.bodies[big]) == 65535
        assert sim.ledger[0].events < 400

        client.h2.increment_flow_control_window(1 << 20, big)
        client.flush()
        assert len(events(await client.answer(big))) == 2002


async def test_the_connections_window_stops_all_and_opens_all(simulate: Simulate) -> None:
    sim = await simulate()
    async with h2_client(sim, window=False) as client:
        streams = [client.ask(simulate={"tokens": 200}) for _ in range(3)]
        await client.until(lambda c: sum(map(len, c.bodies.values())) == 65535)
        assert not client.ended.issuperset(streams)
        client.h2.increment_flow_control_window(1 << 20)
        client.flush()
        assert [len(events(await client.answer(s))) for s in streams] == [202] * 3


async def test_an_upload_larger_than_every_window_arrives(simulate: Simulate) -> None:
    sim = await simulate()
    content = b"x" * 300_000
    body = (
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'
        + content
        + b"\r\n--b--\r\n"
    )
    async with h2_client(sim) as client:
        stream = client.h2.get_next_available_stream_id()
        head = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", "x"),
            (":path", "/api/paas/v4/files"),
            ("content-type", "multipart/form-data; boundary=b"),
            ("authorization", "Bearer id"),
        ]
        client.h2.send_headers(stream, head)
        left = body
        while left:
            window = client.h2.local_flow_control_window(stream)
            part = left[: min(window, client.h2.max_outbound_frame_size)]
            if part:
                client.h2.send_data(stream, part)
                left = left[len(part) :]
            client.flush()
            await client.until(lambda c: c.h2.local_flow_control_window(stream) > 0)
        client.h2.end_stream(stream)
        client.flush()
        answer = orjson.loads(await client.answer(stream))
    assert answer["bytes"] == len(content)


# --- clients that leave --------------------------------------------------------------------------


async def held(client: H2Client, count: int = 1) -> list[int]:
    """So many streams with one event each, and no more to come."""
    streams = [client.ask(simulate=HOLD) for _ in range(count)]
    await client.until(lambda c: all(c.bodies[stream] for stream in streams))
    return streams


async def test_a_cancelled_stream_is_noticed_at_once_and_alone(simulate: Simulate) -> None:
    sim = await simulate()
    async with h2_client(sim) as client:
        first, second = await held(client, 2)
        left = time.monotonic()
        client.h2.reset_stream(first, CANCEL)
        client.flush()
        await sim.ledger.until(lambda ledger: ledger[0].cancelled is not None)
        gone, stays = sim.ledger
        assert gone.cancelled_by == "rst_stream 8"
        assert gone.cancelled is not None
        assert gone.cancelled - left < 0.5
        assert stays.open
        assert stays.stream == second
        assert len(events(await client.answer(client.ask()))) == 26


async def test_streams_cancelled_at_any_moment_disturb_nobody(simulate: Simulate) -> None:
    sim = await simulate(tokens=100)
    async with h2_client(sim) as client:
        kept = []
        for turn in range(60):
            stream = client.ask(simulate={"gap": 0.0001 * (turn % 7)})
            if turn % 3 == 0:
                kept.append(stream)
                continue
            if turn % 3 == 1:  # in the same write as the request, or some events later
                await client.until(partial(H2Client.has_body, stream=stream))
            client.h2.reset_stream(stream, CANCEL)
            client.flush()
        for stream in kept:
            assert len(events(await client.answer(stream))) == 102
        await sim.ledger.until(lambda ledger: not ledger.open)
    assert sum(entry.cancelled is None for entry in sim.ledger) >= len(kept)


async def test_a_window_and_a_reset_in_one_read_are_both_heard(simulate: Simulate) -> None:
    sim = await simulate()
    async with h2_client(sim, window=False) as client:
        stuck = client.ask(simulate={"tokens": 2000})
        await client.until(lambda c: len(c.bodies[stuck]) == 65535)
        client.h2.increment_flow_control_window(1 << 20)
        client.h2.reset_stream(stuck, CANCEL)
        client.flush()
        assert len(events(await client.answer(client.ask()))) == 26


async def test_after_goaway_a_reset_of_the_last_stream_closes(simulate: Simulate) -> None:
    sim = await simulate(goaway_after=1)
    async with h2_client(sim) as client:
        (stream,) = await held(client)
        client.h2.reset_stream(stream, CANCEL)
        client.flush()
        await client.until(lambda c: c.closed)


async def test_a_stream_cancelled_before_its_head_is_noticed(simulate: Simulate) -> None:
    sim = await simulate()
    async with h2_client(sim) as client:
        stream = client.ask(simulate={"no_headers": True})
        await sim.ledger.until(lambda ledger: len(ledger) == 1 and ledger[0].accepted is not None)
        client.h2.reset_stream(stream, CANCEL)
        client.flush()
        await sim.ledger.until(lambda ledger: ledger[0].cancelled_by == "rst_stream 8")
        assert not client.closed


async def test_a_connection_that_goes_takes_all_its_streams(simulate: Simulate) -> None:
    sim = await simulate()
    async with h2_client(sim) as client:
        await held(client, 3)
    await sim.ledger.until(lambda ledger: not ledger.open)
    assert {entry.cancelled_by for entry in sim.ledger} == {"closed"}
    assert sim.ledger.connections[0].closed is not None


async def test_a_client_that_says_goaway_still_gets_its_answers(simulate: Simulate) -> None:
    sim = await simulate()
    async with h2_client(sim) as client:
        stream = client.ask(simulate={"gap": 0.005, "tokens": 20})
        await client.until(lambda c: c.bodies[stream])
        # By hand: h2 would take its own GOAWAY for the end of everything.
        client.transport.write(b"\0\0\x08\x07\0\0\0\0\0" + b"\0" * 8)
        await sim.ledger.until(lambda ledger: ledger.connections[0].goaway_received)
        assert len(events(await client.answer(stream))) == 22
        await client.until(lambda c: c.closed)


# --- limits and ends -----------------------------------------------------------------------------


async def test_ping_is_answered_and_counted(simulate: Simulate) -> None:
    sim = await simulate()
    async with h2_client(sim) as client:
        client.h2.ping(b"12345678")
        client.flush()
        await client.until(lambda c: c.pongs == 1)
    assert sim.ledger.connections[0].pings == 1


async def test_a_stream_above_the_limit_is_refused_and_the_others_live(simulate: Simulate) -> None:
    sim = await simulate(max_concurrent_streams=2)
    async with h2_client(sim) as client:
        await held(client, 2)
        assert client.h2.remote_settings.max_concurrent_streams == 2
        # h2 itself would not send a third.
        client.h2.remote_settings.max_concurrent_streams = 100
        client.h2.remote_settings.acknowledge()
        third = client.ask()
        await client.until(lambda c: third in c.resets)
        assert client.resets[third] == REFUSED_STREAM
        assert sim.ledger.connections[0].refused == 1
        assert [entry.stream for entry in sim.ledger.open] == [1, 3]


async def test_goaway_comes_after_so_many_requests_and_ends_after_the_last_answer(
    simulate: Simulate,
) -> None:
    sim = await simulate(goaway_after=2)
    async with h2_client(sim) as client:
        first = client.ask(simulate={"gap": 0.005, "tokens": 20})
        second = client.ask()
        await client.until(lambda c: c.goaways)
        assert client.goaways == [(second, 0)]
        third = client.ask()
        assert len(events(await client.answer(first))) == 22
        assert len(events(await client.answer(second))) == 26
        await client.until(lambda c: c.closed)
    assert client.resets[third] == REFUSED_STREAM
    assert [entry.stream for entry in sim.ledger] == [first, second]


async def test_an_idle_connection_says_goaway_and_closes(simulate: Simulate) -> None:
    sim = await simulate(keepalive_timeout=0.05)
    async with h2_client(sim) as client:
        await client.answer(client.ask())
        await client.until(lambda c: c.closed)
        assert client.goaways == [(1, 0)]


async def test_an_early_answer_stops_the_upload(simulate: Simulate) -> None:
    sim = await simulate()
    sim.inject(Fault(early=100, status=413))
    async with h2_client(sim) as client:
        stream = client.send(CHAT, b"x" * 5000, end=False)
        await client.until(lambda c: stream in c.resets)
        assert client.heads[stream][":status"] == "413"
        assert b'"code"' in client.bodies[stream]
        assert client.resets[stream] == 0


async def test_a_frame_that_breaks_the_rules_ends_the_connection(simulate: Simulate) -> None:
    sim = await simulate()
    async with h2_client(sim) as client:
        await client.answer(client.ask())
        client.transport.write(b"\0" * 9)  # DATA on stream 0
        await client.until(lambda c: c.closed)
    async with h2_client(sim) as another:
        await another.answer(another.ask())


async def test_a_preface_in_pieces_is_understood(simulate: Simulate) -> None:
    sim = await simulate()
    reader, writer = await asyncio.open_connection(*address(sim.http_url))
    for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":
        writer.write(bytes((byte,)))
        await writer.drain()
        await asyncio.sleep(0)
    settings_frame = 4
    assert (await reader.readexactly(9))[3] == settings_frame
    writer.close()


async def test_without_http_2_the_preface_is_no_request(simulate: Simulate) -> None:
    sim = await simulate(http1_only=True)
    reader, writer = await asyncio.open_connection(*address(sim.http_url))
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 400")
    writer.close()
