"""Which candidate comes first, and which follow when it fails: pure, over one row of facts each.

With a target the most preferred candidate that is expected to meet it comes first, else the
fastest. Without one they keep their order, and those of equal preference come by nearness. A few
requests go to candidates that were not asked lately: nothing else shows that a slow one has become
fast. Only those are tried that would be of use: never a less preferred one while a better one does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple

NEAR: Final = 1.15
"""Up to this factor over the nearest, candidates count as equally near."""
FEW: Final = 1.0
"""With less weight than this a candidate is under-sampled."""
SHARE: Final = 0.03
"""Of the requests that could, so many try an under-sampled candidate."""
FEW_EAGER: Final = 8.0
SHARE_EAGER: Final = 0.3
"""The same two while the first choice does badly: it misses the target or, without a target, has
become slower a moment ago. Little is lost by trying others then."""

_HASHED: Final = 4096
"""Characters of one text that count for the prefix: enough to tell conversations apart."""
_PARTS: Final = 16
"""So many parts of one message count, and so many fields of a part."""
_UNSAID: Final = frozenset({"type", "cache_control"})
"""Fields of a part that say nothing; a client moves `cache_control` from turn to turn."""
_NEVER: Final = float("inf")


class Option(NamedTuple):
    """What is known of one candidate at this moment. Times are seconds."""

    tier: int
    """Preference, the least first; candidates of equal preference share one."""
    allowed: bool
    """Its breaker lets a request through."""
    predicted: float | None
    """To the first content, at the confidence asked, with the wait for admission; None: no data."""
    weight: float
    """How many answers that prediction rests on, older ones counted less."""
    rtt: float | None
    """Round trip to its endpoint."""
    id: str
    """Names it from request to request."""
    slower: bool = False
    """It has become slower a moment ago."""


class Choice(NamedTuple):
    """The decision."""

    order: tuple[int, ...]
    """Indexes of the options, best first. Those not allowed are left out."""
    reason: str
    """Why the first is first.

    only       nothing else may be asked
    order      no target: it comes first in the settings
    preferred  the most preferred that is expected to meet the target
    fastest    none is: the one expected to answer soonest
    nearest    of several equally preferred it answers soonest, or has the shortest way
    sticky     of several equally near it had the conversation before, and may have it cached
    explore    too little is known of it
    """


def choose(
    options: Sequence[Option], *, target: float | None, prefix: bytes | None, roll: float
) -> Choice:
    """Order the options, of which one at least is allowed.

    `target` is seconds, `prefix` names the conversation, `roll` is 0 to 1.
    """
    allowed = [index for index, option in enumerate(options) if option.allowed]
    if len(allowed) == 1:
        return Choice((allowed[0],), "only")
    if target is None:
        order, reason = _in_order(options, allowed, prefix)
    else:
        order, reason = _by_target(options, allowed, target, prefix)
    tried = _worth_trying(options, order, target, roll)
    if tried is not None:
        order.remove(tried)
        return Choice((tried, *order), "explore")
    return Choice(tuple(order), reason)


def prefix_of(fields: Mapping[str, Any]) -> bytes | None:
    """A hash of how a conversation begins: its system prompt and its first user message.

    Every turn of a conversation has the same, whatever model it asks for. None: no user message.
    """
    messages = fields.get("messages")
    beginning = [_text(fields.get("system"))]
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, Mapping):
            beginning.append(_text(message.get("content")))
            if message.get("role") == "user":
                said = "\0".join(beginning).encode(errors="surrogatepass")
                return blake2b(said, digest_size=8).digest()
    return None


def _text(content: object, depth: int = 3) -> str:
    """What a message says: a string, or the texts, pictures and files of its first parts; cut."""
    if isinstance(content, str):
        return content[:_HASHED]
    if isinstance(content, Mapping):
        content = [value for key, value in content.items() if key not in _UNSAID]
    if isinstance(content, list) and depth:
        return "".join(_text(part, depth - 1) for part in content[:_PARTS])
    return ""


def _in_order(
    options: Sequence[Option], allowed: list[int], prefix: bytes | None
) -> tuple[list[int], str]:
    order, first = [], ""
    for tier in sorted({options[index].tier for index in allowed}):
        equals = [index for index in allowed if options[index].tier == tier]
        nearest, reason = _nearest(options, equals, prefix)
        order += nearest
        first = first or (reason if len(equals) > 1 else "order")
    return order, first


def _by_target(
    options: Sequence[Option], allowed: list[int], target: float, prefix: bytes | None
) -> tuple[list[int], str]:
    meeting: list[int] = []
    missing: list[int] = []
    for index in allowed:
        (meeting if _span(options[index]) <= target else missing).append(index)
    missing.sort(key=lambda index: _span(options[index]))
    if not meeting:
        return missing, "fastest"
    order, first = _in_order(options, meeting, prefix)
    return order + missing, "preferred" if first == "order" else first


def _span(option: Option) -> float:
    """Unknown counts as soon: it will be known soon."""
    return 0.0 if option.predicted is None else option.predicted


def _nearest(
    options: Sequence[Option], equals: list[int], prefix: bytes | None
) -> tuple[list[int], str]:
    """Options of one tier, the nearest first; of several near ones that of the conversation."""
    distances = _distances([options[index] for index in equals])
    ranked = sorted(range(len(equals)), key=distances.__getitem__)
    near = [place for place in ranked if distances[place] <= distances[ranked[0]] * NEAR]
    order = [equals[place] for place in ranked]
    if prefix is None or len(near) == 1:
        return order, "nearest"
    sticky = max((equals[place] for place in near), key=lambda i: _draw(prefix, options[i].id))
    order.remove(sticky)
    return [sticky, *order], "sticky"


def _distances(options: Sequence[Option]) -> list[float]:
    """By what is predicted; before anything is, by the round trip."""
    if any(option.predicted is not None for option in options):
        return [_span(option) for option in options]
    return [_NEVER if option.rtt is None else option.rtt for option in options]


def _draw(prefix: bytes, name: str) -> bytes:
    """Rendezvous hashing: the highest draw wins; one option more or less moves few prefixes."""
    return blake2b(prefix + name.encode(), digest_size=8).digest()


def _worth_trying(
    options: Sequence[Option], order: list[int], target: float | None, roll: float
) -> int | None:
    """The least known of what could be better than the first of `order`, now and then."""
    first = options[order[0]]
    badly = first.slower if target is None else _span(first) > target
    share, few = (SHARE_EAGER, FEW_EAGER) if badly else (SHARE, FEW)
    if roll >= share:
        return None
    # Without a target the order is the operator's wish, not ours to try out.
    last = max(option.tier for option in options) if badly and target is not None else first.tier
    unknown = [
        index for index in order[1:] if options[index].weight < few and options[index].tier <= last
    ]
    return min(unknown, key=lambda index: options[index].weight, default=None)
