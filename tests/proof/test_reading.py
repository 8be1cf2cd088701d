"""The load client's reader, which shares nothing with the proxy's."""

from __future__ import annotations

import pytest

from tests.proof.reading import Reading

_CHAT = (
    b'data: {"choices":[{"delta":{"role":"assistant","reasoning_content":"hm"}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":"hello"}}]}\n\n'
    b'data: {"choices":[{"delta":{"content":""},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
    b"data: [DONE]\n\n"
)


def test_tokens_content_and_end_are_told_apart() -> None:
    reading = Reading()
    for moment, event in enumerate(_CHAT.split(b"\n\n")[:-1]):
        reading.take(event + b"\n\n", float(moment))
    assert (reading.first_byte, reading.first_token, reading.first_content) == (0.0, 0.0, 1.0)
    assert reading.ended
    assert reading.tokens == {"input": 3, "output": 2}
    assert reading.gaps == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_events_are_found_at_any_cut_of_the_bytes(size: int) -> None:
    reading = Reading()
    for at in range(0, len(_CHAT), size):
        reading.take(_CHAT[at : at + size], 1.0)
    assert (reading.events, reading.ended) == (4, True)


@pytest.mark.parametrize("end", [b"\r\n", b"\r", b"\n"])
def test_every_line_end_is_understood(end: bytes) -> None:
    reading = Reading()
    reading.take(b"\xef\xbb\xbf" + _CHAT.replace(b"\n", end), 0.0)
    assert (reading.events, reading.ended) == (4, True)


def test_a_heartbeat_is_a_byte_and_no_event() -> None:
    reading = Reading()
    reading.take(b": still here\n\n", 0.5)
    assert reading.first_byte == 0.5
    assert (reading.events, reading.comments, reading.gaps) == (0, 1, [])


def test_the_silence_before_an_error_is_no_gap() -> None:
    reading = Reading()
    reading.take(_CHAT.split(b"\n\n")[0] + b"\n\n", 0.0)
    reading.take(b'data: {"error":{"code":"idle_timeout"}}\n\n', 9.0)
    assert reading.failed
    assert reading.gaps == []


def test_the_other_dialect_is_read_too() -> None:
    reading = Reading()
    reading.take(
        b'event: message_start\ndata: {"type":"message_start","message":'
        b'{"usage":{"input_tokens":0,"output_tokens":0}}}\n\n'
        b'event: content_block_delta\ndata: {"type":"content_block_delta",'
        b'"delta":{"type":"thinking_delta","thinking":"hm"}}\n\n',
        1.0,
    )
    assert (reading.first_token, reading.first_content) == (1.0, None)
    reading.take(
        b'event: content_block_delta\ndata: {"type":"content_block_delta",'
        b'"delta":{"type":"text_delta","text":"hi"}}\n\n'
        b'data: {"type":"message_delta","usage":{"input_tokens":4,"output_tokens":9}}\n\n'
        b'data: {"type":"message_stop"}\n\n',
        2.0,
    )
    assert (reading.first_content, reading.ended) == (2.0, True)
    assert reading.tokens == {"input": 4, "output": 9}


def test_a_whole_answer_is_read_or_is_an_error() -> None:
    good, bad = Reading(), Reading()
    good.whole(b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}', 1.0)
    assert (good.ended, good.tokens) == (True, {"input": 1, "output": 2})
    bad.whole(b'{"error":{"code":"1302"}}', 1.0)
    assert (bad.ended, bad.failed) == (False, True)
