"""Where state is kept, for a command: as the settings say, else a file of this user."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from proxy.config import Config, State
from proxy.state.home import Home, Registry, StateError
from proxy.state.open import make_home


def home_of(config: Config, environ: Mapping[str, str] = os.environ) -> State:
    """What the settings say; without it `state.db` in the folder that systemd names
    (`StateDirectory=`), else in the user's own (XDG Base Directory Specification)."""
    return config.state or State(url=f"sqlite:{_default(environ)}")


@asynccontextmanager
async def opened(config: Config) -> AsyncIterator[tuple[Home, Registry]]:
    """The home of the settings, and what is in it now. Raises StateError."""
    home = make_home(home_of(config))
    try:
        registry = await home.open()
        if not registry.known:
            raise StateError(home.trouble or "the home of state cannot be reached")
        yield home, registry
    finally:
        await home.close()


def _default(environ: Mapping[str, str]) -> Path:
    if folders := environ.get("STATE_DIRECTORY"):
        return Path(folders.partition(":")[0]) / "state.db"
    base = Path(environ.get("XDG_STATE_HOME") or "")
    # A relative path is to be ignored, says the specification.
    if not base.is_absolute():
        base = Path.home() / ".local" / "state"
    return base / "glm-proxy" / "state.db"
