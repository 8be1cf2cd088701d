"""Forgetting what is remembered: `DELETE /v1/memory` all that is its caller's, and
`DELETE /v1/memory/SESSION` one conversation; the operator, what a virtual key's caller said.

A conversation whose name is no plain ASCII, which a path has to be, is named in the query:
`DELETE /v1/memory?session=%E6%97%85%E8%A1%8C`.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, unquote

import orjson

from proxy import reply
from proxy.core.policy.memory import session_named
from proxy.core.policy.scope import scope_of, scope_of_key
from proxy.core.wire import headers as policy
from proxy.core.wire.target import Target
from proxy.entry import count_in
from proxy.errors import ClientError, MemoryUnavailable
from proxy.facts import Facts
from proxy.house import House
from proxy.memory.store import StoreFailed
from proxy.net.halves import Client

_HOW: Final = "send DELETE /v1/memory/SESSION, or /v1/memory for all of yours"


async def forget(house: House, client: Client, facts: Facts, target: Target) -> None:
    """Answers how many memories there were: `{"deleted": 3}`.

    In the stores of all routes: whether the key is still for them does not count, since what it
    forgets is the caller's own.
    """
    session = _session(target)
    await count_in(house, facts, 0)
    assert facts.caller is not None
    scope = scope_of(facts.caller, policy.caller_key(client.headers()))
    body = orjson.dumps({"deleted": await _forget(house, scope, session)})
    reply.answer(client, facts, 200, [policy.JSON], body)


async def forget_key(house: House, key_id: str) -> int:
    """All that was said by callers with the virtual key; how many memories there were. Raises
    MemoryUnavailable."""
    return await _forget(house, scope_of_key(key_id), None)


async def _forget(house: House, scope: str, session: str | None) -> int:
    stores = [rule.memory.store for rule in house.config.routes if rule.memory is not None]
    try:
        return await house.memories.forget(stores, scope, session)
    except StoreFailed:  # which of them, and why, is in the log
        message = "what is remembered could not all be deleted; send the request again"
        raise MemoryUnavailable(message) from None


def _session(target: Target) -> str | None:
    """Which conversation; None: all. Raises ClientError for what could be meant otherwise."""
    try:
        asked = parse_qsl(target.query, keep_blank_values=True, max_num_fields=8, errors="strict")
    except ValueError:
        raise ClientError(f"the query is not UTF-8, or too long; {_HOW}", param="session") from None
    names = [value for name, value in asked if name == "session"]
    if len(names) < len(asked) or len(names) + bool(target.tail) > 1:
        raise ClientError(f"one session can be named, and nothing else; {_HOW}", param="session")
    if target.tail:
        names = [unquote(target.tail.removeprefix("/"))]
    if not names:
        return None
    session = session_named(names[0])
    if session is None:
        raise ClientError(f"this is no name of a session; {_HOW}", param="session")
    return session
