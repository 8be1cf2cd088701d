"""Many chats on one WebSocket: what its messages say, both ways. The README has the tables.

client  {"id", "body", "window"?, "headers"?}   begin a chat
        {"id", "cancel": true}                  end it
        {"id", "more": 64}                      so many more events may be sent
proxy   {"id", "status", "headers"}             its stream begins
        {"id", "data"}                          one event
        {"id", "done": true}                    the answer is whole
        {"id", "status", "headers", "body", "done": true}   an answer that is no stream
        {"id", "error", "status"?, "headers"?}  it failed; in a stream the status was told
        {"id", "cancelled"}                     what a cancel led to
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from proxy.core.wire.dialect import object_of, parse
from proxy.core.wire.headers import DEADLINE
from proxy.core.wire.members import MAX_DEPTH, count, members
from proxy.core.wire.request import MOST_VALUES
from proxy.core.wire.values import has_more_values
from proxy.errors import ClientError, ProxyError

LONGEST_ID: Final = 64
"""Characters."""
MOST_EVENTS: Final = 1_000_000
"""Most events that are granted by one message."""

_HEADERS: Final = frozenset(
    {
        "cache-control",
        "idempotency-key",
        "traceparent",
        "tracestate",
        "x-client-request-id",
        "x-request-id",
        "x-session-id",
    }
)
"""What a chat may say for itself; who asks, and for which route, the WebSocket's own say."""
_LONGEST_HEADER: Final = 512
_MEMBER: Final = re.compile(r"[a-z_]{1,32}")
_STARTS: Final = frozenset({"id", "body", "window", "headers"})


class Start(NamedTuple):
    """A chat is to begin."""

    id: str
    body: bytes
    """The client's own bytes."""
    headers: tuple[tuple[str, str], ...] = ()
    window: int | None = None
    """Events that may be sent before more are granted; None: any number."""


class Cancel(NamedTuple):
    """A chat is to end."""

    id: str


class More(NamedTuple):
    """So many more events of a chat may be sent."""

    id: str
    events: int


class WrongMessage(ClientError):
    """A message that cannot be obeyed. `id`: the chat it is about, as far as that can be told."""

    def __init__(self, message: str, *, id: str | None = None, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.id = id


class NoMessage(WrongMessage):
    """What came is no JSON object: whoever sends it does not speak this protocol."""


def read(data: bytes) -> Start | Cancel | More:
    """What a client's text message asks for. Raises WrongMessage and nothing else."""
    if has_more_values(data, MOST_VALUES):
        raise WrongMessage(f"the message has more than {MOST_VALUES} values; send fewer")
    fields = parse(data)
    if not fields:
        raise NoMessage('the message is no JSON object such as {"id": "a", "body": {…}}')
    if count(data) != len(fields):
        text = f"the message has a member twice, or is nested more than {MAX_DEPTH} levels deep"
        raise WrongMessage(text, id=_own_id(fields))
    id = _id(fields)
    match [name for name in ("body", "cancel", "more") if name in fields]:
        case ["body"]:
            _only(fields, id, _STARTS)
            return Start(id, _body(data, fields, id), _headers(fields, id), _window(fields, id))
        case ["cancel"]:
            _only(fields, id, ("id", "cancel"))
            if fields["cancel"] is not True:
                raise WrongMessage("cancel must be true", id=id, param="cancel")
            return Cancel(id)
        case ["more"]:
            _only(fields, id, ("id", "more"))
            return More(id, _events(fields["more"], id, "more"))
        case _:
            raise WrongMessage("send one of body, cancel and more with an id", id=id)


def _own_id(fields: Mapping[str, Any]) -> str | None:
    id = fields.get("id")
    return id if isinstance(id, str) and 0 < len(id) <= LONGEST_ID and id.isprintable() else None


def _id(fields: Mapping[str, Any]) -> str:
    id = _own_id(fields)
    if id is None:
        text = f"id must be a string of 1 to {LONGEST_ID} printable characters"
        raise WrongMessage(text, param="id")
    return id


def _only(fields: Mapping[str, Any], id: str, known: frozenset[str] | tuple[str, ...]) -> None:
    for name in fields:
        if name not in known:
            shown = name if _MEMBER.fullmatch(name) else None  # else it may be a piece of a prompt
            text = f"{'a member' if shown is None else shown!r} of the message is not known here"
            raise WrongMessage(text, id=id, param=shown)


def _body(data: bytes, fields: Mapping[str, Any], id: str) -> bytes:
    """The bytes of `body` as they stand in the message."""
    if not isinstance(fields["body"], dict):
        raise WrongMessage("body must be an object: a chat request", id=id, param="body")
    names = list(fields)  # each stands once, so the parsed object has them in the same order
    member = members(data)[names.index("body")]
    return data[member.value : member.end]


def _window(fields: Mapping[str, Any], id: str) -> int | None:
    window = fields.get("window")
    return None if window is None else _events(window, id, "window")


def _events(value: object, id: str, name: str) -> int:
    if type(value) is int and 0 < value <= MOST_EVENTS:
        return value
    raise WrongMessage(f"{name} must be a number from 1 to {MOST_EVENTS}", id=id, param=name)


def _headers(fields: Mapping[str, Any], id: str) -> tuple[tuple[str, str], ...]:
    headers = fields.get("headers")
    if headers is None:
        return ()
    if not isinstance(headers, dict):
        raise WrongMessage("headers must be an object of strings", id=id, param="headers")
    return tuple((name.lower(), _header(name, value, id)) for name, value in headers.items())


def _header(name: str, value: object, id: str) -> str:
    if name.lower() not in _HEADERS and not name.lower().startswith(DEADLINE):
        known = ", ".join(sorted(_HEADERS))
        text = f"a chat may have the headers {known} and {DEADLINE}*; send no other"
        raise WrongMessage(text, id=id, param="headers")
    if isinstance(value, str) and len(value) <= _LONGEST_HEADER and value.isprintable():
        return value
    text = f"a header must be a string of at most {_LONGEST_HEADER} printable characters"
    raise WrongMessage(text, id=id, param="headers")


# --- what the proxy says -------------------------------------------------------------------------


class Framing:
    """The messages of one chat."""

    __slots__ = ("_data", "_id")

    def __init__(self, id: str) -> None:
        self._id = orjson.dumps(id)
        self._data = b'{"id":%b,"data":' % self._id

    def opened(self, headers: Mapping[str, str]) -> bytes:
        """Its stream begins."""
        return b'{"id":%b,"status":200,"headers":%b}' % (self._id, orjson.dumps(headers))

    def event(self, data: bytes) -> bytes:
        """An event's data, which is JSON: no copy is made of it but this one."""
        return self._data + data + b"}"

    def done(self) -> bytes:
        """The answer is whole."""
        return b'{"id":%b,"done":true}' % self._id

    def whole(self, status: int, headers: Mapping[str, str], body: bytes) -> bytes:
        """An answer that is no stream; `body` is JSON."""
        told = orjson.dumps(headers)
        parts = (self._id, status, told, body)
        return b'{"id":%b,"status":%d,"headers":%b,"body":%b,"done":true}' % parts

    def failed(
        self, error: Mapping[str, Any], status: int | None, headers: Mapping[str, str] | None
    ) -> bytes:
        """It failed: before its stream began with a status, in its stream without."""
        told = {} if status is None else {"status": status, "headers": headers}
        return b'{"id":%b,%b' % (self._id, orjson.dumps({**told, "error": error})[1:])

    def broken(self, data: bytes, *, told: bool) -> bytes:
        """It ended with an event that tells an error: one of ours, or, if it was `told` as an event
        already, the upstream's own."""
        error = object_of(parse(data).get("error"))
        return self.failed(error or _BROKE_OFF, None, None)

    def cancelled(self) -> bytes:
        """It was ended, as its client asked."""
        return b'{"id":%b,"cancelled":true}' % self._id


_BROKE_OFF: Final = {"code": "upstream_failed", "message": "the answer broke off"}


def not_running(id: str) -> bytes:
    """To a cancel that came too late, or for a chat that never was."""
    return orjson.dumps({"id": id, "cancelled": False})


def failed(id: str, error: ProxyError) -> bytes:
    """A chat that cannot begin."""
    return Framing(id).failed(error.told(), error.status, {})


def refused(error: ClientError) -> bytes:
    """To a message that cannot be obeyed, with the id if there is one."""
    id = error.id if isinstance(error, WrongMessage) else None
    told = {} if id is None else {"id": id}
    return orjson.dumps({**told, "error": error.told()})
