"""What a chat request asks of the model, whichever dialect it came in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from proxy.simulator import checks, texts
from proxy.simulator.checks import Fields
from proxy.simulator.faults import Fault, fault_of
from proxy.simulator.models import Model, Thinking, find, find_for_claude
from proxy.simulator.refusals import Refusal

_BRIEF = re.compile(
    r"一句话|一句|简短|简单地?说|你好|\b(hello|hi|hey|briefly|one sentence|one word)\b", re.I
)
_CALLS_TOOL = re.compile(r"\b(tool|weather)\b|工具|天气", re.I)
_MESSAGE_TOKENS = 4
"""What the frame around a message costs."""


class Tool(NamedTuple):
    """A function the model may call, with the JSON schema of its arguments."""

    name: str
    schema: dict[str, Any]


class Message(NamedTuple):
    """The text of one message, and about how many tokens it is."""

    text: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A chat request as the simulated model sees it."""

    model: Model
    stream: bool
    effort: float
    """How much of the usual the model thinks; 0 = not at all."""
    max_tokens: int
    tools: tuple[Tool, ...]
    """The tools this answer will call; empty for a text answer."""
    tool_stream: bool
    json_object: bool
    prompt: tuple[Message, ...]
    asked: str
    """The text of the last message of the user or of a tool."""

    @property
    def prompt_tokens(self) -> int:
        return sum(message.tokens for message in self.prompt)

    @property
    def chinese(self) -> bool:
        """The answer is to be Chinese."""
        return texts.is_chinese(self.asked)

    @property
    def brief(self) -> bool:
        """One sentence was asked for, or somebody only said hello."""
        return _BRIEF.search(self.asked) is not None


def glm_call(fields: Fields) -> Call:
    """The call of a chat/completions request; raises `Refusal`."""
    model = checks.model(fields, find)
    messages = checks.messages(fields, {"system", "user", "assistant", "tool"})
    checks.sampling(fields, model.output)
    checks.tool_choice(fields, "auto")
    functions = [tool.get("function") for tool in checks.tools(fields)]
    tools = [_tool(f, f.get("parameters")) for f in functions if isinstance(f, dict)]
    return _call(
        fields,
        model,
        messages,
        tools,
        effort=checks.thinking(fields, model),
        tool_stream=checks.flag(fields, "tool_stream") and model.tool_stream,
        json_object=checks.json_object(fields),
    )


def anthropic_call(fields: Fields) -> Call:
    """The call of a Messages request; raises `Refusal`. Thinking is off unless it is asked for."""
    model = checks.model(fields, find_for_claude)
    messages = checks.messages(fields, {"user", "assistant"})
    if "max_tokens" not in fields:
        raise Refusal("1213", "field max_tokens did not arrive")
    checks.sampling(fields, model.output)
    checks.tool_choice(fields, {"type": "auto"})
    messages = [*_system(fields), *messages]
    wanted = fields.get("thinking")
    asked = isinstance(wanted, dict) and wanted.get("type") in ("enabled", "adaptive")
    return _call(
        fields,
        model,
        messages,
        [_tool(tool, tool.get("input_schema")) for tool in checks.tools(fields)],
        effort=1.0 if asked and model.thinking is not Thinking.NONE else 0.0,
        tool_stream=True,
        json_object=False,
    )


def _system(fields: Fields) -> list[Fields]:
    """The system prompt as a message, if there is one."""
    system = fields.get("system")
    if not system:
        return []
    if not isinstance(system, (str, list)):
        raise Refusal("1214", "field system is not legal")
    return [{"role": "system", "content": system}]


def fault_in(fields: Fields) -> Fault | None:
    """The fault that the request itself asks for in its `simulate` field; 1210 for a wrong one."""
    wanted = fields.get("simulate")
    if wanted is None:
        return None
    try:
        return fault_of(wanted)
    except ValueError as error:
        raise Refusal("1210", f"field simulate: {error}") from error


def _call(
    fields: Fields,
    model: Model,
    messages: list[Fields],
    tools: list[Tool],
    *,
    effort: float,
    tool_stream: bool,
    json_object: bool,
) -> Call:
    last = next(m for m in reversed(messages) if m["role"] in {"user", "tool"})
    asked = _text(last)
    call = Call(
        model=model,
        stream=checks.flag(fields, "stream"),
        effort=effort,
        max_tokens=fields.get("max_tokens", model.output),
        tools=_called(tools, last, asked),
        tool_stream=tool_stream,
        json_object=json_object,
        prompt=tuple(_measured(_text(message)) for message in messages),
        asked=asked,
    )
    if call.prompt_tokens > model.context:
        raise Refusal("1261")
    return call


def _measured(text: str) -> Message:
    return Message(text, texts.estimate_tokens(text) + _MESSAGE_TOKENS)


def _text(message: Fields) -> str:
    """All text of one message, tool results and tool calls included."""
    content = message.get("content") or ""
    calls = message.get("tool_calls")
    text = content if isinstance(content, str) else "\n".join(map(_block_text, content))
    return text + orjson.dumps(calls).decode() if calls else text


def _block_text(block: Any) -> str:
    if not isinstance(block, dict):
        return str(block)
    text = block.get("text", block.get("content"))
    return text if isinstance(text, str) else orjson.dumps(block).decode()


def _tool(function: Fields, schema: Any) -> Tool:
    return Tool(checks.tool_name(function), schema if isinstance(schema, dict) else {})


def _called(tools: list[Tool], last: Fields, asked: str) -> tuple[Tool, ...]:
    """The tools named in the prompt, or the first one if it speaks of tools or the weather."""
    if last["role"] == "tool" or _has_tool_result(last):
        return ()
    prompt = asked.lower()
    named = tuple(tool for tool in tools if tool.name.lower() in prompt)
    return named or (tuple(tools[:1]) if _CALLS_TOOL.search(asked) else ())


def _has_tool_result(message: Fields) -> bool:
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    return any(isinstance(b, dict) and b.get("type") == "tool_result" for b in blocks)
