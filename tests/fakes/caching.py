"""A proxy with a cache, in front of an upstream that never gives the same answer twice."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from proxy.app import App
from tests.fakes.raw_client import Answer
from tests.fakes.running import in_front_of, running, samples
from tests.fakes.upstream import Call, ScriptedUpstream

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
Script = Callable[[Call], Awaitable[None]]


class Oracle:
    """Answers in the dialect and the form that is asked for, each time with a new number."""

    def __init__(self, finish: str = "stop") -> None:
        self.finish = finish
        self.turn: asyncio.Semaphore | None = None
        """With one, each answer waits for it after its head."""
        self._numbers = itertools.count(1)

    async def __call__(self, call: Call) -> None:
        number = next(self._numbers)
        asked = orjson.loads(call.body)
        anthropic = "anthropic" in call.path
        if asked.get("stream"):
            call.head()
            if self.turn is not None:
                await self.turn.acquire()
            events = message_events(number) if anthropic else chunks(number, self.finish)
            call.send(b"".join(events))
        else:
            if self.turn is not None:
                await self.turn.acquire()
            body = orjson.dumps(message(number) if anthropic else completion(number, self.finish))
            call.head(content_type="application/json", framing=str(len(body)))
            call.send(body)
        call.finish()


def chunks(number: int, finish: str = "stop") -> list[bytes]:
    """A stream of GLM's."""
    base = {"id": f"chat-{number}", "created": 7, "model": "glm-4.6"}
    deltas = [{"role": "assistant", "reasoning_content": "hm"}]
    deltas += [{"role": "assistant", "content": text} for text in ("answer ", "no. ", str(number))]
    last = {"index": 0, "finish_reason": finish, "delta": {"role": "assistant", "content": ""}}
    return [
        *(_event(base | {"choices": [{"index": 0, "delta": delta}]}) for delta in deltas),
        _event(base | {"choices": [last], "usage": _USAGE}),
        b"data: [DONE]\n\n",
    ]


def completion(number: int, finish: str = "stop") -> dict[str, Any]:
    """The same answer as a whole."""
    content = {"content": f"answer no. {number}", "reasoning_content": "hm"}
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", **content}}
    name = f"chat-{number}"
    told = {"id": name, "request_id": name, "created": 7, "model": "glm-4.6"}
    return told | {"choices": [choice], "usage": _USAGE}


def message_events(number: int) -> list[bytes]:
    """A stream of Anthropic's."""
    usage = {"input_tokens": 3, "output_tokens": 0}
    begun: dict[str, Any] = {
        "id": f"msg-{number}",
        "type": "message",
        "role": "assistant",
        "model": "glm-4.6",
    }
    begun |= {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    text = {"type": "text_delta", "text": f"answer no. {number}"}
    ended = {"stop_reason": "end_turn", "stop_sequence": None}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": text},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": ended, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]
    return [_event(event, event["type"]) for event in events]


def message(number: int) -> dict[str, Any]:
    """The same answer as a whole."""
    return {
        **{"id": f"msg-{number}", "type": "message", "role": "assistant", "model": "glm-4.6"},
        "content": [{"type": "text", "text": f"answer no. {number}"}],
        **{"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"input_tokens": 3, "output_tokens": 5},
    }


_USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}


def _event(value: dict[str, Any], name: str = "") -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + orjson.dumps(value) + b"\n\n"


def number_of(answer: Answer) -> int:
    """Which answer it is, whatever its form; ValueError for what is none, or two."""
    found = {int(one.split(b'"')[0]) for one in answer.body.split(b'"chat-')[1:]}
    found |= {int(one.split(b'"')[0]) for one in answer.body.split(b'"msg-')[1:]}
    (number,) = found
    return number


def cached(store: object, *, route: dict[str, Any] | None = None, **cache: Any) -> dict[str, Any]:
    """The settings of a proxy whose only route has a cache; `route`: what else it has."""
    return {"routes": [{"name": "kept", "cache": {"store": store, **cache}, **(route or {})}]}


@asynccontextmanager
async def caching(
    folder: Path, script: Script, *, store: object = None, **more: Any
) -> AsyncIterator[tuple[ScriptedUpstream, App]]:
    """A proxy that keeps answers in a file of `folder`, or where `store` says. `more`: settings of
    the cache; in `route` of the route, in `settings` others."""
    settings = more.pop("settings", {})
    place = store or {"url": f"sqlite:{folder / 'answers.db'}", "timeout": "5s"}
    async with (
        ScriptedUpstream(script) as upstream,
        running(folder, in_front_of(upstream, folder, **cached(place, **more), **settings)) as app,
    ):
        yield upstream, app


def entries(folder: Path) -> int:
    """How many answers are kept in the file of `folder`; once the proxy has stopped, all that ever
    will be."""
    with sqlite3.connect(folder / "answers.db") as db:
        return int(db.execute("SELECT count(*) FROM entries").fetchone()[0])


async def results(app: App) -> dict[str, int]:
    """How often the cache had what."""
    found = await samples(app, "glm_proxy_cache_requests_total")
    return {labels["result"]: int(value) for labels, value in found if value}
