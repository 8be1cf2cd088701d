"""Taking a PromQL expression apart, as far as a condition needs it. Pure.

A condition that is not met returns nothing, which looks like a query that cannot be answered. The
two are told apart by asking for what is compared: `grounds`.
"""

from __future__ import annotations

import re
from typing import Final

_SET: Final = re.compile(r"(and|or|unless)\b", re.I)
_COMPARISON: Final = re.compile(r"==|!=|<=|>=|<|>")
_MODIFIERS: Final = re.compile(
    r"\s*(bool\b|(on|ignoring|group_left|group_right)\b\s*(\([^()]*\))?)", re.I
)
_NUMBER: Final = re.compile(r"[-+]?\s*[\d.]+(e[-+]?\d+)?|[-+]?(inf|nan)", re.I)
_ABSENT: Final = re.compile(r"absent(?:_over_time)?\s*\((.*)\)", re.I | re.S)
_SELECTOR: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?=\s*[{\[])")
_WORD: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_OPEN, _CLOSE = "([{", ")]}"


def grounds(text: str) -> list[str]:
    """What must return data for the condition to be decidable: every side of every comparison.

    Numbers are left out, and of `absent(x)` it is x.
    """
    text = _unwrapped(text)
    pieces = _split(text, _SET)
    if len(pieces) > 1:
        return [found for piece in pieces for found in grounds(piece)]
    sides = _split(text, _COMPARISON)
    if len(sides) > 1:
        return [found for side in sides for found in grounds(side)]
    if _NUMBER.fullmatch(text):
        return []
    if inner := _ABSENT.fullmatch(text):
        return grounds(inner[1])
    return [text]


def metrics(text: str) -> set[str]:
    """The names of metrics in an expression that stand before braces or a range."""
    bare = re.sub(r'"(\\.|[^"\\])*"', '""', text)
    return set(_SELECTOR.findall(bare))


def _unwrapped(text: str) -> str:
    """Without brackets around the whole."""
    text = _without_comments(text).strip()
    while text.startswith("(") and _end_of(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def _without_comments(text: str) -> str:
    return "\n".join(re.sub(r'#[^"]*$', "", line) for line in text.splitlines())


def _split(text: str, operator: re.Pattern[str]) -> list[str]:
    """The operands of `operator` outside all brackets and strings."""
    pieces, start, at = [], 0, 0
    while at < len(text):
        char = text[at]
        if char in _OPEN:
            at = _end_of(text, at) + 1
        elif char in "\"'`":
            at = _end_of_string(text, at) + 1
        elif found := operator.match(text, at):
            pieces.append(text[start:at])
            start = at = _after_modifiers(text, found.end())
        elif word := _WORD.match(text, at):
            at = word.end()
        else:
            at += 1
    return [piece.strip() for piece in (*pieces, text[start:])]


def _after_modifiers(text: str, at: int) -> int:
    while found := _MODIFIERS.match(text, at):
        at = found.end()
    return at


def _end_of(text: str, start: int) -> int:
    """Where the bracket at `start` is closed. Raises ValueError when it is not."""
    depth, at = 0, start
    while at < len(text):
        char = text[at]
        if char in "\"'`":
            at = _end_of_string(text, at)
        elif char in _OPEN:
            depth += 1
        elif char in _CLOSE:
            depth -= 1
            if depth == 0:
                return at
        at += 1
    raise ValueError(f"a bracket is not closed: {text!r}")


def _end_of_string(text: str, start: int) -> int:
    at = start + 1
    while at < len(text) and text[at] != text[start]:
        at += 2 if text[at] == "\\" and text[start] != "`" else 1
    return at
