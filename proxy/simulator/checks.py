"""The rules a chat request's fields must keep, and the business code a broken one answers with.

Source: docs.z.ai and docs.bigmodel.cn, chat completion. A field that is `null` counts as absent:
SDKs send explicit nulls.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Any

import orjson

from proxy.simulator.models import Model, Thinking
from proxy.simulator.refusals import Refusal

Fields = dict[str, Any]

# How much of the usual thinking each effort asks for; `high` is the measure, `max` the default.
EFFORTS = {
    "none": 0.0,
    "minimal": 0.1,
    "low": 0.3,
    "medium": 0.6,
    "high": 1.0,
    "xhigh": 1.5,
    "max": 2.0,
}


def parse(body: bytes) -> Fields:
    """The JSON object of a request without its nulls; raises `Refusal` 1210 when it is not one."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal("1210", "the request is not JSON") from error
    if not isinstance(value, dict):
        raise Refusal("1210", "the request is not a JSON object")
    return {name: field for name, field in value.items() if field is not None}


def model(fields: Fields, find: Callable[[str], Model | None]) -> Model:
    """The model asked for: 1213 without a name, 1211 for an unknown one."""
    name = fields.get("model")
    if not isinstance(name, str) or not name:
        raise Refusal("1213", "field model did not arrive")
    found = find(name)
    if found is None:
        raise Refusal("1211", f"no such model: {name}")
    return found


def messages(fields: Fields, roles: set[str]) -> list[Fields]:
    """The messages, one of the user (or of a tool) at least: 1213 without any, 1214 otherwise."""
    found = fields.get("messages")
    if found is None:
        raise Refusal("1213", "field messages did not arrive")
    if not isinstance(found, list) or not found:
        raise Refusal("1214", "field messages is not legal")
    for message in found:
        _message(message, roles)
    if not any(message["role"] in {"user", "tool"} for message in found):
        raise Refusal("1214", "field messages needs one of the user")
    return found


def _message(message: Any, roles: set[str]) -> None:
    if not isinstance(message, dict) or not _one_of(message.get("role"), roles):
        raise Refusal("1214", "the role of a message is not legal")
    content = message.get("content")
    if message["role"] == "assistant" and content in (None, ""):
        return
    blocks = content if isinstance(content, list) else [content]
    if not blocks or any(_is_empty(block) for block in blocks):
        raise Refusal("1214", "the content of a message is empty")


def _one_of(value: Any, words: Container[str]) -> bool:
    return isinstance(value, str) and value in words


def _is_empty(block: Any) -> bool:
    if isinstance(block, dict):
        return block.get("type") == "text" and not block.get("text")
    return not isinstance(block, str) or not block


def flag(fields: Fields, name: str) -> bool:
    """A boolean, false when absent."""
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise Refusal("1210", f"field {name} is true or false")
    return value


def sampling(fields: Fields, output: int) -> None:
    """Temperature, top_p and max_tokens are in the model's ranges."""
    _in_range(fields, "temperature", 0.0, 1.0)
    _in_range(fields, "top_p", 0.01, 1.0)
    limit = fields.get("max_tokens", 1)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= output:
        raise Refusal("1210", f"field max_tokens is a number from 1 to {output}")


def _in_range(fields: Fields, name: str, low: float, high: float) -> None:
    value = fields.get(name, low)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        raise Refusal("1210", f"field {name} is a number from {low} to {high}")


def thinking(fields: Fields, model: Model) -> float:
    """How much of the usual the model thinks; 0 = not at all."""
    effort = fields.get("reasoning_effort", "max" if model.effort else "high")
    if not _one_of(effort, EFFORTS):
        raise Refusal("1210", "field reasoning_effort is not legal")
    wanted = fields.get("thinking", {})
    kind = wanted.get("type", "enabled") if isinstance(wanted, dict) else None
    if not _one_of(kind, {"enabled", "disabled"}):
        raise Refusal("1210", "field thinking is not legal")
    if kind == "disabled" and model.thinking is Thinking.FORCED:
        raise Refusal("1210", f"{model.name} cannot switch thinking off")
    if model.thinking is Thinking.NONE or kind == "disabled":
        return 0.0
    share = EFFORTS[effort] if model.effort else 1.0
    return max(share, 0.1) if model.thinking is Thinking.FORCED else share


def json_object(fields: Fields) -> bool:
    """Whether the answer is to be a JSON object."""
    wanted = fields.get("response_format", {"type": "text"})
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if not _one_of(kind, {"text", "json_object"}):
        raise Refusal("1210", "field response_format is text or json_object")
    return bool(kind == "json_object")


def tool_choice(fields: Fields, auto: Any) -> None:
    """There is no other tool choice than `auto`."""
    if fields.get("tool_choice", auto) != auto:
        raise Refusal("1210", "field tool_choice can only be auto")


def tools(fields: Fields) -> list[Fields]:
    """The list of tools, 128 at most."""
    found = fields.get("tools", [])
    if not isinstance(found, list) or len(found) > 128:
        raise Refusal("1210", "field tools is a list of at most 128")
    return [tool for tool in found if isinstance(tool, dict)]


def tool_name(function: Fields) -> str:
    """A function's name, 64 characters at most."""
    name = function.get("name")
    if not isinstance(name, str) or not 1 <= len(name) <= 64:
        raise Refusal("1210", "the name of a function has 1 to 64 characters")
    return name
