"""All processes that share a folder, scraped as one: whoever is asked asks the others.

Counters must never fall: Prometheus would take that for a restart and count everything again. So
whatever a process tells it leaves in the folder too, before it tells it. When it is killed, those
figures stay in the sum; its gauges do not. One that lives and does not answer is counted as silent,
and its last figures are taken in the same way.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from proxy.observe.app_log import LOGGER
from proxy.observe.folder import Folder
from proxy.observe.merge import Family, Snapshot, Value, families, lasting, merge, metrics
from proxy.observe.process import SILENT
from proxy.observe.snapshot import decode, encode

log = logging.getLogger(LOGGER)

Ask = Callable[[Sequence[Path]], Sequence[bytes | None]]
"""What each socket tells, within seconds; `None` for one that does not."""


class Siblings(Collector):
    """Collects what `own` does, of all processes in the folder. Blocks: for a thread.

    `tell` gives this process's figures to others. After `finish` they stay as they are.
    """

    def __init__(
        self,
        folder: Folder,
        own: Callable[[], Iterable[Metric]],
        ask: Ask,
        rules: Mapping[str, str],
    ) -> None:
        self._folder = folder
        self._own = own
        self._ask = ask
        self._rules = rules
        self._one = threading.Lock()
        """What is kept must never be less than what was told: figures are read, kept and told one
        after the other."""
        self._last: bytes | None = None

    def tell(self) -> bytes:
        """This process's figures, kept in the folder."""
        with self._one:
            return self._last if self._last is not None else self._told()[1]

    def finish(self) -> None:
        """The process ends, and these are its last figures."""
        with self._one:
            self._last = self._told()[1]

    def _told(self) -> tuple[tuple[Family, ...], bytes]:
        own = families(self._own())
        told = encode(Snapshot(own))
        self._folder.keep(told)
        return own, told

    def collect(self) -> Iterator[Metric]:
        """Everything. Raises OSError when it cannot be known who is there."""
        others = self._folder.look()
        with ThreadPoolExecutor(1, "siblings") as asking:
            asked = asking.submit(self._ask, [self._folder.socket(one) for one in others.alive])
            with self._one:
                present = [self._told()[0]]
            answers = asked.result()
        past = [others.gone]
        silent = 0
        for (one, left), answer in zip(others.alive.items(), answers, strict=True):
            figures = _understood(one, answer)
            if figures is not None:
                present.append(figures)
                continue
            # What it left was read when it was seen to live: by now somebody may have folded it.
            past.append(lasting(_understood(one, left) or ()))
            silent += self._folder.lives(one)
        count = Family(SILENT, "gauge", "", "", {("", ()): Value(silent)})
        return metrics(merge([*present, *past, [count]], self._rules))


def _understood(one: str, told: bytes | None) -> tuple[Family, ...] | None:
    """`None` when there is nothing, or nothing that makes sense."""
    if not told:
        return None
    try:
        return decode(told).families
    except ValueError as error:
        log.warning("metrics.folder: what process %s told is no snapshot: %s", one, error)
        return None
