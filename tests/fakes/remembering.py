"""A memory service on a real socket, and an upstream that answers with what it was told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson

from tests.fakes.raw_client import Answer, ask
from tests.fakes.upstream import Call, ScriptedUpstream

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
JSON = "application/json"


class MemoryService:
    """Remembers everything, finds the latest. `delay` is in seconds; None: it never answers."""

    def __init__(self, delay: float | None = 0.0) -> None:
        self.delay = delay
        self.asked: list[str] = []
        """What, in order: `search`, `add`, `forget`."""
        self.queries: list[str] = []
        self.kept: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def texts(self) -> list[str]:
        """All that it has, of whomever."""
        return [turn["text"] for turns in self.kept.values() for turn in turns]

    async def __call__(self, call: Call) -> None:
        what = call.path.rpartition("/")[2]
        self.asked.append(what)
        await (asyncio.Event().wait() if self.delay is None else asyncio.sleep(self.delay))
        said = orjson.loads(call.body)
        answer = orjson.dumps(getattr(self, what)(said))
        call.head(framing=str(len(answer)), content_type=JSON)
        call.send(answer)
        call.finish()

    def search(self, said: dict[str, Any]) -> dict[str, Any]:
        self.queries.append(said["query"])
        found = self.kept.get((said["scope"], said["session"]), [])[-said["limit"] :]
        return {"items": [{**turn, "score": 1.0} for turn in found]}

    def add(self, said: dict[str, Any]) -> dict[str, Any]:
        self.kept.setdefault((said["scope"], said["session"]), []).extend(said["turns"])
        return {}

    def forget(self, said: dict[str, Any]) -> dict[str, Any]:
        gone = [
            key
            for key in self.kept
            if key[0] == said["scope"] and said["session"] in (None, key[1])
        ]
        return {"deleted": sum(len(self.kept.pop(key)) for key in gone)}


@asynccontextmanager
async def remembering(delay: float | None = 0.0) -> AsyncIterator[tuple[MemoryService, str]]:
    """A memory service, and its URL."""
    service = MemoryService(delay)
    async with ScriptedUpstream(service) as server:
        yield service, server.url


async def echo(call: Call) -> None:
    """Answers a chat with `heard: ` and its messages' texts, in the way it was asked for."""
    asked = orjson.loads(call.body)
    said = "heard: " + orjson.dumps([text_of(one) for one in asked["messages"]]).decode()
    anthropic = call.path.endswith("/messages")
    if asked.get("stream"):
        call.head()
        for event in _anthropic(said) if anthropic else _openai(said):
            call.send(event)
    else:
        answer = orjson.dumps(_message(said) if anthropic else _completion(said))
        call.head(framing=str(len(answer)), content_type=JSON)
        call.send(answer)
    call.finish()


def text_of(message: dict[str, Any]) -> str:
    content = message["content"] or ""
    return content if isinstance(content, str) else "".join(p.get("text", "") for p in content)


def told(call: Call) -> list[dict[str, Any]]:
    """The messages that an upstream was sent."""
    messages: list[dict[str, Any]] = orjson.loads(call.body)["messages"]
    return messages


def _openai(said: str) -> list[bytes]:
    half = len(said) // 2
    chunks: list[Any] = [{"content": said[:half]}, {"content": said[half:]}]
    events = [{"id": "1", "choices": [{"index": 0, "delta": chunk}]} for chunk in chunks]
    end = {"id": "1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return [*(b"data: %b\n\n" % orjson.dumps(one) for one in (*events, end)), b"data: [DONE]\n\n"]


def _completion(said: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": said}
    return {"id": "1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}


def _anthropic(said: str) -> list[bytes]:
    start = {"type": "message_start", "message": {"id": "m", "content": [], "model": "glm"}}
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text"}}
    delta = {"type": "text_delta", "text": said}
    text = {"type": "content_block_delta", "index": 0, "delta": delta}
    stop = {"type": "content_block_stop", "index": 0}
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    events: list[dict[str, Any]] = [start, block, text, stop, end, {"type": "message_stop"}]
    return [
        b"event: %b\ndata: %b\n\n" % (str(one["type"]).encode(), orjson.dumps(one))
        for one in events
    ]


def _message(said: str) -> dict[str, Any]:
    return {
        **{"id": "m", "type": "message", "role": "assistant", "stop_reason": "end_turn"},
        "content": [{"type": "text", "text": said}],
    }


async def say(
    address: tuple[str, int],
    *texts: str,
    session: str | None = "s",
    key: str = "caller.secret",
    path: str = CHAT,
    stream: bool = True,
    **fields: Any,
) -> Answer:
    """One request whose messages are `texts`, the last of them the user's, and those before it by
    turns."""
    roles = ["user" if n % 2 else "assistant" for n in range(len(texts), 0, -1)]
    messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
    body = {"model": "glm-4.6", "stream": stream, "messages": messages, **fields}
    if path == MESSAGES:
        body["max_tokens"] = 64
    headers = [f"Authorization: Bearer {key}"]
    if session is not None:
        headers.append(f"x-session-id: {session}")
    return await ask(address, path, orjson.dumps(body), *headers)
