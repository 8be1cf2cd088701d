"""Answers that are kept: opaque bytes, each for one caller and a time, in a file or in Redis.

shelf       what a place to keep things in has to be able to do
place       under which name something is kept: an HMAC, never whose it is
kept        one store: bounded, in the background, a miss where the place fails
sqlite      in a file that the processes of one machine share
redis       in Redis or Valkey
open        the stores that the settings name

What every store can do is `AnswerStore`.
"""

from __future__ import annotations

from typing import Protocol


class AnswerStore(Protocol):
    """It never fails a request: what it cannot do, or not in time, is a miss and a metric.

    All is within a caller's scope (see `proxy.core.policy.scope`): another caller's values are not
    found, whatever the key. In one event loop.
    """

    async def get(self, scope: str, key: str) -> bytes | None:
        """What is kept, if it is still good. None also where the store cannot tell in time."""

    def put(self, scope: str, key: str, value: bytes, ttl: float) -> None:
        """Keep `value` for `ttl` seconds, in place of what was there, and tell it from now on.
        Returns at once; what is too much to be written is dropped, and counted."""

    async def delete(self, scope: str, key: str) -> bool:
        """Whether it was there. False also where the store cannot tell."""
