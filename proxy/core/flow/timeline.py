"""The marks of one exchange on one monotonic clock, in seconds. Nothing here reads a clock.

The path marks; spans are derived once, at the end, by `proxy.core.record`. Gaps between events
are running figures, never a list: nothing grows with the length of a stream.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

# OpenTelemetry's bounds of gen_ai.server.time_per_output_token, added jitter in front and stalls
# behind.
GAP_BOUNDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Seconds: the upper bounds of the ranges that gaps between events are counted in."""


class Timeline:
    """When each stage of an exchange was reached; `None` is "not reached".

    received        the handler was entered, before the body was read
    parsed          the request's body was read and understood
    sent            the attempt that answered was handed to a connection
    headers         the upstream's response headers came
    first_byte      the first body byte came from upstream
    first_event     the first whole SSE event came
    first_token     the first model token of any kind (reasoning counts)
    first_content   the first visible token, or tool-call delta
    committed       status and first event were written to the client
    last_event      the latest event came
    finished        the exchange ended
    """

    __slots__ = (
        "committed",
        "events",
        "finished",
        "first_byte",
        "first_content",
        "first_event",
        "first_token",
        "gap_counts",
        "gap_max",
        "gap_sum",
        "gaps",
        "headers",
        "last_event",
        "parsed",
        "received",
        "sent",
    )

    def __init__(self, received: float) -> None:
        self.received = received
        self.parsed: float | None = None
        self.sent: float | None = None
        self.headers: float | None = None
        self.first_byte: float | None = None
        self.first_event: float | None = None
        self.first_token: float | None = None
        self.first_content: float | None = None
        self.committed: float | None = None
        self.last_event: float | None = None
        self.finished: float | None = None
        self.events = 0
        self.gaps = 0
        self.gap_sum = 0.0
        self.gap_max = 0.0
        self.gap_counts: list[int] | None = None
        """How many gaps between reads fell into each range of `GAP_BOUNDS`, the last being beyond
        them; None while there was none. What is missing to `gaps` lay inside reads: zero."""

    def burst(self, events: int, now: float) -> None:
        """`events` whole events came in one read, at `now`. Gaps inside a read are zero."""
        last = self.last_event
        if last is None:
            self.first_event = now
            self.gaps += events - 1
        else:
            gap = now - last
            self.gaps += events
            self.gap_sum += gap
            if gap > self.gap_max:
                self.gap_max = gap
            counts = self.gap_counts
            if counts is None:
                counts = self.gap_counts = [0] * (len(GAP_BOUNDS) + 1)
            counts[bisect_left(GAP_BOUNDS, gap)] += 1
        self.last_event = now
        self.events += events
