"""The bytes of the GLM dialect: each event of a stream, and the plain JSON answer.

`data: {json}` with compact JSON, raw UTF-8, LF only; key order id, created, (object), model,
choices, (usage); `delta.role` on every text frame; `finish_reason` absent until the end, where
`usage` rides in the same frame; then `[DONE]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from proxy.simulator.script import Kind, Script, Token, Usage
from proxy.simulator.tools import ToolCall

DONE = b"data: [DONE]\n\n"


class Step(NamedTuple):
    """Bytes of the response body, and when they are due, in seconds since the request."""

    at: float
    data: bytes


class Identity(NamedTuple):
    """Who an answer is: `id` is Beijing time (yyyymmddHHMMSS) and 16 hex digits."""

    id: str
    created: int


class GlmFrames:
    """The frames of one generation; the envelope around the token is built once."""

    def __init__(self, identity: Identity, model: str, *, with_object: bool = True) -> None:
        head: dict[str, Any] = {"id": identity.id, "created": identity.created}
        if with_object:
            head["object"] = "chat.completion.chunk"
        head["model"] = model
        self._open = b"data: " + orjson.dumps(head)[:-1] + b',"choices":['
        delta = self._open + b'{"index":0,"delta":{"role":"assistant",'
        self._delta = {
            Kind.REASONING: delta + b'"reasoning_content":',
            Kind.CONTENT: delta + b'"content":',
        }

    def text(self, kind: Kind, text: str) -> bytes:
        """One token of reasoning or content."""
        return self._delta[kind] + orjson.dumps(text) + b"}}]}\n\n"

    def tool_whole(self, index: int, call: ToolCall, arguments: str) -> bytes:
        """A tool call in one frame."""
        function = {"name": call.name, "arguments": arguments}
        return self._tool({"id": call.id, "index": index, "type": "function", "function": function})

    def tool_name(self, index: int, call: ToolCall) -> bytes:
        """The first frame of a tool call that comes in pieces."""
        function = {"name": call.name, "arguments": ""}
        return self._tool({"index": index, "id": call.id, "type": "function", "function": function})

    def tool_piece(self, index: int, text: str) -> bytes:
        """A later frame of a tool call that comes in pieces."""
        return self._tool({"index": index, "function": {"arguments": text}})

    def finish(self, reason: str, usage: Usage, thought: bool) -> bytes:
        """The last frame before `[DONE]`; there is no separate usage frame."""
        choice = {
            "index": 0,
            "finish_reason": reason,
            "delta": {"role": "assistant", "content": ""},
        }
        tail = b'],"usage":' + orjson.dumps(usage_fields(usage, thought)) + b"}\n\n"
        return self._open + orjson.dumps(choice) + tail

    def _tool(self, call: dict[str, Any]) -> bytes:
        choice = {"index": 0, "delta": {"tool_calls": [call]}}
        return self._open + orjson.dumps(choice) + b"]}\n\n"


def usage_fields(usage: Usage, thought: bool) -> dict[str, Any]:
    """The `usage` object."""
    fields: dict[str, Any] = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }
    if thought:
        fields["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning}
    return fields


def glm_stream(frames: GlmFrames, script: Script, *, tool_stream: bool) -> Iterator[Step]:
    """The events of a stream, finish frame and `[DONE]` included."""
    ends = {token.call: token for token in script.tokens if token.kind is Kind.TOOL}
    for token in script.tokens:
        if token.kind is not Kind.TOOL:
            yield Step(token.at, frames.text(token.kind, token.text))
        elif tool_stream:
            yield Step(token.at, _piece(frames, script, token))
        elif token is ends[token.call]:  # silence while the arguments are produced, then all
            arguments = script.text(Kind.TOOL, token.call)
            yield Step(token.at, frames.tool_whole(token.call, script.calls[token.call], arguments))
    yield Step(script.ended_at, frames.finish(script.finish_reason, script.usage, script.thought))
    yield Step(script.ended_at, DONE)


def _piece(frames: GlmFrames, script: Script, token: Token) -> bytes:
    if token.text == "":
        return frames.tool_name(token.call, script.calls[token.call])
    return frames.tool_piece(token.call, token.text)


def glm_answer(identity: Identity, model: str, script: Script) -> bytes:
    """The plain JSON answer; `request_id` repeats the id."""
    message: dict[str, Any] = {"content": script.text(Kind.CONTENT)}
    if script.thought:
        message["reasoning_content"] = script.text(Kind.REASONING)
    message["role"] = "assistant"
    if script.calls:
        message["tool_calls"] = [
            {
                "function": {"arguments": script.text(Kind.TOOL, index), "name": call.name},
                "id": call.id,
                "index": index,
                "type": "function",
            }
            for index, call in enumerate(script.calls)
        ]
    return orjson.dumps(
        {
            "choices": [{"finish_reason": script.finish_reason, "index": 0, "message": message}],
            "created": identity.created,
            "id": identity.id,
            "model": model,
            "object": "chat.completion",
            "request_id": identity.id,
            "usage": usage_fields(script.usage, script.thought),
        }
    )
