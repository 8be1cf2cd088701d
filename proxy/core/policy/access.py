"""Who may ask for what: virtual keys, and the callers who show them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from proxy.config import Allowance


class KeySecret(NamedTuple):
    """One token of a key, as it is kept: never the token itself."""

    salt: bytes
    digest: bytes
    """HMAC-SHA256 of the whole token under `salt` (RFC 2104)."""
    expires: float | None
    """Unix seconds; None: as long as the key."""


@dataclass(frozen=True, slots=True)
class VirtualKey:
    """A key that this proxy gave out. Times are unix seconds."""

    id: str
    """The public part of its tokens."""
    name: str
    secrets: tuple[KeySecret, ...]
    """The newest last; while a key is rotated, those before it are still good for a time."""
    created: float
    expires: float | None = None
    revoked: float | None = None
    routes: tuple[str, ...] = ()
    """Names of routes it may use, shell-style patterns; empty: all."""
    models: tuple[str, ...] = ()
    """Models it may ask for, shell-style patterns; empty: all."""
    allowance: Allowance = field(default_factory=Allowance)
    """Over `limits.per_key`, where it says something."""


class Caller(NamedTuple):
    """Who asks, as far as that is known."""

    name: str
    """What it is counted and queued as: a key's id, a fingerprint of its own key, its address."""
    fingerprint: str | None = None
    """Of the key that was shown, for the log; None: it has shown none."""
    key: VirtualKey | None = None
    """None with `access: open`."""
