"""One caller with very many requests, and others with few: how long those wait."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.fakes.raw_client import RawClient, chat
from tests.fakes.serving import serving
from tests.fakes.several import CHAT, Several, several

SHORT: Final = {"first_token": 0.7, "gap": 0.1, "tokens": 5, "thinking_tokens": 0}
LONG: Final = {"first_token": 0.7, "gap": 0.2, "tokens": 150, "thinking_tokens": 0}


async def first_byte(address: tuple[str, int], caller: str, answer: dict[str, Any]) -> float:
    """Seconds until something of the answer came; it is read to its end."""
    async with RawClient(address) as client:
        began = time.monotonic()
        client.post(CHAT, chat(simulate=answer), f"Authorization: Bearer {caller}.secret")
        head = await client.head()
        assert head.status == 200, head
        await client.chunk()
        took = time.monotonic() - began
        while await client.chunk():
            pass
    return took


async def again_and_again(address: tuple[str, int], caller: str, until: float) -> list[float]:
    found = []
    while time.monotonic() < until:
        found.append(await first_byte(address, caller, SHORT))
    return found


async def others(address: tuple[str, int], callers: int, each: int, seconds: float) -> list[float]:
    until = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(again_and_again(address, f"other{n % callers}", until))
            for n in range(callers * each)
        ]
    return [one for task in tasks for one in task.result()]


@asynccontextmanager
async def crowd(address: tuple[str, int], streams: int, within: float) -> AsyncIterator[None]:
    """One caller with so many streams at once, for ever; they begin within so many seconds."""

    async def one(number: int) -> None:
        await asyncio.sleep(within * number / streams)
        while True:
            try:
                await first_byte(address, "noisy", LONG)
            except (AssertionError, OSError, asyncio.IncompleteReadError):
                await asyncio.sleep(0.5)

    tasks = [asyncio.ensure_future(one(number)) for number in range(streams)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def percentile(found: Sequence[float], share: float) -> float:
    return sorted(found)[min(len(found) - 1, int(len(found) * share))]


HELD: Final = {"no_headers": True}


async def asked(address: tuple[str, int], caller: str, **simulate: Any) -> int:
    async with RawClient(address) as client:
        client.post(CHAT, chat(simulate=simulate), f"Authorization: Bearer {caller}.secret")
        async with asyncio.timeout(10):
            return (await client.whole()).status


async def hold(
    proxy: Several, stack: AsyncExitStack, caller: str, streams: int, reach: int
) -> None:
    """So many requests of one caller, of which so many reach the upstream, and none ends."""
    ledger = proxy.endpoints["a"].ledger
    for _ in range(streams):
        client = await stack.enter_async_context(RawClient(proxy.app.data_address))
        client.post(CHAT, chat(simulate=HELD), f"Authorization: Bearer {caller}.secret")
    await ledger.until(lambda ledger: len(ledger.open) >= reach)


async def waiting(proxy: Several, number: int) -> None:
    async with asyncio.timeout(5):
        while await proxy.figure("glm_proxy_admission_waiting", endpoint="a") != number:
            await asyncio.sleep(0.01)


async def test_who_fills_a_limit_for_ever_leaves_others_what_they_had(tmp_path: Path) -> None:
    """The noisy caller's requests never end: without a share of their own others would wait."""
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(several(tmp_path, admission={"limit": 10}))
        address = proxy.app.data_address
        pairs = [one for name in ("ann", "bob") for one in (name, name)]
        slow = {"first_token": 0.2, "gap": 0, "tokens": 2, "thinking_tokens": 0}
        found = await asyncio.gather(*(asked(address, name, **slow) for name in pairs))
        assert found == [200] * 4
        await hold(proxy, stack, "noisy", 40, 6)
        await waiting(proxy, 34)
        for _ in range(3):
            found = await asyncio.gather(*(asked(address, name, **slow) for name in pairs))
            assert found == [200] * 4
        assert await proxy.figure("glm_proxy_admission_waiting", endpoint="a") == 34


async def test_a_queue_that_is_full_refuses_whoever_filled_it(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"admission": {"limit": 1, "queue": 10}}
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(several(tmp_path, **settings))
        address = proxy.app.data_address
        await hold(proxy, stack, "noisy", 1, 1)
        crowd = [asyncio.create_task(asked(address, "noisy")) for _ in range(10)]
        await waiting(proxy, 10)
        assert await asked(address, "noisy") == 429  # its own is one too many
        ann = asyncio.create_task(asked(address, "ann"))
        done, _ = await asyncio.wait(crowd, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result() for task in done] == [429]
        assert not ann.done()
        await waiting(proxy, 10)
        await stack.aclose()
        await asyncio.gather(ann, *crowd, return_exceptions=True)


# --- with figures --------------------------------------------------------------------------------


@asynccontextmanager
async def simulating(in_flight: int) -> AsyncIterator[str]:
    """A simulator in a process of its own; its address."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "simulate", "--profile", "instant", "--port", "0"),
        *("--in-flight", str(in_flight)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        found = None
        async with asyncio.timeout(20):
            while found is None:
                line = await process.stdout.readline()
                assert line
                found = re.search(r"http://[\d.]+:\d+", line.decode())
        yield found[0]
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.long
@pytest.mark.parametrize("limit", [100, 0], ids=["limited", "unlimited"])
async def test_500_streams_of_one_caller_do_not_double_the_first_byte_of_ten_others(
    tmp_path: Path, limit: int, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "own.key"
    key.write_text("own.secret")
    key.chmod(0o600)
    async with simulating(limit) as url:
        settings: dict[str, Any] = {
            "endpoints": [{"name": "a", "base_url": url, "api_key": f"file:{key}"}],
            "admission": {"limit": limit or "learned"},
        }
        async with serving(tmp_path, settings) as proxy:
            address = proxy.data_address
            await others(address, 10, 5, 2.0)
            alone = await others(address, 10, 5, 10.0)
            async with crowd(address, 500, within=0.0 if limit else 2.0):
                beside = await others(address, 10, 5, 10.0)
    before, after = percentile(alone, 0.99), percentile(beside, 0.99)
    with capsys.disabled():
        print(f"\n10 x 5 streams, p99 of the first byte: {before:.3f} s, beside 500: {after:.3f} s")
    # Where nothing is limited upstream, it is this machine's processors that are shared, also with
    # the simulator and with 550 clients.
    assert after < (2 if limit else 5) * before
