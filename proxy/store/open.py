"""The stores that the settings name: one for all that name it alike, opened when it is first used.

Where they differ, if only in `timeout`, there are two for one place; they find what is there alike.
"""

from __future__ import annotations

import asyncio
from typing import Final, Literal, NamedTuple

from proxy.config import AnswerStore as Settings
from proxy.state.home import StateError
from proxy.store import AnswerStore
from proxy.store.kept import Kept
from proxy.store.shelf import Observer, Shelf
from proxy.store.sqlite import SqliteShelf

Purpose = Literal["cache", "responses"]
_PURPOSES: Final[dict[Purpose, bytes]] = {"cache": b"\x01", "responses": b"\x02"}


class Stores:
    """From the first `of` to `close`; in one event loop. Generations of settings share them."""

    def __init__(self, observer: Observer | None = None) -> None:
        self._observer = observer
        self._stores: dict[Settings, Kept] = {}

    def prepare(self, settings: Settings) -> None:
        """It will be asked for. Raises StateError where a Python package is missing."""
        if settings not in self._stores:
            self._stores[settings] = Kept(
                _shelf(settings),
                timeout=settings.timeout,
                most=settings.max_size,
                observer=self._observer,
            )

    def of(self, settings: Settings, purpose: Purpose) -> AnswerStore:
        """Where `settings` say; what is kept for another purpose there is not found by it."""
        self.prepare(settings)
        return _View(self._stores[settings], _PURPOSES[purpose])

    async def open(self) -> None:
        """All that will be asked for, so that nobody has to wait for them. Never raises."""
        await asyncio.gather(*(store.open() for store in tuple(self._stores.values())))

    async def clear(self, purpose: Purpose) -> int:
        """Delete all that was kept for it, of all callers; how many there were. Raises StateError
        where one of the stores cannot be reached."""
        return sum([await one.clear(_PURPOSES[purpose]) for one in tuple(self._stores.values())])

    async def close(self) -> None:
        """What waits is written, if that is possible soon."""
        await asyncio.gather(*(store.close() for store in tuple(self._stores.values())))


class _View(NamedTuple):
    """A store, for one purpose."""

    store: Kept
    purpose: bytes

    async def get(self, scope: str, key: str) -> bytes | None:
        return await self.store.get(self.purpose, scope, key)

    def put(self, scope: str, key: str, value: bytes, ttl: float) -> None:
        self.store.put(self.purpose, scope, key, value, ttl)

    async def delete(self, scope: str, key: str) -> bool:
        return await self.store.delete(self.purpose, scope, key)


def _shelf(settings: Settings) -> Shelf:
    if settings.kind == "sqlite":
        return SqliteShelf(settings.path, settings.timeout, settings.max_size)
    try:
        from proxy.store.redis import RedisShelf
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "proxy":
            raise
        raise StateError(
            f"a store in Redis needs the Python package {missing!r}, which is not installed;"
            " pip install '.[redis]' in its folder, or keep answers in a file: sqlite:PATH"
        ) from None
    return RedisShelf(settings)
