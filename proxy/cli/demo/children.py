"""The processes of a demonstration: started together, gone together, whatever happens.

They have a session of their own, so that Ctrl-C reaches the demonstration alone and it ends them.
"""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import orjson
import uvloop

import proxy

_HERE = Path(proxy.__file__).parents[1]
"""Where `-m proxy` finds this package and no other of that name."""
_START = 60.0
"""Seconds in which a process has to say where it listens; a model has to be loaded."""
_LINE = 10.0
"""Seconds to wait for a line of the access log that is due."""
_END = 15.0
"""Seconds a process gets to end by itself: more than config/demo.yaml gives to a drain."""


class NotRunning(Exception):
    """The demonstration cannot be given; the message says why, in one line or a few."""


class Child:
    """One process and what it writes."""

    def __init__(self, name: str, process: Process, log: Path | None) -> None:
        self.name = name
        self.process = process
        self._log = log

    async def line(self, within: float) -> bytes:
        """Its next line. Raises NotRunning when it has ended, or is silent for so many seconds."""
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(within):
                line = await self.process.stdout.readline()
        except TimeoutError:
            raise NotRunning(f"{self.name} said nothing for {within:g} s") from None
        if not line:
            raise NotRunning(self._last_words())
        return line

    async def says(self, pattern: str) -> str:
        """The first group of the first line that has `pattern`. Raises NotRunning."""
        while True:
            line = (await self.line(_START)).decode()
            if found := re.search(pattern, line):
                return found[1]

    async def records(self, count: int) -> list[dict[str, Any]]:
        """The next `count` lines of its JSON access log. Raises NotRunning."""
        return [orjson.loads(await self.line(_LINE)) for _ in range(count)]

    def _last_words(self) -> str:
        said = self._log.read_text(errors="replace").strip() if self._log else ""
        return said or f"{self.name} has ended"


class Children:
    """`async with Children(folder) as children:` ends them all at its end.

    What they write to standard error goes to files in `folder`, or without one to ours.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._all: list[Process] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            for process in reversed(self._all):
                _signal(process, signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(_END):
                    await asyncio.gather(*(process.wait() for process in self._all))
        finally:  # a second Ctrl-C, or one that did not end
            for process in self._all:
                _signal(process, signal.SIGKILL)

    async def start(self, name: str, *arguments: object, module: str = "proxy") -> Child:
        """`python -m MODULE ARGUMENTS`; by default the module that is `glm-proxy`."""
        log = self._folder / f"{len(self._all)}.log" if self._folder else None
        error = log.open("wb") if log else None
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, *map(str, arguments)),
                cwd=_HERE,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=error,
                start_new_session=True,
            )
        finally:
            if error:
                error.close()
        self._all.append(process)
        return Child(name, process, log)


def _signal(process: Process, number: signal.Signals) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(number)


def run(work: Coroutine[Any, Any, int], stopped: int | None = None) -> int:
    """The result of `work`; a signal cancels it: `stopped`, or as a shell says it."""
    return uvloop.run(_until_signal(work, stopped))


async def _until_signal(work: Coroutine[Any, Any, int], stopped: int | None) -> int:
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        return 128 + received[0] if stopped is None else stopped
