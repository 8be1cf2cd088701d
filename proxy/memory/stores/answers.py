"""What is said to a memory service, and what it answers: checked, since it goes to a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import orjson

from proxy.memory.store import Item, StoreFailed, Turn

LARGEST: Final = 1 << 20
"""Bytes of an answer."""
LONGEST: Final = 16 * 1024
"""Bytes of one turn that are sent, and of one memory that is taken: from its beginning."""
_ROLES: Final = frozenset({"user", "assistant"})


def order(scope: str, session: str | None, **more: object) -> bytes:
    """The body of a request."""
    whose = {"scope": scope, "session": None if session is None else _plain(session)}
    return orjson.dumps({**whose, **more})


def sent(turns: Sequence[Turn]) -> list[dict[str, object]]:
    """Turns, as the body of `add` has them."""
    return [{"role": one.role, "text": clipped(one.text), "at": one.at} for one in turns]


def items_of(body: bytes, most: int) -> list[Item]:
    """At most `most` of a search's answer: in the order in which they were said where the service
    says when, else in its own. Raises StoreFailed for anything else than the documented form."""
    items = [_item(one) for one in _list_of(_object(body), "items")[:most]]
    if all(item.at for item in items):
        items.sort(key=lambda item: item.at)
    return items


def deleted_of(body: bytes) -> int:
    """How many there were. Raises StoreFailed."""
    deleted = _object(body).get("deleted")
    if type(deleted) is not int or deleted < 0:
        raise _garbage("deleted is no count")
    return deleted


def clipped(text: str) -> str:
    """Half a surrogate pair is no character (RFC 3629, section 3)."""
    return text.encode("utf-8", "replace")[:LONGEST].decode("utf-8", "ignore")


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _item(value: Any) -> Item:
    if not isinstance(value, dict):
        raise _garbage("an item is no object")
    text, role = value.get("text"), value.get("role", "user")
    if not isinstance(text, str) or not text:
        raise _garbage("an item has no text")
    if not isinstance(role, str) or role not in _ROLES:
        raise _garbage("an item's role is neither user nor assistant")
    return Item(clipped(text), role, _number(value, "at"), _number(value, "score"))


def _number(item: dict[str, Any], name: str) -> float:
    """0 where there is none."""
    value = item.get(name)
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _garbage(f"an item's {name} is no number")
    return float(value)


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except ValueError:
        raise _garbage("it is no JSON") from None
    if not isinstance(value, dict):
        raise _garbage("it is no object")
    return value


def _list_of(value: dict[str, Any], name: str) -> list[Any]:
    found = value.get(name)
    if not isinstance(found, list):
        raise _garbage(f"{name} is no list")
    return found


def _garbage(what: str) -> StoreFailed:
    return StoreFailed(f"its answer is not as documented: {what}")
