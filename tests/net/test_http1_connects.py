"""Connections that aiohttp opens for HTTP/1.1: each is told once, and decides whether it is up."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from proxy.net.dns import Address
from proxy.net.pool import Pool
from proxy.status import state_of
from tests.fakes.dialling import Certificates, black_hole, closed_port, silent_port
from tests.fakes.pool_peer import Observed, a_pool

FAILED = "upstream_connect_failed"
TIMEOUT = "upstream_connect_timeout"
PLAIN: dict[str, Any] = {"http2": "off"}
EXPIRES = 32503680000
"""The year 3000: when the certificates of these tests do."""


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return Certificates()


@pytest.fixture
def observed() -> Observed:
    return Observed()


def https(certificates: Certificates, **changes: Any) -> dict[str, Any]:
    return {"host": "localhost", "tls": certificates.client(), "http2": "off", **changes}


@asynccontextmanager
async def listening(
    port: int = 0, tls: ssl.SSLContext | None = None, until: asyncio.Event | None = None
) -> AsyncIterator[int]:
    """An HTTP/1.1 server; its answers wait for `until`."""

    async def answer(_: web.BaseRequest) -> web.Response:
        if until is not None:
            await until.wait()
        return web.Response(text="ok")

    runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def ask(pool: Pool, host: str | None = None, **options: Any) -> None:
    """Raises what aiohttp raises."""
    url = f"{pool.origin.scheme}://{host or pool.origin.host}:{pool.origin.port}/"
    async with pool.http1.get(url, **options) as response:
        assert await response.text() == "ok"


async def test_a_server_that_is_down_is_down_until_a_connection_is_opened(
    observed: Observed,
) -> None:
    port = closed_port()
    async with a_pool(port, observed, **PLAIN) as pool:
        assert state_of(pool) == "up"
        for times in (1, 2):
            with pytest.raises(aiohttp.ClientConnectorError):
                await ask(pool)
            assert observed.failures == [FAILED] * times
            assert state_of(pool) == "down"
        async with listening(port):
            for _ in range(3):
                await ask(pool)
            (phases,) = observed.phases
            assert phases.alpn == "http/1.1"
            assert phases.tcp > 0
            assert phases.tls == 0
            assert phases.certificate_expires is None
            assert state_of(pool) == "up"
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(pool)
        assert state_of(pool) == "down"
        assert observed.failures == [FAILED] * 3


async def test_each_of_several_tls_connections_has_its_own_phases_and_certificate(
    observed: Observed, certificates: Certificates
) -> None:
    async def resolve(host: str, port: int) -> list[Address]:
        await asyncio.sleep(0.02)
        return [Address(socket.AF_INET, ("127.0.0.1", port))]

    together = asyncio.Event()
    args = https(certificates, resolver=resolve)
    async with (
        listening(tls=certificates.server(alpn=("http/1.1",)), until=together) as port,
        a_pool(port, observed, **args) as pool,
    ):
        asked = [asyncio.create_task(ask(pool)) for _ in range(4)]
        await observed.until(lambda: len(observed.phases) == 4)
        together.set()
        await asyncio.gather(*asked)
        for phases in observed.phases:
            assert phases.dns >= 0.015
            assert phases.tcp > 0
            assert phases.tls > 0
            assert phases.certificate_expires == EXPIRES
        assert observed.failures == []


async def test_a_refused_certificate_is_a_connection_that_failed(
    observed: Observed, certificates: Certificates
) -> None:
    args = https(Certificates())
    async with (
        listening(tls=certificates.server()) as port,
        a_pool(port, observed, **args) as pool,
    ):
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await ask(pool)
        assert (observed.failures, observed.phases) == ([FAILED], [])
        assert state_of(pool) == "down"


async def test_a_name_without_an_address_is_a_connection_that_failed(observed: Observed) -> None:
    async def resolve(host: str, port: int) -> list[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with a_pool(9, observed, host="glm.test", resolver=resolve, **PLAIN) as pool:
        with pytest.raises(aiohttp.ClientConnectorDNSError):
            await ask(pool)
        assert observed.failures == [FAILED]
        assert observed.messages == [
            "the name glm.test was not resolved: Name or service not known"
        ]


async def test_silence_is_told_when_the_time_to_connect_is_over(
    observed: Observed, certificates: Certificates
) -> None:
    with black_hole() as port:
        async with a_pool(port, observed, connect_timeout=0.1, **PLAIN) as pool:
            with pytest.raises(aiohttp.ConnectionTimeoutError):
                await ask(pool)
            assert state_of(pool) == "down"
    with silent_port() as port:
        async with a_pool(port, observed, connect_timeout=0.1, **https(certificates)) as pool:
            with pytest.raises(aiohttp.ConnectionTimeoutError):
                await ask(pool)
    assert observed.failures == [TIMEOUT] * 2


async def test_a_caller_in_a_hurry_says_nothing_of_the_endpoint(observed: Observed) -> None:
    hurry = aiohttp.ClientTimeout(total=None, connect=0.02)
    with black_hole() as port:
        async with a_pool(port, observed, **PLAIN) as pool:
            with pytest.raises(aiohttp.ConnectionTimeoutError):
                await ask(pool, timeout=hurry)
            leaving = asyncio.create_task(ask(pool))
            await asyncio.wait((leaving,), timeout=0.05)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            assert observed.failures == []
            assert state_of(pool) == "up"


async def test_a_wait_for_a_free_connection_is_no_failed_connection(observed: Observed) -> None:
    over = asyncio.Event()
    limits: dict[str, Any] = {
        "max_connections": 1,
        "streams_per_connection": 1,
        "connect_timeout": 0.2,
    }
    async with listening(until=over) as port, a_pool(port, observed, **PLAIN, **limits) as pool:
        first = asyncio.create_task(ask(pool))
        await observed.until(lambda: len(observed.phases) == 1)
        with pytest.raises(aiohttp.ConnectionTimeoutError):
            await ask(pool)
        over.set()
        await first
        assert observed.failures == []
        assert state_of(pool) == "up"


async def test_after_alpn_chose_http1_its_own_connections_decide(
    observed: Observed, certificates: Certificates
) -> None:
    tls = certificates.server(alpn=("http/1.1",))
    async with a_pool(closed_port(), observed, **https(certificates, http2="auto")) as pool:
        async with listening(pool.origin.port, tls):
            assert await pool.acquire(None) is None
            await ask(pool)
            assert len(observed.phases) == 2
            assert state_of(pool) == "up"
        with pytest.raises(aiohttp.ClientConnectorError):
            await ask(pool)
        assert state_of(pool) == "down"
        async with listening(pool.origin.port, tls):
            await ask(pool)
            assert state_of(pool) == "up"
    assert observed.failures == [FAILED]
