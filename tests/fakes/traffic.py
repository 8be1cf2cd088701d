"""Clients that keep asking while a proxy is restarted, and count what went wrong for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import orjson

from tests.fakes.raw_client import Answer, RawClient, chat
from tests.fakes.upstream import Call

_PATH = "/v1/chat/completions"
_TICK = 0.1


async def script(call: Call) -> None:
    """Streams for as many seconds as the model's name says: `for-0`, `for-2.5`."""
    seconds = float(orjson.loads(call.body)["model"].partition("-")[2])
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    call.head()
    call.send(_event({"delta": {"role": "assistant", "content": "Hello"}}))
    while loop.time() < end and not call.gone.is_set():
        call.send(_event({"delta": {"content": " there"}}))
        await asyncio.sleep(_TICK)
    usage = {"prompt_tokens": 7, "completion_tokens": 5}
    call.send(_event({"delta": {}, "finish_reason": "stop"}, usage=usage))
    call.send(b"data: [DONE]\n\n")
    call.finish()


def _event(choice: dict[str, object], **more: object) -> bytes:
    return (
        b"data: " + orjson.dumps({"id": "1", "choices": [{"index": 0, **choice}], **more}) + b"\n\n"
    )


@dataclass
class Traffic:
    """What came of each request: `whole`, `refused`, `reset` (no answer), `cut`, `told` (an error
    event), or another status than 200."""

    address: tuple[str, int]
    outcomes: Counter[str] = field(default_factory=Counter)
    begun: int = 0
    """Streams that have begun, those that have ended included."""
    _kept: list[RawClient] = field(default_factory=list)
    """Connections that may be used again, the latest last."""

    @property
    def failed(self) -> dict[str, int]:
        return {what: count for what, count in self.outcomes.items() if what != "whole"}

    async def stream(self, seconds: float) -> str:
        """One answer that takes so long, on a connection of its own."""
        return await self._ask(chat(model=f"for-{seconds}"), keep=False, begun=1)

    async def quick(self, *, keep: bool) -> str:
        """One short answer; `keep` uses connections again as HTTP libraries do."""
        return await self._ask(chat(model="for-0"), keep=keep)

    async def _ask(self, body: bytes, *, keep: bool, begun: int = 0) -> str:
        try:
            outcome = await self._answered(body, keep=keep, begun=begun)
        except ConnectionRefusedError:
            outcome = "refused"
        except (OSError, asyncio.IncompleteReadError):
            outcome = "reset"
        self.outcomes[outcome] += 1
        return outcome

    async def _answered(self, body: bytes, *, keep: bool, begun: int) -> str:
        async with contextlib.AsyncExitStack() as stack:
            client = self._again() if keep else None
            if client is None:
                client = RawClient(self.address)
                await client.__aenter__()
            stack.push_async_exit(client.__aexit__)
            client.post(_PATH, body)
            answer = await client.head()
            self.begun += begun
            await _rest(client, answer)
            if keep and answer.clean and answer.headers.get("connection") != "close":
                stack.pop_all()
                self._kept.append(client)
            return _outcome(answer)

    def _again(self) -> RawClient | None:
        while self._kept:
            client = self._kept.pop()
            if not client.reader.at_eof():
                return client
            client.writer.close()
        return None

    async def close(self) -> None:
        for client in self._kept:
            await client.__aexit__()
        self._kept.clear()

    @contextlib.asynccontextmanager
    async def flowing(self, rate: float) -> AsyncIterator[None]:
        """So many quick requests a second while entered, every second one on a kept connection."""
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(self._send(group, rate))
            try:
                yield
            finally:
                sending.cancel()
        await self.close()

    async def _send(self, group: asyncio.TaskGroup, rate: float) -> None:
        loop = asyncio.get_running_loop()
        at, keep = loop.time(), False
        while True:
            group.create_task(self.quick(keep=keep))
            keep = not keep
            at += 1 / rate
            await asyncio.sleep(at - loop.time())


async def _rest(client: RawClient, answer: Answer) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ValueError):
        while data := await client.chunk():
            answer.chunks.append(data)
        answer.clean = True


def _outcome(answer: Answer) -> str:
    if answer.status != 200:
        return str(answer.status)
    if b'"error"' in answer.body:
        return "told"
    return "whole" if answer.clean and b"[DONE]" in answer.body else "cut"
