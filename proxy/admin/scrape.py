"""Answers scrapes without being felt by the streams on the same event loop.

The text is made in pieces, and between two of them the loop has its turn. Rendering takes at most
a fifth of the loop's time however often it is asked for: after each one there is a rest, and all
who ask meanwhile get the next one, which begins after they asked, so that nothing shown is old.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from proxy.observe.exposition import Exposition

_TURN = 0.002
"""Seconds of rendering after which the loop has its turn."""

_REST = 4.0
"""Seconds of rest for each second of rendering."""


class Rendered(NamedTuple):
    """One scrape's answer, and when it was begun."""

    accept: str
    began: float
    content_type: str
    body: bytes


class Scrapes:
    """Renders for all who ask, one rendering at a time."""

    def __init__(self, render: Callable[[str], Exposition]) -> None:
        self._render = render
        self._one = asyncio.Lock()
        self._latest: Rendered | None = None
        self._rested = 0.0

    async def answer(self, accept: str) -> Rendered:
        """All metrics, as they were at some moment after this was called."""
        asked = time.monotonic()
        async with self._one:
            latest = self._latest
            if latest is None or latest.began < asked or latest.accept != accept:
                await asyncio.sleep(max(0.0, self._rested - time.monotonic()))
                latest = self._latest = await self._rendered(accept)
            return latest

    async def _rendered(self, accept: str) -> Rendered:
        began = turn = time.monotonic()
        busy = 0.0
        answer = self._render(accept)
        pieces = []
        for piece in answer.pieces:
            pieces.append(piece)
            spent = time.monotonic() - turn
            if spent > _TURN:
                busy += spent
                await asyncio.sleep(0)
                turn = time.monotonic()
        now = time.monotonic()
        self._rested = now + _REST * (busy + now - turn)
        return Rendered(accept, began, answer.content_type, b"".join(pieces))
