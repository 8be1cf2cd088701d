"""The parts of a `multipart/form-data` body (RFC 7578), as far as uploads need it."""

from __future__ import annotations

import re
from typing import NamedTuple

from proxy.simulator.refusals import Refusal

_BOUNDARY = re.compile(r'boundary="?([^";]+)"?', re.I)
_NAME = re.compile(rb'\bname="([^"]*)"')
_FILENAME = re.compile(rb'\bfilename="([^"]*)"')


class Part(NamedTuple):
    """One field; `filename` is None for a plain one."""

    filename: str | None
    content: bytes


def parts(content_type: str | None, body: bytes) -> dict[str, Part]:
    """The fields by name; raises `Refusal` 1214 when the body is no multipart."""
    found = _BOUNDARY.search(content_type or "")
    if found is None or not (content_type or "").lower().startswith("multipart/"):
        raise Refusal("1214", "the request is not multipart/form-data")
    delimiter = b"--" + found[1].encode()
    sections = (b"\r\n" + body).split(b"\r\n" + delimiter)
    return dict(_part(section) for section in sections[1:-1])


def _part(section: bytes) -> tuple[str, Part]:
    head, blank, content = section.partition(b"\r\n\r\n")
    name = _NAME.search(head)
    if not blank or name is None:
        raise Refusal("1214", "a part of the request has no name")
    filename = _FILENAME.search(head)
    return name[1].decode(errors="replace"), Part(_text(filename), content)


def _text(found: re.Match[bytes] | None) -> str | None:
    return None if found is None else found[1].decode(errors="replace")
