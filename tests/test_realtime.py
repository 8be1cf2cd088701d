"""GLM-Realtime through a whole proxy, between two peers made of the `websockets` library."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import trustme
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from proxy.app import App
from tests.fakes.raw_client import RawClient
from tests.fakes.realtime_peer import RealtimePeer, Talk, echo, realtime_peer
from tests.fakes.running import outcomes, running, samples
from tests.fakes.socket_server import ASKING, raw_socket
from tests.fakes.until import until

PATH = "/api/paas/v4/realtime"
KEY = "0123456789abcdef.Upstream-Secret"
ROUTES = [{"name": "voice", "websocket": True}]


@asynccontextmanager
async def proxied(
    folder: Path, talk: Talk = echo, *, own_key: bool = True, **options: Any
) -> AsyncIterator[tuple[App, RealtimePeer]]:
    """`own_key`: the endpoint has one. `settings` among the options are the proxy's."""
    settings = {"routes": ROUTES, **options.pop("settings", {})}
    async with realtime_peer(talk, **options) as peer:
        endpoint: dict[str, Any] = {"name": "up", "base_url": peer.url}
        endpoint |= settings.pop("endpoint", {})
        if own_key:
            path = folder / "key"
            path.write_text(KEY)
            path.chmod(0o600)
            endpoint["api_key"] = f"file:{path}"
        async with running(folder, {"endpoints": [endpoint], **settings}) as app:
            yield app, peer


def url(app: App, path: str = PATH) -> str:
    host, port = app.data_address
    return f"ws://{host}:{port}{path}"


def speaking(app: App, path: str = PATH, **options: Any) -> connect:
    return connect(url(app, path), max_size=None, compression=None, **options)


async def ended(socket: ClientConnection) -> tuple[int | None, str | None]:
    """How it ended."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await socket.recv()
    return socket.close_code, socket.close_reason


@pytest.mark.parametrize("path", [PATH, "/v1/realtime"])
async def test_text_and_binary_go_both_ways_byte_by_byte(tmp_path: Path, path: str) -> None:
    async with proxied(tmp_path) as (app, peer), speaking(app, path + "?model=glm-realtime") as us:
        for size in (0, 1, 125, 126, 65535, 65536, 1_000_000):
            binary = random.Random(size).randbytes(size)
            await us.send(binary)
            assert await us.recv() == binary
            text = "\u5475" * (size // 3)
            await us.send(text)
            assert await us.recv() == text
        await us.send(["in ", "", "fragments"])
        assert await us.recv() == "in fragments"
        assert peer.requests[0].path == PATH + "?model=glm-realtime"


async def test_only_what_may_go_up_goes_up(tmp_path: Path) -> None:
    headers = {
        "Authorization": "Bearer callers-own",
        "Cookie": "a=b",
        "X-Forwarded-For": "1.2.3.4",
        "X-Session-Id": "s",
    }
    async with (
        proxied(tmp_path) as (app, peer),
        speaking(app, additional_headers=headers, subprotocols=["realtime"]) as us,
    ):
        assert us.subprotocol == "realtime"
        sent = peer.requests[0].headers
        assert sent.get_all("authorization") == [f"Bearer {KEY}"]
        assert sent["x-session-id"] == "s"
        assert sent["x-request-id"]
        for name in ("cookie", "x-forwarded-for", "sec-websocket-protocol", "origin"):
            assert name not in sent


async def test_without_a_key_of_its_own_the_callers_goes_up(tmp_path: Path) -> None:
    key = "openai-insecure-api-key.callers-own"
    async with (
        proxied(tmp_path, own_key=False) as (app, peer),
        speaking(app, subprotocols=["realtime", key]) as us,
    ):
        assert us.subprotocol == "realtime"
        assert peer.requests[0].headers["authorization"] == "Bearer callers-own"


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4321])
async def test_the_clients_close_is_the_upstreams(tmp_path: Path, code: int) -> None:
    async with proxied(tmp_path) as (app, peer), speaking(app) as us:
        await us.close(code, "as I said")
        assert us.close_code == code
        assert await peer.ended.get() == (code, "as I said")
        await until(lambda: not app._running)
        assert await outcomes(app) == {"completed": 1}


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 1013, 3000, 4321])
async def test_the_upstreams_close_is_the_clients(tmp_path: Path, code: int) -> None:
    async def leave(socket: ServerConnection) -> None:
        await socket.send("last words")
        await socket.close(code, "as it said")

    async with proxied(tmp_path, leave) as (app, _), speaking(app) as us:
        assert await us.recv() == "last words"
        assert await ended(us) == (code, "as it said")
        await until(lambda: not app._running)
        assert await outcomes(app) == {"completed": 1}


async def test_a_refusal_of_the_upstream_is_an_http_answer_without_its_key(tmp_path: Path) -> None:
    async with proxied(tmp_path, refuses=402) as (app, _):
        with pytest.raises(InvalidStatus) as caught:
            await speaking(app)
        answer = caught.value.response
        assert answer.status_code == 402
        error = orjson.loads(answer.body)["error"]
        assert error["code"] == "1113"
        assert KEY not in answer.body.decode()
        assert await outcomes(app) == {"upstream_failed": 1}


async def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    async with proxied(tmp_path, refuses=307) as (app, peer):
        with pytest.raises(InvalidStatus) as caught:
            await speaking(app)
        assert caught.value.response.status_code == 502
        assert len(peer.requests) == 1


async def test_an_upstream_that_is_down_is_an_http_answer(tmp_path: Path) -> None:
    async with proxied(tmp_path, settings={"endpoint": {"base_url": "http://127.0.0.1:9"}}) as (
        app,
        _,
    ):
        with pytest.raises(InvalidStatus) as caught:
            await speaking(app)
        assert caught.value.response.status_code == 502
        assert await outcomes(app) == {"upstream_connect_failed": 1}


async def test_an_upstream_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = {
        "endpoint": {"base_url": f"http://127.0.0.1:{port}"},
        "timeouts": {"headers": "200ms"},
    }
    async with server, proxied(tmp_path, settings=settings) as (app, _):
        with pytest.raises(InvalidStatus) as caught:
            await speaking(app)
        assert caught.value.response.status_code == 504


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: AAAA\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"nonsense\r\n\r\n",
        b"",
    ],
    ids=["another key", "another protocol", "a page", "nonsense", "nothing"],
)
async def test_an_upstream_that_speaks_something_else_is_refused(
    tmp_path: Path, answer: bytes
) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = {"endpoint": {"base_url": f"http://127.0.0.1:{port}"}}
    async with server, proxied(tmp_path, settings=settings) as (app, _):
        with pytest.raises(InvalidStatus) as caught:
            await speaking(app)
        assert caught.value.response.status_code == 502


async def test_an_upstream_that_breaks_off_is_told_by_1011(tmp_path: Path) -> None:
    async def drop(socket: ServerConnection) -> None:
        await socket.send("one")
        socket.transport.abort()

    async with proxied(tmp_path, drop) as (app, _), speaking(app) as us:
        assert await us.recv() == "one"
        assert await ended(us) == (1011, "the connection to the upstream broke")
        await until(lambda: not app._running)
        assert await outcomes(app) == {"upstream_reset": 1}


async def test_an_upstream_that_breaks_the_protocol_is_told_by_1011(tmp_path: Path) -> None:
    async def masked(socket: ServerConnection) -> None:
        socket.transport.write(b"\x81\x82abcdef")
        await socket.wait_closed()

    async with proxied(tmp_path, masked) as (app, _), speaking(app) as us:
        assert (await ended(us))[0] == 1011
        await until(lambda: not app._running)
        assert await outcomes(app) == {"upstream_protocol_error": 1}


async def test_a_client_that_vanishes_ends_the_upstreams_at_once(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (app, peer), speaking(app) as us:
        await us.send("hi")
        await us.recv()
        gone = time.monotonic()
        us.transport.abort()
        assert (await peer.ended.get())[0] == 1006
        print(f"\nthe upstream knew after {(time.monotonic() - gone) * 1000:.1f} ms")
        await until(lambda: not app._running)
        assert await outcomes(app) == {"client_gone": 1}


async def test_a_client_that_breaks_the_protocol_ends_the_upstreams(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (app, peer), raw_socket(app.data_address, opened=False) as us:
        us.ask(*ASKING, path=PATH)
        assert (await us.head())[0] == 101
        us.writer.write(b"\x81\x02hi")
        assert await us.ended_with() == 1002
        assert await peer.ended.get() == (1001, "the client left")
        await until(lambda: not app._running)
        assert await outcomes(app) == {"invalid_request": 1}


async def test_pings_are_answered_on_each_side_by_itself(tmp_path: Path) -> None:
    async def ping(socket: ServerConnection) -> None:
        await (await socket.ping(b"from above"))
        await socket.send("answered")
        await socket.wait_closed()

    async with proxied(tmp_path, ping) as (app, _), speaking(app) as us:
        assert await us.recv() == "answered"
        await (await us.ping(b"from below"))


async def test_a_client_that_does_not_read_stops_the_upstream(tmp_path: Path) -> None:
    sent = 0

    async def flood(socket: ServerConnection) -> None:
        nonlocal sent
        while sent < 1500:
            await socket.send(b"x" * 10_000)
            sent += 1
        await socket.close()

    async with (
        proxied(tmp_path, flood) as (app, _),
        raw_socket(app.data_address, opened=False, receive=4096) as us,
    ):
        us.ask(*ASKING, path=PATH)
        await us.head()
        us.writer.transport.pause_reading()  # type: ignore[attr-defined]
        before = -1
        while before != sent:
            before = sent
            for _ in range(20):
                await asyncio.sleep(0.01)
        assert 0 < sent < 1400
        us.writer.transport.resume_reading()  # type: ignore[attr-defined]
        heard = 0
        while heard < 1500:
            assert await us.hear() == (False, b"x" * 10_000)
            heard += 1


async def test_an_upstream_that_does_not_read_stops_the_client(tmp_path: Path) -> None:
    gate, got = asyncio.Event(), []

    async def wait(socket: ServerConnection) -> None:
        await gate.wait()
        async for message in socket:
            got.append(message)

    async with proxied(tmp_path, wait, max_queue=1) as (app, _), speaking(app) as us:
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(1000):
                await us.send(b"x" * 30_000)
                sent += 1

        sending = asyncio.ensure_future(send())
        before = -1
        while before != sent:
            before = sent
            for _ in range(20):
                await asyncio.sleep(0.01)
        assert 0 < sent < 900
        gate.set()
        await sending
        await us.close()
        await until(lambda: len(got) == 1000)


async def test_tls_upstream_is_as_the_endpoint_says(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusted = tmp_path / "ca.pem"
    trusted.write_bytes(authority.cert_pem.bytes())
    settings = {"endpoint": {"ca_file": str(trusted)}}
    async with proxied(tmp_path, tls=context, settings=settings) as (app, _), speaking(app) as us:
        await us.send("hi")
        assert await us.recv() == "hi"
    async with proxied(tmp_path, tls=context) as (app, _):
        with pytest.raises(InvalidStatus) as caught:
            await speaking(app)
        assert caught.value.response.status_code == 502


async def test_a_proxy_that_stops_says_so_to_both(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (app, peer), speaking(app) as us:
        await us.send("hi")
        await us.recv()
        stopping = asyncio.ensure_future(app.stop(0.2))
        assert await ended(us) == (1001, "the proxy is stopping; connect again")
        assert (await peer.ended.get())[0] == 1001
        await stopping


async def test_what_was_said_is_counted_and_recorded(tmp_path: Path) -> None:
    async with proxied(tmp_path) as (app, _):
        async with speaking(app) as us:
            await us.send("hi")
            await us.recv()
            assert await samples(app, "glm_proxy_websockets") == [({}, 1.0)]
            found = await samples(app, "glm_proxy_websocket_messages_total")
            assert {labels["direction"]: value for labels, value in found} == {
                "received": 1,
                "sent": 1,
            }
        await until(lambda: not app._running)
        closed = await samples(app, "glm_proxy_websocket_closed_total")
        assert {one["code"]: value for one, value in closed if value} == {"1000": 1}
        (one,) = await samples(app, "glm_proxy_exchanges_total")
        assert one[0]["kind"] == "socket"
        assert one[0]["status_class"] == "1xx"
        assert (one[0]["route"], one[0]["outcome"]) == ("voice", "completed")


async def test_where_no_route_asks_for_it_the_path_is_passed_through(tmp_path: Path) -> None:
    async with proxied(tmp_path, settings={"routes": []}) as (app, peer):
        async with RawClient(app.data_address) as client:
            client.writer.write(f"GET {PATH} HTTP/1.1\r\n".encode())
            client.writer.write("\r\n".join([*ASKING, "", ""]).encode())
            answer = await client.whole()
        assert answer.status >= 400
        assert "sec-websocket-accept" not in answer.headers
        assert peer.sockets == []


async def test_a_route_without_websockets_allows_none(tmp_path: Path) -> None:
    routes = [
        {"name": "no", "match": {"header": {"x-session-id": "no*"}}},
        {"name": "voice", "websocket": True},
    ]
    async with proxied(tmp_path, settings={"routes": routes}) as (app, peer):
        with pytest.raises(InvalidStatus) as caught:
            await speaking(app, additional_headers={"x-session-id": "nobody"})
        assert caught.value.response.status_code == 403
        assert peer.requests == []
