"""How soon a kept answer begins, through a real proxy: kept in a file, and in Redis.

    python -m tests.bench.cache

The proxy is a process of its own, the upstream and the client are here: the time is from the
request's first byte written to the first byte of the answer's body. Beside it, on the same
connection, the path without any of it: a small passed-through answer would need the upstream, so
it is `GET /v1/models`, which the proxy answers by itself.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles
from typing import Final

import orjson
import uvloop

from tests.fakes.raw_client import RawClient, chat
from tests.fakes.running import in_front_of
from tests.fakes.serving import serving
from tests.fakes.upstream import Call, ScriptedUpstream
from tests.state.servers import redis_program, running_redis

HITS: Final = 500
EVENTS: Final = 200
CHAT: Final = "/v1/chat/completions"


def chunk(delta: dict[str, str], **more: object) -> bytes:
    choice = {"index": 0, "delta": delta, **more}
    return b"data: " + orjson.dumps({"id": "a", "created": 1, "choices": [choice]}) + b"\n\n"


ANSWER: Final = [
    *(chunk({"role": "assistant", "content": f" word{n}"}) for n in range(EVENTS)),
    b'data: {"id":"a","created":1,"choices":[{"index":0,"finish_reason":"stop","delta":{}}],'
    b'"usage":{"prompt_tokens":9,"completion_tokens":200,"total_tokens":209}}\n\n',
    b"data: [DONE]\n\n",
]


async def upstream(call: Call) -> None:
    call.head()
    call.send(b"".join(ANSWER))
    call.finish()


@asynccontextmanager
async def redis_url(folder: Path) -> AsyncIterator[str | None]:
    program = redis_program()
    if program is None:
        yield None
        return
    async with running_redis(program, folder) as server:
        yield server.url


async def first_byte(client: RawClient, body: bytes) -> float:
    """Seconds to the first byte of the body; the rest is read."""
    began = time.perf_counter()
    client.post(CHAT, body)
    head = await client.head()
    assert head.headers["x-glm-proxy-cache"] == "hit", head.headers
    await client.reader.read(1)
    took = time.perf_counter() - began
    if length := head.headers.get("content-length"):
        await client.reader.readexactly(int(length) - 1)
    else:
        await client.reader.readuntil(b"\r\n0\r\n\r\n")
    return took


async def nothing(client: RawClient) -> float:
    """Seconds for an answer that needs no store."""
    began = time.perf_counter()
    client.writer.write(b"GET /v1/models HTTP/1.1\r\nHost: proxy\r\n\r\n")
    head = await client.head()
    await client.reader.read(1)
    took = time.perf_counter() - began
    await client.reader.readexactly(int(head.headers["content-length"]) - 1)
    return took


async def measure(url: str) -> None:
    kind = url.partition(":")[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with ScriptedUpstream(upstream) as up:
            settings = in_front_of(up, folder, routes=[{"name": "kept", "cache": {"store": url}}])
            async with (
                serving(folder, settings) as served,
                RawClient(served.data_address) as client,
            ):
                client.post(CHAT, chat())
                await client.whole()
                for what, body in (("stream", chat()), ("whole", chat(stream=False))):
                    for _ in range(50):
                        await first_byte(client, body)
                    show(f"{kind} {what}", [await first_byte(client, body) for _ in range(HITS)])
                show(f"{kind} (models, no store)", [await nothing(client) for _ in range(HITS)])
                assert len(up.calls) == 1


def show(what: str, seconds: list[float]) -> None:
    cuts = quantiles(seconds, n=100)
    print(
        f"{what:28} {len(seconds)} hits   p50 {cuts[49] * 1000:.2f} ms"
        f"   p90 {cuts[89] * 1000:.2f} ms   p99 {cuts[98] * 1000:.2f} ms"
    )


async def main() -> None:
    print(f"time to the first byte of the body; answers of {EVENTS + 2} events")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await measure(f"sqlite:{folder / 'answers.db'}")
        async with redis_url(folder) as url:
            if url is None:
                print("redis-server is not installed")
            else:
                await measure(url)


if __name__ == "__main__":
    uvloop.run(main())
