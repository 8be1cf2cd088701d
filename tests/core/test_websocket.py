"""The WebSocket codec: whole, at every cut, byte by byte, and beside two independent ones."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.frames import Close as TheirClose
from websockets.frames import Frame as TheirFrame
from websockets.frames import Opcode as TheirOpcode
from websockets.protocol import CLIENT, OPEN, Protocol
from websockets.protocol import SERVER as THEIR_SERVER
from wsproto.frame_protocol import FrameProtocol
from wsproto.frame_protocol import Opcode as WsOpcode

from proxy.core.wire import websocket as wire
from proxy.core.wire.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Close,
    Event,
    Frames,
    Message,
    Ping,
    Pong,
    WebSocketFault,
)
from tests.fakes.websocket_cases import CONVERSATIONS, FAULTS, KEY, LIMIT, frame, head, text

SIZES = (0, 1, 125, 126, 127, 4095, 4096, 4097, 65535, 65536)


def read(parts: Iterable[bytes], limit: int = LIMIT) -> tuple[list[Event], int | None]:
    """What came, and the code of the fault that ended it."""
    frames = Frames(limit)
    events: list[Event] = []
    try:
        for part in parts:
            frames.feed(part)
            while (event := frames.next()) is not None:
                events.append(event)
    except WebSocketFault as fault:
        return events, fault.code
    return events, None


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_what_is_said_is_read_whole_cut_anywhere_and_byte_by_byte(name: str) -> None:
    data, events = CONVERSATIONS[name]
    assert read([data]) == (events, None)
    for cut in range(len(data) + 1):
        assert read([data[:cut], data[cut:]]) == (events, None)
    assert read(data[at : at + 1] for at in range(len(data))) == (events, None)


@pytest.mark.parametrize("name", FAULTS)
def test_what_breaks_the_protocol_has_its_code_however_it_comes(name: str) -> None:
    data, code = FAULTS[name]
    before = frame(TEXT, b"before")
    whole = read([before + data])
    assert whole == ([text("before")], code)
    for cut in range(min(len(data), 64) + 1):
        assert read([before + data[:cut], data[cut:]]) == whole
    if len(data) < 1000:
        assert read((before + data)[at : at + 1] for at in range(len(before + data))) == whole


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]
)
def test_close_codes_that_may_be_sent_are_read(code: int) -> None:
    assert read([frame(CLOSE, wire.close_payload(code, "why"))]) == ([Close(code, "why")], None)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_every_size_of_message_is_read_in_reads_of_any_size(size: int, opcode: int) -> None:
    payload = random.Random(size).randbytes(size) if opcode == BINARY else b"z" * size
    data = frame(opcode, payload) + frame(PING)
    expected = ([Message(opcode == TEXT, payload), Ping(b"")], None)
    for step in (len(data), 4096, 1000, 7):
        assert read(data[at : at + step] for at in range(0, len(data), step)) == expected


@pytest.mark.parametrize("size", SIZES)
def test_a_frame_cut_at_any_place_near_its_edges_is_the_same_frame(size: int) -> None:
    payload = random.Random(size).randbytes(size)
    data = frame(BINARY, payload)
    edges = {*range(20), *range(len(data) - 20, len(data))} & set(range(len(data)))
    for cut in edges:
        assert read([data[:cut], data[cut:]]) == ([Message(False, payload)], None)


def test_bad_text_is_told_at_the_byte_that_makes_it_bad() -> None:
    """0xF4 0x90 can begin no character: the rest of the frame need not come."""
    data = frame(TEXT, b"ok \xf4\x90\x80\x80" + b"x" * 100)
    frames = Frames(LIMIT)
    for at in range(6 + 4):
        frames.feed(data[at : at + 1])
        assert frames.next() is None
    frames.feed(data[10:11])
    with pytest.raises(WebSocketFault) as caught:
        frames.next()
    assert caught.value.code == 1007


def test_a_message_over_the_limit_is_told_before_any_of_it_is_held() -> None:
    frames = Frames(1000)
    frames.feed(head(0x82, 0xFE, (1001).to_bytes(2)))
    with pytest.raises(WebSocketFault) as caught:
        frames.next()
    assert caught.value.code == 1009
    assert frames.held < 10


def test_a_message_of_just_the_limit_is_read() -> None:
    data = frame(BINARY, b"x" * 600, fin=False) + frame(CONTINUATION, b"x" * 400)
    assert read([data], 1000) == ([Message(False, b"x" * 1000)], None)


def test_a_message_in_ever_more_fragments_has_an_end() -> None:
    endless = frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 100_000
    assert read([endless]) == ([], 1008)


def test_what_is_held_of_a_message_is_told() -> None:
    frames = Frames(LIMIT)
    frames.feed(frame(BINARY, b"x" * 1000)[:500])
    assert frames.next() is None
    assert 480 <= frames.held <= 500
    frames.feed(frame(BINARY, b"x" * 1000)[500:])
    assert frames.next() == Message(False, b"x" * 1000)
    assert frames.held == 0


def test_a_server_must_not_mask() -> None:
    frames = Frames(LIMIT, masked=False)
    frames.feed(wire.encode(TEXT, b"hi"))
    assert frames.next() == text("hi")
    frames.feed(frame(TEXT, b"hi"))
    with pytest.raises(WebSocketFault):
        frames.next()


def test_a_reason_is_cut_between_two_characters() -> None:
    payload = wire.close_payload(1000, "\u4e2d" * 100)
    assert len(payload) <= 125
    assert payload[2:].decode() == "\u4e2d" * 41
    assert wire.close_payload(None) == b""


@given(st.binary(max_size=9000), st.binary(min_size=4, max_size=4))
def test_masking_is_an_xor_with_the_key_repeated(data: bytes, key: bytes) -> None:
    expected = bytes(byte ^ key[at % 4] for at, byte in enumerate(data))
    assert wire.masked(data, key) == expected
    assert wire.masked(wire.masked(data, key), key) == data


# --- beside two others ---------------------------------------------------------------------------

SAYING = st.lists(
    st.one_of(
        st.tuples(st.just("text"), st.text(max_size=300).map(str.encode)),
        st.tuples(st.just("binary"), st.binary(max_size=300)),
        st.tuples(st.sampled_from(["ping", "pong"]), st.binary(max_size=125)),
    ),
    max_size=8,
)


def expected(saying: list[tuple[str, bytes]]) -> list[Event]:
    kinds: dict[str, Any] = {"ping": Ping, "pong": Pong}
    return [
        kinds[what](data) if what in kinds else Message(what == "text", data)
        for what, data in saying
    ]


def pieces(data: bytes, dice: random.Random) -> list[bytes]:
    cuts = sorted(dice.randrange(len(data) + 1) for _ in range(dice.randrange(6)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


@settings(max_examples=60)
@given(SAYING, st.randoms(use_true_random=False))
def test_what_wsproto_says_is_read(saying: list[tuple[str, bytes]], dice: random.Random) -> None:
    peer = FrameProtocol(client=True, extensions=[])
    data = b""
    for what, payload in saying:
        if what == "ping":
            data += peer.ping(payload)
        elif what == "pong":
            data += peer.pong(payload)
        elif what == "binary":
            parts = pieces(payload, dice)
            for number, part in enumerate(parts):
                data += peer.send_data(part, fin=number == len(parts) - 1)
        else:
            data += peer.send_data(payload.decode(), fin=True)
    data += peer.close(4001, "over")
    assert read(pieces(data, dice)) == ([*expected(saying), Close(4001, "over")], None)


@settings(max_examples=60)
@given(SAYING, st.randoms(use_true_random=False))
def test_what_websockets_says_is_read(saying: list[tuple[str, bytes]], dice: random.Random) -> None:
    opcodes = {
        "text": TheirOpcode.TEXT,
        "binary": TheirOpcode.BINARY,
        "ping": TheirOpcode.PING,
        "pong": TheirOpcode.PONG,
    }
    data = b""
    for what, payload in saying:
        opcode, parts = opcodes[what], [payload]
        if what in ("text", "binary"):
            parts = pieces(payload, dice)
        for number, part in enumerate(parts):
            one = TheirFrame(opcode, part, fin=number == len(parts) - 1)
            data += one.serialize(mask=True)
            opcode = TheirOpcode.CONT
    assert read(pieces(data, dice)) == (expected(saying), None)


@settings(max_examples=60)
@given(SAYING, st.booleans())
def test_what_is_said_here_is_read_by_both(saying: list[tuple[str, bytes]], ours: bool) -> None:
    """`ours`: this is the client, and masks."""
    opcodes = {"text": TEXT, "binary": BINARY, "ping": PING, "pong": PONG}
    key = KEY if ours else b""
    data = b"".join(wire.encode(opcodes[what], payload, key) for what, payload in saying)
    data += wire.encode(CLOSE, wire.close_payload(1001, "bye"), key)

    theirs = FrameProtocol(client=not ours, extensions=[])
    theirs.receive_bytes(data)
    seen: list[tuple[str, bytes]] = []
    so_far = b""
    for one in theirs.received_frames():
        payload = one.payload.encode() if isinstance(one.payload, str) else one.payload
        if one.opcode is WsOpcode.CLOSE:
            seen.append(("close", bytes(str(one.payload), "ascii")))
            continue
        assert isinstance(payload, bytes | bytearray)
        so_far += payload
        if one.message_finished:
            seen.append((one.opcode.name.lower(), so_far))
            so_far = b""
    assert [one for one in seen if one[0] != "close"] == saying
    assert len(seen) == len(saying) + 1

    peer = Protocol(THEIR_SERVER if ours else CLIENT, state=OPEN)
    peer.receive_data(data)
    told = [one for one in peer.events_received() if isinstance(one, TheirFrame)]
    names = {"text": "TEXT", "binary": "BINARY", "ping": "PING", "pong": "PONG"}
    assert [(one.opcode.name, bytes(one.data)) for one in told[:-1]] == [
        (names[what], payload) for what, payload in saying
    ]
    assert peer.close_rcvd == TheirClose(1001, "bye")


@settings(max_examples=60)
@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_noise_is_read_the_same_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    marks = sorted({min(cut, len(data)) for cut in cuts})
    parts = [data[a:b] for a, b in zip([0, *marks], [*marks, len(data)], strict=True)]
    assert read(parts, 500) == read([data], 500)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([TEXT, BINARY, CONTINUATION, PING, CLOSE]),
            st.booleans(),
            st.text(max_size=10).map(str.encode),
        ),
        max_size=6,
    )
)
def test_frames_in_any_order_get_the_verdict_of_another_codec(
    saying: list[tuple[int, bool, bytes]],
) -> None:
    """But for UTF-8, which that one does not look at."""
    data = b"".join(frame(opcode, payload, fin=fin) for opcode, fin, payload in saying)
    events, code = read([data])
    peer = Protocol(THEIR_SERVER, state=OPEN)
    peer.receive_data(data)
    closes = [at for at, event in enumerate(events) if isinstance(event, Close)]
    if closes:  # what follows a Close is nobody's business
        assert peer.close_rcvd is not None
    elif code is not None:
        assert peer.close_sent is not None
        both = {int(peer.close_sent.code), code}  # a Close may be wrong in two ways
        assert len(both) == 1 or both == {1002, 1007}
    else:
        assert peer.close_sent is None
