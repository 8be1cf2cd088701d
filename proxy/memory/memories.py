"""All that is remembered: one for each process, whatever the settings become."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from proxy.config import Memory
from proxy.config import MemoryStore as Settings
from proxy.core.policy.access import Caller
from proxy.core.policy.memory import session_of
from proxy.core.policy.scope import scope_of
from proxy.core.wire.headers import caller_key
from proxy.core.wire.messages import last_said
from proxy.core.wire.request import ChatRequest
from proxy.memory.recall import OfConversation, Recall
from proxy.memory.shelf import Observer, Shelf
from proxy.memory.store import MemoryStore
from proxy.memory.stores.open import open_memory
from proxy.memory.table import Key

_LAST_WRITES = 2.0
"""Seconds to wait for what is to be written when the process stops."""
_NOBODYS = Recall()


class Memories:
    """Opens each store once, and closes all at the end. Settings that are loaded anew find those in
    use that they name as before."""

    def __init__(
        self, observer: Observer, make: Callable[[Settings], MemoryStore] = open_memory
    ) -> None:
        self._observer = observer
        self._make = make
        self._shelves: dict[Settings, Shelf] = {}

    def recall(
        self,
        limits: Memory,
        caller: Caller,
        headers: Iterable[tuple[str, str]],
        request: ChatRequest,
        parsed: float,
    ) -> Recall:
        """What the request is told. `parsed`: when it was understood, on the monotonic clock."""
        pairs = list(headers)
        session, said = session_of(pairs, request.fields, request.dialect), last_said(request)
        if session is None or said is None:
            return _NOBODYS
        key = Key(scope_of(caller, caller_key(pairs)), session)
        return OfConversation(self.shelf(limits.store), limits, key, request, said, parsed)

    def warm(self, stores: Iterable[Settings]) -> None:
        """Begin to open what requests will need."""
        for settings in stores:
            self.shelf(settings).open()

    def shelf(self, settings: Settings) -> Shelf:
        """The store that the settings name, in use from now on."""
        shelf = self._shelves.get(settings)
        if shelf is None:
            shelf = self._shelves[settings] = Shelf(
                settings,
                self._make(settings),
                self._observer,
                clock=time.monotonic,
                wall=time.time,
            )
        return shelf

    async def forget(self, stores: Iterable[Settings], scope: str, session: str | None) -> int:
        """Forget a conversation, or with None all of the scope, in these stores; how many memories
        there were. Raises StoreFailed, having asked all of them."""
        shelves = [self.shelf(one) for one in dict.fromkeys(stores)]
        asked = [shelf.forget(scope, session) for shelf in shelves]
        counts = await asyncio.gather(*asked, return_exceptions=True)
        failures = [one for one in counts if isinstance(one, BaseException)]
        if failures:
            raise failures[0]
        return sum(count for count in counts if isinstance(count, int))

    async def close(self, timeout: float = _LAST_WRITES) -> None:
        """Nothing is asked any more. What waits is written, for `timeout` seconds at most."""
        await asyncio.gather(*(shelf.close(timeout) for shelf in self._shelves.values()))
