"""New connections on real sockets: addresses, TLS, deadlines, and what failures are told as.

Every test runs on asyncio's own loop and on uvloop.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from proxy.errors import ConnectFailed, ConnectTimeout
from proxy.net.dial import ConnectPhases, Dialer, Origin
from proxy.net.dns import TTL, Address, Addresses, Resolve, interleave, system_resolve
from proxy.net.sockets import new_socket, socket_options
from proxy.net.tls import client_context, handshake_failure, offering
from tests.fakes.pool_peer import (
    Certificates,
    PoolPeer,
    black_hole,
    closed_again,
    closed_port,
    open_sockets,
    settings,
)


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return Certificates()


class Taker(asyncio.Protocol):
    """Takes a connection and keeps what it needs to look at it."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.received = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.received.set()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set_result(None)


class Dialled:
    """The result of a dial that worked."""

    def __init__(self, phases: ConnectPhases, taker: Taker, took: float) -> None:
        self.phases = phases
        self.taker = taker
        self.took = took
        assert taker.transport is not None
        self.transport = taker.transport

    @property
    def port(self) -> int:
        port: int = self.transport.get_extra_info("peername")[1]
        return port


def fixed(*addresses: tuple[str, int]) -> Resolve:
    """A resolver that always has these."""

    async def resolve(host: str, port: int) -> list[Address]:
        return [
            Address(socket.AF_INET6 if ":" in ip else socket.AF_INET, (ip, number))
            for ip, number in addresses
        ]

    return resolve


@asynccontextmanager
async def dialled(
    port: int,
    *,
    host: str = "127.0.0.1",
    tls: ssl.SSLContext | None = None,
    resolve: Resolve = system_resolve,
    **changes: Any,
) -> AsyncIterator[Dialled]:
    """Dial once, close at the end."""
    origin = Origin("https" if tls else "http", host, port)
    dialer = Dialer(origin, tls, Addresses(resolve), settings(**changes))
    taker = Taker()
    started = time.monotonic()
    phases = await dialer.dial(lambda alpn: taker)
    try:
        yield Dialled(phases, taker, time.monotonic() - started)
    finally:
        assert taker.transport is not None
        taker.transport.abort()
        await taker.lost


async def failure(port: int, **how: Any) -> ConnectFailed:
    """The error of a dial that must not work."""
    with pytest.raises(ConnectFailed) as caught:
        async with dialled(port, **how):
            pass
    return caught.value


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Completes TCP handshakes and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def port_of(server: socket.socket) -> int:
    port: int = server.getsockname()[1]
    return port


# --- addresses ----------------------------------------------------------------------------------


async def test_a_silent_address_is_passed_over_within_300_ms(listener: socket.socket) -> None:
    with black_hole() as hole:
        resolve = fixed(("127.0.0.1", hole), ("127.0.0.1", port_of(listener)))
        async with dialled(443, resolve=resolve) as connection:
            assert connection.port == port_of(listener)
            assert 0.2 <= connection.took < 0.3


async def test_a_refusing_address_is_passed_over_at_once(listener: socket.socket) -> None:
    resolve = fixed(("127.0.0.1", closed_port()), ("127.0.0.1", port_of(listener)))
    async with dialled(443, resolve=resolve) as connection:
        assert connection.port == port_of(listener)
        assert connection.took < 0.1


async def test_families_are_tried_in_turn() -> None:
    async def resolve(host: str, port: int) -> list[Address]:
        return [
            Address(family, (ip, port))
            for family, ip in [
                (socket.AF_INET6, "::1"),
                (socket.AF_INET6, "::2"),
                (socket.AF_INET6, "::1"),
                (socket.AF_INET, "10.0.0.1"),
                (socket.AF_INET, "10.0.0.2"),
                (socket.AF_INET, "10.0.0.3"),
            ]
        ]

    ordered = interleave(await resolve("name", 1))
    assert [address.sockaddr[0] for address in ordered] == [
        "::1",
        "10.0.0.1",
        "::2",
        "10.0.0.2",
        "10.0.0.3",
    ]
    assert [str(address) for address in ordered[:2]] == ["[::1]:1", "10.0.0.1:1"]


async def test_when_every_address_fails_the_error_names_them_all() -> None:
    ports = closed_port(), closed_port()
    error = await failure(443, resolve=fixed(*(("127.0.0.1", port) for port in ports)))
    assert type(error) is ConnectFailed
    assert f"127.0.0.1:{ports[0]}, 127.0.0.1:{ports[1]}: connection refused" in error.message


async def test_an_unreachable_network_is_told() -> None:
    # RFC 6666's discard-only prefix is never routed.
    error = await failure(443, resolve=fixed(("100::1", 443)), connect_timeout=0.3)
    assert "[100::1]:443" in error.message or isinstance(error, ConnectTimeout)


async def test_the_losers_of_the_race_leave_no_task_and_no_socket(listener: socket.socket) -> None:
    with black_hole() as hole:
        before, tasks = open_sockets(), asyncio.all_tasks()
        addresses = [("127.0.0.1", port) for port in (hole, hole, closed_port())]
        resolve = fixed(*addresses, ("127.0.0.1", port_of(listener)))
        async with dialled(443, resolve=resolve):
            assert asyncio.all_tasks() == tasks
            assert open_sockets() == before + 1
        assert open_sockets() == before


async def test_a_dial_that_is_cancelled_leaves_no_socket() -> None:
    with black_hole() as hole:
        before = open_sockets()
        task = asyncio.create_task(failure(hole))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
        assert open_sockets() == before


# --- names --------------------------------------------------------------------------------------


async def test_an_unknown_name_is_told() -> None:
    async def resolve(host: str, port: int) -> list[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    error = await failure(443, host="nowhere.invalid", resolve=resolve)
    assert error.message == (
        "http://nowhere.invalid:443: the name was not resolved: Name or service not known"
    )


async def test_what_is_no_host_name_at_all_is_told() -> None:
    error = await failure(443, host="a" * 64 + ".invalid")
    assert "not a host name" in error.message


async def test_a_slow_resolver_is_bounded_by_the_connect_timeout() -> None:
    async def resolve(host: str, port: int) -> list[Address]:
        await asyncio.Event().wait()
        return []

    error = await failure(443, resolve=resolve, connect_timeout=0.05)
    assert isinstance(error, ConnectTimeout)
    assert "resolving the name" in error.message


async def test_addresses_are_kept_for_a_minute_and_then_asked_for_again() -> None:
    answers = iter(["10.0.0.1", "10.0.0.2", "10.0.0.3"])
    now = [0.0]

    async def resolve(host: str, port: int) -> list[Address]:
        return [Address(socket.AF_INET, (next(answers), port))]

    addresses = Addresses(resolve, clock=lambda: now[0])
    seen = []
    for moment in (0.0, TTL - 1, TTL):
        now[0] = moment
        seen.append((await addresses.of("name", 1))[0].sockaddr[0])
    assert seen == ["10.0.0.1", "10.0.0.1", "10.0.0.2"]
    assert TTL <= 60


async def test_an_answer_without_addresses_is_a_failure() -> None:
    error = await failure(443, resolve=fixed())
    assert "the name has no address" in error.message


async def test_a_move_to_another_address_is_noticed_when_the_old_one_fails(
    listener: socket.socket,
) -> None:
    answers = iter([closed_port(), port_of(listener)])

    async def resolve(host: str, port: int) -> list[Address]:
        return [Address(socket.AF_INET, ("127.0.0.1", next(answers)))]

    dialer = Dialer(Origin("http", "name", 80), None, Addresses(resolve), settings())
    with pytest.raises(ConnectFailed):
        await dialer.dial(lambda alpn: None)
    assert (await dialer.dial(lambda alpn: None)).alpn == ""


# --- TLS ----------------------------------------------------------------------------------------


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


async def test_a_stalled_handshake_is_bounded(
    certificates: Certificates, listener: socket.socket
) -> None:
    before = open_sockets()
    started = time.monotonic()
    tls = certificates.client()
    error = await failure(port_of(listener), tls=tls, connect_timeout=0.3)
    assert isinstance(error, ConnectTimeout)
    assert "TLS handshake" in error.message
    assert time.monotonic() - started < 0.6
    await closed_again(before)


async def test_an_address_that_stalls_in_the_handshake_leaves_time_for_the_next(
    certificates: Certificates, listener: socket.socket
) -> None:
    async with PoolPeer(certificates.server()) as peer:
        resolve = fixed(("127.0.0.1", port_of(listener)), ("127.0.0.1", peer.port))
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


# --- sockets and origins ------------------------------------------------------------------------


async def test_socket_options_are_really_set(listener: socket.socket) -> None:
    how: dict[str, Any] = {"tcp_keepalive": 61.0, "tcp_user_timeout": 31.0}
    async with dialled(port_of(listener), **how) as connection:
        sock = connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 61
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 31_000


def test_an_option_the_platform_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = socket_options(settings())
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT")
    assert len(socket_options(settings())) == len(whole) - 1


def test_a_socket_whose_options_are_refused_is_closed() -> None:
    before = open_sockets()
    with pytest.raises(OSError, match="Protocol not available"):
        new_socket(socket.AF_INET, [(socket.IPPROTO_TCP, 9999, 1)])
    assert open_sockets() == before


@pytest.mark.parametrize(
    ("url", "origin", "text"),
    [
        ("https://api.z.ai", ("https", "api.z.ai", 443), "https://api.z.ai:443"),
        ("http://127.0.0.1:8000/glm", ("http", "127.0.0.1", 8000), "http://127.0.0.1:8000"),
        ("https://[::1]/x", ("https", "::1", 443), "https://[::1]:443"),
        ("http://Localhost", ("http", "localhost", 80), "http://localhost:80"),
    ],
)
def test_an_origin_comes_from_a_base_url(url: str, origin: tuple[str, str, int], text: str) -> None:
    assert Origin.of(url) == origin
    assert str(Origin.of(url)) == text


@pytest.mark.parametrize("url", ["", "ftp://host", "https://", "host:80"])
def test_what_is_no_http_url_has_no_origin(url: str) -> None:
    with pytest.raises(ValueError, match="not an http"):
        Origin.of(url)
