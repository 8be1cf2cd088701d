"""Every way an answer can go wrong, as a client meets it on HTTP/1.1 and on HTTP/2."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.simulator import Ending, Fault, Simulator
from tests.simulator.conftest import Simulate
from tests.simulator.peers import (
    CHAT,
    MESSAGES,
    ask_raw,
    chat,
    chunks,
    connected,
    content,
    events,
    h2_client,
    raw_request,
    trusting,
)

Session = aiohttp.ClientSession
DATA = Path(__file__).parents[1] / "data" / "glm"
CUT = {"cut_at_event": 3}


async def raw(sim: Simulator, **fault: Any) -> tuple[bytes, bytes, str]:
    """Head, body as sent, and how the connection ended."""
    body = orjson.dumps(chat(simulate=fault))
    ask = raw_request(CHAT, body, headers="connection: close\r\n")
    got, end = await ask_raw(sim.http_url, ask)
    head, _, rest = got.partition(b"\r\n\r\n")
    return head, rest, end


async def body_of(http: Session, sim: Simulator, path: str = CHAT, **fault: Any) -> bytes:
    """The body of an answer that HTTP thinks whole."""
    async with http.post(sim.http_url + path, json=chat(max_tokens=50, simulate=fault)) as response:
        return await response.read()


# --- HTTP/1.1 ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "tail", "end"),
    [
        (Ending.CLEAN, b"\n\n\r\n0\r\n\r\n", "eof"),
        (Ending.CLOSE, b"\n\n\r\n", "eof"),
        (Ending.GOAWAY, b"\n\n\r\n", "eof"),
        (Ending.TORN, b'\n\n\r\n40\r\ndata: {"id', "eof"),
        (Ending.CLOSE_DELIMITED, b"\n\n", "eof"),
    ],
)
async def test_a_cut_answer_ends_as_told(
    simulate: Simulate, ending: Ending, tail: bytes, end: str
) -> None:
    sim = await simulate()
    head, body, how = await raw(sim, **CUT, ending=ending)
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert body.count(b"data: {") - (ending is Ending.TORN) == 3
    assert body.endswith(tail)
    assert how == end
    assert (b"chunked" in head) is (ending is not Ending.CLOSE_DELIMITED)
    assert sim.ledger[0].events == 3
    assert sim.ledger[0].finished is not None
    assert sim.ledger[0].cancelled is None


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("ending", [None, Ending.RESET, Ending.DROP])
async def test_a_reset_is_a_tcp_reset(
    simulate: Simulate, http: Session, tls: bool, ending: Ending | None
) -> None:
    sim = await simulate()
    url = f"{sim.https_url if tls else sim.http_url}{CHAT}"
    fault = {**CUT, "gap": 0.01, "ending": ending}
    async with http.post(url, json=chat(simulate=fault), ssl=trusting(sim)) as response:
        with pytest.raises(aiohttp.ClientError, match="Connection reset by peer"):
            await response.content.readuntil(b"never sent")
        assert response.content.total_raw_bytes > 500
    assert sim.ledger[0].events == 3


async def test_any_byte_can_be_the_last(simulate: Simulate) -> None:
    sim = await simulate(reproducible=True)
    for count in (0, 1, 5, 100, 190):
        _, body, _ = await raw(sim, cut_at_byte=count, ending="close_delimited")
        assert len(body) == count
        assert b"data: {".startswith(body[:7])


async def test_a_length_can_be_too_long_or_too_short(simulate: Simulate) -> None:
    sim = await simulate()
    head, body, end = await raw(sim, content_length=1_000_000)
    assert b"Content-Length: 1000000" in head
    assert (len(body) < 10_000, end) == (True, "eof")
    ask = raw_request(CHAT, orjson.dumps(chat(simulate={"content_length": 1_000_000})))
    assert (await ask_raw(sim.http_url, ask))[1] == "eof"  # though the client would stay
    head, body, end = await raw(sim, content_length=10)
    assert b"Content-Length: 10\r\n" in head
    assert len(body) > 1000
    assert body.endswith(b"[DONE]\n\n")


async def test_a_stalled_answer_says_nothing_more_but_comments(simulate: Simulate) -> None:
    sim = await simulate()
    fault = {"stall_at_event": 2, "held_comments": 0.01}
    async with connected(sim.http_url) as (reader, writer):
        writer.write(raw_request(CHAT, orjson.dumps(chat(simulate=fault))))
        got = b""
        while got.count(b": hold\n\n") < 3:
            got += await reader.read(1000)
        assert got.count(b"data: ") == 2
        assert sim.ledger[0].open


async def test_a_whole_response_can_be_any_bytes(simulate: Simulate) -> None:
    sim = await simulate()
    wire = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello"
    sim.inject(Fault(wire=wire))
    assert await ask_raw(sim.http_url, raw_request(CHAT, orjson.dumps(chat()))) == (wire, "eof")


# --- HTTP/2 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [2, 7, 8, 0])
async def test_a_reset_stream_leaves_the_others_alone(simulate: Simulate, code: int) -> None:
    sim = await simulate()
    async with h2_client(sim) as client:
        cut = client.ask(simulate={**CUT, "reset_code": code})
        await client.until(lambda c: cut in c.resets)
        assert client.resets[cut] == code
        assert len(events(bytes(client.bodies[cut]))) == 3
        assert len(events(await client.answer(client.ask()))) == 26


@pytest.mark.parametrize("ending", [Ending.CLOSE, Ending.DROP, Ending.TORN])
async def test_a_connection_can_end_under_a_stream(simulate: Simulate, ending: Ending) -> None:
    sim = await simulate()
    async with h2_client(sim) as client:
        other = client.ask(simulate={"stall_at_event": 1})
        cut = client.ask(simulate={**CUT, "ending": ending})
        await client.until(lambda c: c.closed)
        assert len(events(bytes(client.bodies[cut]))) == 3
        assert cut not in client.resets
        assert not client.ended
    assert sim.ledger[1].finished is not None
    await sim.ledger.until(lambda ledger: ledger[0].cancelled is not None)
    assert sim.ledger[0].stream == other


async def test_goaway_in_the_middle_takes_the_connection(simulate: Simulate) -> None:
    sim = await simulate()
    async with h2_client(sim) as client:
        cut = client.ask(simulate={**CUT, "ending": "goaway", "reset_code": 11})
        await client.until(lambda c: c.closed)
        assert client.goaways == [(cut, 11)]
        assert len(events(bytes(client.bodies[cut]))) == 3


async def test_goaway_before_the_head_leaves_older_streams_and_refuses_this_one(
    simulate: Simulate,
) -> None:
    sim = await simulate()
    async with h2_client(sim) as client:
        older = client.ask(simulate={"gap": 0.005, "tokens": 20})
        await client.until(lambda c: c.bodies[older])
        client.ask(simulate={"no_headers": True, "ending": "goaway"})
        await client.until(lambda c: c.goaways)
        assert client.goaways == [(older, 0)]
        assert len(events(await client.answer(older))) == 22
        await client.until(lambda c: c.closed)


async def test_a_stream_can_be_refused_before_its_head(simulate: Simulate) -> None:
    sim = await simulate()
    async with h2_client(sim) as client:
        stream = client.ask(simulate={"no_headers": True, "ending": "reset", "reset_code": 7})
        await client.until(lambda c: stream in c.resets)
        assert client.resets[stream] == 7
        assert stream not in client.heads


async def test_a_length_can_be_wrong_there_too(simulate: Simulate) -> None:
    sim = await simulate()
    async with h2_client(sim) as client:
        # h2 as a client treats it as an error of the connection, so look before the body.
        stream = client.ask(simulate={"content_length": 7, "stall_at_event": 0})
        await client.until(lambda c: stream in c.heads)
        assert client.heads[stream]["content-length"] == "7"


async def test_early_hints_come_first(simulate: Simulate) -> None:
    sim = await simulate()
    async with h2_client(sim) as client:
        await client.answer(client.ask(simulate={"informational": 3}))
        assert [hint[":status"] for hint in client.informational] == ["103"] * 3
    head, rest, _ = await raw(sim, informational=2)
    assert head.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: ")
    assert rest.count(b"HTTP/1.1 103") == 1
    assert rest.count(b"HTTP/1.1 200 OK") == 1


# --- contents --------------------------------------------------------------------------------


async def test_a_glued_stream_has_a_new_generation_on_a_line_that_was_not_ended(
    simulate: Simulate, http: Session
) -> None:
    sim = await simulate()
    text = (await body_of(http, sim, glue_at_event=2)).decode()
    glued = text.split("\n\n")[2]
    assert glued.count("data: {") == 2
    first, second = (part[7:37] for part in glued.split("data: ")[1:])
    assert first != second
    assert text.endswith("data: [DONE]\n\n")


async def test_an_error_can_be_first_or_in_the_middle(simulate: Simulate, http: Session) -> None:
    sim = await simulate()
    first = await body_of(http, sim, error_at_event=0, code="1305")
    assert [orjson.loads(events(first)[0])["error"]["code"], events(first)[1]] == ["1305", "[DONE]"]
    later = events(await body_of(http, sim, error_at_event=2))
    assert orjson.loads(later[2])["error"]["code"] == "1234"
    assert len(later) == 3
    anthropic = await body_of(http, sim, MESSAGES, error_at_event=3, code="1308")
    assert b'event: error\ndata: {"type": "error", "error": {"type": "rate_limit' in anthropic


async def test_a_web_page_or_nothing_can_come_under_200(simulate: Simulate, http: Session) -> None:
    sim = await simulate()
    fault = {"html": True}
    async with http.post(sim.http_url + CHAT, json=chat(simulate=fault)) as response:
        assert (response.status, response.content_type) == (200, "text/html")
    assert await body_of(http, sim, empty=True) == b""
    async with http.post(
        sim.http_url + CHAT, json=chat(simulate={"status": 200, "code": "1234"})
    ) as response:
        assert (response.status, response.content_type) == (200, "application/json")


async def test_no_done_no_finish_and_other_reasons(simulate: Simulate, http: Session) -> None:
    sim = await simulate()
    no_done = await body_of(http, sim, no_done=True)
    assert chunks(no_done)[-1]["choices"][0]["finish_reason"] == "stop"
    assert b"[DONE]" not in no_done
    no_finish = await body_of(http, sim, no_finish=True)
    assert "finish_reason" not in chunks(no_finish)[-1]["choices"][0]
    other = await body_of(http, sim, finish_reason="network_error")
    assert chunks(other)[-1]["choices"][0]["finish_reason"] == "network_error"


@pytest.mark.parametrize(
    "shape",
    [
        {"events_per_write": 5},
        {"write_size": 1},
        {"write_size": 7, "drip": 0.0001},
        {"comments": 2},
        {"gzip": "flush"},
        {"gzip": "hold"},
    ],
)
async def test_another_shape_says_the_same(
    simulate: Simulate, http: Session, shape: dict[str, Any]
) -> None:
    sim = await simulate(seed=5, reproducible=True)
    plain = await simulate(seed=5, reproducible=True)
    assert content(await body_of(http, sim, **shape)) == content(await body_of(http, plain))


async def test_writes_of_one_byte_are_chunks_of_one_byte(simulate: Simulate) -> None:
    sim = await simulate(tokens=2)
    _, body, _ = await raw(sim, write_size=1)
    assert body.startswith(b"1\r\nd\r\n1\r\na\r\n1\r\nt\r\n")


async def test_compression_is_said_in_a_header(simulate: Simulate) -> None:
    sim = await simulate()
    head, body, _ = await raw(sim, gzip="hold", ending="close_delimited")
    assert b"Content-Encoding: gzip" in head
    assert gzip.decompress(body).endswith(b"[DONE]\n\n")


@pytest.mark.parametrize("path", sorted(DATA.glob("*.sse")), ids=lambda path: path.stem)
async def test_a_recorded_stream_is_replayed_as_it_is(
    simulate: Simulate, http: Session, path: Path
) -> None:
    sim = await simulate()
    sim.inject(Fault(raw=path.read_bytes()))
    async with http.post(sim.http_url + CHAT, json=chat()) as response:
        assert response.content_type == "text/event-stream"
        assert await response.read() == path.read_bytes()


async def test_headers_can_be_added_and_replaced(simulate: Simulate, http: Session) -> None:
    sim = await simulate()
    headers = [
        ["Retry-After", "7"],
        ["content-type", "text/plain"],
        ["x-many", "1"],
        ["x-many", "2"],
    ]
    fault = {"code": "1302", "headers": headers}
    async with http.post(sim.http_url + CHAT, json=chat(simulate=fault)) as response:
        assert response.status == 429
        assert response.headers["retry-after"] == "7"
        assert response.headers.getall("x-many") == ["1", "2"]
        assert response.headers.getall("content-type") == ["text/plain"]


async def test_a_delay_comes_before_the_head(simulate: Simulate, http: Session) -> None:
    sim = await simulate()
    await body_of(http, sim, delay=0.05, gap=0.001)
    await body_of(http, sim, delay=0.05, code="1302")
    for entry in sim.ledger:
        assert entry.headers_sent is not None
        assert entry.accepted is not None
        assert entry.headers_sent - entry.accepted >= 0.049


async def test_faults_reach_the_other_paths_by_injection(simulate: Simulate, http: Session) -> None:
    sim = await simulate()
    rule = sim.inject(Fault(code="1234"), path="*/models", times=None)
    for _ in range(2):
        async with http.get(f"{sim.http_url}/api/paas/v4/models") as response:
            assert response.status == 500
    sim.faults.rules.remove(rule)
    async with http.get(f"{sim.http_url}/api/paas/v4/models") as response:
        assert response.status == 200
