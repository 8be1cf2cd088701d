"""A question that is being asked, and who waits for its answer."""

from __future__ import annotations

from typing import NamedTuple

from proxy.core.flow.kept import KeptAnswer
from proxy.net.awaited import Awaited
from proxy.net.halves import Writer


class Name(NamedTuple):
    """Of an answer."""

    scope: str
    """Whose it is: see `proxy.core.policy.scope`."""
    key: str


class Fetch:
    """Of one exchange, or of several that ask it at the same time."""

    def __init__(self, table: dict[Name, Fetch], name: Name) -> None:
        """It is in the table from now on, until it is answered or nobody asks it any more."""
        self.looked = Awaited[KeptAnswer]()
        """What was kept; None: nothing, so that it has to be asked."""
        self.answered = Awaited[KeptAnswer]()
        """What came; None: nothing that can be told again."""
        self.has_failed = False
        """Somebody asked in vain. Else, where there is no answer, whoever asked has left."""
        self._table = table
        self._name = name
        self._asking: list[Writer] = []
        table[name] = self

    @property
    def is_over(self) -> bool:
        return self.answered.is_settled

    @property
    def is_held_up(self) -> bool:
        """All who ask are clients that read too slowly just now: it may take any time."""
        return bool(self._asking) and all(one.paused_since is not None for one in self._asking)

    def join(self, client: Writer) -> None:
        """One more asks."""
        self._asking.append(client)

    def leave(self, client: Writer, answer: KeptAnswer | None, *, failed: bool) -> None:
        """One that asked is over: it has the answer, or none that can be told again."""
        self._asking.remove(client)
        self.has_failed = self.has_failed or failed
        if answer is None and self._asking:
            return
        self.looked.settle(answer)
        self.answered.settle(answer)
        self.forsake()

    def forsake(self) -> None:
        """Who comes from now on asks anew. Idempotent."""
        if self._table.get(self._name) is self:
            del self._table[self._name]
