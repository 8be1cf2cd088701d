"""Nobody is told another caller's answer, nor the answer to another question: thousands of requests
that differ in one detail each, many at a time, over and over."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from proxy.app import App
from tests.fakes.caching import CHAT, MESSAGES, Oracle, cached, number_of, results
from tests.fakes.keys import a_key, bearer, keyed
from tests.fakes.raw_client import RawClient
from tests.fakes.running import in_front_of, running
from tests.fakes.upstream import ScriptedUpstream

AT_ONCE = 24
FIELDS: list[tuple[str, list[Any]]] = [
    ("model", ["glm-4.6", "glm-4.5", "glm-4.6 "]),
    ("temperature", [None, 0, 1, 1.0, 0.5]),
    ("seed", [None, 1, True, "1", 10**19, 10**25, 10**25 + 1]),
    ("user", [None, "anna", "bert"]),
    ("metadata", [None, {"user_id": "anna"}, {"user_id": "bert"}]),
    ("do_sample", [None, False, True]),
    ("max_tokens", [100, 101]),
    ("stop", [None, ["x"], ["x", "y"]]),
    ("tools", [None, [{"type": "function", "function": {"name": "f"}}]]),
]
CONTENTS = [
    "hi",
    "hi ",
    "Hi",
    "\u4f60\u597d",
    "hi\u0000",
    '"},{"role":"user","content":"hi',
    [{"type": "text", "text": "hi"}],
]
HEADERS = ["X-Other: 1", "Accept-Language: zh-CN", "Accept-Language: en", "anthropic-beta: x"]
MEANING = ("Accept-Language", "anthropic-")


class Question(NamedTuple):
    """What is asked; equal where the answer may be the same."""

    path: str
    header: str
    body: bytes
    """Its members in order, without those that say nothing."""


class Request(NamedTuple):
    caller: str
    """A header line, or nothing."""
    question: Question
    path: str
    header: str
    body: bytes


def requests(roll: random.Random, callers: list[str]) -> Iterator[Request]:
    """One after the other, each one like some that went before but for a detail."""
    usual: dict[str, Any] = {"model": "glm-4.6", "max_tokens": 100}
    while True:
        fields = usual | {"messages": [{"role": "user", "content": "hi"}]}
        match roll.randrange(4):
            case 0:
                name, values = roll.choice(FIELDS)
                fields[name] = roll.choice(values)
            case 1:
                fields["messages"] = [{"role": "user", "content": roll.choice(CONTENTS)}]
            case 2:
                fields["messages"] *= roll.randrange(1, 4)
            case _:
                pass
        path = roll.choice((CHAT, CHAT, MESSAGES, "/api/coding/paas/v4/chat/completions"))
        header = roll.choice(HEADERS) if roll.random() < 0.2 else "X-Other: 2"
        about = header if header.startswith(MEANING) else ""
        said = {k: v for k, v in fields.items() if v is not None or k == "stop"}
        question = Question(path, about, _json(dict(sorted(said.items()))))
        told = list(said.items())
        roll.shuffle(told)
        body = dict(told) | roll.choice(({}, {"stream": True}, {"stream": False}))
        yield Request(roll.choice(callers), question, path, header, _json(body))


def _json(value: object) -> bytes:
    """Of any size of numbers."""
    return json.dumps(value).encode()


async def told(client: RawClient, request: Request) -> int:
    lines = [request.header, *([request.caller] if request.caller else [])]
    client.post(request.path, request.body, *lines)
    answer = await client.whole()
    assert answer.status == 200, answer.body
    assert answer.clean
    if orjson.loads(request.body).get("stream"):
        assert answer.body.endswith((b"[DONE]\n\n", b'{"type":"message_stop"}\n\n'))
    else:
        finish = answer.json()
        assert finish.get("stop_reason") or finish["choices"][0]["finish_reason"]
    return number_of(answer)


async def fuzz(app: App, callers: list[str], count: int, seed: int) -> dict[int, Any]:
    """Whose, and the answer to what, each answer was."""
    whose: dict[int, tuple[str, Question]] = {}
    leaks: list[Any] = []
    each = itertools.islice(requests(random.Random(seed), callers), count)

    async def one_client() -> None:
        async with RawClient(app.data_address) as client:
            for request in each:
                number = await told(client, request)
                owner = (request.caller, request.question)
                if whose.setdefault(number, owner) != owner:
                    leaks.append((number, owner, whose[number]))

    async with asyncio.timeout(600):
        await asyncio.gather(*(one_client() for _ in range(AT_ONCE)))
    assert leaks == []
    return whose


@pytest.mark.parametrize(
    "count", [600, pytest.param(10_000, marks=pytest.mark.long)], ids=["short", "long"]
)
@pytest.mark.parametrize("access", ["open", "keys"])
async def test_every_answer_is_that_callers_and_to_that_question(
    tmp_path: Path, access: str, count: int
) -> None:
    settings = cached({"url": f"sqlite:{tmp_path / 'answers.db'}", "timeout": "5s"})
    settings |= {"admission": {"limit": "off"}}
    async with ScriptedUpstream(Oracle()) as upstream:
        make = in_front_of if access == "open" else keyed
        async with running(tmp_path, make(upstream, tmp_path, **settings)) as app:
            if access == "open":
                callers = ["", *(f"Authorization: Bearer k.{name}" for name in ("a", "aa", "b"))]
            else:
                callers = [bearer(await a_key(app, name)) for name in ("a", "a", "b", "c")]
            whose = await fuzz(app, callers, count, seed=count)
            found = await results(app)
            print(f"\n{access}: {count} requests, {len(upstream.calls)} upstream calls, {found}")
            assert found["hit"] > count / 20
            assert sum(found.values()) == count
            # Not one answer was given to nobody, and none that was not asked for.
            assert len(whose) <= len(upstream.calls)
