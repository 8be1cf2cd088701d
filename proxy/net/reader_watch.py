"""The end of waiting for a client that reads nothing of what was written to it.

A closed transport stays until its peer has read everything, or for ever; so does a write that is
waited for.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable
from typing import Final

_AT_ONCE: Final = struct.pack("ii", 1, 0)


def unread(transport: asyncio.Transport) -> int:
    """Bytes written that the client's machine has not acknowledged.

    Those in the kernel count (tcp(7): SIOCOUTQ): it takes more from us only in large steps, so a
    slow reader would look like one that reads nothing.
    """
    here = transport.get_write_buffer_size()
    descriptor: int = transport.get_extra_info("socket").fileno()
    if descriptor < 0:
        return here
    queued = fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0" * 4)
    return here + int.from_bytes(queued, sys.byteorder)


def arrived(transport: asyncio.Transport) -> int:
    """Bytes that came and were not read yet: who closes over them resets the connection (tcp(7):
    SIOCINQ, RFC 9293 §3.10.4)."""
    descriptor: int = transport.get_extra_info("socket").fileno()
    if descriptor < 0:
        return 0
    waiting = fcntl.ioctl(descriptor, termios.FIONREAD, b"\0" * 4)
    return int.from_bytes(waiting, sys.byteorder)


def reset(transport: asyncio.Transport) -> None:
    """Drop the connection with what is unread: a mere close leaves the kernel to keep it, and to
    ask for minutes whether it is read now (tcp(7): orphans)."""
    peer = transport.get_extra_info("socket")
    if peer is not None and peer.fileno() >= 0:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    transport.abort()


class ReaderWatch:
    """While started, breaks `transport` when for `stall` seconds the client read nothing of it."""

    __slots__ = ("_left", "_stall", "_timer", "transport", "written")

    def __init__(self, stall: float) -> None:
        self.transport: asyncio.Transport | None = None
        self.written: Callable[[], int] = int
        """Bytes that were ever written, where more may be while it is watched."""
        self._stall = stall
        self._left = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, or begin anew; nothing is watched where nothing waits to be read."""
        self.stop()
        if self.transport is None:
            return
        if self.transport.get_write_buffer_size():
            self._left = self._unread()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._stall, self._look)

    def stop(self) -> None:
        """The client reads, or somebody else watches it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _unread(self) -> int:
        assert self.transport is not None
        return unread(self.transport) - self.written()

    def _look(self) -> None:
        assert self.transport is not None
        if self._unread() >= self._left:
            reset(self.transport)
        else:
            self.start()
