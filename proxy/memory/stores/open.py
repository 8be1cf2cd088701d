"""The memory store that the settings name."""

from __future__ import annotations

from proxy.config import MemoryStore as Settings
from proxy.memory.store import MemoryStore


def open_memory(settings: Settings) -> MemoryStore:
    """Not open yet. One is enough for all routes with these settings."""
    if settings.kind == "sqlite":
        from proxy.memory.stores.sqlite import SqliteStore

        return SqliteStore(settings.path, settings.timeout, settings.max_size)
    from proxy.memory.stores.http import HttpStore

    return HttpStore(settings)
