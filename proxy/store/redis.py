"""Kept in Redis or Valkey, which the processes of several machines share.

Two connections: what a request asks for is never behind what is being written. What Redis itself
removes (by its `maxmemory-policy`, or its end) is a miss; the index beside the values notices with
time.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from typing import Any, Final

from proxy.config import AnswerStore
from proxy.state.redis.link import Argument, Link, Script
from proxy.state.redis.words import not_redis
from proxy.store.kept import LARGEST
from proxy.store.place import SEAL
from proxy.store.shelf import OVERHEAD, SALT, Item

_PATIENCE: Final = 2.0
"""Seconds for what no request waits for."""
_AT_ONCE: Final = 500
"""Entries that are removed in one go."""


class RedisShelf:
    """See `proxy.store.shelf.Shelf`."""

    def __init__(self, settings: AnswerStore) -> None:
        largest = LARGEST + SEAL
        self._reader = Link(settings, settings.timeout, largest)
        self._writer = Link(settings, _PATIENCE, largest)
        self.name = self._reader.name
        self._most = settings.max_size
        self._script = Script.of("answers.lua", __file__)
        start = f"{settings.prefix}:answers"
        self._salt = f"{start}:salt"
        self._values = f"{start}:value:"
        self._index = [f"{start}:{one}" for one in ("used", "ends", "sizes", "held")]

    async def reach(self) -> bytes:
        await self._reader.connect()
        await self._writer.connect()
        new = secrets.token_bytes(SALT)
        _, salt = await self._writer.ask(("SET", self._salt, new, "NX"), ("GET", self._salt))
        if not isinstance(salt, bytes) or len(salt) != SALT:
            raise not_redis(self.name)
        return salt

    async def get(self, place: bytes) -> bytes | None:
        (value,) = await self._reader.ask(("GET", self._values + place.hex()))
        if value is not None and not isinstance(value, bytes):
            raise not_redis(self.name)
        return value

    async def write(self, items: Sequence[Item], used: Collection[bytes]) -> int:
        held = 0
        if items:
            rows: list[Argument] = []
            for place, value, ttl in items:
                size = len(value) + OVERHEAD
                rows += (place.hex(), max(1, round(ttl * 1000)), size, value)
            held = await self._held("write", self._most, *rows)
        if used:
            held = await self._held("use", *(place.hex() for place in used))
        return held

    async def sweep(self) -> int:
        return await self._held("sweep", _AT_ONCE)

    async def delete(self, place: bytes) -> bool:
        return await self._held("delete", place.hex()) > 0

    async def clear(self, start: bytes) -> int:
        cursor, cleared = b"0", 0
        while True:
            answer = await self._run("clear", start.hex(), cursor)
            if not isinstance(answer, list) or len(answer) != 2:
                raise not_redis(self.name)
            cursor, found = answer
            if not isinstance(cursor, bytes) or not isinstance(found, int):
                raise not_redis(self.name)
            cleared += found
            if cursor == b"0":
                return cleared

    async def stop(self) -> None:
        await self._reader.close()
        await self._writer.close()

    async def _held(self, what: str, *arguments: Argument) -> int:
        answer = await self._run(what, *arguments)
        if not isinstance(answer, int):
            raise not_redis(self.name)
        return answer

    async def _run(self, what: str, *arguments: Argument) -> Any:
        """By the writer, which is connected again first: its failing alone is no loss of sight."""
        await self._writer.connect()
        return await self._writer.run(self._script, self._index, what, self._values, *arguments)
