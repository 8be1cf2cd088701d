"""Several real proxies with one home of state, and callers who ask all of them at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tests.fakes.raw_client import Answer, RawClient, chat
from tests.fakes.serving import Served, serving
from tests.fakes.upstream import Call, ScriptedUpstream

PATH = "/v1/chat/completions"
TOKENS = 100
"""That each request takes, as the upstream says."""


@dataclass
class Upstream:
    """Answers at once, or when the test lets it."""

    held: asyncio.Event | None = None
    under_way: int = 0
    most: int = 0

    async def answer(self, call: Call) -> None:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        if self.held is not None:
            await self.held.wait()
        body = orjson.dumps(
            {
                "id": "1",
                "model": "glm-4.6",
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "message": {"role": "assistant", "content": "hi"},
                    }
                ],
                "usage": {
                    "prompt_tokens": TOKENS // 2,
                    "completion_tokens": TOKENS // 2,
                    "total_tokens": TOKENS,
                },
            }
        )
        call.head(200, **{"content-type": "application/json"})
        call.send(body)
        call.finish()
        self.under_way -= 1


@dataclass
class Asked:
    """What became of requests."""

    statuses: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def let_in(self) -> int:
        return self.statuses.count(200)

    @property
    def failed(self) -> list[int]:
        """Neither answered nor refused for a limit."""
        return [status for status in self.statuses if status not in (200, 429)]


@asynccontextmanager
async def replicas(
    folder: Path, upstream: ScriptedUpstream, count: int, **settings: Any
) -> AsyncIterator[list[Served]]:
    async with AsyncExitStack() as stack:
        found = []
        key = folder / "upstream.key"
        key.write_text("upstream-key")
        key.chmod(0o600)
        for number in range(count):
            own = folder / f"replica{number}"
            own.mkdir(parents=True)
            found.append(
                await stack.enter_async_context(
                    serving(
                        own,
                        {
                            "endpoints": [
                                {"name": "up", "base_url": upstream.url, "api_key": f"file:{key}"}
                            ],
                            "attempts": {"retries": 0, "breaker": "off"},
                            "admission": {"limit": 1000},
                            **settings,
                        },
                    )
                )
            )
        yield found


async def ask(proxy: Served, *headers: str) -> Answer:
    async with RawClient(proxy.data_address) as client:
        client.post(PATH, chat(stream=False), *headers)
        async with asyncio.timeout(30):
            return await client.whole()


async def flow(proxies: Sequence[Served], count: int, *headers: str, pause: float = 0.0) -> Asked:
    """So many requests to each of them, one after the other, all proxies at once."""
    asked = Asked()

    async def to(proxy: Served) -> None:
        async with RawClient(proxy.data_address) as client:
            for _ in range(count):
                began = time.monotonic()
                client.post(PATH, chat(stream=False), *headers)
                async with asyncio.timeout(30):
                    answer = await client.whole()
                asked.seconds.append(time.monotonic() - began)
                asked.statuses.append(answer.status)
                await asyncio.sleep(pause)

    await asyncio.gather(*map(to, proxies))
    return asked
