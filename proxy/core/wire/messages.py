"""The messages of a chat request: what they say, and one more among them, put in by its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from proxy.core.wire.dialect import object_of
from proxy.core.wire.members import elements
from proxy.core.wire.request import ChatRequest


class Said(NamedTuple):
    """What a user said last."""

    place: int
    """The number of the message, from 0."""
    text: str
    """Empty where there is none, as with a picture alone."""


def last_said(request: ChatRequest) -> Said | None:
    """The last message in which a user, and no tool, says something; None where there is none."""
    messages = request.fields["messages"]
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            if not _has_result(content):
                return Said(index, text_in(content))
    return None


def texts(request: ChatRequest) -> Iterator[str]:
    """The texts of all messages. Of one in several parts: each of them, and all together."""
    for message in request.fields["messages"]:
        content = object_of(message).get("content")
        yield text_in(content)
        if isinstance(content, list) and len(content) > 1:
            parts = list(_parts(content))
            yield from parts
            yield "".join(parts)


def text_in(content: object) -> str:
    """The text of a message's content; of several parts one below the other."""
    return content if isinstance(content, str) else "\n".join(_parts(content))


def _parts(content: object) -> Iterator[str]:
    for part in content if isinstance(content, list) else ():
        text = part if isinstance(part, str) else object_of(part).get("text")
        if isinstance(text, str) and text:
            yield text


def _has_result(content: object) -> bool:
    """Whether it answers a tool call: between the two there must be nothing (Anthropic)."""
    return isinstance(content, list) and any(
        object_of(part).get("type") == "tool_result" for part in content
    )


def note(dialect: str, text: str) -> dict[str, Any]:
    """A message that tells the model `text` before the user's own."""
    if dialect == "anthropic":  # which knows no system message but the one before all
        return {"role": "user", "content": [{"type": "text", "text": text}]}
    return {"role": "system", "content": text}


def with_message(request: ChatRequest, index: int, message: dict[str, Any]) -> ChatRequest:
    """The request with `message` before its message `index`. All other bytes stay as they are."""
    body, fields = request.body, request.fields
    start, _ = elements(body, list(fields).index("messages"))[index]
    messages = fields["messages"]
    return replace(
        request,
        body=b"".join((body[:start], orjson.dumps(message), b",", body[start:])),
        fields={**fields, "messages": [*messages[:index], message, *messages[index:]]},
    )
