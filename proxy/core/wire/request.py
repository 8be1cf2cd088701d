"""A chat request's body: checked for what the proxy must know, parsed once, its bytes kept.

Refused is only what we could read differently from the upstream, or could not route. Whether a
temperature is in range is for the upstream to judge.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import orjson

from proxy.core.wire.members import MAX_DEPTH, count, members
from proxy.core.wire.values import has_more_values
from proxy.errors import ClientError

_FIELD: Final = re.compile(r"[a-z_]{1,32}")
"""What the API's fields are called."""
LONGEST_MODEL: Final = 256
"""Characters of a model's name."""


MOST_VALUES: Final = 200_000
"""Objects, arrays and their members: each costs up to a microsecond and 200 bytes when it is read,
whatever it takes to send one. A long conversation with many tools has some ten thousand."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One chat request as the client sent it."""

    body: bytes
    """The client's own bytes."""
    fields: Mapping[str, Any]
    """The parsed top-level object, in the body's order; read only."""
    dialect: str
    """`openai` or `anthropic`."""
    model: str
    stream: bool

    @property
    def size(self) -> int:
        """Bytes of the body: what routes call the prompt's size."""
        return len(self.body)


def parse(body: bytes, *, dialect: str, depth: int = MAX_DEPTH) -> ChatRequest:
    """Read `body`, whose objects and arrays may be nested `depth` levels deep.

    Raises ClientError and nothing else, whatever the bytes are.
    """
    fields = read_object(body, depth)
    model = model_of(fields)
    _check_messages(fields)
    return ChatRequest(
        body=body,
        fields=fields,
        dialect=dialect,
        model=model,
        stream=stream_of(fields),
    )


def read_object(body: bytes, depth: int = MAX_DEPTH) -> dict[str, Any]:
    """The JSON object `body`, which two parsers cannot read differently and none chokes on.

    Raises ClientError.
    """
    if has_more_values(body, MOST_VALUES):
        raise ClientError(f"the body has more than {MOST_VALUES} values; send fewer")
    fields = _object(body)
    found = count(body, depth) if fields else 0
    if found is None:
        raise ClientError(f"the body is nested more than {depth} levels deep; flatten it")
    if found != len(fields):
        _refuse_duplicate(body)
    return fields


def _object(body: bytes) -> dict[str, Any]:
    if not body:
        raise ClientError("the body is empty; send a JSON object with model and messages")
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # The parser's error holds the whole document: it must not travel in a traceback.
        message = _not_json(body, error)
        raise ClientError(message) from None
    if not isinstance(fields, dict):
        raise ClientError(f"the body is {kind_of(fields)}; send a JSON object")
    return fields


def _not_json(body: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        body.decode()
    except UnicodeDecodeError as wrong:
        return f"the body is not UTF-8 at byte {wrong.start}; encode the JSON as UTF-8"
    where = f"line {error.lineno} column {error.colno}"
    return f"the body is not valid JSON at {where}: {error.msg}"


def _refuse_duplicate(body: bytes) -> NoReturn:
    """Of two members with one name we might read the one and the upstream the other."""
    names = Counter(
        orjson.loads(body[member.start : body.rindex(b":", 0, member.value)])
        for member in members(body)
    )
    name: str = names.most_common(1)[0][0]
    if not _FIELD.fullmatch(name):  # it may be a piece of a prompt, and errors are logged
        raise ClientError("a member of the body is given twice; keep one")
    raise ClientError(f"{name!a} is given twice; keep one", param=name)


def model_of(fields: Mapping[str, Any]) -> str:
    """The model that a request asks for. Raises ClientError."""
    model = fields.get("model")
    if not isinstance(model, str):
        problem = "missing" if model is None else f"{kind_of(model)}, not a string"
        raise ClientError(f"model is {problem}; name one, such as glm-4.6", param="model")
    if not model:
        raise ClientError("model is empty; name one, such as glm-4.6", param="model")
    if len(model) > LONGEST_MODEL or not model.isprintable():
        text = f"model must be at most {LONGEST_MODEL} printable characters"
        raise ClientError(text, param="model")
    return model


def _check_messages(fields: Mapping[str, Any]) -> None:
    messages = fields.get("messages")
    if isinstance(messages, list) and messages:
        return
    if messages is None:
        problem = "missing"
    elif messages == []:
        problem = "empty"
    else:
        problem = f"{kind_of(messages)}, not a list"
    text = f'messages is {problem}; send at least one, such as {{"role": "user", "content": "Hi"}}'
    raise ClientError(text, param="messages")


def stream_of(fields: Mapping[str, Any]) -> bool:
    """Whether a request asks for a stream. Raises ClientError."""
    stream = fields.get("stream")
    if stream is None:  # zai-sdk writes null for what its caller left out
        return False
    if not isinstance(stream, bool):
        raise ClientError(f"stream is {kind_of(stream)}; use true or false", param="stream")
    return stream


_KINDS: Final = {
    bool: "a boolean",
    dict: "an object",
    float: "a number",
    int: "a number",
    list: "a list",
    str: "a string",
}


def kind_of(value: object) -> str:
    """What a JSON value is, in words for its sender."""
    return _KINDS.get(type(value), "null")
