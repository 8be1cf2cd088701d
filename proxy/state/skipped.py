"""What is found in a home and cannot be understood: left out, and told once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

T = TypeVar("T")

log = logging.getLogger("glm_proxy.state")

_REMEMBERED: Final = 1000


class Skipped:
    """For one home, which messages call `name`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._told: set[tuple[str, object]] = set()

    def read(
        self,
        kind: str,
        rows: Iterable[tuple[object, object]],
        read: Callable[[bytes], T],
        key_of: Callable[[T], object],
    ) -> dict[str, T]:
        """Those that `read` understands, by their own key; a value that says another key than it is
        found under is not believed (`key_of` None: it says none)."""
        found: dict[str, T] = {}
        bad = 0
        for key, body in rows:
            try:
                value = read(body if isinstance(body, bytes) else b"")
                if key_of(value) not in (None, key):
                    raise ValueError("another's")
            except ValueError:
                if (kind, key) not in self._told and len(self._told) < _REMEMBERED:
                    self._told.add((kind, key))
                    bad += 1
            else:
                found[str(key)] = value
        if bad:
            log.warning(
                "state: %d %s(s) in %s cannot be read and are left out", bad, kind, self._name
            )
        return found
