"""What is kept, as JSON text, and back. What comes back is not trusted: whoever can write into a
shared home could have written anything.

A value that this version cannot read raises ValueError and nothing else; it is for the caller to
leave it out. Fields that are not known belong to a later version, and are passed over.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Final, TypeVar

import orjson
from pydantic import ValidationError

from proxy.config import Allowance
from proxy.core.policy import access
from proxy.core.policy.access import KeySecret, VirtualKey
from proxy.core.policy.switches import Switch, check_name
from proxy.state.home import Entry

T = TypeVar("T")

LARGEST: Final = 64 * 1024
"""Bytes of one value."""
_TEXT: Final = 512
"""Characters of one text within it."""
_MOST: Final = 64
"""Entries of one list within it."""


def key_text(key: VirtualKey) -> bytes:
    return orjson.dumps(
        {
            "id": key.id,
            "name": key.name,
            "secrets": [
                {
                    "salt": b64encode(one.salt).decode(),
                    "digest": b64encode(one.digest).decode(),
                    "expires": one.expires,
                }
                for one in key.secrets
            ],
            "created": key.created,
            "expires": key.expires,
            "revoked": key.revoked,
            "routes": key.routes,
            "models": key.models,
            "allowance": key.allowance.model_dump(exclude_none=True),
        }
    )


def key_of(text: bytes) -> VirtualKey:
    """Raises ValueError."""
    return _read(text, _key)


def switch_text(switch: Switch) -> bytes:
    return orjson.dumps(switch._asdict())


def switch_of(text: bytes) -> Switch:
    """Raises ValueError."""
    return _read(text, _switch)


def entry_text(entry: Entry) -> bytes:
    return orjson.dumps(entry._asdict())


def entry_of(text: bytes) -> Entry:
    """Raises ValueError."""
    return _read(text, _entry)


def _read(text: bytes, make: Callable[[Mapping[str, Any]], T]) -> T:
    if len(text) > LARGEST:
        raise ValueError("too long")
    fields = orjson.loads(text)  # its own error is a ValueError
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    try:
        return make(fields)
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing") from None


def _key(fields: Mapping[str, Any]) -> VirtualKey:
    key_id = _text(fields["id"])
    secrets = tuple(map(_secret, _list(fields["secrets"])))
    if not access.is_id(key_id) or not secrets:
        raise ValueError("no key's id, or no secrets")
    try:
        allowance = Allowance.model_validate(_known(fields.get("allowance", {})))
    except ValidationError:
        raise ValueError("allowance") from None
    return VirtualKey(
        id=key_id,
        name=_text(fields["name"]),
        secrets=secrets,
        created=_time(fields["created"]),
        expires=_time_or_none(fields["expires"]),
        revoked=_time_or_none(fields["revoked"]),
        routes=tuple(map(_text, _list(fields["routes"]))),
        models=tuple(map(_text, _list(fields["models"]))),
        allowance=allowance,
    )


def _secret(fields: Any) -> KeySecret:
    if not isinstance(fields, dict):
        raise ValueError("a secret is no object")
    salt, digest = (b64decode(_text(fields[name]), validate=True) for name in ("salt", "digest"))
    if len(salt) < 16 or len(digest) != 32:
        raise ValueError("salt or digest has the wrong length")
    return KeySecret(salt, digest, _time_or_none(fields["expires"]))


def _known(allowance: Any) -> dict[str, Any]:
    if not isinstance(allowance, dict):
        raise ValueError("allowance")
    return {name: allowance[name] for name in Allowance.model_fields if name in allowance}


def _switch(fields: Mapping[str, Any]) -> Switch:
    model, to = _text(fields["model"]), _text(fields["to"])
    for name in (model, to):
        check_name(name)
    return Switch(
        model,
        to,
        _time_or_none(fields["until"]),
        _time(fields["since"]),
        _text(fields["by"]),
    )


def _entry(fields: Mapping[str, Any]) -> Entry:
    return Entry(
        _time(fields["at"]),
        *(_text(fields[name]) for name in ("actor", "action", "subject")),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > _TEXT or not value.isprintable():
        raise ValueError("a text is too long, or none")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > _MOST:
        raise ValueError("a list is too long, or none")
    return value


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError("a time is no number")
    if not 0 <= value <= 1e11:
        raise ValueError("a time is out of range")
    return float(value)


def _time_or_none(value: Any) -> float | None:
    return None if value is None else _time(value)
