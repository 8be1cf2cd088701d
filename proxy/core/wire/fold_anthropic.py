"""The events of an Anthropic stream put together to the message that would have come whole."""

from __future__ import annotations

from typing import Final

import orjson

from proxy.core.wire.dialect import count_of, object_of

_NOT_OF_THE_MESSAGE: Final = ("type", "delta", "usage")


class AnthropicAnswer:
    """A `message`; one for each stream."""

    def __init__(self) -> None:
        self._message: dict[str, object] = {"type": "message", "role": "assistant", "content": []}
        self._usage: dict[str, object] = {}
        self._blocks: dict[int, _Block] = {}

    def add(self, event: dict[str, object]) -> None:
        """One event's JSON."""
        match event.get("type"):
            case "message_start":
                message = object_of(event.get("message"))
                self._message |= message
                self._count(message.get("usage"))
            case "content_block_start":
                block = _Block(object_of(event.get("content_block")))
                self._blocks[_index(event)] = block
            case "content_block_delta":
                delta = object_of(event.get("delta"))
                block = self._blocks.setdefault(_index(event), _Block(_opened_by(delta)))
                block.add(delta)
            case "message_delta":
                said = {k: v for k, v in event.items() if k not in _NOT_OF_THE_MESSAGE}
                for key, value in (said | object_of(event.get("delta"))).items():
                    if value is not None or key not in self._message:
                        self._message[key] = value
                self._count(event.get("usage"))

    def whole(self) -> dict[str, object]:
        """The message, as far as it came."""
        content = [self._blocks[index].whole() for index in sorted(self._blocks)]
        return {**self._message, "content": content, "usage": self._usage}

    def _count(self, usage: object) -> None:
        """Counts are totals so far; what a later event leaves out stands as it was."""
        self._usage |= {k: v for k, v in object_of(usage).items() if v is not None}


class _Block:
    """One content block."""

    def __init__(self, fields: dict[str, object]) -> None:
        self._fields = dict(fields)
        self._texts: dict[str, list[str]] = {}
        self._input: list[str] = []

    def add(self, delta: dict[str, object]) -> None:
        for key, value in delta.items():
            if key == "partial_json":
                self._input.append(str(value))
            elif key == "citation":
                before = self._fields.get("citations")
                self._fields["citations"] = [*(before if isinstance(before, list) else ()), value]
            elif key == "signature" or not isinstance(value, str):
                self._fields[key] = value
            elif key != "type":
                self._texts.setdefault(key, []).append(value)

    def whole(self) -> dict[str, object]:
        block = self._fields
        texts = {key: "".join(pieces) for key, pieces in self._texts.items()}
        opened = {key: value for key in texts if isinstance(value := block.get(key), str)}
        block = block | {key: opened.get(key, "") + text for key, text in texts.items()}
        arguments = "".join(self._input)
        return block | {"input": _parsed(arguments)} if arguments else block


def _parsed(arguments: str) -> object:
    """What a tool is called with. Cut off by `max_tokens` it is no JSON: then it is told as
    https://docs.anthropic.com/en/docs/agents-and-tools/tool-use/fine-grained-tool-streaming does.
    """
    try:
        return orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return {"INVALID_JSON": arguments}


def _opened_by(delta: dict[str, object]) -> dict[str, object]:
    """The block that a delta belongs to, when no event opened it."""
    return {"type": str(delta.get("type")).removesuffix("_delta")}


def _index(event: dict[str, object]) -> int:
    return count_of(event.get("index")) or 0
