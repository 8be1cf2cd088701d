"""What clients of a WebSocket say rightly, and what they must not, as bytes on the wire."""

from __future__ import annotations

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
    Message,
    Ping,
    Pong,
)

KEY = b"\x12\x34\x56\x78"
LIMIT = 1 << 17


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, key: bytes = KEY) -> bytes:
    """A frame of a client, whatever it says."""
    whole = wire.encode(opcode, payload, key)
    return whole if fin else bytes((whole[0] & 0x7F,)) + whole[1:]


def head(first: int, second: int, rest: bytes = b"") -> bytes:
    return bytes((first, second)) + rest


def text(data: str) -> Message:
    return Message(True, data.encode())


CONVERSATIONS: dict[str, tuple[bytes, list[Event]]] = {
    "one text": (frame(TEXT, b"hi"), [text("hi")]),
    "one binary": (frame(BINARY, b"\xff\0"), [Message(False, b"\xff\0")]),
    "nothing said": (frame(TEXT) + frame(BINARY), [text(""), Message(False, b"")]),
    "fragments": (
        frame(TEXT, "gr\u00fc".encode()[:3], fin=False)
        + frame(CONTINUATION, "gr\u00fc".encode()[3:], fin=False)
        + frame(CONTINUATION, b"n"),
        [text("gr\u00fcn")],
    ),
    "empty fragments": (
        frame(BINARY, fin=False) + frame(CONTINUATION, fin=False) + frame(CONTINUATION),
        [Message(False, b"")],
    ),
    "control frames between fragments": (
        frame(TEXT, b"a", fin=False)
        + frame(PING, b"p")
        + frame(CONTINUATION, b"b", fin=False)
        + frame(PONG, b"q")
        + frame(CONTINUATION, b"c"),
        [Ping(b"p"), Pong(b"q"), text("abc")],
    ),
    "the largest control frame": (frame(PING, b"x" * 125), [Ping(b"x" * 125)]),
    "a close without a code": (frame(CLOSE), [Close(None, "")]),
    "a close": (frame(CLOSE, b"\x03\xe8bye"), [Close(1000, "bye")]),
    "a close amid a message": (
        frame(TEXT, b"a", fin=False) + frame(CLOSE, b"\x0b\xb8"),
        [Close(3000, "")],
    ),
    "texts of each size of UTF-8": (
        frame(TEXT, "a\u00e4\u4e2d\U0001f600".encode()),
        [text("a\u00e4\u4e2d\U0001f600")],
    ),
}

FAULTS: dict[str, tuple[bytes, int]] = {
    "unmasked": (wire.encode(TEXT, b"hi"), 1002),
    "an unmasked close": (wire.encode(CLOSE, b""), 1002),
    **{f"reserved bit {bit:#x}": (head(0x81 | bit, 0x80), 1002) for bit in (0x40, 0x20, 0x10)},
    **{
        f"opcode {code:#x}": (head(0x80 | code, 0x80), 1002)
        for code in (*range(3, 8), *range(11, 16))
    },
    "a long ping": (head(0x89, 0xFE, b"\0\x7e"), 1002),
    "a fragmented ping": (head(0x09, 0x80), 1002),
    "a fragmented close": (head(0x08, 0x80), 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"a"), 1002),
    "a message within a message": (frame(TEXT, b"a", fin=False) + frame(BINARY, b"b"), 1002),
    "16 bits for 125": (head(0x82, 0xFE, b"\0\x7d"), 1002),
    "64 bits for 126": (head(0x82, 0xFF, (126).to_bytes(8)), 1002),
    "64 bits for 65535": (head(0x82, 0xFF, (65535).to_bytes(8)), 1002),
    "64 bits with the top one": (head(0x82, 0xFF, (1 << 63).to_bytes(8)), 1002),
    "too long by its header": (head(0x82, 0xFF, (LIMIT + 1).to_bytes(8)), 1009),
    "as long as can be told": (head(0x82, 0xFF, ((1 << 63) - 1).to_bytes(8)), 1009),
    "too long in fragments": (
        frame(BINARY, b"x" * (LIMIT - 1), fin=False) + head(0x80, 0x82),
        1009,
    ),
    **{
        f"text {bad!r}": (frame(TEXT, bad), 1007)
        for bad in (
            *(b"\xff", b"a\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe4\xb8", b"\x80"),
            "\u4e2d".encode()[:2],
        )
    },
    "text that breaks in a later fragment": (
        frame(TEXT, b"\xe4", fin=False) + frame(CONTINUATION, b"\xb8a", fin=False),
        1007,
    ),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "a reason that is not UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    **{
        f"close code {code}": (frame(CLOSE, code.to_bytes(2)), 1002)
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    },
}
