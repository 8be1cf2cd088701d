"""The Anthropic dialect as GLM speaks it, against the recorded shapes."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

from proxy.simulator.anthropic import anthropic_answer, anthropic_stream, error_event
from proxy.simulator.call import anthropic_call
from proxy.simulator.faults import Fault
from proxy.simulator.frames import Identity
from proxy.simulator.profiles import PROFILES
from proxy.simulator.refusals import Refusal, anthropic_body
from proxy.simulator.script import Script, write_script
from tests.simulator.test_frames import shape

DATA = Path(__file__).parents[1] / "data" / "glm"
IDENTITY = Identity("2026010100000000112233aabbccdd", 1767196800)
TIDES = {
    "name": "tide_table",
    "input_schema": {"type": "object", "properties": {"port": {"type": "string"}}},
}
THINKING = {"type": "enabled", "budget_tokens": 1024}


def script(prompt: str = "Tell me more", **fields: Any) -> Script:
    messages = [{"role": "user", "content": prompt}]
    call = anthropic_call({"model": "glm-4.6", "max_tokens": 1000, "messages": messages, **fields})
    return write_script(call, PROFILES["instant"].behaviours[0][1], Fault(), 64, Random(1))


def stream(prompt: str = "Tell me more", **fields: Any) -> list[bytes]:
    return [s.data for s in anthropic_stream(IDENTITY, "glm-4.6", script(prompt, **fields))]


def fields_of(event: bytes) -> dict[str, Any]:
    name, data, *rest = event.decode().split("\n")
    fields: dict[str, Any] = json.loads(data.removeprefix("data: "))
    assert name == f"event: {fields['type']}"
    assert rest == ["", ""]
    return fields


def recorded(fixture: str) -> list[dict[str, Any]]:
    blocks = (DATA / f"{fixture}.sse").read_bytes().split(b"\n\n")[:-1]
    return [fields_of(block + b"\n\n") for block in blocks]


def shapes(found: list[dict[str, Any]]) -> list[Any]:
    unique: list[Any] = []
    for fields in found:
        each = (fields["type"], shape(fields))
        if each not in unique:
            unique.append(each)
    return unique


@pytest.mark.parametrize(
    ("fixture", "made"),
    [
        ("20-anthropic-text", stream()),
        ("21-anthropic-thinking-tool", stream("tide_table", tools=[TIDES], thinking=THINKING)),
    ],
)
def test_events_have_the_recorded_shapes_in_their_order(fixture: str, made: list[bytes]) -> None:
    ours = shapes([fields_of(event) for event in made])
    theirs = shapes(recorded(fixture))
    assert [each for each in theirs if each in ours] == ours


def test_an_error_event_has_the_recorded_shape() -> None:
    ours = fields_of(error_event(Refusal("1308"), IDENTITY.id))
    theirs = recorded("23-anthropic-midstream-error")[-1]
    assert shape(ours) == shape(theirs)
    assert ours["error"]["type"] == theirs["error"]["type"] == "rate_limit_error"


def test_json_has_spaces_and_chinese_stays_readable() -> None:
    text = b"".join(stream("请介绍机器学习"))
    assert b'{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta"' in text
    assert b"\\u" not in text


def test_usage_is_zero_at_the_start_and_true_at_the_end() -> None:
    found = [fields_of(event) for event in stream()]
    assert found[0]["message"]["usage"] == {"input_tokens": 0, "output_tokens": 0}
    assert found[1] == {"type": "ping"}
    usage = found[-2]["usage"]
    assert usage["output_tokens"] == 24
    assert usage["cache_read_input_tokens"] == 64
    assert found[-1] == {"type": "message_stop"}


def test_a_delta_holds_several_tokens() -> None:
    deltas = [f for e in stream() if (f := fields_of(e))["type"] == "content_block_delta"]
    assert len(deltas) == 24 / 4


def test_blocks_are_thinking_then_tool_each_with_its_index() -> None:
    found = [fields_of(e) for e in stream("tide_table", tools=[TIDES], thinking=THINKING)]
    starts = [f for f in found if f["type"] == "content_block_start"]
    assert [s["content_block"]["type"] for s in starts] == ["thinking", "tool_use"]
    assert [s["index"] for s in starts] == [0, 1]
    assert len(starts[0]["content_block"]["signature"]) == 24
    pieces = [f["delta"]["partial_json"] for f in found if "partial_json" in f.get("delta", {})]
    assert json.loads("".join(pieces)).keys() == {"port"}
    assert found[-2]["delta"]["stop_reason"] == "tool_use"


def test_the_plain_message_says_what_the_stream_says() -> None:
    answer = json.loads(anthropic_answer(IDENTITY, "glm-4.6", script(thinking=THINKING)))
    found = [fields_of(event) for event in stream(thinking=THINKING)]
    text = "".join(f["delta"].get("text", "") for f in found if f["type"] == "content_block_delta")
    assert [block["type"] for block in answer["content"]] == ["thinking", "text"]
    assert answer["content"][1]["text"] == text
    assert answer["stop_reason"] == "end_turn"
    assert answer["id"] == f"msg_{IDENTITY.id}"


def test_a_plain_tool_call_has_its_input_as_an_object() -> None:
    answer = json.loads(anthropic_answer(IDENTITY, "glm-4.6", script("tide_table", tools=[TIDES])))
    assert answer["content"][0]["input"].keys() == {"port"}


def test_an_error_body_names_code_and_log_id() -> None:
    body = json.loads(anthropic_body(Refusal("1302"), "L1"))
    assert body["type"] == "error"
    assert body["error"]["type"] == "rate_limit_error"
    assert body["error"]["code"] == "1302"
    assert body["error"]["message"].startswith("[1302][")
    assert body["request_id"] == "L1"
