"""Who may run what now: keys, and the number of requests one key has running on one model."""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import orjson

from proxy.simulator.call import Call
from proxy.simulator.ledger import Entry
from proxy.simulator.refusals import Refusal


def key_of(entry: Entry, *, anthropic: bool = False) -> str:
    """The account a request belongs to; raises `Refusal` 1001 without a key, 1000 for a bad one.

    Any key is good that does not begin with `bad`. Accepted are `Authorization` with and without
    `Bearer`, and `x-api-key` on the Anthropic base. Of `id.secret` and of a signed token the
    account is the id.
    """
    value = entry.header("authorization") or ""
    key = value.removeprefix("Bearer ").strip()
    if not key and anthropic:
        key = (entry.header("x-api-key") or "").strip()
    if not key:
        raise Refusal("1001")
    if key.lower().startswith("bad"):
        raise Refusal("1000")
    return _account(key)


def check_user_agent(entry: Entry) -> None:
    """The edge refuses clients that do not say who they are, with the code of an overload."""
    if not entry.header("user-agent"):
        raise Refusal("1305")


def _account(key: str) -> str:
    parts = key.split(".")
    return _api_key(parts[1]) if len(parts) == 3 else parts[0]


def _api_key(payload: str) -> str:
    """The `api_key` of a signed token (JWT, HS256; the signature is not checked)."""
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(claims["api_key"])
    except (binascii.Error, ValueError, KeyError, TypeError) as error:
        raise Refusal("1002") from error


class Admission:
    """Requests in flight per account and model. `limit`: None = the models' own, 0 = no limit."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._running: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def running(self, account: str, call: Call) -> Iterator[None]:
        """Holds one place while the request runs; raises `Refusal` 1302 when none is free."""
        place = (account, call.model.name)
        limit = call.model.limit(call.prompt_tokens) if self._limit is None else self._limit
        if limit and self._running[place] >= limit:
            raise Refusal("1302")
        self._running[place] += 1
        try:
            yield
        finally:
            self._running[place] -= 1


class PrefixCache:
    """The service's implicit prompt cache: how many tokens of a prompt's beginning it has seen.

    Each account has its own.
    """

    GRAIN = 64
    """Cached tokens come in multiples of this."""

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._seen: dict[bytes, None] = {}

    def cached_tokens(self, account: str, call: Call) -> int:
        """Tokens of the longest run of first messages seen before; this prompt is then seen too."""
        digest = blake2b(f"{account}\0{call.model.name}".encode(), digest_size=16)
        known = total = 0
        for message in call.prompt:
            digest.update(b"\0" + message.text.encode())
            total += message.tokens
            prefix = digest.digest()
            if prefix in self._seen:
                known = total
            self._seen[prefix] = None
        while len(self._seen) > self._size:
            self._seen.pop(next(iter(self._seen)))
        return known // self.GRAIN * self.GRAIN
