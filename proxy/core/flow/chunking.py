"""Re-chunking by text: merging deltas that are too short, splitting texts that are too long.

No character is lost, doubled or moved. Text of different kinds, choices or blocks is never
merged, and every other event leaves after the text that came before it.
"""

from __future__ import annotations

from typing import Final

import orjson

from proxy.core.wire.dialect import Delta, Dialect, Kind, Meaning
from proxy.core.wire.sse import Event, frame

_TEXT: Final = (Kind.REASONING, Kind.CONTENT)


class Chunking:
    """Merges until `buffer_size` characters wait, then splits to `split_text` characters.

    `buffer_size` 1 merges nothing, `split_text` 0 splits nothing; the unit is the code point.
    """

    def __init__(
        self, dialect: Dialect, buffer_size: int, max_delay: float, split_text: int
    ) -> None:
        """`max_delay` is how long a character may wait, in seconds."""
        self._dialect = dialect
        self._size = buffer_size
        self._delay = max_delay
        self._split = split_text
        self._waiting: _Merged | None = None
        self.next_flush: float | None = None

    def take(self, event: Event, meaning: Meaning, now: float) -> list[bytes]:
        """What may leave now that `event` came: nothing, this event, or those before it too."""
        delta = self._dialect.delta(event.data) if meaning.kind in _TEXT else None
        if delta is None:
            return [*self.flush(), event.raw]
        if self._size <= 1 or delta.final:
            return [*self.flush(), *self._cut(event.raw, delta, event.name)]
        try:
            merged = _Merged(event, delta)
        except orjson.JSONEncodeError:  # nested deeper than can be written again
            return [*self.flush(), event.raw]
        waiting = self._waiting
        leaving: list[bytes] = []
        if waiting is None or not waiting.add(merged):
            leaving = self.flush()
            self._waiting = waiting = merged
            self.next_flush = now + self._delay
        if waiting.length >= self._size or self.flush_is_due(now):
            leaving += self.flush()
        return leaving

    def flush_is_due(self, now: float) -> bool:
        """Whether text has waited long enough."""
        return self.next_flush is not None and now >= self.next_flush

    def flush(self) -> list[bytes]:
        """The waiting text, whatever its length."""
        waiting = self._waiting
        if waiting is None:
            return []
        self._waiting = self.next_flush = None
        delta = waiting.delta._replace(text="".join(waiting.texts))
        raw = waiting.raw if len(waiting.texts) == 1 else _render(delta, delta.text, waiting.name)
        return self._cut(raw, delta, waiting.name)

    def _cut(self, raw: bytes, delta: Delta, name: bytes) -> list[bytes]:
        size, text = self._split, delta.text
        if size < 1 or len(text) <= size:
            return [raw]
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        try:
            last = _render(delta, pieces.pop(), name)
        except orjson.JSONEncodeError:
            return [raw]
        self._dialect.strip_final(delta)
        return [*(_render(delta, piece, name) for piece in pieces), last]


class _Merged:
    """Text that waits, and the newest event it came in."""

    def __init__(self, event: Event, delta: Delta) -> None:
        self.raw = event.raw
        self.name = event.name
        self.delta = delta
        self.texts = [delta.text]
        self.length = len(delta.text)
        # All of the event but its text, and but the usage some gateways count up in each event.
        self._envelope = orjson.dumps({**delta.value, "usage": None})

    def add(self, newer: _Merged) -> bool:
        """Takes in a newer event's text; false if the two say different things besides."""
        if (self.name, self.delta.kind, self._envelope) != (
            newer.name,
            newer.delta.kind,
            newer._envelope,
        ):
            return False
        if self.delta.value.get("usage") and not newer.delta.value.get("usage"):
            return False
        self.delta = newer.delta
        self.texts += newer.texts
        self.length += newer.length
        return True


def _render(delta: Delta, text: str, name: bytes) -> bytes:
    delta.place[delta.key] = text
    return frame(orjson.dumps(delta.value), name)
