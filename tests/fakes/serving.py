"""`glm-proxy serve` as a process of its own: what an operator starts."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from prometheus_client.parser import text_string_to_metric_families

_LISTENS = re.compile(r"listens on http://([\d.]+):(\d+), admin on http://([\d.]+):(\d+)")


@dataclass
class Served:
    """A running proxy."""

    process: asyncio.subprocess.Process
    data_address: tuple[str, int]
    admin_address: tuple[str, int]

    def open_files(self) -> int:
        """File descriptors of the process."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    async def gauge(self, name: str) -> float:
        """The sum of a metric's samples."""
        host, port = self.admin_address
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{host}:{port}/metrics") as answer,
        ):
            families = text_string_to_metric_families(await answer.text())
        samples = (sample for family in families for sample in family.samples)
        return sum(sample.value for sample in samples if sample.name == name)


@asynccontextmanager
async def serving(
    folder: Path,
    settings: dict[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
    log: bool = False,
    files: int | None = None,
    program: Sequence[str] = (sys.executable, "-m", "proxy"),
) -> AsyncIterator[Served]:
    """A proxy with `settings` on free ports; it is told to stop at the end, and must obey.

    Its state is kept in `folder`. `log`: both its logs go to `folder / "log"`. `files`: how many it
    may open.
    """
    base = {
        "server": {"port": 0, "drain_timeout": "1s"},
        "admin": {"port": 0},
        "log": {"format": "off"},
    }
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(base | settings), encoding="utf-8")
    said = folder / "log"
    with ExitStack() as opened:
        output = opened.enter_context(said.open("wb")) if log else None
        process = await asyncio.create_subprocess_exec(
            *program,
            "serve",
            "--config",
            str(path),
            stdout=asyncio.subprocess.PIPE if output is None else output,
            stderr=output,
            env={**os.environ, "STATE_DIRECTORY": str(folder), **(environ or {})},
            preexec_fn=None if files is None else partial(_may_open, files),
        )
    try:
        if process.stdout is None:
            line = await asyncio.wait_for(_first_line(said), 20)
        else:
            line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        found = _LISTENS.search(line)
        assert found is not None, line
        host, port, admin_host, admin_port = found.groups()
        yield Served(process, (host, int(port)), (admin_host, int(admin_port)))
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0


async def _first_line(log: Path) -> str:
    """The one that names the addresses."""
    while not _LISTENS.search(text := log.read_text(encoding="utf-8")):
        await asyncio.sleep(0.02)
    return text


def _may_open(files: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
