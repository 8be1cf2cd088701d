"""Who hears an answer beside its client: what is to be remembered, or told again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol


class Listener(Protocol):
    """Hears one exchange's answer. It is called on the way to the client: it must not block, and
    costs an exchange without listeners nothing."""

    def take(self, events: list[bytes], last: bool) -> None:
        """Events of a stream, as the client gets them but for comments of ours; heartbeats are
        among them. `last`: the end event is too."""

    def whole(self, body: bytes) -> None:
        """A whole answer in place of a stream."""

    def ended(self, completed: bool) -> None:
        """The exchange is over. Only with `completed` was the answer whole, without an error, and
        the client still there."""


def heard(
    write: Callable[[list[bytes], bool], None], listeners: Sequence[Listener]
) -> Callable[[list[bytes], bool], None]:
    """`write`, and what each of `listeners` takes after it."""

    def take(events: list[bytes], last: bool) -> None:
        write(events, last)
        for listener in listeners:
            listener.take(events, last)

    return take
