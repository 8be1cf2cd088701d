"""The way of a stream's bytes: reads of the upstream in, whole events ready to leave out.

Composed once per stream. It marks the timeline and remembers what the events said; it waits for
nothing and writes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from proxy.core.flow.chunking import Chunking
from proxy.core.flow.timeline import Timeline
from proxy.core.record import Usage
from proxy.core.wire.answers import heard_error
from proxy.core.wire.dialect import COMMENT, PING, Dialect, Kind, Meaning, newer_usage
from proxy.core.wire.sse import Decoder, Event


class Settings(Protocol):
    """The stream settings a pipe is made to."""

    @property
    def text_buffer_size(self) -> int: ...
    @property
    def text_buffer_max_delay(self) -> float: ...
    @property
    def split_text(self) -> int: ...
    @property
    def max_event(self) -> int: ...


class Pipe:
    """One stream's events, and what they said so far.

    ended           the dialect's own end event came; later bytes are dropped
    failed          the upstream told an error in the stream, `upstream_code` is its code
    last_useful     when an event came that is neither a comment nor a ping; `None` before the first
    finish_reason   as the upstream said it
    """

    def __init__(self, dialect: Dialect, settings: Settings, timeline: Timeline) -> None:
        self.ended = False
        self.failed = False
        self.upstream_code: str | None = None
        self.last_useful: float | None = None
        self.finish_reason: str | None = None
        self._dialect = dialect
        self._read = dialect.read
        self._start = dialect.usual_start
        self._skip = len(dialect.usual_start)
        self._max_event = settings.max_event
        self._timeline = timeline
        self._decoder = Decoder(settings.max_event)
        self._chunking = _chunking(dialect, settings)
        self._usage: Usage | None = None
        # The constant meaning noted last: an event that means the same says nothing new.
        self._noted: Meaning | None = None

    @property
    def useful(self) -> bool:
        """Whether an event came that a client can be shown as the beginning of an answer."""
        return self.last_useful is not None

    @property
    def pending(self) -> int:
        """Bytes held of an unfinished event; after the end event nothing counts any more."""
        return 0 if self.ended else self._decoder.pending

    @property
    def usage(self) -> Usage | None:
        """Tokens as said so far; `partial` until the upstream finished."""
        usage = self._usage
        if usage is None or self.finish_reason is not None or self.ended:
            return usage
        return replace(usage, partial=True)

    @property
    def next_flush(self) -> float | None:
        """When text that waits to be merged must leave, on the caller's clock."""
        return None if self._chunking is None else self._chunking.next_flush

    def feed(self, data: bytes, now: float) -> list[bytes]:
        """The events that may leave, one item each. Raises EventTooLarge, and then is of no use."""
        timeline = self._timeline
        if timeline.first_byte is None:
            timeline.first_byte = now
        if self.ended:
            return []
        # The usual read is one whole event that means the same as the one before. Its JSON was
        # accepted, so it is valid UTF-8; it has no CR, and no LF but the two at its end.
        if (
            self._chunking is None
            and self._decoder.clean
            and data.startswith(self._start)
            and data.find(b"\n", self._skip) == len(data) - 2 < self._max_event - 1
            and data[-1] == 10
            and 13 not in data
            and self._read(data[self._skip : -2]) is self._noted
        ):
            timeline.burst(1, now)
            self.last_useful = now
            return [data]
        return self._feed_events(self._decoder.feed(data), now)

    def _feed_events(self, events: list[Event], now: float) -> list[bytes]:
        """Any number of events of any kind."""
        read = self._read
        chunking = self._chunking
        noted = self._noted
        leaving: list[bytes] = []
        count = pings = 0
        for event in events:
            meaning = read(event.data, event.name)
            if meaning is not COMMENT:
                count += 1
                if meaning is PING:
                    pings += 1
                elif meaning is not noted:
                    noted = self._note(meaning, now)
                    if meaning.kind is Kind.ERROR:
                        event = heard_error(self._dialect, event)
            if chunking is None:
                leaving.append(event.raw)
            else:
                leaving += chunking.take(event, meaning, now)
            if self.ended:
                break
        if count:
            self._timeline.burst(count, now)
            if count > pings:
                self.last_useful = now
        return leaving

    def _note(self, meaning: Meaning, now: float) -> Meaning | None:
        """Remembers what an event said; returns the meaning that would say nothing new."""
        kind = meaning.kind
        if meaning.finish_reason is not None:
            self.finish_reason = meaning.finish_reason
        if meaning.usage is not None:
            self._usage = newer_usage(self._usage, meaning.usage)
        if kind is Kind.END:
            self.ended = True
        elif kind is Kind.ERROR:
            self.failed = True
            self.upstream_code = meaning.code
        elif Kind.REASONING <= kind <= Kind.TOOL:
            timeline = self._timeline
            if timeline.first_token is None:
                timeline.first_token = now
            if timeline.first_content is None and kind is not Kind.REASONING:
                timeline.first_content = now
            self._noted = meaning
        return self._noted

    def flush_due(self, now: float) -> list[bytes]:
        """Merged text whose time has come."""
        chunking = self._chunking
        return chunking.flush() if chunking is not None and chunking.flush_is_due(now) else []

    def finish(self) -> list[bytes]:
        """What still waits when the upstream ends: merged text, never half an event."""
        return [] if self._chunking is None else self._chunking.flush()


def _chunking(dialect: Dialect, settings: Settings) -> Chunking | None:
    if settings.text_buffer_size <= 1 and settings.split_text < 1:
        return None
    return Chunking(
        dialect, settings.text_buffer_size, settings.text_buffer_max_delay, settings.split_text
    )
