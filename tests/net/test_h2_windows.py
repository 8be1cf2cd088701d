"""Flow control both ways: windows we grant, and uploads under the windows we are granted."""

from __future__ import annotations

import pytest
from hyperframe.frame import (
    DataFrame,
    Frame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from proxy.errors import UpstreamProtocolError
from proxy.net.h2.frames import ErrorCode
from proxy.net.h2.state import H2Settings
from tests.fakes.h2_sinks import OK, POST
from tests.fakes.h2_wire import Wire, data_of

WINDOW = H2Settings().initial_window


# --- windows -------------------------------------------------------------------------------------


def test_the_preface_grants_the_configured_windows() -> None:
    wire = Wire(H2Settings(initial_window=100_000, connection_window=1_000_000), greet=False)
    hello, grant = wire.sent()
    assert isinstance(hello, SettingsFrame)
    assert hello.settings[SettingsFrame.INITIAL_WINDOW_SIZE] == 100_000
    assert hello.settings[SettingsFrame.ENABLE_PUSH] == 0
    assert isinstance(grant, WindowUpdateFrame)
    assert (grant.stream_id, grant.window_increment) == (0, 1_000_000 - 65_535)


def updates(frames: list[Frame]) -> list[tuple[int, int]]:
    return [(f.stream_id, f.window_increment) for f in frames if isinstance(f, WindowUpdateFrame)]


def test_a_window_is_given_back_when_half_of_it_is_used() -> None:
    wire = Wire()
    stream, _ = wire.answered()
    for _ in range(WINDOW // 2 // 16_384 - 1):
        wire.feed(DataFrame(stream.id, b"x" * 16_384))
    assert updates(wire.sent()) == []
    wire.feed(DataFrame(stream.id, b"x" * 16_384))
    assert updates(wire.sent()) == [(stream.id, WINDOW // 2)]


@pytest.mark.parametrize("window", [1, 2, 3, 7])
def test_even_the_smallest_window_is_given_back(window: int) -> None:
    wire = Wire(H2Settings(initial_window=window))
    stream, _ = wire.answered()
    granted = window
    for _ in range(20):
        wire.feed(DataFrame(stream.id, b"x"))
        granted += sum(n for _, n in updates(wire.sent())) - 1
        assert granted > 0
    assert not wire.streams.closed


def test_the_connection_window_is_given_back_even_for_padding_and_strangers() -> None:
    wire = Wire(H2Settings(connection_window=65_535, initial_window=1_000_000))
    kept, _ = wire.answered()
    gone, _ = wire.answered()
    wire.streams.cancel(gone)
    wire.sent()
    granted = 65_535
    for n in range(100):
        target = kept if n % 2 else gone
        frame = DataFrame(target.id, b"x" * 10_000, pad_length=200, flags=["PADDED"])
        granted -= 10_000 + 201
        assert granted >= 0
        wire.feed(frame)
        granted += sum(n for stream_id, n in updates(wire.sent()) if stream_id == 0)
    assert not wire.streams.closed


def test_padding_alone_does_not_use_a_stream_up() -> None:
    wire = Wire(H2Settings(initial_window=1000))
    stream, recorder = wire.answered()
    for _ in range(20):
        wire.feed(DataFrame(stream.id, b"", pad_length=255, flags=["PADDED"]))
    assert sum(n for i, n in updates(wire.sent()) if i == stream.id) >= 20 * 256 - 1000
    assert not recorder.done


def test_a_paused_stream_keeps_its_window_until_it_is_resumed() -> None:
    wire = Wire()
    stream, recorder = wire.answered()
    stream.paused = True
    for _ in range(WINDOW // 16_384):
        wire.feed(DataFrame(stream.id, b"x" * 16_384))
    assert [i for i, _ in updates(wire.sent()) if i] == []
    assert len(recorder.body) == WINDOW  # what was on its way is still told
    wire.streams.resume(stream)
    assert updates(wire.sent()) == [(stream.id, WINDOW)]
    wire.streams.resume(stream)
    assert wire.sent() == []


@pytest.mark.parametrize("paused", [True, False])
@pytest.mark.parametrize("padding", [0, 10])
def test_more_than_the_stream_window_ends_the_connection(paused: bool, padding: int) -> None:
    wire = Wire(H2Settings(initial_window=1000))
    stream, recorder = wire.answered()
    stream.paused = paused
    flags = ["PADDED"] if padding else []
    wire.feed(DataFrame(stream.id, b"x" * 1001, pad_length=padding, flags=flags))
    assert isinstance(recorder.error, UpstreamProtocolError)
    goaway = wire.goaway()
    assert goaway is not None
    assert goaway.error_code == ErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize("cancelled", [True, False])
def test_more_than_the_connection_window_ends_the_connection(cancelled: bool) -> None:
    wire = Wire(H2Settings(initial_window=1_000_000, connection_window=65_535))
    stream, recorder = wire.answered()
    if cancelled:
        wire.streams.cancel(stream)
    wire.feed(*(DataFrame(stream.id, b"x" * 16_384) for _ in range(4)))  # one byte over, one read
    goaway = wire.goaway()
    assert goaway is not None
    assert goaway.error_code == ErrorCode.FLOW_CONTROL_ERROR
    assert recorder.done != cancelled


def test_no_window_goes_to_a_stream_that_has_ended() -> None:
    wire = Wire(H2Settings(initial_window=1000))
    stream, recorder = wire.answered()
    wire.feed(DataFrame(stream.id, b"x" * 1000, flags=["END_STREAM"]))
    assert recorder.trailers == []
    assert wire.sent() == []


# --- uploads --------------------------------------------------------------------------------------


def test_a_body_waits_for_the_windows() -> None:
    wire = Wire()
    body = bytes(n % 251 for n in range(200_000))
    stream, _ = wire.request(POST, body)
    first = wire.sent()
    assert len(data_of(first, 1)) == 65_535
    assert max(f.body_len for f in first) == 16_384
    wire.feed(WindowUpdateFrame(1, 1_000_000))
    assert wire.sent() == []  # the connection's window is used up as well
    wire.feed(WindowUpdateFrame(0, 1_000_000))
    rest = wire.sent()
    assert data_of(first + rest, 1) == body
    assert "END_STREAM" in rest[-1].flags
    assert stream.finished


def test_uploads_take_turns() -> None:
    wire = Wire()
    wire.feed(SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 1_000_000}))
    wire.request(POST, b"a" * 100_000)
    wire.request(POST, b"b" * 20_000)
    order = [f.stream_id for f in wire.sent() if isinstance(f, DataFrame)]
    assert order[:4] == [1, 3, 1, 3]


def test_settings_move_the_windows_of_open_streams() -> None:
    wire = Wire()
    wire.request(POST, b"a" * 100_000)
    assert len(data_of(wire.sent(), 1)) == 65_535
    wire.feed(WindowUpdateFrame(0, 1_000_000))
    wire.feed(SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 1_000}))  # 64,535 in debt
    wire.feed(WindowUpdateFrame(1, 64_535))
    assert data_of(wire.sent(), 1) == b""
    wire.feed(SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 1_010}))
    assert data_of(wire.sent(), 1) == b"a" * 10
    wire.feed(SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 2**31 - 1}))
    assert len(data_of(wire.sent(), 1)) == 100_000 - 65_545


def test_a_window_that_shrinks_while_its_stream_is_queued_stops_it() -> None:
    wire = Wire()
    wire.request(POST, b"a" * 100)
    wire.feed(SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 0}))
    assert [type(f) for f in wire.sent()] == [HeadersFrame, SettingsFrame]
    wire.feed(WindowUpdateFrame(1, 100))
    assert data_of(wire.sent(), 1) == b"a" * 100


def test_an_early_answer_ends_the_upload() -> None:
    wire = Wire()
    stream, recorder = wire.request(POST, b"a" * 100_000)
    wire.sent()
    wire.feed(wire.block(1, OK), DataFrame(1, b"enough", flags=["END_STREAM"]))
    assert (recorder.body, recorder.trailers) == (b"enough", [])
    (reset,) = wire.sent()
    assert isinstance(reset, RstStreamFrame)
    assert reset.error_code == ErrorCode.NO_ERROR
    wire.feed(WindowUpdateFrame(1, 1_000_000), WindowUpdateFrame(0, 1_000_000))
    assert wire.sent() == []
    assert stream.body == b""
