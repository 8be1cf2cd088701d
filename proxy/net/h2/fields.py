"""Header blocks: compression state, and the rules a response's fields must keep (RFC 9113 §8)."""

from __future__ import annotations

import re

from hpack import Decoder, HPACKError
from hpack.exceptions import OversizedHeaderListError

from proxy.net.h2.frames import ErrorCode, Violation
from proxy.net.h2.state import Head

Fields = list[tuple[bytes, bytes]]

_NO_TABLE = b"\x20"
"""Dynamic table size update to 0 (RFC 7541 §6.3): what we send is never indexed. Requests of
several callers share a connection, and a shared table would let one probe for another's key (§7.1);
and literals cost 4 µs a request where looking for entries cost 20."""

_STATIC = {
    (b":method", b"GET"): b"\x82",
    (b":method", b"POST"): b"\x83",
    (b":scheme", b"http"): b"\x86",
    (b":scheme", b"https"): b"\x87",
}
"""Whole entries of the static table (RFC 7541 appendix A)."""

_SECRET = frozenset((b"authorization", b"cookie", b"proxy-authorization", b"x-api-key"))
"""Never to be indexed by intermediaries either (RFC 7541 §6.2.3)."""

_CONNECTION_SPECIFIC = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)

_is_name = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
_bad_value = re.compile(rb"[\0\r\n]|\A[ \t]|[ \t]\Z").search


class Malformed(Exception):
    """A response that breaks the rules of HTTP: a stream error, the connection lives on."""


class Codec:
    """Both directions' compression state of one connection (RFC 7541)."""

    def __init__(self, header_list_limit: int) -> None:
        self._decoder = Decoder(max_header_list_size=header_list_limit)
        self._prefix = _NO_TABLE

    def encode(self, headers: Fields) -> bytes:
        """A header block of literals (RFC 7541 §6.2.2), not Huffman coded."""
        block = bytearray(self._prefix)
        self._prefix = b""
        for field in headers:
            entry = _STATIC.get(field)
            if entry is not None:
                block += entry
                continue
            name, value = field
            block += b"\x10" if name in _SECRET else b"\0"
            _append_string(block, name)
            _append_string(block, value)
        return bytes(block)

    def decode(self, block: bytes) -> Fields:
        """The fields of a block. Raises `Violation`: the shared state is lost after an error."""
        try:
            return list(self._decoder.decode(block, raw=True))
        except OversizedHeaderListError as error:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, str(error)) from error
        except HPACKError as error:
            raise Violation(ErrorCode.COMPRESSION_ERROR, f"header block: {error}") from error


def _append_string(block: bytearray, text: bytes) -> None:
    """Its length as an integer with a 7-bit prefix (RFC 7541 §5.1), then the bytes (§5.2)."""
    size = len(text)
    if size < 127:
        block.append(size)
    else:
        block.append(127)
        size -= 127
        while size > 127:
            block.append(size & 127 | 128)
            size >>= 7
        block.append(size)
    block += text


def read_head(fields: Fields) -> Head:
    """A response head, final or interim (§8.3.2). Raises `Malformed`."""
    status = None
    headers: Fields = []
    for field in fields:
        name, value = field
        if not name.startswith(b":"):
            _check_field(name, value)
            headers.append(field)
        elif name != b":status" or status is not None or headers:
            raise Malformed(f"unexpected pseudo header {_shown(name)}")
        else:
            status = _read_status(value)
    if status is None:
        raise Malformed("no :status")
    return Head(status, headers)


def check_trailers(fields: Fields) -> None:
    """Raises `Malformed` for a pseudo header among trailers, or a bad field (§8.1)."""
    for name, value in fields:
        _check_field(name, value)


def content_length(headers: Fields) -> int | None:
    """Declared length of the body in bytes. Raises `Malformed` when it is none or several."""
    values = {value for name, value in headers if name == b"content-length"}
    if not values:
        return None
    value = values.pop()
    if values or not value.isdigit() or len(value) > 18:
        raise Malformed("content-length is not one number")
    return int(value)


def _read_status(value: bytes) -> int:
    if len(value) != 3 or not value.isdigit() or value < b"100":
        raise Malformed(f":status {_shown(value)}")
    return int(value)


def _check_field(name: bytes, value: bytes) -> None:
    if not _is_name(name):
        raise Malformed(f"field name {_shown(name)}")
    if name in _CONNECTION_SPECIFIC:
        raise Malformed(f"connection-specific field {_shown(name)}")
    if _bad_value(value):
        raise Malformed(f"value of field {_shown(name)}")


def _shown(value: bytes) -> str:
    return value[:60].decode("ascii", "backslashreplace")
