"""Homes as the tests open them, and what they are asked."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from proxy.config import Allowance, State
from proxy.core.policy import access
from proxy.core.policy.access import RANDOM_BYTES, Made
from proxy.core.policy.limits import Want
from proxy.core.policy.switches import Switch
from proxy.state.home import Entry, Home, Registry
from proxy.state.open import make_home

PLENTY = (Want("total", Allowance(requests_per_minute=100_000, concurrent=10_000), 10),)
"""What is always let in."""


@dataclass
class Seen:
    """An observer, and a watcher."""

    up: list[bool] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    registries: list[Registry] = field(default_factory=list)

    def reached(self, up: bool) -> None:
        if self.up[-1:] != [up]:
            self.up.append(up)

    def failed(self, operation: str) -> None:
        self.failures.append(operation)

    def took(self, seconds: float) -> None:
        self.times.append(seconds)


@asynccontextmanager
async def opened(state: State, *, strict: bool = True) -> AsyncIterator[tuple[Home, Seen]]:
    home, seen = make_home(state, strict=strict), Seen()
    home.tell(seen)
    seen.up.clear()
    home.watch(seen.registries.append)
    try:
        seen.registries.append(await home.open())
        yield home, seen
    finally:
        await home.close()


def in_file(folder: Path) -> State:
    return State(url=f"sqlite:{folder / 'state.db'}")


def a_key(name: str = "app") -> Made:
    return access.make(name, secrets.token_bytes(RANDOM_BYTES), time.time())


def a_switch(model: str = "glm-4.6", to: str = "glm-4-flash") -> Switch:
    return Switch(model, to, time.time() + 3600, time.time(), "cli:me")


def an_entry(action: str = "key.create", subject: str = "app") -> Entry:
    return Entry(time.time(), "cli:me", action, subject)


async def until(condition: Callable[[], object], within: float = 20.0) -> float:
    """Seconds until it is so."""
    began = time.monotonic()
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.005)
    return time.monotonic() - began
