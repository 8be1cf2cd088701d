"""Whether a home is in use or out of reach: told once when that changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from proxy.state.home import Observer, StateError, Unobserved

# Only the name: the log itself is set up by `proxy.observe`.
log = logging.getLogger("glm_proxy.state")


class Reach:
    """Of one home, for one process."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        """`name`: what messages call the home; it holds no secret."""
        self.name = name
        self.observer: Observer = Unobserved()
        self.up = False
        self.trouble: str | None = "not opened yet"
        self.replicas = 1
        """That were alive when the home was last in use: this process has its share of the limits
        while it is alone."""
        self._clock = clock
        self._lost: float | None = None

    def lost(self, operation: str, error: StateError) -> None:
        """`operation` failed: this process goes on alone."""
        self.observer.failed(operation)
        first = self._lost is None
        self.up, self.trouble = False, str(error)
        self.observer.reached(False)
        if first:
            self._lost = self._clock()
            log.warning(
                "state: %s; this process goes on alone, with what it knows and 1/%d of the limits",
                error,
                self.replicas,
            )

    def returned(self) -> None:
        """It is in use, from now on or still."""
        if self.up:
            return
        self.up, self.trouble = True, None
        self.observer.reached(True)
        if self._lost is not None:
            log.warning("state: %s is in use again, %.1f s later", self.name, self._away())
            self._lost = None

    def _away(self) -> float:
        return self._clock() - (self._lost or 0.0)
