"""The way of a stream's bytes: reads of the upstream in, whole events ready to leave out.

Composed once per stream. It marks the timeline and remembers what the events said; it waits for
nothing and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from proxy.core.flow.chunking import Chunking
from proxy.core.flow.timeline import Timeline
from proxy.core.record import Usage
from proxy.core.wire.answers import heard_error
from proxy.core.wire.dialect import COMMENT, NOT_JSON, PING, Dialect, Kind, Meaning, newer_usage
from proxy.core.wire.sse import Decoder, Event, NotJson, frame
from proxy.errors import GluedStream

_GAVE_UP: Final = ("network_error", "abort")
"""Finish reasons of a generation that broke off."""


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
    decisive        an event came that does more than open an answer: a token, a finish, the end, an
                    error, or a shape that is not known
    failed          the upstream told an error in the stream, `upstream_code` is its code
    failed_early    it did so, or finished with `network_error` or `abort` (then that is the
                    `upstream_code`), and no visible token and no tool call had come
    last_useful     when an event came that is neither a comment nor a ping; `None` before the first
    finish_reason   as the upstream said it
    mask            takes out of an error's data what the client must not read
    on_content      called once, with the time, when the first visible token or tool call comes
    """

    def __init__(self, dialect: Dialect, settings: Settings, timeline: Timeline) -> None:
        self.ended = False
        self.decisive = False
        self.failed = False
        self.failed_early = False
        self.upstream_code: str | None = None
        self.last_useful: float | None = None
        self.finish_reason: str | None = None
        self.on_content: Callable[[float], None] | None = None
        self.mask: Callable[[bytes], bytes] | None = None
        self._dialect = dialect
        self._read = dialect.read
        self._generation = dialect.generation()
        # How the data of the usual event begins, and its read: with the stream's own id, once that
        # is known, so that an event of another generation is not a usual one.
        self._own = self._mark = self._generation.mark
        self._start = dialect.usual_start + self._own
        self._skip = len(dialect.usual_start)
        self._max_event = settings.max_event
        self._timeline = timeline
        self._decoder = Decoder(settings.max_event)
        self._chunking = _chunking(dialect, settings)
        self._usage: Usage | None = None
        # The constant meaning noted last: an event that means the same says nothing new.
        self._noted: Meaning | None = None
        self._has_spoken = False
        self._left: list[bytes] = []

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
        """The events that may leave, one item each.

        Raises EventTooLarge, and GluedStream when another generation begins; `finish` has what is
        whole and came before it. After either the pipe is of no other use.
        """
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
        noted, own = self._noted, self._own
        # There is no way back: if the last event belongs to the stream, so do all before it.
        is_own = bool(events) and events[-1].data.startswith(own)
        is_glued = False
        leaving: list[bytes] = []
        count = pings = 0
        for event in events:
            meaning = read(event.data, event.name)
            if meaning is noted and (is_own or event.data.startswith(own)):
                count += 1
            elif meaning is PING:
                count += 1
                pings += 1
            elif meaning is not COMMENT:
                if is_glued := self._generation.is_left(event.data, meaning):
                    break
                count += 1
                own = self._known(event.data)
                if meaning is NOT_JSON:
                    event = event._replace(raw=NotJson(event.raw))
                if meaning is not noted:
                    noted = self._note(meaning, now)
                    if meaning.kind is Kind.ERROR:
                        event = heard_error(self._dialect, self._masked(event))
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
        if is_glued:
            self._left = leaving
            raise GluedStream("the upstream began another answer inside this one")
        return leaving

    def _known(self, data: bytes) -> bytes:
        """How the usual event begins, now that `data` is known to belong to the stream."""
        mark = self._generation.mark
        if mark is not self._mark:
            self._mark = mark
            self._own = data[: data.find(mark) + len(mark)]
            self._start = self._dialect.usual_start + self._own
        return self._own

    def _note(self, meaning: Meaning, now: float) -> Meaning | None:
        """Remembers what an event said; returns the meaning that would say nothing new."""
        kind = meaning.kind
        if kind is not Kind.PREFACE:
            self.decisive = True
        if meaning.usage is not None:
            self._usage = newer_usage(self._usage, meaning.usage)
        if kind is Kind.END:
            self.ended = True
        elif kind is Kind.ERROR:
            self.failed = True
            self._fail(meaning.code)
        elif Kind.REASONING <= kind <= Kind.TOOL:
            self._note_token(meaning, now)
        if meaning.finish_reason is not None:
            self.finish_reason = meaning.finish_reason
            if meaning.finish_reason in _GAVE_UP and not self._has_spoken:
                self._fail(meaning.finish_reason)
        return self._noted

    def _note_token(self, meaning: Meaning, now: float) -> None:
        timeline = self._timeline
        if timeline.first_token is None:
            timeline.first_token = now
        if meaning.kind is not Kind.REASONING:
            self._has_spoken = True
            if timeline.first_content is None:
                timeline.first_content = now
                if self.on_content is not None:
                    self.on_content(now)
        self._noted = meaning

    def _masked(self, event: Event) -> Event:
        """An error event without what the client must not read."""
        data = event.data if self.mask is None else self.mask(event.data)
        return event if data == event.data else Event(frame(data, event.name), data, event.name)

    def _fail(self, code: str | None) -> None:
        self.upstream_code = code
        self.failed_early = self.failed_early or not self._has_spoken

    def flush_due(self, now: float) -> list[bytes]:
        """Merged text whose time has come."""
        chunking = self._chunking
        return chunking.flush() if chunking is not None and chunking.flush_is_due(now) else []

    def finish(self) -> list[bytes]:
        """What still waits when the upstream ends: merged text, never half an event."""
        left, self._left = self._left, []
        return left if self._chunking is None else left + self._chunking.flush()


def _chunking(dialect: Dialect, settings: Settings) -> Chunking | None:
    if settings.text_buffer_size <= 1 and settings.split_text < 1:
        return None
    return Chunking(
        dialect, settings.text_buffer_size, settings.text_buffer_max_delay, settings.split_text
    )
