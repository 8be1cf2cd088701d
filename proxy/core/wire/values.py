"""How many values a JSON text holds, before it is parsed: that is what parsing costs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_SLICE: Final = 1 << 18
"""Bytes that are looked at in one go."""
_SIGNS: Final = (b",", b"[", b"{")
"""Every value but the first of an object or array follows the first of these."""
_BACKSLASHES: Final = re.compile(rb"\\*")


def has_more_values(body: bytes, most: int) -> bool:
    """Whether `body`, if it is JSON, holds more than `most` objects, arrays and further members.

    Text that looks like JSON inside of strings does not count. Linear, and never more than a few
    times the size of a slice of memory.
    """
    if len(body) <= most:  # each takes a byte
        return False
    return _exceeds(_signs(body), most) and _exceeds(_signs_outside_strings(body), most)


def count(body: bytes) -> int:
    """How many objects, arrays and further members there are in `body`, which is JSON."""
    return sum(_signs_outside_strings(body))


def _exceeds(counts: Iterator[int], most: int) -> bool:
    total = 0
    for count in counts:
        total += count
        if total > most:
            return True
    return False


def _signs(body: bytes) -> Iterator[int]:
    for start in range(0, len(body), _SLICE):
        end = start + _SLICE
        yield sum(body.count(sign, start, end) for sign in _SIGNS)


def _signs_outside_strings(body: bytes) -> Iterator[int]:
    inside = False
    for start, end in _slices(body):
        plain = body[start:end]
        if b"\\" in plain:  # stands in strings only, and pairs up from the left
            plain = plain.replace(b"\\\\", b"..").replace(b'\\"', b"..")
        pieces = plain.split(b'"')
        outside = b"".join(pieces[inside::2])
        yield sum(outside.count(sign) for sign in _SIGNS)
        inside ^= len(pieces) % 2 == 0


def _slices(body: bytes) -> Iterator[tuple[int, int]]:
    """Pieces of `body`, none of which ends within an escape."""
    start = 0
    while start < len(body):
        end = min(start + _SLICE, len(body))
        if body[end - 1 : end] == b"\\":
            rest = _BACKSLASHES.match(body, end)
            assert rest is not None
            end = min(rest.end() + 1, len(body))
        yield start, end
        start = end
