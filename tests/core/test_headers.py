"""What headers pass, in both directions: tables, and hostile values."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import __version__
from proxy.core.wire.headers import (
    HOP_BY_HOP,
    JSON,
    added,
    caller_key,
    names_anthropic,
    refuse_encoded,
    request_id,
    said_anew,
    to_client,
    to_upstream,
)
from proxy.errors import ClientError, UnsupportedEncoding

Pairs = list[tuple[str, str]]


def up(headers: Pairs, **how: Any) -> Pairs:
    usual = {"dialect": "openai", "api_key": None, "chat": True}
    return to_upstream(headers, **(usual | {"request_id": "r-1"} | how))


CLIENT: Pairs = [
    ("Host", "127.0.0.1:8080"),
    ("User-Agent", "ZaiClient/0.2.3"),
    ("Accept", "application/json"),
    ("Accept-Encoding", "gzip, br"),
    ("Accept-Language", "en-US,en"),
    ("Content-Type", "application/json; charset=UTF-8"),
    ("Content-Length", "123"),
    ("Transfer-Encoding", "chunked"),
    ("Authorization", "id.secret"),
    ("Connection", "keep-alive, X-Title"),
    ("Keep-Alive", "timeout=5"),
    ("TE", "trailers"),
    ("Trailer", "x"),
    ("Upgrade", "h2c"),
    ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
    ("Proxy-Authorization", "Basic eDp5"),
    ("Expect", "100-continue"),
    ("Cookie", "a=b"),
    ("Forwarded", "for=1.2.3.4"),
    ("X-Forwarded-For", "1.2.3.4"),
    ("X-Forwarded-Host", "evil"),
    ("X-Real-IP", "1.2.3.4"),
    ("X-Upstream", "http://evil"),
    ("X-Base-Url", "http://evil"),
    ("X-Title", "nominated, so it stays here"),
    ("X-GLM-Proxy-Timeout-First-Token", "5s"),
    ("x-glm-proxy-timeout-total", "9"),
    ("HTTP-Referer", "https://app"),
    ("x-app", "cli"),
    ("anthropic-beta", "a"),
    ("Anthropic-Beta", "b"),
    ("X-Stainless-Retry-Count", "0"),
    ("x-stainless-bad name", "x"),
    ("source_type", "z-ai-sdk-python"),
    ("x-source-channel", "python-sdk"),
    ("Zai-SDK-Ver", "0.2.3"),
    ("Idempotency-Key", "k"),
    ("X-Request-Id", "theirs"),
    ("traceparent", "00-1-2-01"),
    ("Range", "bytes=0-1"),
    ("If-None-Match", '"e"'),
    ("Content-Encoding", "gzip"),
]


def test_a_chat_request_goes_up_with_listed_headers_only() -> None:
    assert up(CLIENT) == [
        ("user-agent", "ZaiClient/0.2.3"),
        ("accept", "application/json"),
        ("accept-language", "en-US,en"),
        ("content-type", "application/json; charset=UTF-8"),
        ("authorization", "id.secret"),
        ("http-referer", "https://app"),
        ("x-app", "cli"),
        ("anthropic-beta", "a"),
        ("anthropic-beta", "b"),
        ("x-stainless-retry-count", "0"),
        ("source_type", "z-ai-sdk-python"),
        ("x-source-channel", "python-sdk"),
        ("zai-sdk-ver", "0.2.3"),
        ("idempotency-key", "k"),
        ("traceparent", "00-1-2-01"),
        ("accept-encoding", "identity"),
        ("x-request-id", "r-1"),
    ]


def test_passthrough_also_takes_what_describes_a_body() -> None:
    chat, other = up(CLIENT), up(CLIENT, chat=False)
    assert [pair for pair in other if pair not in chat] == [
        ("range", "bytes=0-1"),
        ("if-none-match", '"e"'),
        ("content-encoding", "gzip"),
        ("accept-encoding", "gzip, br"),
    ]
    assert ("content-type", "application/json") not in up([], chat=False)


def test_nothing_hop_by_hop_passes_in_any_case_or_direction() -> None:
    names = [*HOP_BY_HOP, *(name.upper() for name in HOP_BY_HOP)]
    sent = up([(name, "x") for name in names], chat=False)
    assert {name for name, _ in sent} == {"user-agent", "accept-encoding", "x-request-id"}
    assert to_client([(name.encode(), b"x") for name in names], stream=False) == []


def test_what_connection_names_stays_here_whatever_it_is() -> None:
    headers = [("Connection", "close,Authorization , x-app,"), ("connection", "User-Agent"),
               ("Authorization", "Bearer theirs"), ("x-app", "a"), ("User-Agent", "u")]  # fmt: skip
    names = [name for name, _ in up(headers)]
    assert "authorization" not in names
    assert "x-app" not in names
    assert ("user-agent", f"glm-proxy/{__version__}") in up(headers)
    assert ("authorization", "Bearer ours") in up(headers, api_key="ours")


def test_what_the_upstream_needs_is_added_when_the_client_left_it_out() -> None:
    assert up([]) == [
        ("user-agent", f"glm-proxy/{__version__}"),
        ("content-type", "application/json"),
        ("accept-encoding", "identity"),
        ("x-request-id", "r-1"),
    ]


def test_an_answer_that_was_read_has_its_length_and_coding_said_anew() -> None:
    headers = [("content-length", "9"), ("content-encoding", "gzip"), ("content-type", "text/html"),
               ("x-log-id", "1")]  # fmt: skip
    assert said_anew(headers, as_json=False) == headers[2:]
    assert said_anew(headers, as_json=True) == [headers[3], JSON]


def test_a_client_of_anthropics_is_known_by_its_version_header() -> None:
    assert names_anthropic([("Anthropic-Version", "2023-06-01")])
    assert not names_anthropic([("x-api-key", "anthropic-version")])


@pytest.mark.parametrize(
    ("offered", "chat", "sent"),
    [
        (["gzip"], True, "identity"),
        (["gzip"], False, "gzip"),
        (["gzip", "br;q=0.1"], False, "gzip, br;q=0.1"),
        ([], False, "identity"),
        ([""], False, "identity"),
        (["gzip\r\nx: y"], False, "identity"),
    ],
)
def test_what_is_read_here_is_asked_for_uncompressed(
    offered: list[str], chat: bool, sent: str
) -> None:
    headers = up([("Accept-Encoding", one) for one in offered], chat=chat)
    assert [value for name, value in headers if name == "accept-encoding"] == [sent]


@pytest.mark.parametrize(
    ("dialect", "credential"),
    [("openai", ("authorization", "Bearer KEY")), ("anthropic", ("x-api-key", "KEY"))],
)
def test_an_endpoints_key_replaces_all_of_the_callers(
    dialect: str, credential: tuple[str, str]
) -> None:
    headers = [("Authorization", "Bearer theirs"), ("X-Api-Key", "theirs"), ("x-api-key", "more")]
    sent = up(headers, dialect=dialect, api_key="KEY")
    assert [pair for pair in sent if pair[0] in ("authorization", "x-api-key")] == [credential]
    assert "theirs" not in str(sent)


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        ([("Authorization", "Bearer id.secret")], "id.secret"),
        ([("authorization", "  bearer   id.secret ")], "id.secret"),
        ([("Authorization", "BEARER\tid.secret")], "id.secret"),
        ([("Authorization", "id.secret")], "id.secret"),
        ([("Authorization", "Basic eDp5")], "Basic eDp5"),
        ([("x-api-key", "id.secret")], "id.secret"),
        ([("X-API-Key", "id.secret"), ("Authorization", "Bearer id.secret")], "id.secret"),
        ([("Authorization", "Bearer k"), ("Authorization", "k")], "k"),
        ([("Authorization", "Bearer ")], None),
        ([("Authorization", "bearer")], None),
        ([("Authorization", ""), ("x-api-key", " ")], None),
        ([("Authorization", "Bearer "), ("x-api-key", "k")], "k"),
        ([("cookie", "k"), ("api-key", "k")], None),
    ],
)
def test_the_callers_key_is_found_in_every_spelling(headers: Pairs, key: str | None) -> None:
    assert caller_key(headers) == key


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Bearer a"), ("authorization", "Bearer b")],
        [("Authorization", "Bearer a"), ("x-api-key", "b")],
        [("x-api-key", "a"), ("X-Api-Key", "A")],
    ],
)
def test_two_different_keys_are_refused_without_repeating_them(headers: Pairs) -> None:
    with pytest.raises(ClientError, match="two different keys") as refused:
        caller_key(headers)
    assert refused.value.status == 400


@pytest.mark.parametrize("value", ["gzip", "br", "identity, gzip", "x", "gzip\r\n"])
def test_a_compressed_chat_body_is_refused(value: str) -> None:
    with pytest.raises(UnsupportedEncoding, match="send it without Content-Encoding") as refused:
        refuse_encoded([("Host", "x"), ("Content-Encoding", value)])
    assert refused.value.status == 415


@pytest.mark.parametrize("value", ["", "identity", " Identity "])
def test_a_body_as_it_is_may_say_so(value: str) -> None:
    refuse_encoded([("content-encoding", value), ("accept-encoding", "gzip")])


@pytest.mark.parametrize("value", ["a", "A-b_c.9", "x" * 64])
def test_a_plain_request_id_of_the_client_is_kept(value: str) -> None:
    assert request_id([("X-Request-ID", value)], lambda: "new") == value


@pytest.mark.parametrize("value", ["", "x" * 65, "a b", "a\n", "a\r\nb: c", "é", "a,b", "٣"])
def test_any_other_request_id_is_replaced(value: str) -> None:
    assert request_id([("host", "x"), ("x-request-id", value)], lambda: "new") == "new"


UPSTREAM: list[tuple[bytes, bytes]] = [
    (b"server", b"nginx/1.2.3"),
    (b"date", b"now"),
    (b"content-type", b"text/event-stream;charset=UTF-8"),
    (b"content-length", b"10"),
    (b"content-encoding", b"gzip"),
    (b"transfer-encoding", b"chunked"),
    (b"connection", b"keep-alive, X-Process-Time"),
    (b"set-cookie", b"acw_tc=1"),
    (b"strict-transport-security", b"max-age=1"),
    (b"alt-svc", b"h3"),
    (b"x-powered-by", b"x"),
    (b"location", b"http://elsewhere/"),
    (b"access-control-allow-origin", b"*"),
    (b"X-LOG-ID", b"2025"),
    (b"x-request-id", b"upstream's"),
    (b"x-process-time", b"0.1"),
    (b"cache-control", b"no-store"),
    (b"etag", b'"e"'),
    (b"vary", b"Origin"),
    (b"vary", b"Accept"),
    (b"retry-after", b"3"),
    (b"x-ratelimit-remaining", b"1"),
    (b"anthropic-ratelimit-unified-status", b"rejected"),
    (b"anthropic-bad name", b"x"),
    (b"content-disposition", "filename=你".encode()),
    (b"content-language", b"caf\xe9"),
    (b"last-modified", b"a\r\nset-cookie: b"),
]


def test_a_stream_comes_down_with_listed_headers_only() -> None:
    assert to_client(UPSTREAM, stream=True) == [
        ("content-type", "text/event-stream;charset=UTF-8"),
        ("x-log-id", "2025"),
        ("vary", "Origin"),
        ("vary", "Accept"),
        ("retry-after", "3"),
        ("x-ratelimit-remaining", "1"),
        ("anthropic-ratelimit-unified-status", "rejected"),
        ("content-disposition", "filename=你"),
        ("content-language", "café"),
    ]


def test_a_whole_body_keeps_what_describes_it() -> None:
    stream, whole = to_client(UPSTREAM, stream=True), to_client(UPSTREAM, stream=False)
    assert [pair for pair in whole if pair not in stream] == [
        ("content-length", "10"),
        ("content-encoding", "gzip"),
        ("cache-control", "no-store"),
        ("etag", '"e"'),
    ]


def test_our_own_headers_say_what_was_done() -> None:
    assert added(
        request_id="r-1",
        model="glm-4-flash",
        endpoint="cn",
        attempts=2,
        changes=("model", "thinking=disabled", "-tools"),
        reason="fastest",
        route="fast-chat",
        timings=[("connect", 0.0012), ("first_event", 1.5)],
        stream=True,
        should_retry=False,
        retry_after=2.01,
    ) == [
        ("x-request-id", "r-1"),
        ("x-glm-proxy-model", "glm-4-flash"),
        ("x-glm-proxy-endpoint", "cn"),
        ("x-glm-proxy-attempts", "2"),
        ("x-glm-proxy-route", "fast-chat"),
        ("x-glm-proxy-reason", "fastest"),
        ("x-glm-proxy-changes", "model, thinking=disabled, -tools"),
        ("server-timing", "connect;dur=1.2, first_event;dur=1500.0"),
        ("x-accel-buffering", "no"),
        ("cache-control", "no-cache"),
        ("x-should-retry", "false"),
        ("retry-after", "3"),
    ]
    assert added(request_id="r", should_retry=True)[-1] == ("x-should-retry", "true")


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.0, "0"), (-3.0, "0"), (0.2, "1"), (1.0, "1"), (30.5, "31")]
)
def test_a_wait_is_told_in_whole_seconds_rounded_up(seconds: float, said: str) -> None:
    assert added(request_id="r", retry_after=seconds)[-1] == ("retry-after", said)


def test_what_is_not_known_is_not_said() -> None:
    assert added(request_id="r-1") == [("x-request-id", "r-1")]


NAME = re.compile(r"[a-z0-9_-]+")
VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]*")
HOSTILE = st.text() | st.sampled_from(["a\r\nb: c", "\0", "\n", "é", "\ud800", "x" * 99999])


@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_no_value_we_add_can_break_out_of_its_line(a: str, b: str, c: str, d: str) -> None:
    headers = added(
        request_id=a, model=b, endpoint=c, timings=[(d, 1.0)], stream=True,
        changes=(a, b), reason=c, route=d,
    )  # fmt: skip
    for name, value in headers:
        assert NAME.fullmatch(name)
        assert re.fullmatch(r"[ -~]{0,512}", value)


NAMES = HOSTILE | st.sampled_from(["x-app", "Anthropic-", "x-stainless-", "Authorization", "range"])
SUFFIXED = st.builds(lambda name, more: name + more, NAMES, st.sampled_from(["", "\n", "é", " "]))


@given(st.lists(st.tuples(SUFFIXED, HOSTILE)), st.booleans())
def test_no_header_of_the_client_breaks_out_upstream(headers: Pairs, chat: bool) -> None:
    for name, value in up(headers, chat=chat):
        assert re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]+", name)
        assert VALUE.fullmatch(value)


@given(st.lists(st.tuples(st.binary() | st.just(b"anthropic-\n"), st.binary())), st.booleans())
def test_no_header_of_the_upstream_breaks_out_downstream(
    headers: list[tuple[bytes, bytes]], stream: bool
) -> None:
    pairs = [*headers, *((b"vary", value) for _, value in headers)]
    for name, value in to_client(pairs, stream=stream):
        assert NAME.fullmatch(name)
        assert VALUE.fullmatch(value)


# --- another proxy in front of the endpoint ------------------------------------------------------


def test_what_another_proxy_says_of_itself_comes_under_names_of_its_own() -> None:
    said = [
        (b"server-timing", b"sent;dur=1.0, headers;dur=2.0"),
        (b"x-glm-proxy-model", b"glm-4-flash"),
        (b"x-glm-proxy-upstream-endpoint", b"cn"),
        (b"x-log-id", b"1"),
    ]
    assert to_client(said, stream=True) == [
        ("x-glm-proxy-upstream-timing", "sent;dur=1.0, headers;dur=2.0"),
        ("x-glm-proxy-upstream-model", "glm-4-flash"),
        ("x-glm-proxy-upstream-upstream-endpoint", "cn"),
        ("x-log-id", "1"),
    ]


def test_the_times_of_who_is_no_proxy_of_ours_stay_here() -> None:
    assert to_client([(b"server-timing", b"db;dur=53")], stream=True) == []


def test_an_upstream_cannot_speak_in_our_name() -> None:
    """Ours are added after; what comes from upstream never has their names."""
    said = [(b"x-glm-proxy-model", b"a"), (b"x-request-id", b"b"), (b"server-timing", b"c")]
    ours = {name for name, _ in added(request_id="r", model="m", timings=[("sent", 1.0)])}
    assert ours.isdisjoint(name for name, _ in to_client(said, stream=False))
