"""The frames of a WebSocket (RFC 6455), from bytes and to bytes. No extension is ever agreed on.

What breaks the protocol is a `WebSocketFault` as soon as it is certain: a wrong header before its
payload has come, a message over the limit before it is held, text that is not UTF-8 at the byte
that makes it so.
"""

from __future__ import annotations

import codecs
from typing import Final, NamedTuple

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
_OPCODES: Final = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})

# RFC 6455 §7.4.1 and the IANA registry of close codes.
NORMAL: Final = 1000
GOING_AWAY: Final = 1001
BROKEN: Final = 1002
NO_CODE: Final = 1005
"""Never sent: the peer's Close had no code."""
ABNORMAL: Final = 1006
"""Never sent: the connection ended without a Close."""
NOT_UTF8: Final = 1007
POLICY: Final = 1008
TOO_BIG: Final = 1009
FAILED: Final = 1011
TRY_LATER: Final = 1013
_RESERVED: Final = frozenset({1004, NO_CODE, ABNORMAL})
_LAST_ASSIGNED: Final = 1014

_FIN: Final = 0x80
_RSV: Final = 0x70
_MASKED: Final = 0x80
_LARGEST_CONTROL: Final = 125
_MOST_FRAGMENTS: Final = 4096
"""Of one message. Each costs work, and may be empty."""


class WebSocketFault(Exception):
    """The peer broke the protocol, or a limit; `code` and `reason` are for the Close to it."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Message(NamedTuple):
    """A whole message."""

    text: bool
    """Then `data` is valid UTF-8."""
    data: bytes


class Ping(NamedTuple):
    """To be answered with a Pong of the same bytes."""

    data: bytes


class Pong(NamedTuple):
    """Asked for or not."""

    data: bytes


class Close(NamedTuple):
    """The last frame of the peer."""

    code: int | None
    """None: it gave none."""
    reason: str


Event = Message | Ping | Pong | Close


class _Header(NamedTuple):
    opcode: int
    fin: bool
    length: int
    key: bytes


class Frames:
    """The peer's bytes as events: `feed` what came, then take events with `next` until None.

    Nothing is parsed before it is asked for, so that whoever is busy holds bytes, not messages.
    After a fault it is of no use any more.
    """

    __slots__ = (
        *("_buffer", "_decode", "_fragments", "_header", "_is_text", "_left", "_masked"),
        *("_max_message", "_message"),
    )

    def __init__(self, max_message: int, *, masked: bool = True) -> None:
        """`max_message` in bytes. `masked`: the peer is a client, which masks all it sends (RFC
        6455 §5.1); a server masks nothing."""
        self._max_message = max_message
        self._masked = masked
        self._buffer = bytearray()
        self._header: _Header | None = None
        self._left = 0
        """Bytes of the payload that are not in `_message` yet."""
        self._message: bytearray | None = None
        """As much as there is of a message that is not whole."""
        self._is_text = False
        self._fragments = 0
        self._decode: codecs.IncrementalDecoder | None = None

    @property
    def held(self) -> int:
        """Bytes that wait here for others."""
        return len(self._buffer) + (0 if self._message is None else len(self._message))

    def feed(self, data: bytes) -> None:
        """What came from the peer."""
        self._buffer += data

    def next(self) -> Event | None:
        """The next event that is whole; None: there is none yet. Raises WebSocketFault."""
        while True:
            header = self._header
            if header is None:
                header = self._header = self._read_header()
                if header is None:
                    return None
                self._left = header.length
            if header.opcode >= CLOSE:
                if len(self._buffer) < header.length:
                    return None
                return _control(header.opcode, self._payload(header.length))
            if self._message is None and header.fin and len(self._buffer) >= header.length:
                return self._at_once(header)  # by far the most
            if not self._append(header):
                return None
            if header.fin:
                return self._whole()

    # --- headers (RFC 6455 §5.2) -----------------------------------------------------------

    def _read_header(self) -> _Header | None:
        buffer = self._buffer
        if not buffer:
            return None
        first = buffer[0]
        opcode = first & 0x0F
        self._check_first(first, opcode)
        if len(buffer) < 2:
            return None
        second = buffer[1]
        length = second & 0x7F
        if bool(second & _MASKED) is not self._masked:
            raise WebSocketFault(BROKEN, _WRONG_MASK[self._masked])
        if opcode >= CLOSE and length > _LARGEST_CONTROL:
            raise WebSocketFault(BROKEN, "a control frame is over 125 bytes")
        size = 2
        if length >= 126:
            size = 4 if length == 126 else 10
            if len(buffer) < size:
                return None
            length = _long_length(bytes(buffer[2:size]))
        if opcode < CLOSE:
            self._check_size(length)
        if self._masked:
            size += 4
        if len(buffer) < size:
            return None
        key = bytes(buffer[size - 4 : size]) if self._masked else b""
        del buffer[:size]
        return _Header(opcode, bool(first & _FIN), length, key)

    def _check_first(self, first: int, opcode: int) -> None:
        if first & _RSV:
            raise WebSocketFault(BROKEN, "a reserved bit is set, and no extension was agreed on")
        if opcode not in _OPCODES:
            raise WebSocketFault(BROKEN, "a frame has a reserved opcode")
        if opcode >= CLOSE:
            if not first & _FIN:
                raise WebSocketFault(BROKEN, "a control frame is fragmented")
        elif opcode == CONTINUATION:
            if self._message is None:
                raise WebSocketFault(BROKEN, "a continuation of no message")
        elif self._message is not None:
            raise WebSocketFault(BROKEN, "a message begins within another one")

    def _check_size(self, length: int) -> None:
        so_far = 0 if self._message is None else len(self._message)
        if so_far + length > self._max_message:
            raise WebSocketFault(TOO_BIG, f"a message is over {self._max_message} bytes")
        if self._message is not None and self._fragments >= _MOST_FRAGMENTS:
            raise WebSocketFault(POLICY, f"a message has over {_MOST_FRAGMENTS} fragments")

    # --- payloads --------------------------------------------------------------------------

    def _payload(self, length: int) -> bytes:
        """A payload that is all there; its frame is over."""
        header, buffer = self._header, self._buffer
        assert header is not None
        data = bytes(buffer[:length])
        del buffer[:length]
        self._header = None
        return masked(data, header.key) if header.key else data

    def _at_once(self, header: _Header) -> Message:
        data = self._payload(header.length)
        text = header.opcode == TEXT
        if text and not data.isascii():
            try:
                data.decode()
            except UnicodeDecodeError:
                raise WebSocketFault(NOT_UTF8, _BAD_TEXT) from None
        return Message(text, data)

    def _append(self, header: _Header) -> bool:
        """Take what there is of a data frame; whether that was its end."""
        if self._message is None:
            self._message = bytearray()
            self._fragments = 0
            self._is_text = header.opcode == TEXT
            self._decode = _UTF8() if self._is_text else None
        part = bytes(self._buffer[: self._left])
        if part:
            del self._buffer[: self._left]
            if header.key:
                at = (header.length - self._left) % 4
                part = masked(part, header.key[at:] + header.key[:at])
            self._left -= len(part)
            self._check_text(part)
            self._message += part
        if self._left:
            return False
        self._fragments += 1
        self._header = None
        return True

    def _whole(self) -> Message:
        assert self._message is not None
        self._check_text(b"", final=True)
        message = Message(self._is_text, bytes(self._message))
        self._message = self._decode = None
        return message

    def _check_text(self, part: bytes, *, final: bool = False) -> None:
        if self._decode is None:
            return
        try:
            self._decode.decode(part, final)
        except UnicodeDecodeError:
            raise WebSocketFault(NOT_UTF8, _BAD_TEXT) from None


_UTF8: Final = codecs.getincrementaldecoder("utf-8")
_BAD_TEXT: Final = "a text is not UTF-8"
_WRONG_MASK: Final = {True: "a frame is not masked", False: "a frame is masked"}


def _long_length(field: bytes) -> int:
    """A length of 16 or 64 bits; it has to be the shortest way to say it."""
    length = int.from_bytes(field)
    if len(field) == 8 and length >> 63:
        raise WebSocketFault(BROKEN, "a length has its first bit set")
    if length < 126 or (len(field) == 8 and length < 1 << 16):
        raise WebSocketFault(BROKEN, "a length is not told in the shortest way")
    return length


def _control(opcode: int, payload: bytes) -> Ping | Pong | Close:
    if opcode == PING:
        return Ping(payload)
    if opcode == PONG:
        return Pong(payload)
    if not payload:
        return Close(None, "")
    if len(payload) == 1:
        raise WebSocketFault(BROKEN, "a close code has one byte")
    code = int.from_bytes(payload[:2])
    if not may_be_sent(code):
        raise WebSocketFault(BROKEN, "a close code that must not be sent")
    try:
        return Close(code, payload[2:].decode())
    except UnicodeDecodeError:
        raise WebSocketFault(NOT_UTF8, "the reason of a close is not UTF-8") from None


def may_be_sent(code: int) -> bool:
    """Whether a Close may have this code (RFC 6455 §7.4.2 and the IANA registry)."""
    if 3000 <= code <= 4999:
        return True
    return NORMAL <= code <= _LAST_ASSIGNED and code not in _RESERVED


def masked(data: bytes, key: bytes) -> bytes:
    """`data` with each byte XORed with that of `key`, four bytes, over and over."""
    size = len(data)
    if size <= _SLICE:
        pad = int.from_bytes((key * (size // 4 + 1))[:size], _ORDER)
        return (int.from_bytes(data, _ORDER) ^ pad).to_bytes(size, _ORDER)
    # Integers of megabytes leave the cache: in slices it is five times as fast.
    pad = int.from_bytes(key * (_SLICE // 4), _ORDER)
    parts = [
        (int.from_bytes(data[at : at + _SLICE], _ORDER) ^ pad).to_bytes(_SLICE, _ORDER)
        for at in range(0, size - _SLICE + 1, _SLICE)
    ]
    parts.append(masked(data[size - size % _SLICE :], key))
    return b"".join(parts)


_SLICE: Final = 4096
_ORDER: Final = "little"
"""That of an integer's own digits in memory: the cheaper one."""


def encode(opcode: int, payload: bytes, key: bytes = b"") -> bytes:
    """One whole frame. `key`, four bytes that nobody could guess: we are the client."""
    size, mask = len(payload), _MASKED if key else 0
    first = _FIN | opcode
    if size < 126:
        head = bytes((first, mask | size))
    elif size < 1 << 16:
        head = bytes((first, mask | 126)) + size.to_bytes(2)
    else:
        head = bytes((first, mask | 127)) + size.to_bytes(8)
    return head + key + masked(payload, key) if key else head + payload


def close_payload(code: int | None, reason: str = "") -> bytes:
    """Of a Close; the reason is cut to what fits, between two characters."""
    if code is None:
        return b""
    room = _LARGEST_CONTROL - 2
    return code.to_bytes(2) + reason.encode()[:room].decode(errors="ignore").encode()
