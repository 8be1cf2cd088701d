"""How many clients may be in, and how many bytes of their requests may be held, at once."""

from __future__ import annotations

import resource
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

from proxy.config import Server
from proxy.errors import Crowded

_FILES: Final = 1 << 16
"""Open files that are enough for one process; more only cost where somebody counts through them."""


class HardLimits(NamedTuple):
    """How large a request's head may be, how slow its body, and how much is held of bodies."""

    head: int = 16 << 10
    """Bytes."""
    head_lines: int = 64
    body_rate: int = 0
    """Bytes per second; 0: any."""
    body_grace: float = 10.0
    """Seconds that every body is waited for, however slowly it comes."""
    bodies: int = 1 << 30
    """Bytes, of all clients together."""


_BODIES: Final = 32
"""As many of the largest bodies are held at once."""


def limits_of(server: Server) -> HardLimits:
    """Those that the settings say."""
    return HardLimits(
        head=server.header_limit,
        head_lines=server.header_count,
        body_rate=server.body_rate,
        bodies=server.body_limit * _BODIES,
    )


def door_of(server: Server, refused: Callable[[str], None]) -> Door:
    """As the settings say. `refused` is told the setting that kept a connection out."""
    most = server.max_connections or connections_for_files()
    return Door(most, server.max_connections_per_address, refused=refused)


def raise_file_limit() -> None:
    """As many files as we are allowed: many systems begin with 1024 for the sake of select(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


def connections_for_files() -> int:
    """How many clients there are files for.

    A fifth stays free, and each client may need a second one for a connection upstream.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = _FILES if soft == resource.RLIM_INFINITY else soft
    return max(1, files * 4 // 5 // 2)


class Door:
    """Counts the connections; further ones stay out."""

    def __init__(
        self,
        most: int,
        most_per_address: int = 0,
        *,
        refused: Callable[[str], None] | None = None,
    ) -> None:
        """0 per address: no limit. `refused` is told the setting that kept a connection out."""
        self._most = most
        self._most_per_address = most_per_address
        self._refused = refused
        self._addresses: Counter[str] = Counter()
        self.inside = 0

    def use(self, server: Server) -> None:
        """Other settings, for who comes from now on: nobody has to leave."""
        self._most = server.max_connections or connections_for_files()
        self._most_per_address = server.max_connections_per_address

    def enter(self, address: str) -> bool:
        """Whether one more may come in from `address`; it has to `leave` then."""
        if self.inside >= self._most:
            return self._refuse("max_connections")
        if self._most_per_address and self._addresses[address] >= self._most_per_address:
            return self._refuse("max_connections_per_address")
        self._addresses[address] += 1
        self.inside += 1
        return True

    def leave(self, address: str) -> None:
        """Its connection is closed."""
        self.inside -= 1
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]

    def _refuse(self, setting: str) -> bool:
        if self._refused is not None:
            self._refused(setting)
        return False


class Store:
    """Bytes of request bodies that are held for all clients together."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0

    def take(self, size: int) -> bool:
        """Whether there is room for `size` more; they have to be given back then."""
        if self.held + size > self.most:
            return False
        self.held += size
        return True

    def give_back(self, size: int) -> None:
        """They are not held any more."""
        self.held -= size


class Held:
    """What is held of one request, or for it."""

    __slots__ = ("_kept", "_store", "size")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept = 0
        self.size = 0

    def add(self, size: int, kept: int = 0) -> None:
        """`size` more bytes; `kept` of them all stay when the answer begins. Raises Crowded."""
        if not self._store.take(size):
            raise Crowded("too many request bodies are held already; try again in a moment")
        self.size += size
        self._kept += kept

    def begun(self) -> None:
        """The answer begins."""
        self._leave(min(self._kept, self.size))

    def release(self) -> None:
        """Nothing is held any more, as far as others are concerned."""
        self._leave(0)

    def _leave(self, size: int) -> None:
        self._store.give_back(self.size - size)
        self.size = size
