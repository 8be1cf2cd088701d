"""W3C Trace Context: the trace a request belongs to, and what its upstream is told of it.

https://www.w3.org/TR/trace-context/ (Recommendation of 2021, version 00). A header that is not
exactly as it says is as good as none: then a trace begins here. Ids are lower-case hex, 32 digits
for a trace and 16 for a span.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from proxy.core.record import SpanIds

PARENT: Final = "traceparent"
STATE: Final = "tracestate"

_BLANK: Final = " \t"
_SAMPLED: Final = 1
_TRACEPARENT: Final = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    r"(?P<more>-[!-~]*)?"
)
_MOST_MEMBERS: Final = 32
_MEMBER: Final = re.compile(
    r"(?P<key>[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})="
    r"[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)


class Caller(NamedTuple):
    """What a caller said of its trace."""

    trace_id: str
    span_id: str
    sampled: bool
    state: str | None
    """`tracestate`, to be passed on."""


class Trace:
    """The span of one exchange, and what its attempts need to be spans of the same trace."""

    __slots__ = ("_new_id", "ids", "state")

    def __init__(self, ids: SpanIds, state: str | None, new_id: Callable[[int], str]) -> None:
        self.ids = ids
        self.state = state
        self._new_id = new_id

    def child(self) -> SpanIds:
        """A new span, asked for by the exchange."""
        trace_id, span_id, _, sampled = self.ids
        return SpanIds(trace_id, self._new_id(8), span_id, sampled)

    def headers(self, span: SpanIds) -> list[tuple[str, str]]:
        """What is sent for `span`; that it is not sampled is told too."""
        flags = _SAMPLED if span.sampled else 0
        pairs = [(PARENT, f"00-{span.trace_id}-{span.span_id}-{flags:02x}")]
        if self.state:
            pairs.append((STATE, self.state))
        return pairs


class Tracer:
    """Begins and continues traces."""

    def __init__(
        self, share: float, roll: Callable[[], float], new_id: Callable[[int], str]
    ) -> None:
        """`share` of the traces that begin here are sampled; `roll` is a random number from 0 to 1,
        `new_id` so many random bytes in hex."""
        self._share = share
        self._roll = roll
        self._new_id = new_id

    def begin(self, headers: Iterable[tuple[str, str]]) -> Trace:
        """The span of a request with these headers: in its caller's trace, or in a new one."""
        caller = read(headers)
        if caller is not None:
            ids = SpanIds(caller.trace_id, self._new_id(8), caller.span_id, caller.sampled)
            return Trace(ids, caller.state, self._new_id)
        sampled = self._roll() < self._share
        return Trace(SpanIds(self._new_id(16), self._new_id(8), None, sampled), None, self._new_id)


def read(headers: Iterable[tuple[str, str]]) -> Caller | None:
    """What the caller said; None when it said nothing, or nothing that can be believed."""
    parents: list[str] = []
    states: list[str] = []
    for name, value in headers:
        lower = name.lower()
        if lower == PARENT:
            parents.append(value)
        elif lower == STATE:
            states.append(value)
    if len(parents) != 1:
        return None
    found = _TRACEPARENT.fullmatch(parents[0].strip(_BLANK))
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    # A version to come may have more fields; ff is none, and all zeros are no id.
    if version == "ff" or (version == "00" and more is not None):
        return None
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return Caller(trace_id, span_id, bool(int(flags, 16) & _SAMPLED), _state(states))


def _state(values: list[str]) -> str | None:
    """`tracestate` of one or more headers, as one; None when a member of it is not valid."""
    members = [
        member for value in values for part in value.split(",") if (member := part.strip(_BLANK))
    ]
    found = [_MEMBER.fullmatch(member) for member in members]
    keys = {member["key"] for member in found if member is not None}
    # One that is not valid has no key, so that there are fewer keys than members.
    if not members or len(members) > _MOST_MEMBERS or len(keys) < len(members):
        return None
    return ",".join(members)
