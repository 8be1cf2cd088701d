"""What one request is told of its conversation's earlier turns, and what is remembered of it."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.config import Memory
from proxy.core.flow.spoken import Spoken
from proxy.core.policy.memory import LONGEST_TEXT, NOTHING, Item, Told, Turn, kept, tell
from proxy.core.record import Remembered
from proxy.core.wire.messages import Said, note, texts, with_message
from proxy.core.wire.request import ChatRequest
from proxy.listening import Listener
from proxy.memory.shelf import Exchanged, Lookup, Shelf
from proxy.memory.table import Key
from proxy.net.aside import aside

_MOST_KNOWN = 64
"""Messages of a request for each of which one memory more is looked for: it may be the same."""


class Recall:
    """Of a request whose conversation has no name: nothing is told, nothing is remembered."""

    listeners: Sequence[Listener] = ()

    async def into(self, request: ChatRequest) -> ChatRequest:
        """The request with what the model is told. The same for all attempts, however often it is
        asked; it takes no longer than the route grants."""
        return request

    @property
    def remembered(self) -> Remembered:
        """What memory did, as far as it is known."""
        return Remembered("none")

    @property
    def header(self) -> tuple[str, str]:
        """`x-glm-proxy-memory`."""
        what, items, tokens, saved = self.remembered
        said = f"; items={items}; tokens={tokens}" if items else ""
        said += f"; saved={saved:.3f}" if saved >= 0.0005 else ""
        return "x-glm-proxy-memory", what + said


class OfConversation(Recall):
    """Of one in a conversation. Looks for its memories from the moment it is made; where nothing is
    waited for, only if nothing is at hand: the next turn has what is looked for after this one."""

    def __init__(
        self,
        shelf: Shelf,
        limits: Memory,
        key: Key,
        request: ChatRequest,
        said: Said,
        parsed: float,
    ) -> None:
        """`parsed` is when the request was understood, on the clock of the shelf."""
        self._key = key
        self._shelf = shelf
        self._limits = limits
        self._size = request.size
        self._said = said
        self._until = parsed + limits.wait
        self._waited = 0.0
        self._known: frozenset[int] = frozenset()
        self._was_late = False
        self._turn = (said.place, hash(said.text))
        self._lookup: Lookup | None = None
        most = limits.max_items + min(len(request.fields["messages"]), _MOST_KNOWN)
        self._told = shelf.table.pinned(key, self._turn, shelf.clock())
        if self._told is None and (limits.wait or not shelf.table.has_found(key, shelf.clock())):
            self._lookup = shelf.look(key, said.text, most)
        self.listeners = (Scribe(shelf, limits, key, request, said, most),)

    async def into(self, request: ChatRequest) -> ChatRequest:
        if self._told is None:
            await self._wait()
        told = self._told or self._settle(request)
        if not told.items or request.size != self._size:  # nothing to tell, or told already
            return request
        message = note(request.dialect, told.text)
        return await aside(self._size, lambda: with_message(request, self._said.place, message))

    async def _wait(self) -> None:
        """For the lookup, until it is there or the time for it is over."""
        now = self._shelf.clock()
        if self._lookup is None or self._lookup.took is not None or now >= self._until:
            return
        await self._lookup.wait(self._until - now)
        self._waited = self._shelf.clock() - now

    def _settle(self, request: ChatRequest) -> Told:
        """With what is at hand now. Other attempts of it, and the next requests of this turn, are
        told the same."""
        shelf, limits, lookup = self._shelf, self._limits, self._lookup
        now = shelf.clock()
        told = shelf.table.pinned(self._key, self._turn, now)
        if told is None:
            found = self._at_hand(now)
            if found or lookup is not None:
                self._known = frozenset(hash(kept(text)) for text in texts(request))
            told = tell(
                found, known=self._known, most=limits.max_items, most_tokens=limits.max_tokens
            )
            shelf.table.pin(self._key, self._turn, told, now)
        self._was_late = not told.items and lookup is not None and lookup.took is None
        self._told = told
        return told

    def _at_hand(self, now: float) -> list[Item]:
        """What the lookup found if it is there, else what was found before; and the last turns."""
        entry = self._shelf.table.get(self._key, now)
        found = None if self._lookup is None else self._lookup.items
        if found is None:
            items = [] if entry is None else entry.items
        else:
            items = [*found, *(() if entry is None else entry.recent)]
        oldest = self._shelf.wall() - self._limits.retention
        return [item for item in items if item.at >= oldest or not item.at]

    @property
    def remembered(self) -> Remembered:
        told = self._told or NOTHING
        if told.items:
            return Remembered("used", told.items, told.tokens, self._saved())
        return Remembered("late" if self._is_late() else "none", saved=self._saved())

    def _is_late(self) -> bool:
        """It came, or will come, after the request was sent, and would have told something."""
        if not self._was_late or self._lookup is None:
            return False
        if self._lookup.took is None:
            return True
        return any(hash(kept(item.text)) not in self._known for item in self._lookup.items or ())

    def _saved(self) -> float:
        """Seconds. The time that the store's answer took, or where that is not there, that its
        answers take in the mean; without what was waited."""
        lookup = self._lookup
        if lookup is None:
            took = self._shelf.usual or 0.0
        elif lookup.took is not None:
            took = lookup.took
        else:
            took = max(self._shelf.usual or 0.0, self._shelf.clock() - lookup.begun)
        return max(took - self._waited, 0.0)


class Scribe:
    """Hears the answer; when it is whole, the turn is remembered."""

    def __init__(
        self,
        shelf: Shelf,
        limits: Memory,
        key: Key,
        request: ChatRequest,
        said: Said,
        most: int,
    ) -> None:
        self._shelf = shelf
        self._key = key
        self._retention = limits.retention
        self._most = most + 2  # this turn is among the next one's messages
        self._asked = Turn("user", kept(said.text), shelf.wall())
        self._spoken = Spoken(request.dialect, LONGEST_TEXT)

    def take(self, events: list[bytes], last: bool) -> None:
        self._spoken.take(events)

    def whole(self, body: bytes) -> None:
        self._spoken.whole(body)

    def ended(self, completed: bool) -> None:
        if not completed:
            return
        text = kept(self._spoken.text)
        if self._spoken.calls or not text:  # the turn goes on, or nothing was said
            return
        turns = (self._asked, Turn("assistant", text, self._shelf.wall()))
        said = tuple(turn for turn in turns if turn.text)
        self._shelf.keep(Exchanged(self._key, said, self._retention, self._most))
