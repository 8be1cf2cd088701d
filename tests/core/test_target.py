"""Invariant: no spelling of a path reaches what it was not let in for."""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.wire.target import Api, Kind, resolve, upstream_url
from proxy.errors import ClientError, MethodNotAllowed, NotFound

HOST = "https://open.bigmodel.cn"
PAAS = f"{HOST}/api/paas/v4"
METHODS = [
    *("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT"),
    *("PROPFIND", "PRI", "get", "Post", "", "X"),
]


def url(method: str, path: str) -> str:
    return upstream_url(resolve(method, path), HOST)


@pytest.mark.parametrize(
    ("method", "path", "kind", "dialect", "api", "upstream", "pattern"),
    [
        ("POST", "/v1/chat/completions", "chat", "openai", "paas",
         f"{PAAS}/chat/completions", "/v1/chat/completions"),
        ("POST", "/api/paas/v4/chat/completions", "chat", "openai", "paas",
         f"{PAAS}/chat/completions", "/api/paas/v4/chat/completions"),
        ("POST", "/api/coding/paas/v4/chat/completions", "chat", "openai", "coding",
         f"{HOST}/api/coding/paas/v4/chat/completions", "/api/coding/paas/v4/chat/completions"),
        ("POST", "/v1/messages", "chat", "anthropic", "anthropic",
         f"{HOST}/api/anthropic/v1/messages", "/v1/messages"),
        ("POST", "/v1/messages?beta=true", "chat", "anthropic", "anthropic",
         f"{HOST}/api/anthropic/v1/messages?beta=true", "/v1/messages"),
        ("POST", "/api/anthropic/v1/messages", "chat", "anthropic", "anthropic",
         f"{HOST}/api/anthropic/v1/messages", "/api/anthropic/v1/messages"),
        ("GET", "/v1/models", "models", "openai", "paas", f"{PAAS}/models", "/v1/models"),
        ("GET", "/v1/models?limit=5", "models", "openai", "paas",
         f"{PAAS}/models?limit=5", "/v1/models"),
        ("GET", "/api/paas/v4/models", "models", "openai", "paas",
         f"{PAAS}/models", "/api/paas/v4/models"),
        ("GET", "/v1/models/glm-4.6", "passthrough", "openai", "paas",
         f"{PAAS}/models/glm-4.6", "/v1/*"),
        ("POST", "/v1/embeddings", "passthrough", "openai", "paas",
         f"{PAAS}/embeddings", "/v1/*"),
        ("DELETE", "/v1/files/file-1.a_b~c", "passthrough", "openai", "paas",
         f"{PAAS}/files/file-1.a_b~c", "/v1/*"),
        ("GET", "/api/paas/v4/files/1/content?x=a%2Fb&y", "passthrough", "openai", "paas",
         f"{PAAS}/files/1/content?x=a%2Fb&y", "/api/paas/v4/*"),
        ("GET", "/v1/files/a%20b%2e%41", "passthrough", "openai", "paas",
         f"{PAAS}/files/a%20b%2e%41", "/v1/*"),
        ("GET", "/v1/files/100%25", "passthrough", "openai", "paas",
         f"{PAAS}/files/100%25", "/v1/*"),
        ("GET", "/v1/files/...", "passthrough", "openai", "paas", f"{PAAS}/files/...", "/v1/*"),
        ("PUT", "/api/coding/paas/v4/models", "passthrough", "openai", "coding",
         f"{HOST}/api/coding/paas/v4/models", "/api/coding/paas/v4/*"),
        ("POST", "/v1/messages/count_tokens", "passthrough", "anthropic", "anthropic",
         f"{HOST}/api/anthropic/v1/messages/count_tokens", "/v1/*"),
        ("POST", "/v1/messages/batches?a=1", "passthrough", "anthropic", "anthropic",
         f"{HOST}/api/anthropic/v1/messages/batches?a=1", "/v1/*"),
        ("GET", "/v1/messagesx", "passthrough", "openai", "paas", f"{PAAS}/messagesx", "/v1/*"),
        ("PATCH", "/api/anthropic/v1/models", "passthrough", "anthropic", "anthropic",
         f"{HOST}/api/anthropic/v1/models", "/api/anthropic/*"),
        ("POST", "/api/v1/agents", "passthrough", "openai", "agents",
         f"{HOST}/api/v1/agents", "/api/v1/agents/*"),
        ("POST", "/api/v1/agents/async-result", "passthrough", "openai", "agents",
         f"{HOST}/api/v1/agents/async-result", "/api/v1/agents/*"),
        ("GET", "/v1/agents", "passthrough", "openai", "paas", f"{PAAS}/agents", "/v1/*"),
    ],
)  # fmt: skip
def test_each_path_has_its_api(
    method: str, path: str, kind: str, dialect: str, api: str, upstream: str, pattern: str
) -> None:
    target = resolve(method, path)
    assert (target.kind, target.dialect, target.api, target.pattern) == (
        kind,
        dialect,
        api,
        pattern,
    )
    assert target.path == path.partition("?")[0]
    assert target.query == path.partition("?")[2]
    assert upstream_url(target, HOST) == upstream


def test_the_apis_may_live_elsewhere_below_the_base_url() -> None:
    paths = {"paas_path": "/v4", "anthropic_path": "/claude"}
    base = "https://gateway/glm/"
    chat = resolve("POST", "/v1/chat/completions")
    messages = resolve("POST", "/api/anthropic/v1/messages")
    coding = resolve("POST", "/api/coding/paas/v4/chat/completions")
    agents = resolve("POST", "/api/v1/agents")
    assert upstream_url(chat, base, **paths) == "https://gateway/glm/v4/chat/completions"
    assert upstream_url(messages, base, **paths) == "https://gateway/glm/claude/v1/messages"
    assert (
        upstream_url(coding, base, **paths)
        == "https://gateway/glm/api/coding/paas/v4/chat/completions"
    )
    assert upstream_url(agents, base, **paths) == "https://gateway/glm/api/v1/agents"
    assert upstream_url(chat, "", **paths) == "/v4/chat/completions"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/v1/chat/completions", ["POST"]),
        ("/api/anthropic/v1/messages", ["POST"]),
        ("/v1/messages?beta=true", ["POST"]),
        ("/v1/models", ["GET"]),
        ("/v1/files", ["GET", "POST", "PUT", "PATCH", "DELETE"]),
        ("/api/v1/agents", ["GET", "POST", "PUT", "PATCH", "DELETE"]),
    ],
)
def test_only_listed_methods_go_up(method: str, path: str, allow: list[str]) -> None:
    if method in allow:
        assert resolve(method, path).path == path.partition("?")[0]
        return
    with pytest.raises(MethodNotAllowed) as refused:
        resolve(method, path)
    assert refused.value.allow == ", ".join(allow)
    assert refused.value.status == 405


@pytest.mark.parametrize(
    ("target", "form"),
    [
        ("*", "asterisk"),
        ("http://127.0.0.1/v1/chat/completions", "full URL"),
        ("https://other/v1/models", "full URL"),
        ("HTTP://other/v1/models", "full URL"),
        ("open.bigmodel.cn:443", "no path"),
        ("", "no path"),
        ("v1/models", "no path"),
        ("?x=1", "no path"),
    ],
)
def test_a_target_that_is_not_a_path_is_refused_by_name(target: str, form: str) -> None:
    with pytest.raises(ClientError, match=form) as refused:
        resolve("POST", target)
    assert refused.value.status == 400


UNKNOWN = [
    "/", "/v1", "/v1/", "/v2/models", "/V1/models", "/api", "/api/paas", "/api/paas/v4",
    "/api/paas/v4x/models", "/api/paas/v3/models", "/api/v1/agentsx", "/api/v1/agent",
    "/api/v1/Agents", "/api/monitor/usage/quota/limit", "/admin", "/metrics", "/livez",
    "/api/coding/paas/v4", "/api/anthropic", "/v1?x=1", "/llm-application/open",
    "/%761/models", "/api%2fpaas/v4/models",
]  # fmt: skip

TRICKS = [
    "/v1/../admin", "/v1/..", "/v1/.", "/v1/./models", "/v1/files/..", "/v1/files/../../x",
    "/v1/..;/admin", "/v1/files;x=1", "/v1/;", "/v1//models", "//v1/models", "/v1/files//",
    "/v1/files/", "/v1/chat/completions/", "/v1/chat//completions", "/v1/messages/",
    "/v1/chat/completions;a=b", "/v1/CHAT/completions", "/v1/Chat/Completions",
    "/api/paas/v4/chat/COMPLETIONS", "/v1/Messages", "/api/anthropic/v1/MESSAGES",
    "/v1/Models", "/v1/%63hat/completions", "/v1/chat%2fcompletions", "/v1/chat/completion%73",
    "/v1/m%65ssages", "/v1/%2e%2e/admin", "/v1/%2E./admin", "/v1/.%2e/admin", "/v1/%2e",
    "/v1/..%2fadmin", "/v1/..%5cadmin", "/v1/..\\admin", "/v1/files\\x", "/v1/%252e%252e/admin",
    "/v1/%252E%252e/x", "/v1/files%252fx", "/v1/%25252e%25252e/x", "/v1/files/%00",
    "/v1/files/%0d%0aX:1", "/v1/files/%7f", "/v1/files/%1b", "/v1/files/\x00", "/v1/files/\r\n",
    "/v1/files/\x7f", "/v1/files/a b", "/v1/files/\u00e9", "/v1/files/\udcff", "/v1/files/\uff0e",
    "/v1/files/%c0%ae%c0%ae", "/v1/files/%e4%bd%a0", "/v1/files/%ff", "/v1/files/%", "/v1/files/%2",
    "/v1/files/%zz", "/v1/files#x", "/v1/models#", "/v1/files?x=#", "/v1/files?x=\r\n",
    "/v1/files?a b", "/v1/files?\u00e9", "/v1/files?\x00", '/v1/files/"', "/v1/files/<x>",
    "/v1/files/{x}", "/v1/files/x|y", "/v1/files/^", "/v1/files/`", "/v1/files/%5c",
    "/v1/files/%3b", "/v1/files/a%2fb", "/v1/files/%2F", "/v1/%2e%2e%2f%2e%2e%2fadmin",
    "/api/paas/v4/../../v1/agents", "/api/paas/v4/%2e%2e/v3/x", "/api/anthropic/../paas/v4/x",
    "/api/anthropic/v1/%2e%2e/%2e%2e/paas/v4/chat/completions", "/api/v1/agents/..",
]  # fmt: skip


@pytest.mark.parametrize("path", [*UNKNOWN, *TRICKS])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_paths_are_not_found(method: str, path: str) -> None:
    with pytest.raises(NotFound) as refused:
        resolve(method, path)
    assert refused.value.status == 404


def test_the_message_says_what_to_send() -> None:
    with pytest.raises(NotFound, match="did you mean /v1/chat/completions"):
        resolve("POST", "/v1/Chat/Completions")
    with pytest.raises(NotFound, match=r"known are /v1/chat/completions, .* below /v1, /api"):
        resolve("POST", "/chat/completions")


PREFIXES = ("/api/paas/v4/", "/api/coding/paas/v4/", "/api/anthropic/", "/api/v1/agents")
CHATS = {"/api/paas/v4/chat/completions", "/api/coding/paas/v4/chat/completions",
         "/api/anthropic/v1/messages"}  # fmt: skip


def check_stays_inside(path: str) -> None:
    """Whatever reads the upstream path once more, twice more, in any case, finds it inside."""
    try:
        target = resolve("POST", path)
    except ClientError:
        return
    assert target.kind is not Kind.MODELS
    sent = upstream_url(target, "")
    assert "#" not in sent
    assert sent.isascii()
    assert sent.isprintable()
    sent = sent.partition("?")[0]
    for reading in (sent, unquote(sent), unquote(unquote(sent))):
        plain = posixpath.normpath(reading.replace("\\", "/").partition(";")[0])
        assert plain.startswith(PREFIXES)
        assert (plain.lower() in CHATS) is (target.kind is Kind.CHAT)


ENCODINGS: list[Callable[[str], str]] = [
    lambda path: path,
    lambda path: path.replace(".", "%2e").replace("\\", "%5C").replace(";", "%3b"),
    lambda path: path.replace("%", "%25"),
    lambda path: "/" + "".join(f"%{ord(c):02X}" if c != "/" else c for c in path[1:]),
    lambda path: path.replace("/", "%2f").replace("%2f", "/", 1),
]


@pytest.mark.parametrize("path", TRICKS)
def test_no_trick_in_any_encoding_leaves_its_prefix(path: str) -> None:
    for encode in ENCODINGS:
        check_stays_inside(encode(path))
        for prefix in PREFIXES:
            check_stays_inside(prefix.rstrip("/") + encode(path).removeprefix("/v1"))


PIECES = st.sampled_from(
    ["/", ".", "..", "%2e", "%2f", "%25", "%5c", "%", "2e", ";", "\\", "?", "#", "chat", "v1",
     "completions", "Completions", "messages", "api", "paas", "v4", "\0", "a", "%00", "é"]
)  # fmt: skip


@given(st.sampled_from(["/v1/", *PREFIXES, ""]), st.lists(PIECES, max_size=9) | st.text())
@example("/v1/", ["messages", "/", "%2e", "%2e"])
def test_no_made_up_path_leaves_its_prefix(prefix: str, pieces: list[str] | str) -> None:
    check_stays_inside(prefix + "".join(pieces))


@given(st.text(max_size=8), st.text())
def test_nothing_but_a_client_error_comes_of_any_target(method: str, path: str) -> None:
    try:
        told: object = resolve(method, path).pattern
    except ClientError as error:
        told = error.message
    assert told


def test_kinds_and_apis_are_words_for_logs() -> None:
    assert str(Kind.CHAT) == "chat"
    assert str(Api.CODING) == "coding"
