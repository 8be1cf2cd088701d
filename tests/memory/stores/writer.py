"""Starts a process for each line on its input. That one writes into the file of memories as fast as
it can, and removes some; it says its id first and then what it has written, until it is killed."""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path

from proxy.memory.store import Turn
from proxy.memory.stores.file import MemoryFile
from tests.memory.stores.cases import CHINESE, ENGLISH


def say(text: str) -> None:
    """One line, or nothing of it."""
    os.write(1, f"{text}\n".encode())


def write(path: Path) -> None:
    say(str(os.getpid()))
    file = MemoryFile(path, 5.0, 1 << 26)
    texts = [fact for fact, _ in ENGLISH + CHINESE]
    for number in count():
        name = f"{os.getpid()} {number}"
        turns = [Turn("user", f"{texts[number % len(texts)]} {name}", float(number))]
        file.add("kept", name, turns, 1000.0)
        say(name)
        file.add("gone", "s", turns, 1000.0)
        if number % 4 == 3:
            file.forget("gone", None)
            file.look()


if __name__ == "__main__":
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            write(Path(sys.argv[1]))
        os.waitpid(child, 0)
        say("ended")
