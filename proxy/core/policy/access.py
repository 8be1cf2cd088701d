"""Who may ask for what: virtual keys, and the callers who show them.

A token is `sk-glm-ID-SECRET`. Its id is public and finds the key; whether the token is one of that
key's says an HMAC of all of it, and nothing shorter. Everything here fails closed: an identity is
`Known` or `Denied`, and there is no third.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final, Literal, NamedTuple

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

    @property
    def label(self) -> str:
        """What the log calls it: its name, and its id, since two may have one name."""
        return f"{self.name}/{self.id}"

    def state(self, now: float) -> Literal["active", "expired", "revoked"]:
        if self.revoked is not None:
            return "revoked"
        return "expired" if _is_over(self.expires, now) else "active"

    def living(self, now: float) -> int:
        """How many of its tokens are good: two while it is rotated."""
        if self.state(now) != "active":
            return 0
        return sum(not _is_over(secret.expires, now) for secret in self.secrets[-_LIVING:])

    def told(self, now: float) -> dict[str, object]:
        """As it may be told to the operator: nothing of its tokens. Null is "never"."""
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state(now),
            "created": self.created,
            "expires": self.expires,
            "revoked": self.revoked,
            "routes": list(self.routes),
            "models": list(self.models),
            "limits": self.allowance.model_dump(exclude_none=True),
            "tokens": self.living(now),
        }


class Caller(NamedTuple):
    """Who asks, as far as that is known."""

    name: str
    """What it is counted and queued as: a key's id, a fingerprint of its own key, its address."""
    fingerprint: str | None = None
    """Of the key that was shown, for the log: a virtual key's `label`; None: it has shown none."""
    key: VirtualKey | None = None
    """None with `access: open`."""

    @property
    def key_name(self) -> str | None:
        """What `match.key` of a route is about; None with `access: open`."""
        return None if self.key is None else self.key.name


# --- making them -------------------------------------------------------------------------------

_ID: Final = re.compile(r"[a-z0-9]{12}")
_TOKEN: Final = re.compile(r"sk-glm-([a-z0-9]{12})-[A-Za-z0-9_-]{43}")
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_BYTES: Final = 16
_SECRET_BYTES: Final = 32
_SALT_BYTES: Final = 16
RANDOM_BYTES: Final = _ID_BYTES + _SECRET_BYTES + _SALT_BYTES
"""What one token takes, from a source that cannot be foreseen."""
_LIVING: Final = 2
"""Tokens of one key at most: the newest, and the one that it replaces."""
_PATTERNS: Final = 64
_LONGEST_PATTERN: Final = 256
_ALL_PATTERNS: Final = 8192
"""Bytes of all of them together: what is larger than a home reads would be lost in it."""


class Made(NamedTuple):
    """A key, and the token that is told this one time."""

    key: VirtualKey
    token: str


def make(
    name: str,
    random: bytes,
    now: float,
    *,
    routes: Iterable[str] = (),
    models: Iterable[str] = (),
    expires: float | None = None,
    allowance: Allowance | None = None,
) -> Made:
    """A new key. `random` are RANDOM_BYTES; `expires` is unix seconds.

    Raises ValueError, whose text says what is wrong with which of them.
    """
    if not _NAME.fullmatch(name):
        raise ValueError("name: must be 1 to 64 letters, digits, '.', '_' or '-'")
    if expires is not None and expires <= now:
        raise ValueError("expires: must be in the future")
    key_id = _id(random[:_ID_BYTES])
    token, secret = _token(key_id, random)
    key = VirtualKey(
        id=key_id,
        name=name,
        secrets=(secret,),
        created=now,
        expires=expires,
        routes=_patterns("routes", routes),
        models=_patterns("models", models),
        allowance=Allowance() if allowance is None else allowance,
    )
    return Made(key, token)


def rotated(key: VirtualKey, random: bytes, now: float, overlap: float) -> Made:
    """The key with a new token. The one before it is good for `overlap` more seconds; one that was
    being replaced already ends now.

    Raises ValueError for a key that is over.
    """
    state = key.state(now)
    if state != "active":
        raise ValueError(f"this key is {state}; make a new one")
    token, secret = _token(key.id, random)
    before = key.secrets[-1]
    until = now + overlap if before.expires is None else min(before.expires, now + overlap)
    old = (before._replace(expires=until),) if until > now else ()
    return Made(replace(key, secrets=(*old, secret)), token)


def revoked(key: VirtualKey, now: float) -> VirtualKey:
    """The key, good for nothing from now on."""
    return key if key.revoked is not None else replace(key, revoked=now)


def kept(before: VirtualKey | None, after: VirtualKey) -> VirtualKey:
    """What a home keeps of `after` in place of `before`: one that was revoked meanwhile, by another
    process, stays so."""
    if before is None or before.revoked is None:
        return after
    return replace(after, revoked=before.revoked)


def _id(random: bytes) -> str:
    number = int.from_bytes(random, "big")
    digits = []
    for _ in range(12):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(digits)


def _token(key_id: str, random: bytes) -> tuple[str, KeySecret]:
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"random: must be {RANDOM_BYTES} bytes")
    secret = base64.urlsafe_b64encode(random[_ID_BYTES:-_SALT_BYTES]).decode().rstrip("=")
    token, salt = f"sk-glm-{key_id}-{secret}", random[-_SALT_BYTES:]
    return token, KeySecret(salt, _digest(salt, token), None)


def _digest(salt: bytes, token: str) -> bytes:
    return hmac.digest(salt, token.encode(), hashlib.sha256)


def _patterns(field: str, given: Iterable[str]) -> tuple[str, ...]:
    patterns = tuple(dict.fromkeys(given))
    if len(patterns) > _PATTERNS:
        raise ValueError(f"{field}: at most {_PATTERNS} patterns")
    for one in patterns:
        if not one or len(one) > _LONGEST_PATTERN or not one.isprintable():
            text = f"{field}: a pattern is 1 to {_LONGEST_PATTERN} printable characters"
            raise ValueError(text)
    if sum(len(one.encode()) for one in patterns) > _ALL_PATTERNS:
        raise ValueError(f"{field}: at most {_ALL_PATTERNS} bytes altogether")
    return patterns


# --- who is it ---------------------------------------------------------------------------------


class Reason(StrEnum):
    """Why a caller is refused: for the operator's eyes, the caller is not told which."""

    MISSING = "missing"
    WRONG = "wrong"
    EXPIRED = "expired"
    REVOKED = "revoked"
    SCOPE = "scope"
    """The key is good, but not for this."""


class Known(NamedTuple):
    """The token is this key's, and good now."""

    key: VirtualKey


class Denied(NamedTuple):
    """It is not let in."""

    reason: Reason


Identity = Known | Denied

_NOBODYS: Final = KeySecret(bytes(_SALT_BYTES), bytes(32), None)
"""What the tokens of keys that do not exist are compared with: it takes as long, and never fits."""


def identify(token: str | None, keys: Mapping[str, VirtualKey], now: float) -> Identity:
    """Whose token it is; `now` is unix seconds. Always compares as often, whatever is found."""
    if token is None:
        return Denied(Reason.MISSING)
    key_id = id_of(token)
    key = None if key_id is None else keys.get(key_id)
    secrets = () if key is None else key.secrets[-_LIVING:]
    fitting = None
    for secret in (*secrets, *(_NOBODYS,) * (_LIVING - len(secrets))):
        if hmac.compare_digest(_digest(secret.salt, _plain(token)), secret.digest):
            fitting = secret
    if key is None or fitting is None or key.id != key_id:
        return Denied(Reason.WRONG)
    state = key.state(now)
    if state != "active":
        return Denied(Reason(state))
    return Denied(Reason.EXPIRED) if _is_over(fitting.expires, now) else Known(key)


def id_of(token: str) -> str | None:
    """The public part of a token; None: it has not a token's form."""
    found = _TOKEN.fullmatch(token)
    return None if found is None else found[1]


def is_id(text: str) -> bool:
    """Whether it has the form of a key's id."""
    return _ID.fullmatch(text) is not None


def _plain(token: str) -> str:
    """Header bytes that are not UTF-8 come as surrogates, which cannot be encoded."""
    return token if token.isascii() else token.encode("utf-8", "replace").decode()


def _is_over(expires: float | None, now: float) -> bool:
    return expires is not None and now >= expires


# --- what may it use ---------------------------------------------------------------------------


def may_use(key: VirtualKey, route: str, model: str | None) -> bool:
    """Whether the key is for this route, and for the model that is asked for.

    `model` None: the request's body is not read, so nobody knows which models it asks for; a key
    that is for some models only may not send it.
    """
    if not _fits(route, key.routes):
        return False
    return not key.models if model is None else _fits(model, key.models)


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
