"""Whether a stream stays with the generation it began with.

GLM was seen to glue a second generation into a running stream, over a minute later: a frame stops
inside its JSON and the next event's `data:` follows on the same line, or whole events go on with
another id. A client takes the two for one answer, or its parser breaks.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Final

import orjson

from proxy.core.wire.dialect import NOT_JSON, Generation, Kind, Meaning, count_of, parse, text_of

_BROKEN_OFF: Final = re.compile(rb"\s*(?:\{|data:|event:)")
_NEXT_EVENT: Final = re.compile(rb"(?:data: ?|\n)(?=\{|\[DONE\])")
_TRIES: Final = 16
"""A long argument of a tool may quote event streams; a hostile one must not cost more than this."""
_NO_EVENT: Final = b"\n\n"
"""A mark that no event has."""
_SOON: Final = 10
"""Seconds between `created` of two chunks of one answer, where each has its own; 70 to 130 were
seen between two generations."""


class SameId(Generation):
    """GLM: every event with a token has the id of the first.

    Some gateways have no ids, or make one up for every event. An id that came only once may be
    such a one, if the next is of nearly the same time: then it takes a third event to tell.
    """

    def __init__(self) -> None:
        self.mark = _NO_EVENT
        self._id: str | None = None
        self._created: int | None = None
        self._is_second = False
        """The id is not the stream's first; if it comes again, it is a generation's."""

    def is_left(self, data: bytes, meaning: Meaning) -> bool:
        if meaning is NOT_JSON:
            return holds_another(data)
        if not Kind.REASONING <= meaning.kind <= Kind.TOOL or data.find(self.mark) >= 0:
            return False
        value = parse(data)
        own, created = text_of(value.get("id")), count_of(value.get("created"))
        if own is None:
            if self._id is None:  # the answer has begun without
                self.mark = b""
            return False
        if self._id is None:
            self._id, self._created = own, created
            return False
        if own == self._id:
            self.mark = _spelled(data, own)
            return self._is_second
        return self._is_changed(own, created)

    def _is_changed(self, own: str, created: int | None) -> bool:
        if self.mark != _NO_EVENT or not _is_soon(self._created, created):
            return True
        if self._is_second:  # the third id of three: they say nothing
            self.mark = b""
        self._id, self._is_second = own, True
        return False


class OneStart(Generation):
    """Anthropic: only the first event of a generation is `message_start`."""

    def __init__(self) -> None:
        self._has_begun = False

    def is_left(self, data: bytes, meaning: Meaning) -> bool:
        if meaning is NOT_JSON:
            return holds_another(data)
        starts = meaning.kind is Kind.PREFACE and parse(data).get("type") == "message_start"
        is_token = Kind.REASONING <= meaning.kind <= Kind.TOOL
        if starts and self._has_begun:
            return True
        self._has_begun = self._has_begun or starts or is_token
        return False


def holds_another(data: bytes) -> bool:
    """Whether `data`, which is not JSON, is an event broken off and then another one that is whole.

    Text that quotes an event is none: its quotation marks are escaped, and more follows it.
    """
    if not _BROKEN_OFF.match(data):
        return False
    for place in islice(_NEXT_EVENT.finditer(data), _TRIES):
        if _is_whole(data[place.end() :]):
            # Two whole ones on a line each are one event of an odd kind; on one line they are not.
            return place.group() != b"\n" or not _is_whole(data[: place.start()])
    return False


def _is_whole(data: bytes) -> bool:
    try:
        return isinstance(orjson.loads(data), dict)
    except orjson.JSONDecodeError:
        return data.strip() == b"[DONE]"


def _is_soon(before: int | None, after: int | None) -> bool:
    return before is not None and after is not None and abs(after - before) < _SOON


def _spelled(data: bytes, own: str) -> bytes:
    """The id as this event writes it, with its key; what is looked for in those that follow."""
    found = re.search(rb'"id"\s*:\s*"' + re.escape(own.encode()) + b'"', data)
    return _NO_EVENT if found is None else found.group()
