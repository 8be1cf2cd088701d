"""The GLM dialect: OpenAI's chat completions with reasoning, as GLM and its gateways send them.

Fields: https://docs.bigmodel.cn/api-reference, and
https://platform.openai.com/docs/api-reference/chat-streaming
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
    PLAIN,
    PREFACE,
    REASONING,
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
from proxy.core.wire.generation import SameId
from proxy.core.wire.sse import frame
from proxy.errors import ProxyError

_SAID_ONCE: Final = ("usage", "web_search", "content_filter")
_SAID_ONCE_BY_A_CHOICE: Final = ("finish_reason", "logprobs")


class Glm(Dialect):
    """What `/chat/completions` says. First content is a `content` not empty, or a tool call."""

    name = "openai"
    usual_start = b"data: "

    def read(self, data: bytes, name: bytes = b"") -> Meaning:
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            return _read_not_json(data)
        # Nearly every event ends here: one choice, one text, nothing else.
        try:
            (choice,) = value["choices"]
            if not (choice.get("finish_reason") or value.get("usage") or value.get("error")):
                delta = choice["delta"]
                if not delta.get("tool_calls"):
                    text = delta.get("content")
                    if text:
                        if type(text) is str:
                            return CONTENT
                    elif type(text := delta.get("reasoning_content")) is str and text:
                        return REASONING
        except (KeyError, TypeError, ValueError, AttributeError):
            pass
        return _read_object(object_of(value))

    def generation(self) -> Generation:
        return SameId()

    def model(self, data: bytes) -> str | None:
        return text_of(parse(data).get("model"))

    def delta(self, data: bytes) -> Delta | None:
        value = parse(data)
        choices = value.get("choices")
        if not isinstance(choices, list) or len(choices) != 1:
            return None
        choice = object_of(choices[0])
        place = object_of(choice.get("delta"))
        keys = [key for key in ("content", "reasoning_content") if place.get(key)]
        if len(keys) != 1 or place.get("tool_calls") or place.get("audio"):
            return None
        key = keys[0]
        text = text_of(place[key])
        if text is None:
            return None
        place[key] = ""
        kind = Kind.CONTENT if key == "content" else Kind.REASONING
        return Delta(kind, text, value, place, key, bool(choice.get("finish_reason")))

    def strip_final(self, delta: Delta) -> None:
        for key in _SAID_ONCE:
            delta.value.pop(key, None)
        choices = delta.value.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            for key in _SAID_ONCE_BY_A_CHOICE:
                choice.pop(key, None)

    def read_answer(self, body: bytes) -> Answer:
        value = parse(body)
        if value.get("error") or ("choices" not in value and is_failed_envelope(value)):
            return Answer(failed=True, code=code_of(value))
        return Answer(finish_reason=_finish_reason(value), usage=usage_of(value))

    def error_body(self, error: ProxyError) -> bytes:
        return error.openai_body()

    def error_event(self, error: ProxyError) -> bytes:
        return frame(error.openai_body())


GLM: Final = Glm()


def _read_not_json(data: bytes) -> Meaning:
    if not data:
        return COMMENT
    return END if data.strip().startswith(b"[DONE]") else NOT_JSON


def _read_object(value: dict[str, object]) -> Meaning:
    """Any object: several choices, none, finish, usage, an error."""
    if value.get("error"):
        return Meaning(Kind.ERROR, code=code_of(value))
    kind = max((_kind(choice.get("delta")) for choice in _choices(value)), default=Kind.OTHER)
    reason = _finish_reason(value)
    usage = usage_of(value)
    if kind is Kind.OTHER:
        if reason:
            kind = Kind.FINISH
        elif _only_opens(value):
            kind = Kind.PREFACE
    if reason or usage:
        return Meaning(kind, reason, usage)
    return PREFACE if kind is Kind.PREFACE else PLAIN[kind]


def _kind(value: object) -> Kind:
    delta = object_of(value)
    if isinstance(delta.get("tool_calls"), list) and delta["tool_calls"]:
        return Kind.TOOL
    if _is_visible(delta.get("content")) or object_of(delta.get("audio")):
        return Kind.CONTENT
    return Kind.REASONING if text_of(delta.get("reasoning_content")) else Kind.OTHER


def _only_opens(value: dict[str, object]) -> bool:
    """Whether it says who speaks, at most: `{"delta": {"role": "assistant", "content": ""}}`."""
    choices = _choices(value)
    if not choices or value.get("web_search") or value.get("content_filter"):
        return False
    deltas = [choice.get("delta") for choice in choices]
    return all(isinstance(delta, dict) and not _said_in(delta) for delta in deltas)


def _said_in(delta: dict[str, object]) -> bool:
    """Anything, also what is not known here: some gateways have a name of their own for text."""
    return any(said for key, said in delta.items() if key != "role")


def _is_visible(content: object) -> bool:
    """Text; GLM-4V may send a list of parts instead of a string."""
    if isinstance(content, list):
        return any(text_of(part) or text_of(object_of(part).get("text")) for part in content)
    return text_of(content) is not None


def _choices(value: dict[str, object]) -> list[dict[str, object]]:
    choices = value.get("choices")
    return [object_of(choice) for choice in choices] if isinstance(choices, list) else []


def _finish_reason(value: dict[str, object]) -> str | None:
    reasons = (text_of(choice.get("finish_reason")) for choice in _choices(value))
    return next((reason for reason in reasons if reason), None)


def usage_of(value: dict[str, object]) -> Usage | None:
    """The tokens that a chunk or a whole answer tells, if it does."""
    said = object_of(value.get("usage"))
    if not said:
        return None
    return Usage(
        input_tokens=count_of(said.get("prompt_tokens")),
        output_tokens=count_of(said.get("completion_tokens")),
        cached_tokens=count_of(object_of(said.get("prompt_tokens_details")).get("cached_tokens")),
        reasoning_tokens=count_of(
            object_of(said.get("completion_tokens_details")).get("reasoning_tokens")
        ),
    )
