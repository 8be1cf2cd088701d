"""The top-level members of a JSON object as places in its bytes: to look, and to change only those.

Everything here takes bytes that a JSON parser has accepted already. That makes one regular
expression enough: it never judges JSON, it only steps over values, and since nesting is bounded
the language is regular.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final, NamedTuple

import orjson

MAX_DEPTH: Final = 64
"""Deepest nesting of objects and arrays, the outermost object included."""


class Member(NamedTuple):
    """Offsets of one `"name": value` in the object's bytes."""

    start: int
    """The name's opening quote."""
    value: int
    """The value's first byte."""
    end: int
    """Behind the value's last byte."""


_STRING: Final = rb'"[^"]*+"'


def _nested(depth: int) -> bytes:
    """A pattern for an object or array that is at most `depth` levels deep."""
    flat = rb'[^"\[\]{}]++|' + _STRING
    pattern = rb"[\[{](?:" + flat + rb")*+[\]}]"
    for _ in range(depth - 1):
        pattern = rb"[\[{](?:" + flat + rb"|" + pattern + rb")*+[\]}]"
    return pattern


# Possessive throughout: what was stepped over is never looked at again, so time is linear.
def _value(depth: int) -> bytes:
    """A pattern for a value within an object that is at most `depth` levels deep."""
    return _STRING + rb'|[^\s",\[\]{}]++|' + _nested(depth - 1)


_ONE: Final = re.compile(rb"\s*+(%b)\s*+:\s*+(%b)\s*+[,}]" % (_STRING, _value(MAX_DEPTH)))

_BEGUN: Final = re.compile(rb"\s*+%b\s*+:\s*+\[" % _STRING)
_ELEMENT: Final = re.compile(rb"\s*+(%b)\s*+[,\]]" % _value(MAX_DEPTH))


@cache
def _all(depth: int) -> re.Pattern[bytes]:
    """All members in one call."""
    # Behind the last one, and where one is too deep to step over, the second branch takes the rest
    # at once.
    return re.compile(rb"\s*+%b\s*+:\s*+(?:%b)\s*+([,}])|[\s\S]++" % (_STRING, _value(depth)))


_ALL: Final = _all(MAX_DEPTH)  # the one that is used, unless the settings say otherwise


def count(body: bytes, depth: int = MAX_DEPTH) -> int | None:
    """How many members the non-empty object `body` has; None if it is deeper than `depth`.

    A name that is said twice counts twice, unlike in the parsed object.
    """
    plain = _without_escaped_quotes(body)
    pattern = _ALL if depth == MAX_DEPTH else _all(depth)
    ends = pattern.findall(plain, plain.index(b"{") + 1)
    return ends.index(b"}") + 1 if b"}" in ends else None


def members(body: bytes) -> list[Member]:
    """The members of the object `body`, in order; `count` must have counted them."""
    plain = _without_escaped_quotes(body)
    found: list[Member] = []
    position = plain.index(b"{") + 1
    while (member := _ONE.match(plain, position)) is not None:
        found.append(Member(member.start(1), *member.span(2)))
        position = member.end()
    return found


def elements(body: bytes, member: int) -> list[tuple[int, int]]:
    """Where the elements of an array begin and end, in order: of the one that is the member number
    `member`, from 0, of the object `body`."""
    plain = _without_escaped_quotes(body)
    position = plain.index(b"{") + 1
    for _ in range(member):
        position = _stepped(_ONE, plain, position)
    position = _stepped(_BEGUN, plain, position)
    found: list[tuple[int, int]] = []
    while (element := _ELEMENT.match(plain, position)) is not None:
        found.append(element.span(1))
        position = element.end()
    return found


def _stepped(pattern: re.Pattern[bytes], plain: bytes, position: int) -> int:
    """Behind what is there for certain, since `count` has seen it."""
    found = pattern.match(plain, position)
    assert found is not None
    return found.end()


def _without_escaped_quotes(body: bytes) -> bytes:
    """The same length, the same strings' ends, but each quote in it begins or ends a string."""
    if b"\\" not in body or b'\\"' not in body:
        return body
    # Backslashes stand in strings only, and pair up from the left.
    return body.replace(b"\\\\", b"..").replace(b'\\"', b"..")


def splice(
    body: bytes,
    named: Iterable[tuple[str, Member]],
    edits: Mapping[str, bytes | None],
) -> bytes:
    """`body` with the values in `edits` put in; None takes a member out. All else stays.

    `named` are all members in order. A name that is not among them is added at the end.
    """
    pieces: list[bytes] = []
    copied = 0
    kept = 0
    missing = dict(edits)
    for index, (name, member) in enumerate(named):
        value = missing.pop(name, body[member.value : member.end])
        if index == 0 or (kept and value is not None):
            pieces.append(body[copied : member.start])
        copied = member.end
        if value is not None:
            pieces += (body[member.start : member.value], value)
            kept += 1
    for name, value in missing.items():
        if value is not None:
            pieces.append(b"," if kept else b"")
            pieces += (orjson.dumps(name), b":", value)
            kept += 1
    pieces.append(body[copied:])
    return b"".join(pieces)
