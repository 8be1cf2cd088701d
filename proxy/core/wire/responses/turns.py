"""What is kept of a response, and told to the model again before those that follow it.

Each turn is kept by itself, with the ids of all that came before: to keep a long conversation takes
no more than what was said in it, and to find it takes one look and then one for all the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from proxy.core.wire.responses.asked import Item, is_id

_VERSION: Final = 1
MOST_TURNS: Final = 1000
"""Of one conversation."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One response and what it answered."""

    response: dict[str, Any]
    """As it was told to the client at its end."""
    input: Sequence[Item]
    before: tuple[str, ...]
    """The ids of the responses that it follows, oldest first."""
    size: int
    """Bytes that it takes, near enough."""

    @property
    def id(self) -> str:
        return str(self.response["id"])

    @property
    def items(self) -> Iterator[Item]:
        """What the model has to read again. The instructions are none of it: those of a response
        are not carried over to the next one."""
        yield from self.input
        yield from self.response["output"]


def items_of(turns: Iterable[Turn]) -> Iterator[Item]:
    """All that was said in `turns`."""
    for turn in turns:
        yield from turn.items


def to_bytes(turn: Turn) -> bytes:
    """As a store keeps it."""
    kept = {"v": _VERSION, "response": turn.response, "input": turn.input, "before": turn.before}
    return orjson.dumps(kept)


def from_bytes(data: bytes) -> Turn | None:
    """What `to_bytes` made; None of anything else, also of what another version kept."""
    try:
        kept = orjson.loads(data)
        if kept["v"] != _VERSION or not is_id(kept["response"]["id"]):
            return None
        return Turn(kept["response"], tuple(kept["input"]), tuple(kept["before"]), len(data))
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
