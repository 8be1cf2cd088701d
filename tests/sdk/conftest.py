"""What the tests with real SDKs share: two simulators that say the same, one behind a proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxy.app import App
from proxy.core.policy import retry
from proxy.simulator import Simulator, SimulatorSettings
from tests.fakes.running import running

KEY = "id.secret"
OWN_KEY = "endpoint.own-secret"

BIG = 48 * 1024
"""Larger bodies go over HTTP/1.1 whatever the endpoint speaks (`pool.http1_bodies_over`)."""

QUESTIONS = {
    "english": "Explain the basic concepts of machine learning.",
    "chinese": "介绍一下机器学习的基本概念",
}
WEATHER = "please use the tool: weather of Qingdao, for the coming days"
CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}


@dataclass(frozen=True)
class Pair:
    """The n-th answer of both simulators is the same to the byte."""

    direct: Simulator
    behind: Simulator
    app: App
    protocol: str
    """What the proxy speaks to the one behind it."""

    @property
    def proxy(self) -> str:
        """The base of the proxy's data listener."""
        return address(self.app)


def address(app: App) -> str:
    """The base of a proxy's data listener."""
    host, port = app.data_address
    return f"http://{host}:{port}"


def endpoint(simulator: Simulator, protocol: str, **more: Any) -> dict[str, Any]:
    """`simulator` as an endpoint of the settings."""
    if protocol == "http/1.1":
        return {"name": "glm", "base_url": simulator.http_url, **more}
    tls = {"base_url": simulator.https_url, "ca_file": str(simulator.ca_file)}
    return {"name": "glm", **tls, **more}


@pytest.fixture(params=["h2", "http/1.1"], ids=["h2", "http1"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def pair(tmp_path: Path, protocol: str) -> AsyncIterator[Pair]:
    async with paired(tmp_path, protocol) as pair:
        yield pair
        small = [entry for entry in pair.behind.ledger if entry.body_size < BIG]
        assert {entry.protocol for entry in small} <= {protocol}


@pytest.fixture
async def keyed(tmp_path: Path, protocol: str) -> AsyncIterator[Pair]:
    """As `pair`, with a key of the endpoint's own."""
    file = tmp_path / "key"
    file.write_text(OWN_KEY, encoding="utf-8")
    file.chmod(0o600)
    async with paired(tmp_path, protocol, api_key=f"file:{file}") as pair:
        yield pair


@asynccontextmanager
async def paired(folder: Path, protocol: str, **more: Any) -> AsyncIterator[Pair]:
    """`more` are settings of the endpoint."""
    tls = None if protocol == "http/1.1" else 0
    async with (
        Simulator(SimulatorSettings(tls_port=None, reproducible=True)) as direct,
        Simulator(SimulatorSettings(tls_port=tls, reproducible=True)) as behind,
        running(folder, {"endpoints": [endpoint(behind, protocol, **more)]}) as app,
    ):
        yield Pair(direct, behind, app, protocol)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it tells an error the proxy has asked again, and again; how long it pauses in between
    is tested elsewhere, and would be most of the time here."""
    monkeypatch.setattr(retry, "FIRST_BACKOFF", 0.005)
    monkeypatch.setattr(retry, "LONGEST_BACKOFF", 0.01)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """SDKs read keys and proxies from the environment; in these tests they find none."""
    for name in ("OPENAI", "ANTHROPIC", "ZAI", "HTTP", "HTTPS", "ALL"):
        for tail in ("API_KEY", "AUTH_TOKEN", "BASE_URL", "PROXY"):
            monkeypatch.delenv(f"{name}_{tail}", raising=False)
            monkeypatch.delenv(f"{name}_{tail}".lower(), raising=False)
