"""The home that the settings name."""

from __future__ import annotations

from proxy.config import State
from proxy.state.home import Home, StateError
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
    try:
        from proxy.state.redis.home import RedisHome
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "proxy":
            raise
        raise StateError(
            f"state in Redis needs the Python package {missing!r}, which is not installed;"
            " pip install '.[redis]' in its folder, or keep state in a file: sqlite:PATH"
        ) from None
    return RedisHome(state)
