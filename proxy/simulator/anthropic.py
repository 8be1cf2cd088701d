"""The bytes of the Anthropic dialect as GLM's `/api/anthropic` base speaks it.

`event: NAME` and `data: ` with spaces in the JSON; `message_start` has zero usage, one ping right
after it, real usage in `message_delta`; deltas hold several tokens each; a thinking block carries
its signature from the start.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from proxy.simulator.frames import Identity, Step
from proxy.simulator.refusals import Refusal, anthropic_error
from proxy.simulator.script import Kind, Script, Token
from proxy.simulator.tools import ToolCall

MESSAGE_STOP = b'event: message_stop\ndata: {"type": "message_stop"}\n\n'
TOKENS_PER_DELTA = 4
_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "sensitive": "refusal",
}


def event(fields: dict[str, Any]) -> bytes:
    """One event, named after its type."""
    return f"event: {fields['type']}\ndata: {json.dumps(fields, ensure_ascii=False)}\n\n".encode()


def error_event(refusal: Refusal, log_id: str) -> bytes:
    """An error inside a stream."""
    return event({"type": "error", "error": anthropic_error(refusal, log_id)})


def anthropic_stream(identity: Identity, model: str, script: Script) -> Iterator[Step]:
    """The events of a stream, `message_stop` included."""
    started = script.tokens[0].at if script.tokens else script.ended_at
    message = _message(identity, model, [], None, {"input_tokens": 0, "output_tokens": 0})
    yield Step(started, event({"type": "message_start", "message": message}))
    yield Step(started, event({"type": "ping"}))
    for index, tokens in enumerate(_blocks(script)):
        yield from _block(identity, index, tokens, script.calls)
    delta = {"stop_reason": _stop_reason(script), "stop_sequence": None}
    ending = {"type": "message_delta", "delta": delta, "usage": _usage(script)}
    yield Step(script.ended_at, event(ending))
    yield Step(script.ended_at, MESSAGE_STOP)


def anthropic_answer(identity: Identity, model: str, script: Script) -> bytes:
    """The plain JSON answer."""
    content = [_whole(identity, tokens, script.calls) for tokens in _blocks(script)]
    message = _message(identity, model, content, _stop_reason(script), _usage(script))
    return json.dumps(message, ensure_ascii=False).encode()


def _message(
    identity: Identity, model: str, content: list[Any], stop: str | None, usage: dict[str, Any]
) -> dict[str, Any]:
    return {
        "id": f"msg_{identity.id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": usage,
    }


def _stop_reason(script: Script) -> str:
    return _STOP_REASONS.get(script.finish_reason, script.finish_reason)


def _usage(script: Script) -> dict[str, Any]:
    usage = script.usage
    return {
        "input_tokens": usage.prompt - usage.cached,
        "output_tokens": usage.completion,
        "cache_read_input_tokens": usage.cached,
        "server_tool_use": {"web_search_requests": 0},
        "service_tier": "standard",
    }


def _blocks(script: Script) -> Iterator[list[Token]]:
    """The tokens of each content block in turn."""
    for _, tokens in groupby(script.tokens, key=lambda token: (token.kind, token.call)):
        yield list(tokens)


def _block(
    identity: Identity, index: int, tokens: list[Token], calls: tuple[ToolCall, ...]
) -> Iterator[Step]:
    start = _opened(identity, tokens[0], calls)
    block_start = {"type": "content_block_start", "index": index, "content_block": start}
    yield Step(tokens[0].at, event(block_start))
    for at in range(0, len(tokens), TOKENS_PER_DELTA):
        group = tokens[at : at + TOKENS_PER_DELTA]
        delta = _delta(group[0].kind, "".join(token.text for token in group))
        fields = {"type": "content_block_delta", "index": index, "delta": delta}
        yield Step(group[-1].at, event(fields))
    yield Step(tokens[-1].at, event({"type": "content_block_stop", "index": index}))


def _opened(identity: Identity, token: Token, calls: tuple[ToolCall, ...]) -> dict[str, Any]:
    match token.kind:
        case Kind.REASONING:
            return {"type": "thinking", "thinking": "", "signature": _signature(identity)}
        case Kind.CONTENT:
            return {"type": "text", "text": ""}
        case Kind.TOOL:
            call = calls[token.call]
            return {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}


def _whole(identity: Identity, tokens: list[Token], calls: tuple[ToolCall, ...]) -> dict[str, Any]:
    """A content block of a plain answer."""
    block = _opened(identity, tokens[0], calls)
    text = "".join(token.text for token in tokens)
    match tokens[0].kind:
        case Kind.REASONING:
            return {**block, "thinking": text}
        case Kind.CONTENT:
            return {**block, "text": text}
        case Kind.TOOL:
            return {**block, "input": json.loads(calls[tokens[0].call].arguments)}


def _signature(identity: Identity) -> str:
    """24 hex digits; nothing checks them."""
    return hashlib.sha256(identity.id.encode()).hexdigest()[:24]


def _delta(kind: Kind, text: str) -> dict[str, str]:
    match kind:
        case Kind.REASONING:
            return {"type": "thinking_delta", "thinking": text}
        case Kind.CONTENT:
            return {"type": "text_delta", "text": text}
        case Kind.TOOL:
            return {"type": "input_json_delta", "partial_json": text}
