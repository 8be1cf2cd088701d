"""What every home of state can do. Identity fails closed: a home that cannot tell raises."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from proxy.core.policy.access import VirtualKey
from proxy.core.policy.limits import Taken, Want
from proxy.core.policy.switches import Switch


class StateError(Exception):
    """The home cannot be used. `str()` is one line for the operator, without any secret."""


class Registry(NamedTuple):
    """All that is seldom changed: read whole, and known by every process."""

    keys: Mapping[str, VirtualKey]
    """By id; revoked and expired ones too."""
    switches: Mapping[str, Switch]
    """By the model that is asked for."""
    known: bool = True
    """False: the home has not been reached yet, so nobody can tell what there is."""


NOTHING_KNOWN: Final = Registry({}, {}, known=False)


class Entry(NamedTuple):
    """One line of the audit: who did what, never a value that is secret."""

    at: float
    """Unix seconds."""
    actor: str
    """`cli:USER` or `admin`."""
    action: str
    """`key.create`, `key.revoke`, `key.rotate`, `model.set`, `model.reset`, `reload`, …"""
    subject: str


class Observer(Protocol):
    """Is told how a home fares. Called in the event loop's thread; must not block."""

    def reached(self, up: bool) -> None:
        """Whether the home is in use, or this process goes on alone."""

    def failed(self, operation: str) -> None:
        """open, probe, take, settle, renew, swap, read or write failed."""

    def took(self, seconds: float) -> None:
        """The home has answered a `take`."""


class Unobserved:
    """Of a home that nobody looks at."""

    def reached(self, up: bool) -> None:
        return None

    def failed(self, operation: str) -> None:
        return None

    def took(self, seconds: float) -> None:
        return None


class Home(Protocol):
    """From `open` to `close`; in one event loop."""

    @property
    def kind(self) -> str:
        """memory, sqlite or redis."""

    @property
    def trouble(self) -> str | None:
        """Why it cannot be used now, in one line for the operator; None: it is in use."""

    def tell(self, observer: Observer) -> None:
        """Who is told from now on; before `open`."""

    async def open(self) -> Registry:
        """What there is; not `known` where the home is away and may return. Raises StateError
        where it cannot be used at all."""

    async def close(self) -> None:
        """Safe also without `open`, and twice."""

    def watch(self, changed: Callable[[Registry], None]) -> None:
        """`changed` is called soon after anybody, here or elsewhere, changed the registry."""

    async def save_key(self, key: VirtualKey, entry: Entry) -> None:
        """Make or replace a key; one that is revoked stays so, whatever is saved after it (see
        `access.kept`). Raises StateError."""

    async def save_switch(self, switch: Switch, entry: Entry) -> None:
        """Raises StateError."""

    async def drop_switches(self, models: Collection[str] | None, entry: Entry) -> int:
        """Undo those of `models`, or all; how many there were. Raises StateError."""

    async def note(self, entry: Entry) -> None:
        """Raises StateError."""

    async def audit(self, most: int) -> list[Entry]:
        """The latest entries, newest first. Raises StateError."""

    async def swap(self, lessons: bytes) -> list[bytes]:
        """Tell the other processes that are alive what this one has learned, and what they have.
        Raises StateError."""

    async def take(self, wants: Sequence[Want], lease: str) -> Taken:
        """Count a request for all of its subjects, or for none. It never fails: a home that is out
        of reach decides by this process's own share.

        `lease` is a new id; the place it holds is free again after `settle`, or by itself some
        time after this process is gone.
        """

    def settle(self, wants: Sequence[Want], lease: str, tokens: int) -> None:
        """It is over, and took so many tokens. Returns at once."""
