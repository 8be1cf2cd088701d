"""Under which name something is kept, and a seal that it is that very thing.

A place is all that a store knows of whose a value is: two HMACs under the store's own salt. The
seal binds a value to its place, so that an answer to another question (of a server, or a link, that
mixes up what it was asked) is never taken for one's own.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

SEAL: Final = 16
"""Bytes of a seal."""


def place(salt: bytes, purpose: bytes, scope: str, key: str) -> bytes:
    """The name of what is kept for `scope` under `key`; it begins with `purpose`, one byte."""
    return b"".join(
        (purpose, *(hmac.digest(salt, _bytes(one), hashlib.sha256) for one in (scope, key)))
    )


def sealed(salt: bytes, place: bytes, value: bytes) -> bytes:
    """The value as it is kept at `place`."""
    return _seal(salt, place, value) + value


def unsealed(salt: bytes, place: bytes, kept: bytes) -> bytes | None:
    """The value; None: this was not kept there."""
    value = kept[SEAL:]
    return value if hmac.compare_digest(kept[:SEAL], _seal(salt, place, value)) else None


def _seal(salt: bytes, place: bytes, value: bytes) -> bytes:
    seal = hashlib.blake2b(place, key=salt, digest_size=SEAL)
    seal.update(value)
    return seal.digest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
