"""Answers told again, through a whole proxy: which ones, to whom, how, and how long."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.config import Params
from tests.fakes.caching import (
    CHAT,
    MESSAGES,
    Oracle,
    caching,
    chunks,
    completion,
    entries,
    message,
    message_events,
    number_of,
    results,
)
from tests.fakes.operator import send
from tests.fakes.raw_client import Answer, RawClient, ask, chat
from tests.fakes.running import in_front_of, outcomes, running, samples
from tests.fakes.upstream import Call, ScriptedUpstream

ANTHROPIC: dict[str, Any] = {"max_tokens": 100}
OPENAI: dict[str, Any] = {}


def told(answer: Answer) -> str:
    return answer.headers["x-glm-proxy-cache"]


async def test_the_second_time_the_api_is_not_asked(tmp_path: Path) -> None:
    async with caching(tmp_path, Oracle()) as (upstream, app):
        first = await ask(app.data_address, CHAT, chat())
        second = await ask(app.data_address, CHAT, chat())
        assert (told(first), told(second)) == ("miss", "hit")
        assert second.chunks == first.chunks == chunks(1)
        assert second.clean
        assert "age" not in first.headers
        assert int(second.headers["age"]) >= 0
        assert second.headers["content-type"] == "text/event-stream;charset=UTF-8"
        assert second.headers["x-glm-proxy-model"] == "glm-4.6"
        assert "x-glm-proxy-endpoint" not in second.headers
        assert len(upstream.calls) == 1
        assert await results(app) == {"hit": 1, "miss": 1}
        assert await outcomes(app) == {"completed": 2}
        assert await outcomes(app, "glm_proxy_attempts_total") == {"completed": 1}
        tokens = await samples(app, "glm_proxy_tokens_total")
        assert {labels["type"]: count for labels, count in tokens} == {"input": 3, "output": 5}


@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
@pytest.mark.parametrize("first", [True, False], ids=["stream first", "whole first"])
async def test_a_stream_and_a_whole_answer_are_one_entry(
    tmp_path: Path, first: bool, dialect: str
) -> None:
    path, more = (CHAT, OPENAI) if dialect == "openai" else (MESSAGES, ANTHROPIC)
    async with caching(tmp_path, Oracle()) as (upstream, app):
        for stream in (first, not first, True, False):
            answer = await ask(app.data_address, path, chat(stream=stream, **more))
            assert answer.status == 200
            assert answer.clean
            assert number_of(answer) == 1
            if not stream:
                whole = completion(1) if dialect == "openai" else message(1)
                got = answer.json()
                got.pop("object", None)
                assert got == whole
            elif first:
                assert answer.chunks == (chunks(1) if dialect == "openai" else message_events(1))
        assert len(upstream.calls) == 1
        assert await results(app) == {"hit": 3, "miss": 1}


async def test_a_whole_answer_put_together_from_a_stream_is_kept_too(tmp_path: Path) -> None:
    settings = {"stream": {"upgrade": True}}
    async with caching(tmp_path, Oracle(), settings=settings) as (upstream, app):
        first = await ask(app.data_address, CHAT, chat(stream=False))
        second = await ask(app.data_address, CHAT, chat(stream=False))
        third = await ask(app.data_address, CHAT, chat())
        assert [told(one) for one in (first, second, third)] == ["miss", "hit", "hit"]
        assert first.json() == second.json()
        assert third.chunks == chunks(1)
        assert b'"stream":true' in upstream.calls[0].body
        assert len(upstream.calls) == 1


async def test_no_store_is_neither_read_nor_written_and_no_cache_is_refreshed(
    tmp_path: Path,
) -> None:
    async with caching(tmp_path, Oracle()) as (_, app):

        async def number(*headers: str) -> tuple[str, int]:
            answer = await ask(app.data_address, CHAT, chat(), *headers)
            assert answer.status == 200
            return told(answer), number_of(answer)

        assert await number("Cache-Control: no-store") == ("bypass", 1)
        assert await number() == ("miss", 2)
        assert await number("Cache-Control: no-store") == ("bypass", 3)
        assert await number() == ("hit", 2)
        assert await number("Cache-Control: no-cache") == ("bypass", 4)
        assert await number() == ("hit", 4)
        assert await results(app) == {"bypass": 3, "hit": 2, "miss": 1}


async def test_several_answers_to_choose_from_are_not_kept(tmp_path: Path) -> None:
    async with caching(tmp_path, Oracle()) as (_, app):
        for expected in (1, 2):
            answer = await ask(app.data_address, CHAT, chat(n=2))
            assert (told(answer), number_of(answer)) == ("bypass", expected)
        assert told(await ask(app.data_address, CHAT, chat(n=1))) == "miss"


async def test_an_answer_is_over_after_its_time(tmp_path: Path) -> None:
    async with caching(tmp_path, Oracle(), ttl="1s") as (_, app):
        assert told(await ask(app.data_address, CHAT, chat())) == "miss"
        async with asyncio.timeout(20):
            while (answer := await ask(app.data_address, CHAT, chat())).chunks == chunks(1):
                await asyncio.sleep(0.1)
        assert told(answer) == "miss"
        assert number_of(answer) == 2


async def test_what_is_too_large_is_not_kept(tmp_path: Path) -> None:
    size = sum(map(len, chunks(1)))
    for most, expected in ((size, "hit"), (size - 1, "miss")):
        folder = tmp_path / str(most)
        folder.mkdir()
        async with caching(folder, Oracle(), max_answer=f"{most}B") as (_, app):
            await ask(app.data_address, CHAT, chat())
            assert told(await ask(app.data_address, CHAT, chat())) == expected


async def test_it_is_kept_over_a_restart(tmp_path: Path) -> None:
    oracle = Oracle()
    for expected in ("miss", "hit"):
        async with caching(tmp_path, oracle) as (_, app):
            answer = await ask(app.data_address, CHAT, chat())
            assert (told(answer), number_of(answer)) == (expected, 1)


async def test_what_the_route_makes_of_a_request_is_the_question(tmp_path: Path) -> None:
    """Another parameter or model of the operator's is another question, the same one is not."""
    oracle = Oracle()
    numbers = []
    for forced in ({}, {"temperature": 0.3}, {"temperature": 0.4}, {}):
        async with caching(tmp_path, oracle) as (_, app):
            params = Params.model_validate({"force": forced})
            route = app.config.routes[0].model_copy(update={"params": params})
            await app.reload(app.config.model_copy(update={"routes": (route,)}))
            answer = await ask(app.data_address, CHAT, chat(temperature=0.3))
            numbers.append((told(answer), number_of(answer)))
    # What the caller said itself is what the second one forces.
    assert numbers == [("miss", 1), ("hit", 1), ("miss", 2), ("hit", 1)]


async def test_a_hit_takes_of_the_limit_of_requests_and_none_of_tokens(tmp_path: Path) -> None:
    limits = {"limits": {"per_key": {"requests_per_minute": 3, "tokens_per_minute": 1000}}}
    async with caching(tmp_path, Oracle(), settings=limits) as (_, app):
        left = []
        for _ in range(3):
            answer = await ask(app.data_address, CHAT, chat())
            left.append(answer.headers["x-ratelimit-remaining-requests"])
        assert left == ["2", "1", "0"]
        assert (await ask(app.data_address, CHAT, chat())).status == 429
    async with caching(tmp_path, Oracle(), settings=limits) as (_, app):
        first = await ask(app.data_address, CHAT, chat())
        second = await ask(app.data_address, CHAT, chat())
        assert (told(first), told(second)) == ("hit", "hit")
        tokens = [one.headers["x-ratelimit-remaining-tokens"] for one in (first, second)]
        assert tokens[0] == tokens[1]


async def test_metadata_comments_tell_of_the_cache(tmp_path: Path) -> None:
    settings = {"stream": {"emit_metadata": True}}
    async with caching(tmp_path, Oracle(), settings=settings) as (_, app):
        await ask(app.data_address, CHAT, chat())
        answer = await ask(app.data_address, CHAT, chat())
        assert answer.chunks[1:-2] == chunks(1)[:-1]
        decision = orjson.loads(answer.chunks[0].removeprefix(b": glm-proxy "))
        assert decision["cache"] == "hit"
        assert decision["route"] == "kept"
        assert answer.chunks[-2].startswith(b": glm-proxy {")
        assert answer.chunks[-1] == b"data: [DONE]\n\n"


@pytest.mark.parametrize("leaving", [{"keep": "60s"}, {"drain": "30s"}])
@pytest.mark.parametrize("stream", [True, False])
async def test_what_else_becomes_of_an_answer_is_not_kept_with_it(
    tmp_path: Path, leaving: dict[str, str], stream: bool
) -> None:
    """Numbers of events, and where they can be fetched, are of the stream that they came in."""
    route = {"on_disconnect": leaving}
    async with caching(tmp_path, Oracle(), route=route) as (_, app):
        first = await ask(app.data_address, MESSAGES, chat(stream=stream, **ANTHROPIC))
        second = await ask(app.data_address, MESSAGES, chat(stream=True, **ANTHROPIC))
        assert ("x-glm-proxy-stream" in first.headers) is (stream and "keep" in leaving)
        assert (b"\nid: 1\n" in first.body) is (stream and "keep" in leaving)
        assert told(second) == "hit"
        assert "x-glm-proxy-stream" not in second.headers
        assert b"\nid:" not in second.body
        if stream:
            assert second.chunks == message_events(1)


# --- at the pace it came -------------------------------------------------------------------------


class Paced:
    """Event by event, as the test says."""

    def __init__(self) -> None:
        self.turn = asyncio.Semaphore(0)

    async def __call__(self, call: Call) -> None:
        call.head()
        for event in chunks(1):
            await self.turn.acquire()
            call.send(event)
        call.finish()


async def recorded(app: Any, paced: Paced, pause: float, *, pauses: int = 1) -> None:
    """Ask once; the answer comes with pauses before the events that follow the first."""
    async with RawClient(app.data_address) as client:
        client.post(CHAT, chat())
        for n in range(len(chunks(1))):
            if 1 <= n <= pauses:
                await asyncio.sleep(pause)
            paced.turn.release()
            if not n:
                await client.head()
            await client.chunk()
        assert await client.chunk() == b""


async def test_recorded_events_come_at_the_pace_they_came(tmp_path: Path) -> None:
    paced = Paced()
    async with caching(tmp_path, paced, replay="recorded") as (_, app):
        await recorded(app, paced, 0.05, pauses=4)
        async with RawClient(app.data_address) as client:
            loop = asyncio.get_running_loop()
            client.post(CHAT, chat())
            assert told(await client.head()) == "hit"
            times = []
            for event in chunks(1):
                assert await client.chunk() == event
                times.append(loop.time())
            assert await client.chunk() == b""
        # A busy machine makes it later, never sooner.
        assert times[-1] - times[0] >= 0.05 * 4 - 0.01
        whole = await ask(app.data_address, CHAT, chat(stream=False))
        assert told(whole) == "hit"


async def test_a_client_that_leaves_a_recorded_answer_ends_it(tmp_path: Path) -> None:
    paced = Paced()
    async with caching(tmp_path, paced, replay="recorded") as (_, app):
        await recorded(app, paced, 0.3)
        async with RawClient(app.data_address) as client:
            client.post(CHAT, chat())
            await client.head()
            await client.chunk()
        await until_outcomes(app, {"completed": 1, "client_gone": 1})


async def test_a_recorded_answer_is_ended_with_the_proxy_and_never_looks_whole(
    tmp_path: Path,
) -> None:
    paced = Paced()
    async with caching(tmp_path, paced, replay="recorded") as (_, app):
        await recorded(app, paced, 0.3)
        async with RawClient(app.data_address) as client:
            client.post(CHAT, chat())
            await client.head()
            await client.chunk()
            stopping = asyncio.create_task(app.stop(0))
            rest = await client.reader.read()
            assert b"draining" in rest
            assert not rest.endswith(b"0\r\n\r\n")
            await stopping


async def test_a_client_that_reads_slowly_gets_all_of_a_recorded_answer(tmp_path: Path) -> None:
    big = [b"data: " + orjson.dumps(_big(n)) + b"\n\n" for n in range(64)]
    events = [*big, *chunks(1)[-2:]]

    async def script(call: Call) -> None:
        call.head()
        for event in events:
            call.send(event)
            await asyncio.sleep(0)
        call.finish()

    async with caching(tmp_path, script, replay="recorded", max_answer="16MiB") as (_, app):
        await ask(app.data_address, CHAT, chat())
        async with RawClient(app.data_address) as client:
            client.post(CHAT, chat())
            assert told(await client.head()) == "hit"
            await asyncio.sleep(0.3)  # it reads nothing: the sockets' buffers are full
            got = b""
            while data := await client.chunk():
                got += data
            assert got == b"".join(events)


def _big(n: int) -> dict[str, Any]:
    delta = {"content": f"{n} " * 40_000}
    return {"id": "chat-1", "created": 7, "choices": [{"index": 0, "delta": delta}]}


# --- what is never kept --------------------------------------------------------------------------


async def until_outcomes(app: Any, expected: dict[str, int]) -> None:
    async with asyncio.timeout(20):
        while await outcomes(app) != expected:
            await asyncio.sleep(0.01)


ENDINGS = ["torn", "rst", "short", "close"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
async def test_an_answer_that_is_cut_at_any_event_is_not_kept(
    tmp_path: Path, dialect: str, ending: str
) -> None:
    events = chunks(1) if dialect == "openai" else message_events(1)
    path, more = (CHAT, OPENAI) if dialect == "openai" else (MESSAGES, ANTHROPIC)

    async def script(call: Call) -> None:
        cut = int(orjson.loads(call.body)["user"])
        if ending == "short":
            call.head(framing="100000")
        else:
            call.head()
        for event in events[:cut]:
            call.send(event)
        call.finish("torn" if ending == "short" else ending)

    settings = {"attempts": {"retries": 0}}
    async with caching(tmp_path, script, settings=settings) as (upstream, app):
        for cut in range(len(events)):
            for _ in range(2):
                answer = await ask(app.data_address, path, chat(user=str(cut), **more))
                assert told(answer) == "miss"
        assert len(upstream.calls) == 2 * len(events)
        assert set(await results(app)) == {"miss"}
    assert entries(tmp_path) == 0


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("finish", ["length", "sensitive", "network_error", "", "abort"])
async def test_an_answer_that_did_not_come_to_its_own_end_is_not_kept(
    tmp_path: Path, finish: str, stream: bool
) -> None:
    settings = {"attempts": {"retries": 0}}
    async with caching(tmp_path, Oracle(finish), settings=settings) as (upstream, app):
        for _ in range(3):
            assert told(await ask(app.data_address, CHAT, chat(stream=stream))) == "miss"
        assert len(upstream.calls) == 3
    assert entries(tmp_path) == 0


async def test_an_error_told_in_a_stream_is_not_kept_wherever_it_comes(tmp_path: Path) -> None:
    error = b'data: {"error":{"code":"1234","message":"no"}}\n\n'

    async def script(call: Call) -> None:
        at = int(orjson.loads(call.body)["user"])
        events = chunks(1)
        call.head()
        for event in [*events[:at], error, *events[at:]]:
            call.send(event)
        call.finish()

    settings = {"attempts": {"retries": 0}}
    async with caching(tmp_path, script, settings=settings) as (upstream, app):
        for at in range(len(chunks(1))):
            for _ in range(2):
                answer = await ask(app.data_address, CHAT, chat(user=str(at)))
                assert told(answer) == "miss"
        assert len(upstream.calls) == 2 * len(chunks(1))
    assert entries(tmp_path) == 0


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b'{"error":{"code":"1210","message":"no"}}'),
        (500, b'{"error":{"code":"500","message":"no"}}'),
        (200, b'{"error":{"code":"1261","message":"no"}}'),
        (200, b'{"code":401,"msg":"no","success":false}'),
        (200, b'{"choices":[{"message":{"content":"half'),
        (201, orjson.dumps(completion(1))),
        (200, b'{"choices":[{"finish_reason":"stop","message":{"content":"x"}}]}'),
        (200, b"{}"),
    ],
    ids=str,
)
async def test_what_is_no_whole_answer_with_status_200_is_not_kept(
    tmp_path: Path, status: int, body: bytes
) -> None:
    async def script(call: Call) -> None:
        call.head(status, content_type="application/json", framing=str(len(body)))
        call.send(body)
        call.finish()

    settings = {"attempts": {"retries": 0}}
    async with caching(tmp_path, script, settings=settings) as (upstream, app):
        for _ in range(2):
            assert told(await ask(app.data_address, CHAT, chat(stream=False))) == "miss"
        assert len(upstream.calls) == 2
    assert entries(tmp_path) == 0


async def test_two_answers_in_one_stream_are_not_kept(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        call.head()
        call.send(b"".join([*chunks(1)[:3], *chunks(2)]))
        call.finish()

    async with caching(tmp_path, script) as (upstream, app):
        for _ in range(2):
            assert told(await ask(app.data_address, CHAT, chat())) == "miss"
        assert len(upstream.calls) == 2
    assert entries(tmp_path) == 0


async def test_an_answer_that_took_too_long_is_not_kept(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        call.head()
        call.send(b"".join(chunks(1)[:2]))
        await call.gone.wait()

    settings = {"timeouts": {"idle": "200ms"}}
    async with caching(tmp_path, script, settings=settings) as (upstream, app):
        for _ in range(2):
            answer = await ask(app.data_address, CHAT, chat())
            assert told(answer) == "miss"
            assert not answer.clean
        assert len(upstream.calls) == 2


@pytest.mark.parametrize("leaves_after", range(len(chunks(1))))
async def test_an_answer_whose_client_left_at_any_event_is_not_kept(
    tmp_path: Path, leaves_after: int
) -> None:
    paced = Paced()
    async with caching(tmp_path, paced) as (upstream, app):
        async with RawClient(app.data_address) as client:
            client.post(CHAT, chat())
            await upstream.arrived.acquire()
            for n in range(leaves_after):
                paced.turn.release()
                if not n:
                    await client.head()
                await client.chunk()
            client.writer.transport.abort()
        await until_outcomes(app, {"client_gone": 1})
        paced.turn = asyncio.Semaphore(1000)
        assert told(await ask(app.data_address, CHAT, chat())) == "miss"
        assert told(await ask(app.data_address, CHAT, chat())) == "hit"


async def test_an_answer_of_another_model_than_the_first_choice_is_not_kept(
    tmp_path: Path,
) -> None:
    oracle = Oracle()

    async def script(call: Call) -> None:
        if orjson.loads(call.body)["model"] == "glm-4.6":
            body = b'{"error":{"code":"1305","message":"busy"}}'
            call.head(429, content_type="application/json", framing=str(len(body)))
            call.send(body)
            call.finish()
        else:
            await oracle(call)

    place = {"url": f"sqlite:{tmp_path / 'answers.db'}", "timeout": "5s"}
    candidates = [{"model": "glm-4.6"}, {"model": "glm-4.5-air"}]
    route = {"name": "kept", "candidates": candidates, "cache": {"store": place}}
    async with (
        ScriptedUpstream(script) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path, routes=[route])) as app,
    ):
        for _ in range(2):
            answer = await ask(app.data_address, CHAT, chat())
            assert answer.headers["x-glm-proxy-model"] == "glm-4.5-air"
            assert told(answer) == "miss"


# --- the operator --------------------------------------------------------------------------------

TOKEN = "an-operators-token-of-some-length"


async def test_the_operator_clears_the_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    settings = {"admin": {"port": 0, "token": f"file:{path}"}}
    async with caching(tmp_path, Oracle(), settings=settings) as (_, app):
        for n in range(3):
            await ask(app.data_address, CHAT, chat(seed=n))
        assert app.config.routes[0].cache is not None
        responses = app.house.answers.of(app.config.routes[0].cache.store, "responses")
        responses.put("key:a", "r", b"kept", 60.0)
        url = "http://{}:{}/admin/cache".format(*app.admin_address)
        assert (await send(url, "DELETE")).status == 401
        assert told(await ask(app.data_address, CHAT, chat(seed=0))) == "hit"
        known = {"Authorization": f"Bearer {TOKEN}"}
        cleared = await send(url, "DELETE", headers=known)
        assert (cleared.status, cleared.json()) == (200, {"deleted": 3})
        assert told(await ask(app.data_address, CHAT, chat(seed=0))) == "miss"
        assert await responses.get("key:a", "r") == b"kept"
        entries = await app.home.audit(10)
        assert [(one.action, one.subject) for one in entries] == [("cache.clear", "3")]
    assert "audit: admin cache.clear 3" in caplog.text
