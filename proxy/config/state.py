"""Settings of where keys, model switches and what is counted are kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self

from pydantic import (
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema

from proxy.config import origin
from proxy.config.problems import shown
from proxy.config.secret import Secret, Sources
from proxy.config.types import CaFile, Flag, Name, Section
from proxy.config.units import Seconds

_REDIS: Final = ("redis", "rediss")
_PORT: Final = 6379
_EXAMPLE: Final = "redis://127.0.0.1:6379/0"
_USER: Final = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_DATABASE: Final = re.compile(r"/?|/[0-9]{1,5}")


class RedisServer(NamedTuple):
    """Where a Redis or Valkey is."""

    host: str
    port: int
    database: int
    user: str | None
    tls: bool

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class State(Section):
    """Where keys, model switches and counts are kept: on this machine, or shared by several."""

    allow_plain: Flag = False
    """Allow redis:// to a host that is neither loopback nor private."""
    url: str
    """`sqlite:PATH`, `redis://[user@]host[:port][/database]`, `rediss://…` (over TLS), or
    `memory`: nothing is kept. A path begins at the settings file's folder."""
    password: Secret | None = None
    """Of Redis or Valkey: `env:NAME` or `file:/path`."""
    prefix: Name = "glm-proxy"
    """What all names in Redis begin with."""
    timeout: Seconds = 0.05
    """Longest wait for a request to be counted; then this process goes on with its own share."""
    ca_file: CaFile | None = None
    """PEM file of certificate authorities to trust besides the system's, for `rediss://`."""

    @property
    def kind(self) -> Literal["memory", "sqlite", "redis"]:
        if self.url == "memory":
            return "memory"
        return "sqlite" if self.url.startswith("sqlite:") else "redis"

    @property
    def path(self) -> Path:
        """Of the SQLite file."""
        return Path(self.url.removeprefix("sqlite:"))

    @property
    def server(self) -> RedisServer:
        """The Redis or Valkey."""
        parts = origin.parts_of(self.url, example=_EXAMPLE)
        database = int(parts.path.strip("/") or 0)
        tls = parts.scheme == "rediss"
        return RedisServer(parts.hostname or "", parts.port or _PORT, database, parts.username, tls)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        """Its URL alone says it too."""
        if isinstance(value, str):
            return {"url": value}
        if not isinstance(value, dict | Section):
            text = f"must be a URL such as {_EXAMPLE}, or a mapping: {{url: {_EXAMPLE}}}"
            raise ValueError(f"found {shown(value)}, {text}")
        return value

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str, info: ValidationInfo) -> str:
        if url == "memory":
            return url
        scheme, colon, rest = url.partition(":")
        if colon and scheme == "sqlite":
            return f"sqlite:{file_of(rest, info.context)}"
        if colon and scheme in _REDIS:
            return _redis(url, allow_plain=info.data.get("allow_plain", True))
        raise ValueError(f"must be sqlite:PATH, {_EXAMPLE}, rediss://HOST, or memory")

    @model_validator(mode="after")
    def _check_rest(self) -> Self:
        if self.password is not None and self.kind != "redis":
            raise ValueError("has a password, which only Redis asks for; remove it")
        if self.ca_file is not None and not self.url.startswith("rediss:"):
            raise ValueError("has a ca_file, which needs TLS; write rediss:// or remove it")
        return self

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [handler(schema), {"type": "string"}]}


def file_of(path: str, sources: object) -> Path:
    """The file that `sqlite:PATH` names; also as `sqlite:///PATH`, which others write. `sources` is
    a validator's context. Raises ValueError."""
    path = path.removeprefix("//")
    if not path or path.endswith("/") or "\0" in path:
        raise ValueError("must name a file, such as sqlite:/var/lib/glm-proxy/state.db")
    return sources.path(path) if isinstance(sources, Sources) else Path(path)


def _redis(url: str, *, allow_plain: bool) -> str:
    parts = origin.parts_of(url, example=_EXAMPLE)
    if parts.password is not None:
        raise ValueError("holds a password; remove it and use password: env:NAME")
    if parts.username is not None and not _USER.fullmatch(parts.username):
        raise ValueError("the user name in it must be letters, digits, '.', '_', '~' or '-'")
    if "?" in url or "#" in url:
        raise ValueError("must end with the host or a database: remove '?' and '#' and the rest")
    if not _DATABASE.fullmatch(parts.path):
        raise ValueError("the database behind the host must be a number, such as /0")
    host = (parts.hostname or "").lower()
    if parts.scheme == "redis" and not (allow_plain or origin.is_near(host)):
        raise ValueError(
            f"found redis:// to {host}: keys and counts would be readable on the way. Write"
            " rediss://, or set allow_plain: true beside it"
        )
    return url.rstrip("/")
