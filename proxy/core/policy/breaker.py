"""Leaves a candidate alone that fails again and again, and asks it back with one request.

closed      everything passes; failures in a row are counted
open        nothing passes until a cool-down is over
half open   one request, the probe, passes; its outcome closes the breaker or opens it for longer

Times are seconds on one clock; a `roll` is a random number from 0 to 1.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

from proxy.config import Breaker as Settings
from proxy.core.policy.outcome import Outcome

State = Literal["closed", "open", "half_open"]

LONGEST: Final = 12
"""The longest cool-down, in times `open_for`: it doubles with every failed probe until then."""
JITTER: Final = 0.2
"""Each cool-down is longer or shorter by up to this share, so that many breakers, in this process
and in others, do not all probe at one moment."""


class Breaker:
    """One candidate's breaker.

    An attempt asks `start`, whose answer it keeps, and reports by `record` at least once, in every
    ending: a probe that never does would keep all others out. A probe
    should report as soon as its outcome is sure, which is long before a stream's end.
    """

    __slots__ = ("_failed_probes", "_failures", "_probing", "_retry_at", "_settings")

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._failures: deque[float] = deque(maxlen=settings.failures)
        """When the latest failures ended, without a success between them."""
        self._retry_at: float | None = None
        self._failed_probes = 0
        self._probing = False

    @property
    def retry_at(self) -> float | None:
        """When the cool-down is, or was, over and a probe may pass. None: closed."""
        return self._retry_at

    def state(self, now: float) -> State:
        if self._retry_at is None:
            return "closed"
        return "open" if now < self._retry_at else "half_open"

    def allows(self, now: float) -> bool:
        """Whether an attempt may start; asking changes nothing."""
        if self._retry_at is None:
            return True
        return now >= self._retry_at and not self._probing

    def start(self, now: float) -> bool:
        """An attempt starts, which `allows` has allowed. True: it is the probe."""
        if self._retry_at is None or not self.allows(now):
            return False
        self._probing = True
        return True

    def record(self, outcome: Outcome, now: float, roll: float, *, probe: bool) -> None:
        """An attempt has ended; `probe` is what `start` said of it."""
        if self._retry_at is not None:
            # Only the probe counts: the others began before this opened, and what they met then
            # says nothing of how the candidate is now.
            if probe:
                self._probed(outcome, now, roll)
        elif outcome is Outcome.SUCCESS:
            self._failures.clear()
        elif outcome is Outcome.FAILURE:
            self._failed(now, roll)

    def _probed(self, outcome: Outcome, now: float, roll: float) -> None:
        self._probing = False
        if outcome is Outcome.SUCCESS:
            self._retry_at = None
            self._failed_probes = 0
        elif outcome is Outcome.FAILURE:
            self._failed_probes += 1
            self._open(now, roll)

    def _failed(self, now: float, roll: float) -> None:
        failures, settings = self._failures, self._settings
        failures.append(now)
        if len(failures) == settings.failures and now - failures[0] <= settings.within:
            failures.clear()
            self._open(now, roll)

    def _open(self, now: float, roll: float) -> None:
        times = min(2 ** min(self._failed_probes, 16), LONGEST)
        jitter = 1.0 + JITTER * (2.0 * roll - 1.0)
        self._retry_at = now + self._settings.open_for * times * jitter
