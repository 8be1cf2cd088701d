"""What an exchange needs to know of a dialect, and what the two dialects share.

Nothing that reads here raises, whatever the bytes: what is not understood is `OTHER` and is
forwarded as it came.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import IntEnum
from typing import ClassVar, Final, NamedTuple

import orjson

from proxy.core.record import Usage
from proxy.errors import ProxyError


class Kind(IntEnum):
    """What an event carries, in short."""

    OTHER = 0
    """A ping, a comment, an unknown shape, not JSON."""
    REASONING = 1
    """A token of the thinking before the answer."""
    CONTENT = 2
    """A visible token."""
    TOOL = 3
    """A piece of a tool call."""
    FINISH = 4
    """A finish reason and no token."""
    END = 5
    """The dialect's own end of the stream: `[DONE]`, `message_stop`."""
    ERROR = 6
    """An error the upstream tells in the stream."""
    PREFACE = 7
    """It opens an answer, or a block of one, and no token is in it yet."""


class Meaning(NamedTuple):
    """An event, read. An event with a token keeps the token's kind when it also finishes.

    Whatever says no more than its kind is one of the constants below, so that the usual event
    costs no object and is recognised by identity.
    """

    kind: Kind
    finish_reason: str | None = None
    usage: Usage | None = None
    code: str | None = None
    """The upstream's error code."""


OTHER: Final = Meaning(Kind.OTHER)
REASONING: Final = Meaning(Kind.REASONING)
CONTENT: Final = Meaning(Kind.CONTENT)
TOOL: Final = Meaning(Kind.TOOL)
END: Final = Meaning(Kind.END)
COMMENT: Final = Meaning(Kind.OTHER)
"""A block without data: not an event for any count or timer."""
PING: Final = Meaning(Kind.OTHER)
"""An event that only says that the connection lives: no useful byte."""
NOT_JSON: Final = Meaning(Kind.OTHER)
PREFACE: Final = Meaning(Kind.PREFACE)

PLAIN: Final = (OTHER, REASONING, CONTENT, TOOL)
"""The constants of the kinds an event can have without saying more, by kind."""


class Answer(NamedTuple):
    """What a whole, non-streaming answer says of itself."""

    failed: bool = False
    """The upstream tells an error in an answer that may have status 200."""
    code: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None


class Delta(NamedTuple):
    """The text an event carries, apart from the JSON around it."""

    kind: Kind
    text: str
    value: dict[str, object]
    """The event's JSON, the text taken out."""
    place: dict[str, object]
    """The object inside `value` that the text belongs in."""
    key: str
    final: bool
    """It finishes too: nothing can be merged with it."""


class Generation(ABC):
    """The generation a stream began with. It keeps what it knows of it: one for each stream."""

    mark: bytes = b""
    """What the data of an event holds, if it surely belongs to it; nothing: there is no need to
    look. Only `is_left` changes it."""

    @abstractmethod
    def is_left(self, data: bytes, meaning: Meaning) -> bool:
        """Whether the stream went over to another generation with this event.

        It is asked of every event that is not known to be a usual one, in the order they came.
        """


class Dialect(ABC):
    """One of the two languages a client and the upstream speak."""

    name: ClassVar[str]
    """`openai` or `anthropic`."""
    usual_start: ClassVar[bytes]
    """How nearly every event begins, up to its JSON."""
    error_name: ClassVar[bytes] = b""
    """The name without which clients overlook an error event; empty where they do not."""

    @abstractmethod
    def read(self, data: bytes, name: bytes = b"") -> Meaning:
        """What an event means, from its data and its name."""

    @abstractmethod
    def generation(self) -> Generation:
        """A new stream's generation, of which nothing is known yet."""

    @abstractmethod
    def model(self, data: bytes) -> str | None:
        """The model an event says it comes from."""

    @abstractmethod
    def delta(self, data: bytes) -> Delta | None:
        """The event's text, if text is all it brings (and perhaps the finish)."""

    @abstractmethod
    def strip_final(self, delta: Delta) -> None:
        """Takes out of `delta.value` what is said once: it rides on the last piece of a text."""

    @abstractmethod
    def read_answer(self, body: bytes) -> Answer:
        """What a whole, non-streaming answer says of itself."""

    @abstractmethod
    def error_body(self, error: ProxyError) -> bytes:
        """The error as this dialect's JSON body."""

    @abstractmethod
    def error_event(self, error: ProxyError) -> bytes:
        """The error as this dialect's event in a stream."""

    def error_code(self, body: bytes) -> str | None:
        """The upstream's own code (`1302`, …) in an error body, if it has one."""
        return code_of(parse(body))


def parse(data: bytes) -> dict[str, object]:
    """The JSON object in `data`; an empty one if it is anything else."""
    try:
        return object_of(orjson.loads(data))
    except orjson.JSONDecodeError:
        return {}


def is_json(data: bytes) -> bool:
    """Whether `data` is one whole JSON value."""
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


def object_of(value: object) -> dict[str, object]:
    """`value` if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def text_of(value: object) -> str | None:
    """`value` if it is a string that is not empty."""
    return value if isinstance(value, str) and value else None


def code_of(value: dict[str, object]) -> str | None:
    """The code in `{"error": {"code"}}`, `{"code", "msg"}`, or else Anthropic's `error.type`."""
    error = object_of(value.get("error"))
    if error:
        return _code(error.get("code")) or text_of(error.get("type"))
    return _code(value.get("code")) if is_failed_envelope(value) else None


def is_failed_envelope(value: dict[str, object]) -> bool:
    """Whether this is `{"code": 401, "msg": …, "success": false}`; it comes with status 200 too."""
    return "code" in value and ("msg" in value or "message" in value) and not value.get("success")


def _code(value: object) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return text_of(value)


_MOST: Final = 2**53
"""Whole numbers up to here are exact as floats, which is what metrics add up."""


def count_of(value: object) -> int | None:
    """`value` if it is a number of tokens, or a time; absurd ones would spoil every sum."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST:
        return value
    return None


def newer_usage(old: Usage | None, new: Usage) -> Usage:
    """`new`, completed by what only `old` said."""
    if old is None:
        return new
    return Usage(
        _newer(old.input_tokens, new.input_tokens),
        _newer(old.output_tokens, new.output_tokens),
        _newer(old.cached_tokens, new.cached_tokens),
        _newer(old.reasoning_tokens, new.reasoning_tokens),
    )


def _newer(old: int | None, new: int | None) -> int | None:
    return old if new is None else new
