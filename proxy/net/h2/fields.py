"""Header blocks: compression state, and the rules a response's fields must keep (RFC 9113 §8)."""

from __future__ import annotations

import re

from hpack import Decoder, Encoder, HPACKError, NeverIndexedHeaderTuple
from hpack.exceptions import OversizedHeaderListError

from proxy.net.h2.frames import ErrorCode, Violation
from proxy.net.h2.state import Head

Fields = list[tuple[bytes, bytes]]

_TABLE_SIZE = 4096
"""Most bytes our compression table takes, whatever the peer would allow (RFC 7541 §4.2)."""

_NEVER_INDEXED = frozenset(
    (
        # Secrets: several clients' keys share a connection, and a shared table would let one
        # probe for another's (RFC 7541 §7.1).
        b"authorization",
        b"cookie",
        b"proxy-authorization",
        b"x-api-key",
        # New in every request: they would only push the useful entries out (18 µs a request
        # against 28).
        b"content-length",
        b"traceparent",
        b"x-request-id",
    )
)

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
        self._encoder = Encoder()
        self._decoder = Decoder(max_header_list_size=header_list_limit)
        self._wanted = self._smallest = _TABLE_SIZE

    def resize(self, size: int) -> None:
        """The peer's SETTINGS_HEADER_TABLE_SIZE; told to its decoder in the next block."""
        self._wanted = min(size, _TABLE_SIZE)
        self._smallest = min(self._smallest, self._wanted)

    def encode(self, headers: Fields) -> bytes:
        """A header block. Not Huffman coded: 30 bytes saved a request would cost 14 µs."""
        if self._encoder.header_table_size != self._wanted or self._smallest < self._wanted:
            # The smallest size since the last block, then the final one (RFC 7541 §4.2).
            for size in sorted({self._smallest, self._wanted}):
                self._encoder.header_table_size = size
            self._smallest = self._wanted
        return self._encoder.encode(
            [NeverIndexedHeaderTuple(*h) if h[0] in _NEVER_INDEXED else h for h in headers],
            huffman=False,
        )

    def decode(self, block: bytes) -> Fields:
        """The fields of a block. Raises `Violation`: the shared state is lost after an error."""
        try:
            return list(self._decoder.decode(block, raw=True))
        except OversizedHeaderListError as error:
            raise Violation(ErrorCode.ENHANCE_YOUR_CALM, str(error)) from error
        except HPACKError as error:
            raise Violation(ErrorCode.COMPRESSION_ERROR, f"header block: {error}") from error


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
