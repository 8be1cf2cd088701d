"""What an answer may be told again for: the very same question of the same caller, no other.

The key is made of all that the answer depends on. Where two requests could mean different things
their keys differ; where they mean the same in other bytes they may differ too, and then cost a
question more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

import orjson

from proxy.core.policy.route import Candidate
from proxy.core.wire.members import members
from proxy.core.wire.request import ChatRequest
from proxy.core.wire.target import Target
from proxy.core.wire.values import count

_COMPLETE: Final = {
    "openai": frozenset({"stop", "tool_calls", "function_call"}),
    "anthropic": frozenset({"end_turn", "tool_use", "stop_sequence"}),
}
_SAYS_NOTHING: Final = frozenset({"request_id", "stream", "stream_options"})
"""Fields that change how an answer is told, or nothing. What tells a caller's own users apart
(`user`, `user_id`, `metadata`) is not among them: they do not share answers."""
_MEANING: Final = ("accept-language", "anthropic-")
"""How request headers begin that change what is answered; others only say who asks."""


_SPELLING: Final = re.compile(r"[\s\"]")
"""An argument may be quoted (RFC 9111 §5.2)."""
_ANEW: Final = re.compile(r"no-cache(=.*)?|max-age=0+")


class Wish(NamedTuple):
    """What a caller wants of the cache (RFC 9111 §5.2.1)."""

    read: bool
    write: bool


def wish_of(headers: Iterable[tuple[str, str]]) -> Wish:
    """`cache-control: no-store` wants nothing of it, `no-cache` and `max-age=0` a new answer."""
    said: set[str] = set()
    for name, value in headers:
        if name.lower() == "cache-control":
            said.update(_SPELLING.sub("", one).lower() for one in value.split(","))
    write = "no-store" not in said
    return Wish(write and not any(map(_ANEW.fullmatch, said)), write)


def with_meaning(headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Those that change what is answered, in the order of their names."""
    lower = ((name.lower(), value) for name, value in headers)
    return tuple(sorted(pair for pair in lower if pair[0].startswith(_MEANING)))


def is_one_answer(fields: Mapping[str, Any]) -> bool:
    """Whether a request wants one answer, not several to choose from."""
    return fields.get("n") in (None, 1)


def is_complete(dialect: str, finish_reason: str | None) -> bool:
    """Whether an answer that finished so is all there is to say. One that its length cut off is
    what was asked for, and still half an answer."""
    return finish_reason in _COMPLETE[dialect]


def key_of(
    route: str,
    candidate: Candidate,
    target: Target,
    headers: Iterable[tuple[str, str]],
    request: ChatRequest,
    body: bytes,
) -> str:
    """The name of the answer within its caller's scope. `body`: as `candidate` would be asked."""
    about = [
        *(route, candidate.endpoint.name, candidate.model),
        *(target.dialect, target.api, target.query),
        *(part for pair in with_meaning(headers) for part in pair),
    ]
    # Which of the sizes is which is certain, since JSON ends where it ends.
    return sha256(orjson.dumps([str(one) for one in about]) + question(body, request)).hexdigest()


def question(body: bytes, request: ChatRequest) -> bytes:
    """The same for bodies that say the same in another order or spelling; else surely different.

    `body` is `request`'s, perhaps with other values.
    """
    fields = request.fields if body is request.body else orjson.loads(body)
    if not _ODD.search(body) and count(body) == count(_sorted(fields)):
        return b"=" + _sorted({k: v for k, v in fields.items() if k not in _SAYS_NOTHING})
    # Numbers that a parser may round, or names that are given twice somewhere inside: whoever is
    # asked may read them in another way than we do, so they stay as they are.
    values = {
        name: body[member.value : member.end]
        for name, member in zip(fields, members(body), strict=True)
    }
    return b"~" + b",".join(
        orjson.dumps(name) + b":" + values[name] for name in sorted(values.keys() - _SAYS_NOTHING)
    )


_ODD: Final = re.compile(rb"[0-9]{16}|[0-9.][eE][-+]?[0-9]{3}")
"""Digits that a number of 64 bits may not hold."""


def _sorted(fields: Mapping[str, Any]) -> bytes:
    return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)
