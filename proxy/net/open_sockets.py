"""The WebSockets of one listener, and what each may do."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from proxy.core.wire.websocket import ABNORMAL

if TYPE_CHECKING:
    from proxy.net.websocket import Socket


class Limits(NamedTuple):
    """What a peer may do. Seconds and bytes; None: as it likes."""

    max_message: int
    ping_interval: float
    messages_per_minute: int | None = None
    idle_timeout: float | None = None


class Sockets:
    """Those that are open, and what was counted of all there were."""

    def __init__(self) -> None:
        self.open: set[Socket] = set()
        self.received = self.sent = 0
        """Messages, of those that are over; see `messages`."""
        self.closed = Counter[int]()
        """By close code."""

    def messages(self) -> tuple[int, int]:
        """Received and sent, up to now."""
        received = self.received + sum(one.messages_in for one in self.open)
        return received, self.sent + sum(one.messages_out for one in self.open)

    def stop(self) -> None:
        """The server begins to stop."""
        for one in tuple(self.open):
            one.stop()

    def over(self, socket: Socket) -> None:
        """It is not open any more."""
        if socket in self.open:
            self.open.remove(socket)
            self.received += socket.messages_in
            self.sent += socket.messages_out
            self.closed[socket.code or ABNORMAL] += 1


class Bucket:
    """So many a minute, all at once if need be."""

    __slots__ = ("_left", "_most", "_then")

    def __init__(self, most: int, now: float) -> None:
        self._most = self._left = float(most)
        self._then = now

    def take(self, now: float) -> bool:
        """Whether there may be one more at `now`, the monotonic clock."""
        self._left = min(self._most, self._left + (now - self._then) * self._most / 60.0)
        self._then = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
