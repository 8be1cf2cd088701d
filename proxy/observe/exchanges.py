"""Finished exchanges that are remembered for who looks: the newest, the failed, the slowest.

The three are kept apart, so that a flood of good ones pushes no failure out. The failed are the
newest failures since the start. The slowest are those of the last hour: of each ten minutes the
slowest few are kept, since one bad hour long ago must not hide today's. All of it is bounded, in
number and in the length of what a client can choose.

An exchange costs its event loop a few microseconds here; what is shown is made when it is asked
for. Ids may be chosen by clients and come again: then the newest of that id is found.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import Final, NamedTuple

from proxy.core.record import AttemptRecord, Record
from proxy.observe.objective import has_failed, slowness
from proxy.observe.redact import identifier

HOUR: Final = 3600.0
"""Seconds for which the slowest are remembered."""
_SPAN: Final = 600.0
"""Seconds of which the slowest are found among themselves."""
_SPANS: Final = 7
"""The current one and those that reach back for an hour."""
_LONGEST: Final = 320
"""Characters kept of one text: more than is ever shown of it (`proxy.observe.redact`)."""


class Kept(NamedTuple):
    """One finished exchange."""

    number: int
    """Counted from 1 in the order they finished."""
    time: float
    """When it finished, in seconds since the epoch."""
    record: Record


class Exchanges:
    """For one process, in its event loop's thread."""

    def __init__(self, limit: int, *, now: Callable[[], float] = time.time) -> None:
        """`limit` newest ones, as many failed, and a tenth of it for each ten minutes of the
        slowest; 0 remembers none. `now` is the wall clock."""
        self.count = 0
        """Exchanges that have finished."""
        self._now = now
        self._few = -(-limit // 10)
        self._recent: deque[Kept] = deque(maxlen=limit)
        self._failed: deque[Kept] = deque(maxlen=limit)
        self._spans: deque[_Span] = deque(maxlen=_SPANS)

    def finish(self, record: Record) -> None:
        """Remembers one finished exchange."""
        self.count += 1
        if not self._few:
            return
        kept = Kept(self.count, self._now(), _cut(record))
        self._recent.append(kept)
        if has_failed(record):
            self._failed.append(kept)
        self._span(kept.time).add(slowness(record), kept, self._few)

    def recent(self, limit: int) -> list[Kept]:
        """The newest first."""
        return list(islice(reversed(self._recent), limit))

    def failed(self, limit: int) -> list[Kept]:
        """The newest first."""
        return list(islice(reversed(self._failed), limit))

    def slowest(self, limit: int) -> list[Kept]:
        """The slowest first."""
        since = self._now() - HOUR
        found = [one for span in self._spans for one in span.slowest if one[2].time >= since]
        return [kept for _, _, kept in heapq.nlargest(limit, found)]

    def since(self, number: int) -> list[Kept]:
        """Those remembered that finished after that number, the oldest first."""
        count = min(self.count - number, len(self._recent))
        return list(islice(self._recent, len(self._recent) - count, None))

    def find(self, request_id: str) -> Kept | None:
        """The newest of that id, as the id is shown."""
        found = (kept for kept in self._all() if _has_id(kept, request_id))
        return max(found, key=lambda kept: kept.number, default=None)

    def _all(self) -> Iterator[Kept]:
        slow = (kept for span in self._spans for _, _, kept in span.slowest)
        return chain(self._recent, self._failed, slow)

    def _span(self, at: float) -> _Span:
        spans = self._spans
        if not spans or not spans[-1].begun <= at < spans[-1].begun + _SPAN:
            spans.append(_Span(at))
        return spans[-1]


class _Span:
    """The slowest of ten minutes, as a heap with the least slow on top."""

    __slots__ = ("begun", "slowest")

    def __init__(self, begun: float) -> None:
        self.begun = begun
        self.slowest: list[tuple[float, int, Kept]] = []

    def add(self, seconds: float, kept: Kept, limit: int) -> None:
        if len(self.slowest) < limit:
            heapq.heappush(self.slowest, (seconds, kept.number, kept))
        elif seconds > self.slowest[0][0]:
            heapq.heapreplace(self.slowest, (seconds, kept.number, kept))


def _has_id(kept: Kept, request_id: str) -> bool:
    own = kept.record.request_id
    if own == request_id:
        return True
    # What is shown of an id differs from it only where something was masked or escaped.
    return not request_id.isalnum() and identifier(own) == request_id


# --- how long one may be -------------------------------------------------------------------------


def _cut(record: Record) -> Record:
    """The record, without the ends of texts that are longer than is ever shown of them."""
    if not any(len(text) > _LONGEST for text in _texts(record)):
        return record
    return replace(
        record,
        method=record.method[:_LONGEST],
        path=record.path[:_LONGEST],
        requested_model=_start(record.requested_model),
        served_model=_start(record.served_model),
        finish_reason=_start(record.finish_reason),
        upstream_code=_start(record.upstream_code),
        error=_start(record.error),
        decisions=tuple(one[:_LONGEST] for one in record.decisions),
        attempts=tuple(map(_cut_attempt, record.attempts)),
    )


def _texts(record: Record) -> Iterator[str]:
    """What a client or an upstream may have made long."""
    yield record.method
    yield record.path
    yield record.requested_model or ""
    yield record.served_model or ""
    yield record.finish_reason or ""
    yield record.upstream_code or ""
    yield record.error or ""
    yield from record.decisions
    for attempt in record.attempts:
        yield attempt.model
        yield attempt.upstream_code or ""


def _cut_attempt(attempt: AttemptRecord) -> AttemptRecord:
    return replace(
        attempt, model=attempt.model[:_LONGEST], upstream_code=_start(attempt.upstream_code)
    )


def _start(text: str | None) -> str | None:
    return None if text is None else text[:_LONGEST]
