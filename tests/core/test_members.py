"""Invariant: for every JSON object, what is found are the members a full parser reads."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.wire.members import MAX_DEPTH, count, members, splice

SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS | st.sampled_from([0.5, 1.0, 1e300]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)
BLANKS = st.text(alphabet=" \t\r\n", max_size=2)


@st.composite
def spelled(draw: st.DrawFn, value: Any) -> str:
    """`value` as JSON in one of its many spellings."""
    return json.dumps(
        value,
        ensure_ascii=draw(st.booleans()),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:")])),
    )


@st.composite
def member_texts(draw: st.DrawFn) -> list[tuple[str, str, str, str, str]]:
    """Members as they stand in the text: before the name, name, between, value, after."""
    names = draw(st.lists(st.text(max_size=8), min_size=1, max_size=6, unique=True))
    return [
        (
            draw(BLANKS),
            draw(spelled(name)),
            draw(BLANKS) + ":" + draw(BLANKS),
            draw(spelled(draw(VALUES)) | st.sampled_from(["1.0", "1e2", "-0", "1E+2", "0.10"])),
            draw(BLANKS),
        )
        for name in names
    ]


def joined(texts: list[tuple[str, str, str, str, str]]) -> bytes:
    return (" {" + ",".join("".join(text) for text in texts) + "}\n").encode()


@given(member_texts())
def test_names_and_values_are_found_where_they_stand(texts: list[Any]) -> None:
    body = joined(texts)
    found = members(body)
    assert count(body) == len(found)
    assert [body[one.value : one.end].decode() for one in found] == [text[3] for text in texts]
    for one, text in zip(found, texts, strict=True):
        assert body[one.start :].decode().startswith(text[1] + text[2])


@pytest.mark.parametrize(
    "value",
    [
        r'"\""',
        r'"\\"',
        r'"\\\""',
        r'"\\\\"',
        r'"a\nb\"c\\"',
        r'"\u0022}"',
        r'"},{\"a\":[1"',
        r'["\"]", "\\", {"\"}": "]"}]',
        '"[[[[{{{{"',
        "-1.5e-7",
        "[ ]",
        "{ }",
    ],
)
def test_quotes_and_brackets_inside_strings_end_nothing(value: str) -> None:
    body = f'{{"before": {value} , "after":{value}}}'.encode()
    found = members(body)
    assert count(body) == len(found)
    assert [body[one.value : one.end].decode() for one in found] == [value, value]


def test_a_name_said_twice_is_found_twice() -> None:
    body = b'{"a": 1, "\\u0061": 2} \n'
    assert count(body) == len(members(body)) == 2


@pytest.mark.parametrize("pair", ["[]", "{}"])
def test_depth_is_counted_with_the_outermost_object(pair: str) -> None:
    def nested(depth: int) -> bytes:
        opening, closing = ("[", "]") if pair == "[]" else ('{"a":', "}")
        deep = opening * (depth - 1) + "1" + closing * (depth - 1)
        return f'{{"x":1,"y":{deep},"z":2}}'.encode()

    assert count(nested(MAX_DEPTH)) == 3
    assert count(nested(MAX_DEPTH + 1)) is None
    assert count(nested(1000)) is None


def edited(body: bytes, edits: dict[str, bytes | None]) -> bytes:
    return splice(body, zip(json.loads(body), members(body), strict=True), edits)


@given(member_texts(), st.data())
def test_untouched_members_stay_byte_for_byte(texts: list[Any], data: st.DataObject) -> None:
    names = [json.loads(text[1]) for text in texts]
    changed = data.draw(st.dictionaries(st.sampled_from(names), spelled(data.draw(VALUES))))
    extra = data.draw(
        st.dictionaries(st.text(max_size=8).filter(lambda name: name not in names), spelled(1))
    )
    expected = [
        (*text[:3], changed.get(name, text[3]), text[4])
        for name, text in zip(names, texts, strict=True)
    ]
    # Added members stand right behind the last value, without blanks of their own.
    *front, last = expected
    tail = "".join(f",{orjson.dumps(name).decode()}:{value}" for name, value in extra.items())
    edits = {name: value.encode() for name, value in (changed | extra).items()}
    assert edited(joined(texts), dict(edits)) == joined([*front, (*last[:4], tail + last[4])])


@given(member_texts(), st.data())
def test_a_member_taken_out_leaves_the_others_as_they_were(
    texts: list[Any], data: st.DataObject
) -> None:
    body = joined(texts)
    names = [json.loads(text[1]) for text in texts]
    gone = set(data.draw(st.lists(st.sampled_from(names), min_size=1)))
    added = data.draw(st.booleans())
    edits: dict[str, bytes | None] = dict.fromkeys(gone)
    if added:
        edits["\0new"] = b"true"
    result = edited(body, edits)
    left = {name: value for name, value in json.loads(body).items() if name not in gone}
    assert json.loads(result) == (left | {"\0new": True} if added else left)
    position = 0
    for name, text in zip(names, texts, strict=True):
        if name not in gone:
            position = result.index((text[1] + text[2] + text[3]).encode(), position)


def test_taking_out_what_is_not_there_changes_nothing() -> None:
    assert edited(b'{"a":1}', {"b": None}) == b'{"a":1}'


@pytest.mark.parametrize(
    ("gone", "left"),
    [
        ("a", '{ "b" : 2,\n"c":3 }'),
        ("b", '{ "a": 1,\n"c":3 }'),
        ("c", '{ "a": 1 , "b" : 2 }'),
        ("ab", '{ "c":3 }'),
        ("bc", '{ "a": 1 }'),
        ("abc", "{  }"),
    ],
)
def test_a_member_goes_with_one_comma(gone: str, left: str) -> None:
    body = b'{ "a": 1 , "b" : 2,\n"c":3 }'
    assert edited(body, dict.fromkeys(gone)).decode() == left
