"""Smaller PNG files: a screenshot has few colours, so that a palette of 256 tells it."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {2: 3, 6: 4}
"""By colour type: RGB, and RGB with opacity."""
_COLOURS = 256
_ALIKE = 48
"""Squared distance of two colours that nobody tells apart in a picture."""


def with_palette(png: bytes) -> bytes:
    """The same picture; where it has more colours than a palette holds, the rare ones become the
    nearest of the others. For 8 bits a channel, not interlaced. ValueError for anything else."""
    chunks = dict[bytes, bytes]()
    for name, body in _chunks(png):
        chunks[name] = chunks.get(name, b"") + body
    width, height, bits, kind, *more = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    if bits != 8 or kind not in _CHANNELS or any(more):
        raise ValueError("only 8 bits a channel, RGB, not interlaced")
    channels = _CHANNELS[kind]
    rows = [
        [row[i : i + 3] for i in range(0, len(row), channels)]
        for row in _rows(zlib.decompress(chunks[b"IDAT"]), width * channels, channels)
    ]
    counted = Counter(pixel for row in rows for pixel in row)
    palette = _palette(counted)
    index = {colour: place for place, colour in enumerate(palette)}
    for colour in counted.keys() - index.keys():
        index[colour] = _nearest(colour, palette)
    data = b"".join(b"\0" + bytes([index[pixel] for pixel in row]) for row in rows)
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    return _SIGNATURE + b"".join(
        _chunk(name, body)
        for name, body in [
            (b"IHDR", head),
            (b"PLTE", b"".join(palette)),
            (b"IDAT", zlib.compress(data, 9)),
            (b"IEND", b""),
        ]
    )


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_SIGNATURE)
    while at < len(png):
        (length,) = struct.unpack_from(">I", png, at)
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _palette(counted: Counter[bytes]) -> list[bytes]:
    """The most frequent colours, without those that one of them stands for well enough: a small
    patch in a colour of its own keeps it."""
    ordered = [colour for colour, _ in counted.most_common()]
    chosen: list[bytes] = []
    for colour in ordered:
        if len(chosen) == _COLOURS:
            break
        if all(_distance(colour, one) >= _ALIKE for one in chosen):
            chosen.append(colour)
    return chosen


def _nearest(colour: bytes, palette: list[bytes]) -> int:
    return min(range(len(palette)), key=lambda place: _distance(colour, palette[place]))


def _distance(one: bytes, other: bytes) -> int:
    red, green, blue = one[0] - other[0], one[1] - other[1], one[2] - other[2]
    return red * red + green * green + blue * blue


def _rows(data: bytes, length: int, step: int) -> Iterator[bytes]:
    """Each row without its filter (PNG, section 9.2)."""
    above = bytes(length)
    for at in range(0, len(data), length + 1):
        row = bytearray(data[at + 1 : at + 1 + length])
        match data[at]:
            case 1:
                for i in range(step, length):
                    row[i] = (row[i] + row[i - step]) & 255
            case 2:
                row = bytearray((one + up) & 255 for one, up in zip(row, above, strict=True))
            case 3:
                for i in range(length):
                    left = row[i - step] if i >= step else 0
                    row[i] = (row[i] + (left + above[i]) // 2) & 255
            case 4:
                for i in range(length):
                    left, corner = (row[i - step], above[i - step]) if i >= step else (0, 0)
                    row[i] = (row[i] + _paeth(left, above[i], corner)) & 255
        above = bytes(row)
        yield above


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    to_left, to_up, to_corner = abs(guess - left), abs(guess - up), abs(guess - corner)
    if to_left <= to_up and to_left <= to_corner:
        return left
    return up if to_up <= to_corner else corner
