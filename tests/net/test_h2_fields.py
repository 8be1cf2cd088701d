"""Header blocks: what a response head may be, content-length, and compression."""

from __future__ import annotations

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    HeadersFrame,
    RstStreamFrame,
)

from proxy.errors import UpstreamProtocolError
from proxy.net.h2.fields import Codec
from proxy.net.h2.frames import ErrorCode
from proxy.net.h2.state import H2Settings
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


def test_our_table_shrinks_when_the_peer_says_so() -> None:
    codec = Codec(65_536)
    peer = Wire().streams.codec  # a decoder
    filler = [(b"x-%d" % n, b"v" * 50) for n in range(20)]
    assert peer.decode(codec.encode(filler)) == filler
    codec.resize(100)
    codec.resize(3000)
    peer._decoder.max_allowed_table_size = 3000
    block = codec.encode(filler)
    # Two size updates: the smallest, then the last (RFC 7541 §4.2).
    assert block.startswith(b"\x3f\x45\x3f\x99\x17")
    assert peer.decode(block) == filler
    assert codec.encode(filler)[0] & 0xE0 != 0x20  # told once


def test_a_table_size_of_zero_and_back_empties_the_table() -> None:
    codec = Codec(65_536)
    peer = Codec(65_536)
    field = [(b"x-field", b"value")]
    peer.decode(codec.encode(field))
    codec.resize(0)
    codec.resize(4096)
    block = codec.encode(field)
    assert block.startswith(b"\x20\x3f\xe1\x1f")
    assert peer.decode(block) == field
    assert len(codec.encode(field)) == 1  # indexed again


def test_our_table_does_not_grow_over_its_default() -> None:
    codec = Codec(65_536)
    codec.resize(2**32 - 1)
    for n in range(1000):
        codec.encode([(b"x-%d" % n, b"v" * 100)])
    assert len(codec._encoder.header_table.dynamic_entries) < 40


def test_secrets_never_enter_the_table() -> None:
    codec = Codec(65_536)
    headers = [*POST, (b"authorization", b"Bearer key"), (b"x-api-key", b"key")]
    codec.encode(headers)
    names = {name for name, _ in codec._encoder.header_table.dynamic_entries}
    assert names == {b":authority"}
    assert Codec(65_536).decode(Codec(65_536).encode(headers)) == headers


def test_the_peers_table_may_change_size_up_to_ours() -> None:
    wire = Wire()
    for size in (0, 4096, 100):
        wire.hpack.header_table_size = size
        _, recorder = wire.answered([*OK, (b"x-size", b"%d" % size)])
        assert recorder.head is not None
    wire.hpack.header_table_size = 4097
    _, recorder = wire.request()
    wire.feed(wire.block(7, OK))
    goaway = wire.goaway()
    assert goaway is not None
    assert goaway.error_code == ErrorCode.COMPRESSION_ERROR


def test_a_block_of_a_cancelled_stream_still_counts_for_compression() -> None:
    wire = Wire()
    gone, _ = wire.request()
    wire.streams.cancel(gone)
    headers = [*OK, (b"x-new", b"in the table")]
    wire.feed(wire.block(gone.id, headers))
    _, recorder = wire.answered(headers)
    assert recorder.head == (200, headers[1:])


@pytest.mark.parametrize("count", [1, 5])
def test_a_header_list_up_to_the_limit_is_taken(count: int) -> None:
    limit = H2Settings().header_list_limit
    size = (limit - 32 - len(b":status200")) // count - 32 - 3
    fine = [(b":status", b"200"), *((b"x-%d" % n, b"v" * size) for n in range(count))]
    wire = Wire()
    _, recorder = wire.request()
    wire.feed(*in_parts(wire.hpack.encode(fine, huffman=False)))
    assert recorder.head == (200, fine[1:])
    wire.request()
    wire.feed(*in_parts(wire.hpack.encode([*fine, (b"x", b"v" * 40)], huffman=False), 3))
    goaway = wire.goaway()
    assert goaway is not None
    assert goaway.error_code == ErrorCode.ENHANCE_YOUR_CALM


def in_parts(block: bytes, stream_id: int = 1) -> list[Frame]:
    parts = [block[at : at + 16_384] for at in range(0, len(block), 16_384)]
    sent: list[Frame] = [HeadersFrame(stream_id, parts[0])]
    sent += [ContinuationFrame(stream_id, part) for part in parts[1:]]
    sent[-1].flags.add("END_HEADERS")
    return sent
