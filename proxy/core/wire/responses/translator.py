"""One chat told as a Response: event by event, or as a whole.

    chat                                Responses
    first event                         response.created, response.in_progress
    reasoning_content                   an item `reasoning`
    content                             an item `message`
    tool_calls, in any of GLM's shapes  an item `function_call` each
    finish_reason and [DONE]            response.completed, response.incomplete
    an error, network_error, a cut      response.failed

A text ends where another kind begins; calls stay open until the end, since their last piece may
come with the finish. Nothing is told as completed before the upstream's own end event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import orjson

from proxy.core.record import Usage
from proxy.core.wire.answers import error_message
from proxy.core.wire.dialect import code_of, count_of, newer_usage, object_of, text_of
from proxy.core.wire.glm import usage_of
from proxy.core.wire.responses.asked import Asked, Item, wants_summary
from proxy.core.wire.responses.envelope import (
    COMPLETED,
    FAILED,
    INCOMPLETE,
    error_of,
    outcome_of,
    response_of,
    usage_as,
)
from proxy.core.wire.responses.output import (
    MESSAGE,
    REASONING,
    SUMMARY,
    Call,
    Family,
    Output,
    Text,
    tell_search,
)
from proxy.core.wire.sse import ANY_SIZE, Decoder

_START: Final = b"data: "
_MOST_SOURCES: Final = 100


class Translator:
    """One response. `status` is None until it is over; then nothing more is told."""

    def __init__(
        self, asked: Asked, response_id: str, created: float, wall: Callable[[], float]
    ) -> None:
        """`created` is when it was asked for, `wall` the time at its end: unix, in seconds."""
        self.status: str | None = None
        self.response = response_of(asked, response_id, created)
        self._wall = wall
        self._thinking = SUMMARY if wants_summary(asked.fields) else REASONING
        self._output = Output(response_id.partition("_")[2])
        self._has_begun = False
        self._text: Text | None = None
        self._calls: list[Call] = []
        self._usage: Usage | None = None
        self._finish_reason: str | None = None
        self._decoder = Decoder(ANY_SIZE)

    @property
    def items(self) -> list[Item]:
        """The output so far."""
        return self._output.items

    # --- a stream --------------------------------------------------------------------------

    def take(self, events: Iterable[bytes]) -> list[bytes]:
        """What a client of the Responses API reads in place of `events`, which are whole events of
        a chat. Comments stay."""
        out: list[bytes] = []
        for raw in events:
            # Nearly every event is one line of data. Others may have any spelling.
            if raw.startswith(_START) and raw.find(b"\n") == len(raw) - 2:
                self._read(raw[6:-2], out)
                continue
            if raw.startswith(b":") and b"\ndata" not in raw:
                out.append(raw)
                continue
            for event in self._decoder.feed(raw):
                if event.data:
                    self._read(event.data, out)
                else:
                    out.append(event.raw)
        return out

    def fail(self, code: str | None, message: str) -> list[bytes]:
        """What tells the client that the answer broke off; nothing, if it is over already."""
        out: list[bytes] = []
        self._fail(code, message, out)
        return out

    def _read(self, data: bytes, out: list[bytes]) -> None:
        if self.status is not None:
            return
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError:
            if data.strip().startswith(b"[DONE]"):
                self._end(out)
            else:  # a part of the answer would be missing
                self._fail("upstream_protocol_error", "an event of the upstream is not JSON", out)
            return
        if not isinstance(value, dict):
            return
        if value.get("error"):
            self._fail(code_of(value), error_message(data) or "the upstream failed", out)
            return
        self._begin(value, out)
        self._take(value, "delta", out)

    def _begin(self, value: dict[str, Any] | None, out: list[bytes]) -> None:
        if self._has_begun:
            return
        self._has_begun = True
        model = None if value is None else text_of(value.get("model"))
        if model is not None:
            self.response["model"] = model
        out.append(self._event("created"))
        out.append(self._event("in_progress"))

    def _take(self, value: dict[str, Any], place: str, out: list[bytes]) -> None:
        """One chunk, or, with its own `place`, a whole answer."""
        if value.get("usage"):
            usage = usage_of(value)
            if usage is not None:
                self._usage = newer_usage(self._usage, usage)
        if value.get("web_search"):
            tell_search(self._output, _sources(value["web_search"]), out)
        choices = value.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and not choice.get("index"):  # the API has but one answer
                self._choice(choice, object_of(choice.get(place)), out)

    def _choice(self, choice: dict[str, Any], said: dict[str, Any], out: list[bytes]) -> None:
        thought = said.get("reasoning_content")
        if thought and isinstance(thought, str):
            self._say(self._thinking, thought, out)
        text = said.get("content")
        if text:
            text = text if isinstance(text, str) else _joined(text)
            if text:
                self._say(MESSAGE, text, out)
        calls = said.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            self._call(object_of(call), out)
        self._finish_reason = text_of(choice.get("finish_reason")) or self._finish_reason

    def _say(self, family: Family, text: str, out: list[bytes]) -> None:
        current = self._text
        if current is None or current.family is not family:
            self._end_text(out)
            current = self._text = Text(self._output, family, out)
        out.append(current.add(text))

    def _end_text(self, out: list[bytes], status: str = COMPLETED) -> None:
        if self._text is not None:
            out += self._text.end(status)
            self._text = None

    def _call(self, said: dict[str, Any], out: list[bytes]) -> None:
        function = object_of(said.get("function"))
        name = text_of(function.get("name"))
        call = self._known_call(said, is_named=name is not None)
        if call is None:
            self._end_text(out)
            index, own = count_of(said.get("index")), text_of(said.get("id"))
            call = Call(self._output, index, own, name or "", out)
            self._calls.append(call)
        elif name is not None:
            call.name(name)
        piece = text_of(function.get("arguments"))
        if piece is not None:
            out.append(call.add(piece))

    def _known_call(self, said: dict[str, Any], *, is_named: bool) -> Call | None:
        """The call that a piece belongs to.

        Where all calls have the same index (older models: -1) a new one is known by its id; an id
        without a name is none, since some servers make one up for every piece.
        """
        index, own = count_of(said.get("index")), text_of(said.get("id"))
        for call in reversed(self._calls):
            is_same = index is None or call.index == index
            if is_same and (call.own == own or not own or not is_named):
                return call
        return None

    # --- the end ---------------------------------------------------------------------------

    def _end(self, out: list[bytes]) -> None:
        """The upstream said that its answer is whole."""
        self._begin(None, out)
        status, why = outcome_of(self._finish_reason)
        if status == FAILED:
            self._fail(self._finish_reason, "the upstream gave up in the middle", out)
            return
        calls, self._calls = self._calls, []
        last = COMPLETED if status == COMPLETED or calls else INCOMPLETE
        self._end_text(out, last)
        for call in calls:
            out += call.end(status if call is calls[-1] else COMPLETED)
        self.status = status
        self._close(out, why)

    def _fail(self, code: str | None, message: str, out: list[bytes]) -> None:
        if self.status is not None:
            return
        self._begin(None, out)
        for part in (self._text, *self._calls):
            if part is not None:
                part.cut(INCOMPLETE)
        self.status = FAILED
        self.response["error"] = error_of(code, message)
        self._close(out, None)

    def _close(self, out: list[bytes], why: str | None) -> None:
        response, status = self.response, self.status
        assert status is not None
        response["status"] = status
        response["output"] = self._output.items
        response["usage"] = usage_as(self._usage)
        if status == COMPLETED:
            response["completed_at"] = int(self._wall())
        if why is not None:
            response["incomplete_details"] = {"reason": why}
        out.append(self._event(status))

    def _event(self, stage: str) -> bytes:
        return self._output.event(f"response.{stage}", response=self.response)

    # --- a whole answer --------------------------------------------------------------------

    def whole(self, body: bytes) -> bytes:
        """The Response in place of `body`, a whole chat completion."""
        out: list[bytes] = []  # nobody hears of its parts
        try:
            value = object_of(orjson.loads(body))
        except orjson.JSONDecodeError:
            value = {}
        self._begin(value, out)
        if isinstance(value.get("choices"), list):
            self._take(value, "message", out)
            self._end(out)
        else:
            self._fail("upstream_protocol_error", "the upstream's answer is no answer", out)
        return orjson.dumps(self.response)


def _joined(parts: object) -> str:
    """The text of parts, as GLM-4V has them."""
    texts = (
        text_of(part) or text_of(object_of(part).get("text"))
        for part in (parts if isinstance(parts, list) else ())
    )
    return "".join(text for text in texts if text)


def _sources(found: object) -> list[str]:
    """The pages that a search found."""
    links = (
        text_of(object_of(one).get("link"))
        for one in (found if isinstance(found, list) else ())[:_MOST_SOURCES]
    )
    return [link for link in links if link]
