"""How a member that cannot be served is refused: by its place, never with what a prompt says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from proxy.core.wire.request import kind_of
from proxy.errors import ClientError

_WORD: Final = re.compile(r"[a-z][a-z0-9_.-]{0,47}")


def told(value: object) -> str:
    """`value` as an error may name it: a plain word, or only what kind of value it is."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else kind_of(value)


def text_in(fields: Mapping[str, Any], name: str, where: str) -> str:
    """The string `fields[name]`, at the place `where`. Raises ClientError."""
    value = fields.get(name)
    if not isinstance(value, str):
        place = f"{where}.{name}"
        problem = "missing" if value is None else f"{kind_of(value)}, not a string"
        raise ClientError(f"{place} is {problem}", param=place)
    return value


def object_in(value: object, where: str) -> dict[str, Any]:
    """`value`, which stands at `where`. Raises ClientError where it is no object."""
    if not isinstance(value, dict):
        raise ClientError(f"{where} is {kind_of(value)}, not an object", param=where)
    return value


def list_in(value: object, where: str) -> list[Any]:
    """`value`, which stands at `where`. Raises ClientError where it is no list."""
    if not isinstance(value, list):
        raise ClientError(f"{where} is {kind_of(value)}, not a list", param=where)
    return value
