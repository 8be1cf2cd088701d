"""Keys, switches and the audit in Redis: read whole when their number of changes is another one.

Redis may lose what it was told, by a restart without its data, by eviction, or by a replica that
takes over: then the number of changes is less than was known, and what was known is written again.
So nothing that was revoked becomes good by an accident.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from proxy.core.policy.access import VirtualKey
from proxy.core.policy.switches import Switch
from proxy.state import codec
from proxy.state.home import NOTHING_KNOWN, Entry, Registry, StateError
from proxy.state.reader import Reader
from proxy.state.redis.link import Argument, Link, Script
from proxy.state.redis.words import not_redis

AUDITED: Final = 10_000
"""Entries of the audit that are kept."""
_MOST: Final = 50_000
"""Keys and switches."""
_MOST_READ: Final = 1000
"""Entries of the audit that are read at once."""


class RedisRegistry:
    """The link is its own. Everything raises StateError."""

    def __init__(self, link: Link, prefix: str) -> None:
        self.link = link
        self.known = NOTHING_KNOWN
        self._fields: dict[bytes, bytes] = {}
        self._revision = -1
        self._registry = f"{prefix}:registry"
        self._audit = f"{prefix}:audit"
        self._script = Script.of("registry.lua")
        self._reader = Reader(link.name)

    async def refresh(self) -> bool:
        """Read what has changed. Whether anything has."""
        await self.link.connect()
        (found,) = await self.link.ask(("HGET", self._registry, "revision"))
        revision = self._number(found)
        if revision == self._revision:
            return False
        if revision < self._revision:
            await self._restore()
        await self._read()
        return True

    async def save_key(self, key: VirtualKey, entry: Entry) -> None:
        await self._change("save", entry, f"key:{key.id}", codec.key_text(key))

    async def save_switch(self, switch: Switch, entry: Entry) -> None:
        await self._change("save", entry, f"switch:{switch.model}", codec.switch_text(switch))

    async def drop_switches(self, models: Collection[str] | None, entry: Entry) -> int:
        fields = [""] if models is None else [f"switch:{model}" for model in set(models)]
        return await self._change("drop", entry, *fields)

    async def note(self, entry: Entry) -> None:
        await self._change("note", entry)

    async def audit(self, most: int) -> list[Entry]:
        most = max(1, min(most, _MOST_READ))
        (found,) = await self.link.ask(("LRANGE", self._audit, 0, most - 1))
        if not isinstance(found, list):
            raise not_redis(self.link.name)
        rows = enumerate(found)
        read = self._reader.read("audit entry", rows, codec.entry_of, lambda _: None)
        return list(read.values())

    async def _change(self, what: str, entry: Entry, *arguments: Argument) -> int:
        keys = (self._registry, self._audit)
        text = codec.entry_text(entry)
        done = await self.link.run(self._script, keys, what, text, AUDITED, *arguments)
        if not isinstance(done, int):
            raise not_redis(self.link.name)
        return done

    async def _read(self) -> None:
        (size,) = await self.link.ask(("HLEN", self._registry))
        if self._number(size) > _MOST:
            raise StateError(f"{self.link.name} holds more than {_MOST} keys and switches")
        (found,) = await self.link.ask(("HGETALL", self._registry))
        fields = self._pairs(found)
        self._revision = self._number(fields.pop(b"revision", None))
        self._fields = fields
        self.known = Registry(
            self._reader.read("key", _of(fields, b"key:"), codec.key_of, lambda key: key.id),
            self._reader.read(
                "switch", _of(fields, b"switch:"), codec.switch_of, lambda one: one.model
            ),
        )

    async def _restore(self) -> None:
        pairs = [one for field in self._fields.items() for one in field]
        keys = (self._registry, self._audit)
        await self.link.run(self._script, keys, "restore", self._revision, *pairs)

    def _number(self, answer: Any) -> int:
        if answer is None:
            return 0
        try:
            number = int(answer)
        except (TypeError, ValueError):
            number = -1
        if not 0 <= number < 1 << 53:
            raise not_redis(self.link.name)
        return number

    def _pairs(self, answer: Any) -> dict[bytes, bytes]:
        whole = isinstance(answer, list) and all(isinstance(one, bytes) for one in answer)
        if not whole or len(answer) % 2:
            raise not_redis(self.link.name)
        return dict(zip(answer[::2], answer[1::2], strict=True))


def _of(fields: dict[bytes, bytes], prefix: bytes) -> Sequence[tuple[object, object]]:
    return [
        (name[len(prefix) :].decode("utf-8", "replace"), body)
        for name, body in fields.items()
        if name.startswith(prefix)
    ]
