"""Stores of answers for tests: in a file, in a real Redis, and what is told of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from proxy.config import AnswerStore
from proxy.store.open import Stores


class Told:
    """What a store told of itself."""

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        self.held: dict[str, int] = {}

    def failed(self, operation: str) -> None:
        self.failures[operation] += 1

    def holds(self, store: str, size: int) -> None:
        self.held[store] = size

    @property
    def size(self) -> int:
        return sum(self.held.values())


def in_file(folder: Path, **settings: object) -> AnswerStore:
    return AnswerStore(url=f"sqlite:{folder / 'answers.db'}", **{"timeout": 5.0, **settings})  # type: ignore[arg-type]


def in_redis(url: str, **settings: object) -> AnswerStore:
    return AnswerStore(url=url, **{"timeout": 5.0, **settings})  # type: ignore[arg-type]


@asynccontextmanager
async def opened(*settings: AnswerStore) -> AsyncIterator[tuple[Stores, Told]]:
    """Open, with what is told of them."""
    told = Told()
    stores = Stores(told)
    for one in settings:
        stores.prepare(one)
    await stores.open()
    try:
        yield stores, told
    finally:
        await stores.close()
