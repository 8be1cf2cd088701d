"""The demonstration before a simulated GLM: nothing changed, then the fast settings.

Each way has a simulator of its own with the same seed: the n-th request waits for the same things
on every way, so that what differs is the way.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from rich.console import Console

from proxy.cli.demo.ask import Question, Way, ask_all, load_sdk, warm_up
from proxy.cli.demo.children import Children
from proxy.cli.demo.settings import write_settings
from proxy.cli.demo.show import Shown, begin, median, overhead, screen, tables, teller

QUESTION = Question("glm-4.6", "Explain machine learning in one sentence.")
_WAYS = (
    # name, settings file of the proxy (None: past it), what it means
    ("direct", None, "the SDK talks to the upstream, by HTTPS"),
    ("proxied", "proxy.yaml", "through the proxy with config/proxy.yaml, which changes nothing"),
    ("fast", "fast.yaml", "through the proxy with config/fast.yaml: glm-4-flash, no thinking"),
)


async def show(runs: int, time_scale: float, seed: int) -> int:
    """All of it; the exit code. Raises NotRunning."""
    console = screen()
    _introduce(console, time_scale)
    with tempfile.TemporaryDirectory(prefix="glm-proxy-demo-") as folder:
        async with Children(Path(folder)) as children:
            starts = (
                _way(children, Path(folder), name, settings, about, time_scale, seed)
                for name, settings, about in _WAYS
            )
            ways, _ = await asyncio.gather(asyncio.gather(*starts), load_sdk())
            await warm_up(ways, QUESTION)
            shown = [await _ask(console, way, runs) for way in ways]
    tables(console, shown)
    direct, _, fast = shown
    _conclude(console, direct, fast)
    return 0


def _introduce(console: Console, time_scale: float) -> None:
    console.print(
        "The upstream is SIMULATED: a GLM on this machine, no request leaves it.", style="bold"
    )
    console.print(
        "It answers with canned text. Its waits (queue, thinking, pace of the tokens) are drawn\n"
        "from distributions calibrated on published measurements of the real service."
    )
    if time_scale != 1:
        console.print(f"All waits take {time_scale:g} times their length.")
    console.print(f"\nAsked each time, by the openai SDK: {QUESTION.model}, “{QUESTION.prompt}”")


async def _way(
    children: Children,
    folder: Path,
    name: str,
    settings: str | None,
    about: str,
    time_scale: float,
    seed: int,
) -> Way:
    """A simulator, and before it the proxy with these settings."""
    ca_file = folder / f"{name}-ca.pem"
    ports = ("--port", 0, "--tls-port", 0, "--ca-file", ca_file)
    pace = ("--time-scale", time_scale, "--seed", seed)
    simulator = await children.start("the simulator", "simulate", *ports, *pace)
    upstream = await simulator.says(r"on (https://\S+),")
    if settings is None:
        return Way(name, about, f"{upstream}/api/paas/v4", ca_file)
    endpoint = {"name": "simulator", "base_url": upstream, "ca_file": str(ca_file)}
    file = write_settings(
        *(folder / f"{name}.yaml", settings, endpoint),
        log={"format": "json"},
        state={"url": "memory"},
    )
    proxy = await children.start(
        "the proxy", "serve", "--config", file, "--port", 0, "--admin-port", 0
    )
    url = await proxy.says(r"listens on (http://\S+),")
    return Way(name, about, f"{url}/v1", proxy=proxy)


async def _ask(console: Console, way: Way, runs: int) -> Shown:
    begin(console, way)
    samples = await ask_all(way, QUESTION, runs, together=True, on_token=teller(console))
    console.print()
    return Shown(way, samples, await way.proxy.records(runs) if way.proxy else [])


def _conclude(console: Console, direct: Shown, fast: Shown) -> None:
    """What was saved, and what it cost, in words."""
    before = median(direct.samples, lambda sample: sample.first_content)
    after = median(fast.samples, lambda sample: sample.first_content)
    assert before is not None
    assert after is not None
    cost = overhead(fast.records) * 1000
    console.print(
        f"fast: the first visible token after {after:.2f} s instead of {before:.2f} s,"
        f" {before / after:.1f} times sooner.\n"
        f"The proxy itself took {cost:.2f} ms of that. What the real service saves you depends on"
        " its load\nand on the prompt: measure it with `glm-proxy bench`."
    )
