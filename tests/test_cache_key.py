"""Which questions are the same: never two that could be answered differently."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Endpoint
from proxy.core.policy.access import Caller, make
from proxy.core.policy.cache import is_complete, key_of, question, wish_of
from proxy.core.policy.route import Candidate
from proxy.core.policy.scope import scope_of
from proxy.core.wire.request import parse
from proxy.core.wire.target import resolve

CHAT = resolve("POST", "/v1/chat/completions")
FIRST = Candidate("glm-4.6", Endpoint(name="up", base_url="http://127.0.0.1:1"))
FIELDS: dict[str, Any] = {
    "model": "glm-4.6",
    "messages": [{"role": "user", "content": "hi"}],
    "temperature": 0.5,
    "stop": None,
}


def asked(body: bytes | dict[str, Any], dialect: str = "openai") -> bytes:
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    return question(raw, parse(raw, dialect=dialect))


def key(body: dict[str, Any], *headers: tuple[str, str], **changed: Any) -> str:
    raw = orjson.dumps(body)
    request = parse(raw, dialect="openai")
    said: dict[str, Any] = {"route": "r", "candidate": FIRST, "target": CHAT, **changed}
    return key_of(said["route"], said["candidate"], said["target"], headers, request, raw)


def test_the_order_of_members_and_the_spaces_between_them_say_nothing() -> None:
    one = b'{"model":"m","messages":[{"role":"user","content":"\\u4f60 \\/"}],"temperature":1e2}'
    other = (
        b'{ "temperature" : 100.0, "messages": [{"content":"\xe4\xbd\xa0 /", "role":"user"}],'
        b'\n"model":"m"}'
    )
    assert asked(one) == asked(other)


@pytest.mark.parametrize(
    "more",
    [
        {"stream": True},
        {"stream": False},
        {"stream": None},
        {"stream_options": {"include_usage": True}},
        {"request_id": "r-1"},
    ],
    ids=str,
)
def test_what_cannot_change_the_answer_is_no_part_of_the_question(more: dict[str, Any]) -> None:
    assert asked(FIELDS | more) == asked(FIELDS)


@pytest.mark.parametrize(
    "more",
    [
        {"model": "glm-4.5"},
        {"messages": [{"role": "user", "content": "hi "}]},
        {"messages": [{"role": "system", "content": "hi"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
        {"temperature": 0.50001},
        {"temperature": None},
        {"stop": ["x"]},
        {"do_sample": False},
        {"seed": 1},
        {"max_tokens": 10},
        {"user": "anna"},
        {"user_id": "anna"},
        {"metadata": {"user_id": "anna"}},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"thinking": {"type": "disabled"}},
        {"response_format": {"type": "json_object"}},
        {"tool_stream": True},
        {"not_known": 0},
    ],
    ids=str,
)
def test_everything_else_is(more: dict[str, Any]) -> None:
    assert asked(FIELDS | more) != asked(FIELDS)
    assert asked(FIELDS | more) == asked(dict(sorted((FIELDS | more).items())))


def test_true_is_not_one_and_one_is_not_its_float() -> None:
    seeds = [1, 1.0, True, "1", [1], None]
    assert len({asked(FIELDS | {"seed": seed}) for seed in seeds}) == len(seeds)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b'{"a":1,"a":2}', b'{"a":2}'),
        (b'{"a":1,"a":2}', b'{"a":2,"a":2}'),
        (b"18446744073709551617", b"18446744073709551618"),
        (b"0.1", b"0.10000000000000000001"),
        (b"1e-400", b"0.0"),
    ],
)
def test_what_other_parsers_could_read_differently_is_not_the_same(
    one: bytes, other: bytes
) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"x":%b}'
    assert asked(body % one) != asked(body % other)
    assert asked(body % one) == asked((body % one).replace(b'"x"', b'"stream":true, "x"'))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


def _same(one: object, other: object) -> bool:
    """As JSON: the same types, all the way down."""
    return orjson.dumps(one, option=orjson.OPT_SORT_KEYS) == orjson.dumps(
        other, option=orjson.OPT_SORT_KEYS
    )


@given(one=JSON, other=JSON)
def test_two_questions_are_the_same_only_if_their_values_are(one: Any, other: Any) -> None:
    if asked(FIELDS | {"x": one}) == asked(FIELDS | {"x": other}):
        assert _same(one, other)
    again = orjson.loads(orjson.dumps(one))
    assert asked(FIELDS | {"x": one}) == asked(FIELDS | {"x": again})


def test_where_it_is_asked_and_in_which_language_are_part_of_the_key() -> None:
    keys = [
        key(FIELDS),
        key(FIELDS, route="s"),
        key(FIELDS, candidate=FIRST._replace(model="glm-4.5")),
        key(FIELDS, candidate=Candidate("glm-4.6", Endpoint(name="b", base_url="http://[::1]:1"))),
        key(FIELDS, target=resolve("POST", "/api/coding/paas/v4/chat/completions")),
        key(FIELDS, target=resolve("POST", "/v1/messages")),
        key(FIELDS, target=resolve("POST", "/v1/chat/completions?a=b")),
        key(FIELDS, ("accept-language", "zh-CN")),
        key(FIELDS, ("anthropic-beta", "x")),
        key(FIELDS, ("anthropic-beta", "x"), ("anthropic-version", "y")),
        key(FIELDS | {"temperature": 1}),
    ]
    assert len(set(keys)) == len(keys)


def test_two_paths_of_one_api_and_headers_that_say_who_asks_are_not() -> None:
    other = resolve("POST", "/api/paas/v4/chat/completions")
    assert key(FIELDS, target=other) == key(FIELDS)
    said = [("User-Agent", "x"), ("Authorization", "Bearer k"), ("x-session-id", "s")]
    assert key(FIELDS, *said) == key(FIELDS)
    assert key(FIELDS, ("Accept-Language", "zh")) == key(FIELDS, ("accept-language", "zh"))


@pytest.mark.parametrize(
    ("said", "read", "write"),
    [
        (None, True, True),
        ("no-store", False, False),
        ("No-Cache", False, True),
        ("max-age=0", False, True),
        ('private,max-age = "00"', False, True),
        ("no-cache=x", False, True),
        ("private, no-store", False, False),
        ("max-age=60", True, True),
        ("no-transform", True, True),
    ],
)
def test_cache_control_is_obeyed(said: str | None, read: bool, write: bool) -> None:
    assert wish_of([] if said is None else [("Cache-Control", said)]) == (read, write)


@pytest.mark.parametrize(
    ("dialect", "reason", "complete"),
    [
        ("openai", "stop", True),
        ("openai", "tool_calls", True),
        ("openai", "length", False),
        ("openai", "sensitive", False),
        ("openai", "network_error", False),
        ("openai", "model_context_window_exceeded", False),
        ("openai", None, False),
        ("anthropic", "end_turn", True),
        ("anthropic", "tool_use", True),
        ("anthropic", "stop_sequence", True),
        ("anthropic", "max_tokens", False),
        ("anthropic", "refusal", False),
        ("anthropic", "stop", False),
    ],
)
def test_only_what_was_said_to_its_end_is_complete(
    dialect: str, reason: str | None, complete: bool
) -> None:
    assert is_complete(dialect, reason) is complete


def test_everybody_has_a_scope_of_their_own() -> None:
    made = make("a", bytes(64), 0.0).key
    scopes = [
        scope_of(Caller("10.0.0.1"), None),
        scope_of(Caller("10.0.0.2"), None),
        scope_of(Caller("f", "f"), "key-one"),
        scope_of(Caller("f", "f"), "key-two"),
        scope_of(Caller("f", "f"), "key-\udcff"),
        scope_of(Caller("f", "f"), "key-\udcfe"),
        scope_of(Caller(made.id, made.label, made), "sk-glm"),
    ]
    assert len(set(scopes)) == len(scopes)
    assert scopes[0] == "address:10.0.0.1"
    assert scopes[-1] == f"key:{made.id}"
    assert "key-one" not in scopes[2]
    assert scope_of(Caller(made.id, made.label, made), "another token of it") == scopes[-1]
