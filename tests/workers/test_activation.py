"""Sockets from somebody else, and what systemd is told: with a socket in its place."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from proxy.net.listen import listening_socket
from proxy.workers.activation import Systemd, WrongSocket, environment, inherited
from tests.fakes.fleet import fleet, lives
from tests.fakes.traffic import Traffic, script
from tests.fakes.until import until
from tests.fakes.upstream import ScriptedUpstream


class Listener:
    """What systemd hears."""

    def __init__(self, path: Path) -> None:
        self.environ = {"NOTIFY_SOCKET": str(path)}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self.heard: list[str] = []

    def hears(self, line: str) -> bool:
        try:
            while True:
                self.heard += self._socket.recv(4096).decode().splitlines()
        except BlockingIOError:
            return line in self.heard

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Listener]:
    with closing(Listener(tmp_path / "notify")) as one:
        yield one


@contextmanager
def two_sockets() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        listening_socket("server", "127.0.0.1", 0) as data,
        listening_socket("admin", "127.0.0.1", 0) as admin,
    ):
        yield data, admin


@pytest.mark.parametrize("workers", [1, 2])
async def test_sockets_that_were_handed_over_are_served_and_systemd_hears_of_it(
    tmp_path: Path, systemd: Listener, workers: int
) -> None:
    """Whoever connects before the start, or between two, waits and is served."""
    async with ScriptedUpstream(script) as upstream:
        settings = {
            "server": {"workers": workers, "drain_timeout": "10s"},
            "endpoints": [{"name": "up", "base_url": upstream.url}],
        }
        with two_sockets() as sockets:
            traffic = Traffic(sockets[0].getsockname())
            for _ in range(2):
                systemd.heard.clear()
                early = asyncio.create_task(traffic.quick(keep=False))
                handed = fleet(tmp_path, settings, sockets=sockets, environ=systemd.environ)
                async with handed as one:
                    assert one.data == sockets[0].getsockname()
                    assert one.admin == sockets[1].getsockname()
                    assert await early == "whole"
                    await until(lambda: systemd.hears("READY=1"))
                    assert f"MAINPID={one.master}" in systemd.heard
                    one.send(signal.SIGHUP)
                    await until(lambda: systemd.hears("RELOADING=1"))
                    await until(lambda: systemd.hears("") or systemd.heard.count("READY=1") == 2)
                    one.send(signal.SIGTERM)
                    await until(lambda: systemd.hears("STOPPING=1"))
                    assert await one.ended() == 0


async def test_systemd_hears_who_took_over(tmp_path: Path, systemd: Listener) -> None:
    settings = {"endpoints": [{"name": "up", "base_url": "http://127.0.0.1:9"}]}
    environ = {**systemd.environ, "WATCHDOG_USEC": "400000"}
    async with fleet(tmp_path, settings, environ=environ) as one:
        before = one.master
        await one.upgrade()
        await until(lambda: systemd.hears(f"MAINPID={one.master}"))
        await until(lambda: not lives(before))
        assert not systemd.hears("STOPPING=1")
        systemd.heard.clear()
        await until(lambda: systemd.hears("WATCHDOG=1"))


async def test_sockets_by_other_names_are_not_guessed_at(tmp_path: Path) -> None:
    settings = {"endpoints": [{"name": "up", "base_url": "http://127.0.0.1:9"}]}
    with two_sockets() as sockets:
        async with fleet(
            tmp_path, settings, sockets=sockets, names="http:metrics", listens=False
        ) as one:
            assert await one.ended() == 1
            assert "FileDescriptorName= must be `data` for one and `admin`" in one.errors


def test_sockets_for_another_process_are_left_alone() -> None:
    environ = environment({}, 4711, ("data", "admin"))
    assert environ == {"LISTEN_PID": "4711", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "data:admin"}
    assert inherited(environ, 4712) == {}


def test_the_watchdog_of_one_process_is_that_of_its_successor() -> None:
    assert environment({"WATCHDOG_PID": "1"}, 4711, ("data",))["WATCHDOG_PID"] == "4711"


@pytest.mark.parametrize("names", ["", "data", "data:data", "data:other"])
def test_names_that_cannot_be_meant_are_refused(names: str) -> None:
    with pytest.raises(WrongSocket, match="FileDescriptorName"):
        inherited({"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": names}, 1)


def test_without_a_notify_socket_nobody_is_told() -> None:
    Systemd({}).ready()
    Systemd({"NOTIFY_SOCKET": "/nowhere/at/all"}).ready()
