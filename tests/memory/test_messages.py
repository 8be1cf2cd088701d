"""A message put among those of a request: all other bytes stay."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.wire.members import elements
from proxy.core.wire.messages import Said, last_said, note, texts, with_message
from proxy.core.wire.request import ChatRequest, parse

USER = {"role": "user", "content": "hi"}
CALLS = {"role": "assistant", "tool_calls": [{"id": "1"}]}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1"}]}


def request(*messages: Any, dialect: str = "openai", **fields: Any) -> ChatRequest:
    body = orjson.dumps({"model": "m", "messages": list(messages), **fields})
    return parse(body, dialect=dialect)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([USER], Said(0, "hi")),
        ([{"role": "system", "content": "s"}, USER], Said(1, "hi")),
        ([USER, CALLS, {"role": "tool", "content": "42"}], Said(0, "hi")),
        ([USER, CALLS, RESULT], Said(0, "hi")),
        ([{"role": "assistant", "content": "a"}], None),
        ([RESULT], None),
        (["?", 7, None], None),
        ([{"role": "user", "content": [{"type": "image_url"}]}], Said(0, "")),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}]}],
            Said(0, "a\nb"),
        ),
    ],
)
def test_the_last_words_are_a_users_and_no_tools(messages: list[Any], said: Said | None) -> None:
    assert last_said(request(*messages)) == said


def test_texts_of_several_parts_are_known_apart_and_together() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert set(texts(request({"role": "assistant", "content": parts}))) >= {"a", "b", "ab", "a\nb"}


def test_each_dialect_is_told_in_its_own_way() -> None:
    assert note("openai", "x") == {"role": "system", "content": "x"}
    assert note("anthropic", "x") == {"role": "user", "content": [{"type": "text", "text": "x"}]}


def test_the_bytes_around_stay_whatever_their_spelling() -> None:
    body = (
        b'{"x": [ 1.0,2E5 ] ,"messages" : [ {"role":"system"} ,\n '
        b'{"role":"user",  "content":"\\u0041"}\t] , "model":"m"}'
    )
    asked = parse(body, dialect="openai")
    changed = with_message(asked, 1, note("openai", "}]"))
    before, after = body.split(b'{"role":"user"')
    assert changed.body == before + b'{"role":"system","content":"}]"},{"role":"user"' + after
    assert changed.fields == orjson.loads(changed.body)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)
SPACES = st.sampled_from(["", " ", "\n", "\t \r\n"])


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, list[Any]]:
    """A request in any spelling, and its messages."""
    messages = draw(st.lists(VALUES, min_size=1, max_size=5))
    space = draw(SPACES)
    spelt = (f"{space},{space}").join(orjson.dumps(one).decode() for one in messages)
    other = orjson.dumps(draw(VALUES)).decode()
    parts = [f'"messages"{space}:[{space}{spelt}{space}]', '"model":"m"', f'"other":{space}{other}']
    body = "{" + f"{space},".join(draw(st.permutations(parts))) + space + "}"
    return body.encode(), messages


@given(bodies(), st.text(max_size=30), st.data())
def test_all_bytes_before_and_behind_are_the_clients(
    spelt: tuple[bytes, list[Any]], text: str, data: st.DataObject
) -> None:
    body, messages = spelt
    asked = parse(body, dialect="openai")
    index = data.draw(st.integers(0, len(messages) - 1))
    message = note("openai", text)
    changed = with_message(asked, index, message)
    added = orjson.dumps(message) + b","
    place = changed.body.index(added)
    assert changed.body[:place] + changed.body[place + len(added) :] == body
    expected = {**asked.fields, "messages": [*messages[:index], message, *messages[index:]]}
    assert orjson.loads(changed.body) == changed.fields == expected


@given(st.lists(VALUES, max_size=6), st.sampled_from(["", " ", "\n\t"]))
def test_elements_are_where_they_stand(values: list[Any], space: str) -> None:
    spelt = [orjson.dumps(value).decode() for value in values]
    array = "[" + ",".join(space + one + space for one in spelt) + "]"
    body = f'{{"z": "[", "a" : {array}, "b": [1, 2]}}'.encode()
    found = elements(body, 1)
    assert [body[start:end].decode() for start, end in found] == spelt


def test_many_messages_take_time_in_proportion() -> None:
    """A guard of orders of magnitude: ten times as much must not take a hundred times as long."""

    def spent(count: int) -> float:
        asked = request(*[{"role": "user", "content": 'x"\\\n' * 40}] * count)
        began = time.process_time()
        with_message(asked, count - 1, USER)
        return time.process_time() - began

    few = min(spent(2_000) for _ in range(3))
    many = min(spent(20_000) for _ in range(3))
    print(f"20,000 messages, 4.7 MB: {many * 1000:.1f} ms; a tenth of it {few * 1000:.1f} ms")
    assert many < 60 * few
