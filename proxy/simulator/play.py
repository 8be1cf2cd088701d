"""Sends one reply at its times through an outlet, faults included, and marks the ledger."""

from __future__ import annotations

import asyncio
import time

from proxy.simulator.faults import Ending, Fault
from proxy.simulator.ledger import Entry, Headers, Ledger
from proxy.simulator.reply import Outlet, Reply
from proxy.simulator.shape import COMMENT, Shaping

_WRITES_PER_TURN = 16
"""Writes without a wait before others get a turn: a peer that left is noticed then too."""
_SHORTEST_WAIT = 0.0005


class Player:
    """The performance of one reply. Times are multiplied by `time_scale`."""

    def __init__(self, ledger: Ledger, entry: Entry, out: Outlet, time_scale: float) -> None:
        self._ledger = ledger
        self._entry = entry
        self._out = out
        self._scale = time_scale
        self._start = time.monotonic() if entry.accepted is None else entry.accepted
        self._in_turn = 0

    async def play(self, reply: Reply, fault: Fault) -> None:
        """The whole response; returns when it is ended."""
        shaping = Shaping(reply, fault)
        self._start += fault.delay * self._scale
        await self._until(reply.head_at)
        if fault.no_headers:
            await self._end(fault.ending or Ending.HOLD, fault)
            return
        self._begin(reply, fault)
        for step in shaping.steps():
            await self._until(step.at)
            self._out.write(step.data)
            self._wrote()
            if self._out.blocked:
                await self._out.unblocked()
        await self._end(fault.ending_after(shaping.cut), fault)

    def _begin(self, reply: Reply, fault: Fault) -> None:
        for _ in range(fault.informational):
            self._out.informational([(b"link", b"</style.css>; rel=preload")])
        length = reply.length
        if fault.content_length is not None:
            length = fault.content_length
        headers = _replaced(reply.headers, fault)
        until_close = fault.ending is Ending.CLOSE_DELIMITED
        self._out.begin(reply.status, headers, length, until_close=until_close)
        self._entry.status = reply.status
        self._entry.headers_sent = time.monotonic()
        self._ledger.changed()

    def _wrote(self) -> None:
        entry = self._entry
        entry.last_event = time.monotonic()
        entry.events += 1
        if entry.first_event is None:
            entry.first_event = entry.last_event
        self._ledger.changed()

    async def _until(self, at: float) -> None:
        due = self._start + at * self._scale
        wait = due - time.monotonic()
        if wait > _SHORTEST_WAIT:
            while wait > _SHORTEST_WAIT:  # uvloop's timers may be a few milliseconds early
                await asyncio.sleep(wait)
                wait = due - time.monotonic()
            self._in_turn = 0
            return
        self._in_turn += 1
        if self._in_turn % _WRITES_PER_TURN == 0:
            await asyncio.sleep(0)

    async def _end(self, ending: Ending, fault: Fault) -> None:
        if ending is Ending.HOLD:
            await self._hold(fault.held_comments)
        await self._out.end(ending, fault.reset_code)
        self._ledger.finished(self._entry)

    async def _hold(self, every: float | None) -> None:
        """Until the peer leaves, which cancels this task."""
        if every is None:
            await asyncio.get_running_loop().create_future()
        pause = max((every or 0.0) * self._scale, 0.001)
        while True:
            await asyncio.sleep(pause)
            self._out.write(COMMENT)
            if self._out.blocked:
                await self._out.unblocked()


def _replaced(headers: Headers, fault: Fault) -> Headers:
    own = [(name.lower().encode(), value.encode()) for name, value in fault.headers]
    names = {name for name, _ in own}
    kept = [pair for pair in headers if pair[0] not in names]
    if fault.gzip is not None:
        kept.append((b"content-encoding", b"gzip"))
    return kept + own
