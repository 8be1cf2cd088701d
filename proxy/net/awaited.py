"""A value that several wait for, each of whom may stop waiting."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from proxy.errors import ProxyError

T = TypeVar("T")


class Awaited(Generic[T]):
    """Comes once, by `settle`."""

    __slots__ = ("_places", "_value", "is_settled")

    def __init__(self) -> None:
        self.is_settled = False
        self._value: T | None = None
        self._places: set[asyncio.Future[T | None]] = set()

    @property
    def waiting(self) -> int:
        """How many wait for it."""
        return len(self._places)

    def settle(self, value: T | None) -> None:
        """Here it is; None: it will never be. Only the first one counts."""
        if self.is_settled:
            return
        self.is_settled, self._value = True, value
        for place in self._places:
            if not place.done():
                place.set_result(value)

    def place(self) -> Place[T]:
        """Of one more who waits. It is to be waited in."""
        future: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
        if self.is_settled:
            future.set_result(self._value)
        else:
            self._places.add(future)
            future.add_done_callback(self._places.discard)
        return Place(future)


class Place(Generic[T]):
    """Of one who waits."""

    __slots__ = ("_future",)

    def __init__(self, future: asyncio.Future[T | None]) -> None:
        self._future = future

    async def comes(self, timeout: float) -> bool:
        """Whether it, or an end of the waiting, is there within `timeout` seconds."""
        await asyncio.wait((self._future,), timeout=timeout)
        return self._future.done()

    async def value(self) -> T | None:
        """Raises the error that it was ended for."""
        return await self._future

    def end(self, error: ProxyError) -> None:
        """Wait no longer."""
        if not self._future.done():
            self._future.set_exception(error)

    def leave(self) -> None:
        """It is not waited in any more. Idempotent."""
        self._future.cancel()
