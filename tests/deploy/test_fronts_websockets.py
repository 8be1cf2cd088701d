"""WebSockets through nginx, HAProxy and Caddy with the files of deploy/fronts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from tests.deploy.fronts import KINDS, NAME, Front
from tests.deploy.test_fronts import (
    CHAT,
    DONE,
    EVENTS,
    FORWARDED,
    NeedsProgram,
    Stepwise,
    each_front,
    fronted,
    token,
)

PAGE = "https://app.example.com"
SETTINGS: Final[dict[str, Any]] = {
    "routes": [{"name": "all", "websocket": True}],
    "websocket": {"origins": [PAGE]},
}


def opened(one: Front, origin: str = PAGE, headers: Mapping[str, str] | None = None) -> connect:
    return connect(
        f"wss://{NAME}:{one.port}{CHAT}",
        host="127.0.0.1",
        ssl=one.tls,
        origin=Origin(origin),
        additional_headers=headers,
        proxy=None,
    )


async def ask(client: ClientConnection, name: str) -> None:
    body = {"model": "glm-4.6", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    await client.send(json.dumps({"id": name, "body": body}))


async def told(client: ClientConnection) -> dict[str, object]:
    message: dict[str, object] = json.loads(await asyncio.wait_for(client.recv(), 10))
    return message


def said(name: str, number: int) -> dict[str, object]:
    """A chat's message of `token(number)`."""
    return {"id": name, "data": json.loads(token(number).removeprefix(b"data: "))}


@each_front
async def test_each_event_arrives_before_the_next_is_sent(
    name: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    upstream = Stepwise()
    given = dict.fromkeys(FORWARDED, "192.0.2.7")
    async with (
        fronted(tmp_path, name, needs_program(name), upstream, **SETTINGS) as (_, one),
        opened(one, headers=given) as client,
    ):
        await ask(client, "a")
        call = await upstream.call()
        assert FORWARDED & call.headers.keys() == set()
        call.head()
        call.send(token(0))
        assert (await told(client))["status"] == 200
        assert await told(client) == said("a", 0)
        for number in range(1, EVENTS):
            call.send(token(number))
            assert await told(client) == said("a", number)
        await ask(client, "b")  # beside the first
        other = await upstream.call()
        other.head()
        other.send(token(0) + DONE)
        other.finish()
        assert [(await told(client))["id"] for _ in range(3)] == ["b"] * 3
        call.send(DONE)
        call.finish()
        assert await told(client) == {"id": "a", "done": True}
        await client.send("x" * (5 << 20))
        with pytest.raises(ConnectionClosed):
            await told(client)
        assert client.close_code == 1009  # and who closed why comes through


@each_front
async def test_a_page_that_is_not_listed_is_refused_behind_a_front_too(
    name: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    async with fronted(tmp_path, name, needs_program(name), Stepwise(), **SETTINGS) as (_, one):
        for origin in ("https://evil.example", f"https://{NAME}"):
            with pytest.raises(InvalidStatus) as caught:
                await opened(one, origin).__aenter__()
            assert caught.value.response.status_code == 403


@each_front
async def test_a_client_that_leaves_the_front_ends_the_upstreams_work(
    name: str, tmp_path: Path, needs_program: NeedsProgram
) -> None:
    upstream = Stepwise()
    async with (
        fronted(tmp_path, name, needs_program(name), upstream, **SETTINGS) as (_, one),
        opened(one) as client,
    ):
        await ask(client, "a")
        call = await upstream.call()
        call.head()
        call.send(token(0))
        await told(client)
        client.transport.abort()
        await asyncio.wait_for(call.gone.wait(), 10)


async def test_a_silent_websocket_lives_on_its_pings(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    """Here the fronts end a connection after a second of silence."""
    for name in KINDS:
        (tmp_path / name).mkdir()
    await asyncio.gather(*(_silent(name, tmp_path / name, needs_program(name)) for name in KINDS))


async def _silent(name: str, folder: Path, program: str) -> None:
    upstream = Stepwise()
    settings = SETTINGS | {"websocket": {"origins": [PAGE], "ping_interval": "200ms"}}
    async with (
        fronted(folder, name, program, upstream, silence="1s", **settings) as (_, one),
        opened(one) as client,
    ):
        await asyncio.sleep(2.0)  # twice as long as they would wait
        await ask(client, "a")
        call = await upstream.call()
        call.head()
        call.send(token(0) + DONE)
        call.finish()
        assert (await told(client))["status"] == 200
