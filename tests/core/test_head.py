"""Heads of requests that are refused whatever they ask for."""

from __future__ import annotations

import pytest

from proxy.core.wire.head import check, check_size, size_of
from proxy.errors import BadHead, HeadTooLarge

HOST = ("Host", "proxy.internal:8080")


def refused(*headers: tuple[str, str], method: str = "POST", target: str = "/v1/x") -> int:
    with pytest.raises(BadHead) as found:
        check(method, target, (1, 1), headers)
    return found.value.status


@pytest.mark.parametrize("version", [(0, 9), (1, 2), (2, 0), (3, 0), (11, 0)])
def test_versions_other_than_1_are_refused(version: tuple[int, int]) -> None:
    with pytest.raises(BadHead) as found:
        check("GET", "/", version, [HOST])
    assert found.value.status == 505


@pytest.mark.parametrize("target", ["*", "http://a/v1/x", "a:80", "v1/x", "?x", ""])
def test_only_a_path_is_a_target(target: str) -> None:
    assert refused(HOST, target=target) == 400


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "get", "PURGE", "M-SEARCH"])
def test_methods_of_other_kinds_of_servers_are_refused(method: str) -> None:
    assert refused(HOST, method=method) == 501


@pytest.mark.parametrize(
    "host", ["a", "A-1.example.", "127.0.0.1:1", "[::1]:8080", "[fe80::1]", "a:", "a_b", "%41"]
)
def test_a_host_is_a_name_or_an_address_with_or_without_a_port(host: str) -> None:
    assert check("GET", "/", (1, 1), [("HOST", host)]) is False


@pytest.mark.parametrize(
    "host",
    ["", "a b", "a/b@c", "u@a", "localhost/#@x", "a#b", "a?b", "a\\b", "[::1", "a:b", "a:123456"],
)
def test_what_is_not_a_host_is_refused(host: str) -> None:
    assert refused(("Host", host)) == 400


def test_a_request_has_one_host_unless_it_is_of_http_1_0() -> None:
    assert refused() == 400
    assert refused(HOST, HOST) == 400
    assert check("GET", "/", (1, 0), []) is False
    with pytest.raises(BadHead):
        check("GET", "/", (1, 0), [HOST, HOST])


def test_a_coding_that_is_not_undone_here_is_refused() -> None:
    assert check("POST", "/", (1, 1), [HOST, ("transfer-encoding", "Chunked ")]) is False
    assert refused(HOST, ("Transfer-Encoding", "gzip, chunked")) == 501
    with pytest.raises(BadHead):
        check("POST", "/", (1, 0), [HOST, ("Transfer-Encoding", "chunked")])


def test_leave_to_send_a_body_is_the_only_expectation() -> None:
    asked = [HOST, ("Expect", "100-Continue")]
    assert check("POST", "/", (1, 1), asked) is True
    assert check("POST", "/", (1, 0), asked) is False  # it does not know the answer
    assert refused(HOST, ("Expect", "200-ok")) == 417
    assert refused(HOST, ("Expect", "")) == 417


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_head_may_be_as_large_as_its_limits(more: int) -> None:
    line = b"GET / HTTP/1.1\r\n"
    size = size_of("GET", "/", [(b"Host", b"a")])
    assert size == len(line + b"Host: a\r\n")
    for limits in ({"limit": size + more, "count": 9}, {"limit": 9999, "count": 3 + more}):
        if more < 0:
            with pytest.raises(HeadTooLarge):
                check_size(size, 3, **limits)
        else:
            check_size(size, 3, **limits)
