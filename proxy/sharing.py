"""One process among several that are scraped as one: its place in the folder, its socket, its sums.

The folder and the sums are `observe`'s, the sockets `net`'s; they meet here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from proxy.net.siblings import Teller, ask
from proxy.observe.catalogue import MERGE
from proxy.observe.folder import CannotShare, Folder
from proxy.observe.metrics import Metrics
from proxy.observe.siblings import Siblings

_EVERY: Final = 1.0
"""Seconds between two looks at what a process that is killed now would leave."""
_SHARE: Final = 0.02
"""The part of its time that may take."""


class Sharing:
    """From `start` to `stop`, a scrape of `metrics` is one of all processes in the folder."""

    def __init__(self, folder: Path, metrics: Metrics) -> None:
        self._path = folder
        self._metrics = metrics
        self._folder = Folder(folder)
        self._siblings = Siblings(self._folder, metrics.collect, ask, MERGE)
        self.answer: Callable[[bytes], bytes] = lambda _: b""
        """What this process answers to a question of another; nothing if it does not know."""
        self._teller = Teller(
            self._folder.socket(),
            metrics.settle,
            self._siblings.tell,
            lambda question: self.answer(question),
        )
        self._keeping: asyncio.Task[None] | None = None

    @property
    def process(self) -> str:
        """The name by which the others find this one."""
        return self._folder.id

    def relay_of(self, process: str) -> Path:
        """Where that process is asked for what it keeps; it need not be there."""
        return self._folder.relay(process)

    async def start(self) -> None:
        """Be found by the others. Raises CannotShare."""
        self._folder.enter()
        try:
            await self._teller.start()
        except OSError as error:
            self._folder.leave()
            raise CannotShare(self._path, f"takes no socket: {error.strerror or error}") from None
        self._metrics.share(self._siblings)
        self._keeping = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        """What was counted outlives a process that is killed, but for the last second."""
        while True:
            began = time.monotonic()
            self._metrics.settle()
            await asyncio.to_thread(self._siblings.tell)
            took = time.monotonic() - began
            await asyncio.sleep(max(_EVERY, took / _SHARE))

    async def ask(self, question: bytes) -> bytes | None:
        """What the first of the others answers that knows."""
        return await asyncio.to_thread(self._ask, question)

    def _ask(self, question: bytes) -> bytes | None:
        try:
            others = self._folder.look().alive
        except OSError:
            return None
        return next(filter(None, ask([*map(self._folder.socket, others)], question=question)), None)

    async def stop(self) -> None:
        """Leave the last figures to the others. Nothing may count any more."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        self._metrics.settle()
        self._siblings.finish()
        # Who knew it alive is still told, the same that who comes later finds in the folder.
        self._folder.leave()
        await self._teller.close()
