"""HTTP/2 or HTTP/1.1: what a pool offers, what it settles for, and its HTTP/1.1 session."""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from proxy.errors import ConnectFailed, PoolExhausted
from proxy.net.dns import Address
from proxy.net.pool import Origin, Pool, client_context
from tests.fakes.dialling import (
    Certificates,
    black_hole,
    closed_again,
    closed_port,
    open_sockets,
    settings,
)
from tests.fakes.pool_peer import Observed, PoolPeer, a_pool, send


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return Certificates()


class Http1Peer:
    """An HTTP/1.1 server that answers with what it was sent."""

    def __init__(self) -> None:
        self.port = 0
        self.connections: set[Any] = set()
        self.over = asyncio.Event()
        """Ends the answers of /stream."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.connections.add(request.transport)
        if request.path == "/stream":
            stream = web.StreamResponse()
            await stream.prepare(request)
            await self.over.wait()
            return stream
        if request.path == "/gzip":
            packed = gzip.compress(b"packed")
            return web.Response(body=packed, headers={"Content-Encoding": "gzip"})
        response = web.json_response([[name, value] for name, value in request.headers.items()])
        response.set_cookie("seen", "yes")
        return response


@asynccontextmanager
async def http1_peer(tls: ssl.SSLContext | None = None) -> AsyncIterator[Http1Peer]:
    peer = Http1Peer()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", peer.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    peer.port = runner.addresses[0][1]
    try:
        yield peer
    finally:
        peer.over.set()
        await runner.cleanup()


def transport_of(response: aiohttp.ClientResponse) -> asyncio.Transport:
    """What a response that has not ended is read from."""
    assert response.connection is not None
    assert response.connection.transport is not None
    return response.connection.transport


def https(certificates: Certificates, **changes: Any) -> dict[str, Any]:
    """A pool's arguments for a peer certified by `certificates`."""
    return {"host": "localhost", "tls": certificates.client(), "http2": "auto", **changes}


# --- ALPN ---------------------------------------------------------------------------------------


async def test_auto_takes_http2_where_the_peer_offers_it(certificates: Certificates) -> None:
    server = certificates.server(alpn=("h2", "http/1.1"))
    async with PoolPeer(server) as peer, a_pool(peer, **https(certificates)) as pool:
        assert pool.speaks is None
        assert (await (await send(pool)).whole()).body == b"ok"
        assert pool.speaks == "h2"
        assert pool.may_use_http1


@pytest.mark.parametrize("alpn", [("http/1.1",), ()])
async def test_auto_settles_for_http1_and_says_so_to_everybody_who_waits(
    certificates: Certificates, alpn: tuple[str, ...]
) -> None:
    observed = Observed()
    server = certificates.server(alpn=alpn)
    async with (
        http1_peer(server) as peer,
        a_pool(peer.port, observed, warm_connections=2, **https(certificates)) as pool,
    ):
        await pool.start()
        assert await asyncio.gather(*(pool.acquire(None) for _ in range(20))) == [None] * 20
        assert pool.speaks == "http/1.1"
        await observed.until(lambda: len(observed.phases) == 2)
        assert await pool.acquire(0.0) is None
        async with pool.http1.get(f"https://localhost:{peer.port}/") as response:
            assert response.status == 200
        assert len(observed.phases) == 3  # the last is the session's own
        assert {phases.alpn for phases in observed.phases[:2]} == {"".join(alpn)}


async def test_http2_is_looked_for_again_when_the_connections_would_be_replaced(
    certificates: Certificates,
) -> None:
    observed = Observed()
    server = certificates.server(alpn=("http/1.1",))
    async with (
        PoolPeer(server) as peer,
        a_pool(peer, observed, max_age=0.2, **https(certificates)) as pool,
    ):
        assert await pool.acquire(None) is None
        server.set_alpn_protocols(["h2"])
        await observed.until(lambda: pool.speaks == "h2")
        assert (await (await send(pool)).whole()).body == b"ok"


async def test_always_refuses_a_peer_without_http2_and_names_the_setting(
    certificates: Certificates,
) -> None:
    args = https(certificates, http2="always")
    async with http1_peer(certificates.server(alpn=())) as peer, a_pool(peer.port, **args) as pool:
        assert not pool.may_use_http1
        with pytest.raises(ConnectFailed, match=r"ALPN chose nothing.*pool\.http2 is always"):
            await pool.acquire(None)
        assert pool.speaks is None


async def test_off_and_auto_without_tls_open_nothing_and_speak_http1(
    certificates: Certificates,
) -> None:
    cases: list[dict[str, Any]] = [{"http2": "auto"}, https(certificates, http2="off")]
    for args in cases:
        observed = Observed()
        async with a_pool(closed_port(), observed, warm_connections=2, **args) as pool:
            await pool.start()
            assert pool.speaks == "http/1.1"
            assert await pool.acquire(None) is None
            await asyncio.sleep(0)
            assert observed.failures == []
            assert pool.stats().opening == 0


async def test_a_wrong_ca_fails_every_request_with_one_handshake_each(
    certificates: Certificates,
) -> None:
    handshakes = 0

    def count(*_: Any) -> None:
        nonlocal handshakes
        handshakes += 1

    server = certificates.server()
    server.sni_callback = count
    args = https(certificates, tls=client_context())
    async with PoolPeer(server) as peer, a_pool(peer, **args) as pool:
        for _ in range(2):
            with pytest.raises(ConnectFailed, match=r"unknown CA; .*endpoints\[\]\.ca_file"):
                await pool.acquire(None)
    assert handshakes == 2


def test_https_needs_a_context() -> None:
    with pytest.raises(ValueError, match="needs a TLS context"):
        Pool(Origin("https", "localhost", 443), settings(), None)


# --- the HTTP/1.1 session -----------------------------------------------------------------------


async def test_http1_works_beside_http2_at_the_same_peer(
    certificates: Certificates, tmp_path: Path
) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(certificates.ca.cert_pem.bytes())
    # The server would choose h2, were it offered.
    server = certificates.server(alpn=("h2", "http/1.1"))
    args = https(certificates, tls=client_context(ca_file))
    async with http1_peer(server) as peer, a_pool(peer.port, **args) as pool:
        async with pool.http1.get(f"https://localhost:{peer.port}/stream") as response:
            tls = transport_of(response).get_extra_info("ssl_object")
            assert tls.selected_alpn_protocol() == "http/1.1"
        assert pool.speaks is None


async def test_the_http1_session_adds_and_changes_nothing() -> None:
    async with http1_peer() as peer, a_pool(peer.port, http2="off") as pool:
        url = f"http://localhost:{peer.port}"  # of addresses no cookie is kept anyway
        for _ in range(2):
            async with pool.http1.post(f"{url}/", data=b"{}") as response:
                names = [name for name, _ in await response.json()]
                assert names == ["Host", "Content-Length"]
        async with pool.http1.get(f"{url}/gzip") as response:
            assert gzip.decompress(await response.read()) == b"packed"
        assert len(peer.connections) == 1
        assert pool.http1 is pool.http1


async def test_the_http1_session_dials_by_the_same_rules() -> None:
    async def resolve(host: str, port: int) -> list[Address]:
        nobody, peer = (socket.AF_INET, ("127.0.0.2", port)), (socket.AF_INET, ("127.0.0.1", port))
        return [Address(*nobody), Address(*peer)]

    how: dict[str, Any] = {"host": "glm.test", "http2": "off", "tcp_user_timeout": 31.0}
    async with (
        http1_peer() as peer,
        a_pool(peer.port, resolver=resolve, **how) as pool,
        pool.http1.get(f"http://glm.test:{peer.port}/stream") as response,
    ):
        sock = transport_of(response).get_extra_info("socket")
        assert sock.getpeername()[0] == "127.0.0.1"
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 31_000


async def test_the_http1_session_has_a_connect_timeout_and_no_total() -> None:
    with black_hole() as port:
        async with a_pool(port, http2="off", connect_timeout=0.1) as pool:
            assert pool.http1.timeout.total is None
            with pytest.raises(aiohttp.ConnectionTimeoutError):
                await pool.http1.get(f"http://127.0.0.1:{port}/")


async def test_the_http1_session_verifies_certificates(certificates: Certificates) -> None:
    args = https(certificates, tls=Certificates().client(), http2="off")
    async with http1_peer(certificates.server()) as peer, a_pool(peer.port, **args) as pool:
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await pool.http1.get(f"https://localhost:{peer.port}/")


async def test_closing_the_pool_closes_the_http1_session(certificates: Certificates) -> None:
    async with http1_peer(certificates.server(alpn=("http/1.1",))) as peer:
        sockets, tasks = open_sockets(), asyncio.all_tasks()
        async with a_pool(peer.port, **https(certificates, http2="off")) as pool:
            session = pool.http1
            async with session.get(f"https://localhost:{peer.port}/") as response:
                assert response.status == 200
        assert session.closed
        await closed_again(sockets)
        assert asyncio.all_tasks() <= tasks
        with pytest.raises(PoolExhausted):
            _ = pool.http1.closed
