"""A proxy that wants keys, and keys for it."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Any

from proxy.app import App
from proxy.core.policy import access
from proxy.core.policy.access import RANDOM_BYTES, Made, VirtualKey
from proxy.state.home import Entry
from tests.fakes.running import in_front_of
from tests.fakes.upstream import ScriptedUpstream

UPSTREAM_KEY = "0123456789abcdef.Upstream-Secret"


def keyed(upstream: ScriptedUpstream, folder: Path, **settings: Any) -> dict[str, Any]:
    """Settings with `access: keys` and `upstream` as the only endpoint, which has its own key."""
    path = folder / "upstream-key"
    path.write_text(UPSTREAM_KEY)
    path.chmod(0o600)
    found = in_front_of(upstream, folder, access="keys", **settings)
    found["endpoints"][0]["api_key"] = f"file:{path}"
    return found


async def a_key(app: App, name: str = "team-a", **changes: Any) -> Made:
    """A new key in the proxy's home of state. `now` may say that it is an old one."""
    now = changes.pop("now", time.time())
    made = access.make(name, secrets.token_bytes(RANDOM_BYTES), now, **changes)
    await save(app, made.key)
    return made


async def save(app: App, key: VirtualKey) -> None:
    await app.home.save_key(key, Entry(time.time(), "cli:test", "key.create", key.label))


def bearer(made: Made) -> str:
    """The header line that shows a key."""
    return f"Authorization: Bearer {made.token}"
