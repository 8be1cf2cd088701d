"""The stages of an exchange as consecutive spans: they add up to the time until the last."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.core.record import AttemptRecord, Record

NAMES = (
    *("receive", "route", "retry", "admission", "connect", "upstream_headers", "first_byte"),
    *("first_token", "commit", "reasoning", "stream"),
)
"""All stages, in their order."""


def stages(record: Record) -> Iterator[tuple[str, float]]:
    """Each stage that was left, in order, with its length in seconds.

    A stage begins where the one before it ended. One whose mark is missing, or lies before that
    (an early commit precedes the upstream's headers), is left out and its time goes to the next.
    """
    at = record.timeline.received
    for stage, mark in _marks(record):
        if mark is not None and mark >= at:
            yield stage, mark - at
            at = mark


def _marks(record: Record) -> Iterator[tuple[str, float | None]]:
    timeline = record.timeline
    yield "receive", timeline.parsed
    answering = _answering(record)
    if record.attempts and timeline.parsed is not None:
        first = record.attempts[0]
        yield "route", first.started - first.waited
    if answering is not None:
        if len(record.attempts) > 1:
            yield "retry", answering.started - answering.waited
        if answering.waited > 0:
            yield "admission", answering.started
        yield "connect", timeline.sent
        yield "upstream_headers", timeline.headers
        yield "first_byte", timeline.first_byte
        yield "first_token", timeline.first_token
    if timeline.committed is None:
        return
    if not record.stream and timeline.last_event is not None:  # it was put together here
        yield "reasoning", timeline.first_content
        yield "stream", timeline.last_event
        yield "commit", timeline.committed
        return
    yield "commit", timeline.committed
    yield "reasoning", timeline.first_content
    thought = timeline.first_token is not None and timeline.first_content is None
    yield "reasoning" if thought else "stream", timeline.finished  # it may never get beyond


def _answering(record: Record) -> AttemptRecord | None:
    """The attempt that won; when none did, the one that the timeline's `sent` is nearest to."""
    for attempt in record.attempts:
        if attempt.won:
            return attempt
    sent = record.timeline.sent
    if sent is None:
        return None
    tried = [attempt for attempt in record.attempts if attempt.sent is not None]
    return min(tried, key=lambda attempt: abs((attempt.sent or 0.0) - sent), default=None)
