"""The responses that a request may follow: those of its socket, and those in the route's store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol, runtime_checkable

from proxy.core.wire.responses.asked import is_id
from proxy.core.wire.responses.turns import Turn, from_bytes, to_bytes
from proxy.net.door import Store
from proxy.store import AnswerStore

_TOGETHER: Final = 16
"""Turns that are asked for at the same time."""
_AGAIN: Final = (0.05, 0.2)
"""Seconds until a response that is not there is looked for once more: another process may be
writing it down, while its client goes on here."""
_MOST_BYTES: Final = 16 << 20
"""Of the responses that one socket remembers."""


class Turns:
    """The responses made on one WebSocket, also those that are not to be stored: known as long as
    it is open. The oldest go first."""

    def __init__(self, store: Store, most: int = _MOST_BYTES) -> None:
        """`store`: for their bytes; `most` of them are kept."""
        self._store = store
        self._most = most
        self._turns: dict[str, bytes] = {}
        """As a store keeps them: parsed they may take ten times as much."""
        self._size = 0

    def get(self, response_id: str) -> Turn | None:
        kept = self._turns.get(response_id)
        return None if kept is None else from_bytes(kept)

    def keep(self, turn: Turn) -> None:
        """It is forgotten at once where there is no room for it."""
        kept = to_bytes(turn)
        self._drop(self._most - len(kept))
        if len(kept) <= self._most and self._store.take(len(kept)):
            self._turns[turn.id] = kept
            self._size += len(kept)

    def end(self) -> None:
        """The socket is over."""
        self._drop(0)

    def _drop(self, most: int) -> None:
        while self._turns and self._size > most:
            size = len(self._turns.pop(next(iter(self._turns))))
            self._size -= size
            self._store.give_back(size)


@runtime_checkable
class Remembering(Protocol):
    """A client whose socket remembers the responses made on it."""

    response: str | None
    """The id of its own, as soon as it has one."""

    @property
    def turns(self) -> Turns: ...


class History:
    """What one caller's requests may follow."""

    def __init__(
        self, store: AnswerStore | None, scope: str, retention: float, turns: Turns | None
    ) -> None:
        """`retention`: seconds that the store keeps a response. `turns`: those of the socket."""
        self._store = store
        self._scope = scope
        self._retention = retention
        self._turns = turns

    @property
    def stores(self) -> bool:
        """Whether there is more than what the socket remembers."""
        return self._store is not None

    async def before(self, response_id: str) -> list[Turn] | None:
        """The response and all that it follows, oldest first. None where one of them is not known,
        or cannot be told in time."""
        if not is_id(response_id):
            return None
        last = await self.find(response_id)
        if last is None:
            return None
        earlier: list[Turn] = []
        for start in range(0, len(last.before), _TOGETHER):
            for turn in await self._all(last.before[start : start + _TOGETHER]):
                if turn is None:
                    return None
                earlier.append(turn)
        return [*earlier, last]

    async def find(self, response_id: str) -> Turn | None:
        """One response. None where it is not known, or cannot be told in time."""
        found = await self._one(response_id)
        for wait in _AGAIN if self._store is not None else ():
            if found is not None:
                break
            await asyncio.sleep(wait)
            found = await self._one(response_id)
        return found

    def keep(self, turn: Turn, *, store: bool) -> None:
        """A response is over, and may be followed. `store`: its caller wants it stored."""
        if self._turns is not None:
            self._turns.keep(turn)
        if store and self._store is not None:
            self._store.put(self._scope, turn.id, to_bytes(turn), self._retention)

    async def _all(self, ids: Iterable[str]) -> list[Turn | None]:
        return await asyncio.gather(*(self._one(each) for each in ids))

    async def _one(self, response_id: str) -> Turn | None:
        known = None if self._turns is None else self._turns.get(response_id)
        if known is not None or self._store is None:
            return known
        kept = await self._store.get(self._scope, response_id)
        return None if kept is None else from_bytes(kept)
