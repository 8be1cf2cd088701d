"""An answer as it is kept: as it came, so that it can be told again as a stream and as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import orjson

from proxy.core.flow.fold import Fold
from proxy.core.flow.unfold import unfold
from proxy.core.wire.dialect import object_of
from proxy.core.wire.sse import ANY_SIZE, Decoder
from proxy.errors import UpstreamProtocolError

_FORM: Final = b"glm-proxy answer 1\n"
_USAGE_ALONE: Final = b'"choices":[]'


class Read(NamedTuple):
    """Events that came together."""

    events: int
    at: float
    """Seconds after the first of the stream."""


@dataclass(slots=True)
class KeptAnswer:
    """A completed answer: as a stream, as a whole, or as both."""

    at: float
    """Unix seconds."""
    dialect: str
    model: str
    """That was asked."""
    finish_reason: str
    events: Sequence[bytes] = ()
    """As the upstream sent them, the end event among them, heartbeats not."""
    reads: Sequence[Read] = ()
    """When they came."""
    body: bytes = b""
    """As a whole."""

    def packed(self) -> bytes:
        """As bytes."""
        head = {
            "at": self.at,
            "dialect": self.dialect,
            "model": self.model,
            "finish_reason": self.finish_reason,
            "sizes": [len(event) for event in self.events],
            "reads": [[*read] for read in self.reads],
            "body": len(self.body),
        }
        return b"".join((_FORM, orjson.dumps(head), b"\n", *self.events, self.body))

    @classmethod
    def unpacked(cls, packed: bytes) -> Self | None:
        """None for what is of another form."""
        if not packed.startswith(_FORM):
            return None
        line, _, payload = packed[len(_FORM) :].partition(b"\n")
        try:
            head = orjson.loads(line)
            reads = [Read(*one) for one in head["reads"]]
            events, end = [], 0
            for size in head["sizes"]:
                events.append(payload[end : end + size])
                end += size
            if end + head["body"] != len(payload) or sum(one.events for one in reads) != len(
                events
            ):
                return None
            said = (head["at"], head["dialect"], head["model"], head["finish_reason"])
            return cls(*said, events, reads, payload[end:])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return None

    def whole(self) -> bytes:
        """As an answer that is no stream: `body`, from now on. Raises UpstreamProtocolError."""
        if not self.body:
            fold = Fold(self.dialect)
            fold.take((b"".join(self.events),))  # at once: it is cut into events faster
            self.body = fold.answer()
        return self.body

    def stream(self, *, usage_alone: bool) -> tuple[Sequence[bytes], Sequence[Read]]:
        """As events, and when they came. `usage_alone`: the client wants OpenAI's chunk without
        choices (`stream_options.include_usage`); others break on it.

        Raises UpstreamProtocolError.
        """
        if not self.events:
            try:
                events = unfold(self.dialect, self.body)
            except (ValueError, TypeError) as error:
                raise UpstreamProtocolError("a kept answer cannot be told as a stream") from error
            return events, [Read(len(events), 0.0)]
        if usage_alone or not any(map(_may_be_usage_alone, self.events)):
            return self.events, self.reads
        return self._without_usage_alone()

    def _without_usage_alone(self) -> tuple[list[bytes], list[Read]]:
        kept, reads, start = list[bytes](), list[Read](), 0
        for count, at in self.reads:
            some = [one for one in self.events[start : start + count] if not _is_usage_alone(one)]
            start += count
            if some:
                kept += some
                reads.append(Read(len(some), at))
        return kept, reads


def wants_usage_alone(fields: Any) -> bool:
    """Whether a request's fields ask for it."""
    return object_of(fields.get("stream_options")).get("include_usage") is True


def _may_be_usage_alone(event: bytes) -> bool:
    """Without parsing: nearly no event has this."""
    return b'"usage"' in event and _USAGE_ALONE in event.replace(b" ", b"")


def _is_usage_alone(event: bytes) -> bool:
    if not _may_be_usage_alone(event):
        return False
    found = Decoder(ANY_SIZE).feed(event)
    if len(found) != 1:
        return False
    try:
        chunk = object_of(orjson.loads(found[0].data))
    except orjson.JSONDecodeError:
        return False
    return chunk.get("choices") == [] and bool(chunk.get("usage"))
