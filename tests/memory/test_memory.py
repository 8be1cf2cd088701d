"""Memory as a client sees it: told in time or not at all, never to others, never of half a turn."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.app import App
from proxy.config import load
from proxy.core.record import Record
from proxy.observe.access_log import fields
from tests.fakes.raw_client import Answer, RawClient, ask
from tests.fakes.remembering import (
    CHAT,
    MESSAGES,
    echo,
    remembering,
    say,
    text_of,
    told,
)
from tests.fakes.running import in_front_of, running, samples
from tests.fakes.until import until
from tests.fakes.upstream import Call, Script, ScriptedUpstream

HEADER = "x-glm-proxy-memory"


class Scene:
    """A proxy that remembers, before an upstream."""

    def __init__(self, app: App, upstream: ScriptedUpstream) -> None:
        self.app = app
        self.upstream = upstream

    async def say(self, *texts: str, **more: Any) -> Answer:
        answer = await say(self.app.data_address, *texts, **more)
        assert answer.status == 200, answer.body
        return answer

    def told(self, call: int = -1) -> list[str]:
        """What a call's messages say."""
        return [text_of(one) for one in told(self.upstream.calls[call])]

    async def written(self, result: str = "stored") -> float:
        counted = await samples(self.app, "glm_proxy_memory_writes_total")
        return sum(value for labels, value in counted if labels["result"] == result)

    async def has_written(self, count: int, result: str = "stored") -> None:
        async with asyncio.timeout(20):
            while await self.written(result) < count:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def scene(
    folder: Path, store: object, script: Script = echo, **more: Any
) -> AsyncIterator[Scene]:
    """`store` None: a file. What is more are settings of memory, or of the route if it is one."""
    memory = {"store": store or f"sqlite:{folder}/memory.db"}
    route: dict[str, Any] = {"name": "remembers", "memory": memory}
    for name, value in more.items():
        (route if name in ("candidates", "stream") else memory)[name] = value
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream(script))
        settings = in_front_of(upstream, folder, routes=[route])
        app = await stack.enter_async_context(running(folder, settings))
        yield Scene(app, upstream)


def brief(url: str) -> dict[str, str]:
    """A store that is not waited for long when the proxy ends."""
    return {"url": url, "timeout": "200ms"}


async def nods(call: Call) -> None:
    """An upstream that says the same whatever it is told."""
    call.head()
    call.send(b'data: {"choices":[{"delta":{"content":"I see."}}]}\n\ndata: [DONE]\n\n')
    call.finish()


# --- a conversation ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "fact"),
    [
        ("My cat is called Whiskers.", "What is my cat called?", "Whiskers"),
        ("我的猫叫小白。", "我的猫叫什么名字？", "小白"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("stream", [True, False])
async def test_the_second_turn_knows_what_the_first_said(
    tmp_path: Path, first: str, second: str, fact: str, path: str, stream: bool
) -> None:
    async with scene(tmp_path, None) as play:
        await play.say(first, path=path, stream=stream)
        answer = await play.say(second, path=path, stream=stream)
        assert fact in answer.body.decode()
        assert answer.headers[HEADER].startswith("used; items=2; tokens=")
        messages = told(play.upstream.calls[-1])
        assert [one["role"] for one in messages] == [
            "system" if path == CHAT else "user",
            "user",
        ]


async def test_what_was_said_long_ago_is_found_by_what_is_asked(tmp_path: Path) -> None:
    async with scene(tmp_path, None, nods, wait="5s", max_items=4) as play:
        await play.say("我的银行卡尾号是 4711。")
        for number in range(12):
            await play.say(f"Tell me something about the number {number}.")
        await play.has_written(13)
        await play.say("我的银行卡尾号是多少？")
        (note, question) = play.told()
        assert "4711" in note
        assert question == "我的银行卡尾号是多少？"


async def test_it_is_remembered_after_a_restart(tmp_path: Path) -> None:
    async with scene(tmp_path, None) as play:
        await play.say("I live in Trondheim.")
        await play.has_written(1)
    async with scene(tmp_path, None, wait="5s") as play:
        await play.say("Where do I live?")
        assert "Trondheim" in play.told()[0]


async def test_all_bytes_but_the_memory_are_the_clients(tmp_path: Path) -> None:
    async with scene(tmp_path, None) as play:
        await play.say("First.")
        body = (
            b'{ "model":"glm-4.6" ,"messages":[{"role":"system","content":"\\u4f60"}, '
            b'{"role":"user","content":"Second."} ],\n "stream":true, "temperature":0.70}'
        )
        headers = ("Authorization: Bearer caller.secret", "x-session-id: s")
        await ask(play.app.data_address, CHAT, body, *headers)
        sent = play.upstream.calls[-1].body
        before, after = body.split(b'{"role":"user"')
        assert sent.startswith(before + b'{"role":"system","content":"Notes on earlier turns')
        assert sent.endswith(b',{"role":"user"' + after)
        assert [one["role"] for one in told(play.upstream.calls[-1])] == [
            *("system", "system", "user")
        ]


async def test_what_the_client_sends_itself_is_not_told_again(tmp_path: Path) -> None:
    async with scene(tmp_path, None, wait="5s") as play:
        answer = await play.say("First.", stream=False)
        await play.has_written(1)
        said = answer.json()["choices"][0]["message"]["content"]
        answer = await play.say("First.", said, "Second.")
        assert answer.headers[HEADER].startswith("none")
        assert play.told() == ["First.", said, "Second."]


async def test_within_a_turn_the_model_is_told_the_same_bytes(tmp_path: Path) -> None:
    calls = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}

    async def script(call: Call) -> None:
        if told(call)[-1]["content"] != "What now?":
            await echo(call)
            return
        call.head()
        delta = {"content": "Let me see.", "tool_calls": [{"index": 0, **calls}]}
        chunk = {"choices": [{"index": 0, "delta": delta}]}
        call.send(b"data: %b\n\ndata: [DONE]\n\n" % orjson.dumps(chunk))
        call.finish()

    async with remembering() as (service, url), scene(tmp_path, url, script, wait="9s") as play:
        await play.say("First.")
        await until(lambda: service.asked.count("search") == 2)
        await play.say("What now?")
        assert service.asked.count("search") == 3
        (found,) = service.kept.values()  # one more search would find something else
        found.append({"role": "user", "text": "Something new.", "at": time.time()})
        messages = [
            {"role": "user", "content": "What now?"},
            {"role": "assistant", "content": None, "tool_calls": [calls]},
            {"role": "tool", "tool_call_id": "1", "content": "42"},
        ]
        body = orjson.dumps({"model": "glm-4.6", "messages": messages, "stream": True})
        headers = ("Authorization: Bearer caller.secret", "x-session-id: s")
        answer = await ask(play.app.data_address, CHAT, body, *headers)
        assert answer.headers[HEADER].startswith("used; items=2")
        one, two = (play.upstream.calls[n].body for n in (-2, -1))
        until_here = one.index(b'{"role":"user"')
        assert b"Notes on earlier turns" in one[:until_here]
        assert two[: two.index(b'{"role":"user"')].endswith(
            one[one.index(b'{"role":"system"') : until_here]
        )
        await play.has_written(2)
        said = service.texts()[3:]  # of the turn as a whole, and once
        assert said[0] == "What now?"
        assert said[1].startswith("heard: ")
        assert len(said) == 2


async def test_nothing_is_looked_for_that_is_at_hand_and_not_waited_for(tmp_path: Path) -> None:
    async with remembering() as (service, url), scene(tmp_path, url) as play:
        await play.say("First.")
        await until(lambda: service.asked.count("search") == 2)
        await play.say("Second.")
        await until(lambda: service.asked.count("search") == 3)  # for the third
        assert service.queries[2].startswith("Second.\nheard: ")


async def test_each_attempt_is_told_the_same(tmp_path: Path) -> None:
    async def fails(call: Call) -> None:
        call.head(500, framing="2", content_type="application/json")
        call.send(b"{}")
        call.finish()

    async with AsyncExitStack() as stack:
        ill = await stack.enter_async_context(ScriptedUpstream(fails))
        well = await stack.enter_async_context(ScriptedUpstream(echo))
        service, url = await stack.enter_async_context(remembering())
        settings = {
            "endpoints": [
                {"name": "ill", "base_url": ill.url},
                {"name": "well", "base_url": well.url},
            ],
            "routes": [{"name": "r", "memory": {"store": url, "wait": "5s"}}],
        }
        app = await stack.enter_async_context(running(tmp_path, settings))
        await say(app.data_address, "First.")
        await until(lambda: service.texts())
        await say(app.data_address, "Second.")
        assert "First." in text_of(told(well.calls[-1])[0])
        assert ill.calls[-1].body == well.calls[-1].body


# --- never late ----------------------------------------------------------------------------------


async def test_a_store_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    async with remembering(None) as (service, url), scene(tmp_path, brief(url)) as play:
        answer = await play.say("First.")
        assert answer.headers[HEADER].startswith("late")
        assert play.told() == ["First."]
        answer = await play.say("Second.")  # what this process has heard itself is at hand
        assert answer.headers[HEADER].startswith("used; items=2")
        await until(lambda: "search" in service.asked)
        assert not service.kept


async def test_a_store_that_is_down_holds_nobody_up(tmp_path: Path) -> None:
    async with remembering() as (_, url):
        pass
    async with scene(tmp_path, url, wait="10s") as play:
        began = time.monotonic()
        answer = await play.say("First.")
        assert answer.headers[HEADER].startswith("none")
        assert time.monotonic() - began < 5  # what is refused at once is not waited for
        await play.has_written(1, "failed")
        assert await samples(play.app, "glm_proxy_memory_failures_total")


async def test_what_comes_late_serves_the_next_turn(tmp_path: Path) -> None:
    async with remembering() as (service, url):
        async with scene(tmp_path, url) as play:
            await play.say("My cat is called Whiskers.")
            await play.has_written(1)
        may_answer = asyncio.Event()
        search = service.__call__

        async def script(call: Call) -> None:
            await may_answer.wait()
            await search(call)

        async with ScriptedUpstream(script) as slow, scene(tmp_path, slow.url) as play:
            answer = await play.say("Hello.", session="s")
            assert answer.headers[HEADER].startswith("late")
            may_answer.set()
            await play.has_written(1)
            answer = await play.say("What is my cat called?")
            assert "Whiskers" in play.told()[0]


async def test_a_route_that_waits_is_told_in_the_first_turn(tmp_path: Path) -> None:
    async with remembering() as (service, url):
        async with scene(tmp_path, url) as play:
            await play.say("My cat is called Whiskers.")
            await play.has_written(1)
        service.delay = 0.1
        async with scene(tmp_path, url, wait="10s") as play:
            answer = await play.say("What is my cat called?")
            assert "Whiskers" in play.told()[0]
            assert "saved" not in answer.headers[HEADER]  # all of it was waited for


async def test_no_longer_than_the_route_allows(tmp_path: Path, records: list[Record]) -> None:
    async with remembering(None) as (_, url), scene(tmp_path, brief(url), wait="50ms") as play:
        began = time.monotonic()
        answer = await play.say("First.")
        assert answer.headers[HEADER].startswith("late")
        assert 0.05 <= time.monotonic() - began < 10
        (record,) = records
        assert record.memory is not None
        assert record.memory.what == "late"


# --- only what is whole --------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["torn", "rst", "close"])
async def test_of_a_cut_answer_nothing_is_remembered(tmp_path: Path, ending: str) -> None:
    async def cut(call: Call) -> None:
        if told(call)[-1]["content"] == "Whole.":
            await echo(call)
            return
        call.head()
        call.send(b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"half"}}]}\n\n')
        call.finish(ending)

    async with remembering() as (service, url), scene(tmp_path, url, cut) as play:
        await play.say("Cut.")
        await play.say("Whole.")
        await play.has_written(1)
        assert service.texts()[0] == "Whole."
        assert "Cut." not in play.told()[0]


async def test_of_an_answer_whose_client_left_nothing_is_remembered(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def hangs(call: Call) -> None:
        if told(call)[-1]["content"] == "Whole.":
            await echo(call)
            return
        call.head()
        call.send(b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"half"}}]}\n\n')
        begun.set()

    async with remembering() as (service, url), scene(tmp_path, url, hangs) as play:
        async with RawClient(play.app.data_address) as client:
            messages = [{"role": "user", "content": "Left."}]
            body = orjson.dumps({"model": "glm-4.6", "messages": messages, "stream": True})
            client.post(CHAT, body, "Authorization: Bearer caller.secret", "x-session-id: s")
            await client.head()
            await begun.wait()
        await asyncio.wait_for(play.upstream.calls[0].gone.wait(), 10)
        await play.say("Whole.")
        await play.has_written(1)
        assert service.texts()[0] == "Whole."


async def test_of_an_error_nothing_is_remembered(tmp_path: Path) -> None:
    async def refuses(call: Call) -> None:
        call.head(400, framing="2", content_type="application/json")
        call.send(b"{}")
        call.finish()

    async with remembering() as (service, url), scene(tmp_path, url, refuses) as play:
        answer = await say(play.app.data_address, "Hello.")
        assert answer.status == 400
        await until(lambda: service.asked == ["search"])
        assert not await play.written()


async def test_the_same_turn_again_is_remembered_once(tmp_path: Path) -> None:
    async with remembering() as (service, url), scene(tmp_path, url, nods) as play:
        for _ in range(3):
            await play.say("Again.")
        await play.say("Something else.")
        await play.has_written(2)
        assert service.texts() == ["Again.", "I see.", "Something else.", "I see."]


# --- whose it is ---------------------------------------------------------------------------------


async def test_without_a_name_nothing_is_remembered(tmp_path: Path) -> None:
    async with remembering() as (service, url), scene(tmp_path, url) as play:
        for _ in range(2):
            answer = await play.say("Hello.", session=None)
            assert answer.headers[HEADER] == "none"
        assert service.asked == []
        assert await samples(play.app, "glm_proxy_memory_lookups_total") == [
            ({"route": "remembers", "result": "none"}, 2.0)
        ]


async def test_a_name_in_the_body_does_as_well(tmp_path: Path) -> None:
    async with scene(tmp_path, None) as play:
        await play.say("My cat is called Whiskers.", session=None, user="lin")
        await play.say("What is my cat called?", session=None, user="lin")
        assert "Whiskers" in play.told()[0]
        await play.say("Hi.", session=None, metadata={"user_id": "m"}, path=MESSAGES)
        await play.say("Well?", session=None, metadata={"user_id": "m"}, path=MESSAGES)
        assert "Hi." in play.told()[0]


async def mingle(play: Scene, count: int, seed: int) -> int:
    """Many callers with few names between them; how often something of one's own was told."""
    dice = random.Random(seed)
    used = 0

    async def one(number: int) -> None:
        nonlocal used
        key, session = f"caller{dice.randrange(6)}.secret", f"s{dice.randrange(3)}"
        mark = f"<{key}/{session}>"
        path = dice.choice((CHAT, MESSAGES))
        answer = await play.say(f"{mark} says {number}", key=key, session=session, path=path)
        heard = answer.body.decode().replace("\\u003c", "<").replace("\\\\u003c", "<")
        others = {f"caller{a}.secret/s{b}" for a in range(6) for b in range(3)} - {mark.strip("<>")}
        assert not [other for other in others if other in heard]
        used += answer.headers[HEADER].startswith("used")

    for start in range(0, count, 20):
        await asyncio.gather(*(one(number) for number in range(start, start + 20)))
    return used


async def test_callers_with_the_same_names_never_hear_of_each_other(tmp_path: Path) -> None:
    async with scene(tmp_path, None, wait="5ms") as play:
        assert await mingle(play, 200, seed=1) > 100


@pytest.mark.long
async def test_callers_never_hear_of_each_other_in_two_thousand_requests(tmp_path: Path) -> None:
    async with scene(tmp_path, None, wait="5ms") as play:
        used = await mingle(play, 2_000, seed=2)
        print(f"2,000 requests of 18 conversations: {used} were told something, all of their own")
        assert used > 1_500


# --- what is told of it --------------------------------------------------------------------------


async def test_records_and_metrics_say_what_it_did(tmp_path: Path, records: list[Record]) -> None:
    async with remembering(0.05) as (_, url), scene(tmp_path, url) as play:
        await play.say("First.")
        await play.has_written(1)
        await play.say("Second.")
        last = records[-1].memory
        assert last is not None
        assert (last.what, last.items) == ("used", 2)
        line = fields(records[-1], 0.0)
        assert (line["memory"], line["memory_items"]) == ("used", 2)
        assert line["memory_tokens"] == last.tokens > 20
        assert line["memory_saved_s"] == pytest.approx(last.saved, abs=1e-6)
        (found,) = await samples(play.app, "glm_proxy_memory_items_total")
        assert found == ({"route": "remembers"}, 2.0)
        (saved,) = await samples(play.app, "glm_proxy_memory_saved_seconds_total")
        assert saved[1] > 0
        took = await samples(play.app, "glm_proxy_memory_store_seconds_count")
        assert {labels["operation"] for labels, _ in took} == {"add", "search"}


async def test_a_route_without_memory_says_and_asks_nothing(
    tmp_path: Path, records: list[Record]
) -> None:
    async with remembering() as (service, url), ScriptedUpstream(echo) as upstream:
        other = {"name": "other", "match": {"model": ["other"]}, "memory": {"store": url}}
        settings = in_front_of(upstream, tmp_path, routes=[other])
        async with running(tmp_path, settings) as app:
            answer = await say(app.data_address, "Hello.")
            assert HEADER not in answer.headers
            assert records[-1].memory is None
            assert fields(records[-1], 0.0)["memory"] is None
            assert service.asked == []


# --- its life ------------------------------------------------------------------------------------


async def test_what_waits_is_written_before_the_proxy_ends(tmp_path: Path) -> None:
    async with remembering(0.2) as (service, url):
        async with scene(tmp_path, url) as play:
            await asyncio.gather(*(play.say(f"Turn {n}", session=f"s{n}") for n in range(6)))
        assert len(service.kept) == 6


async def test_a_store_that_hangs_does_not_keep_the_proxy_from_ending(tmp_path: Path) -> None:
    async with remembering(None) as (service, url):
        async with scene(tmp_path, url) as play:
            await play.say("First.")
            await until(lambda: "add" in service.asked)
            began = time.monotonic()
        assert time.monotonic() - began < 10


async def test_new_settings_find_the_store_in_use(tmp_path: Path) -> None:
    async with scene(tmp_path, None) as play:
        await play.say("My cat is called Whiskers.")
        house = play.app.house
        (rule,) = house.config.routes
        assert rule.memory is not None
        shelf = house.memories.shelf(rule.memory.store)
        path = tmp_path / "proxy.yaml"
        path.write_text(path.read_text().replace("remembers", "renamed"))
        await play.app.reload(load(path, {}))
        answer = await play.say("What is my cat called?")
        assert answer.headers["x-glm-proxy-route"] == "renamed"
        assert "Whiskers" in play.told()[0]
        assert play.app.house.memories.shelf(rule.memory.store) is shelf


async def test_what_is_forgotten_is_not_told(tmp_path: Path) -> None:
    async with scene(tmp_path, None) as play:
        await play.say("My cat is called Whiskers.")
        await play.say("My dog is called Rex.", session="other")
        await play.has_written(2)
        house = play.app.house
        scope = next(iter(_scopes(play.app)))
        stores = [rule.memory.store for rule in house.config.routes if rule.memory]
        assert await house.memories.forget(stores, scope, "s") == 2
        answer = await play.say("What is my cat called?")
        assert "used" not in answer.headers[HEADER]
        await play.say("What is my dog called?", session="other")
        assert "Rex" in play.told()[0]
        assert await house.memories.forget(stores, scope, None) >= 4


def _scopes(app: App) -> set[str]:
    memories: Any = app.house.memories
    return {key.scope for shelf in memories._shelves.values() for key in shelf.table._entries}
