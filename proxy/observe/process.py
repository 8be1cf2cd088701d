"""The process itself: does its event loop turn, how long did the garbage collector hold it, which
settings does it run with. Memory, processor time and open files are the library's.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

from proxy.observe import buckets

SILENT = "glm_proxy_workers_silent"
"""A gauge that `proxy.observe.siblings` sets: of one process it is 0."""
LOOK = 0.25
"""Seconds between two looks at the event loop."""
_PAUSES = 4096
"""Pauses that wait to be counted; as many in one look would be a collector that never rests."""


class Process:
    """Metrics of the process. `start` on the loop to be watched, and `stop` before it ends."""

    def __init__(
        self,
        registry: CollectorRegistry,
        now: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now` tells the unix time, `clock` one that is never set back."""
        self._now = now
        self._clock = clock
        self._lag = Histogram(
            "glm_proxy_event_loop_lag_seconds",
            "Seconds that a timer of the event loop came late, looked at four times a second: what"
            " every stream waits for. The loop's timers have a resolution of a millisecond.",
            registry=registry,
            buckets=buckets.LAG,
        )
        pause = Histogram(
            "glm_proxy_gc_pause_seconds",
            "Seconds that the garbage collector held the process, by generation.",
            ("generation",),
            registry=registry,
            buckets=buckets.PAUSE,
        )
        self._pause = [pause.labels(str(generation)) for generation in range(3)]
        self._settings = _Settings(registry)
        Gauge("glm_proxy_workers", "Processes that these metrics tell of.", registry=registry).set(
            1
        )
        Gauge(
            SILENT,
            "Processes that run and did not tell their metrics: of what they counted, these have"
            " what they told last.",
            registry=registry,
        )
        ProcessCollector(registry=registry)
        self._pauses: deque[tuple[int, float]] = deque(maxlen=_PAUSES)
        self._pause_began: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    # --- the loop and the collector ------------------------------------------------------------

    def start(self) -> None:
        """Watch the running loop, and the collector."""
        gc.callbacks.append(self._collected)
        self._wait()

    def stop(self) -> None:
        """Nothing of it is left behind. Harmless before `start`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            gc.callbacks.remove(self._collected)
            self._pause_began = None

    def settle(self) -> None:
        """Count the pauses: call it, in the loop's thread, before a scrape."""
        while self._pauses:
            generation, seconds = self._pauses.popleft()
            self._pause[generation].observe(seconds)

    def _wait(self) -> None:
        self._due = self._clock() + LOOK
        self._timer = asyncio.get_running_loop().call_later(LOOK, self._look)

    def _look(self) -> None:
        # Early by the time that the loop's own clock stands still while a callback runs.
        self._lag.observe(max(self._clock() - self._due, 0.0))
        self.settle()
        self._wait()

    def _collected(self, phase: Literal["start", "stop"], info: dict[str, int]) -> None:
        """Called by the collector in whatever thread it runs, so maybe under a metric's own lock:
        the pause is only noted."""
        if phase == "start":
            self._pause_began = self._clock()
        elif self._pause_began is not None:
            self._pauses.append((info["generation"], self._clock() - self._pause_began))

    # --- settings ------------------------------------------------------------------------------

    def config_loaded(self, digest: str) -> None:
        """Settings are in use from now on; `digest` tells them from others, and no secret."""
        self._settings.loaded(digest, self._now())

    def config_refused(self) -> None:
        """Settings could not be used: those before them stay."""
        self._settings.refused()


class _Settings:
    """The state of the configuration."""

    def __init__(self, registry: CollectorRegistry) -> None:
        reloads = Counter(
            "glm_proxy_config_reloads_total",
            "Settings that were loaded, by result; those of the start count as the first.",
            ("result",),
            registry=registry,
        )
        self._success = reloads.labels("success")
        self._failure = reloads.labels("failure")
        self._successful = Gauge(
            "glm_proxy_config_last_reload_successful",
            "1 if the latest settings that were to be loaded are in use, else 0.",
            registry=registry,
        )
        self._loaded_at = Gauge(
            "glm_proxy_config_last_reload_success_timestamp_seconds",
            "Unix time in seconds at which the settings in use were loaded.",
            registry=registry,
        )
        self._info = Info(
            "glm_proxy_config",
            "The settings in use, by a hash of what they come to; secrets are not part of it.",
            registry=registry,
        )

    def loaded(self, digest: str, now: float) -> None:
        self._success.inc()
        self._successful.set(1)
        self._loaded_at.set(now)
        self._info.info({"hash": digest})

    def refused(self) -> None:
        self._failure.inc()
        self._successful.set(0)
