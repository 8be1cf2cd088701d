"""The tool calls of an answer: arguments made up to fit the tool's JSON schema."""

from __future__ import annotations

import re
from dataclasses import dataclass
from random import Random
from typing import Any

import orjson

from proxy.simulator.call import Tool

_NAME = re.compile(r"\b[A-Z][a-z]{2,}\b|[\u4e00-\u9fff]{2}")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call: `call_` and 24 hex digits, the function, its arguments as compact JSON."""

    id: str
    name: str
    arguments: str


def call_tool(tool: Tool, prompt: str, random: Random) -> ToolCall:
    """A call of this tool; strings come from proper names in the prompt where there are some."""
    names = _NAME.findall(prompt) or ["Qingdao"]
    arguments = _value(tool.schema, names, random)
    if not isinstance(arguments, dict):
        arguments = {}
    name = f"call_{random.getrandbits(96):024x}"
    return ToolCall(name, tool.name, orjson.dumps(arguments).decode())


def _value(schema: Any, names: list[str], random: Random) -> Any:
    if not isinstance(schema, dict):
        return None
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    match schema.get("type", "object" if "properties" in schema else "string"):
        case "object":
            properties = schema.get("properties")
            fields = properties.items() if isinstance(properties, dict) else ()
            return {name: _value(each, names, random) for name, each in fields}
        case "array":
            return [_value(schema.get("items", {}), names, random)]
        case "integer":
            return random.randint(1, 9)
        case "number":
            return random.randint(10, 99) / 10
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return names[0]
