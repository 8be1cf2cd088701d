"""What the messages of a WebSocket with many chats say: parsing alone, on any bytes."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.wire import multiplex, response_socket
from proxy.core.wire.multiplex import (
    Cancel,
    Framing,
    More,
    NoMessage,
    Start,
    WrongMessage,
    read,
)

NAMES = ("id", "body", "cancel", "more", "window", "headers", "type", "stream_id", "generate")
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**63) | FLOATS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
MESSAGES = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), JSON, max_size=6)
BODIES = st.dictionaries(st.text(), JSON, max_size=6)


def spelled(value: object, space: str) -> bytes:
    """`value` as JSON, with white space wherever it may stand between members."""
    text = orjson.dumps(value)
    return text if not space else b"%b%b%b" % (space.encode(), text, space.encode())


@given(st.binary(max_size=60) | MESSAGES.map(orjson.dumps))
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    for reading in (multiplex.read, response_socket.read):
        refusal: WrongMessage | None = None
        try:
            reading(data)
        except WrongMessage as error:
            refusal = error
        if refusal is not None:
            told = orjson.loads(multiplex.refused(refusal))
            assert told["error"]["code"] == "invalid_request"
            assert orjson.loads(response_socket.refused(refusal, None))["type"] == "error"


@given(BODIES, st.text(" \n\t\r", max_size=3), st.permutations(["id", "body", "window"]))
def test_the_body_is_the_clients_own_bytes(body: Any, space: str, order: list[str]) -> None:
    values = {"id": b'"a"', "body": spelled(body, ""), "window": b"7"}
    sent = b",".join(
        b"%b%b:%b%b" % (orjson.dumps(name), space.encode(), space.encode(), values[name])
        for name in order
    )
    assert read(b"{" + sent + b"}") == Start("a", values["body"], (), 7)


@given(BODIES)
def test_a_response_is_asked_for_with_the_rest_of_its_message(fields: dict[str, Any]) -> None:
    for name in ("type", "stream_id", "generate", "stream"):
        fields.pop(name, None)
    asked = response_socket.read(
        orjson.dumps({"stream_id": "l", **fields, "type": "response.create", "generate": True})
    )
    assert isinstance(asked, response_socket.Create)
    assert asked.lane == "l"
    assert orjson.loads(asked.body) == {**fields, "stream": True}


def test_the_three_things_that_can_be_said() -> None:
    assert read(b'{"id":"a","body":{}}') == Start("a", b"{}")
    assert read(b' {"cancel" : true, "id":"\\u00e9"} ') == Cancel("é")
    assert read(b'{"id":"a","more":1000000}') == More("a", 1_000_000)
    assert read(b'{"id":"a","body":{"x":[1,{"y":"}"}]},"headers":{"X-Session-Id":"s"}}') == Start(
        "a", b'{"x":[1,{"y":"}"}]}', (("x-session-id", "s"),)
    )


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"1", b"{", b'"a"', b"\xff"])
def test_what_is_no_message_is_told_apart(data: bytes) -> None:
    with pytest.raises(NoMessage):
        read(data)


@pytest.mark.parametrize(
    ("message", "id", "param"),
    [
        ('{"id":"a"}', "a", None),
        ('{"id":"a","body":{},"more":1}', "a", None),
        ('{"id":"a","cancel":false}', "a", "cancel"),
        ('{"id":"a","cancel":true,"window":1}', "a", "window"),
        ('{"id":"a","more":1000001}', "a", "more"),
        ('{"id":"a","more":1.0}', "a", "more"),
        ('{"id":"a","body":{},"window":true}', "a", "window"),
        ('{"id":"a","body":{},"headers":{"cookie":"x"}}', "a", "headers"),
        ('{"id":"a","body":{},"headers":{"x-session-id":1}}', "a", "headers"),
        ('{"id":"a","body":{},"secret words":1}', "a", None),
        ('{"id":"' + "a" * 65 + '","cancel":true}', None, "id"),
        ('{"id":"a\\u0000","cancel":true}', None, "id"),
        ('{"id":"a","body":' + '{"x":' * 70 + "1" + "}" * 70 + "}", "a", None),
        ('{"id":"a","id":"a","cancel":true}', "a", None),
    ],
)
def test_what_cannot_be_obeyed_is_refused_with_its_place(
    message: str, id: str | None, param: str | None
) -> None:
    with pytest.raises(WrongMessage) as caught:
        read(message.encode())
    assert (caught.value.id, caught.value.param) == (id, param)
    assert "secret" not in str(caught.value)


def test_an_absurd_number_of_values_is_refused_unparsed() -> None:
    with pytest.raises(WrongMessage, match="values"):
        read(b'{"id":"a","body":{"x":[' + b"[]," * 200_001 + b"[]]}}")


@given(st.text(min_size=1, max_size=64), BODIES)
def test_what_is_told_is_one_json_object_with_its_id(id: str, body: Any) -> None:
    framing = Framing(id)
    data = orjson.dumps(body)
    for message in (
        framing.opened({"x": "y"}),
        framing.event(data),
        framing.done(),
        framing.whole(200, {}, data),
        framing.failed({"code": "x"}, 400, {}),
        framing.failed({"code": "x"}, None, None),
        framing.broken(data, told=False),
        framing.cancelled(),
        multiplex.not_running(id),
    ):
        assert orjson.loads(message)["id"] == id
    assert orjson.loads(framing.event(data)) == {"id": id, "data": body}
