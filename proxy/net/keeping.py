"""Streams that can be read again by a client that lost its connection, and room for them.

A ring is a broadcast that keeps its last events, also for nobody. The keeper has all rings of a
process, under ids that cannot be guessed, until their time is over or their room is needed: first
that of those which ended, the oldest first, then that of those which run and nobody reads. Of one
that is being read only what its readers have had is forgotten.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, NamedTuple

from proxy.config import Keeping
from proxy.core.flow.timeline import Timeline
from proxy.core.policy.route import Route
from proxy.core.wire.event_ids import is_comment
from proxy.errors import ProxyError
from proxy.net.broadcast import Broadcast, Reader

_EACH: Final = 64
"""Bytes that an event takes besides its own."""
_OVERHEAD: Final = 4096
"""Bytes that a stream takes besides its events."""
_LAG: Final = 1 << 20
"""Bytes that a reader may lag behind, however little is kept."""
_SPARE: Final = 8
"""Of a full ring such a part is forgotten at once, not an event for each that comes."""
_ID: Final = re.compile(r"([0-9a-f]{16})([0-9a-f]{32})")
_ALONE: Final = "0" * 16
"""The process that has no others."""


class Whose(NamedTuple):
    """What a kept stream is of."""

    scope: str
    """Its caller's: nobody else is told that it exists."""
    route: Route
    model: str
    """As it was asked for."""
    dialect: str


class Ring(Broadcast):
    """One kept stream. Its events are numbered: comments are passed on and not kept."""

    __slots__ = ("_keeper", "counted", "id", "is_told", "on_drop", "timer", "whose")

    def __init__(self, keeper: Keeper, name: str, whose: Whose, room: int) -> None:
        super().__init__(max(room, _LAG), whose.route.stream.client_stall, room=room, holds=True)
        self.id = name
        self.whose = whose
        self.is_told = False
        """A client knows its id."""
        self.on_drop: Callable[[], None] | None = None
        """Called when it is dropped while it runs."""
        self.counted = 0
        """Bytes that the keeper counts for it."""
        self.timer: asyncio.TimerHandle | None = None
        self._keeper = keeper

    @property
    def start(self) -> int:
        """How many events were forgotten."""
        return self._dropped

    @property
    def held(self) -> int:
        """Bytes that it takes."""
        return _OVERHEAD + self._size + _EACH * len(self._kept)

    @property
    def is_idle(self) -> bool:
        """Nobody reads it."""
        return not self._readers

    def write(self, events: list[bytes], last: bool) -> None:
        if any(map(is_comment, events)):
            if not last and all(map(is_comment, events)):
                self._pass_on(events)
                return
            events = [event for event in events if not is_comment(event)]
        super().write(events, last)
        self._keeper.grew(self)

    def relax(self) -> None:
        super().relax()
        self._keeper.grew(self)

    def finish(self, error: ProxyError | None) -> None:
        super().finish(error)
        self.on_drop = None
        self._keeper.over(self)

    def join(self, timeline: Timeline, position: int = 0) -> Reader:
        reader = super().join(timeline, position)
        self._keeper.sort(self)
        return reader

    def leave(self, reader: Reader) -> None:
        super().leave(reader)
        self._keeper.sort(self)

    def _pass_on(self, comments: list[bytes]) -> None:
        """Signs of life: for those who have all else."""
        for reader in self._readers:
            reader.beat(comments)

    def trim(self) -> None:
        """Forget all that no reader lacks."""
        self._forget(self._needed())

    def _forget_some(self, index: int) -> None:
        most, size, count = self._room - self._room // _SPARE, self._size, 0
        while size > most and count < index - self._dropped:
            size -= len(self._kept[count])
            count += 1
        self._forget(self._dropped + count)


class Keeper:
    """The kept streams of one process. For the event loop's thread only."""

    def __init__(
        self, process: str | None = None, socket_of: Callable[[str], Path | None] = lambda _: None
    ) -> None:
        """`process`: the name by which other processes find this one, 16 hex digits; None: there
        are none. `socket_of`: where the process of a name is asked; None: nobody is."""
        self._process = process or _ALONE
        self._socket_of = socket_of
        self._settings = Keeping()
        self._rings: dict[str, Ring] = {}
        self._ended: dict[Ring, None] = {}
        """Those that nobody reads, the one that ended first in front."""
        self._alone: dict[Ring, None] = {}
        """Those that run and that nobody reads, the one that was left first in front."""
        self.size = 0
        """Bytes of all that is kept."""

    @property
    def rings(self) -> Collection[Ring]:
        """All of them."""
        return self._rings.values()

    def use(self, settings: Keeping) -> None:
        """How much may be kept from now on."""
        self._settings = settings

    def keep(self, whose: Whose) -> Ring:
        """A ring for a stream that begins."""
        name = self._process + secrets.token_hex(16)
        ring = self._rings[name] = Ring(self, name, whose, self._settings.max_answer)
        self.grew(ring)
        return ring

    def find(self, name: str) -> Ring | None:
        """The ring of that id."""
        return self._rings.get(name)

    def elsewhere(self, name: str) -> Path | None:
        """The socket of the other process that has, or had, the ring of that id; None: there is
        none that could."""
        found = _ID.fullmatch(name)
        if found is None or found[1] == self._process:
            return None
        return self._socket_of(found[1])

    # --- for the rings -----------------------------------------------------------------------

    def grew(self, ring: Ring) -> None:
        """It takes more than before, or less."""
        if ring.id not in self._rings:
            ring.trim()
            return
        self._count(ring)
        while self.size > self._settings.max_size:
            if not self._make_room():
                ring.trim()
                self._count(ring)
                return

    def over(self, ring: Ring) -> None:
        """It has come to its end: from now on its time runs."""
        self.sort(ring)
        if ring.id in self._rings:
            loop = asyncio.get_running_loop()
            seconds = ring.whose.route.on_disconnect.seconds
            ring.timer = loop.call_later(seconds, self.drop, ring)

    def sort(self, ring: Ring) -> None:
        """Somebody reads it, or nobody any more, or it is over."""
        if ring.id not in self._rings:
            return
        self._ended.pop(ring, None)
        self._alone.pop(ring, None)
        if ring.is_idle:
            (self._ended if ring.is_over else self._alone)[ring] = None

    def drop(self, ring: Ring) -> None:
        """It is known no more. Who reads it now reads on. Idempotent."""
        if self._rings.pop(ring.id, None) is None:
            return
        self._ended.pop(ring, None)
        self._alone.pop(ring, None)
        self.size -= ring.counted
        if ring.timer is not None:
            ring.timer.cancel()
            ring.timer = None
        if ring.on_drop is not None:
            ring.on_drop()

    def close(self) -> None:
        """Nothing is kept any more."""
        for ring in tuple(self._rings.values()):
            self.drop(ring)

    # --- room --------------------------------------------------------------------------------

    def _count(self, ring: Ring) -> None:
        held = ring.held
        self.size += held - ring.counted
        ring.counted = held

    def _make_room(self) -> bool:
        """Whether something was dropped that nobody reads."""
        for idle in (self._ended, self._alone):
            for ring in idle:
                self.drop(ring)
                return True
        return False
