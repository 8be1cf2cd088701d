"""An endpoint of HTTP/1.1 that goes away and comes back, as an operator sees it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from proxy.app import App
from tests.fakes.dialling import closed_port
from tests.fakes.operator import get
from tests.fakes.raw_client import ask, chat
from tests.fakes.running import in_front_of, running, samples
from tests.fakes.upstream import Call, ScriptedUpstream

Use = Callable[[App], Awaitable[int]]

NEVER_OPEN = {"retries": 0, "breaker": "off"}
FAILED = ("upstream_connect_failed", "none")
CONNECTED = ("connected", "http/1.1")
EXPIRES = 32503680000
"""The year 3000: when the certificates of these tests do."""


async def answer(call: Call) -> None:
    call.head()
    call.send(b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n')
    call.send(b"data: [DONE]\n\n")
    call.finish()


async def chats(app: App) -> int:
    path = "/v1/chat/completions"
    return (await ask(app.data_address, path, chat(stream=True))).status


async def passes_through(app: App) -> int:
    host, port = app.data_address
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{host}:{port}/v1/files", data=b"body") as response,
    ):
        await response.read()
        return response.status


async def states(app: App) -> tuple[str, str]:
    """What `/readyz` and `/admin/status` say of the one endpoint."""
    host, port = app.admin_address
    ready = (await get(f"http://{host}:{port}/readyz")).json()
    status = (await get(f"http://{host}:{port}/admin/status")).json()
    return ready["endpoints"]["up"], status["endpoints"][0]["state"]


async def connects(app: App) -> Counter[tuple[str, str]]:
    """How many ended with each result and protocol."""
    found = await samples(app, "glm_proxy_connects_total")
    return Counter({(one["result"], one["protocol"]): int(count) for one, count in found})


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Of endpoints."""
    messages = [record.getMessage() for record in caplog.records]
    return [message for message in messages if message.startswith("endpoint ")]


@pytest.mark.parametrize("use", [chats, passes_through])
async def test_one_that_is_down_is_told_of_and_so_is_its_return(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, use: Use
) -> None:
    upstream = ScriptedUpstream(answer)
    upstream.port = closed_port()
    settings = in_front_of(upstream, tmp_path, attempts=NEVER_OPEN)
    async with running(tmp_path, settings) as app:
        assert await states(app) == ("up", "up")
        for _ in range(3):
            assert await use(app) == 502
        assert await connects(app) == {FAILED: 3}
        assert await states(app) == ("down", "down")
        (down,) = warnings(caplog)
        assert down.startswith("endpoint up cannot be reached: no connection to 127.0.0.1:")
        async with upstream:
            for _ in range(3):
                assert await use(app) == 200
            assert await connects(app) == {FAILED: 3, CONNECTED: 1}
            assert await states(app) == ("up", "up")
        assert warnings(caplog) == [down, "endpoint up is reached again"]
        phases = await samples(app, "glm_proxy_connect_seconds_count")
        assert {one["phase"]: count for one, count in phases} == {"dns": 1, "tcp": 1}


@pytest.mark.parametrize("use", [chats, passes_through])
@pytest.mark.parametrize("http2", ["auto", "off"])
async def test_over_tls_the_handshake_and_the_certificate_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, use: Use, http2: str
) -> None:
    upstream = ScriptedUpstream(answer, h2=True, alpn=("http/1.1",))
    upstream.port = closed_port()
    pool = {"http2": http2, "warm_connections": 0}
    settings = in_front_of(upstream, tmp_path, attempts=NEVER_OPEN, pool=pool)
    async with running(tmp_path, settings) as app:
        async with upstream:
            assert await use(app) == 200
            before = await connects(app)
            # With auto ALPN was asked first, on a connection that offered HTTP/2.
            assert before == {CONNECTED: 2 if http2 == "auto" else 1}
            phases = await samples(app, "glm_proxy_connect_seconds_count")
            expected = dict.fromkeys(("dns", "tcp", "tls"), before[CONNECTED])
            assert {one["phase"]: count for one, count in phases} == expected
            name = "glm_proxy_certificate_expiry_timestamp_seconds"
            assert await samples(app, name) == [({"endpoint": "up"}, EXPIRES)]
        assert await use(app) == 502
        assert (await connects(app))[FAILED] == 1
        assert await states(app) == ("down", "down")
        async with upstream:
            assert await use(app) == 200
            assert await states(app) == ("up", "up")
            assert await connects(app) == before + Counter({FAILED: 1, CONNECTED: 1})
    down, again = warnings(caplog)
    assert down.startswith("endpoint up cannot be reached: ")
    assert again == "endpoint up is reached again"
