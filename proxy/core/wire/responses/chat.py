"""A request of the Responses API as the chat completion it stands for.

Nothing is put in front of what came before: instructions, then the turns, then the new input, so
that the beginning of a conversation stays the same to the byte and the upstream's cache hits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from proxy.core.wire.request import kind_of
from proxy.core.wire.responses.asked import Asked, Item, effort
from proxy.core.wire.responses.items import Message, Messages
from proxy.core.wire.responses.tools import format_of, tools_of
from proxy.errors import ClientError

_OWN: Final = frozenset(
    {
        *("background", "context_management", "conversation", "include", "input", "instructions"),
        *("max_output_tokens", "max_tool_calls", "metadata", "model", "moderation"),
        *("parallel_tool_calls", "previous_response_id", "prompt", "prompt_cache_key"),
        *("prompt_cache_options", "prompt_cache_retention", "reasoning", "safety_identifier"),
        *("service_tier", "store", "stream", "stream_options", "text", "tool_choice", "tools"),
        *("top_logprobs", "truncation", "user", "messages", "max_tokens"),
    }
)
"""Members of the Responses API, and those that are made of them; all others go up as they came."""
_USER: Final = range(6, 129)
"""Characters of a `user_id`."""


def to_chat(asked: Asked, history: Iterable[Item]) -> bytes:
    """The body of the chat completion; `history` are the items of the responses before.

    Raises ClientError.
    """
    fields = asked.fields
    response_format, schema = format_of(fields)
    chat: dict[str, Any] = {
        "model": asked.model,
        "messages": _messages(asked, history, schema),
        "stream": asked.stream,
    }
    tools = tools_of(fields)
    if tools:
        chat["tools"] = tools
    if fields.get("max_output_tokens") is not None:
        chat["max_tokens"] = fields["max_output_tokens"]
    if response_format is not None:
        chat["response_format"] = response_format
    chat |= _thinking(fields) | _user(fields)
    chat |= {name: value for name, value in fields.items() if name not in _OWN}
    return orjson.dumps(chat)


def _messages(asked: Asked, history: Iterable[Item], schema: str | None) -> list[Message]:
    instructions = asked.fields.get("instructions")
    if instructions is not None and not isinstance(instructions, str):
        text = f"instructions is {kind_of(instructions)}, not a string"
        raise ClientError(text, param="instructions")
    system = "\n\n".join(part for part in (instructions, schema) if part)
    messages = Messages()
    if system:
        messages.all.append({"role": "system", "content": system})
    messages.add(history, "previous_response_id")
    messages.add(asked.items, "input")
    return messages.end()


def _thinking(fields: Mapping[str, Any]) -> dict[str, Any]:
    """https://docs.bigmodel.cn/api-reference: `thinking` switches it, `reasoning_effort` steers."""
    word = effort(fields)
    if word is None:
        return {}
    return {"thinking": {"type": "disabled"}} if word == "none" else {"reasoning_effort": word}


def _user(fields: Mapping[str, Any]) -> dict[str, Any]:
    """One that GLM would refuse for its length is left out: it is no reason to refuse a request."""
    user = fields.get("safety_identifier") or fields.get("user")
    return {"user_id": user} if isinstance(user, str) and len(user) in _USER else {}
