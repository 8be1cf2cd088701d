"""Request targets: which API a path belongs to, and the upstream URL built from it.

The path is judged as it was sent, undecoded. What two parsers could read differently (dot
segments, encoded slashes, empty segments, parameters, double encoding) never goes upstream, so
no spelling of a path escapes the prefix it was let in by, or the routing of the chat paths.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final
from urllib.parse import unquote_to_bytes

from proxy.errors import ClientError, MethodNotAllowed, NotFound


class Kind(StrEnum):
    """What an exchange does with a request."""

    CHAT = "chat"
    MODELS = "models"
    PASSTHROUGH = "passthrough"
    # Only where a route asks for it; else these paths are passed through.
    RESPONSES = "responses"
    """The Responses API."""
    SOCKET = "socket"
    """A WebSocket is asked for, on a path that has one."""
    STREAMS = "streams"
    """An answer whose client left is fetched."""
    MEMORY = "memory"
    """What is remembered is deleted."""


class Api(StrEnum):
    """The upstream's APIs; each has its own path prefix."""

    PAAS = "paas"
    CODING = "coding"
    ANTHROPIC = "anthropic"
    AGENTS = "agents"


@dataclass(frozen=True, slots=True)
class Target:
    """A request target, understood."""

    kind: Kind
    dialect: str
    """`openai` or `anthropic`."""
    api: Api
    tail: str
    """The path below the API's prefix, as sent; empty or beginning with `/`."""
    query: str
    """As sent, without the `?`."""
    path: str
    """The whole path as sent, without the query: for routes and the log, never a label."""
    pattern: str
    """A label for metrics, one of a few: `/v1/chat/completions`, `/v1/*`."""


# The public surface: docs.z.ai/api-reference and docs.bigmodel.cn, November 2026.
_PREFIXES: Final = {
    "/v1": Api.PAAS,
    "/api/paas/v4": Api.PAAS,
    "/api/coding/paas/v4": Api.CODING,
    "/api/anthropic": Api.ANTHROPIC,
    "/api/v1/agents": Api.AGENTS,
}
_CODING_PATH: Final = "/api/coding/paas/v4"
_AGENTS_PATH: Final = "/api/v1/agents"
_METHODS: Final = ("GET", "POST", "PUT", "PATCH", "DELETE")


def _own(kind: Kind, path: str, api: Api, tail: str) -> Target:
    dialect = "anthropic" if api is Api.ANTHROPIC else "openai"
    return Target(kind, dialect, api, tail, "", path, path)


_CHAT: Final = "/chat/completions"
_OWN: Final = {
    target.path: target
    for target in (
        _own(Kind.CHAT, "/v1/chat/completions", Api.PAAS, _CHAT),
        _own(Kind.CHAT, "/api/paas/v4/chat/completions", Api.PAAS, _CHAT),
        _own(Kind.CHAT, "/api/coding/paas/v4/chat/completions", Api.CODING, _CHAT),
        _own(Kind.CHAT, "/v1/messages", Api.ANTHROPIC, "/v1/messages"),
        _own(Kind.CHAT, "/api/anthropic/v1/messages", Api.ANTHROPIC, "/v1/messages"),
        _own(Kind.MODELS, "/v1/models", Api.PAAS, "/models"),
        _own(Kind.MODELS, "/api/paas/v4/models", Api.PAAS, "/models"),
    )
}
_KNOWN: Final = "known are " + ", ".join(_OWN) + " and what lies below " + ", ".join(_PREFIXES)


_RESPONSES: Final = "/v1/responses"
_STREAMS: Final = "/v1/streams"
_MEMORY: Final = "/v1/memory"
_SOCKETS: Final = {
    path: Target(Kind.SOCKET, "openai", api, tail, "", path, path)
    for path, api, tail in (
        ("/v1/chat/completions", Api.PAAS, _CHAT),
        ("/api/paas/v4/chat/completions", Api.PAAS, _CHAT),
        ("/api/coding/paas/v4/chat/completions", Api.CODING, _CHAT),
        (_RESPONSES, Api.PAAS, "/responses"),
        ("/v1/realtime", Api.PAAS, "/realtime"),
        ("/api/paas/v4/realtime", Api.PAAS, "/realtime"),
    )
}
_NO_KINDS: Final = frozenset[Kind]()


def resolve(
    method: str, raw_path: str, serves: frozenset[Kind] = _NO_KINDS, *, upgrade: bool = False
) -> Target:
    """Read the request target `raw_path`, as it stood in the request line.

    `serves`: the kinds that are only there where a route asks for them. `upgrade`: the request asks
    for a WebSocket.

    Raises NotFound, MethodNotAllowed, and ClientError for a target that is not a path (RFC 9112
    §3.2.2 to §3.2.4).
    """
    wants_socket = upgrade and Kind.SOCKET in serves
    own = _OWN.get(raw_path)
    if own is not None and not wants_socket:  # by far the most requests
        _allow(own, method)
        return own
    if not raw_path.startswith("/"):
        _refuse_form(raw_path)
    path, _, query = raw_path.partition("?")
    decoded = _checked(path, query)
    target = (_SOCKETS.get(path) if wants_socket else None) or _optional(path, serves)
    if target is not None:
        target = replace(target, query=query)
    else:
        target = _own_target(path, decoded, query) or _passthrough(path, query)
    _allow(target, method)
    return target


def _optional(path: str, serves: frozenset[Kind]) -> Target | None:
    """A path that is ours only where a route asks for it; `tail` is what stands below it."""
    for kind, base in _OPTIONAL:
        if kind in serves and (path == base or path.startswith(base + "/")):
            tail = path[len(base) :]
            return Target(kind, "openai", Api.PAAS, tail, "", path, base + "/*" if tail else base)
    return None


_OPTIONAL: Final = (
    (Kind.RESPONSES, _RESPONSES),
    (Kind.STREAMS, _STREAMS),
    (Kind.MEMORY, _MEMORY),
)


def dialect_of(raw_path: str) -> str:
    """The dialect that errors are told in, also for a path that turns out to be none of ours."""
    return "anthropic" if raw_path.startswith(("/v1/messages", "/api/anthropic")) else "openai"


def _refuse_form(raw_path: str) -> None:
    if raw_path == "*":
        form = "the asterisk form"
    elif "://" in raw_path:
        form = "a full URL"
    else:
        form = "no path"
    raise ClientError(
        f"the request target is {form}; send the path only, such as /v1/chat/completions"
    )


# RFC 3986 §3.3 without `;`: path parameters are where servers differ most.
_PATH: Final = re.compile(r"(?:/(?:[A-Za-z0-9._~!$&'()*+,=:@-]|%[0-9A-Fa-f]{2})+)+")
_QUERY: Final = re.compile(r"[^\x00-\x20#\x7f-\U0010ffff]*")
_DECODED: Final = re.compile(rb"[\x20-\x7e]+")
_ENCODED: Final = re.compile(rb"%[0-9A-Fa-f]{2}|[\\;]")


def _checked(path: str, query: str) -> str:
    """The decoded path, when no segment of it could be read in two ways. Raises NotFound."""
    if not _PATH.fullmatch(path):
        raise NotFound(
            "the path has an empty segment, a trailing slash or a character that a path must not"
            " have; spell it as documented"
        )
    if not _QUERY.fullmatch(query):
        raise NotFound("the query has a character that must be percent-encoded; encode it")
    for segment in path.split("/")[1:]:
        plain = unquote_to_bytes(segment)
        if plain in (b".", b".."):
            raise NotFound("the path has a dot segment; send the path it leads to")
        if b"/" in plain or not _DECODED.fullmatch(plain) or _ENCODED.search(plain):
            raise NotFound("the path has a percent-encoding that no path needs; spell it plainly")
    return unquote_to_bytes(path).decode("ascii")


def _own_target(path: str, decoded: str, query: str) -> Target | None:
    """The path as one of our own; NotFound for another spelling of one."""
    own = _OWN.get(path)
    if own is not None:
        return Target(own.kind, own.dialect, own.api, own.tail, query, path, own.pattern)
    if decoded.lower() in _OWN:
        raise NotFound(f"there is no such path; did you mean {decoded.lower()}?")
    return None


def _passthrough(path: str, query: str) -> Target:
    for prefix, api in _PREFIXES.items():
        if not path.startswith(prefix):
            continue
        tail = path[len(prefix) :]
        if not tail.startswith("/") and not (tail == "" and api is Api.AGENTS):
            continue
        if prefix == "/v1" and tail.startswith("/messages/"):
            # count_tokens and batches: what Anthropic's SDKs call with the same base URL
            api, tail = Api.ANTHROPIC, path
        dialect = "anthropic" if api is Api.ANTHROPIC else "openai"
        return Target(Kind.PASSTHROUGH, dialect, api, tail, query, path, prefix + "/*")
    raise NotFound(f"there is no such path; {_KNOWN}")


_ALLOWED: Final = {
    Kind.CHAT: ("POST",),
    Kind.MODELS: ("GET",),
    Kind.PASSTHROUGH: _METHODS,
    Kind.RESPONSES: ("GET", "POST", "DELETE"),
    Kind.SOCKET: ("GET",),
    Kind.STREAMS: ("GET",),
    Kind.MEMORY: ("DELETE",),
}


def _allow(target: Target, method: str) -> None:
    allowed = _ALLOWED[target.kind]
    if method not in allowed:
        allow = ", ".join(allowed)
        raise MethodNotAllowed(f"this path takes {allow} only", allow=allow)


def upstream_url(
    target: Target,
    base_url: str,
    *,
    paas_path: str = "/api/paas/v4",
    anthropic_path: str = "/api/anthropic",
) -> str:
    """The URL to call: everything but the checked tail and the query is ours.

    `base_url` is scheme://host[:port][/prefix]. Of its path alone the path to call is made.
    """
    prefixes = {
        Api.PAAS: paas_path,
        Api.CODING: _CODING_PATH,
        Api.ANTHROPIC: anthropic_path,
        Api.AGENTS: _AGENTS_PATH,
    }
    url = f"{base_url.rstrip('/')}{prefixes[target.api]}{target.tail}"
    return f"{url}?{target.query}" if target.query else url
