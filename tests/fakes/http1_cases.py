"""Requests that parsers read differently: how they are sent, and what has to become of them.

Groups as in RFC 9112 and the advisories of HTTP servers. `R`: refused or dropped, the connection
closed, nothing behind it. A number: so many requests are served. Several: each of them is right.
"""

from __future__ import annotations

from typing import Final, NamedTuple

PATH: Final = "/v1/x"


class Case(NamedTuple):
    """One connection's worth of bytes."""

    name: str
    sent: bytes
    wanted: str
    """`R`, `1`, `2`, or several of them: `R1`. `N`: there is no such path."""

    @property
    def most(self) -> int:
        """How many answers of 200 there may be, or one more than there can be."""
        return max((int(one) for one in self.wanted if one.isdigit()), default=9)


_POST: Final = b"POST /v1/x HTTP/1.1\r\nHost: a\r\n"
_CHUNKED: Final = _POST + b"Transfer-Encoding: chunked\r\n\r\n"
_GET: Final = b"GET /v1/x HTTP/1.1\r\nHost: a\r\n"
_NEXT: Final = b"GET /v1/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


def _cases(*cases: tuple[str, bytes, str]) -> tuple[Case, ...]:
    return tuple(Case(*case) for case in cases)


def _headers(*cases: tuple[str, bytes, str]) -> tuple[Case, ...]:
    """Of header lines: what follows Host up to the end of the connection."""
    return tuple(Case(name, _POST + lines, wanted) for name, lines, wanted in cases)


def _chunks(*cases: tuple[str, bytes, str]) -> tuple[Case, ...]:
    return tuple(Case(name, _CHUNKED + body, wanted) for name, body, wanted in cases)


def _spelled(before: bytes, after: bytes, *values: tuple[bytes, str]) -> tuple[Case, ...]:
    return tuple(Case(repr(value), before + value + after, wanted) for value, wanted in values)


def _hosts(*cases: tuple[bytes, str]) -> tuple[Case, ...]:
    return _spelled(b"GET /v1/x HTTP/1.1\r\nHost: ", b"\r\n\r\n", *cases)


def _lines(*cases: tuple[bytes, str]) -> tuple[Case, ...]:
    """Of request lines."""
    return _spelled(b"", b"\r\nHost: a\r\n\r\n", *cases)


ACCEPTED: Final = _cases(
    ("a body of known length", _POST + b"Content-Length: 3\r\n\r\nabc", "1"),
    ("two requests in one write", _POST + b"Content-Length: 3\r\n\r\nabc" + _NEXT, "2"),
    ("empty lines before the first", b"\r\n\r\n" + _GET + b"\r\n", "1"),
    ("no body", _GET + b"\r\n", "1"),
    ("chunks", _CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", "1"),
    ("chunks, then another request", _CHUNKED + b"3\r\nabc\r\n0\r\n\r\n" + _NEXT, "2"),
    ("no blank behind the colon", _POST + b"Content-Length:3\r\n\r\nabc", "1"),
    ("blanks around a value", _POST + b"Content-Length: \t3 \t\r\n\r\nabc", "1"),
    ("names in any case", b"POST /v1/x HTTP/1.1\r\nhOST: a\r\nCONTENT-length: 3\r\n\r\nabc", "1"),
    ("HTTP/1.0 without Host", b"GET /v1/x HTTP/1.0\r\n\r\n", "1"),
    ("a length of nothing", _POST + b"Content-Length: 0\r\n\r\n" + _NEXT, "2"),
    ("zeros before a length", _POST + b"Content-Length: 0003\r\n\r\nabc", "R1"),
)
LENGTH_OR_CHUNKS: Final = _headers(
    ("both", b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX", "R"),
    ("both, turned", b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nX", "R"),
    ("two lengths", b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "R"),
    ("one length twice", b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", "R1"),
    ("a list of one length", b"Content-Length: 3, 3\r\n\r\nabc", "R1"),
    ("a list of two lengths", b"Content-Length: 3, 4\r\n\r\nabcd", "R"),
    (
        "chunked twice",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "R",
    ),
    (
        "chunked, then not",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        "R",
    ),
)
LENGTH: Final = (
    *_spelled(
        _POST + b"Content-Length: ",
        b"\r\n\r\nabc",
        *((b"+3", "R"), (b"-3", "R"), (b"0x3", "R"), (b"3.0", "R"), (b"1e1", "R"), (b"3 3", "R")),
        *((b"3;", "R"), (b"3_0", "R"), (b'"3"', "R"), (b"", "R"), (b"a", "R"), (b"3\x00", "R")),
        *((b"18446744073709551619", "R"), (b"3\x0b", "R"), (b"\x0b3", "R"), (b"\xd9\xa3", "R")),
    ),
    *_headers(
        ("blank before the colon", b"Content-Length : 3\r\n\r\nabc", "R"),
        ("tab before the colon", b"Content-Length\t: 3\r\n\r\nabc", "R"),
        ("on the next line", b"Content-Length:\r\n 3\r\n\r\nabc", "R"),
    ),
)
CODING: Final = (
    *_spelled(
        _POST + b"Transfer-Encoding: ",
        b"\r\n\r\n0\r\n\r\n",
        *((b"identity", "R"), (b"xchunked", "R"), (b"chunkedx", "R"), (b"chunk", "R")),
        *((b"gzip, chunked", "R1"), (b"chunked, gzip", "R"), (b"chunked, chunked", "R")),
        *((b"CHUNKED", "R1"), (b'"chunked"', "R"), (b"chunked;q=1", "R"), (b"", "R")),
        *((b"\x0bchunked", "R"), (b"chunked\x0b", "R"), (b"chunked,", "R1"), (b",chunked", "R1")),
    ),
    *_headers(
        ("blank before the colon", b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", "R"),
        ("on the next line", b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", "R"),
        ("NUL in the name", b"Transfer\x00-Encoding: chunked\r\n\r\n0\r\n\r\n", "R"),
        (
            "not the header it looks like",
            b"Transfer_Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
            "R1",
        ),
    ),
    Case(
        "in HTTP/1.0",
        b"POST /v1/x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "R",
    ),
)
SYNTAX: Final = (
    *_spelled(
        _POST,
        b"\r\nContent-Length: 0\r\n\r\n",
        *((b"X-A: 1\r\n 2", "R"), (b"X-A: 1\x002", "R"), (b"X-A: 1\r2", "R"), (b"X A: 1", "R")),
        *((b": 1", "R"), (b"X-A", "R"), (b" X-A: 1", "R"), (b"X(A: 1", "R"), (b"X\x80: 1", "R")),
        *((b"X-A: \x01", "R1"), (b"X-A: \x7f", "R1"), (b"X-A: \xe4", "R1"), (b"\x0bX-A: 1", "R")),
    ),
    *_headers(("a bare line feed", b"X-A: 1\nContent-Length: 3\r\n\r\nabc", "R")),
)
CHUNK_SIZE: Final = _spelled(
    _CHUNKED,
    b"\r\nabc\r\n0\r\n\r\n",
    *((b"0x3", "R"), (b"+3", "R"), (b"-3", "R"), (b" 3", "R"), (b"3 ", "R1"), (b"", "R")),
    # The largest that 64 bits hold is a size: so much is waited for, as long as a body may take.
    *((b"g", "R"), (b"3_0", "R"), (b"10000000000000003", "R"), (b"ffffffffffffffff", "R0")),
    *((b"\x0b3", "R"), (b"3.", "R"), (b"00000003", "R1"), (b"3\x00", "R")),
)
CHUNK_ENDS: Final = _chunks(
    ("a line feed behind the size", b"3\nabc\r\n0\r\n\r\n", "R"),
    ("a return in an extension", b"3;a\rb\r\nabc\r\n0\r\n\r\n", "R"),
    ("a line feed in an extension", b"3;a\nabc\r\n0\r\n\r\n", "R"),
    ("an extension", b"3;a=b\r\nabc\r\n0\r\n\r\n", "R1"),
    ("a line feed behind the data", b"3\r\nabc\n0\r\n\r\n", "R"),
    ("data longer than said", b"3\r\nabcd\r\n0\r\n\r\n", "R"),
    ("nothing behind the data", b"3\r\nabc0\r\n\r\n", "R"),
    ("a line feed at the end", b"3\r\nabc\r\n0\r\n\n", "R"),
    ("a trailer", b"3\r\nabc\r\n0\r\nX-A: 1\r\n\r\n", "R1"),
    ("a length as a trailer", b"0\r\nContent-Length: 40\r\n\r\n", "R1"),
    ("a coding as a trailer", b"0\r\nTransfer-Encoding: chunked\r\n\r\n", "R1"),
    ("a trailer that is none", b"0\r\nX A\r\n\r\n", "R"),
)
HOST: Final = (
    *_cases(
        ("none", b"GET /v1/x HTTP/1.1\r\n\r\n", "R"),
        ("two", _GET + b"Host: b\r\n\r\n", "R"),
        ("one, twice", _GET + b"Host: a\r\n\r\n", "R"),
    ),
    *_hosts(
        *((b"a b", "R"), (b"a/b@c", "R"), (b"", "R"), (b"localhost/#@x", "R"), (b"u@a", "R")),
        *((b"a?b", "R"), (b"a\\b", "R"), (b"[::1", "R"), (b"a:b", "R"), (b"a:999999", "R")),
        *((b"[::1]:80", "1"), (b"a.example:443", "1"), (b"127.0.0.1", "1"), (b"\xe4", "R")),
        *((b"http://a", "R"), (b"a, b", "R"), (b"a\tb", "R"), (b"xn--a-0.example.", "1")),
    ),
)
VERSION: Final = (
    *_lines(
        *((b"GET /v1/x HTTP/2.0", "R"), (b"GET /v1/x http/1.1", "R"), (b"GET /v1/x HTTP/3.0", "R")),
        *((b"GET /v1/x HTTP/0.9", "R"), (b"GET /v1/x HTTP/1.2", "R1"), (b"GET /v1/x HTTP/1", "R")),
        *((b"GET /v1/x HTTP/1.10", "R"), (b"GET /v1/x HTTP /1.1", "R"), (b"GET /v1/x", "R")),
        *((b"GET /v1/x HTTPS/1.1", "R"), (b"GET /v1/x HTTP/11", "R"), (b"GET /v1/x ICE/1.0", "R")),
    ),
    Case("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "R"),
    Case("TLS", bytes.fromhex("16030102000100") + b"\x00" * 64, "R"),
)
TARGET: Final = (
    *_lines(
        *((b"GET\t/v1/x\tHTTP/1.1", "R"), (b"GET /v1/x y HTTP/1.1", "R"), (b"GET HTTP/1.1", "R")),
        *((b"GET http://other/v1/x HTTP/1.1", "R"), (b"GET //other/v1/x HTTP/1.1", "1N")),
        *(
            (b"GET  /v1/x HTTP/1.1", "R1"),
            (b"GET /v1/x HTTP/1.1 ", "R"),
            (b" GET /v1/x HTTP/1.1", "R"),
        ),
        *((b"GET /v1/x\x00 HTTP/1.1", "R"), (b"GET a:80 HTTP/1.1", "R"), (b"GET * HTTP/1.1", "R")),
        *(
            (b"GET /v1/x\rHTTP/1.1", "R"),
            (b"GET v1/x HTTP/1.1", "R"),
            (b"GET /v1/x\x7f HTTP/1.1", "R1N"),
        ),
        *((b"GET /v1/x#f HTTP/1.1", "R1N"), (b"GET /v1/\xe4 HTTP/1.1", "R1N")),
    ),
    Case("bare line feeds", b"GET /v1/x HTTP/1.1\nHost: a\n\n", "R1"),
    Case(
        "a target of 9000 bytes", b"GET /v1/" + b"x" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", "R"
    ),
)
METHODS_AND_MORE: Final = (
    *_lines(
        *(
            (b"TRACE /v1/x HTTP/1.1", "R"),
            (b"CONNECT a:80 HTTP/1.1", "R"),
            (b"get /v1/x HTTP/1.1", "R"),
        ),
        *(
            (b"CONNECT /v1/x HTTP/1.1", "R"),
            (b"FOO /v1/x HTTP/1.1", "R"),
            (b"G=T /v1/x HTTP/1.1", "R"),
        ),
        *((b"PROPFIND /v1/x HTTP/1.1", "R"), (b"PURGE /v1/x HTTP/1.1", "R")),
    ),
    *_cases(
        (
            "an upgrade to h2c",
            _GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
            "1",
        ),
        (
            "an upgrade of a request with a body",
            _POST + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc",
            "1",
        ),
        (
            "an upgrade to a web socket",
            _GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            "1",
        ),
        (
            "an expectation nobody knows",
            _POST + b"Expect: 200-ok\r\nContent-Length: 0\r\n\r\n",
            "R",
        ),
        ("two expectations", _POST + b"Expect: 100-continue, x\r\nContent-Length: 0\r\n\r\n", "R"),
        ("a header of 9000 bytes", _GET + b"X: " + b"x" * 9000 + b"\r\n\r\n", "R"),
        ("a header's name of 9000 bytes", _GET + b"x" * 9000 + b": x\r\n\r\n", "R"),
        ("300 headers", _GET + b"".join(b"X-%d: y\r\n" % n for n in range(300)) + b"\r\n", "R"),
        (
            "20000 bytes of headers",
            _GET + b"".join(b"X-%d: %b\r\n" % (n, b"y" * 990) for n in range(20)) + b"\r\n",
            "R",
        ),
    ),
)
GROUPS: Final = {
    "accepted": ACCEPTED,
    "length or chunks": LENGTH_OR_CHUNKS,
    "length": LENGTH,
    "coding": CODING,
    "syntax": SYNTAX,
    "chunk size": CHUNK_SIZE,
    "chunk ends": CHUNK_ENDS,
    "host": HOST,
    "version": VERSION,
    "target": TARGET,
    "methods and more": METHODS_AND_MORE,
}
