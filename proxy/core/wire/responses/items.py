"""Input items -> chat messages.

One assistant message holds what the Responses API tells in several items: the thinking, the text,
the calls. GLM wants the answers to calls right behind the message that has them, so what the model
said between a call and its answer joins that message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from proxy.core.wire.responses.asked import Item
from proxy.core.wire.responses.refuse import list_in, object_in, text_in, told
from proxy.errors import ClientError

Message = dict[str, Any]

_ROLES: Final = {"user": "user", "system": "system", "developer": "system"}
"""GLM has no developer."""
_TEXTS: Final = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
"""Parts that are text, and the member that has it."""


class Messages:
    """Items in, messages out. `all` are those that are whole, after `end`."""

    def __init__(self) -> None:
        self.all: list[Message] = []
        self._turn: Message | None = None
        """The assistant message that further items may join."""

    def add(self, items: Iterable[Item], where: str) -> None:
        """`items`, which stand at `where`. Raises ClientError."""
        for index, item in enumerate(items):
            self._add(item, f"{where}[{index}]")

    def end(self) -> list[Message]:
        """No item follows. All messages."""
        turn, self._turn = self._turn, None
        if turn is not None and (turn["content"] or "tool_calls" in turn):
            self.all.append(turn)
        return self.all

    def _add(self, item: Item, where: str) -> None:
        kind = item.get("type")
        if kind is None and "role" in item:
            kind = "message"
        take = _TAKES.get(kind) if isinstance(kind, str) else None
        if take is not None:
            take(self, item, where)
        elif kind not in _SKIPPED:
            text = f"{where}.type is {told(kind)}, which cannot be served; {_KNOWN}"
            raise ClientError(text, param=f"{where}.type")

    def _message(self, item: Item, where: str) -> None:
        role, content = item.get("role"), item.get("content")
        if role == "assistant":
            text = _joined(_texts(content, f"{where}.content"), "")
            turn = self._open(with_text=bool(text))
            turn["content"] += text
            return
        if not isinstance(role, str) or role not in _ROLES:
            raise ClientError(
                f"{where}.role is {told(role)}; use user, assistant, system or developer",
                param=f"{where}.role",
            )
        self.end()
        self.all.append({"role": _ROLES[role], "content": _content(content, f"{where}.content")})

    def _reasoning(self, item: Item, where: str) -> None:
        """Models that think on after a tool's answer read what they thought before it."""
        text = _thought(item)
        if text:
            turn = self._open(with_text=True)
            turn["reasoning_content"] = turn.get("reasoning_content", "") + text

    def _call(self, item: Item, where: str) -> None:
        call = {
            "id": text_in(item, "call_id", where),
            "type": "function",
            "function": {
                "name": text_in(item, "name", where),
                "arguments": text_in(item, "arguments", where),
            },
        }
        self._open(with_text=False).setdefault("tool_calls", []).append(call)

    def _answer(self, item: Item, where: str) -> None:
        call = text_in(item, "call_id", where)
        output = item.get("output")
        content = _joined(_texts(output, f"{where}.output"), "\n")
        self.end()
        self.all.append({"role": "tool", "tool_call_id": call, "content": content})

    def _reference(self, item: Item, where: str) -> None:
        raise ClientError(
            f"{where} is an item_reference; single items are not kept: send the item itself,"
            " or previous_response_id",
            param=f"{where}.type",
        )

    def _open(self, *, with_text: bool) -> Message:
        """The assistant message that is being said. `with_text`: text that would come behind the
        one it has already begins another, unless calls have been made."""
        turn = self._turn
        if turn is not None and with_text and turn["content"] and "tool_calls" not in turn:
            self.end()
            turn = None
        if turn is None:
            turn = self._turn = {"role": "assistant", "content": ""}
        return turn


_TAKES: Final[Mapping[str, Callable[[Messages, Item, str], None]]] = {
    "message": Messages._message,
    "reasoning": Messages._reasoning,
    "function_call": Messages._call,
    "function_call_output": Messages._answer,
    "item_reference": Messages._reference,
}
_SKIPPED: Final = ("web_search_call",)
"""Told by us, and nothing that a model has to read again. A type may be no word, and not hashed."""
_KNOWN: Final = "known are message, function_call, function_call_output and reasoning"


def _content(content: object, where: str) -> str | list[dict[str, Any]]:
    """Of a message that is not the model's: text alone is a string, which every model takes."""
    if isinstance(content, str):
        return content
    parts = [
        _part(object_in(part, f"{where}[{index}]"), f"{where}[{index}]")
        for index, part in enumerate(list_in(content, where))
    ]
    if all(part["type"] == "text" for part in parts):
        return _joined((part["text"] for part in parts), "\n")
    return parts


def _part(part: dict[str, Any], where: str) -> dict[str, Any]:
    kind = part.get("type")
    if isinstance(kind, str) and kind in _TEXTS:
        return {"type": "text", "text": text_in(part, _TEXTS[kind], where)}
    if kind == "input_image":
        _refuse_file(part, where, "image_url")
        return {"type": "image_url", "image_url": {"url": text_in(part, "image_url", where)}}
    if kind == "input_file":
        _refuse_file(part, where, "file_url")
        return {"type": "file_url", "file_url": {"url": text_in(part, "file_url", where)}}
    if kind == "input_audio":
        return {"type": kind, kind: object_in(part.get(kind), f"{where}.{kind}")}
    place = f"{where}.type"
    raise ClientError(f"{place} is {told(kind)}, which cannot be served", param=place)


def _refuse_file(part: dict[str, Any], where: str, instead: str) -> None:
    for name in ("file_id", "file_data"):
        if part.get(name):
            place = f"{where}.{name}"
            raise ClientError(f"{place} cannot be served; send {instead}", param=place)


def _texts(content: object, where: str) -> Iterable[str]:
    """Of what can only be text: what the model said, and what a tool answered."""
    if isinstance(content, str):
        yield content
        return
    for index, part in enumerate(list_in(content, where)):
        place = f"{where}[{index}]"
        part = object_in(part, place)
        kind = part.get("type")
        if not isinstance(kind, str) or kind not in _TEXTS:
            text = f"{place}.type is {told(kind)}; only text can be served here"
            raise ClientError(text, param=f"{place}.type")
        yield text_in(part, _TEXTS[kind], place)


def _thought(item: Item) -> str:
    """The text of a reasoning item: as it was thought, else its summary. One that is only there
    encrypted is another provider's."""
    for name in ("content", "summary"):
        parts = item.get(name)
        texts = [
            part["text"]
            for part in (parts if isinstance(parts, list) else ())
            if isinstance(part, dict) and isinstance(part.get("text"), str)
        ]
        if any(texts):
            return "".join(texts)
    return ""


def _joined(texts: Iterable[str], between: str) -> str:
    return between.join(texts)
