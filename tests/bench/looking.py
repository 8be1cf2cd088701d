"""Somebody who looks at a proxy all the time: a trace collector, a scraper and an open page.

    python -m tests.bench.looking COLLECTOR_PORT ADMIN_PORT

It prints a line when it listens, and looks until its standard input ends. What it receives it
reads to the end and forgets: what looking costs is measured in the proxy.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

import aiohttp
from aiohttp import web

_EVERY = 5.0
"""Seconds between two scrapes, as in deploy/prometheus/prometheus.yml."""


async def _take(request: web.Request) -> web.Response:
    await request.read()
    return web.Response(body=b"", content_type="application/x-protobuf")


async def _scrape(session: aiohttp.ClientSession, admin: str) -> None:
    headers = {"Accept": "application/openmetrics-text"}
    while True:
        with suppress(aiohttp.ClientError):
            async with session.get(f"{admin}/metrics", headers=headers) as answer:
                await answer.read()
        await asyncio.sleep(_EVERY)


async def _watch(session: aiohttp.ClientSession, admin: str) -> None:
    while True:
        with suppress(aiohttp.ClientError):
            async with session.get(f"{admin}/admin/live") as answer:
                async for _ in answer.content.iter_any():
                    pass
        await asyncio.sleep(_EVERY)


async def main(collector_port: int, admin_port: int) -> None:
    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/traces", _take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", collector_port).start()
    print("looking", flush=True)
    admin = f"http://127.0.0.1:{admin_port}"
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
        tasks = [group.create_task(look(session, admin)) for look in (_scrape, _watch)]
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
