"""Child processes of a run: pinned to a core, heard when they fail, ended with their block."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_STOP_WITHIN = 10.0


class BenchError(Exception):
    """The run cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Child:
    """A running process and the file its stderr goes to."""

    process: subprocess.Popen[str]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def read_line(self) -> str:
        """One line of its stdout. Raises BenchError when it ended instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise BenchError(f"{self.process.args!r} ended: {self.last_words()}")
        return line

    def last_words(self) -> str:
        lines = self.log.read_text().strip().splitlines()[-5:]
        return "\n".join(lines) or f"exit code {self.process.poll()}"


@contextmanager
def child(command: list[str], core: int, log: Path) -> Iterator[Child]:
    with log.open("a") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
    try:
        yield Child(process, log)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=_STOP_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def free_port() -> int:
    """A port of the loopback that was free a moment ago."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def wait_for_port(port: int, child: Child, within: float = 15.0) -> None:
    """Returns when something accepts on the port. Raises BenchError when the child gives up."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if child.process.poll() is not None:
            raise BenchError(f"{child.process.args!r} ended at once: {child.last_words()}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise BenchError(f"{child.process.args!r} does not listen on {port}: {child.last_words()}")
