"""Streams as they break, in both dialects, and what a reader must make of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import orjson

from tests.fakes.upstream import SSE

TEXTS = ("低潮", "在", " 14:05。🌊")
TOLD = "the account is busy"
CODE = "1302"


class Damage(NamedTuple):
    """One answer of an upstream, and what must come of it."""

    name: str
    data: bytes
    text: str
    """What a reader gets to read."""
    says: str = ""
    """What its exception carries; empty for a stream that is whole."""
    ending: str = "clean"
    framing: str = "chunked"
    kind: str = SSE
    step: int = 1 << 20
    """Bytes per write."""


class Spoken(NamedTuple):
    """One whole stream of a dialect and the errors that may stand in it."""

    events: tuple[bytes, ...]
    first: int
    """The index of the event with the first of `TEXTS`."""
    own_error: bytes
    other_error: bytes

    @property
    def data(self) -> bytes:
        return b"".join(self.events)

    @property
    def begun(self) -> bytes:
        """Up to the second text."""
        return b"".join(self.events[: self.first + 2])

    @property
    def half(self) -> bytes:
        """The third text, cut inside a character."""
        event = self.events[self.first + 2]
        return event[: event.index("🌊".encode()) + 2]


def _chunk(**fields: object) -> bytes:
    head = {"id": "20260718093312b4", "created": 1784338392, "model": "glm-4.6"}
    return b"data: " + orjson.dumps(head | fields) + b"\n\n"


def _delta(text: str) -> bytes:
    return _chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": text}}])


def _named(kind: str, **fields: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), orjson.dumps({"type": kind} | fields))


_COUNTS = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
_OPENAI_ERROR = b"data: " + orjson.dumps({"error": {"code": CODE, "message": TOLD}}) + b"\n\n"
_ANTHROPIC_ERROR = _named(
    "error", error={"type": "rate_limit_error", "code": CODE, "message": TOLD}
)

OPENAI = Spoken(
    (
        *map(_delta, TEXTS),
        _chunk(choices=[{"index": 0, "finish_reason": "stop", "delta": {}}], usage=_COUNTS),
        b"data: [DONE]\n\n",
    ),
    first=0,
    own_error=_OPENAI_ERROR,
    other_error=_ANTHROPIC_ERROR,
)

_MESSAGE: dict[str, object] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "glm-4.6",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 0, "output_tokens": 0},
}
PING = _named("ping")
ANTHROPIC = Spoken(
    (
        _named("message_start", message=_MESSAGE),
        PING,
        _named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *(
            _named("content_block_delta", index=0, delta={"type": "text_delta", "text": text})
            for text in TEXTS
        ),
        _named("content_block_stop", index=0),
        _named(
            "message_delta",
            delta={"stop_reason": "end_turn", "stop_sequence": None},
            usage={"input_tokens": 9, "output_tokens": 3},
        ),
        _named("message_stop"),
    ),
    first=3,
    own_error=_ANTHROPIC_ERROR,
    other_error=_OPENAI_ERROR,
)

WHOLE = "".join(TEXTS)
BEGUN = "".join(TEXTS[:2])


def harmless(spoken: Spoken) -> Iterator[Damage]:
    """Odd, but whole: every reader gets all of it."""

    def before_each(block: bytes) -> bytes:
        return b"".join(block + event for event in spoken.events)

    data = spoken.data
    yield Damage("as usual", data, WHOLE)
    yield Damage("byte by byte", data, WHOLE, step=1)
    yield Damage("comments", before_each(b": keep-alive\n\n: in front\n"), WHOLE)
    yield Damage("BOM", b"\xef\xbb\xbf" + data, WHOLE)
    yield Damage("CRLF", data.replace(b"\n", b"\r\n"), WHOLE)
    yield Damage("CR", data.replace(b"\n", b"\r"), WHOLE)
    yield Damage("BOM and CRLF", b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n"), WHOLE, step=3)
    yield Damage("id: with each", before_each(b"id: 7\n"), WHOLE)
    yield Damage("id: alone", before_each(b"id: 7\n\n"), WHOLE)
    yield Damage("retry: alone", before_each(b"retry: 3000\n\n"), WHOLE)
    yield Damage("event: alone", before_each(b"event: nothing\n\n"), WHOLE)
    yield Damage("data: empty", before_each(b"data:\n\ndata: \n\ndata\n\n"), WHOLE)
    yield Damage("more after the end", data + b"data: [DONE]\n\ndata: {not JSON\n\n", WHOLE)
    broken = data.replace("在".encode(), "在".encode()[:2])
    yield Damage("invalid UTF-8", broken, WHOLE.replace("在", "\N{REPLACEMENT CHARACTER}"))


def cut(spoken: Spoken, protocol: str) -> Iterator[Damage]:
    """Not whole: every reader gets what came, and then an exception that says so."""
    begun, half = spoken.begun, spoken.half
    yield Damage("clean end", begun, BEGUN, "upstream_cut")
    yield Damage("clean end in an event", begun + half, BEGUN, "upstream_cut")
    unsaid = b"".join(spoken.events[:-1])
    yield Damage("clean end before the end event", unsaid, WHOLE, "upstream_cut")
    endings = ("torn", "rst", "close", "short", "delimited")
    for ending in (
        endings if protocol == "http/1.1" else ("reset", "refused_late", "goaway", "drop")
    ):
        framing = {"short": "100000", "delimited": "close"}.get(ending, "chunked")
        told = "upstream_cut" if ending == "delimited" else "upstream_reset"
        last = "close" if ending == "delimited" else ending
        yield Damage(ending, begun, BEGUN, told, last, framing)
        yield Damage(f"{ending} in an event", begun + half, BEGUN, told, last, framing)
    own, other = spoken.own_error, spoken.other_error
    yield Damage("own error", begun + own, BEGUN, TOLD)
    yield Damage("own error and the end", begun + own + spoken.events[-1], BEGUN, TOLD)
    yield Damage("the other dialect's error", begun + other, BEGUN, TOLD)
    yield Damage(
        "the other dialect's error and the end", begun + other + spoken.events[-1], BEGUN, TOLD
    )
    yield Damage("own error first", own, "", TOLD)
    yield Damage("the other dialect's error first", other, "", TOLD)


def empty(spoken: Spoken) -> Iterator[Damage]:
    """Nothing at all under status 200: an error with a status of its own."""
    none = "upstream_empty"
    yield Damage("empty", b"", "", none)
    yield Damage("comments only", b": one\n\n: two\n\n", "", none)
    yield Damage("only a BOM", b"\xef\xbb\xbf", "", none)
    yield Damage("only fields without data", b"retry: 1\n\nid: 7\n\ndata:\n\n", "", none)
    if spoken is ANTHROPIC:
        yield Damage("pings only", PING + PING, "", none)
    page, answer = b"<!doctype html><title>blocked</title>", b'{"choices":[]}'
    other = "upstream_not_a_stream"
    yield Damage("HTML", page, "", other, kind="text/html; charset=utf-8")
    yield Damage("JSON", answer, "", other, kind="application/json")
    yield Damage("no kind", spoken.data, "", other, kind="text/plain")
