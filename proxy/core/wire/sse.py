"""Server-sent events: bytes in, whole events that keep their bytes out; and the one writer.

The rules are those of the HTML standard, "Server-sent events" §9.2.5 and §9.2.6, on bytes:
https://html.spec.whatwg.org/multipage/server-sent-events.html

An event leaves as it came, but for what is known to break clients: a byte order mark at the very
start, invalid UTF-8, and blocks that carry nothing (only `id:`, `retry:`, `event:`, or empty data).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from proxy.errors import EventTooLarge

_CR: Final = 13
_LF: Final = 10
_BOM: Final = b"\xef\xbb\xbf"

# Two line ends in a row end an event. A CR is a line end at once, whether or not its LF follows.
_END_LF: Final = re.compile(rb"\n\n")
_END_ANY: Final = re.compile(rb"[\r\n](?:(?<=\n)\n|\r\n?)")
_NOT_BLANK: Final = re.compile(rb"[^\r\n]")
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_NOT_SENT_ALONE: Final = frozenset((b"event", b"id", b"retry"))

ANY_SIZE: Final = 1 << 62
"""The limit for events that were judged before, by the pipe that let them in."""


class Event(NamedTuple):
    """One event. `data` is empty for a block of comments (or of fields nobody knows)."""

    raw: bytes
    """What is forwarded: blank lines before the event, its lines, the blank line that ends it."""
    data: bytes
    """The values of the `data` fields, joined by LF."""
    name: bytes
    """The value of the `event` field, or nothing."""


class NotJson(bytes):
    """An event, as bytes, whose data should be JSON and is not: who writes JSON around events looks
    for it, and has nothing to parse."""


class Decoder:
    """Cuts a stream into events at any cut of the reads, in linear time.

    `clean` is true while nothing is held: the next byte begins an event.
    """

    __slots__ = (
        "_at_start",
        "_blank",
        "_end",
        "_held",
        "_max",
        "_searched",
        "_sent",
        "clean",
    )

    def __init__(self, max_event: int = 8 * 1024 * 1024) -> None:
        """`max_event` is the longest event taken, in bytes."""
        self._max = max_event
        self._held = bytearray()  # the unfinished event
        self._blank = bytearray()  # blank lines before it
        self._searched = 0  # up to here `_held` has no end of an event
        self._end = _END_LF
        self._at_start = True
        self._sent = False
        self.clean = False

    @property
    def pending(self) -> int:
        """Bytes held of an unfinished event; at the end of a stream they are no event."""
        return len(self._held)

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that are whole now. Raises EventTooLarge, after which nothing more is read."""
        if (
            not self.clean
            or _CR in chunk
            or chunk[-2:] != b"\n\n"
            or len(chunk) > self._max
            or not _is_utf8(chunk)
        ):
            return self._feed_any(chunk)
        events = []
        for block in chunk[:-2].split(b"\n\n"):
            head, _, line = block.rpartition(b"\n")
            data = line[6:]
            if not data or line[:6] != b"data: ":
                return self._feed_any(chunk)
            if head and (head[:7] != b"event: " or _LF in head):
                return self._feed_any(chunk)
            events.append(Event(block + b"\n\n", data, head[7:]))
        return events

    def _feed_any(self, chunk: bytes) -> list[Event]:
        """Any spelling, any cut."""
        held = self._held
        held += chunk
        if self._at_start and not self._start():
            return []
        if _CR in chunk:
            self._end = _END_ANY
        elif chunk and _LF not in chunk:
            return self._wait()
        events = []
        position = 0
        while True:
            text = _NOT_BLANK.search(held, position)
            start = text.start() if text else len(held)
            if start > position:
                self._blank += held[position:start]
            end = self._end.search(held, max(start, self._searched))
            if end is None:
                break
            position = end.end()
            event = self._read(bytes(held[start:position]))
            if event is not None:
                events.append(event)
        del held[:start]
        self._wait()
        # The last byte may be the first half of an end.
        self._searched = max(len(held) - 1, 0)
        return events

    def _start(self) -> bool:
        """Removes a byte order mark; false while too little is here to tell."""
        head = bytes(self._held[:3])
        if len(head) < 3 and _BOM.startswith(head):
            return False
        self._at_start = False
        if head == _BOM:
            del self._held[:3]
        return True

    def _wait(self) -> list[Event]:
        self._searched = len(self._held)
        self.clean = not self._held and not self._blank
        self._check(max(len(self._held), len(self._blank)))
        return []

    def _check(self, size: int) -> None:
        if size > self._max:
            raise EventTooLarge(f"an event of the upstream is longer than {self._max} bytes")

    def _read(self, block: bytes) -> Event | None:
        """One block up to its blank line; `None` if it is not forwarded."""
        self._check(len(block))
        if not _is_utf8(block):
            block = _mend(block)
        values = []
        name = b""
        bare = True
        for line in block.splitlines():
            field, _, value = line.partition(b":")
            if value[:1] == b" ":
                value = value[1:]
            if field == b"data":
                values.append(value)
            elif field in _NOT_SENT_ALONE:
                bare = False
                if field == b"event":
                    name = value
        data = b"\n".join(values)
        if not data and (values or not bare):
            return None
        if self._blank:
            block = bytes(self._blank) + block
            self._blank.clear()
        if not self._sent:
            self._sent = True
            # Only the stream's first bytes can be a byte order mark. These were not the first
            # when they came, and a client must not take them for one now.
            if block.startswith(_BOM):
                block = b"\n" + block
        return Event(block, data, name)


def frame(data: bytes, name: bytes = b"") -> bytes:
    """One event as bytes. Line ends in `data` become several data lines.

    Raises ValueError for a line end in `name`: it would begin a field of its own.
    """
    if _LF in name or _CR in name:
        raise ValueError("an event's name cannot hold a line end")
    head = b"event: " + name + b"\n" if name else b""
    if _LF in data or _CR in data:
        data = b"\ndata: ".join(_LINE_END.split(data))
    return _mend(head + b"data: " + data + b"\n\n")


def comment(text: bytes) -> bytes:
    """A comment block, which every client ignores. Line ends become several comment lines."""
    return _mend(b": " + b"\n: ".join(_LINE_END.split(text)) + b"\n\n")


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _mend(data: bytes) -> bytes:
    """The same bytes with U+FFFD for what is not UTF-8, as browsers decode it."""
    return data if data.isascii() else data.decode("utf-8", "replace").encode()
