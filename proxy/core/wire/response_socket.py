"""The Responses API on a WebSocket: what its messages say, both ways. The README has the tables.

As the `openai` SDK has it (`client.responses.connect()`): the client sends `response.create`, with
the fields of `POST /v1/responses` beside its `type`; it gets the events of the stream, one message
each, and failures as `error` events. `stream_id` names a lane: what is asked on one lane is
answered in order, lanes at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from proxy.core.wire.dialect import parse
from proxy.core.wire.members import MAX_DEPTH, count, members, splice
from proxy.core.wire.multiplex import LONGEST_ID, NoMessage, WrongMessage
from proxy.core.wire.request import MOST_VALUES
from proxy.core.wire.values import has_more_values
from proxy.errors import ClientError, ProxyError


class Create(NamedTuple):
    """A response is to be made."""

    lane: str | None
    body: bytes
    """As for `POST /v1/responses`: the client's own bytes, but for what is said of the message."""


class Cancel(NamedTuple):
    """The response that is made on a lane is to end."""

    lane: str | None
    response: str | None
    """Only this one; None: whichever it is."""


class Steer(NamedTuple):
    """More input for a response that is being made, which no model behind this proxy takes."""

    previous: str
    input: Any


def read(data: bytes) -> Create | Cancel | Steer:
    """What a client's text message asks for. Raises WrongMessage, whose `id` is the lane."""
    if has_more_values(data, MOST_VALUES):
        raise WrongMessage(f"the message has more than {MOST_VALUES} values; send fewer")
    fields = parse(data)
    if not fields:
        raise NoMessage('the message is no JSON object such as {"type": "response.create", …}')
    lane = _lane(fields)
    if count(data) != len(fields):
        text = f"the message has a member twice, or is nested more than {MAX_DEPTH} levels deep"
        raise WrongMessage(text, id=lane)
    match fields.get("type"):
        case "response.create":
            _check(fields, lane)
            return Create(lane, splice(data, zip(fields, members(data), strict=True), _EDITS))
        case "response.cancel":
            return Cancel(lane, _text(fields, "response_id", lane))
        case "response.steer":
            previous = _text(fields, "previous_response_id", lane)
            return Steer(previous or "", fields.get("input"))
        case _:
            known = "response.create, response.cancel and response.steer"
            raise WrongMessage(
                f"the type of an event must be one of {known}", id=lane, param="type"
            )


_EDITS: Final = {"type": None, "stream_id": None, "generate": None, "stream": b"true"}
"""A response on a WebSocket is always a stream."""


def _lane(fields: Mapping[str, Any]) -> str | None:
    lane = _text(fields, "stream_id", None)
    if lane is not None and not (0 < len(lane) <= LONGEST_ID and lane.isprintable()):
        text = f"stream_id must be a string of 1 to {LONGEST_ID} printable characters"
        raise WrongMessage(text, param="stream_id")
    return lane


def _text(fields: Mapping[str, Any], name: str, lane: str | None) -> str | None:
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value
    raise WrongMessage(f"{name} must be a string", id=lane, param=name)


def _check(fields: Mapping[str, Any], lane: str | None) -> None:
    """What a message alone can ask for, and this proxy has not, is refused, not overlooked."""
    if fields.get("generate") is False:
        text = "generate: false is not supported; send the input with the next response.create"
        raise WrongMessage(text, id=lane, param="generate")


# --- what the proxy says -------------------------------------------------------------------------


class Framing:
    """The messages of one response on a lane: the events of its stream, as they are."""

    __slots__ = ("_end", "_lane")

    def __init__(self, lane: str | None) -> None:
        self._lane = lane
        self._end = None if lane is None else b',"stream_id":%b}' % orjson.dumps(lane)

    def opened(self, headers: Mapping[str, str]) -> None:
        """Nothing: `response.created` comes with the events."""

    def event(self, data: bytes) -> bytes:
        """`data` is one JSON object."""
        return data if self._end is None else data[:-1] + self._end

    def done(self) -> None:
        """Nothing: the last event said so."""

    def whole(self, status: int, headers: Mapping[str, str], body: bytes) -> bytes:
        """A response that came all at once."""
        head = b'{"type":"response.completed","sequence_number":0,"response":'
        return self.event(head + body + b"}")

    def failed(
        self, error: Mapping[str, Any], status: int | None, headers: Mapping[str, str] | None
    ) -> bytes:
        """No response, or no more of it."""
        told = dict(error)
        if headers:
            told["headers"] = headers
        return _error(told, status, self._lane)

    def broken(self, data: bytes, *, told: bool) -> bytes | None:
        """It ended with the event `data`, which was sent already if it is `told`."""
        said = parse(data)
        if said.get("type") == "error" and "error" not in said:
            said = {"error": {key: said.get(key) for key in ("code", "message", "param")}} | said
            return None if told else self.event(orjson.dumps({"status": None, **said}))
        if said.get("type") in _TERMINAL:
            return None if told else self.event(data)
        return self.failed(
            {"code": "upstream_failed", "message": "the answer broke off"}, None, None
        )

    def cancelled(self) -> bytes:
        """It was ended, as its client asked."""
        error = {"code": "response_cancelled", "message": "the response was cancelled"}
        return _error(error, 499, self._lane)


_TERMINAL: Final = frozenset({"error", "response.failed", "response.incomplete"})


def refused(error: ProxyError, lane: str | None) -> bytes:
    """To a message that cannot be obeyed."""
    if isinstance(error, WrongMessage):
        lane = error.id
    return _error(error.told(), error.status, lane)


def not_steered(asked: Steer) -> bytes:
    """Input is given back with the reason, as the API does it."""
    error = {
        "type": ClientError.type,
        "code": "steering_not_supported",
        "message": "no model behind this proxy takes input while it answers; send response.create",
    }
    steer = {"previous_response_id": asked.previous, "input": asked.input}
    told = {"type": "response.steer.failed", "sequence_number": 0, "error": error, "steer": steer}
    return orjson.dumps(told)


def _error(error: Mapping[str, Any], status: int | None, lane: str | None) -> bytes:
    """The SDK's `ResponseWsError`."""
    told = {"type": "api_error", **error}
    lanes = {} if lane is None else {"stream_id": lane}
    return orjson.dumps({"type": "error", "status": status, "error": told, **lanes})
