"""Starts a process for each line on its input. That one writes into the file of state as fast as it
can, says its id first and then what it has saved, until it is killed."""

from __future__ import annotations

import os
import sys
import time
from itertools import count
from pathlib import Path

from proxy.state.counting import Settlement
from proxy.state.reader import Reader
from proxy.state.sqlite.counts import CountsFile
from proxy.state.sqlite.registry import RegistryFile
from tests.state.homes import PLENTY, a_key, an_entry


def say(text: str) -> None:
    """One line, or nothing of it."""
    os.write(1, f"{text}\n".encode())


def write(path: Path) -> None:
    say(str(os.getpid()))
    registry = RegistryFile(path, Reader("a file"))
    counts = CountsFile(path.with_name(f"{path.name}.counts"), 5.0)
    for number in count():
        key = a_key().key
        registry.save_key(key, an_entry())
        say(key.id)
        counts.take(PLENTY, key.id)
        counts.settle([Settlement(PLENTY, key.id, number)])
        time.sleep(0.001)  # SQLite is not fair: others shall have their turn


if __name__ == "__main__":
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            write(Path(sys.argv[1]))
        os.waitpid(child, 0)
        say("ended")
