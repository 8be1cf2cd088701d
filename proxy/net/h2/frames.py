"""The bytes of HTTP/2 frames: numbers, names and formatting (RFC 9113 §4, §6, §7).

A frame header is read as three numbers, `HEADER.unpack_from(data, at)`: the word
`length << 8 | type`, the flags, and the stream id with its reserved bit.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

HEADER = Struct(">IBI")
HEADER_SIZE = 9

DATA = 0x0
HEADERS = 0x1
PRIORITY = 0x2
RST_STREAM = 0x3
SETTINGS = 0x4
PUSH_PROMISE = 0x5
PING = 0x6
GOAWAY = 0x7
WINDOW_UPDATE = 0x8
CONTINUATION = 0x9

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

HEADER_TABLE_SIZE = 0x1
ENABLE_PUSH = 0x2
MAX_CONCURRENT_STREAMS = 0x3
INITIAL_WINDOW_SIZE = 0x4
MAX_FRAME_SIZE = 0x5
MAX_HEADER_LIST_SIZE = 0x6

DEFAULT_WINDOW = 65_535
MAX_WINDOW = 2**31 - 1
MAX_STREAM_ID = 2**31 - 1
SMALLEST_MAX_FRAME = 16_384
LARGEST_MAX_FRAME = 2**24 - 1

SENT_FRAME_SIZE = SMALLEST_MAX_FRAME
"""Longest payload we send, bytes. Every peer must take this size (RFC 9113 §4.2), and small
frames let uploads share a connection."""

_ID = 0x7FFFFFFF
_U32 = Struct(">I")
_U32_PAIR = Struct(">II")
_SETTING = Struct(">HI")


class ErrorCode(IntEnum):
    """Why a stream was reset or a connection given up (RFC 9113 §7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Violation(Exception):
    """The peer broke the protocol in a way that ends the connection (RFC 9113 §5.4.1)."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def code_name(code: int) -> str:
    """The name of an error code; unknown codes are legal and shown as a number."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"error code 0x{code:x}"


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One frame of any type."""
    return HEADER.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def headers(stream_id: int, block: bytes, *, end: bool) -> bytes:
    """HEADERS, and the CONTINUATIONs that a block over `SENT_FRAME_SIZE` needs."""
    flags = END_STREAM if end else 0
    if len(block) <= SENT_FRAME_SIZE:
        return frame(HEADERS, flags | END_HEADERS, stream_id, block)
    parts = [block[at : at + SENT_FRAME_SIZE] for at in range(0, len(block), SENT_FRAME_SIZE)]
    out = [frame(HEADERS, flags, stream_id, parts[0])]
    out += [frame(CONTINUATION, 0, stream_id, part) for part in parts[1:-1]]
    out.append(frame(CONTINUATION, END_HEADERS, stream_id, parts[-1]))
    return b"".join(out)


def data(stream_id: int, payload: bytes, *, end: bool) -> bytes:
    """DATA without padding; at most `SENT_FRAME_SIZE` bytes are the caller's duty."""
    return frame(DATA, END_STREAM if end else 0, stream_id, payload)


def rst_stream(stream_id: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream_id, _U32.pack(code))


def settings(values: list[tuple[int, int]]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in values))


SETTINGS_ACK = frame(SETTINGS, ACK, 0)


def ping(payload: bytes, *, ack: bool = False) -> bytes:
    return frame(PING, ACK if ack else 0, 0, payload)


def goaway(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, _U32_PAIR.pack(last_stream_id, code) + debug)


def window_update(stream_id: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, _U32.pack(increment))


# --- payloads of received frames -----------------------------------------------------------------


def read_padded(payload: bytes) -> bytes:
    """The payload of a PADDED frame without its padding (RFC 9113 §6.1)."""
    if not payload:
        raise Violation(ErrorCode.FRAME_SIZE_ERROR, "padded frame without a pad length")
    padding = payload[0]
    if padding >= len(payload):
        raise Violation(ErrorCode.PROTOCOL_ERROR, "padding as long as its frame")
    return payload[1 : len(payload) - padding]


def read_number(payload: bytes, name: str) -> int:
    """The single 32-bit number of RST_STREAM and WINDOW_UPDATE."""
    if len(payload) != 4:
        raise Violation(ErrorCode.FRAME_SIZE_ERROR, f"{name} of {len(payload)} bytes")
    return int(_U32.unpack(payload)[0])


def read_goaway(payload: bytes) -> tuple[int, int, bytes]:
    """Last stream id, error code, debug bytes."""
    if len(payload) < 8:
        raise Violation(ErrorCode.FRAME_SIZE_ERROR, f"GOAWAY of {len(payload)} bytes")
    last_stream_id, code = _U32_PAIR.unpack_from(payload)
    return last_stream_id & _ID, code, payload[8:]


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """The (identifier, value) pairs in order, each value within its range (RFC 9113 §6.5.2)."""
    if len(payload) % 6:
        raise Violation(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes")
    values = list(_SETTING.iter_unpack(payload))
    for identifier, value in values:
        _check_setting(identifier, value)
    return values


def _check_setting(identifier: int, value: int) -> None:
    if identifier == ENABLE_PUSH and value != 0:
        raise Violation(ErrorCode.PROTOCOL_ERROR, f"a server's ENABLE_PUSH of {value}")
    if identifier == INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
        raise Violation(ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE of {value}")
    if identifier == MAX_FRAME_SIZE and not SMALLEST_MAX_FRAME <= value <= LARGEST_MAX_FRAME:
        raise Violation(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE of {value}")
