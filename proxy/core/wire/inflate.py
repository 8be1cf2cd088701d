"""Answers that came compressed although nobody asked: inflated as they come, within bounds."""

from __future__ import annotations

import zlib

from proxy.errors import AnswerTooLarge, UpstreamProtocolError

ENCODINGS = (b"gzip", b"x-gzip", b"deflate")
"""Values of Content-Encoding that can be read (RFC 9110 §8.4.1)."""
_MOST_PER_READ = 4 * 1024 * 1024
"""Bytes one read, of 32 KiB at most, may become: text is seldom a hundredth of its size when
compressed."""


class Inflate:
    """gzip (of one member or several) or zlib, by its header."""

    def __init__(self) -> None:
        self._zlib = _new()

    @property
    def is_whole(self) -> bool:
        """The data has reached the end that the format marks."""
        return self._zlib.eof

    def feed(self, data: bytes) -> bytes:
        """All that `data` lets be known. Raises UpstreamProtocolError, AnswerTooLarge."""
        parts = []
        room = _MOST_PER_READ
        while data:
            if self._zlib.eof:
                self._zlib = _new()
            try:
                part = self._zlib.decompress(data, room)
            except zlib.error:
                raise UpstreamProtocolError("the upstream's compressed answer is broken") from None
            parts.append(part)
            room -= len(part)
            if self._zlib.unconsumed_tail or room <= 0:
                raise AnswerTooLarge("the upstream's compressed answer grows too large")
            data = self._zlib.unused_data
        return b"".join(parts)


def _new() -> zlib._Decompress:
    return zlib.decompressobj(wbits=47)  # 32 + 15: gzip or zlib
