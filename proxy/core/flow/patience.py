"""What is due when, were nothing more to come: the deadlines of one attempt, decided purely.

All timers start when the request is sent. `idle` counts useful bytes only: comments and pings of
the upstream do not keep a stalled stream alive. While the client itself does not read, the
upstream is held back on purpose, so only the client can be blamed.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

from proxy.errors import (
    FirstTokenTimeout,
    HeadersTimeout,
    IdleTimeout,
    TotalTimeout,
    UpstreamError,
)


class Limits(NamedTuple):
    """How long an attempt may take (seconds) and how much it may bring (bytes)."""

    headers: float | None
    first_token: float | None
    """None: an attempt that nothing can replace keeps what remains of `total`."""
    idle: float
    total: float
    heartbeat: float
    """Silence towards the client after which a comment is sent; 0 sends none."""
    stall: float
    """How long a client may read nothing before its connection is dropped."""
    max_answer: int

    @property
    def shortest(self) -> float:
        """The least time in which anything can fall due, whatever happens meanwhile."""
        return min(filter(None, self[:-1]))


class Due(Enum):
    """What to do when a deadline is reached."""

    TOTAL = auto()
    HEADERS = auto()
    FIRST_TOKEN = auto()
    IDLE = auto()
    STALL = auto()
    HEARTBEAT = auto()


class Marks(NamedTuple):
    """The moments a deadline is counted from; None is "not reached" or "does not apply"."""

    sent: float
    awaiting_head: bool
    awaiting_token: bool
    last_useful: float | None
    last_write: float | None
    paused_since: float | None


def next_due(limits: Limits, marks: Marks) -> tuple[float, Due]:
    """The earliest deadline and what it means."""
    due = [(marks.sent + limits.total, Due.TOTAL)]
    if limits.headers is not None and marks.awaiting_head:
        due.append((marks.sent + limits.headers, Due.HEADERS))
    if limits.first_token is not None and marks.awaiting_token:
        due.append((marks.sent + limits.first_token, Due.FIRST_TOKEN))
    if marks.paused_since is not None:
        due.append((marks.paused_since + limits.stall, Due.STALL))
    else:
        if marks.last_useful is not None:
            due.append((marks.last_useful + limits.idle, Due.IDLE))
        if marks.last_write is not None and limits.heartbeat:
            due.append((marks.last_write + limits.heartbeat, Due.HEARTBEAT))
    return min(due, key=lambda one: one[0])


def overdue(due: Due, limits: Limits) -> UpstreamError:
    """What an attempt fails with when this deadline, one of the upstream's, is reached."""
    match due:
        case Due.HEADERS:
            return HeadersTimeout(f"no response head came within {limits.headers:g} s")
        case Due.FIRST_TOKEN:
            return FirstTokenTimeout(f"no token came within {limits.first_token:g} s")
        case Due.IDLE:
            return IdleTimeout(f"the upstream sent nothing for {limits.idle:g} s")
        case _:
            return TotalTimeout(f"the answer was not whole after {limits.total:g} s")
