"""Errors of the upstream as the client may read them.

An error in the caller's own shape passes byte for byte. Anything else (a firewall's page, another
shape, a bare string) is told again in that shape, with the upstream's status and code kept.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any
from urllib.parse import quote

import orjson

from proxy.core.wire.dialect import Dialect
from proxy.core.wire.sse import Event, frame
from proxy.errors import UpstreamSaid

_LONGEST_MESSAGE = 300


def error_body(dialect: Dialect, status: int, body: bytes) -> bytes:
    """The body of an upstream's error answer for a client of `dialect`; `masked` comes first."""
    if _has_shape(dialect.name, body):
        return body
    message = error_message(body) or f"the upstream answered with status {status}"
    return dialect.error_body(UpstreamSaid(message, status=status, code=dialect.error_code(body)))


def masked(body: bytes, api_key: str) -> bytes:
    """`body` without an endpoint's own key, as it is or as JSON, a URL or base64 write it."""
    for spelling in _spellings(api_key):
        body = body.replace(spelling, b"***")
    return body


def _spellings(api_key: str) -> set[bytes]:
    key = api_key.encode()
    quoted = quote(api_key, safe="").encode()
    found = {key, quoted, key.replace(b"/", rb"\/"), orjson.dumps(api_key)[1:-1]}
    for before in range(3):  # in base64 it may begin at any of three bit positions
        coded = b64encode(b"\0" * before + key).rstrip(b"=")
        inner = coded[(0, 2, 3)[before] : len(coded) - ((before + len(key)) % 3 > 0)]
        found |= {inner, inner.translate(bytes.maketrans(b"+/", b"-_"))}
    return found


def heard_error(dialect: Dialect, event: Event) -> Event:
    """An error that the upstream tells in a stream, as clients of `dialect` notice it.

    Anthropic's SDKs skip what has another name, so an error of the other dialect would be lost.
    """
    if not dialect.error_name or event.name == dialect.error_name:
        return event
    body = error_body(dialect, UpstreamSaid.status, event.data)
    return Event(frame(body, dialect.error_name), body, dialect.error_name)


def _has_shape(dialect: str, body: bytes) -> bool:
    parsed = _parsed(body)
    if not isinstance(parsed, dict) or not isinstance(parsed.get("error"), dict):
        return False
    return dialect != "anthropic" or parsed.get("type") == "error"


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def error_message(body: bytes) -> str | None:
    """What the upstream said, when it said it in JSON; pages are not for SDKs to print."""
    parsed = _parsed(body)
    if not isinstance(parsed, dict):
        return None
    error = parsed.get("error")
    said = error.get("message") if isinstance(error, dict) else error
    said = said or parsed.get("msg") or parsed.get("message")
    return said[:_LONGEST_MESSAGE] if isinstance(said, str) else None
