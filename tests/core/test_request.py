"""Invariant: whatever the bytes, `parse` gives a request or a ClientError, nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.wire.request import ChatRequest, parse
from proxy.errors import ClientError

HELLO = [{"role": "user", "content": "Hi"}]


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "glm-4.6", "messages": HELLO} | fields).encode()


def refused(content: bytes) -> ClientError:
    with pytest.raises(ClientError) as error:
        parse(content, dialect="openai")
    assert error.value.status == 400
    assert json.loads(error.value.openai_body())["error"]["param"] == error.value.param
    return error.value


def test_a_request_keeps_its_bytes_and_says_what_routes_need() -> None:
    content = (
        b' {"model":"glm-4.6", "messages":[{"role":"user","content":"\\u4f60"}],"stream":true} '
    )
    request = parse(content, dialect="openai")
    assert request.body is content
    assert request.size == len(content)
    assert (request.model, request.stream) == ("glm-4.6", True)
    assert request.dialect == "openai"
    assert list(request.fields) == ["model", "messages", "stream"]


@pytest.mark.parametrize(
    ("fields", "stream"),
    [({}, False), ({"stream": False}, False), ({"stream": None}, False), ({"stream": True}, True)],
)
def test_null_is_absent(fields: dict[str, Any], stream: bool) -> None:
    assert parse(body(**fields), dialect="anthropic").stream is stream


@pytest.mark.parametrize(
    ("content", "param", "message"),
    [
        (b"", None, "the body is empty; send a JSON object with model and messages"),
        (b"  ", None, "the body is not valid JSON at line 1 column 1"),
        (b"hello", None, "not valid JSON at line 1 column 1"),
        (b'{"model":\n "x",}', None, "not valid JSON at line 2 column 5"),
        (b'{"a":"\xff"}', None, "not UTF-8 at byte 6"),
        (b'{"a":"\xed\xa0\x80"}', None, "not UTF-8 at byte 6"),
        (b'{"a":"\\ud800"}', None, "not valid JSON at line 1 column 7"),
        (b'\xef\xbb\xbf{"a":1}', None, "not valid JSON at line 1"),
        (b'{"a":NaN}', None, "not valid JSON"),
        (b'{"a":-Infinity}', None, "not valid JSON"),
        (b'{"a":1e999}', None, "not valid JSON"),
        (b'{"a":' + b"1" * 1_000_000 + b"}", None, "not valid JSON"),
        (b"[" * 100_000, None, "not valid JSON"),
        (b'{"a":' * 100_000, None, "not valid JSON"),
        (b'{"a":1}x', None, "not valid JSON at line 1 column 8"),
        (b"[]", None, "the body is a list; send a JSON object"),
        (b"null", None, "the body is null; send"),
        (b'"x"', None, "the body is a string; send"),
        (b"1.5", None, "the body is a number; send"),
        (b"true", None, "the body is a boolean; send"),
        (b"{}", "model", "model is missing; name one, such as glm-4.6"),
        (body(model=None), "model", "model is missing"),
        (body(model=""), "model", "model is empty"),
        (body(model=5), "model", "model is a number, not a string"),
        (body(model=["glm"]), "model", "model is a list, not a string"),
        (body(model="glm\n4"), "model", "at most 256 printable characters"),
        (body(model="glm\x00"), "model", "printable"),
        (body(model="x" * 257), "model", "at most 256"),
        (b'{"model":"x"}', "messages", 'messages is missing; send at least one, such as {"role"'),
        (body(messages=None), "messages", "messages is missing"),
        (body(messages=[]), "messages", "messages is empty"),
        (body(messages="Hi"), "messages", "messages is a string, not a list"),
        (body(messages={"role": "user"}), "messages", "messages is an object, not a list"),
        (body(stream="true"), "stream", "stream is a string; use true or false"),
        (body(stream=0), "stream", "stream is a number; use true or false"),
        (body(stream=""), "stream", "stream is a string; use true or false"),
        (body(stream=1), "stream", "stream is a number; use true or false"),
        (b'{"model":"a","model":"b"}', "model", "'model' is given twice; keep one"),
        (b'{"model":"a","mod\\u0065l":"b"}', "model", "'model' is given twice"),
        (b'{"x":1, "y" : {"x":1} , "x" :2}', "x", "'x' is given twice"),
        (b'{"a":":","b":1,"b":1}', "b", "'b' is given twice"),
        (b"{" + b'"a":1,' * 100_000 + b'"a":1}', "a", "'a' is given twice"),
        (b'{"\\n":1,"\\n":1}', None, "a member of the body is given twice"),
        (b'{"Tell me":1,"Tell me":1}', None, "a member of the body is given twice"),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(
    content: bytes, param: str | None, message: str
) -> None:
    error = refused(content)
    assert error.param == param
    assert message in error.message


def test_a_long_name_is_not_repeated() -> None:
    error = refused(b'{"%b":1,"%b":1}' % (b"x" * 5000, b"x" * 5000))
    assert len(error.message) < 100
    assert error.param is None


def test_the_prompt_is_in_no_message_and_no_traceback() -> None:
    with pytest.raises(ClientError) as error:
        parse(b'{"messages":"my secret", broken', dialect="openai")
    assert "secret" not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__


@pytest.mark.parametrize("depth", [64, 65, 66, 500, 1020])
def test_nesting_has_a_limit(depth: int) -> None:
    inner = depth - 1
    content = body()[:-1] + b',"x":' + b"[" * inner + b"]" * inner + b"}"
    if depth <= 64:
        assert parse(content, dialect="openai").model == "glm-4.6"
    else:
        assert "more than 64 levels deep; flatten it" in refused(content).message


def test_deep_brackets_in_a_string_are_text() -> None:
    content = body(messages=[{"role": "user", "content": '[{"' * 10_000}])
    assert parse(content, dialect="openai").size > 30_000


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 99},
        {"max_tokens": -1},
        {"n": 10**18},
        {"top_p": 10**30},
        {"api_base": "http://127.0.0.1:1", "base_url": "http://x"},
        {"messages": ["not an object"]},
        {"model": "智谱/glm 4.6"},
        {"tools": "x"},
    ],
)
def test_what_the_upstream_judges_is_let_through(fields: dict[str, Any]) -> None:
    assert parse(body(**fields), dialect="openai").body == body(**fields)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(["model", "messages", "stream", "tools"]) | st.text(max_size=3)


def check(content: bytes) -> None:
    try:
        request = parse(content, dialect="openai")
    except ClientError as error:
        told = (error.status, error.message, error.openai_body(), error.anthropic_body())
    else:
        told = (400, request.model, request.body, request.body)
        assert isinstance(request, ChatRequest)
    assert told[0] == 400
    assert all(told)


@given(st.binary())
@example(b'{"\\"":1,"\\"":2}')
@example(b'{"":1,"":1}')
def test_any_bytes_give_a_request_or_a_client_error(content: bytes) -> None:
    check(content)


@given(st.dictionaries(NAMES, JSON, max_size=5), st.data())
def test_broken_json_gives_a_request_or_a_client_error(
    fields: dict[str, Any], data: st.DataObject
) -> None:
    content = json.dumps(fields, ensure_ascii=data.draw(st.booleans())).encode(
        "utf-8", "surrogatepass"
    )
    check(content)
    cut = data.draw(st.integers(0, len(content)))
    check(content[:cut])
    check(content[:cut] + data.draw(st.binary(max_size=3)) + content[cut:])


@given(st.lists(st.tuples(NAMES, st.booleans() | st.text()), max_size=6), st.booleans())
def test_a_name_given_twice_is_always_noticed(
    pairs: list[tuple[str, Any]], ensure_ascii: bool
) -> None:
    pairs = [("model", "x"), ("messages", HELLO), *pairs]
    members = (
        f"{json.dumps(name, ensure_ascii=ensure_ascii)}:{json.dumps(value)}"
        for name, value in pairs
    )
    try:
        parse(("{" + ",".join(members) + "}").encode(), dialect="openai")
        twice = False
    except ClientError as error:
        twice = "given twice" in error.message
    assert twice is (len(dict(pairs)) < len(pairs))
