"""`/admin/live`: the same for all who watch, nothing for who does not read, an end with the app."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from proxy.admin import live
from proxy.admin.live import EXCHANGES, WATCHERS, Live
from proxy.observe.exchanges import Exchanges
from tests.fakes.operator import LONGEST, get, listening, watching
from tests.fakes.records import a_record


class Scene:
    """A listener with nothing but `/admin/live`."""

    def __init__(self) -> None:
        self.exchanges = Exchanges(500)
        self.asked = 0
        self.more: dict[str, object] = {}
        self.live = Live(self.exchanges, self._status)
        self.runner: web.AppRunner
        self.url = ""

    def _status(self) -> dict[str, object]:
        self.asked += 1
        return {"finished": self.exchanges.count, "asked": self.asked} | self.more

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LONGEST):
            while not condition():
                await asyncio.sleep(0.01)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    async with listening(live.routes(scene.live), scene.live.close) as (scene.runner, url):
        scene.url = f"{url}/admin/live"
        yield scene


async def test_the_status_comes_at_once_and_again(scene: Scene) -> None:
    async with watching(scene.url) as watcher:
        assert watcher.answer.headers["content-type"] == "text/event-stream"
        assert await watcher.next() == ("status", {"finished": 0, "asked": 1})
        assert await watcher.next() == ("status", {"finished": 0, "asked": 2})


async def test_an_exchange_that_finishes_is_told_with_its_summary(scene: Scene) -> None:
    scene.exchanges.finish(a_record(request_id="before"))
    async with watching(scene.url) as watcher:
        await watcher.next("status")
        scene.exchanges.finish(a_record(request_id="now", requested_model="<b>\r\n\r\ndata: x"))
        _, told = await watcher.next("exchange")
        assert (told["request_id"], told["first_content_s"]) == ("now", 1.5)
        assert told["requested_model"] == r"<b>\r\n\r\ndata: x"


async def test_of_many_exchanges_some_are_told_and_the_rest_are_counted(scene: Scene) -> None:
    async with watching(scene.url) as watcher:
        await watcher.next("status")
        for number in range(300):
            scene.exchanges.finish(a_record(request_id=f"r{number}"))
        told: list[Any] = []
        skipped = 0
        while len(told) + skipped < 300:
            kind, data = await watcher.next()
            if kind == "exchange":
                told.append(data)
            elif kind == "skipped":
                skipped += data["count"]
        assert 0 < len(told) <= EXCHANGES
        assert len(told) + skipped == 300


async def test_the_status_is_made_once_for_all_and_not_at_all_for_nobody(scene: Scene) -> None:
    async with AsyncExitStack() as stack:
        watchers = [await stack.enter_async_context(watching(scene.url)) for _ in range(5)]
        for watcher in watchers:
            await watcher.next("status")
        told = [await watcher.next("status") for watcher in watchers]
        assert all(one == told[0] for one in told)
        assert scene.asked < 5
    await scene.until(lambda: scene.live.watchers == 0)
    asked = scene.asked
    await asyncio.sleep(1.3)  # more than a second, in which somebody would be told
    assert scene.asked == asked


async def test_there_is_an_end_to_the_watchers_and_a_place_when_one_leaves(scene: Scene) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(WATCHERS - 1):
            await stack.enter_async_context(watching(scene.url))
        async with watching(scene.url) as last:
            refused = await get(scene.url)
            assert (refused.status, refused.headers["retry-after"]) == (503, "10")
            assert refused.json()["error"]["code"] == "too_many_watchers"
            assert (await last.next())[0] == "status"
        await scene.until(lambda: scene.live.watchers == WATCHERS - 1)
        another = await stack.enter_async_context(watching(scene.url))
        assert (await another.next())[0] == "status"


@asynccontextmanager
async def not_reading(scene: Scene) -> AsyncIterator[None]:
    """A watcher that asks, and then takes no byte."""
    watchers = scene.live.watchers
    with socket.socket() as client:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        loop, url = asyncio.get_running_loop(), URL(scene.url)
        await loop.sock_connect(client, (url.host, url.port))
        await loop.sock_sendall(client, b"GET /admin/live HTTP/1.1\r\nHost: a\r\n\r\n")
        await scene.until(lambda: scene.live.watchers == watchers + 1)
        yield


@pytest.mark.parametrize(("queue", "send"), [(12, 600.0), (10_000, 0.5)])
async def test_a_watcher_that_does_not_read_is_dropped_and_others_go_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, queue: int, send: float
) -> None:
    """When its queue is full, or when it has taken nothing for too long."""
    monkeypatch.setattr(live, "QUEUE", queue)
    monkeypatch.setattr(live, "_SEND", send)
    scene.more = {"padding": "x" * 400_000}
    async with not_reading(scene), watching(scene.url) as watcher:
        assert scene.live.watchers == 2
        while scene.live.watchers == 2:
            scene.exchanges.finish(a_record())
            await watcher.next()
        assert scene.live.watchers == 1
        await watcher.next("status")


@pytest.mark.parametrize("watchers", [1, WATCHERS])
async def test_the_apps_end_ends_every_watcher_at_once(scene: Scene, watchers: int) -> None:
    async with AsyncExitStack() as stack:
        open_ = [await stack.enter_async_context(watching(scene.url)) for _ in range(watchers)]
        for watcher in open_:
            await watcher.next("status")
        began = time.monotonic()
        await scene.runner.cleanup()
        assert time.monotonic() - began < 5.0  # aiohttp waits for 60 s
        assert all([await watcher.ended() for watcher in open_])
    assert scene.live.watchers == 0


async def test_a_watcher_that_does_not_read_does_not_hold_up_the_apps_end(scene: Scene) -> None:
    scene.more = {"padding": "x" * 8_000_000}
    async with not_reading(scene):
        began = time.monotonic()
        await scene.runner.cleanup()
        assert time.monotonic() - began < 5.0
    assert scene.live.watchers == 0


async def test_nobody_can_watch_what_is_stopping(scene: Scene) -> None:
    await scene.live.close(web.Application())
    answer = await get(scene.url)
    assert (answer.status, answer.json()["error"]["code"]) == (503, "stopping")


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT"])
async def test_it_is_for_get_alone(scene: Scene, method: str) -> None:
    answer = await get(scene.url, method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET")
