"""`glm-proxy serve` with workers, as an operator starts it: its master, its workers, its words."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes.until import WITHIN, until

_LISTENS = re.compile(r"listens on http://([\d.]+):(\d+), admin on http://([\d.]+):(\d+)")
_FOLLOWED = re.compile(r"process (\d+) has taken over")


@dataclass
class Fleet:
    """A master and all that came of it."""

    process: asyncio.subprocess.Process
    folder: Path
    path: Path
    settings: dict[str, Any]
    data: tuple[str, int] = ("", 0)
    admin: tuple[str, int] = ("", 0)

    @property
    def out(self) -> str:
        return (self.folder / "out").read_text()

    @property
    def errors(self) -> str:
        return (self.folder / "errors").read_text()

    @property
    def master(self) -> int:
        """The one that is there now, after successors took over."""
        followed = _FOLLOWED.findall(self.errors)
        return int(followed[-1]) if followed else self.process.pid

    @property
    def workers(self) -> set[int]:
        return set(children(self.master))

    def send(self, number: signal.Signals, pid: int | None = None) -> None:
        os.kill(self.master if pid is None else pid, number)

    def write(self, **settings: Any) -> None:
        """The same settings on the disk, but for these."""
        self.settings |= settings
        self.path.write_text(yaml.safe_dump(self.settings), encoding="utf-8")

    async def listening(self) -> None:
        await until(lambda: _LISTENS.search(self.out) or self.process.returncode is not None)
        found = _LISTENS.search(self.out)
        assert found is not None, self.errors
        host, port, admin_host, admin_port = found.groups()
        self.data, self.admin = (host, int(port)), (admin_host, int(admin_port))

    async def upgrade(self) -> None:
        """SIGUSR2, and until another master has taken over."""
        before = self.master
        self.send(signal.SIGUSR2)
        await until(lambda: self.master != before)

    async def ended(self, within: float = WITHIN) -> int:
        return await asyncio.wait_for(self.process.wait(), within)

    async def get(self, path: str) -> tuple[int, str]:
        """An answer of the operator's listener, from whichever worker takes the connection."""
        url = f"http://{self.admin[0]}:{self.admin[1]}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.text()

    async def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        _, text = await self.get("/metrics")
        samples = (one for family in text_string_to_metric_families(text) for one in family.samples)
        return sum(
            one.value
            for one in samples
            if one.name == name and labels.items() <= one.labels.items()
        )


@asynccontextmanager
async def fleet(
    folder: Path,
    settings: Mapping[str, Any],
    *,
    environ: Mapping[str, str] | None = None,
    sockets: Sequence[socket.socket] = (),
    names: str = "data:admin",
    listens: bool = True,
) -> AsyncIterator[Fleet]:
    """A running fleet of two on free ports; whatever is left of it at the end is killed.

    `sockets` are handed over as systemd does it, under `names`.
    """
    base = {
        "server": {"port": 0, "workers": 2, "drain_timeout": "20s"},
        "admin": {"port": 0},
        "state": "memory",
    }
    path = folder / "serve.yaml"
    whole = {**base, **settings}
    for section in ("server", "admin"):
        whole[section] = base[section] | dict(settings.get(section, {}))  # type: ignore[operator]
    path.write_text(yaml.safe_dump(whole), encoding="utf-8")
    process = await _started(folder, path, {**os.environ, **(environ or {})}, sockets, names)
    try:
        one = Fleet(process, folder, path, whole)
        if listens:
            await one.listening()
        yield one
    finally:
        # Its own group: masters, workers and successors.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def _started(
    folder: Path,
    path: Path,
    environ: dict[str, str],
    sockets: Sequence[socket.socket],
    names: str,
) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "proxy", "serve", "--config", str(path)]
    if sockets:
        # Only the new process knows its number: a shell becomes it.
        numbers = [one.fileno() for one in sockets]
        moves = " ".join(f"{there}<&{here}" for there, here in enumerate(numbers, 3))
        command = [
            "bash",
            "-c",
            f"export LISTEN_PID=$$ LISTEN_FDS={len(numbers)} LISTEN_FDNAMES={names};"
            f' exec "$@" {moves}',
            "bash",
            *command,
        ]
    with (folder / "out").open("wb") as out, (folder / "errors").open("wb") as errors:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            env=environ,
            pass_fds=[one.fileno() for one in sockets],
            start_new_session=True,
        )


def children(pid: int) -> list[int]:
    """Processes that it made and that live."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [one for one in map(int, found) if lives(one)]
    return []


def lives(pid: int) -> bool:
    """Whether it is there, and not only waits to be buried."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")
