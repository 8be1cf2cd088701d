"""The GLM dialect, byte by byte and key by key against the recorded shapes."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from proxy.simulator.call import Call, glm_call
from proxy.simulator.faults import Fault
from proxy.simulator.frames import GlmFrames, Identity, glm_answer, glm_stream
from proxy.simulator.identity import another, identity_at
from proxy.simulator.profiles import PROFILES
from proxy.simulator.script import Script, write_script
from tests.simulator.peers import chunks, content, events

DATA = Path(__file__).parents[1] / "data" / "glm"
IDENTITY = Identity("2026010100000000112233aabbccdd", 1767196800)
TIDES = {
    "type": "function",
    "function": {
        "name": "tide_table",
        "parameters": {"properties": {"port": {"type": "string"}, "day": {"type": "string"}}},
    },
}


def answered(prompt: str = "Tell me more", **fields: Any) -> tuple[Call, Script]:
    call = glm_call(
        {"model": "glm-4.6", "messages": [{"role": "user", "content": prompt}], **fields}
    )
    return call, write_script(call, PROFILES["instant"].behaviours[0][1], Fault(), 0, Random(1))


def stream(prompt: str = "Tell me more", *, with_object: bool = True, **fields: Any) -> bytes:
    call, script = answered(prompt, **fields)
    frames = GlmFrames(IDENTITY, call.model.name, with_object=with_object)
    steps = glm_stream(frames, script, tool_stream=call.tool_stream)
    return b"".join(step.data for step in steps)


def shape(value: Any) -> Any:
    """Keys in their order, kinds of values in their place; the values themselves forgotten."""
    if isinstance(value, dict):
        return [(key, shape(each)) for key, each in value.items()]
    if isinstance(value, list):
        return [shape(each) for each in value]
    return type(value).__name__


def shapes(text: bytes) -> list[Any]:
    """The shapes that occur in a stream, in order of first appearance."""
    found: list[Any] = []
    for chunk in chunks(text):
        if (each := shape(chunk)) not in found:
            found.append(each)
    return found


@pytest.mark.parametrize(
    ("fixture", "made"),
    [
        ("02-plain-text", stream(model="glm-4-flash")),
        ("03-reasoning-then-content", stream()),
        ("12-length-stop", stream(model="glm-4-flash", max_tokens=3)),
        ("12b-length-all-reasoning", stream(max_tokens=3)),
        ("06-tool-stream-incremental", stream("tide_table", tools=[TIDES], tool_stream=True)),
    ],
)
def test_frames_have_the_recorded_keys_in_the_recorded_order(fixture: str, made: bytes) -> None:
    recorded = (DATA / f"{fixture}.sse").read_bytes()
    assert shapes(made) == shapes(recorded)


def test_frames_without_object_have_the_older_shape() -> None:
    recorded = shapes((DATA / "01-plain-text-no-object.sse").read_bytes())
    made = shapes(stream(model="glm-4-flash", with_object=False))
    assert made[0] == recorded[0]
    assert [key for key, _ in made[1]] == [key for key, _ in recorded[1]]


def test_whole_tool_calls_have_the_recorded_shape() -> None:
    recorded = shapes((DATA / "04-tool-calls-whole.sse").read_bytes())
    made = shapes(stream("tide_table", tools=[TIDES]))
    assert [each for each in recorded if each in made] == made


def test_bytes_are_compact_raw_utf_8_and_end_in_done() -> None:
    text = stream("请介绍机器学习")
    assert text.endswith(b"data: [DONE]\n\n")
    assert b"\\u" not in text
    assert b"\r" not in text
    for block in text.decode().split("\n\n")[:-2]:
        assert block.startswith('data: {"id":"')
        assert block == "data: " + orjson.dumps(orjson.loads(block[6:])).decode()


def test_finish_reason_is_absent_until_the_last_frame_which_carries_usage() -> None:
    *frames, last = chunks(stream())
    assert all("finish_reason" not in frame["choices"][0] for frame in frames)
    assert all("usage" not in frame for frame in frames)
    assert all(frame["choices"][0]["delta"]["role"] == "assistant" for frame in frames)
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["usage"]["completion_tokens"] == len(frames) == 32
    assert last["usage"]["completion_tokens_details"] == {"reasoning_tokens": 8}


def test_two_tools_are_two_frames_in_a_row_without_finish_reason() -> None:
    other = {"type": "function", "function": {"name": "port_map", "parameters": {}}}
    *frames, last = chunks(stream("tide_table and port_map", tools=[TIDES, other]))
    calls = [c for f in frames for c in f["choices"][0]["delta"].get("tool_calls", ())]
    assert [(c["index"], c["function"]["name"]) for c in calls] == [
        (0, "tide_table"),
        (1, "port_map"),
    ]
    assert orjson.loads(calls[0]["function"]["arguments"]).keys() == {"port", "day"}
    assert all(re.fullmatch(r"call_[0-9a-f]{24}", c["id"]) for c in calls)
    assert last["choices"][0]["finish_reason"] == "tool_calls"


def test_a_tool_in_pieces_is_the_same_tool() -> None:
    pieces = chunks(stream("tide_table", tools=[TIDES], tool_stream=True))
    whole = chunks(stream("tide_table", tools=[TIDES]))
    parts = [c for f in pieces for c in f["choices"][0]["delta"].get("tool_calls", ())]
    (call,) = [c for f in whole for c in f["choices"][0]["delta"].get("tool_calls", ())]
    assert len(parts) > 4
    assert [part.get("id") for part in parts] == [call["id"], *[None] * (len(parts) - 1)]
    joined = "".join(part["function"]["arguments"] for part in parts)
    assert joined == call["function"]["arguments"]


def test_the_plain_answer_says_what_the_stream_says() -> None:
    call, script = answered()
    answer = orjson.loads(glm_answer(IDENTITY, call.model.name, script))
    assert answer["choices"][0]["message"]["content"] == content(stream())
    assert answer["choices"][0]["message"]["reasoning_content"].startswith("\n")
    assert answer["request_id"] == answer["id"] == IDENTITY.id
    assert answer["usage"] == chunks(stream())[-1]["usage"]


def test_a_plain_answer_with_a_tool_has_it_with_its_index() -> None:
    call, script = answered("tide_table", tools=[TIDES])
    (choice,) = orjson.loads(glm_answer(IDENTITY, call.model.name, script))["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["index"] == 0


def test_an_id_is_beijing_time_and_16_hex_digits() -> None:
    assert identity_at(1767196800, "00112233aabbccdd") == IDENTITY
    later = another(IDENTITY, 97.0)
    assert later.created == IDENTITY.created + 97
    assert later.id.startswith("20260101000137")
    assert later.id[14:] != IDENTITY.id[14:]
    assert len(later.id) == len(IDENTITY.id) == 30


def test_events_are_counted_by_blank_lines() -> None:
    assert len(events(stream())) == 32 + 2
