"""Header blocks: what a response head may be, content-length, and compression."""

from __future__ import annotations

import pytest
from hpack import Decoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    RstStreamFrame,
)

from proxy.errors import UpstreamProtocolError
from proxy.net.h2.fields import Codec
from proxy.net.h2.frames import ErrorCode
from tests.fakes.h2_sinks import GET, OK, POST, Headers
from tests.fakes.h2_wire import Wire

HEAD_REQUEST: Headers = [(b":method", b"HEAD"), *GET[1:]]


# --- what a response head may be -----------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b"x", b"1")],
        [(b":status", b"200"), (b":status", b"200")],
        [(b"x", b"1"), (b":status", b"200")],
        [(b":status", b"200"), (b":path", b"/")],
        [(b":method", b"GET"), (b":status", b"200")],
        [(b":status", b"20")],
        [(b":status", b"2000")],
        [(b":status", b"2x0")],
        [(b":status", b"099")],
        [(b":status", b"")],
        [(b":status", "２００".encode())],
        [(b":status", b"101")],
        [(b":status", b"200"), (b"Content-Type", b"a/b")],
        [(b":status", b"200"), (b"", b"v")],
        [(b":status", b"200"), (b"a b", b"v")],
        [(b":status", b"200"), (b"a\0", b"v")],
        [(b":status", b"200"), (b"a\n", b"v")],
        [(b":status", b"200"), (b"a:", b"v")],
        [(b":status", b"200"), (b"\xe4", b"v")],
        [(b":status", b"200"), (b"a", b"v\0")],
        [(b":status", b"200"), (b"a", b"v\r\nset-cookie: b")],
        [(b":status", b"200"), (b"a", b"v\n")],
        [(b":status", b"200"), (b"a", b" v")],
        [(b":status", b"200"), (b"a", b"v\t")],
        [(b":status", b"200"), (b"connection", b"close")],
        [(b":status", b"200"), (b"keep-alive", b"5")],
        [(b":status", b"200"), (b"proxy-connection", b"close")],
        [(b":status", b"200"), (b"transfer-encoding", b"chunked")],
        [(b":status", b"200"), (b"upgrade", b"h2c")],
        [(b":status", b"200"), (b"content-length", b"x")],
        [(b":status", b"200"), (b"content-length", b"-1")],
        [(b":status", b"200"), (b"content-length", b"")],
        [(b":status", b"200"), (b"content-length", b"9" * 30)],
        [(b":status", b"200"), (b"content-length", b"1"), (b"content-length", b"2")],
    ],
    ids=repr,
)
def test_a_malformed_head_resets_its_stream_alone(fields: Headers) -> None:
    wire = Wire()
    stream, recorder = wire.request()
    _, other = wire.answered()
    wire.feed(wire.block(stream.id, fields))
    assert isinstance(recorder.error, UpstreamProtocolError)
    assert recorder.head is None
    (reset,) = wire.sent()
    assert isinstance(reset, RstStreamFrame)
    assert (reset.stream_id, reset.error_code) == (stream.id, ErrorCode.PROTOCOL_ERROR)
    assert not other.done
    assert not wire.streams.closed


@pytest.mark.parametrize(
    "fields",
    [
        [(b":status", b"200"), (b"a", b"")],
        [(b":status", b"200"), (b"a", b"v\xe4 \xff"), (b"a", b"v")],
        [(b":status", b"599"), (b"te", b"trailers")],
        [(b":status", b"200"), (b"content-length", b"5"), (b"content-length", b"5")],
        [(b":status", b"200"), (b"x_y.z~!#$%&'*+-^`|9", b"v")],
    ],
    ids=repr,
)
def test_an_unusual_head_within_the_rules_is_kept_as_it_came(fields: Headers) -> None:
    wire = Wire()
    stream, recorder = wire.request()
    wire.feed(wire.block(stream.id, fields))
    assert recorder.head == (int(fields[0][1]), fields[1:])


@pytest.mark.parametrize("trailer", [(b":status", b"200"), (b"X", b"1"), (b"connection", b"a")])
def test_malformed_trailers_are_an_error_behind_the_body(trailer: tuple[bytes, bytes]) -> None:
    wire = Wire()
    stream, recorder = wire.answered()
    wire.feed(DataFrame(stream.id, b"body"), wire.block(stream.id, [trailer], "END_STREAM"))
    assert recorder.body == b"body"
    assert isinstance(recorder.error, UpstreamProtocolError)


def test_a_second_head_is_no_trailers() -> None:
    wire = Wire()
    stream, recorder = wire.answered()
    wire.feed(wire.block(stream.id, OK))
    assert isinstance(recorder.error, UpstreamProtocolError)


@pytest.mark.parametrize(
    ("request_headers", "head", "parts", "fine"),
    [
        (GET, b"200", [b"12", b"345"], True),
        (GET, b"200", [b"12"], False),
        (GET, b"200", [b"12", b"3456"], False),
        (GET, b"200", [], False),
        (HEAD_REQUEST, b"200", [], True),
        (HEAD_REQUEST, b"200", [b"12345"], False),
        (GET, b"304", [], True),
        (GET, b"304", [b"1"], False),
        (GET, b"204", [], True),
    ],
)
def test_content_length_must_equal_the_data(
    request_headers: Headers, head: bytes, parts: list[bytes], fine: bool
) -> None:
    for one_read in (True, False):
        wire = Wire()
        stream, recorder = wire.request(request_headers)
        answer: list[Frame] = [
            wire.block(stream.id, [(b":status", head), (b"content-length", b"5")]),
            *(DataFrame(stream.id, part) for part in parts),
            DataFrame(stream.id, b"", flags=["END_STREAM"]),
        ]
        if one_read:
            wire.feed(*answer)
        else:
            for frame in answer:
                wire.feed(frame)
        assert (recorder.trailers is not None) == fine
        assert isinstance(recorder.error, UpstreamProtocolError) == (not fine)
        assert len(recorder.body) <= 5
        assert any(isinstance(f, RstStreamFrame) for f in wire.sent()) == (not fine)
        assert not wire.streams.closed


# --- compression ---------------------------------------------------------------------------------


def test_what_we_send_is_never_indexed_and_any_decoder_reads_it() -> None:
    codec, peer = Codec(65_536), Decoder()
    for size in (0, 1, 126, 127, 128, 254, 255, 16_384, 100_000):
        headers = [*POST, (b"authorization", b"Bearer key"), (b"x-long", b"v" * size)]
        peer.max_header_list_size = 200_000
        assert peer.decode(codec.encode(headers), raw=True) == headers
    assert not peer.header_table.dynamic_entries


def test_the_first_block_gives_the_table_up_and_is_the_only_one_to_say_so() -> None:
    """Whatever SETTINGS_HEADER_TABLE_SIZE a peer asks for later, an empty table fits."""
    codec = Codec(65_536)
    assert codec.encode(POST).startswith(b"\x20\x83\x87")
    assert codec.encode(POST).startswith(b"\x83\x87")


def test_secrets_are_marked_as_never_to_be_indexed() -> None:
    codec = Codec(65_536)
    codec.encode([])
    assert codec.encode([(b"x-api-key", b"k")]) == b"\x10\x09x-api-key\x01k"
    assert codec.encode([(b"x-title", b"k")]) == b"\0\x07x-title\x01k"
