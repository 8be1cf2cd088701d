"""The one header policy, both directions: what passes is listed, everything else stays here.

Towards the upstream a list keeps hop-by-hop tricks, cookies and forwarding headers out; towards
the client it keeps out the upstream's cookies, server names and framing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from proxy import __version__
from proxy.core.wire.trace import PARENT, STATE
from proxy.errors import ClientError, UnsupportedEncoding

Pairs = Iterable[tuple[str, str]]

HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Valid for one connection only (RFC 9110 §7.6.1), with what Connection names besides."""

USER_AGENT: Final = f"glm-proxy/{__version__}"
"""Only for callers without one: the upstream's edge answers those with 429, code 1305."""

JSON: Final = ("content-type", "application/json")
ALLOW: Final = "allow"
CHALLENGE: Final = ("www-authenticate", 'Bearer realm="glm-proxy"')
"""With every 401 (RFC 9110 §11.6.1, RFC 6750 §3)."""
DEADLINE: Final = "x-glm-proxy-timeout-"
"""How the headers begin that set deadlines: see `proxy.core.policy.deadlines`."""

# --- towards the upstream ----------------------------------------------------------------------

_CREDENTIALS: Final = frozenset({"authorization", "x-api-key"})
_TRACE: Final = frozenset({PARENT, STATE})
_REQUEST: Final = (
    _CREDENTIALS
    | _TRACE
    | {
        "accept",
        "accept-language",
        "content-type",
        # Who is calling: the upstream recognises clients by these (User-Agent decides throttling).
        "http-referer",
        "referer",
        "user-agent",
        "x-app",
        "x-title",
        # The vendor's SDKs.
        "source_type",
        "x-request-sdk",
        "x-source-channel",
        "zai-sdk-ver",
        "zhipuai-sdk-ver",
        # Identity of a call.
        "idempotency-key",
        "x-claude-code-session-id",
        "x-client-request-id",
        "x-session-id",
    }
)
_REQUEST_PREFIXES: Final = ("anthropic-", "x-stainless-")
_BODIES: Final = frozenset(
    {
        "content-disposition",
        "content-encoding",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "range",
    }
)
"""For passthrough alone, whose bodies we do not read."""

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
# RFC 9110 §5.5 allows no control character but the tab. Surrogates are bytes that are not UTF-8.
_UNSAFE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


def to_upstream(
    headers: Pairs,
    *,
    dialect: str,
    api_key: str | None,
    chat: bool,
    request_id: str,
    trace: Sequence[tuple[str, str]] | None = None,
) -> list[tuple[str, str]]:
    """The request headers to send, names in lower case; host and framing are the sender's.

    `api_key` replaces all credentials of the caller; without one they go as they came. `chat`: the
    bodies are read here, both of them. `trace`: which trace it is of, in place of what the caller
    said; None: that goes as it came.
    """
    pairs = [(name.lower(), value) for name, value in headers]
    dropped = _hop_by_hop(pairs)
    if api_key is not None:
        dropped |= _CREDENTIALS
    if trace is not None:
        dropped |= _TRACE
    passed = [
        (name, value)
        for name, value in pairs
        if _may_go_up(name, chat=chat) and name not in dropped and _is_safe(value)
    ]
    passed += _required(passed, chat=chat)
    passed.append(("accept-encoding", _accept_encoding(pairs, identity=chat)))
    passed.append(("x-request-id", request_id))
    if trace is not None:
        passed += trace
    if api_key is not None:
        passed.append(_credential(dialect, api_key))
    return passed


def _is_safe(value: str) -> bool:
    return value.isprintable() or _UNSAFE.search(value) is None


def _hop_by_hop(pairs: Pairs) -> frozenset[str]:
    """What ends here whatever the lists say: the known names, and those Connection names."""
    nominated = {
        option.strip().lower()
        for name, value in pairs
        if name == "connection"
        for option in value.split(",")
    }
    return HOP_BY_HOP | nominated


def _may_go_up(name: str, *, chat: bool) -> bool:
    if name in _REQUEST or (not chat and name in _BODIES):
        return True
    return name.startswith(_REQUEST_PREFIXES) and _TOKEN.fullmatch(name) is not None


def _required(passed: list[tuple[str, str]], *, chat: bool) -> list[tuple[str, str]]:
    """What the upstream refuses to be without, when the caller did not say it."""
    names = {name for name, _ in passed}
    missing = []
    if "user-agent" not in names:
        missing.append(("user-agent", USER_AGENT))
    if chat and "content-type" not in names:
        missing.append(JSON)
    return missing


def _accept_encoding(pairs: list[tuple[str, str]], *, identity: bool) -> str:
    """An answer that is read here must come as it is; other bodies only pass through."""
    offered = [value for name, value in pairs if name == "accept-encoding"]
    value = ", ".join(offered)
    return value if value and not identity and _is_safe(value) else "identity"


def _credential(dialect: str, api_key: str) -> tuple[str, str]:
    if dialect == "anthropic":
        return "x-api-key", api_key
    return "authorization", f"Bearer {api_key}"


def caller_key(headers: Pairs) -> str | None:
    """The caller's own key, without `Bearer`, which not every client writes; None without one.

    Raises ClientError when two different keys were sent: the two of us might choose differently.
    """
    keys = {_key(value) for name, value in headers if name.lower() in _CREDENTIALS} - {""}
    if len(keys) > 1:
        raise ClientError("the request has two different keys; send one, in Authorization")
    return keys.pop() if keys else None


def _key(value: str) -> str:
    scheme, *rest = value.split(maxsplit=1) or [""]
    if scheme.lower() == "bearer":
        return rest[0].strip() if rest else ""
    return value.strip()


def refuse_encoded(headers: Pairs) -> None:
    """Raises UnsupportedEncoding for a compressed body: one that is to be read comes as it is."""
    for name, value in headers:
        if name.lower() == "content-encoding" and value.strip().lower() not in ("", "identity"):
            raise UnsupportedEncoding("the body is compressed; send it without Content-Encoding")


def wants_websocket(headers: Pairs) -> bool:
    """Whether the request asks for a WebSocket (RFC 6455 §4.2.1)."""
    return any(
        name.lower() == "upgrade" and "websocket" in value.lower() for name, value in headers
    )


def names_anthropic(headers: Pairs) -> bool:
    """Whether the caller is a client of Anthropic's, which says so in every request."""
    return any(name.lower() == "anthropic-version" for name, _ in headers)


def is_form(headers: Pairs) -> bool:
    """Whether the request's body is a form, which is how files are sent (RFC 7578)."""
    return any(
        name.lower() == JSON[0] and value.lower().startswith("multipart/form-data")
        for name, value in headers
    )


_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY_LIKE: Final = re.compile(r"(?:sk|ak|pk)-|eyJ|[0-9A-Za-z]{16,}\.[0-9A-Za-z]{8,}")
"""What keys begin with, and GLM's own `id.secret`: an id is told in logs and answers."""


def request_id(headers: Pairs, generate: Callable[[], str]) -> str:
    """The client's X-Request-Id when it is a plain word of up to 64 characters, or a new one.

    One that looks like a key was put there by mistake.
    """
    for name, value in headers:
        if name.lower() == "x-request-id" and _REQUEST_ID.fullmatch(value):
            return generate() if _KEY_LIKE.match(value) else value
    return generate()


# --- towards the client ------------------------------------------------------------------------

_RESPONSE: Final = frozenset(
    {
        "accept-ranges",
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-length",
        "content-range",
        "content-type",
        "etag",
        "last-modified",
        "request-id",
        "retry-after",
        "retry-after-ms",
        "vary",
        "x-log-id",
        "x-process-time",
    }
)
_OURS: Final = "x-glm-proxy-"
_NEXT_HOP: Final = f"{_OURS}upstream-"
"""Before what another glm-proxy, the one that was asked, says of itself: where proxies stand in a
row, the client sees the times and choices of each."""
_RESPONSE_PREFIXES: Final = ("anthropic-", "x-ratelimit-", _NEXT_HOP)
_OF_WHOLE_BODIES: Final = frozenset(
    {
        "accept-ranges",
        "cache-control",
        "content-encoding",
        "content-length",
        "content-range",
        "etag",
        "last-modified",
    }
)
"""Untrue of a stream that we read and write again, or said by us for it."""


def to_client(headers: Iterable[tuple[bytes, bytes]], *, stream: bool) -> list[tuple[str, str]]:
    """The upstream's response headers the client gets; ours are `added`."""
    pairs = [(name.decode("latin-1").lower(), _text(value)) for name, value in headers]
    dropped = _hop_by_hop(pairs)
    if stream:
        dropped |= _OF_WHOLE_BODIES
    if any(name.startswith(_OURS) for name, _ in pairs):
        pairs = [(_of_next_hop(name), value) for name, value in pairs]
    return [
        (name, value)
        for name, value in pairs
        if _may_come_down(name) and name not in dropped and _is_safe(value)
    ]


def content_of(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """Content-Type and Content-Encoding of a response head, in lower case; empty without."""
    kind = encoding = b""
    for name, value in headers:
        if name == b"content-type":
            kind = value.lower()
        elif name == b"content-encoding":
            encoding = value.strip().lower()
    return kind, encoding


_SAID_ANEW: Final = frozenset({"content-encoding", "content-length"})


def said_anew(headers: Pairs, *, as_json: bool) -> list[tuple[str, str]]:
    """Headers of a whole answer that was read here, without what is no longer true of it.

    `as_json`: its body is JSON now, whatever it was.
    """
    kept = [(name, value) for name, value in headers if name not in _SAID_ANEW]
    if not as_json:
        return kept
    return [(name, value) for name, value in kept if name != JSON[0]] + [JSON]


def _text(value: bytes) -> str:
    """Header bytes as text: UTF-8 when they are (it is what is written again), else Latin-1."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _of_next_hop(name: str) -> str:
    """A header's name as the client gets it from us, of an answer by another glm-proxy."""
    if name.startswith(_OURS):
        return _NEXT_HOP + name.removeprefix(_OURS)
    return f"{_NEXT_HOP}timing" if name == "server-timing" else name


def _may_come_down(name: str) -> bool:
    if name in _RESPONSE:
        return True
    return name.startswith(_RESPONSE_PREFIXES) and _TOKEN.fullmatch(name) is not None


def added(
    *,
    request_id: str,
    model: str | None = None,
    endpoint: str | None = None,
    attempts: int | None = None,
    changes: Sequence[str] = (),
    reason: str | None = None,
    route: str | None = None,
    timings: Iterable[tuple[str, float]] = (),
    stream: bool = False,
    should_retry: bool | None = None,
    retry_after: float | None = None,
) -> list[tuple[str, str]]:
    """The response headers of our own; what is None is not known, or not to be said.

    `model` and `endpoint` are what served, `changes` what a route changed in the request, `route`
    and `reason` why; `timings` are stages and their seconds, as far as known; `should_retry` is
    what SDKs obey before their own judgement; `retry_after` is in seconds.
    """
    headers = [("x-request-id", _safe(request_id))]
    if model:
        headers.append(("x-glm-proxy-model", _safe(model)))
    if endpoint:
        headers.append(("x-glm-proxy-endpoint", _safe(endpoint)))
    if attempts is not None:
        headers.append(("x-glm-proxy-attempts", str(attempts)))
    if route:
        headers.append(("x-glm-proxy-route", _safe(route)))
    if reason:
        headers.append(("x-glm-proxy-reason", _safe(reason)))
    if changes:
        headers.append(("x-glm-proxy-changes", _safe(", ".join(changes))))
    stages = ", ".join(f"{stage};dur={seconds * 1000:.1f}" for stage, seconds in timings)
    if stages:
        headers.append(("server-timing", _safe(stages)))
    if stream:  # nginx, and what is like it, must not hold events back
        headers += [("x-accel-buffering", "no"), ("cache-control", "no-cache")]
    if should_retry is not None:
        headers.append(("x-should-retry", "true" if should_retry else "false"))
    if retry_after is not None:
        headers.append(("retry-after", str(max(0, math.ceil(retry_after)))))
    return headers


def _safe(value: str) -> str:
    """`value` as one line of visible ASCII, whatever it holds."""
    if value.isascii() and value.isprintable() and len(value) <= _LONGEST:
        return value
    return "".join(c if " " <= c <= "~" else "?" for c in value[:_LONGEST])


_LONGEST: Final = 512
