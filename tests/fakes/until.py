"""Waiting for what no event tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

WITHIN: Final = 30.0
"""Seconds that something may take on a busy machine."""


async def until(is_so: Callable[[], object], within: float = WITHIN) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(within):
        while not is_so():
            await asyncio.sleep(0.005)
