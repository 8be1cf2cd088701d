"""The bytes of frames: what we format, hyperframe reads; what is wrong in a payload is named."""

from __future__ import annotations

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given
from hypothesis import strategies as st

from proxy.net.h2 import frames
from proxy.net.h2.frames import ErrorCode, Violation

STREAM_IDS = st.integers(1, frames.MAX_STREAM_ID)


def parse(data: bytes) -> list[Frame]:
    found = []
    while data:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]), strict=True)
        assert len(data) >= 9 + length
        frame.parse_body(memoryview(data[9 : 9 + length]))
        found.append(frame)
        data = data[9 + length :]
    return found


def only(data: bytes) -> Frame:
    (frame,) = parse(data)
    return frame


@given(STREAM_IDS, st.binary(max_size=300), st.booleans())
def test_data_is_read_as_it_was_written(stream_id: int, payload: bytes, end: bool) -> None:
    frame = only(frames.data(stream_id, payload, end=end))
    assert isinstance(frame, DataFrame)
    assert (frame.stream_id, frame.data) == (stream_id, payload)
    assert ("END_STREAM" in frame.flags) == end


@given(STREAM_IDS, st.integers(0, 2**32 - 1))
def test_reset_carries_its_code(stream_id: int, code: int) -> None:
    frame = only(frames.rst_stream(stream_id, code))
    assert isinstance(frame, RstStreamFrame)
    assert (frame.stream_id, frame.error_code) == (stream_id, code)


@given(st.integers(0, 2**31 - 1), st.integers(1, frames.MAX_WINDOW))
def test_window_update_carries_its_increment(stream_id: int, increment: int) -> None:
    frame = only(frames.window_update(stream_id, increment))
    assert isinstance(frame, WindowUpdateFrame)
    assert (frame.stream_id, frame.window_increment) == (stream_id, increment)


def test_settings_keep_their_pairs() -> None:
    frame = only(frames.settings([(frames.ENABLE_PUSH, 0), (frames.INITIAL_WINDOW_SIZE, 70_000)]))
    assert isinstance(frame, SettingsFrame)
    assert frame.settings == {
        SettingsFrame.ENABLE_PUSH: 0,
        SettingsFrame.INITIAL_WINDOW_SIZE: 70_000,
    }
    ack = only(frames.SETTINGS_ACK)
    assert isinstance(ack, SettingsFrame)
    assert set(ack.flags) == {"ACK"}
    assert ack.settings == {}


@pytest.mark.parametrize("ack", [True, False])
def test_ping_keeps_its_payload(ack: bool) -> None:
    frame = only(frames.ping(b"12345678", ack=ack))
    assert isinstance(frame, PingFrame)
    assert frame.opaque_data == b"12345678"
    assert ("ACK" in frame.flags) == ack


def test_goaway_says_the_last_stream_the_code_and_why() -> None:
    frame = only(frames.goaway(7, ErrorCode.PROTOCOL_ERROR, b"why"))
    assert isinstance(frame, GoAwayFrame)
    assert (frame.last_stream_id, frame.error_code, frame.additional_data) == (7, 1, b"why")


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (0, [0]),
        (1, [1]),
        (16_384, [16_384]),
        (16_385, [16_384, 1]),
        (32_768, [16_384, 16_384]),
        (50_000, [16_384, 16_384, 16_384, 848]),
    ],
)
@pytest.mark.parametrize("end", [True, False])
def test_a_long_header_block_goes_on_in_continuations(
    size: int, sizes: list[int], end: bool
) -> None:
    block = bytes(n % 251 for n in range(size))
    first, *rest = parse(frames.headers(3, block, end=end))
    assert isinstance(first, HeadersFrame)
    assert all(isinstance(frame, ContinuationFrame) for frame in rest)
    parts = [first, *rest]
    assert [frame.stream_id for frame in parts] == [3] * len(sizes)
    assert [frame.body_len for frame in parts] == sizes
    assert b"".join(getattr(frame, "data") for frame in parts) == block  # noqa: B009
    assert ["END_HEADERS" in frame.flags for frame in parts] == [False] * len(rest) + [True]
    assert ["END_STREAM" in frame.flags for frame in parts] == [end] + [False] * len(rest)


@given(st.binary(max_size=100), st.integers(0, 255))
def test_padding_is_taken_off(payload: bytes, padding: int) -> None:
    frame = DataFrame(1, payload, pad_length=padding, flags=["PADDED"])
    assert frames.read_padded(frame.serialize()[9:]) == payload


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", ErrorCode.FRAME_SIZE_ERROR),
        (b"\x01", ErrorCode.PROTOCOL_ERROR),
        (b"\xff" + b"\0" * 254, ErrorCode.PROTOCOL_ERROR),
    ],
    ids=["no length", "one too many", "far too long"],
)
def test_padding_as_long_as_its_frame_is_an_error(payload: bytes, code: int) -> None:
    with pytest.raises(Violation) as caught:
        frames.read_padded(payload)
    assert caught.value.code == code
    assert frames.read_padded(b"\x05" + b"\0" * 5) == b""  # exactly full is not


@pytest.mark.parametrize("size", [0, 1, 3, 5, 8])
def test_a_number_of_another_length_is_an_error(size: int) -> None:
    with pytest.raises(Violation) as caught:
        frames.read_number(b"\0" * size, "RST_STREAM")
    assert caught.value.code == ErrorCode.FRAME_SIZE_ERROR


def test_goaway_is_read_without_its_reserved_bit() -> None:
    payload = GoAwayFrame(0, 5, 2, b"why").serialize()[9:]
    assert frames.read_goaway(payload) == (5, 2, b"why")
    assert frames.read_goaway(b"\xff\xff\xff\xff" + payload[4:8]) == (2**31 - 1, 2, b"")
    with pytest.raises(Violation):
        frames.read_goaway(payload[:7])


@pytest.mark.parametrize(
    ("identifier", "value", "code"),
    [
        (frames.ENABLE_PUSH, 1, ErrorCode.PROTOCOL_ERROR),
        (frames.ENABLE_PUSH, 2, ErrorCode.PROTOCOL_ERROR),
        (frames.INITIAL_WINDOW_SIZE, 2**31, ErrorCode.FLOW_CONTROL_ERROR),
        (frames.MAX_FRAME_SIZE, 16_383, ErrorCode.PROTOCOL_ERROR),
        (frames.MAX_FRAME_SIZE, 2**24, ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_a_setting_out_of_range_is_an_error(identifier: int, value: int, code: int) -> None:
    payload = frames.settings([(identifier, value)])[9:]
    with pytest.raises(Violation) as caught:
        frames.read_settings(payload)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("identifier", "value"),
    [
        (frames.ENABLE_PUSH, 0),
        (frames.INITIAL_WINDOW_SIZE, 2**31 - 1),
        (frames.INITIAL_WINDOW_SIZE, 0),
        (frames.MAX_FRAME_SIZE, 16_384),
        (frames.MAX_FRAME_SIZE, 2**24 - 1),
        (frames.MAX_CONCURRENT_STREAMS, 0),
        (frames.HEADER_TABLE_SIZE, 2**32 - 1),
        (0x0A0A, 2**32 - 1),  # unknown settings are ignored (RFC 9113 §6.5.2)
    ],
)
def test_a_setting_within_its_range_is_read(identifier: int, value: int) -> None:
    payload = frames.settings([(identifier, value)])[9:]
    assert frames.read_settings(payload) == [(identifier, value)]


@pytest.mark.parametrize("size", [1, 5, 7, 11])
def test_settings_of_no_whole_pairs_are_an_error(size: int) -> None:
    with pytest.raises(Violation) as caught:
        frames.read_settings(b"\0" * size)
    assert caught.value.code == ErrorCode.FRAME_SIZE_ERROR


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0, "NO_ERROR"),
        (7, "REFUSED_STREAM"),
        (8, "CANCEL"),
        (0xB, "ENHANCE_YOUR_CALM"),
        (0x77, "error code 0x77"),
    ],
)
def test_an_error_code_has_a_name_even_when_unknown(code: int, name: str) -> None:
    assert frames.code_name(code) == name
