"""Requests from bytes: the same whatever way they are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.simulator.http1_parser import END, BadRequest, Head, RequestParser

PLAIN = b"POST /a?b=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /c HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b"3\r\nabc\r\nA;ext=1\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n"
)
BARE = b"\r\nGET /d HTTP/1.0\r\n\r\n"
STREAM = PLAIN + CHUNKED + BARE


def parsed(parts: list[bytes]) -> list[tuple[Head, bytes]]:
    """Each request with its body."""
    parser = RequestParser()
    found: list[tuple[Head, bytes]] = []
    open_head: Head | None = None
    body = b""
    for part in parts:
        parser.feed(part)
        while (item := parser.next()) is not None:
            if isinstance(item, Head):
                open_head, body = item, b""
            elif item is END:
                assert open_head is not None
                found.append((open_head, body))
            else:
                assert isinstance(item, bytes)
                body += item
    assert parser.buffered == 0
    return found


def test_requests_come_out_as_they_were_sent() -> None:
    (plain, hello), (chunked, joined), (bare, nothing) = parsed([STREAM])
    assert plain == Head("POST", "/a?b=1", "HTTP/1.1", [(b"host", b"x"), (b"content-length", b"5")])
    assert (hello, joined, nothing) == (b"hello", b"abc0123456789", b"")
    assert chunked.target == "/c"
    assert (bare.method, bare.version) == ("GET", "HTTP/1.0")


def test_every_cut_gives_the_same_requests() -> None:
    whole = parsed([STREAM])
    for cut in range(len(STREAM)):
        assert parsed([STREAM[:cut], STREAM[cut:]]) == whole, cut


def test_byte_by_byte_gives_the_same_requests() -> None:
    assert parsed([STREAM[i : i + 1] for i in range(len(STREAM))]) == parsed([STREAM])


@settings(deadline=None)
@given(st.lists(st.integers(0, len(STREAM))))
def test_any_cutting_gives_the_same_requests(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    parts = [STREAM[a:b] for a, b in pairwise(edges)]
    assert parsed(parts) == parsed([STREAM])


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nspace : x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n", 400),
        (b"GET / HTTP/1.1\r\na: " + b"x" * 70_000, 431),
    ],
)
def test_what_is_no_request_is_refused(request_bytes: bytes, status: int) -> None:
    with pytest.raises(BadRequest) as refused:
        parsed([request_bytes])
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("head", "stays"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", True),
    ],
)
def test_a_client_says_whether_the_connection_stays(head: bytes, stays: bool) -> None:
    ((parsed_head, _),) = parsed([head])
    assert parsed_head.keep_alive is stays
