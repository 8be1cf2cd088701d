"""TCP sockets towards upstreams: their options, and the race to the first address that answers."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable, Sequence
from typing import Final

from proxy.config import PoolSettings
from proxy.net.dns import Address

STAGGER: Final = 0.25
"""Seconds before the next address is tried beside a silent one (RFC 8305 §5)."""
_PROBES: Final = 3
_PROBE_INTERVAL: Final = 10
"""TCP keep-alive: probes, and seconds between them, before a silent peer is given up."""


def socket_options(settings: PoolSettings) -> list[tuple[int, int, int]]:
    """(level, option, value) for every upstream socket; what this platform lacks is left out.

    tcp(7): without TCP_USER_TIMEOUT a write to a vanished peer is retried for about 15 minutes.
    """
    options = [
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE", max(1, round(settings.tcp_keepalive))),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", _PROBE_INTERVAL),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", _PROBES),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", round(settings.tcp_user_timeout * 1000)),
    ]
    return [
        (level, getattr(socket, name), value)
        for level, name, value in options
        if hasattr(socket, name)
    ]


def new_socket(family: int, options: Iterable[tuple[int, int, int]]) -> socket.socket:
    """A non-blocking TCP socket with `options`. Raises OSError."""
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        made.setblocking(False)
        for level, option, value in options:
            made.setsockopt(level, option, value)
    except OSError:
        made.close()
        raise
    return made


def reason_of(error: OSError) -> str:
    """Why, in the system's words; what has no number speaks for itself."""
    return os.strerror(error.errno).lower() if error.errno else str(error)


async def first_to_answer(
    addresses: Iterable[Address], options: Sequence[tuple[int, int, int]]
) -> tuple[Address, socket.socket]:
    """Happy eyeballs (RFC 8305 §5): the next address is tried when one fails, or is silent for
    `STAGGER`; the first that connects wins. Raises the first failure when all fail.
    """
    waiting = list(addresses)
    attempts: dict[asyncio.Task[socket.socket], Address] = {}
    running: set[asyncio.Task[socket.socket]] = set()
    failures: list[OSError] = []
    winner: asyncio.Task[socket.socket] | None = None
    try:
        while winner is None and (waiting or running):
            if waiting:
                address = waiting.pop(0)
                task = asyncio.create_task(_connect(address, options))
                attempts[task] = address
                running.add(task)
            done, running = await asyncio.wait(
                running,
                timeout=STAGGER if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                error = task.exception()
                if error is None:
                    winner = winner or task
                elif isinstance(error, OSError):
                    failures.append(error)
                else:
                    raise error
        if winner is None:
            raise failures[0]
        return attempts[winner], winner.result()
    finally:
        _give_up(attempts, winner)


async def _connect(address: Address, options: Sequence[tuple[int, int, int]]) -> socket.socket:
    made = new_socket(address.family, options)
    try:
        await asyncio.get_running_loop().sock_connect(made, address.sockaddr)
    except BaseException:
        made.close()
        raise
    return made


def _give_up(
    attempts: Iterable[asyncio.Task[socket.socket]], winner: asyncio.Task[socket.socket] | None
) -> None:
    """Cancel every attempt but the winner's; one cancelled closes its socket in the next turn of
    the loop. Close here what another opened in the same moment as the winner."""
    for task in attempts:
        if task is winner or task.cancel() or task.cancelled():
            continue
        if task.exception() is None:
            task.result().close()
