"""Settings of what a route may do with a conversation: remember, cache, keep, speak otherwise.

Every part is off unless a route names it. What is kept, is kept where the route says and nowhere
else.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from proxy.config import origin
from proxy.config.problems import shown
from proxy.config.secret import Secret
from proxy.config.state import State, file_of
from proxy.config.types import CaFile, Count, Flag, Section
from proxy.config.units import DURATION, Bytes, Quantity, Seconds, SecondsOrZero, Span


class MemoryStore(Section):
    """Where a route's conversations are remembered: in a file, or by a memory service."""

    allow_plain: Flag = False
    """Allow http:// to a host that is neither loopback nor private."""
    url: str
    """`sqlite:PATH`, or the http(s) URL of a memory service. A path begins at the settings file's
    folder."""
    token: Secret | None = None
    """What a memory service wants as `Authorization: Bearer`: `env:NAME` or `file:/path`."""
    timeout: Seconds = 2.0
    """Longest wait for an answer of the store; no request waits for it (see `wait`)."""
    max_size: Bytes = 256 << 20
    """Largest file; the sessions left longest ago go first, whole. Not for a memory service."""
    ca_file: CaFile | None = None
    """PEM file of certificate authorities to trust besides the system's."""

    @property
    def kind(self) -> Literal["sqlite", "http"]:
        return "sqlite" if self.url.startswith("sqlite:") else "http"

    @property
    def path(self) -> Path:
        """Of the SQLite file."""
        return Path(self.url.removeprefix("sqlite:"))

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: object) -> object:
        return _url_alone(value, "sqlite:memory.db")

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str, info: ValidationInfo) -> str:
        scheme, colon, rest = url.partition(":")
        if colon and scheme == "sqlite":
            return f"sqlite:{file_of(rest, info.context)}"
        if colon and scheme in ("http", "https"):
            plain = info.data.get("allow_plain", True)
            return origin.checked(
                url, allow_plain_http=plain, allowing="allow_plain", secret="token"
            )
        raise ValueError("must be sqlite:PATH, or the URL of a memory service, http(s)://HOST")

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [handler(schema), {"type": "string"}]}


class AnswerStore(State):
    """Where a route's answers are kept: in a file, or in Redis or Valkey."""

    max_size: Bytes = 256 << 20
    """Most bytes of answers; those that were used longest ago go first."""

    @field_validator("url", mode="before")
    @classmethod
    def _lasting(cls, url: object) -> object:
        if isinstance(url, str) and url.partition(":")[0] not in ("sqlite", "redis", "rediss"):
            raise ValueError("must be sqlite:PATH, redis://HOST or rediss://HOST")
        return url


class ResponseStore(AnswerStore):
    """Where a route's responses are kept. What is not found is no miss but a refusal, so there is
    more patience than with a cache."""

    timeout: Seconds = 2.0
    """Longest wait for an earlier response."""


class Memory(Section):
    """What a conversation's earlier turns said, told to the model before the last user message."""

    store: MemoryStore
    """Where; its URL alone says it too."""
    wait: SecondsOrZero = 0.0
    """Longest time that the first token may be delayed for the sake of memory. 0: only what was
    fetched before the request came is used."""
    max_items: Count = 8
    """Most memories that are told."""
    max_tokens: Count = 1000
    """Most tokens of them together, as estimated."""
    retention: Span = 30 * 86400.0
    """How long a memory is kept."""


class Responses(Section):
    """The Responses API (`/v1/responses`), translated to chat completions and back."""

    store: ResponseStore | None = None
    """Where responses are kept, for `previous_response_id`. Without it they are known to the
    WebSocket that made them, as long as it is open."""
    retention: Span = 30 * 86400.0
    """How long they are kept."""


class Cache(Section):
    """The same answer to the same request of the same caller, without asking the API."""

    store: AnswerStore
    """Where; its URL alone says it too."""
    ttl: Span = 3600.0
    """How long an answer may be used."""
    max_answer: Bytes = 1 << 20
    """Largest answer that is kept, up to 16MiB."""
    replay: Literal["at_once", "recorded"] = "at_once"
    """How a stream is told again: all at once, or at the pace it came."""

    @field_validator("max_answer")
    @classmethod
    def _storable(cls, size: int, info: ValidationInfo) -> int:
        store = info.data.get("store")
        if size > _LARGEST_ANSWER:
            raise ValueError("must be at most 16MiB: a larger answer is not kept")
        if store is not None and size > store.max_size:
            raise ValueError("is more than store.max_size: nothing so large would be kept")
        return size


class WebSocketLimits(Section):
    """WebSockets on the data listener, for the routes that allow them."""

    origins: tuple[str, ...] = ()
    """Web pages that may open one: `https://app.example.com`. A client that is no browser sends no
    Origin and is let in; a page that is not listed is not."""
    max_message: Bytes = 4 << 20
    """Largest message of a client."""
    max_chats: Count = 256
    """Most chats at once on one WebSocket."""
    messages_per_minute: Annotated[int, Field(strict=True, ge=1, le=1_000_000)] = 1200
    """Most messages of a client on one WebSocket."""
    idle_timeout: Seconds = 600.0
    """A WebSocket without a chat and without a message is closed after this."""
    ping_interval: Seconds = 20.0
    """Silence after which a client is pinged; without an answer for as long again it is gone."""

    @field_validator("origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        if wrong := [repr(one) for one in origins if not _ORIGIN.fullmatch(one)]:
            text = "must be scheme://host[:port], such as https://app.example.com"
            raise ValueError(f"found {', '.join(wrong)}, {text}")
        return origins


class Keeping(Section):
    """Answers that are kept for clients that left (`on_disconnect: keep`)."""

    max_size: Bytes = 64 << 20
    """Most bytes of all kept answers of one process. Those that ended go first, then those that
    nobody reads; the oldest of them in front."""
    max_answer: Bytes = 8 << 20
    """Most bytes of one: of a longer one the beginning is forgotten."""


class OnDisconnect(NamedTuple):
    """What becomes of an answer whose client leaves."""

    action: Literal["cancel", "drain", "keep"]
    seconds: float = 0.0
    """drain: how long it is read on at most. keep: how long it can be fetched after its end."""

    def __str__(self) -> str:
        if self.action == "cancel":
            return self.action
        return f"{self.action}: {_DURATION.text(self.seconds)}"


_LARGEST_ANSWER: Final = 16 << 20
"""Bytes. A store takes values of twice as much: with an answer the times of its events are kept."""
_DURATION: Final = Quantity(DURATION)
_ORIGIN: Final = re.compile(r"https?://(?:[A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:.]+\])(?::[0-9]{1,5})?")
_EXAMPLE: Final = "cancel, {drain: 30s} or {keep: 60s}"


def _on_disconnect(value: object) -> object:
    """`cancel`, `drain: 30s` as a mapping or as text, `keep: 60s` likewise."""
    if value is None or isinstance(value, OnDisconnect) or value == "cancel":
        return OnDisconnect("cancel") if value == "cancel" else value
    if isinstance(value, str):
        action, colon, text = (part.strip() for part in value.partition(":"))
        value = {action: text} if colon else value
    if not isinstance(value, dict) or len(value) != 1 or not value.keys() <= {"drain", "keep"}:
        raise ValueError(f"found {shown(value)}, must be {_EXAMPLE}")
    ((action, text),) = value.items()
    return OnDisconnect(action, float(_DURATION.read(text, strict=True)))


class _Leaving:
    """How `on_disconnect` is read, printed and described."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            _on_disconnect,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda value: None if value is None else str(value), when_used="json"
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        span: dict[str, Any] = {"type": "string", "pattern": r"^\d+(\.\d+)? ?(ms|s|m|h)$"}
        one = {
            "type": "object",
            "additionalProperties": False,
            "minProperties": 1,
            "maxProperties": 1,
            "properties": {"drain": span, "keep": span},
        }
        text = {"type": "string", "pattern": r"^(cancel|(drain|keep): ?\d+(\.\d+)? ?(ms|s|m|h))$"}
        return {"anyOf": [text, one]}


Leaving = Annotated[OnDisconnect, _Leaving]


def _url_alone(value: object, example: str) -> object:
    """A store's URL alone says it too."""
    if isinstance(value, str):
        return {"url": value}
    if not isinstance(value, dict | Section):
        raise ValueError(
            f"found {shown(value)}, must be a URL such as {example}, or a mapping:"
            f" {{url: {example}}}"
        )
    return value
