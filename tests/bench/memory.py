"""What memory adds to the first content: `python -m tests.bench.memory [ROUNDS]`.

One proxy (a process of its own) before an upstream that answers at once. In each round every
variant is asked once, in an order that is drawn anew: without memory, and with a store that takes
300 ms, that hangs, or that is down, each with `wait` 0, 50 ms, and 10 s: the last is retrieval as
it is usually done, in line. Each request is a conversation of its own, so that nothing is at hand;
`told` is one that goes on, and is told what was fetched before. What a variant adds is the median
over the rounds of its time less that without memory in the same round.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson
import uvloop

from tests.bench import machine
from tests.fakes.raw_client import RawClient
from tests.fakes.remembering import CHAT, remembering
from tests.fakes.serving import serving
from tests.fakes.upstream import Call, ScriptedUpstream

ROUNDS: Final = 60
_WAITS: Final = {"0ms": "wait 0", "50ms": "wait 50ms", "10s": "in line"}
_STORES: Final = {"slow": 0.3, "hangs": None, "down": 0.0, "told": 0.0}
"""Seconds that each takes to answer; None: it never does."""
_FOREVER: Final = "60s"
"""The hanging store's own timeout: so long that its breaker cannot make it look good."""


async def answer(call: Call) -> None:
    """At once."""
    call.head()
    call.send(b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"I see."}}]}\n\n')
    call.send(b"data: [DONE]\n\n")
    call.finish()


@asynccontextmanager
async def proxied(folder: Path) -> AsyncIterator[tuple[str, int]]:
    """Where a proxy listens, of which each variant is a model."""
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream(answer))
        routes = [_route("told", "0ms", await _store(stack, "told"))]
        for kind in ("slow", "hangs", "down"):
            url = await _store(stack, kind)
            routes += [_route(f"{kind} {wait}", wait, f"{url}/{wait}") for wait in _WAITS]
        settings = {
            "endpoints": [{"name": "up", "base_url": upstream.url}],
            "routes": routes,
        }
        served = await stack.enter_async_context(serving(folder, settings))
        yield served.data_address


async def _store(stack: AsyncExitStack, kind: str) -> str:
    if kind == "down":  # nobody listens where somebody did
        async with remembering() as (_, url):
            return url
    _, url = await stack.enter_async_context(remembering(_STORES[kind]))
    return url


def _route(model: str, wait: str, url: str) -> dict[str, Any]:
    timeout = _FOREVER if model.startswith("hangs") else "2s"
    memory = {"store": {"url": url, "timeout": timeout}, "wait": wait}
    name = model.replace(" ", "-")
    return {"name": name, "match": {"model": [model]}, "memory": memory}


async def first_content(client: RawClient, model: str, session: str) -> float:
    """Milliseconds from the request to the first content."""
    messages = [{"role": "user", "content": f"What did I say before {session}?"}]
    body = orjson.dumps({"model": model, "messages": messages, "stream": True})
    began = time.perf_counter()
    client.post(CHAT, body, f"x-session-id: {session}")
    head = await client.head()
    assert head.status == 200, head
    if model == "told":
        assert head.headers["x-glm-proxy-memory"].startswith("used"), head.headers
    await client.chunk()
    spent = time.perf_counter() - began
    while await client.chunk():
        pass
    return spent * 1000


async def measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each variant, by rounds."""
    interleaved = [
        "off",
        "told",
        *(f"{kind} {wait}" for kind in ("slow", "hangs", "down") for wait in _WAITS),
    ]
    interleaved.remove("hangs 10s")  # ten seconds each: they are asked together, at the end
    spent: dict[str, list[float]] = {model: [] for model in interleaved}
    order = random.Random(1)
    async with proxied(folder) as address:
        async with RawClient(address) as client:
            for model in ("off", "told off"):
                await first_content(client, model, "warm")
            await _first_turn(client)
            for number in range(rounds):
                for model in order.sample(interleaved, len(interleaved)):
                    session = (
                        "goes-on" if model == "told" else f"{model.replace(' ', '-')}-{number}"
                    )
                    spent[model].append(await first_content(client, model, session))
        in_line = (_alone(address, "hangs 10s", number) for number in range(rounds))
        spent["hangs 10s"] = list(await asyncio.gather(*in_line))
    return spent


async def _first_turn(client: RawClient) -> None:
    """After it, what was said is at hand."""
    body = {"model": "told", "messages": [{"role": "user", "content": "Remember me."}]}
    client.post(CHAT, orjson.dumps({**body, "stream": True}), "x-session-id: goes-on")
    await client.head()
    while await client.chunk():
        pass


async def _alone(address: tuple[str, int], model: str, number: int) -> float:
    async with RawClient(address) as client:
        return await first_content(client, model, f"alone-{number}")


def table(spent: dict[str, list[float]]) -> str:
    """As Markdown."""
    plain = spent["off"]
    lines = [
        "| store | memory | first content p50 | added p50 | requests |",
        "| --- | --- | --- | --- | --- |",
    ]
    for model, times in spent.items():
        kind, _, wait = model.partition(" ")
        added = median(a - b for a, b in zip(times, plain, strict=True))
        what = _WAITS.get(wait, "told, wait 0" if kind == "told" else "none")
        store = {"slow": "takes 300 ms", "hangs": "hangs", "down": "is down"}.get(kind, "")
        lines.append(
            f"| {store} | {what} | {median(times):.2f} ms | {added:+.2f} ms | {len(times)} |"
        )
    return "\n".join(lines)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory(prefix="glm-proxy-memory-") as folder:
        print(table(uvloop.run(measure(Path(folder), rounds))))
    print(f"\n{rounds} rounds, interleaved; {machine.describe()}")


if __name__ == "__main__":
    main()
