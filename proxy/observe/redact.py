"""What must not get into a log: secrets, and characters that end or hide a line.

Two kinds of text are logged. Short names that a client or an upstream chose (a model, a path) go
through `plain`, which is strict; our own messages and tracebacks through `redacted`, which knows
the shapes that keys have.
"""

from __future__ import annotations

import re

MASK = "*"
PATH_LIMIT = 256
"""Characters that are kept of a path."""

# A run with a digit or capital in it, too long for a word: an id, or a key in whatever encoding.
# Then keys whose parts are joined by hyphens.
_LONG_RUN = re.compile(r"(?:sk|ak|pk)-[\w-]{8,}|(?=[a-z_]*[0-9A-Z%+=~])[\w%+=~]{16,}", re.ASCII)

_KEY_SHAPES = re.compile(
    r"(?<![0-9A-Za-z])[0-9A-Za-z]{24,}+\.[0-9A-Za-z]{8,}"  # GLM: id.secret
    r"|\beyJ[\w-]++\.[\w.-]+"  # JWT, made of such a key
    r"|\bsk-[\w-]{8,}",
    re.ASCII,
)
_WORD = re.compile(r"[\w.:/-]{1,64}")
_LAST_WORD = re.compile(r"[\w%+=~.-]+\Z", re.ASCII)
_AFTER_NAME = re.compile(
    r"((?:authorization|x-api-key|api[_-]?key|token|secret|cookie)['\"]?\s*[:=,]\s*(?:b?['\"])?"
    r"(?:(?:bearer|basic)\s+)?|bearer\s+)([^\s'\",;)}\]]+)",
    re.IGNORECASE,
)


def plain(text: str | None, limit: int = 128) -> str | None:
    """A name from outside as one harmless word group: at most `limit` characters, nothing that
    could be a key, and every character printable."""
    if text is None:
        return None
    text = cut(text, limit)
    if len(text) >= 11:  # the shortest that the pattern matches
        text = _LONG_RUN.sub(MASK, text)
    return escaped(text)


def word(text: str | None) -> str | None:
    """A code or reason in the upstream's own words, if it is a word: a sentence may be a prompt's,
    or an answer's."""
    return plain(text) if text is None or _WORD.fullmatch(text) else MASK


def decision(text: str) -> str:
    """A decision of ours, `retry_again:1234`; its code may be the upstream's."""
    name, colon, code = text.partition(":")
    return f"{plain(name)}{colon}{word(code) if code else ''}"


def assignment(text: str) -> str:
    """`name=value`, each by itself: together they would look like a key."""
    name, equals, value = text.partition("=")
    return f"{plain(name)}{equals}{plain(value)}"


def cut(text: str, limit: int) -> str:
    """At most `limit` characters; a word that the cut goes through could be part of a key."""
    return text if len(text) <= limit else _LAST_WORD.sub(MASK, text[:limit])


def identifier(text: str, limit: int = 64) -> str:
    """A request's id, which a client may have chosen: long runs are its nature, keys are not."""
    return escaped(_KEY_SHAPES.sub(MASK, cut(text, limit)))


def sentence(text: str, limit: int = 300) -> str:
    """A message of ours, which may quote what came from outside, on one line without keys."""
    return escaped(redacted(cut(text, limit)))


def redacted(text: str) -> str:
    """A message or traceback without what looks like a key, or follows a name of one."""
    return _KEY_SHAPES.sub(MASK, _AFTER_NAME.sub(rf"\g<1>{MASK}", text))


def escaped(text: str) -> str:
    r"""Control characters, line separators and lone surrogates as `\n`, `\x1b`, `\u2028` …"""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
