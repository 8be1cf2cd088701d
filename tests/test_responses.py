"""The Responses API on a real proxy: what stands on the wire, who finds what was kept, and how it
goes with the rest of a route."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from proxy.app import App
from proxy.core.policy.access import Caller
from proxy.core.policy.scope import scope_of
from proxy.core.wire.responses.turns import Turn, to_bytes
from proxy.net.door import Store
from proxy.net.halves import Client
from proxy.responding.client import ResponsesClient
from proxy.responding.history import History, Turns
from proxy.store import AnswerStore
from tests.core.responses_order import checked, read, texts
from tests.fakes.keys import a_key, bearer, keyed
from tests.fakes.raw_client import Answer, RawClient, ask
from tests.fakes.running import in_front_of, outcomes, running, samples
from tests.fakes.until import until
from tests.fakes.upstream import Call, Script, ScriptedUpstream

RESPONSES = "/v1/responses"
SAID = b'data: {"id":"1","model":"m","choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
FINISH = (
    b'data: {"id":"1","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}\n\n'
)
DONE = b"data: [DONE]\n\n"
STREAM = SAID % b"Hel" + SAID % b"lo" + FINISH + DONE
WHOLE = orjson.dumps(
    {
        "id": "1",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "Hello"},
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    }
)


async def answering(call: Call) -> None:
    """A whole answer, streamed or not."""
    if b'"stream":true' in call.body:
        call.head()
        call.send(STREAM)
    else:
        call.head(200, content_type="application/json")
        call.send(WHOLE)
    call.finish()


def body(text: Any = "hi", *, stream: bool = False, **fields: Any) -> bytes:
    return orjson.dumps({"model": "m", "input": text, "stream": stream, **fields})


def route(folder: Path, **more: Any) -> dict[str, Any]:
    """One route that keeps responses."""
    responses = {"store": {"url": f"sqlite:{folder}/responses.db"}}
    return {"routes": [{"name": "all", "responses": responses, **more}]}


@asynccontextmanager
async def proxied(
    folder: Path, script: Script = answering, *, settings: dict[str, Any] | None = None, **more: Any
) -> AsyncIterator[tuple[App, ScriptedUpstream]]:
    """`more` are settings of the route."""
    async with ScriptedUpstream(script) as upstream:
        at_all = {**route(folder, **more), **(settings or {})}
        async with running(folder, in_front_of(upstream, folder, **at_all)) as app:
            yield app, upstream


async def post(app: App, body: bytes, *headers: str) -> Answer:
    return await ask(app.data_address, RESPONSES, body, *headers)


async def get(app: App, path: str, *headers: str, method: str = "GET") -> Answer:
    async with RawClient(app.data_address) as client:
        lines = (f"{method} {path} HTTP/1.1", "Host: proxy", *headers, "", "")
        client.writer.write("\r\n".join(lines).encode())
        return await client.whole()


def messages(call: Call) -> list[tuple[str, str]]:
    return [(one["role"], one["content"]) for one in orjson.loads(call.body)["messages"]]


# --- on the wire ---------------------------------------------------------------------------------


async def test_a_stream_is_one_event_a_chunk_and_ends_cleanly(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (app, upstream):
        answer = await post(app, body(stream=True))
        assert await outcomes(app) == {"completed": 1}
    assert (answer.status, answer.clean) == (200, True)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-glm-proxy-route"] == "all"
    response = checked(answer.chunks)
    assert texts(response, "message") == "Hello"
    assert len(read(answer.chunks)) == len(answer.chunks)
    (call,) = upstream.calls
    assert call.path == "/api/paas/v4/chat/completions"


async def test_a_whole_answer_is_a_response(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (app, _):
        answer = await post(app, body(metadata={"a": "b"}))
    assert answer.headers["content-type"] == "application/json"
    response = answer.json()
    assert (response["object"], response["status"]) == ("response", "completed")
    assert response["metadata"] == {"a": "b"}
    assert response["usage"]["total_tokens"] == 9


async def test_a_whole_answer_may_be_streamed_upstream(tmp_path: Path) -> None:
    async with proxied(tmp_path, stream={"upgrade": True}) as (app, upstream):
        answer = await post(app, body())
        assert b'"stream":true' in upstream.calls[0].body
        assert texts(answer.json(), "message") == "Hello"
        kept = await get(app, f"{RESPONSES}/{answer.json()['id']}")
        assert kept.json() == answer.json()


async def test_comments_of_ours_stand_around_the_events(tmp_path: Path) -> None:
    async with proxied(tmp_path, stream={"emit_metadata": True}) as (app, _):
        answer = await post(app, body(stream=True))
    comments = [chunk for chunk in answer.chunks if chunk.startswith(b":")]
    assert b'"route":"all"' in comments[0]
    assert b"last_event" in comments[1]
    assert answer.chunks[0] == comments[0]
    assert texts(checked(answer.chunks), "message") == "Hello"


async def test_an_early_commit_whose_attempts_fail_is_a_failed_response(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        await asyncio.sleep(0.3)
        call.finish("rst")

    more: dict[str, Any] = {"commit": "early", "stream": {"heartbeat": "100ms"}}
    async with proxied(tmp_path, script, settings={"attempts": {"retries": 0}}, **more) as (app, _):
        answer = await post(app, body(stream=True))
    assert not answer.clean
    assert answer.chunks[0] == b": heartbeat\n\n"
    response = checked(answer.chunks)
    assert response["status"] == "failed"
    assert response["error"]["type"] == "upstream_reset"


@pytest.mark.parametrize("ending", ["torn", "rst", "close"])
async def test_a_cut_is_failed_and_has_no_clean_end(tmp_path: Path, ending: str) -> None:
    async def script(call: Call) -> None:
        call.head()
        call.send(SAID % b"Hel")
        await asyncio.sleep(0.05)
        call.finish(ending)

    async with proxied(tmp_path, script) as (app, _):
        answer = await post(app, body(stream=True))
        response = checked(answer.chunks)
        assert (response["status"], answer.clean) == ("failed", False)
        kept = await get(app, f"{RESPONSES}/{response['id']}")
        assert kept.status == 404


async def test_a_generation_that_the_service_gave_up_is_failed_and_not_kept(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        call.head()
        call.send(SAID % b"Hel" + FINISH.replace(b"stop", b"network_error") + DONE)
        call.finish()

    async with proxied(tmp_path, script, stream={"upgrade": True}) as (app, _):
        streamed = checked((await post(app, body(stream=True))).chunks)
        whole = (await post(app, body())).json()
        for response in (streamed, whole):
            assert response["status"] == "failed"
            assert response["error"]["type"] == "network_error"
            assert (await get(app, f"{RESPONSES}/{response['id']}")).status == 404


async def test_who_is_told_of_a_cut_without_a_reason_reads_of_one_all_the_same() -> None:
    inner = Told(body("hi", stream=True))
    client = ResponsesClient(
        cast(Client, inner), history=lambda *_: history(None), depth=64, wall=lambda: 0.0
    )
    await client.read_body(limit=1000, timeout=1.0)
    client.write([SAID % b"Hel"])
    client.cut([])
    response = checked(inner.told)
    assert (response["status"], response["error"]["type"]) == ("failed", "upstream_cut")


class Told:
    """As much of a client as is needed to hear what it is told."""

    def __init__(self, body: bytes) -> None:
        self.told: list[bytes] = []
        self._body = body

    async def read_body(self, *, limit: int, timeout: float) -> bytes:
        return self._body

    def hold(self, size: int, *, kept: int) -> None:
        assert (size, kept) == (0, len(self._body))

    def write(self, events: list[bytes], last: bool = False) -> None:
        self.told += events

    def cut(self, events: list[bytes]) -> None:
        self.told += events


async def test_a_route_that_merges_text_merges_it_here_too(tmp_path: Path) -> None:
    async with proxied(tmp_path, stream={"text_buffer_size": 100}) as (app, _):
        answer = await post(app, body(stream=True))
    deltas = [one for one in read(answer.chunks) if one["type"] == "response.output_text.delta"]
    assert [one["delta"] for one in deltas] == ["Hello"]


async def test_identical_requests_that_share_an_answer_have_a_response_each(tmp_path: Path) -> None:
    begin = asyncio.Event()

    async def script(call: Call) -> None:
        await begin.wait()
        await answering(call)

    async with proxied(tmp_path, script, share=True) as (app, upstream):
        line = "Authorization: Bearer a.b"
        tasks = [asyncio.create_task(post(app, body(stream=True), line)) for _ in range(2)]
        async with RawClient(app.data_address):  # and whatever came before it
            await until(lambda: len(upstream.calls) == 1 and _reading(app) == 2)
        begin.set()
        first, second = [checked((await task).chunks) for task in tasks]
        assert len(upstream.calls) == 1
    assert first["id"] != second["id"]
    assert texts(first, "message") == texts(second, "message") == "Hello"


async def test_an_answer_from_the_cache_is_a_response_of_its_own(tmp_path: Path) -> None:
    async with proxied(tmp_path, cache={"store": f"sqlite:{tmp_path}/cache.db"}) as (app, upstream):
        first = await post(app, body(stream=True))
        second = await post(app, body(stream=True))
        third = await post(app, body())
    assert len(upstream.calls) == 1
    found = [checked(first.chunks), checked(second.chunks), third.json()]
    assert [texts(response, "message") for response in found] == ["Hello"] * 3
    assert len({response["id"] for response in found}) == 3
    assert [one.headers["x-glm-proxy-cache"] for one in (first, second, third)] == [
        *("miss", "hit", "hit"),
    ]


def _reading(app: App) -> int:
    """How many seats the flights have."""
    house = app._generation.house
    return sum(flight.seats for flight in house.flights.values())


async def test_what_is_not_served_here_is_told(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (app, upstream):
        answers = [
            await post(app, b"{}"),
            await post(app, body(background=True)),
            await post(app, body(previous_response_id="resp_" + "0" * 48)),
            await ask(app.data_address, f"{RESPONSES}/resp_1/cancel", b"{}"),
            await get(app, RESPONSES),
            await get(app, f"{RESPONSES}/resp_{'0' * 48}"),
            await get(app, f"{RESPONSES}/resp_{'0' * 48}/input_items"),
            await get(app, f"{RESPONSES}/resp_{'0' * 48}?stream=true"),
            await get(app, f"{RESPONSES}/resp_{'0' * 48}", method="PUT"),
        ]
        assert upstream.calls == []
    told = [(answer.status, answer.json()["error"]["param"]) for answer in answers]
    assert told == [
        *((400, "model"), (400, "background"), (400, "previous_response_id"), (404, None)),
        *((404, None), (404, None), (404, None), (400, "stream"), (405, None)),
    ]


async def test_without_a_route_that_asks_for_it_the_path_is_passed_through(tmp_path: Path) -> None:
    async def script(call: Call) -> None:
        call.head(404, content_type="application/json")
        call.send(b'{"from":"upstream"}')
        call.finish()

    async with (
        ScriptedUpstream(script) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
    ):
        answer = await post(app, body())
    assert (answer.status, answer.json()) == (404, {"from": "upstream"})
    assert upstream.calls[0].path == "/api/paas/v4/responses"


# --- what is kept --------------------------------------------------------------------------------


async def test_turns_are_found_after_a_restart(tmp_path: Path) -> None:
    async with ScriptedUpstream(answering) as upstream:
        settings = in_front_of(upstream, tmp_path, **route(tmp_path))
        async with running(tmp_path, settings) as app:
            first = (await post(app, body("one"))).json()["id"]
            second = checked(
                (await post(app, body("two", stream=True, previous_response_id=first))).chunks
            )
        async with running(tmp_path, settings) as app:
            third = await post(app, body("three", previous_response_id=second["id"]))
            assert third.json()["previous_response_id"] == second["id"]
    assert messages(upstream.calls[-1]) == [
        *(("user", "one"), ("assistant", "Hello")),
        *(("user", "two"), ("assistant", "Hello")),
        ("user", "three"),
    ]


async def test_a_turn_that_was_deleted_ends_what_follows_it(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (app, _):
        first = (await post(app, body())).json()["id"]
        second = (await post(app, body(previous_response_id=first))).json()["id"]
        gone = await get(app, f"{RESPONSES}/{first}", method="DELETE")
        assert gone.json() == {"id": first, "object": "response", "deleted": True}
        again = await get(app, f"{RESPONSES}/{first}", method="DELETE")
        follows = await post(app, body(previous_response_id=second))
        itself = await get(app, f"{RESPONSES}/{second}")
    assert (again.status, itself.status) == (404, 200)
    assert follows.json()["error"]["code"] == "previous_response_not_found"


async def test_what_is_not_to_be_stored_is_not(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (app, _):
        made = (await post(app, body(store=False))).json()["id"]
        assert (await get(app, f"{RESPONSES}/{made}")).status == 404
        follows = await post(app, body(previous_response_id=made))
    assert follows.json()["error"]["code"] == "previous_response_not_found"


async def test_one_callers_responses_are_not_there_for_another(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(answering) as upstream,
        running(tmp_path, keyed(upstream, tmp_path, **route(tmp_path))) as app,
    ):
        one = bearer(await a_key(app, "one", models=("m",)))
        two = bearer(await a_key(app, "two"))
        made = (await post(app, body("secret"), one)).json()["id"]
        path = f"{RESPONSES}/{made}"
        assert [(await get(app, path, who)).status for who in (one, two)] == [200, 404]
        assert (await get(app, path)).status == 401
        assert (await get(app, path, two, method="DELETE")).status == 404
        follows = await post(app, body(previous_response_id=made), two)
        assert follows.json()["error"]["code"] == "previous_response_not_found"
        assert (await get(app, path, one, method="DELETE")).status == 200
    assert len(upstream.calls) == 1


async def test_whose_a_response_is_does_not_stand_in_the_stores_file(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (app, _):
        made = await post(app, body(), "Authorization: Bearer caller.secret")
        assert made.status == 200
    files = list(tmp_path.glob("responses.db*"))
    kept = b"".join(path.read_bytes() for path in files)
    assert b"Hello" in kept
    assert b"caller.secret" not in kept
    assert b"bearer:" not in kept
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


async def test_a_long_history_counts_against_the_limit_of_bodies(tmp_path: Path) -> None:
    small = {"server": {"port": 0, "drain_timeout": 0, "body_limit": "4KiB"}}
    async with proxied(tmp_path, settings=small) as (app, upstream):
        made = await post(app, body("a" * 3000))
        assert made.status == 200
        follows = await post(app, body("b" * 3000, previous_response_id=made.json()["id"]))
        assert follows.status == 413
    assert len(upstream.calls) == 1


async def test_requests_are_counted_as_chats_and_those_for_kept_ones_by_themselves(
    tmp_path: Path,
) -> None:
    async with proxied(tmp_path) as (app, _):
        made = (await post(app, body(stream=True))).chunks
        await get(app, f"{RESPONSES}/{checked(made)['id']}")
        found = await samples(app, "glm_proxy_exchanges_total")
    assert sorted((labels["kind"], labels["route"]) for labels, _ in found) == [
        ("chat", "all"),
        ("responses", "all"),
    ]


# --- history -------------------------------------------------------------------------------------


class Shelf:
    """A store in which things appear when they are looked for often enough."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], bytes] = {}
        self.asked = 0
        self.appears_after = 0

    async def get(self, scope: str, key: str) -> bytes | None:
        self.asked += 1
        return None if self.asked <= self.appears_after else self.kept.get((scope, key))

    def put(self, scope: str, key: str, value: bytes, ttl: float) -> None:
        self.kept[scope, key] = value

    async def delete(self, scope: str, key: str) -> bool:
        return self.kept.pop((scope, key), None) is not None

    async def clear(self) -> int:
        return 0


SCOPE = scope_of(Caller("127.0.0.1"), None)


def turn(number: int, *before: int, size: int = 10) -> Turn:
    def own(one: int) -> str:
        return f"resp_{one:048x}"

    response = {"id": own(number), "output": []}
    item = {"role": "user", "content": str(number)}
    return Turn(response, (item,), tuple(map(own, before)), size)


def history(store: AnswerStore | None, turns: Turns | None = None) -> History:
    return History(store, SCOPE, 60.0, turns)


async def test_a_long_conversation_is_found_in_its_order() -> None:
    shelf = Shelf()
    for number in range(50):
        history(shelf).keep(turn(number, *range(number)), store=True)
    found = await history(shelf).before(turn(49).id)
    assert found is not None
    assert [one.id for one in found] == [turn(number).id for number in range(50)]
    del shelf.kept[SCOPE, turn(30).id]
    assert await history(shelf).before(turn(49).id) is None
    assert await History(shelf, "key:another", 60.0, None).before(turn(20).id) is None


async def test_what_another_process_is_writing_is_looked_for_again() -> None:
    shelf = Shelf()
    history(shelf).keep(turn(1), store=True)
    shelf.appears_after = 2
    assert await history(shelf).find(turn(1).id) is not None
    assert shelf.asked == 3


async def test_a_socket_remembers_also_what_is_not_stored() -> None:
    shelf, turns = Shelf(), Turns(Store(1 << 20))
    here, there = history(shelf, turns), history(shelf)
    here.keep(turn(1), store=False)
    here.keep(turn(2, 1), store=True)
    found = await here.before(turn(2).id)
    assert found is not None
    assert [one.id for one in found] == [turn(1).id, turn(2).id]
    assert await there.before(turn(1).id) is None
    assert await there.before(turn(2).id) is None  # it follows one that is not stored
    assert await history(None, turns).before(turn(2).id) is not None


async def test_a_socket_forgets_the_oldest_when_it_remembers_too_much() -> None:
    one = len(to_bytes(turn(0)))
    store = Store(1 << 20)
    turns = Turns(store, most=one * 5 // 2)
    for number in range(4):
        turns.keep(turn(number))
    assert [turns.get(turn(number).id) is not None for number in range(4)] == [
        *(False, False, True, True),
    ]
    assert store.held == 2 * one
    turns.end()
    assert store.held == 0


async def test_a_socket_remembers_nothing_that_there_is_no_room_for() -> None:
    turns = Turns(Store(10))
    turns.keep(turn(1))
    assert turns.get(turn(1).id) is None
