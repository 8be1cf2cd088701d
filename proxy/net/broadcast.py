"""One stream of events for many clients: each gets all of it from its start, at its own pace.

A broadcast is what an attempt writes into. Every reader that keeps up is written to at once, in
the upstream's own `data_received`; no task wakes per event. One whose transport is paused is
passed over, and gets what it missed from the kept events when it drains. Nobody waits for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine

from proxy.core.flow.timeline import Timeline
from proxy.errors import ClientGone, ProxyError
from proxy.net.halves import HEARTBEAT, Writer

_HEARTBEATS = [HEARTBEAT]
_AT_ONCE = 1024 * 1024
"""Bytes of kept events that are written at once to one who comes late, or was passed over."""


class Errand:
    """Work that goes on whoever of those waiting for it leaves. It must raise nothing."""

    __slots__ = ("_task", "_timer")

    def __init__(self, work: Coroutine[None, None, None]) -> None:
        self._task = asyncio.get_running_loop().create_task(work)
        self._timer: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        self._task.cancel()

    def limit(self, seconds: float, overdue: Callable[[], None]) -> None:
        """Call `overdue` if the limit is not lifted within `seconds` from now."""
        self.lift()
        self._timer = asyncio.get_running_loop().call_later(seconds, overdue)

    def lift(self) -> None:
        """No limit any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Broadcast:
    """The events of one stream so far, and its readers.

    For the attempt it is a client: one that always keeps up, or, if it `holds`, one that reads
    while any of its readers does, or has none.
    """

    __slots__ = (
        "_begun",
        "_dropped",
        "_holds",
        "_kept",
        "_limit",
        "_readers",
        "_room",
        "_size",
        "_stall",
        "came",
        "ended",
        "error",
        "is_over",
        "on_flow",
        "paused_since",
    )

    def __init__(
        self, limit: int, stall: float, *, room: int | None = None, holds: bool = False
    ) -> None:
        """Keeps up to `limit` bytes for readers that lag behind, and `room` bytes (as many, if
        None) for those that come late. A reader that takes nothing for `stall` seconds is dropped.
        `holds`: while nobody reads who could, the stream is held back.
        """
        self.paused_since: float | None = None
        """When the stream was held back, on the monotonic clock; None while it is not."""
        self.on_flow: Callable[[bool], None] | None = None
        """Called with True when the stream is to be held back, with False when it may go on."""
        self.came: Timeline | None = None
        """The marks of the stream itself."""
        self.ended = False
        """The end event is among the events."""
        self.is_over = False
        """Nothing more comes."""
        self.error: ProxyError | None = None
        self._limit = limit
        self._room = limit if room is None else room
        self._holds = holds
        self._stall = stall
        self._kept: list[bytes] = []
        self._dropped = 0
        self._size = 0
        self._begun = asyncio.Event()
        self._readers: dict[Reader, None] = {}

    @property
    def end(self) -> int:
        """The number of events so far."""
        return self._dropped + len(self._kept)

    @property
    def has_start(self) -> bool:
        """The start is still kept, so that one more reader can have the whole."""
        return self._dropped == 0

    # --- readers -----------------------------------------------------------------------------

    def join(self, timeline: Timeline, position: int = 0) -> Reader:
        """One more reader, who has `position` events already, none of which is still to come and
        the next of which is kept; `timeline` gets the marks of what comes to it."""
        reader = Reader(self, timeline, self._stall, position)
        self._readers[reader] = None
        self.steer()
        return reader

    def leave(self, reader: Reader) -> None:
        """A reader is gone. Idempotent."""
        self._readers.pop(reader, None)
        self.steer()

    def steer(self) -> None:
        """Hold the stream back, or let it go on, as its readers are now."""
        if not self._holds or self.is_over:
            return
        reading = [reader for reader in self._readers if not reader.is_over]
        held = bool(reading) and all(reader.is_paused for reader in reading)
        if held is (self.paused_since is not None):
            return
        self.paused_since = time.monotonic() if held else None
        if self.on_flow is not None:
            self.on_flow(held)

    async def begun(self) -> None:
        """Wait until the stream begins, or is over without."""
        await self._begun.wait()

    def following(self, index: int) -> list[bytes]:
        """The events from number `index` on, as many as are written at once."""
        kept, first = self._kept, index - self._dropped
        past, size = first, 0
        while past < len(kept) and size < _AT_ONCE:
            size += len(kept[past])
            past += 1
        return kept[first:past]

    # --- for the attempt -----------------------------------------------------------------------

    def begin(self, came: Timeline) -> None:
        """There is an answer, and it is a stream with these marks."""
        self.came = came
        self._begun.set()

    def write(self, events: list[bytes], last: bool) -> None:
        """Events for all; with `last`, the end event is among them. Heartbeats are not kept."""
        if events == _HEARTBEATS and not last:
            for reader in self._readers:
                reader.beat()
            return
        self._kept += events
        self._size += sum(map(len, events))
        self.ended = last
        for reader in self._readers:
            reader.take(events, last)
        if self._size > self._room:
            self._make_room()

    def finish(self, error: ProxyError | None) -> None:
        """Nothing more comes; `error` says why the answer is not whole."""
        self.is_over = True
        self.error = error
        self.on_flow = None
        self._begun.set()
        for reader in self._readers:
            reader.look_for_the_end()

    def has_taken(self, now: float) -> bool:
        """It is not to be dropped: each of its readers is, by itself."""
        if self.paused_since is not None:
            self.paused_since = now
        return True

    def abort(self) -> None:
        """Nothing: each reader is dropped by itself."""

    # --- room --------------------------------------------------------------------------------

    def relax(self) -> None:
        """A reader has caught up: nothing need be kept for it any more."""
        if self._size > self._room:
            self._make_room()

    def _make_room(self) -> None:
        """Forget what every reader has; readers that lag by more than the limit are dropped, if it
        is not that the stream is held back for them."""
        self._forget_some(self._needed())
        while self._size > self._limit and self.paused_since is None:
            for reader in tuple(self._readers):
                if reader.position == self._dropped and not reader.is_over:
                    reader.drop("the client read too slowly: too much is kept for it")
            self._forget_some(self._needed())

    def _needed(self) -> int:
        """The number of the first event that a reader still lacks."""
        behind = (reader.position for reader in self._readers if not reader.is_over)
        return min(behind, default=self.end)

    def _forget_some(self, index: int) -> None:
        """There is too much: forget of the events before number `index`."""
        self._forget(index)

    def _forget(self, index: int) -> None:
        count = index - self._dropped
        self._size -= sum(map(len, self._kept[:count]))
        del self._kept[:count]
        self._dropped = index


class Reader:
    """One client's place at a broadcast: it is streamed to as by an attempt of its own."""

    __slots__ = (
        "_broadcast",
        "_client",
        "_counted",
        "_has_end",
        "_joined",
        "_loop",
        "_result",
        "_stall",
        "_timeline",
        "_timer",
        "_waiter",
        "_write",
        "heartbeats",
        "is_over",
        "position",
    )

    def __init__(
        self, broadcast: Broadcast, timeline: Timeline, stall: float, position: int = 0
    ) -> None:
        self.position = position
        """The number of events written to it, or that it had when it joined."""
        self.is_over = False
        self.heartbeats = 0
        self._broadcast = broadcast
        self._timeline = timeline
        self._joined = timeline.parsed or timeline.received
        self._counted = position
        self._has_end = False
        self._stall = stall
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._result: ProxyError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._write: Callable[[list[bytes], bool], None] | None = None
        self._client: Writer | None = None

    async def stream_into(
        self, write: Callable[[list[bytes], bool], None], client: Writer
    ) -> ProxyError | None:
        """Send every event to `write`, from the first one on, until the end.

        The answer is what went wrong, or None. The call of `write` that brings the end event has
        `last` set.
        """
        self._client = client
        self._write = write
        self._mark()
        try:
            self._send()
            if client.paused_since is None:
                self._catch_up()
            else:  # by this, or by what an answer before this one left unread
                self.flow(True)
            while not self.is_over:
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                except asyncio.CancelledError:
                    if not self._has_end:  # who has the whole may leave: its end comes at once
                        raise
        finally:
            self._end(None)
        return self._result

    def flow(self, paused: bool) -> None:
        """The client stopped, or went on, reading: it alone is passed over until it does."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.is_over:
            return
        if paused:
            self._timer = self._loop.call_later(self._stall, self._look)
        else:
            self._catch_up()
        self._broadcast.steer()

    @property
    def is_paused(self) -> bool:
        """Its client reads too slowly just now."""
        return self._client is not None and self._client.paused_since is not None

    def stop(self, error: ProxyError) -> None:
        """End it for `error` where it is, if it is being streamed to and has not the whole."""
        if self._write is not None and not self._has_end:
            self._end(error)

    def drop(self, why: str) -> None:
        """Be rid of a client that does not read."""
        if self._client is not None:
            self._client.abort()
        self._end(ClientGone(why))

    # --- for the broadcast -----------------------------------------------------------------------

    def take(self, events: list[bytes], last: bool) -> None:
        """`events` have come. Written at once, unless the client is paused: then it is behind."""
        self._mark()
        write, client = self._write, self._client
        if write is None or client is None or self.is_over or client.paused_since is not None:
            return
        self.position += len(events)
        self._has_end = last
        write(events, last)

    def beat(self, comments: list[bytes] = _HEARTBEATS) -> None:
        """A sign of life in a silence, for a client that has read everything else."""
        write, client = self._write, self._client
        if write is None or client is None or self.is_over or client.paused_since is not None:
            return
        self.heartbeats += comments == _HEARTBEATS
        write(comments, False)

    def look_for_the_end(self) -> None:
        """The broadcast is over: so is this, when its client was sent everything."""
        if self._write is not None and not self._is_behind:
            self._end(self._broadcast.error)

    # --- inside ------------------------------------------------------------------------------

    @property
    def _is_behind(self) -> bool:
        broadcast = self._broadcast
        return self.position < broadcast.end or (broadcast.ended and not self._has_end)

    def _send(self) -> None:
        """The next events, in one write."""
        broadcast = self._broadcast
        if self._write is None or self.is_over:
            return
        events = broadcast.following(self.position)
        self.position += len(events)
        self._has_end = broadcast.ended and self.position == broadcast.end
        self._write(events, self._has_end)

    def _catch_up(self) -> None:
        client = self._client
        assert client is not None
        while self._is_behind and client.paused_since is None and not self.is_over:
            self._send()
        self._broadcast.relax()
        if self._broadcast.is_over:
            self.look_for_the_end()

    def _mark(self) -> None:
        """Count what came since this was last asked; what came before the client did comes now."""
        came = self._broadcast.came
        if came is None or came.last_event is None or came.events == self._counted:
            return
        count, self._counted = came.events - self._counted, came.events
        self._timeline.burst(count, max(came.last_event, self._joined))

    def _look(self) -> None:
        self._timer = None
        client = self._client
        assert client is not None
        if client.has_taken(time.monotonic()):
            self.flow(True)
        else:
            self.drop(f"the client read nothing for {self._stall:g} s")

    def _end(self, error: ProxyError | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.is_over:
            return
        self.is_over = True
        self._result = error
        self._broadcast.steer()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
