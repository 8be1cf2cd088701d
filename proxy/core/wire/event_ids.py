"""Numbers of a kept stream's events: how they are written, and where a client goes on.

An event's number is its place in the stream, from 1 on. Comments, heartbeats among them, are no
events and have none. The id is the last line of an event, so that one of the upstream's own does
not count: a client remembers the last it read (HTML standard, "Server-sent events" §9.2.6).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import parse_qsl

from proxy.errors import ClientError

STREAM: Final = "x-glm-proxy-stream"
"""The response header that tells the id by which a stream can be fetched."""
ASKED: Final = "x-glm-proxy-event-ids"
"""The request header that says whether events carry ids: `on` or `off`."""
LAST: Final = "last-event-id"
"""The request header that names the last event received."""
_LAST_QUERY: Final = "last_event_id"
_DATA: Final = re.compile(rb"(?:\A|[\r\n])data[:\r\n]")
_NUMBER: Final = re.compile(r"[0-9]{1,15}")

Pairs = Iterable[tuple[str, str]]
Write = Callable[[list[bytes], bool], None]


def are_numbered(dialect: str, headers: Pairs) -> bool:
    """Whether events of `dialect` carry ids.

    Some clients of OpenAI's dialect break on a line that is not `data:`, so there they are only on
    request.
    """
    asked = (_first(headers, ASKED) or "").strip().lower()
    return asked == "on" or (asked != "off" and dialect == "anthropic")


def is_comment(event: bytes) -> bool:
    """Whether a block is none that a client is told as an event: it has no data."""
    return not event.startswith((b"data: ", b"event: ")) and _DATA.search(event) is None


def with_id(event: bytes, number: int) -> bytes:
    """The event with its id, before the line end that ends it."""
    end = -2 if event.endswith(b"\r\n") else -1
    return b"%bid: %d\n%b" % (event[:end], number, event[end:])


def numbered(write: Write, first: int) -> Write:
    """`write`, each event with its id, the first of them `first`."""
    following = first

    def take(events: list[bytes], last: bool) -> None:
        nonlocal following
        told = []
        for event in events:
            if is_comment(event):
                told.append(event)
            else:
                told.append(with_id(event, following))
                following += 1
        write(told, last)

    return take


def received(headers: Pairs, query: str) -> int:
    """How many events a client says it has: the last one's number, 0 where it names none.

    The query has it for those who cannot set a header. Raises ClientError for what is no number.
    """
    found = _first(headers, LAST) or _first(parse_qsl(query), _LAST_QUERY)
    if not found:
        return 0
    if not _NUMBER.fullmatch(found.strip()):
        raise ClientError("Last-Event-ID must be the number of the last event received, such as 12")
    return int(found)


def _first(pairs: Pairs, name: str) -> str | None:
    return next((value for one, value in pairs if one.lower() == name), None)
