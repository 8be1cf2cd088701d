"""Making, revoking and rotating keys as the command line and the operator's listener do it: each
with its entry."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Final

from proxy.config import Allowance
from proxy.core.policy import access
from proxy.core.policy.access import RANDOM_BYTES, Made, VirtualKey
from proxy.state.home import Entry, Home

OVERLAP: Final = 24 * 3600.0
"""Seconds that the token before is still good for, where nothing else is said."""


async def create(
    home: Home,
    name: str,
    *,
    routes: Iterable[str],
    models: Iterable[str],
    lasting: float | None,
    allowance: Allowance,
    by: str,
    now: float,
) -> tuple[Made, Entry]:
    """A new key, good for `lasting` seconds from `now`, or until it is revoked.

    Raises ValueError, whose text says what is wrong, and StateError.
    """
    made = access.make(
        name,
        secrets.token_bytes(RANDOM_BYTES),
        now,
        routes=routes,
        models=models,
        expires=None if lasting is None else now + lasting,
        allowance=allowance,
    )
    return made, await _save(home, made.key, "key.create", by, now)


async def revoke(home: Home, key: VirtualKey, *, by: str, now: float) -> tuple[VirtualKey, Entry]:
    """The key, good for nothing. Raises StateError."""
    revoked = access.revoked(key, now)
    return revoked, await _save(home, revoked, "key.revoke", by, now)


async def rotate(
    home: Home, key: VirtualKey, overlap: float, *, by: str, now: float
) -> tuple[Made, Entry]:
    """The key with a new token; the one before it is good for `overlap` more seconds.

    Raises ValueError for a key that is over, and StateError.
    """
    made = access.rotated(key, secrets.token_bytes(RANDOM_BYTES), now, overlap)
    return made, await _save(home, made.key, "key.rotate", by, now)


def in_order(keys: Mapping[str, VirtualKey]) -> list[VirtualKey]:
    """The oldest first."""
    return sorted(keys.values(), key=lambda key: (key.created, key.id))


async def _save(home: Home, key: VirtualKey, action: str, by: str, now: float) -> Entry:
    entry = Entry(now, by, action, key.label)
    await home.save_key(key, entry)
    return entry
