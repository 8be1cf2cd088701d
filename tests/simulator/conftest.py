"""What the simulator's tests share: simulators and clients that end with the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from proxy.simulator import Simulator, SimulatorSettings

Simulate = Callable[..., Awaitable[Simulator]]


@pytest.fixture
async def simulate() -> AsyncIterator[Simulate]:
    """`await simulate(profile="instant", …)` is a running simulator."""
    async with AsyncExitStack() as running:

        async def start(**settings: Any) -> Simulator:
            simulator = Simulator(SimulatorSettings(**settings))
            return await running.enter_async_context(simulator)

        yield start


@pytest.fixture(autouse=True)
def nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Neither a request nor a callback of the loop failed unseen."""
    yield
    assert [record.getMessage() for record in caplog.get_records("call")] == []


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP/1.1 client with a key."""
    headers = {"authorization": "Bearer id.secret"}
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
        yield session
