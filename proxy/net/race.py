"""Run attempts until one has a first event.

Today that is one attempt at a time: what the upstream provably did not process (`Refused`) is
sent again at once, on another connection. Everything else is the exchange's answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from proxy.errors import Refused
from proxy.net.attempt import Attempt

_RESENDS = 3
"""A rolling upstream may refuse a request more than once in a row; a broken one always does."""


async def first_answer(start: Callable[[], Awaitable[Attempt]]) -> Attempt:
    """The first attempt that has something to say. Raises the last attempt's error."""
    for _ in range(_RESENDS):
        try:
            return await _answered(start)
        except Refused:
            continue
    return await _answered(start)


async def _answered(start: Callable[[], Awaitable[Attempt]]) -> Attempt:
    attempt = await start()
    await attempt.answered()
    return attempt
