"""TLS towards real servers: what is trusted, what is offered, and what failures are told as.

Every test runs on asyncio's own loop and on uvloop.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import ConnectFailed, ConnectTimeout
from proxy.net.dial import Dialer, Origin
from proxy.net.dns import Addresses, system_resolve
from proxy.net.tls import client_context, handshake_failure, offering
from tests.fakes.dialling import (
    Certificates,
    closed_again,
    dialled,
    failure,
    fixed,
    open_sockets,
    settings,
    silent_port,
)
from tests.fakes.pool_peer import PoolPeer


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return Certificates()


@pytest.fixture
def silent() -> Iterator[int]:
    with silent_port() as port:
        yield port


async def test_the_end_of_the_peers_certificate_is_told(certificates: Certificates) -> None:
    ends = (datetime.now(UTC) + timedelta(days=30)).replace(microsecond=0)
    async with PoolPeer(certificates.server(not_after=ends)) as peer:
        tls = offering(certificates.client(), "h2")
        async with dialled(peer.port, host="localhost", tls=tls) as connection:
            assert connection.phases.certificate_expires == ends.timestamp()
    async with PoolPeer() as peer, dialled(peer.port) as connection:
        assert connection.phases.certificate_expires is None


async def test_the_stages_are_measured_and_alpn_is_told(certificates: Certificates) -> None:
    async with PoolPeer(certificates.server()) as peer:
        tls = offering(certificates.client(), "h2", "http/1.1")
        async with dialled(peer.port, host="localhost", tls=tls) as connection:
            phases = connection.phases
            assert phases.alpn == "h2"
            assert min(phases[:3]) > 0
            assert sum(phases[:3]) <= connection.took
            await connection.taker.received.wait()  # the server's SETTINGS were not lost


async def test_a_connection_nobody_takes_is_closed(certificates: Certificates) -> None:
    async with PoolPeer(certificates.server(alpn=("http/1.1",))) as peer:
        tls = offering(certificates.client(), "h2", "http/1.1")
        origin = Origin("https", "localhost", peer.port)
        dialer = Dialer(origin, tls, Addresses(system_resolve), settings())
        before = open_sockets()
        asked: list[str | None] = []
        assert (await dialer.dial(asked.append)).alpn == "http/1.1"
        assert asked == ["http/1.1"]
        await closed_again(before)


@pytest.mark.parametrize(
    ("host", "names", "days", "expected"),
    [
        ("localhost", ("localhost",), (-1, 1), r"unknown CA; .*endpoints\[\]\.ca_file"),
        ("localhost", ("other.example",), (-1, 1), r"another name than localhost"),
        ("127.0.0.1", ("localhost",), (-1, 1), r"another name than 127\.0\.0\.1"),
        ("localhost", ("localhost",), (-9, -2), r"it has expired; .*endpoints\[\]\.ca_file"),
        ("localhost", ("localhost",), (2, 9), r"it is not valid yet"),
    ],
)
async def test_a_bad_certificate_is_refused_and_the_reason_told(
    certificates: Certificates,
    host: str,
    names: tuple[str, ...],
    days: tuple[int, int],
    expected: str,
) -> None:
    begins, ends = (datetime.now(UTC) + timedelta(days=day) for day in days)
    server = certificates.server(*names, not_before=begins, not_after=ends)
    trust = Certificates() if "unknown" in expected else certificates
    async with PoolPeer(server) as peer:
        before = open_sockets()
        error = await failure(peer.port, host=host, tls=trust.client())
        assert type(error) is ConnectFailed
        assert peer.connections == []
        await closed_again(before)
    with pytest.raises(ConnectFailed, match=expected):
        raise error
    assert error.message.startswith(f"https://{host}:{peer.port}: the certificate was refused")


async def test_a_self_signed_certificate_is_named_as_such(tmp_path: Path) -> None:
    alone = Certificates()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    (tmp_path / "own.pem").write_bytes(alone.ca.private_key_pem.bytes() + alone.ca.cert_pem.bytes())
    context.load_cert_chain(tmp_path / "own.pem")
    async with PoolPeer(context) as peer:
        error = await failure(peer.port, host="localhost", tls=client_context())
    assert "it is self-signed" in error.message


async def test_a_stalled_handshake_is_bounded(certificates: Certificates, silent: int) -> None:
    before = open_sockets()
    started = time.monotonic()
    tls = certificates.client()
    error = await failure(silent, tls=tls, connect_timeout=0.3)
    assert isinstance(error, ConnectTimeout)
    assert "TLS handshake" in error.message
    assert time.monotonic() - started < 0.6
    await closed_again(before)


async def test_an_address_that_stalls_in_the_handshake_leaves_time_for_the_next(
    certificates: Certificates, silent: int
) -> None:
    async with PoolPeer(certificates.server()) as peer:
        resolve = fixed(("127.0.0.1", silent), ("127.0.0.1", peer.port))
        tls = certificates.client()
        how: dict[str, Any] = {"resolve": resolve, "tls": tls, "connect_timeout": 1.0}
        async with dialled(443, host="localhost", **how) as connection:
            assert connection.port == peer.port
            assert connection.took < 0.9


async def test_an_address_with_a_bad_certificate_gets_one_handshake_and_then_the_next_is_tried(
    certificates: Certificates,
) -> None:
    async with PoolPeer(certificates.server()) as good, PoolPeer(Certificates().server()) as bad:
        handshakes = 0

        def count(*_: Any) -> None:
            nonlocal handshakes
            handshakes += 1

        assert bad.tls is not None
        bad.tls.sni_callback = count
        resolve = fixed(("127.0.0.1", bad.port), ("127.0.0.1", good.port))
        tls = certificates.client()
        async with dialled(443, host="localhost", tls=tls, resolve=resolve) as connection:
            assert connection.port == good.port
        error = await failure(
            443, host="localhost", tls=tls, resolve=fixed(("127.0.0.1", bad.port))
        )
        assert "unknown CA" in error.message
        assert handshakes == 2


async def test_a_peer_that_hangs_up_in_the_handshake_is_told(certificates: Certificates) -> None:
    async with PoolPeer(hangs_up=True) as peer:
        error = await failure(peer.port, tls=certificates.client())
        assert "closed during the TLS handshake" in error.message or "eof" in error.message


async def test_a_peer_that_speaks_no_tls_is_told(certificates: Certificates) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        error = await failure(port, tls=certificates.client())
        assert "the TLS handshake failed" in error.message


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("TLSV1_ALERT_NO_APPLICATION_PROTOCOL", "no protocol in common by ALPN; see pool.http2"),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", "handshake failed: sslv3 alert handshake failure"),
        ("", "handshake failed: unknown reason"),
    ],
)
def test_other_failures_of_the_handshake_are_told(error: str, told: str) -> None:
    failed = ssl.SSLError()
    failed.reason = error
    assert told in handshake_failure(failed, "localhost")


def test_ca_file_is_trusted_besides_the_systems_roots(
    certificates: Certificates, tmp_path: Path
) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(certificates.ca.cert_pem.bytes())
    plain, extended = client_context(), client_context(ca_file)
    assert len(extended.get_ca_certs()) == len(plain.get_ca_certs()) + 1
    for context in (plain, extended, offering(extended, "h2"), offering(certificates.client())):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.check_hostname
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2


async def test_a_context_keeps_its_trust_when_alpn_is_set(
    certificates: Certificates, tmp_path: Path
) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(certificates.ca.cert_pem.bytes())
    async with PoolPeer(certificates.server(alpn=("h2", "http/1.1"))) as peer:
        for trust in (client_context(ca_file), certificates.client()):
            for protocol in ("h2", "http/1.1"):
                tls = offering(trust, protocol)
                async with dialled(peer.port, host="localhost", tls=tls) as connection:
                    assert connection.phases.alpn == protocol


def test_a_context_that_does_not_verify_is_refused() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    with pytest.raises(ValueError, match="must verify"):
        offering(context, "h2")


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\xff\xfe"])
def test_a_ca_file_without_certificates_is_named(tmp_path: Path, content: bytes | None) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_bytes(content)
    with pytest.raises(ValueError, match=r"endpoints\[\]\.ca_file .*ca\.pem"):
        client_context(ca_file)
