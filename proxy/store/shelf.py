"""What a place to keep things in has to be able to do, and what is told of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple, Protocol

from proxy.state.home import StateError

OVERHEAD: Final = 512
"""Bytes that an entry counts for besides its value: its names and its place in the indexes."""
SALT: Final = 32
"""Bytes of a store's salt."""


class Gone(StateError):
    """It is not the one any more that was reached: it has to be reached again."""


class Item(NamedTuple):
    """Something to be kept."""

    place: bytes
    value: bytes
    ttl: float
    """Seconds, from now on."""


class Shelf(Protocol):
    """All of it raises StateError, and may take as long as it takes: who asks keeps the time."""

    name: str
    """What messages call it; it holds no secret."""

    async def reach(self) -> bytes:
        """Make it usable again, or do nothing where it is. Its salt, the same for all who use it,
        made when there was none."""

    async def get(self, place: bytes) -> bytes | None: ...

    async def write(self, items: Sequence[Item], used: Collection[bytes]) -> int:
        """Keep these, and note that those were used. Over the most it may hold, what was used
        longest ago goes. The bytes it holds then."""

    async def sweep(self) -> int:
        """Remove some of what is over. The bytes it holds then."""

    async def delete(self, place: bytes) -> bool: ...

    async def clear(self, start: bytes) -> int:
        """Delete all whose place begins so; how many there were."""

    async def stop(self) -> None: ...


class Observer(Protocol):
    """Is told how a store fares. Called in the event loop's thread; must not block."""

    def failed(self, operation: str) -> None:
        """open, probe, get, damaged (a value that is not what was kept), put, dropped, delete,
        sweep or clear."""

    def holds(self, store: str, size: int) -> None:
        """So many bytes are kept in it."""


class Unobserved:
    """Of a store that nobody looks at."""

    def failed(self, operation: str) -> None:
        return None

    def holds(self, store: str, size: int) -> None:
        return None
