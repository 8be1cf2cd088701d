"""The home that the settings name."""

from __future__ import annotations

from proxy.config import State
from proxy.state.home import Home
from proxy.state.memory import MemoryHome


def make_home(state: State | None, *, strict: bool = True) -> Home:
    """Not open yet; None: memory. `strict`: who cannot read the keys may not go on (`access: keys`
    and whoever changes something); else a home that cannot be used is done without.

    Raises StateError where a Python package is missing.
    """
    if state is None or state.kind == "memory":
        return MemoryHome()
    if state.kind == "sqlite":
        from proxy.state.sqlite.home import SqliteHome

        return SqliteHome(state.path, state.timeout, strict=strict)
    from proxy.state.redis.home import RedisHome

    return RedisHome(state)
