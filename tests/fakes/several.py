"""A proxy in front of several simulated endpoints, and who was asked for what in which order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.app import App
from proxy.simulator import Fault, Simulator, SimulatorSettings
from proxy.simulator.ledger import Entry
from tests.fakes.raw_client import Answer, ask, chat
from tests.fakes.running import running, samples

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
CALLER = "Authorization: Bearer caller.secret"


@dataclass(frozen=True)
class Several:
    """A running proxy and its endpoints by name."""

    app: App
    endpoints: dict[str, Simulator]

    @property
    def entries(self) -> list[tuple[str, Entry]]:
        """All requests that reached an endpoint, in the order of their coming."""
        found = [(name, entry) for name, one in self.endpoints.items() for entry in one.ledger]
        return sorted(found, key=lambda pair: pair[1].arrived)

    @property
    def asked(self) -> list[str]:
        """The endpoint of each of them."""
        return [name for name, _ in self.entries]

    @property
    def keys(self) -> list[str]:
        """The key of each of them, as far as the account."""
        return [account(entry) for _, entry in self.entries]

    def inject(self, fault: Fault, *, times: int | None = 1, on: str | None = None) -> None:
        """Play a fault at one endpoint, or at each of them."""
        for name, simulator in self.endpoints.items():
            if on in (None, name):
                simulator.inject(fault, times=times)

    async def ask(
        self, *headers: str, path: str = CHAT, body: bytes | None = None, within: float = 10.0
    ) -> Answer:
        """One request of a caller with a key of its own."""
        body = chat() if body is None else body
        async with asyncio.timeout(within):
            return await ask(self.app.data_address, path, body, CALLER, *headers)

    async def figure(self, name: str, **labels: str) -> float | None:
        """The sum of a series, of those samples that have these labels; None: there is none."""
        found = [
            value for had, value in await samples(self.app, name) if labels.items() <= had.items()
        ]
        return sum(found) if found else None


def account(entry: Entry) -> str:
    """Whose key a request came with."""
    key = entry.header("authorization") or entry.header("x-api-key") or ""
    return key.removeprefix("Bearer ").partition(".")[0]


@asynccontextmanager
async def several(
    folder: Path,
    names: Iterable[str] = ("a",),
    *,
    keys: int = 1,
    groups: Iterable[str] = (),
    simulators: SimulatorSettings | dict[str, SimulatorSettings] | None = None,
    each: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Several]:
    """An endpoint of each name with `keys` keys of its own: `a1.secret`, `a2.secret`, ...

    `groups`: names of key groups, each of the same keys, so that what becomes known with one is not
    known with another. `each`: more settings of every endpoint. Simulators speak HTTP/1.1 in the
    clear unless `simulators` says otherwise.
    """
    plain = SimulatorSettings(tls_port=None)
    async with AsyncExitStack() as stack:
        found: dict[str, Simulator] = {}
        endpoints = []
        for name in names:
            own = simulators.get(name, plain) if isinstance(simulators, dict) else simulators
            simulator = await stack.enter_async_context(Simulator(own or plain))
            found[name] = simulator
            own_keys = [_key_file(folder, f"{name}{number + 1}") for number in range(keys)]
            more = {"key_groups": dict.fromkeys(groups, own_keys)} | (each or {})
            if own_keys:
                more["api_keys"] = own_keys
            endpoints.append({"name": name, **_where(simulator), **more})
        app = await stack.enter_async_context(running(folder, {"endpoints": endpoints, **settings}))
        yield Several(app, found)


def _where(simulator: Simulator) -> dict[str, Any]:
    if simulator.https_url is None:
        return {"base_url": simulator.http_url}
    return {"base_url": simulator.https_url, "ca_file": str(simulator.ca_file)}


def _key_file(folder: Path, account: str) -> str:
    path = folder / f"{account}.key"
    path.write_text(f"{account}.secret", encoding="utf-8")
    path.chmod(0o600)
    return f"file:{path}"
