"""What one WebSocket can make the proxy hold is bounded, and counts with what all clients do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect

from proxy.app import App
from proxy.net.data_server import DataServer
from proxy.net.websocket import Socket
from tests.fakes.chatting import DONE, PATH, chunk, of
from tests.fakes.running import in_front_of, running
from tests.fakes.until import until
from tests.fakes.upstream import Call, ScriptedUpstream

RESPONSES = "/v1/responses"
ROUTES = [{"name": "all", "responses": {}, "websocket": True}]
MIB = 1 << 20


async def script(call: Call) -> None:
    """The user's name says how it is answered, up to the first dash."""
    match of(call).partition("-")[0]:
        case "silent":
            return
        case "open":
            call.head()
            call.send(chunk("1", "one"))
            return
        case "few":
            call.head()
            call.send(chunk("1", "x") * 3 + DONE)
        case "endless":
            call.head()
            while not call.gone.is_set():
                call.send(chunk("1", "x" * 8000) * 4)
                await asyncio.sleep(0.005)
            return
        case "large":
            call.head(content_type="application/json")
            said = {"role": "assistant", "content": "x" * MIB}
            call.send(orjson.dumps({"id": "1", "choices": [{"index": 0, "message": said}]}))
        case _:
            call.head()
            call.send(chunk("1", "one") + DONE)
    call.finish()


@asynccontextmanager
async def served(folder: Path, **settings: Any) -> AsyncIterator[tuple[App, ScriptedUpstream]]:
    settings = {"routes": ROUTES, "attempts": {"retries": 0}, **settings}
    async with (
        ScriptedUpstream(script) as upstream,
        running(folder, in_front_of(upstream, folder, **settings)) as app,
    ):
        yield app, upstream


@asynccontextmanager
async def opened(app: App, path: str) -> AsyncIterator[ClientConnection]:
    """A WebSocket whose client takes little that it does not read."""
    host, port = app.data_address
    line = socket.socket()
    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    line.setblocking(False)
    await asyncio.get_running_loop().sock_connect(line, (host, port))
    async with connect(
        f"ws://{host}:{port}{path}", sock=line, proxy=None, compression=None, max_size=None
    ) as client:
        yield client


def of_server(app: App) -> tuple[DataServer, Socket]:
    server = app._server
    assert server is not None
    (one,) = server.sockets.open
    return server, one


def held(app: App) -> int:
    assert app._server is not None
    return app._server._store.held


def chat(id: str, user: str, text: str = "hi", **fields: Any) -> str:
    messages = [{"role": "user", "content": text}]
    body = {"model": "glm-4.6", "messages": messages, "stream": True, "user_id": user}
    return orjson.dumps({"id": id, "body": {**body, **fields}}).decode()


def create(lane: str, user: str, **fields: Any) -> str:
    said = {"type": "response.create", "stream_id": lane, "model": "m", "input": "hi"}
    return orjson.dumps({**said, "user_id": user, **fields}).decode()


async def told(client: ClientConnection, *types: str) -> dict[str, Any]:
    """The next event of one of `types`."""
    while True:
        event: dict[str, Any] = orjson.loads(await asyncio.wait_for(client.recv(), 20))
        if event["type"] in types:
            return event


async def test_chats_that_wait_for_answers_count_for_the_bytes_of_all_bodies(
    tmp_path: Path,
) -> None:
    async with (
        served(tmp_path, server={"port": 0, "body_limit": "8KiB"}) as (app, upstream),
        opened(app, PATH) as client,
    ):
        _, one = of_server(app)
        for number in range(40):  # 32 of the largest bodies are held
            await client.send(chat(str(number), "silent", "x" * 8_000))
            await until(lambda so_far=number: one.messages_in > so_far)  # type: ignore[misc]
        refused = orjson.loads(await asyncio.wait_for(client.recv(), 20))
        assert (refused["status"], refused["error"]["code"]) == (503, "proxy_crowded")
        assert 32 * 8_000 < held(app) <= 32 * 8192
        await until(lambda: len(upstream.calls) == 32)
        await client.close()
        await until(lambda: held(app) == 0)


async def test_where_others_hold_all_there_is_what_runs_goes_on(tmp_path: Path) -> None:
    async with served(tmp_path) as (app, _), opened(app, PATH) as client:
        await client.send(chat("runs", "open"))
        for _ in ("head", "event"):
            await asyncio.wait_for(client.recv(), 20)
        server, _ = of_server(app)
        others = server._store.most - server._store.held
        assert server._store.take(others)
        await client.send(chat("new", "few"))
        refused = orjson.loads(await asyncio.wait_for(client.recv(), 20))
        assert (refused["id"], refused["error"]["code"]) == ("new", "proxy_crowded")
        await client.send('{"id":"runs","cancel":true}')
        assert orjson.loads(await asyncio.wait_for(client.recv(), 20))["cancelled"] is True
        server._store.give_back(others)


async def test_a_small_request_that_follows_large_ones_counts_as_they_do(tmp_path: Path) -> None:
    async with (
        served(tmp_path, server={"port": 0, "body_limit": "64KiB"}) as (app, _),
        opened(app, RESPONSES) as client,
    ):
        await client.send(create("first", "a", input="x" * 60_000))
        first = await told(client, "response.completed", "error")
        kept = held(app)
        assert kept > 60_000
        for number in range(40):
            await client.send(
                create(str(number), "silent", previous_response_id=first["response"]["id"])
            )
        refused = await told(client, "error")
        assert (refused["status"], refused["error"]["code"]) == (503, "proxy_crowded")
        assert held(app) <= 2 * MIB
        await client.close()
        await until(lambda: held(app) == 0)


async def test_what_a_response_tells_again_is_held_until_it_is_over(tmp_path: Path) -> None:
    async with served(tmp_path) as (app, _), opened(app, RESPONSES) as client:
        await client.send(create("a", "open", instructions="x" * 100_000))
        await told(client, "response.output_text.delta")
        assert 100_000 < held(app) < 200_000
        await client.send('{"type":"response.cancel","stream_id":"a"}')
        await told(client, "error")
        await until(lambda: held(app) == 0)


async def test_what_is_given_back_to_who_does_not_read_is_one_message(tmp_path: Path) -> None:
    async with served(tmp_path) as (app, _), opened(app, RESPONSES) as client:
        client.transport.pause_reading()
        steer = {"type": "response.steer", "previous_response_id": "x", "input": "x" * MIB}
        message = orjson.dumps(steer).decode()

        async def flood() -> None:
            for _ in range(60):
                await client.send(message)

        sending = asyncio.create_task(flood())
        _, one = of_server(app)
        await until(lambda: one._is_held and one.paused)
        so_far = -1
        while so_far < one.messages_in:  # until no more are taken
            so_far = one.messages_in
            await asyncio.sleep(0.3)
        assert so_far < 40
        transport = one._line.transport
        assert transport is not None
        assert transport.get_write_buffer_size() < 3 * MIB
        sending.cancel()
        client.transport.abort()


async def test_no_further_chat_begins_for_who_leaves_whole_answers_unread(tmp_path: Path) -> None:
    async with (
        served(tmp_path, websocket={"max_message": "64KiB"}) as (app, upstream),
        opened(app, PATH) as client,
    ):
        client.transport.pause_reading()
        _, one = of_server(app)
        for number in range(60):
            await client.send(chat(str(number), "large", stream=False))
            await until(lambda so_far=number: one.messages_in > so_far and not one.busy)  # type: ignore[misc]
        assert len(upstream.calls) < 30
        client.transport.abort()


async def test_a_chat_that_is_granted_nothing_ends_alone_while_the_socket_is_read_slowly(
    tmp_path: Path,
) -> None:
    async with (
        served(tmp_path, stream={"client_stall": "1s"}) as (app, _),
        opened(app, PATH) as client,
    ):
        few = orjson.loads(chat("few", "few"))
        await client.send(orjson.dumps({**few, "window": 1}).decode())
        await client.send(chat("endless", "endless"))
        _, one = of_server(app)
        paused = 0
        while True:
            message = orjson.loads(await asyncio.wait_for(client.recv(), 20))
            paused += one.paused
            if message.get("error"):
                break
            await asyncio.sleep(0.002)  # slower than it comes
        assert paused
        assert (message["id"], message["error"]["code"]) == ("few", "client_stalled")
        await client.send('{"id":"endless","cancel":true}')
        while "cancelled" not in orjson.loads(await asyncio.wait_for(client.recv(), 20)):
            pass


async def test_a_cancel_that_names_another_response_ends_none(tmp_path: Path) -> None:
    async with served(tmp_path) as (app, _), opened(app, RESPONSES) as client:
        await client.send(create("a", "open"))
        made = (await told(client, "response.created"))["response"]["id"]
        cancel = {"type": "response.cancel", "stream_id": "a"}
        await client.send(orjson.dumps({**cancel, "response_id": "resp_other"}).decode())
        refused = await told(client, "error")
        assert (refused["status"], refused["stream_id"]) == (400, "a")
        await client.send(orjson.dumps({**cancel, "response_id": made}).decode())
        assert (await told(client, "error"))["error"]["code"] == "response_cancelled"
