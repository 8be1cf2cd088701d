"""One process among several that are scraped as one: its place in the folder, its socket, its sums.

The folder and the sums are `observe`'s, the sockets `net`'s; they meet here.
"""

from __future__ import annotations

from pathlib import Path

from proxy.net.siblings import Teller, ask
from proxy.observe.catalogue import MERGE
from proxy.observe.folder import CannotShare, Folder
from proxy.observe.metrics import Metrics
from proxy.observe.siblings import Siblings


class Sharing:
    """From `start` to `stop`, a scrape of `metrics` is one of all processes in the folder."""

    def __init__(self, folder: Path, metrics: Metrics) -> None:
        self._path = folder
        self._metrics = metrics
        self._folder = Folder(folder)
        self._siblings = Siblings(self._folder, metrics.collect, ask, MERGE)
        self._teller = Teller(self._folder.socket(), metrics.settle, self._siblings.tell)

    async def start(self) -> None:
        """Be found by the others. Raises CannotShare."""
        self._folder.enter()
        try:
            await self._teller.start()
        except OSError as error:
            self._folder.leave()
            raise CannotShare(self._path, f"takes no socket: {error.strerror or error}") from None
        self._metrics.share(self._siblings)

    async def stop(self) -> None:
        """Leave the last figures to the others. Nothing may count any more."""
        self._metrics.settle()
        self._siblings.finish()
        # Who knew it alive is still told, the same that who comes later finds in the folder.
        self._folder.leave()
        await self._teller.close()
