"""Whose something is: what is kept of one caller is found by that caller alone."""

from __future__ import annotations

import hashlib

from proxy.core.policy.access import Caller


def scope_of_key(key_id: str) -> str:
    """Of whoever shows a token of that virtual key."""
    return f"key:{key_id}"


def scope_of(caller: Caller, key: str | None) -> str:
    """The name of all that belongs to `caller`, who showed `key`: `key:ID` of a virtual key,
    `bearer:` with the SHA-256 of any other key, else `address:` with where the call came from.

    Unlike a fingerprint it is the same in every process and after a restart, so it is no name to
    write down: who keeps something under it keeps an HMAC of it.
    """
    if caller.key is not None:
        return scope_of_key(caller.key.id)
    if key is None:
        return f"address:{caller.name}"
    # Header bytes that are not UTF-8 come as surrogates: two such keys are two callers as well.
    return f"bearer:{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}"
