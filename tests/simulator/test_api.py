"""The API over plain HTTP/1.1: answers, refusals, limits, and the paths beside chat."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from typing import Any

import aiohttp
import orjson
import pytest

from proxy.simulator import Fault, Simulator
from tests.simulator.conftest import Simulate
from tests.simulator.peers import CHAT, CODING, MESSAGES, QUESTION, chat, chunks, content, events

Session = aiohttp.ClientSession


async def post(
    http: Session, sim: Simulator, path: str = CHAT, headers: Any = None, **fields: Any
) -> tuple[aiohttp.ClientResponse, bytes]:
    async with http.post(sim.http_url + path, json=chat(**fields), headers=headers) as response:
        return response, await response.read()


async def code(http: Session, sim: Simulator, **request: Any) -> tuple[int, str]:
    response, body = await post(http, sim, **request)
    assert response.content_type == "application/json"
    return response.status, orjson.loads(body)["error"]["code"]


# --- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, CODING])
async def test_a_stream_has_glms_headers_and_one_token_per_event(
    simulate: Simulate, http: Session, path: str
) -> None:
    sim = await simulate()
    response, body = await post(http, sim, path=path)
    assert response.status == 200
    assert response.headers["Content-Type"] == "text/event-stream;charset=UTF-8"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["Server"] == "nginx"
    assert response.headers["Set-Cookie"].startswith("acw_tc=")
    assert response.headers["X-LOG-ID"] == chunks(body)[0]["id"]
    assert re.fullmatch(r"20\d{12}[0-9a-f]{16}", response.headers["X-LOG-ID"])
    assert len(events(body)) == 26
    assert events(body)[-1] == "[DONE]"


async def test_a_plain_answer_is_gzip_for_a_client_that_takes_it(
    simulate: Simulate, http: Session
) -> None:
    sim = await simulate()
    response, body = await post(http, sim, model="glm-4.6", stream=False)
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.headers["Content-Type"] == "application/json; charset=UTF-8"
    answer = orjson.loads(body)
    assert answer["request_id"] == response.headers["X-LOG-ID"]
    plain, _ = await post(http, sim, stream=False, headers={"accept-encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    stream, _ = await post(http, sim)
    assert "Content-Encoding" not in stream.headers


async def test_the_same_seed_and_turn_say_the_same(simulate: Simulate, http: Session) -> None:
    first, second = await simulate(seed=3), await simulate(seed=3)
    for _ in range(3):
        (_, one), (_, other) = await post(http, first), await post(http, second)
        assert content(one) == content(other)
        assert one != other  # ids differ


async def test_a_reproducible_simulator_repeats_every_byte(
    simulate: Simulate, http: Session
) -> None:
    first = await simulate(seed=3, reproducible=True)
    second = await simulate(seed=3, reproducible=True)
    for _ in range(3):
        (a, one), (b, other) = await post(http, first), await post(http, second)
        assert one == other
        assert a.headers == b.headers


async def test_a_prompt_read_before_is_cached_in_steps_of_64(
    simulate: Simulate, http: Session
) -> None:
    sim = await simulate()
    messages = [{"role": "user", "content": "word " * 1000}]
    cached = []
    for longer in (messages, messages, [*messages, {"role": "user", "content": "more"}]):
        _, body = await post(http, sim, messages=longer)
        cached.append(chunks(body)[-1]["usage"]["prompt_tokens_details"]["cached_tokens"])
    assert cached == [0, 1216, 1216]


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"authorization": ""}, (401, "1001")),
        ({"authorization": "Bearer badkey.secret"}, (401, "1000")),
        ({"authorization": "a.%%%.c"}, (401, "1002")),
        ({"user-agent": ""}, (429, "1305")),
    ],
)
async def test_who_may_not_call_is_told_why(
    simulate: Simulate, http: Session, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    sim = await simulate()
    assert await code(http, sim, headers=headers) == expected


async def test_a_key_needs_no_bearer(simulate: Simulate, http: Session) -> None:
    sim = await simulate()
    response, _ = await post(http, sim, headers={"authorization": "id.secret"})
    assert response.status == 200


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model": "gpt-4"}, (400, "1211")),
        ({"messages": []}, (400, "1214")),
        ({"temperature": 2.0}, (400, "1210")),
        ({"simulate": {"cut": 1}}, (400, "1210")),
        ({"simulate": {"code": 1113}}, (429, "1113")),
        ({"simulate": {"code": "1302", "status": 418}}, (418, "1302")),
        ({"simulate": {"status": 503}}, (503, "500")),
    ],
)
async def test_a_refusal_has_status_and_code(
    simulate: Simulate, http: Session, fields: dict[str, Any], expected: tuple[int, str]
) -> None:
    sim = await simulate()
    assert await code(http, sim, **fields) == expected
    assert sim.ledger[0].status == expected[0]


async def test_one_key_may_run_so_many_of_one_model_at_a_time(
    simulate: Simulate, http: Session
) -> None:
    sim = await simulate(in_flight=2)
    holding = {"stall_at_event": 1}
    held = [
        asyncio.create_task(post(http, sim, model="glm-4.6", simulate=holding)) for _ in range(2)
    ]
    await sim.ledger.until(lambda ledger: sum(e.events for e in ledger) == 2)
    assert await code(http, sim, model="glm-4.6") == (429, "1302")
    response, _ = await post(http, sim, model="glm-4.5")
    assert response.status == 200
    response, _ = await post(http, sim, model="glm-4.6", headers={"authorization": "other.secret"})
    assert response.status == 200
    held[0].cancel()
    await sim.ledger.until(lambda ledger: any(e.cancelled is not None for e in ledger))
    response, _ = await post(http, sim, model="glm-4.6")
    assert response.status == 200
    held[1].cancel()
    await asyncio.gather(*held, return_exceptions=True)


async def test_signed_tokens_of_one_key_are_one_account(simulate: Simulate, http: Session) -> None:
    def token(exp: int) -> dict[str, str]:
        claims = base64.urlsafe_b64encode(orjson.dumps({"api_key": "id", "exp": exp}))
        return {"authorization": f"e30.{claims.decode().rstrip('=')}.sig"}

    sim = await simulate(in_flight=1)
    held = asyncio.create_task(post(http, sim, headers=token(1), simulate={"stall_at_event": 1}))
    await sim.ledger.until(lambda ledger: len(ledger) == 1 and ledger[0].events == 1)
    assert await code(http, sim, headers=token(2)) == (429, "1302")
    assert await code(http, sim, headers={"authorization": "Bearer id.secret"}) == (429, "1302")
    held.cancel()
    await asyncio.gather(held, return_exceptions=True)


async def test_the_profiles_limits_are_the_models_own(simulate: Simulate, http: Session) -> None:
    sim = await simulate(profile="lumosai", time_scale=0.0)
    holding = {"stall_at_event": 1}
    held = asyncio.create_task(post(http, sim, model="glm-4.7-flash", simulate=holding))
    await sim.ledger.until(lambda ledger: len(ledger) == 1 and ledger[0].events == 1)
    assert await code(http, sim, model="glm-4.7-flash") == (429, "1302")
    held.cancel()
    await asyncio.gather(held, return_exceptions=True)


# --- the Anthropic base --------------------------------------------------------------------------


async def test_the_anthropic_base_streams_and_takes_both_kinds_of_key(
    simulate: Simulate, http: Session
) -> None:
    sim = await simulate()
    for headers in ({"authorization": "", "x-api-key": "k"}, {"authorization": "Bearer k"}):
        response, body = await post(http, sim, f"{MESSAGES}?beta=true", headers, max_tokens=9)
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert body.startswith(b"event: message_start\n")
        assert body.endswith(b'event: message_stop\ndata: {"type": "message_stop"}\n\n')


async def test_its_errors_have_its_shape_and_quota_has_headers_for_claude_code(
    simulate: Simulate, http: Session
) -> None:
    sim = await simulate()
    quota = {"simulate": {"code": "1310"}, "max_tokens": 9}
    response, body = await post(http, sim, MESSAGES, {"anthropic-beta": "claude-code"}, **quota)
    error = json.loads(body)["error"]
    assert (response.status, error["type"], error["code"]) == (429, "rate_limit_error", "1310")
    assert response.headers["retry-after"] == "287441"
    assert response.headers["anthropic-ratelimit-unified-status"] == "rejected"
    response, _ = await post(http, sim, MESSAGES, **quota)
    assert "retry-after" not in response.headers


async def test_tokens_cannot_be_counted_there(simulate: Simulate, http: Session) -> None:
    sim = await simulate()
    response, body = await post(http, sim, f"{MESSAGES}/count_tokens")
    assert response.status == 404
    assert orjson.loads(body) == {"code": 500, "msg": "404 NOT_FOUND"}


# --- other paths ---------------------------------------------------------------------------------


async def test_models_are_listed_on_every_base(simulate: Simulate, http: Session) -> None:
    sim = await simulate()
    for base in ("/api/paas/v4", "/api/coding/paas/v4", "/api/anthropic/v1"):
        async with http.get(f"{sim.http_url}{base}/models") as response:
            listed = await response.json()
        assert "glm-4.6" in {model["id"] for model in listed["data"]}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/paas/v4/responses", 404),
        ("GET", "/api/paas/v4/files/none/content", 404),
        ("GET", CHAT, 405),
        ("POST", "/v1/chat/completions", 200),
        ("GET", "/", 200),
    ],
)
async def test_what_is_not_there_is_told_as_glm_tells_it(
    simulate: Simulate, http: Session, method: str, path: str, status: int
) -> None:
    sim = await simulate()
    async with http.request(method, sim.http_url + path, json={}) as response:
        assert response.status == status
        body = await response.json()
    assert body.get("msg") == "404 NOT_FOUND" if status == 200 else "error" in body


async def test_a_file_goes_up_comes_back_and_is_gone(simulate: Simulate, http: Session) -> None:
    sim = await simulate()
    files = f"{sim.http_url}/api/paas/v4/files"
    content = bytes(range(256)) * 3000 + b"\r\n--not the boundary\r\n"
    form = aiohttp.FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", content, filename="lines.jsonl")
    async with http.post(files, data=form) as response:
        file = await response.json()
    assert (file["bytes"], file["filename"], file["purpose"]) == (
        len(content),
        "lines.jsonl",
        "batch",
    )
    async with http.get(files) as response:
        assert (await response.json())["data"] == [file]
    async with http.get(f"{files}/{file['id']}/content") as response:
        assert response.content_type == "application/octet-stream"
        assert await response.read() == content
    async with http.delete(f"{files}/{file['id']}") as response:
        assert (await response.json())["deleted"] is True
    async with http.get(f"{files}/{file['id']}/content") as response:
        assert response.status == 404
    assert sim.ledger[0].body_size > len(content)


async def test_embeddings_depend_on_the_text_alone(simulate: Simulate, http: Session) -> None:
    sim = await simulate()
    url = f"{sim.http_url}/api/paas/v4/embeddings"
    body = {"model": "embedding-3", "input": ["tide", "tide", "moon"], "dimensions": 8}
    async with http.post(url, json=body) as response:
        one, same, other = [each["embedding"] for each in (await response.json())["data"]]
    assert one == same != other
    assert sum(value * value for value in one) == pytest.approx(1, abs=1e-4)


async def test_speech_is_a_wav_file(simulate: Simulate, http: Session) -> None:
    sim = await simulate()
    url = f"{sim.http_url}/api/paas/v4/audio/speech"
    async with http.post(url, json={"input": "你好"}) as response:
        assert response.content_type == "audio/wav"
        body = await response.read()
    assert body[:4] + body[8:12] == b"RIFFWAVE"
    assert int.from_bytes(body[4:8], "little") == len(body) - 8


@pytest.mark.parametrize("stream", [True, False])
async def test_a_transcription_is_a_stream_or_a_text(
    simulate: Simulate, http: Session, stream: bool
) -> None:
    sim = await simulate()
    form = aiohttp.FormData()
    form.add_field("file", b"RIFF", filename="a.wav")
    form.add_field("stream", "true" if stream else "false")
    async with http.post(f"{sim.http_url}/api/paas/v4/audio/transcriptions", data=form) as r:
        body = await r.read()
        assert r.content_type == ("text/event-stream" if stream else "application/json")
    if stream:
        said = "".join(chunk["delta"] for chunk in chunks(body))
        assert chunks(body)[-1]["type"] == "transcript.text.done"
    else:
        said = orjson.loads(body)["text"]
    assert said == "风小了，船可以出港。"


async def test_an_upload_that_is_none_is_refused(simulate: Simulate, http: Session) -> None:
    sim = await simulate()
    async with http.post(f"{sim.http_url}/api/paas/v4/files", json={}) as response:
        assert (await response.json())["error"]["code"] == "1214"


# --- time and the ledger -------------------------------------------------------------------------


async def test_the_time_scale_multiplies_every_wait(simulate: Simulate, http: Session) -> None:
    sim = await simulate(profile="lumosai", time_scale=0.01)
    await post(http, sim, model="glm-4.6", messages=[{"role": "user", "content": "介绍学习"}])
    entry = sim.ledger[0]
    assert entry.first_event is not None
    assert entry.finished is not None
    assert entry.accepted is not None
    assert 0.2 < entry.finished - entry.accepted < 0.6
    assert entry.finished - entry.accepted < 5
    assert entry.first_event - entry.accepted < 0.25


async def test_a_steady_stream_keeps_its_pace(simulate: Simulate, http: Session) -> None:
    sim = await simulate(profile="steady", tokens=20, gap=0.01)
    _, body = await post(http, sim)
    entry = sim.ledger[0]
    assert len(chunks(body)) == 21
    assert entry.first_event is not None
    assert entry.last_event is not None
    assert entry.last_event - entry.first_event >= 0.19


async def test_the_ledger_tells_what_came_and_when(simulate: Simulate, http: Session) -> None:
    sim = await simulate()
    sim.inject(Fault(no_done=True), model="glm-4.6")
    await post(http, sim, model="glm-4.6", headers={"x-title": "T"})
    await post(http, sim, model="glm-4.5")
    first, second = sim.ledger
    assert (first.number, second.number) == (1, 2)
    assert first.path == CHAT
    assert first.header("X-Title") == "T"
    assert first.header("x-none") is None
    assert first.json()["messages"] == QUESTION
    assert (first.model, first.fault) == ("glm-4.6", "no_done=True")
    assert (second.model, second.fault) == ("glm-4.5", None)
    assert first.protocol == "http/1.1"
    assert first.connection is second.connection
    assert first.connection.requests == 2
    marks = [first.arrived, first.accepted, first.headers_sent, first.first_event, first.finished]
    assert None not in marks
    assert marks == sorted(marks)  # type: ignore[type-var]
    assert first.events == 33
    assert not sim.ledger.open


async def test_waiting_for_what_never_happens_ends(simulate: Simulate) -> None:
    sim = await simulate()
    with pytest.raises(TimeoutError):
        await sim.ledger.until(lambda ledger: len(ledger) == 1, within=0.01)
