"""Work that would hold the event loop up: beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeVar

T = TypeVar("T")

LARGE: Final = 256 * 1024
"""Bytes. What is smaller is done before a thread could have begun."""


async def aside(size: int, work: Callable[[], T]) -> T:
    """What `work` returns; in a thread where it is about so many bytes that others would wait."""
    if size <= LARGE:
        return work()
    return await asyncio.to_thread(work)
