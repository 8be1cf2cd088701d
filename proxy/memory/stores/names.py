"""What callers and sessions are called in the file."""

from __future__ import annotations

import hashlib
import hmac
import sqlite3


class Names:
    """Under the salt of one file."""

    def __init__(self, db: sqlite3.Connection) -> None:
        (self._salt,) = db.execute("SELECT salt FROM about").fetchone()

    def scope(self, scope: str) -> bytes:
        return self._hashed(b"scope", scope)

    def session(self, scope: str, session: str) -> bytes:
        return self._hashed(b"session", scope, session)

    def _hashed(self, kind: bytes, *parts: str) -> bytes:
        """Of a fixed length each, so that no two lists of parts are one text."""
        found = hmac.new(self._salt, kind, hashlib.sha256)
        for part in parts:
            found.update(hashlib.sha256(part.encode("utf-8", "surrogatepass")).digest())
        return found.digest()
