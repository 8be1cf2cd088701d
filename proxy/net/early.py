"""An early commit: status and heartbeats for a client that waits, before there is an answer.

What is tried for the answer goes on behind it. Once it has begun, a failure can only be told as an
event; that is the price of a client whose own timers see that somebody works for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from proxy.net.halves import HEARTBEAT, Client, Headers

_EVENT_STREAM = ("content-type", "text/event-stream;charset=UTF-8")


class EarlyCommit:
    """While entered: after each `interval` seconds a heartbeat, before the first one the head."""

    def __init__(self, client: Client, interval: float, commit: Callable[[], Headers]) -> None:
        """`commit` is called once, when the head is about to be sent, and says its headers.

        With an interval of 0 nothing is sent.
        """
        self._client = client
        self._interval = interval
        self._commit = commit
        self._timer: asyncio.TimerHandle | None = None
        self.heartbeats = 0

    def __enter__(self) -> Self:
        if self._interval:
            self._arm()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._interval, self._beat)

    def commit(self) -> None:
        """Send the head now, if it was not. No upstream has said its own yet."""
        if not self._client.has_begun:
            self._client.open([_EVENT_STREAM, *self._commit()])

    def _beat(self) -> None:
        client = self._client
        self.commit()
        if client.paused_since is None:  # one that does not read needs no more to read
            self.heartbeats += 1
            client.write([HEARTBEAT])
        self._arm()
