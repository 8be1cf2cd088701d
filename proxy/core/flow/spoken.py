"""The visible text of an answer, gathered as it passes: what is to be remembered of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import orjson

from proxy.core.wire.dialect import object_of, parse, text_of
from proxy.core.wire.messages import text_in
from proxy.core.wire.sse import ANY_SIZE, Decoder

_AT_ONCE: Final = 16 * 1024
"""Bytes of events that are read together: so the stream's first events, which somebody waits for,
are passed on without being read again, and never is so much left that others would wait for it."""
_LARGEST: Final = 1 << 20
"""Bytes of a whole answer that is looked at: others would wait for a larger one."""

_Reader = Callable[["Spoken", dict[str, object]], None]


class Spoken:
    """One answer's text.

    calls   it calls tools: the model is not done
    """

    __slots__ = ("_events", "_left", "_marks", "_read", "_size", "_texts", "calls")

    def __init__(self, dialect: str, most: int) -> None:
        """`dialect` is `openai` or `anthropic`; of more than `most` characters the beginning is
        gathered."""
        self.calls = False
        self._left = most
        self._events: list[bytes] = []
        self._size = 0
        self._texts: list[str] = []
        self._marks, self._read = _DIALECTS[dialect]

    @property
    def text(self) -> str:
        """As far as it came."""
        self._read_events()
        return "".join(self._texts)

    def take(self, events: list[bytes]) -> None:
        """Whole events, as the pipe lets them out."""
        self._events += events
        self._size += sum(map(len, events))
        if self._size >= _AT_ONCE:
            self._read_events()

    def whole(self, body: bytes) -> None:
        """A whole answer."""
        if len(body) > _LARGEST:
            return
        value = parse(body)
        choices = value.get("choices")
        for choice in choices[:1] if isinstance(choices, list) else ():
            self._message(object_of(object_of(choice).get("message")))
        if value.get("type") == "message":
            self._message(value)

    def _message(self, message: dict[str, object]) -> None:
        content = message.get("content")
        self._say(text_in(content))
        parts = content if isinstance(content, list) else ()
        uses = any(object_of(part).get("type") == "tool_use" for part in parts)
        self.calls = self.calls or uses or bool(message.get("tool_calls"))

    def _read_events(self) -> None:
        events, self._events, self._size = self._events, [], 0
        first, second = self._marks
        for raw in events:
            if first in raw or second in raw:
                for value in _values(raw):
                    self._read(self, value)

    def _say(self, text: str) -> None:
        if text and self._left > 0:
            self._texts.append(text[: self._left])
            self._left -= len(text)


def _values(raw: bytes) -> Iterator[dict[str, object]]:
    """The JSON of an event; of one in an unusual spelling too."""
    start = raw.find(b"data:")
    try:
        yield object_of(orjson.loads(raw[start + 5 :]))
    except orjson.JSONDecodeError:
        for event in Decoder(ANY_SIZE).feed(raw):
            yield parse(event.data)


def _read_chunk(spoken: Spoken, value: dict[str, object]) -> None:
    """OpenAI's; of several answers the first counts."""
    choices = value.get("choices")
    for each in choices if isinstance(choices, list) else ():
        choice = object_of(each)
        delta = object_of(choice.get("delta"))
        if delta and not choice.get("index"):
            spoken._say(text_in(delta.get("content")))
            spoken.calls = spoken.calls or bool(delta.get("tool_calls"))


def _read_event(spoken: Spoken, value: dict[str, object]) -> None:
    """Anthropic's."""
    delta, block = object_of(value.get("delta")), object_of(value.get("content_block"))
    if delta.get("type") == "text_delta":
        spoken._say(text_of(delta.get("text")) or "")
    elif block.get("type") == "text":
        spoken._say(text_of(block.get("text")) or "")
    spoken.calls = spoken.calls or block.get("type") == "tool_use"


_DIALECTS: Final[dict[str, tuple[tuple[bytes, bytes], _Reader]]] = {
    "openai": ((b'"content"', b'"tool_calls"'), _read_chunk),
    "anthropic": ((b'"text', b'"tool_use"'), _read_event),
}
"""What stands in each event that says something visible or calls a tool, and who reads it."""
