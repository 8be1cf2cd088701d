"""What of conversations is at hand in this process: no store has to be asked for it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

from proxy.core.policy.memory import Item, Told

MOST: Final = 4096
"""Conversations at hand; those that were used longest ago are forgotten first."""
MOST_CHARACTERS: Final = 16 << 20
"""Of all texts at hand."""
FRESH: Final = 600.0
"""Seconds that something is at hand. What another process forgot on purpose is forgotten then."""
_RECENT: Final = 8
"""Turns that are at hand whatever the store does."""


class Key(NamedTuple):
    """Whose, and which conversation."""

    scope: str
    session: str


class Entry:
    """Of one conversation."""

    __slots__ = ("at", "found", "pinned", "recent", "said")

    def __init__(self) -> None:
        self.found: Sequence[Item] | None = None
        """By the last search; None: there was none."""
        self.recent: Sequence[Item] = ()
        """The last turns here, which a search may not know yet."""
        self.pinned: tuple[object, Told] | None = None
        """What the model was told in this turn, by what marks the turn."""
        self.said: int | None = None
        """A hash of the last turn."""
        self.at = 0.0

    @property
    def items(self) -> list[Item]:
        return [*(self.found or ()), *self.recent]

    @property
    def size(self) -> int:
        told = 0 if self.pinned is None else len(self.pinned[1].text)
        return told + sum(len(item.text) for item in self.items)


class Table:
    """The conversations used last. `now` is on the monotonic clock."""

    def __init__(self, most: int = MOST, most_characters: int = MOST_CHARACTERS) -> None:
        self._most = most
        self._left = most_characters
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._sizes: dict[Key, int] = {}
        self.version = 0
        """Of what was forgotten on purpose: what was looked for before is not to be put in."""

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key, now: float) -> Entry | None:
        """What is at hand, if it is fresh."""
        entry = self._entries.get(key)
        if entry is None or now - entry.at > FRESH:
            return None
        self._entries.move_to_end(key)
        return entry

    def has_found(self, key: Key, now: float) -> bool:
        """Whether what a search found is at hand."""
        entry = self.get(key, now)
        return entry is not None and entry.found is not None

    def found(
        self, key: Key, items: Sequence[Item], now: float, written: Sequence[Item] = ()
    ) -> None:
        """A search found `items`. From now on it speaks for those of the last turns that were
        `written` before it: what it does not find of them was forgotten meanwhile, perhaps by
        another process."""
        entry = self._begun(key, now)
        entry.found = items
        if written:
            entry.recent = [one for one in entry.recent if one not in written]
        self._weigh(key)

    def heard(self, key: Key, turns: Sequence[Item], now: float) -> bool:
        """`turns` were said, and end the turn. Whether they are not those that were heard last."""
        entry = self._begun(key, now)
        entry.pinned = None
        said = hash(tuple((one.role, one.text) for one in turns))
        if entry.said == said:
            return False
        entry.said = said
        entry.recent = [*entry.recent, *turns][-_RECENT:]
        self._weigh(key)
        return True

    def pin(self, key: Key, turn: object, told: Told, now: float) -> None:
        """The model is told this in the turn that `turn` marks, as often as it is asked."""
        self._begun(key, now).pinned = (turn, told)
        self._weigh(key)

    def pinned(self, key: Key, turn: object, now: float) -> Told | None:
        """What it was told before in this turn."""
        entry = self.get(key, now)
        if entry is None or entry.pinned is None or entry.pinned[0] != turn:
            return None
        return entry.pinned[1]

    def drop(self, scope: str, session: str | None) -> None:
        """Forget a conversation, or with None all of the scope."""
        self.version += 1
        for key in [k for k in self._entries if is_of(k, scope, session)]:
            self._remove(key)

    def _begun(self, key: Key, now: float) -> Entry:
        entry = self.get(key, now)
        if entry is None:
            if key in self._entries:
                self._remove(key)
            entry = self._entries[key] = Entry()
            self._sizes[key] = 0
        entry.at = now
        return entry

    def _weigh(self, key: Key) -> None:
        size = self._entries[key].size
        self._left += self._sizes[key] - size
        self._sizes[key] = size
        while self._entries and (self._left < 0 or len(self._entries) > self._most):
            self._remove(next(iter(self._entries)))

    def _remove(self, key: Key) -> None:
        del self._entries[key]
        self._left += self._sizes.pop(key)


def is_of(key: Key, scope: str, session: str | None) -> bool:
    """Whether the conversation is that one, or with None one of the scope."""
    return key.scope == scope and session in (None, key.session)
