"""Reads what is kept, each value once. What cannot be understood is left out, and told once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

T = TypeVar("T")

log = logging.getLogger("glm_proxy.state")

_REMEMBERED: Final = 1000
"""Values that were told to be left out."""


class Reader:
    """For one home, which messages call `name`; in one thread at a time."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._known: dict[str, dict[object, tuple[object, Any]]] = {}
        """By kind and key, the text and its value: of what was read last."""
        self._told: set[tuple[str, object]] = set()

    def read(
        self,
        kind: str,
        rows: Iterable[tuple[object, object]],
        understood: Callable[[bytes], T],
        key_of: Callable[[T], object],
    ) -> dict[str, T]:
        """The values of rows of a key and a text, by key. One that says another key than it is
        found under is not believed (`key_of` None: it says none). Raises nothing."""
        before = self._known.get(kind, {})
        found: dict[object, tuple[object, T]] = {}
        bad = 0
        for key, text in rows:
            known = before.get(key)
            if known is not None and known[0] == text:
                found[key] = known
                continue
            try:
                value = understood(text if isinstance(text, bytes) else b"")
                if key_of(value) not in (None, key):
                    raise ValueError("another's")
            except ValueError:
                bad += self._is_news(kind, key)
            else:
                found[key] = text, value
        self._known[kind] = found
        if bad:
            text = "state: %d %s(s) in %s cannot be read and are left out"
            log.warning(text, bad, kind, self._name)
        return {str(key): value for key, (_, value) in found.items()}

    def _is_news(self, kind: str, key: object) -> bool:
        if (kind, key) in self._told or len(self._told) >= _REMEMBERED:
            return False
        self._told.add((kind, key))
        return True
