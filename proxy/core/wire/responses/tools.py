"""Tools, the choice among them and the answer's format, in the words of chat completions.

GLM chooses among its tools itself (`tool_choice: auto`) and knows two formats, text and JSON:
https://docs.bigmodel.cn/api-reference
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from proxy.core.wire.responses.refuse import list_in, object_in, text_in, told
from proxy.errors import ClientError

_WEB_SEARCH: Final = frozenset(
    {
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview",
        "web_search_preview_2025_03_11",
    }
)
_SEARCH_ENGINE: Final = "search_std"
"""GLM's usual one."""
_NO_PARAMETERS: Final[Mapping[str, Any]] = {"type": "object", "properties": {}}
_CHOICES: Final = "GLM chooses by itself: use auto, or none"
_SCHEMA: Final = (
    "Answer with one JSON object and nothing else."
    " It must be valid against this JSON Schema ({name}): {schema}"
)


def tools_of(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tools that the model may use. Raises ClientError."""
    said = fields.get("tools")
    tools = [
        _tool(object_in(tool, f"tools[{index}]"), f"tools[{index}]")
        for index, tool in enumerate([] if said is None else list_in(said, "tools"))
    ]
    return _chosen(tools, fields.get("tool_choice"))


def _tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    kind = tool.get("type")
    if kind == "function":
        return {"type": kind, kind: _function(tool, where)}
    if isinstance(kind, str) and kind in _WEB_SEARCH:
        return {"type": "web_search", "web_search": _web_search(tool, where)}
    place = f"{where}.type"
    raise ClientError(
        f"{place} is {told(kind)}, a tool that GLM does not have; use function or web_search",
        param=place,
    )


def _function(tool: dict[str, Any], where: str) -> dict[str, Any]:
    """`strict` is left out: GLM promises nothing of the kind."""
    function: dict[str, Any] = {"name": text_in(tool, "name", where)}
    if tool.get("description"):
        function["description"] = text_in(tool, "description", where)
    parameters = tool.get("parameters")
    function["parameters"] = (
        _NO_PARAMETERS if parameters is None else object_in(parameters, f"{where}.parameters")
    )
    return function


def _web_search(tool: dict[str, Any], where: str) -> dict[str, Any]:
    search = {"enable": True, "search_engine": _SEARCH_ENGINE, "search_result": True}
    size = tool.get("search_context_size")
    if size is not None:
        search["content_size"] = "high" if size == "high" else "medium"
    filters = tool.get("filters")
    domains = filters.get("allowed_domains") if isinstance(filters, dict) else None
    if domains:
        place = f"{where}.filters.allowed_domains"
        (domain, *more) = list_in(domains, place)
        if more or not isinstance(domain, str):
            raise ClientError(f"{place} must be one domain; GLM takes no more", param=place)
        search["search_domain_filter"] = domain
    return search


def _chosen(tools: list[dict[str, Any]], choice: object) -> list[dict[str, Any]]:
    """Those of `tools` that `choice` leaves."""
    if choice is None or choice == "auto":
        return tools
    if choice == "none":
        return []
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        if choice.get("mode") != "auto":
            raise ClientError(f"tool_choice.mode cannot be served; {_CHOICES}", param="tool_choice")
        allowed = [
            object_in(each, "tool_choice.tools")
            for each in list_in(choice.get("tools"), "tool_choice.tools")
        ]
        return [tool for tool in tools if any(_is_same(tool, one) for one in allowed)]
    kind = choice.get("type") if isinstance(choice, dict) else choice
    raise ClientError(f"tool_choice {told(kind)} cannot be served; {_CHOICES}", param="tool_choice")


def _is_same(tool: dict[str, Any], named: dict[str, Any]) -> bool:
    kind = named.get("type")
    if tool["type"] == "function":
        return kind == "function" and named.get("name") == tool["function"]["name"]
    return isinstance(kind, str) and kind in _WEB_SEARCH


def format_of(fields: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    """The answer's `response_format`, and what the model has to be told of it. Raises ClientError.

    GLM takes no JSON Schema as a format, only in words.
    """
    text = fields.get("text")
    said = None if text is None else object_in(text, "text").get("format")
    if said is None:
        return None, None
    said = object_in(said, "text.format")
    kind = said.get("type")
    if kind == "text":
        return None, None
    if kind == "json_object":
        return {"type": kind}, None
    if kind == "json_schema":
        schema = object_in(said.get("schema"), "text.format.schema")
        name = text_in(said, "name", "text.format")
        told_schema = orjson.dumps(schema).decode()
        return {"type": "json_object"}, _SCHEMA.format(name=name, schema=told_schema)
    place = "text.format.type"
    text_, known = f"{place} is {told(kind)}", "text, json_object or json_schema"
    raise ClientError(f"{text_}; use {known}", param=place)
