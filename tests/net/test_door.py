"""How many clients there is room for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from proxy.net.door import Door, Store

SAYS = """
import resource
from proxy.net.door import connections_for_files, raise_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
raise_file_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], connections_for_files())
"""


@pytest.mark.parametrize(
    ("soft", "hard", "files", "clients"),
    [(128, 128, 128, 51), (64, 1000, 1000, 400), (1000, 1000, 1000, 400), (1, 1, 1, 1)],
)
def test_two_of_five_files_are_for_clients(soft: int, hard: int, files: int, clients: int) -> None:
    program = [sys.executable, "-c", SAYS.format(soft=soft, hard=hard)]
    if soft == 1:  # Python itself needs more
        program[2] = program[2].replace("raise_file_limit()\n", "").replace("({soft}", "(1")
    said = subprocess.run(program, check=True, capture_output=True, text=True, timeout=30)
    assert said.stdout.split() == [str(files), str(clients)]


def test_addresses_are_counted_each_by_itself() -> None:
    told: list[str] = []
    door = Door(5, 2, refused=told.append)
    assert [door.enter("a"), door.enter("a"), door.enter("a")] == [True, True, False]
    assert [door.enter("b"), door.enter("c"), door.enter("d")] == [True, True, True]
    assert not door.enter("e")
    assert told == ["max_connections_per_address", "max_connections"]
    door.leave("a")
    assert door.enter("a")
    assert door.inside == 5


def test_a_store_takes_what_there_is_room_for() -> None:
    store = Store(10)
    assert [store.take(4), store.take(7), store.take(6), store.take(1)] == [
        True,
        False,
        True,
        False,
    ]
    store.give_back(6)
    assert store.take(6)
    assert store.held == 10
