"""New connections on real sockets: addresses, names, deadlines, options.

Every test runs on asyncio's own loop and on uvloop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.errors import ConnectFailed, ConnectTimeout
from proxy.net.dial import Dialer, Origin
from proxy.net.dns import TTL, Address, Addresses, interleave
from proxy.net.sockets import STAGGER, new_socket, socket_options
from tests.fakes.dialling import (
    black_hole,
    closed_port,
    dialled,
    failure,
    fixed,
    open_sockets,
    settings,
    silent_port,
)


@pytest.fixture
def silent() -> Iterator[int]:
    with silent_port() as port:
        yield port


# --- addresses ----------------------------------------------------------------------------------


async def test_a_silent_address_is_passed_over_within_300_ms(silent: int) -> None:
    with black_hole() as hole:
        resolve = fixed(("127.0.0.1", hole), ("127.0.0.1", silent))
        took = []
        for _ in range(3):  # the best of three, as the machine may be busy
            async with dialled(443, resolve=resolve) as connection:
                assert connection.port == silent
                took.append(connection.took)
        assert 0.2 <= min(took) < 0.3


async def test_a_refusing_address_is_passed_over_at_once(silent: int) -> None:
    resolve = fixed(("127.0.0.1", closed_port()), ("127.0.0.1", silent))
    async with dialled(443, resolve=resolve) as connection:
        assert connection.port == silent
        assert connection.took < STAGGER


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


async def test_the_losers_of_the_race_leave_no_task_and_no_socket(silent: int) -> None:
    with black_hole() as hole:
        before, tasks = open_sockets(), asyncio.all_tasks()
        addresses = [("127.0.0.1", port) for port in (hole, hole, closed_port())]
        resolve = fixed(*addresses, ("127.0.0.1", silent))
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
    silent: int,
) -> None:
    answers = iter([closed_port(), silent])

    async def resolve(host: str, port: int) -> list[Address]:
        return [Address(socket.AF_INET, ("127.0.0.1", next(answers)))]

    dialer = Dialer(Origin("http", "name", 80), None, Addresses(resolve), settings())
    with pytest.raises(ConnectFailed):
        await dialer.dial(lambda alpn: None)
    assert (await dialer.dial(lambda alpn: None)).alpn == ""


# --- sockets and origins ------------------------------------------------------------------------


async def test_socket_options_are_really_set(silent: int) -> None:
    how: dict[str, Any] = {"tcp_keepalive": 61.0, "tcp_user_timeout": 31.0}
    async with dialled(silent, **how) as connection:
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
