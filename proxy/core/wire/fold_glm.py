"""The chunks of a GLM stream put together to the answer that would have come whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from proxy.core.wire.dialect import count_of, object_of, text_of

_SAID_FIRST: Final = ("id", "created", "model")
_NOT_KEPT: Final = (*_SAID_FIRST, "object", "choices", "error")
_OF_THE_CHUNK: Final = ("index", "delta", "message", "finish_reason")
_NAMES: Final = frozenset({"id", "index", "name", "role", "type"})
"""Said once, or in every piece; never in parts."""


class GlmAnswer:
    """A `chat.completion`; one for each stream."""

    def __init__(self) -> None:
        self._first: dict[str, object] = {}
        self._rest: dict[str, object] = {}
        self._choices: dict[int, _Choice] = {}

    def add(self, chunk: dict[str, object]) -> None:
        """One event's JSON."""
        for key in _SAID_FIRST:
            if chunk.get(key) and key not in self._first:
                self._first[key] = chunk[key]
        _keep_newest(self._rest, chunk, _NOT_KEPT)
        choices = chunk.get("choices")
        for each in choices if isinstance(choices, list) else ():
            choice = object_of(each)
            self._choice(choice).add(choice)

    def whole(self) -> dict[str, object]:
        """The answer, as far as it came."""
        choices = [self._choices[index].whole() for index in sorted(self._choices)]
        answer: dict[str, object] = {"choices": choices, **self._first, "object": "chat.completion"}
        if "id" in self._first:
            answer["request_id"] = self._first["id"]
        return answer | self._rest

    def _choice(self, said: dict[str, object]) -> _Choice:
        index = count_of(said.get("index")) or 0
        return self._choices.setdefault(index, _Choice(index))


class _Choice:
    """One of the answers; nearly always there is but one."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._finish_reason: str | None = None
        self._rest: dict[str, object] = {}
        self._logprobs = _Growing()
        self._message = _Growing()
        self._calls: list[_Call] = []

    def add(self, said: dict[str, object]) -> None:
        self._finish_reason = text_of(said.get("finish_reason")) or self._finish_reason
        self._logprobs.add(object_of(said.get("logprobs")))
        _keep_newest(self._rest, said, (*_OF_THE_CHUNK, "logprobs"))
        delta = dict(object_of(said.get("delta")))
        calls = delta.pop("tool_calls", None)
        for each in calls if isinstance(calls, list) else ():
            call = object_of(each)
            self._call(call).add(call)
        if isinstance(delta.get("content"), list):  # GLM-4V; whole answers have a string
            delta["content"] = "".join(_texts(delta["content"]))
        self._message.add(delta)

    def whole(self) -> dict[str, object]:
        message = {"role": "assistant", "content": "", **self._message.whole()}
        if message["content"] is None:
            message["content"] = ""
        if self._calls:
            calls = sorted(self._calls, key=lambda call: call.place)
            message["tool_calls"] = [call.whole(index) for index, call in enumerate(calls)]
        logprobs = self._logprobs.whole()
        return {
            "finish_reason": self._finish_reason,
            "index": self._index,
            "message": message,
            **({"logprobs": logprobs} if logprobs else {}),
            **self._rest,
        }

    def _call(self, said: dict[str, object]) -> _Call:
        """The call that a piece belongs to.

        Where all calls have the same index (older models: -1) a new one is known by its id; an id
        without a name is none, since some servers make one up for every piece.
        """
        index, own = count_of(said.get("index")), text_of(said.get("id"))
        is_named = text_of(object_of(said.get("function")).get("name")) is not None
        for call in reversed(self._calls):
            is_same = index is None or call.index == index
            if is_same and (call.id == own or not own or not is_named):
                return call
        call = _Call(index, own, len(self._calls))
        self._calls.append(call)
        return call


class _Call:
    """One call of a tool."""

    def __init__(self, index: int | None, own: str | None, count: int) -> None:
        self.index = index
        """None where the model does not count its calls."""
        self.id = own
        self.place = count if index is None else index
        self._fields = _Growing()

    def add(self, said: dict[str, object]) -> None:
        self._fields.add(said)

    def whole(self, index: int) -> dict[str, object]:
        return {"type": "function", **self._fields.whole(), "index": index}


class _Growing:
    """A JSON object that comes in pieces: texts and lists grow, anything else is said anew."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._lists: dict[str, list[object]] = {}
        self._objects: dict[str, _Growing] = {}
        self._values: dict[str, object] = {}

    def add(self, piece: dict[str, object]) -> None:
        for key, value in piece.items():
            if key in _NAMES:
                self._values[key] = self._values.get(key) or value
            elif isinstance(value, str):
                self._texts.setdefault(key, []).append(value)
            elif isinstance(value, dict):
                self._objects.setdefault(key, _Growing()).add(value)
            elif isinstance(value, list):
                self._lists.setdefault(key, []).extend(value)
            elif value is not None or key not in self._values:
                self._values[key] = value

    def whole(self) -> dict[str, object]:
        texts = {key: "".join(pieces) for key, pieces in self._texts.items()}
        objects = {key: grown.whole() for key, grown in self._objects.items()}
        return {**self._values, **self._lists, **objects, **texts}


def _keep_newest(into: dict[str, object], said: dict[str, object], but: Iterable[str]) -> None:
    """What is said of the answer as a whole; a list may come in parts, or again and again."""
    for key, value in said.items():
        if key in but or value is None:
            continue
        before = into.get(key)
        if isinstance(before, list) and isinstance(value, list):
            into[key] = before + [entry for entry in value if entry not in before]
        else:
            into[key] = value


def _texts(parts: object) -> Iterable[str]:
    for part in parts if isinstance(parts, list) else ():
        yield text_of(part) or text_of(object_of(part).get("text")) or ""
