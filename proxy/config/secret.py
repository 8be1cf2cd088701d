"""Secrets: named in the settings, never written in them, and masked wherever they are shown.

A setting that holds a secret is a reference, `env:NAME` or `file:/path`, resolved once at start.
Messages name the reference and never the content. What a log line, a traceback, JSON or a pickle
shows of a `Secret` is `***`; only `reveal()` gives the value.
"""

from __future__ import annotations

import errno
import hmac
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn, Self

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

MASK: Final = "***"
_HOW: Final = "write env:NAME or file:/path/to/key"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST: Final = 16 * 1024


@dataclass(frozen=True, slots=True)
class Sources:
    """What references are resolved against, and what was noticed on the way.

    environ   where `env:NAME` is looked up
    folder    where relative paths begin: the settings file's own folder
    warnings  sentences for the operator; filled while reading
    """

    environ: Mapping[str, str]
    folder: Path
    warnings: list[str] = field(default_factory=list)

    def path(self, value: str) -> Path:
        """`value` as a path, relative to the settings file."""
        return self.folder / value


class Secret(str):
    """A value that does not show itself.

    It is a `str` whose characters are `***`, so that whatever formats or serialises it (also
    `json` and `orjson`, which cannot be asked not to) gets the mask.
    """

    __slots__ = ("_value", "reference")

    _value: str
    reference: str
    """Where the value came from (`env:NAME`, `file:/path`), or empty."""

    def __new__(cls, value: str, reference: str = "") -> Self:
        secret = super().__new__(cls, MASK)
        secret._value = value
        secret.reference = reference
        return secret

    def reveal(self) -> str:
        """The value itself, to be put into a header and nowhere else."""
        return self._value

    def __repr__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return False
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __ne__(self, other: object) -> bool:
        # `str` has one of its own, which would compare the masks.
        return not self == other

    def __hash__(self) -> int:
        return hash(self._value)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (MASK,)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(
            _validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                _masked, when_used="json"
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "pattern": f"^(env:{_NAME.pattern}|file:.+)$"}


SAFE_LENGTH: Final = 16
"""Characters of a token that lets in: thousands can be tried in a second."""
_DISTINCT: Final = 6
_WORDS: Final = re.compile(
    r"abc(?:def)?|admin(?:istrator)?|change|me|default|demo|dummy|example|glm|here|insert|key|letmein|my|now"
    r"|pass(?:word|wd|phrase)?|please|proxy|qwerty|replace|root|secret|super|test|the|this|todo"
    r"|token|your|[^a-z]"
)


def is_guessable(token: Secret) -> bool:
    """Whether a token is short, monotonous, or made of what examples and defaults are made of."""
    value = token.reveal()
    if len(value) < SAFE_LENGTH or len(set(value)) < _DISTINCT:
        return True
    return not _WORDS.sub("", value.lower())


def resolve(reference: str, sources: Sources) -> Secret:
    """The secret that `reference` names.

    Raises ValueError; its text never holds the content, nor a reference that looks like one.
    """
    kind, _, name = reference.partition(":")
    if kind not in ("env", "file") or not name:
        raise ValueError(f"must be a reference, never the key itself; {_HOW}")
    content = _from_environ(name, sources) if kind == "env" else _from_file(name, sources)
    if not content:
        raise ValueError(f"{reference} is empty")
    # A header value: RFC 9110 §5.5 without the blanks a key never holds.
    if not all("!" <= character <= "~" for character in content):
        raise ValueError(f"{reference} holds blanks or characters that no key has; check it")
    return Secret(content, reference)


def _from_environ(name: str, sources: Sources) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("env: must be followed by the name of an environment variable")
    if name not in sources.environ:
        raise ValueError(f"env:{name} is not set; export {name}, or use file:/path/to/key")
    return sources.environ[name]


def _from_file(name: str, sources: Sources) -> str:
    path = sources.path(name)
    try:
        if path.is_fifo():  # a reload would wait for somebody to write into it
            raise OSError(errno.ESPIPE, "it is a pipe")
        with path.open("rb") as file:
            content = file.read(_MOST + 1)
            mode = stat.S_IMODE(path.stat().st_mode)
    except (OSError, ValueError) as error:
        _unreadable(name, error)
    if len(content) > _MOST:
        raise ValueError(f"file:{name} is larger than {_MOST} bytes; it must hold only the key")
    if mode & stat.S_IROTH:
        sources.warnings.append(f"file:{name} is readable by everybody; chmod 600 it")
    # Editors end a file with a line end; anything more is suspicious and refused by the caller.
    return content.decode("latin-1").removesuffix("\n").removesuffix("\r")


def _unreadable(name: str, error: OSError | ValueError) -> NoReturn:
    reason = error.strerror if isinstance(error, OSError) else None
    raise ValueError(
        f"file:{name} cannot be read: {reason or 'not a path'}; create it, or correct the path"
    ) from None


def _validate(value: object, info: ValidationInfo) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str) or not isinstance(info.context, Sources):
        raise ValueError(f"must be a reference; {_HOW}")
    return resolve(value, info.context)


def _masked(secret: Secret) -> str:
    return f"{MASK} ({secret.reference})" if secret.reference else MASK
