"""How a finished exchange is judged: has it failed, was it slow, did it meet the objective?

The objective: of the chat exchanges, 95 in 100 show their first content within 5 seconds. One that
failed before (5xx) counts as a miss; where nobody can say when the first content came (an answer
that is no stream, a caller's own mistake, a client that left) the exchange does not count.
"""

from __future__ import annotations

from typing import Final

from proxy.core.record import Record

TARGET: Final = 5.0
"""Seconds to first content."""
SHARE: Final = 0.95
"""Of the exchanges that count."""

_NO_FAILURE: Final = frozenset({"completed", "client_gone"})


def met(record: Record) -> bool | None:
    """Whether the first content came within the target; None: the exchange does not count."""
    if record.kind != "chat":
        return None
    content = record.first_content
    if content is not None:
        return content <= TARGET
    return False if record.status is not None and record.status >= 500 else None


def has_failed(record: Record) -> bool:
    """Whether the client got an error, or an answer that is not whole. That it left is none."""
    if record.outcome not in _NO_FAILURE:
        return True
    return record.status is not None and record.status >= 400


def slowness(record: Record) -> float:
    """Seconds until there was something to see: the first content, else the end."""
    content = record.first_content
    return record.duration if content is None else content


def is_ordinary(record: Record) -> bool:
    """Whether it went well, at once and quickly, so that one like it tells as much.

    A stream that ended without any content was not quick, whatever it took.
    """
    if record.outcome != "completed" or (record.status or 0) >= 400:
        return False
    if record.decisions or len(record.attempts) > 1:
        return False
    if record.stream and record.first_content is None:
        return False
    return slowness(record) <= TARGET
