"""Sockets that were opened for us, and what systemd is told: both by its protocols, without its
library.

sd_listen_fds(3): `LISTEN_PID` is who the sockets are for, `LISTEN_FDS` how many there are from 3
on, `LISTEN_FDNAMES` their names. A master hands its sockets to another in the same way.
sd_notify(3): lines to a datagram socket, `NOTIFY_SOCKET`.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

FIRST: Final = 3
"""The number of the first socket."""
UPGRADE: Final = "upgrade"
"""The name of the socket to the master that we are to follow."""
NAMES: Final = ("data", "admin", UPGRADE)
_WATCHDOG: Final = "WATCHDOG_PID"
VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class WrongSocket(Exception):
    """What was handed over is not what we listen on. `str()` is one line for the operator."""


def inherited(environ: Mapping[str, str], pid: int) -> dict[str, socket.socket]:
    """The sockets that are for this process, by name; none without them.

    Raises WrongSocket.
    """
    if environ.get("LISTEN_PID") != str(pid):
        return {}
    count = int(environ.get("LISTEN_FDS", "0"))
    names = environ.get("LISTEN_FDNAMES", "").split(":") if count else []
    wrong = [name for name in names if name not in NAMES]
    if wrong or len(names) != count or len(set(names)) != count:
        raise WrongSocket(
            f"sockets were handed over under the names {', '.join(names) or '(none)'};"
            " FileDescriptorName= must be `data` for one and `admin` for the other"
        )
    return {name: _taken(FIRST + number, name) for number, name in enumerate(names)}


def _taken(number: int, name: str) -> socket.socket:
    os.set_inheritable(number, False)
    try:
        found = socket.socket(fileno=number)
        listens = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        raise WrongSocket(f"what was handed over as {name!r} is no socket") from None
    network = found.family in (socket.AF_INET, socket.AF_INET6)
    if name != UPGRADE and not (listens and network):
        raise WrongSocket(f"the socket {name!r} must be one that listens by TCP (ListenStream=)")
    found.setblocking(False)
    return found


def environment(environ: Mapping[str, str], pid: int, names: tuple[str, ...]) -> dict[str, str]:
    """`environ` for a process that gets sockets of these names, and follows the one it was for."""
    values = (str(pid), str(len(names)), ":".join(names))
    found = {**environ, **dict(zip(VARIABLES, values, strict=True))}
    if _WATCHDOG in found:
        found[_WATCHDOG] = str(pid)
    return found


class Systemd:
    """Tells whoever started us how we are; without `NOTIFY_SOCKET`, nobody."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # An abstract address begins with a zero, which a variable cannot hold.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        for_us = environ.get(_WATCHDOG) in (None, str(os.getpid()))
        within = int(environ.get("WATCHDOG_USEC", "0")) if for_us else 0
        self.watchdog = within / 2_000_000
        """Seconds between two signs of life; 0: none are wanted."""
        self._signed = 0.0

    def ready(self) -> None:
        self.tell("READY=1", f"MAINPID={os.getpid()}")

    def reloading(self) -> None:
        """`ready` must follow."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self.tell("STOPPING=1")

    def followed_by(self, pid: int) -> None:
        """Another process is the service from now on."""
        self.tell(f"MAINPID={pid}", "READY=1")

    def lives(self, now: float) -> None:
        """Said as often as wanted, however often this is called."""
        if self.watchdog and now - self._signed >= self.watchdog:
            self._signed = now
            self.tell("WATCHDOG=1")

    def tell(self, *lines: str) -> None:
        if not self._address:
            return
        # Whoever does not listen any more has nothing to be told.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as telling:
            telling.setblocking(False)
            telling.sendto("\n".join(lines).encode(), self._address)
