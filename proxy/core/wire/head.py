"""The head of a request: what two parsers could read differently, or is larger than it need be.

The parser under us takes some of it. Whoever stands before or behind us may read it otherwise, so
it is refused, and the connection is closed behind the refusal: what else is on it cannot be trusted
(RFC 9112 §11.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from proxy.errors import (
    BadHead,
    ExpectationFailed,
    HeadTooLarge,
    Unsupported,
    VersionNotSupported,
)

_VERSIONS: Final = ((1, 1), (1, 0))
# What the parser knows besides is for proxies of another kind, or for file servers.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# RFC 3986 §3.2.2, §3.2.3: a registered name or IPv4 address, or an IPv6 one in brackets; a port.
_HOST: Final = re.compile(
    r"(?:(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?"
)
_LINE: Final = 4
"""Bytes of a header line besides its name and value."""


def size_of(method: str, target: str, headers: Sequence[tuple[bytes, bytes]]) -> int:
    """Bytes of a head, blanks around values left out."""
    line = len(method) + len(target) + len("  HTTP/1.1\r\n")
    return line + sum(map(len, map(b"".join, headers))) + _LINE * len(headers)


def check(
    method: str, target: str, version: tuple[int, int], headers: Iterable[tuple[str, str]]
) -> bool:
    """Whether the client waits for leave to send its body (`Expect: 100-continue`).

    `target` as it stood in the request line. Raises BadHead.
    """
    if version not in _VERSIONS:
        raise VersionNotSupported("the request is not HTTP/1.1; send it as HTTP/1.1")
    if method not in _METHODS:
        raise Unsupported("no path takes that method; the API's are GET, POST, PUT and DELETE")
    if not target.startswith("/"):
        _refuse_form(target)
    hosts = 0
    waits = False
    for name, value in headers:
        match name.lower():
            case "host":
                hosts += 1
                if not _HOST.fullmatch(value):
                    raise BadHead("Host is not a host name; send the name that was called")
            case "transfer-encoding":
                _check_coding(version, value)
            case "expect":
                waits = _waits(version, value)
    if hosts != 1 and (hosts or version == (1, 1)):
        raise BadHead("the request needs one Host; send it once")
    return waits


def check_size(size: int, lines: int, *, limit: int, count: int) -> None:
    """Raises HeadTooLarge."""
    if size > limit:
        raise HeadTooLarge(f"the request's head is over {limit} bytes (server.header_limit)")
    if lines > count:
        raise HeadTooLarge(f"the request has more than {count} headers (server.header_count)")


def _refuse_form(target: str) -> None:
    if target == "*":
        form = "the asterisk form"
    elif "://" in target:
        form = "a full URL"
    else:
        form = "no path"
    raise BadHead(f"the request target is {form}; send the path only, such as /v1/chat/completions")


def _check_coding(version: tuple[int, int], value: str) -> None:
    """A coding beside `chunked` would be lost here, and HTTP/1.0 knows none (RFC 9112 §6.1)."""
    if version == (1, 0):
        raise BadHead("HTTP/1.0 has no Transfer-Encoding; send Content-Length")
    if value.strip().lower() != "chunked":
        raise Unsupported("the body's Transfer-Encoding is not chunked alone; send it so")


def _waits(version: tuple[int, int], value: str) -> bool:
    if value.strip().lower() != "100-continue":
        raise ExpectationFailed("the only expectation that is met is 100-continue")
    return version == (1, 1)  # RFC 9110 §10.1.1: ignored before
