"""`emit_metadata`: the decision and the stage times as SSE comments around a stream.

Comments only, never extra `data:` events: every client ignores comments, and some break on
anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import orjson

from proxy.core.wire.sse import comment


class Annotated:
    """A writer of events that adds a comment before the first and one before the end event."""

    __slots__ = ("_decision", "_timings", "_write")

    def __init__(
        self,
        write: Callable[[list[bytes], bool], None],
        decision: Mapping[str, object],
        timings: Callable[[], Iterable[tuple[str, float]]],
    ) -> None:
        self._write = write
        self._decision: Mapping[str, object] | None = decision
        self._timings = timings

    def __call__(self, events: list[bytes], last: bool) -> None:
        """Write `events`; with `last`, the last of them is the end event."""
        if self._decision is not None:
            events = [_comment(self._decision), *events]
            self._decision = None
        if last:
            times = {f"{name}_s": round(seconds, 6) for name, seconds in self._timings()}
            events = [*events[:-1], _comment(times), *events[-1:]]
        self._write(events, last)


def _comment(facts: Mapping[str, object]) -> bytes:
    return comment(b"glm-proxy " + orjson.dumps(facts))
