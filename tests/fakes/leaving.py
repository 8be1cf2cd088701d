"""Answers to leave and to come back to: an upstream's, and a client that reads them in parts."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson

from tests.fakes.raw_client import Answer, RawClient, chat
from tests.fakes.upstream import Call

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
CALLER = "Authorization: Bearer caller.secret"
OTHER = "Authorization: Bearer another.secret"
KEEP: dict[str, Any] = {"routes": [{"name": "kept", "on_disconnect": {"keep": "60s"}}]}
DRAIN: dict[str, Any] = {"routes": [{"name": "drained", "on_disconnect": {"drain": "30s"}}]}
DONE = b"data: [DONE]\n\n"
_ID = re.compile(rb"^id: (\d+)$", re.MULTILINE)


def token(text: str) -> bytes:
    delta = {"index": 0, "delta": {"content": text}}
    return b"data: " + orjson.dumps({"id": "1", "choices": [delta]}) + b"\n\n"


USAGE = (
    b'data: {"id":"1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":7,"completion_tokens":5,"total_tokens":12}}\n\n'
)


def openai_answer(seed: str, events: int = 40) -> list[bytes]:
    """An answer of OpenAI's dialect, another one for each seed."""
    roll = random.Random(seed)
    texts = [roll.choice("甲乙丙丁abc") * roll.randint(1, 60) for _ in range(events)]
    return [*map(token, texts), USAGE, DONE]


def anthropic_answer(seed: str, events: int = 40) -> list[bytes]:
    """The same in Anthropic's."""
    roll = random.Random(seed)
    message = {"id": "m", "role": "assistant", "content": [], "usage": {"input_tokens": 7}}
    block: dict[str, Any] = {"index": 0, "content_block": {"type": "text", "text": ""}}
    deltas = [
        {"index": 0, "delta": {"type": "text_delta", "text": "丁" * roll.randint(1, 60)}}
        for _ in range(events)
    ]
    end = {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}
    return [
        _named("message_start", {"message": {"type": "message", **message}}),
        _named("content_block_start", block),
        *(_named("content_block_delta", delta) for delta in deltas),
        _named("content_block_stop", {"index": 0}),
        _named("message_delta", end),
        _named("message_stop", {}),
    ]


def _named(name: str, value: dict[str, Any]) -> bytes:
    data = orjson.dumps({"type": name, **value})
    return b"event: %b\ndata: %b\n\n" % (name.encode(), data)


def with_ids(events: list[bytes]) -> list[bytes]:
    """As they are to come where events are numbered."""
    return [b"%bid: %d\n\n" % (event[:-1], number) for number, event in enumerate(events, 1)]


def answer_to(call: Call) -> list[bytes]:
    make = anthropic_answer if call.path.endswith("/messages") else openai_answer
    return make(call.headers["x-title"])


async def at_leisure(call: Call) -> None:
    """Answers in pieces that are not whole events, with pauses."""
    roll = random.Random(call.headers["x-title"])
    data = b"".join(answer_to(call))
    call.head()
    while data and not call.gone.is_set():
        size = roll.randint(1, 600)
        call.send(data[:size])
        data = data[size:]
        await asyncio.sleep(roll.random() * 0.01)
    call.finish()


@asynccontextmanager
async def asked(
    address: tuple[str, int], path: str, *headers: str, body: bytes | None = None
) -> AsyncIterator[tuple[RawClient, Answer]]:
    """A client whose answer has begun: POST for a chat, GET for what is kept."""
    async with RawClient(address) as client:
        if path in (CHAT, MESSAGES):
            client.post(path, chat() if body is None else body, *headers)
        else:
            lines = [f"GET {path} HTTP/1.1", "Host: proxy", *headers, "", ""]
            client.writer.write("\r\n".join(lines).encode())
        async with asyncio.timeout(20):
            head = await client.head()
        yield client, head


async def fetch(address: tuple[str, int], name: str, *headers: str) -> Answer:
    """A kept stream, to its end."""
    async with RawClient(address) as client:
        lines = [f"GET /v1/streams/{name} HTTP/1.1", "Host: proxy", *headers, "", ""]
        client.writer.write("\r\n".join(lines).encode())
        async with asyncio.timeout(20):
            return await client.whole()


def received(events: list[bytes]) -> int:
    """What a client says that it has: the last id, else how many came."""
    for event in reversed(events):
        if found := _ID.search(event):
            return int(found[1])
    return sum(not event.startswith(b":") for event in events)


class Comer:
    """A client that leaves at random places, and comes back until it has the whole."""

    def __init__(self, path: str, seed: str) -> None:
        self.path = path
        self.seed = seed
        self.events: list[bytes] = []
        self.visits = 0
        self._roll = random.Random(f"comer {seed}")
        self._name = ""

    @property
    def whole(self) -> bytes:
        """The whole answer as it should have come."""
        if self.path == CHAT:
            return b"".join(openai_answer(self.seed))
        return b"".join(with_ids(anthropic_answer(self.seed)))

    async def read(self, addresses: list[tuple[str, int]], *headers: str) -> bytes:
        """All that came, put together."""
        over = False
        while not over:
            over = await self._visit(self._roll.choice(addresses), headers)
        return b"".join(self.events)

    async def _visit(self, address: tuple[str, int], headers: tuple[str, ...]) -> bool:
        """Whether the end came."""
        path, more = self.path, f"X-Title: {self.seed}"
        if self.visits:
            path, more = f"/v1/streams/{self._name}", f"Last-Event-ID: {received(self.events)}"
        self.visits += 1
        left = 1000 if self.visits > 4 else self._roll.choice([0, 1, 3, 10, 1000])
        async with asked(address, path, CALLER, more, *headers) as (client, head):
            assert head.status == 200, head
            self._name = head.headers["x-glm-proxy-stream"]
            for _ in range(left):
                async with asyncio.timeout(20):
                    chunk = await client.chunk()
                if not chunk:
                    return True
                self.events.append(chunk)
        return False
