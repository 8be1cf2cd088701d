"""The Anthropic dialect: the Messages stream as GLM's Anthropic base and Anthropic itself send it.

Events: https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

from __future__ import annotations

from typing import Final

import orjson

from proxy.core.record import Usage
from proxy.core.wire.dialect import (
    COMMENT,
    CONTENT,
    END,
    NOT_JSON,
    OTHER,
    PING,
    PREFACE,
    REASONING,
    TOOL,
    Answer,
    Delta,
    Dialect,
    Generation,
    Kind,
    Meaning,
    code_of,
    count_of,
    is_failed_envelope,
    object_of,
    parse,
    text_of,
)
from proxy.core.wire.generation import OneStart
from proxy.core.wire.sse import frame
from proxy.errors import ProxyError

_DELTAS: Final = {
    "text_delta": ("text", CONTENT),
    "thinking_delta": ("thinking", REASONING),
    "input_json_delta": ("partial_json", TOOL),
}
_TOOL_BLOCKS: Final = ("tool_use", "server_tool_use", "mcp_tool_use")
_OPENED_EMPTY: Final = ("text", "thinking")


class Anthropic(Dialect):
    """What `/v1/messages` says. First content is a visible text, or the start of a tool call."""

    name = "anthropic"
    usual_start = b"event: content_block_delta\ndata: "
    error_name = b"error"

    def read(self, data: bytes, name: bytes = b"") -> Meaning:
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            return _read_not_json(data, name)
        # Nearly every event ends here: one delta with one text.
        try:
            if value["type"] == "content_block_delta":
                delta = value["delta"]
                key, meaning = _DELTAS[delta["type"]]
                text = delta[key]
                return meaning if type(text) is str and text else OTHER
        except (KeyError, TypeError):
            pass
        return _read_object(object_of(value), name)

    def generation(self) -> Generation:
        return OneStart()

    def model(self, data: bytes) -> str | None:
        return text_of(object_of(parse(data).get("message")).get("model"))

    def delta(self, data: bytes) -> Delta | None:
        value = parse(data)
        place = object_of(value.get("delta"))
        kind = place.get("type")
        if value.get("type") != "content_block_delta" or not isinstance(kind, str):
            return None
        key, meaning = _DELTAS.get(kind, ("", OTHER))
        text = text_of(place.get(key))
        if text is None or meaning is TOOL:
            return None
        place[key] = ""
        return Delta(meaning.kind, text, value, place, key, final=False)

    def strip_final(self, delta: Delta) -> None:
        """Nothing: finish and usage are events of their own here."""

    def read_answer(self, body: bytes) -> Answer:
        value = parse(body)
        failed = value.get("type") == "error" or value.get("error")
        if failed or ("content" not in value and is_failed_envelope(value)):
            return Answer(failed=True, code=code_of(value))
        return Answer(
            finish_reason=text_of(value.get("stop_reason")),
            usage=_usage(value.get("usage")),
        )

    def error_body(self, error: ProxyError) -> bytes:
        return error.anthropic_body()

    def error_event(self, error: ProxyError) -> bytes:
        return frame(error.anthropic_body(), self.error_name)


ANTHROPIC: Final = Anthropic()


def _read_not_json(data: bytes, name: bytes) -> Meaning:
    if not data:
        return COMMENT
    # Clients take an event of this name for an error, whatever its data.
    return Meaning(Kind.ERROR) if name == b"error" else NOT_JSON


def _read_object(value: dict[str, object], name: bytes) -> Meaning:
    """Every event but the usual one."""
    if value.get("type") == "error" or name == b"error" or value.get("error"):
        return Meaning(Kind.ERROR, code=code_of(value))
    match value.get("type"):
        case "content_block_start":
            return _read_block(object_of(value.get("content_block")))
        case "message_start":
            usage = _usage(object_of(value.get("message")).get("usage"))
            # GLM's zeros here stand for "not known yet".
            known = usage is not None and (usage.input_tokens or usage.output_tokens)
            return Meaning(Kind.PREFACE, usage=usage) if known else PREFACE
        case "message_delta":
            reason = text_of(object_of(value.get("delta")).get("stop_reason"))
            return Meaning(
                Kind.FINISH if reason else Kind.OTHER, reason, _usage(value.get("usage"))
            )
        case "message_stop":
            return END
        case "ping":
            return PING
        case _:
            return OTHER


def _read_block(block: dict[str, object]) -> Meaning:
    kind = block.get("type")
    if kind in _TOOL_BLOCKS:
        return TOOL
    if text_of(block.get("text")):
        return CONTENT
    if text_of(block.get("thinking")):
        return REASONING
    return PREFACE if kind in _OPENED_EMPTY else OTHER


def _usage(value: object) -> Usage | None:
    said = object_of(value)
    if not said:
        return None
    return Usage(
        input_tokens=count_of(said.get("input_tokens")),
        output_tokens=count_of(said.get("output_tokens")),
        cached_tokens=count_of(said.get("cache_read_input_tokens")),
    )
