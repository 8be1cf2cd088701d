"""How much a peer may send that moves nothing forward, before it is a flood.

Frames that carry no progress cost us work and hide a stall. Each kind has an allowance per
`WINDOW` seconds; what we do ourselves (a request, a DATA frame sent) earns the peer more,
since it must answer that. Over it the connection ends with ENHANCE_YOUR_CALM (RFC 9113 §10.5).
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.net.h2.frames import ErrorCode, Violation

WINDOW = 10.0
"""Seconds an allowance lasts."""

ALLOWANCE = {
    "PING": 1_000,
    "SETTINGS": 100,
    "empty DATA": 1_000,
    "CONTINUATION": 1_000,
    "RST_STREAM": 1_000,  # of streams already closed
    "WINDOW_UPDATE": 1_000,
    "interim responses": 200,
    "ignored frames": 1_000,  # PRIORITY and unknown types
    "frames on closed streams": 100,
}

_PER_REQUEST = {"RST_STREAM": 1, "WINDOW_UPDATE": 4, "interim responses": 4, "ignored frames": 4}
_PER_DATA_SENT = {"WINDOW_UPDATE": 10, "PING": 2}


class Budget:
    """What one connection's peer may still send. `clock` answers seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = dict(ALLOWANCE)
        self._refilled = clock()

    def charge(self, kind: str) -> None:
        """One more frame of this kind came. Raises `Violation` when it is one too many."""
        self._left[kind] -= 1
        if self._left[kind] >= 0:
            return
        self._refill(kind)
        self._left[kind] -= 1

    def request_sent(self) -> None:
        self._earn(_PER_REQUEST)

    def data_sent(self) -> None:
        self._earn(_PER_DATA_SENT)

    def _refill(self, kind: str) -> None:
        # Only an exhausted allowance looks at the clock: counting is free of it.
        now = self._clock()
        if now - self._refilled < WINDOW:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, f"a flood of {kind}")
        self._refilled = now
        for name, allowance in ALLOWANCE.items():
            self._left[name] = max(self._left[name], allowance)

    def _earn(self, credits: dict[str, int]) -> None:
        for kind, count in credits.items():
            self._left[kind] += count
