"""The visible text of an answer, gathered as it passes."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.flow.spoken import Spoken


def chunk(**delta: Any) -> bytes:
    return frame({"id": "1", "choices": [{"index": 0, "delta": delta}]})


def frame(value: Any, name: str = "") -> bytes:
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: %b\n\n" % orjson.dumps(value)


def block_delta(**delta: Any) -> bytes:
    value = {"type": "content_block_delta", "index": 0, "delta": delta}
    return frame(value, "content_block_delta")


def spoken(dialect: str, *events: bytes, most: int = 1000) -> Spoken:
    found = Spoken(dialect, most)
    found.take(list(events))
    return found


DONE = b"data: [DONE]\n\n"


def test_what_is_thought_is_not_said() -> None:
    found = spoken(
        "openai",
        chunk(role="assistant", content=""),
        chunk(reasoning_content='hm "content"'),
        b": heartbeat\n\n",
        chunk(content="你"),
        chunk(content="好"),
        DONE,
    )
    assert found.text == "你好"
    assert not found.calls


def test_a_call_of_a_tool_is_seen_in_either_dialect() -> None:
    call = chunk(content="let me see", tool_calls=[{"id": "1", "function": {"name": "f"}}])
    assert spoken("openai", call).text == "let me see"
    found = spoken("openai", call)
    assert found.text
    assert found.calls
    start = {"type": "content_block_start", "index": 0}
    uses = frame({**start, "content_block": {"type": "tool_use", "id": "1"}}, "x")
    found = spoken("anthropic", uses, block_delta(type="input_json_delta", partial_json="{"))
    assert found.text == ""
    assert found.calls


def test_an_empty_list_of_tools_is_no_call() -> None:
    found = spoken("openai", chunk(content="a", tool_calls=[]), chunk(content="b", tool_calls=None))
    assert found.text == "ab"
    assert not found.calls


def test_anthropics_text_is_put_together() -> None:
    start = {"type": "content_block_start", "index": 0}
    found = spoken(
        "anthropic",
        frame({**start, "content_block": {"type": "text", "text": "He"}}, "content_block_start"),
        block_delta(type="text_delta", text="llo"),
        block_delta(type="thinking_delta", thinking="text"),
    )
    assert found.text == "Hello"


def test_of_several_answers_the_first_counts() -> None:
    choices = [{"index": n, "delta": {"content": f"{n}"}} for n in (1, 0)]
    assert spoken("openai", frame({"choices": choices})).text == "0"


@pytest.mark.parametrize(
    "raw",
    [
        b'data: {"choices":[{"delta":\ndata: {"content":"a"}}]}\n\n',
        b'data:{"choices":[{"delta":{"content":"a"}}]}\r\n\r\n',
        b'id: 7\r\ndata: {"choices":[{"delta":{"content":"a"}}]}\r\n\r\n',
        b'data: {"choices":[{"delta":{"content":"a"}}]}\nid: 7\n\n',
        b': data: "content"\ndata: {"choices":[{"delta":{"content":[{"text":"a"}]}}]}\n\n',
    ],
)
def test_unusual_spellings_are_read_too(raw: bytes) -> None:
    assert spoken("openai", raw).text == "a"


@pytest.mark.parametrize("raw", [b'data: "content"\n\n', b'data: {"content"\n\n', b'"text\n\n'])
def test_what_cannot_be_read_says_nothing(raw: bytes) -> None:
    for dialect in ("openai", "anthropic"):
        assert spoken(dialect, raw).text == ""


def test_of_a_long_answer_the_beginning_is_gathered() -> None:
    assert (
        spoken("openai", *[chunk(content="0123456789")] * 500, most=25).text
        == "01234567890123456789" + "01234"
    )


@given(st.lists(st.text(max_size=50), max_size=40), st.data())
def test_how_events_are_handed_over_makes_no_difference(
    texts: list[str], data: st.DataObject
) -> None:
    events = [chunk(content=text) for text in texts]
    found = Spoken("openai", 10_000)
    while events:
        count = data.draw(st.integers(1, len(events)))
        found.take(events[:count])
        del events[:count]
    assert found.text == "".join(texts)


@pytest.mark.parametrize(
    ("dialect", "answer", "text", "calls"),
    [
        ("openai", {"choices": [{"message": {"content": "a"}}]}, "a", False),
        ("openai", {"choices": [{"message": {"content": None, "tool_calls": [{}]}}]}, "", True),
        ("openai", {"error": {"message": "content"}}, "", False),
        (
            "anthropic",
            {"type": "message", "content": [{"type": "text", "text": "a"}, {"type": "tool_use"}]},
            "a",
            True,
        ),
    ],
)
def test_whole_answers_are_read(
    dialect: str, answer: dict[str, Any], text: str, calls: bool
) -> None:
    found = Spoken(dialect, 1000)
    found.whole(orjson.dumps(answer))
    assert (found.text, found.calls) == (text, calls)


def test_what_it_costs_is_printed() -> None:
    event = chunk(content=" word")
    found = Spoken("openai", 4000)
    began = time.process_time()
    for _ in range(20_000):
        found.take([event])
    assert found.text
    spent = time.process_time() - began
    print(f"gathering the text: {spent / 20_000 * 1e6:.2f} µs an event")
