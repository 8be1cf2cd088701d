"""A stream from a whole answer: the counterpart of `proxy.core.flow.fold`.

As few events as there are kinds of text: nobody knows at which pace they would have come.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import orjson

from proxy.core.wire.dialect import object_of
from proxy.core.wire.sse import frame

Json = dict[str, Any]

_NOT_OF_A_CHUNK: Final = ("choices", "object", "request_id", "usage")
_BEFORE_CONTENT: Final = ("reasoning_content",)
_CALLED: Final = ("tool_use", "server_tool_use", "mcp_tool_use")
_GROWING: Final = {"text": "text", "thinking": "thinking"}


def unfold(dialect: str, body: bytes) -> list[bytes]:
    """The events of `body`, a whole answer of `dialect` without an error.

    Raises ValueError for what is none.
    """
    answer = orjson.loads(body)
    if not isinstance(answer, dict):
        raise ValueError("an answer is an object")
    if dialect == "anthropic":
        return [frame(orjson.dumps(one), one["type"].encode()) for one in _message(answer)]
    return [*(frame(orjson.dumps(one)) for one in _chunks(answer)), frame(b"[DONE]")]


# --- OpenAI, and GLM: https://docs.bigmodel.cn/api-reference --------------------------------------


def _chunks(answer: Json) -> Iterator[Json]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        raise ValueError("an answer has choices")
    base: Json = {key: answer[key] for key in ("id", "created", "model") if key in answer}
    base["object"] = "chat.completion.chunk"
    rest = {k: v for k, v in answer.items() if k not in base and k not in _NOT_OF_A_CHUNK}
    if "usage" in answer:  # GLM tells it in the last chunk that has a choice
        rest["usage"] = answer["usage"]
    for number, each in enumerate(choices):
        choice = object_of(each)
        place = {"index": choice.get("index", number)}
        deltas = list(_deltas(object_of(choice.get("message"))))
        for delta in deltas:
            said = {"logprobs": choice["logprobs"]} if _tells_logprobs(choice, delta) else {}
            yield base | {"choices": [place | {"delta": delta} | said]}
        last = {k: v for k, v in choice.items() if k not in ("index", "message", "logprobs")}
        delta = {"role": "assistant", "content": ""}
        is_last = number == len(choices) - 1
        yield base | {"choices": [place | last | {"delta": delta}]} | (rest if is_last else {})


def _deltas(message: Json) -> Iterator[Json]:
    """Reasoning, then what can be seen, then calls of tools."""
    message = dict(message)
    role = {"role": message.pop("role", "assistant")}
    calls = message.pop("tool_calls", None)
    for key in _BEFORE_CONTENT:
        if text := message.pop(key, None):
            yield role | {key: text}
    if message.get("content") or message.keys() - {"content"}:
        yield role | message
    if isinstance(calls, list) and calls:
        told = [object_of(call) | {"index": index} for index, call in enumerate(calls)]
        yield role | {"tool_calls": told}


def _tells_logprobs(choice: Json, delta: Json) -> bool:
    return bool(choice.get("logprobs")) and "content" in delta


# --- Anthropic: https://docs.anthropic.com/en/docs/build-with-claude/streaming --------------------


def _message(answer: Json) -> Iterator[Json]:
    content = answer.get("content")
    if not isinstance(content, list):
        raise ValueError("an answer has content")
    usage = object_of(answer.get("usage"))
    opened: Json = {"content": [], "stop_reason": None, "stop_sequence": None}
    start = {k: v for k, v in answer.items() if k not in ("stop_reason", "stop_sequence")}
    yield {
        "type": "message_start",
        "message": start | opened | {"usage": usage | {"output_tokens": 0}},
    }
    for index, each in enumerate(content):
        yield from _block(index, object_of(each))
    ended = {key: answer.get(key) for key in ("stop_reason", "stop_sequence")}
    yield {"type": "message_delta", "delta": ended, "usage": usage}
    yield {"type": "message_stop"}


def _block(index: int, block: Json) -> Iterator[Json]:
    opened, deltas = dict(block), list[Json]()
    kind = block.get("type")
    if kind in _GROWING and isinstance(block.get(_GROWING[kind]), str):
        key = _GROWING[kind]
        opened[key] = ""
        deltas.append({"type": f"{kind}_delta", key: block[key]})
        citations = opened.pop("citations", None) or ()
        deltas += ({"type": "citations_delta", "citation": one} for one in citations)
        if "signature" in block:
            opened["signature"] = ""
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
    elif kind in _CALLED:
        opened["input"] = {}
        arguments = orjson.dumps(block.get("input", {})).decode()
        deltas.append({"type": "input_json_delta", "partial_json": arguments})
    yield {"type": "content_block_start", "index": index, "content_block": opened}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}
