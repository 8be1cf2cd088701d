"""How many values a body holds, told before it is parsed."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.wire import request
from proxy.core.wire.request import MOST_VALUES, parse
from proxy.core.wire.values import has_more_values
from proxy.errors import ClientError

TEXT = st.text(st.sampled_from('ab"\\,[]{}:\n'), max_size=12)
JSON = st.recursive(
    st.none() | st.integers(0, 9) | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
)


def counted(value: object) -> int:
    """Objects, arrays, and the members of both but their first."""
    if not isinstance(value, list | dict):
        return 0
    inner = list(value.values()) if isinstance(value, dict) else value
    return 1 + max(0, len(inner) - 1) + sum(map(counted, inner))


@given(JSON)
def test_what_stands_in_strings_does_not_count(value: object) -> None:
    body, values = orjson.dumps(value), counted(value)
    assert not has_more_values(body, values)
    assert values == 0 or has_more_values(body, values - 1)


@pytest.mark.parametrize("size", [(1 << 18) - 3, (1 << 18) - 2, (1 << 18) - 1, 1 << 18])
@pytest.mark.parametrize("end", [b"\\\\", b'\\"', b"xx", b"\\\\" * 9])
def test_slices_do_not_cut_escapes(size: int, end: bytes) -> None:
    body = b'["' + b"x" * size + end + b'","a,b,c",[[],[]]]'
    orjson.loads(body)
    values = counted(orjson.loads(body))
    assert has_more_values(body, values - 1)
    assert not has_more_values(body + b" " * 300, values)


def test_millions_of_backslashes_are_stepped_over_at_once() -> None:
    assert not has_more_values(b'["' + b"\\" * 8_000_000 + b"," * MOST_VALUES * 2 + b'"]', 10**6)


def body_of(values: int) -> bytes:
    """A request with so many of them."""
    own = 1 + 1 + 1  # the object, the list of messages, and that is its second member
    messages = b",".join([b"0"] * (values - own + 1))
    return b'{"model":"m","messages":[' + messages + b"]}"


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_request_holds_as_many_values_as_are_allowed(
    monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    body = body_of(MOST_VALUES + more)
    if more <= 0:
        assert parse(body, dialect="openai").model == "m"
        return
    monkeypatch.setattr(request, "orjson", None)  # it is refused before it is parsed
    with pytest.raises(ClientError, match="more than 200000 values"):
        parse(body, dialect="openai")


@pytest.mark.parametrize("levels", [15, 16, 17])
def test_a_request_is_as_deep_as_is_allowed(levels: int) -> None:
    inner = levels - 2  # the object, and the list of messages
    body = b'{"model":"m","messages":[%b1%b]}' % (b"[" * inner, b"]" * inner)
    if levels <= 16:
        assert parse(body, dialect="openai", depth=16).model == "m"
        return
    with pytest.raises(ClientError, match="more than 16 levels"):
        parse(body, dialect="openai", depth=16)


@pytest.mark.parametrize(
    "value",
    [
        *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"1" * 1_000_000, b'"\\ud800"'),
        *(b"\xff", b'"\xed\xa0\x80"', b"01", b"1.", b"'a'", b"{'a':1}", b"[1,]", b"// a\n1"),
        b"[" * 100_000,
    ],
    ids=lambda value: repr(value[:12]),
)
def test_what_parsers_read_differently_is_no_json(value: bytes) -> None:
    with pytest.raises(ClientError):
        parse(b'{"model":"m","messages":[' + value + b"]}", dialect="openai")


@pytest.mark.parametrize("name", ["model", "stream", "messages", "temperature", "mod\\u0065l"])
def test_a_member_is_said_once(name: str) -> None:
    with pytest.raises(ClientError, match="twice"):
        parse(
            b'{"model":"m","stream":true,"temperature":1,"messages":[1],"%b":"x"}' % name.encode(),
            dialect="openai",
        )
