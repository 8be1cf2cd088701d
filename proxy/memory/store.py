"""What a memory store does, whatever keeps it. Everything is within a caller's `scope`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from proxy.core.policy.memory import Item, Turn

__all__ = ["Item", "MemoryStore", "StoreFailed", "Turn"]


class StoreFailed(Exception):
    """The store did not do what it was asked, for a reason told without secrets or memories."""


class MemoryStore(Protocol):
    """Keeps what was said. Opened once; used by one event loop; may be asked many things at once.

    A caller who cancels a call does no harm. `session` is an identity that a caller chose, at most
    256 characters: of any kind, so a store keeps it as data only.
    """

    async def open(self) -> None:
        """Raises StoreFailed where it cannot be used; then it may be tried again."""

    async def close(self) -> None:
        """Let go of everything, after what was being written. Idempotent; also if never opened."""

    async def search(self, scope: str, session: str, query: str, most: int) -> list[Item]:
        """At most `most` memories of the session, in the order in which they were said: those that
        fit `query` (score above 0), and the latest whatever they say. Expired ones are not found.

        Raises StoreFailed.
        """

    async def add(self, scope: str, session: str, turns: Sequence[Turn], retention: float) -> None:
        """Remember `turns` for `retention` seconds. What comes of a search from then on has them.

        Raises StoreFailed.
        """

    async def forget(self, scope: str, session: str | None) -> int:
        """Forget a session, or with None all of the scope; how many memories there were.

        Raises StoreFailed.
        """
