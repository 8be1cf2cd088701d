"""Every way the simulator can make an answer go wrong, as the load asks for it.

A fault travels in the request's own body. What a body cannot ask for (an answer before it was read,
bytes that are not UTF-8, another answer at another endpoint) is a rule of the upstream's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_HANGING: Final = {
    "x-glm-proxy-timeout-headers": "1500ms",
    "x-glm-proxy-timeout-first-token": "1500ms",
    "x-glm-proxy-timeout-idle": "1200ms",
}
"""What a caller sends who does not want to wait for an upstream that hangs."""

NOTHING: Final = {"tokens": 0, "thinking_tokens": 0}
"""An answer without one token."""
_DAMAGED: Final = (
    'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
    "data: not json\n\n"
    "data:\n\n"
    "retry: 10\n\n"
    ": only a comment\n\n"
    "data: [DONE]\n\n"
)
_GARBAGE: Final = (
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nbad header\r\n\r\ndata: x\n\n"
)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault."""

    name: str
    fields: Mapping[str, Any]
    """The `simulate` field of a request."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Request headers it needs, so that nobody waits for ever."""


def _codes() -> tuple[Kind, ...]:
    said = ("500", "1200", "1210", "1234", "1261", "1301", "1303", "1305", "1312")
    heads = tuple(Kind(f"code {code}", {"code": code}) for code in said)
    events = tuple(
        Kind(f"code {code} as first event", {"code": code, "error_at_event": 0})
        for code in ("1234", "1301", "1305")
    )
    statuses = tuple(Kind(f"status {s}", {"status": s}) for s in (404, 408, 500, 502, 503, 529))
    return (*heads, *events, *statuses)


def _endings() -> tuple[Kind, ...]:
    endings = ("reset", "torn", "close", "drop", "goaway", "close_delimited", "clean")
    cuts = tuple(Kind(f"cut: {e}", {"cut_at_event": 5, "ending": e}) for e in endings)
    silent = tuple(
        Kind(f"no headers: {ending}", {"no_headers": True, "ending": ending})
        for ending in ("reset", "close", "drop", "goaway")
    )
    return (
        *cuts,
        *silent,
        Kind("no headers: hold", {"no_headers": True, "ending": "hold"}, _HANGING),
        Kind("cut inside an event", {"cut_at_byte": 777}),
        Kind("cut with another code", {"cut_at_event": 2, "ending": "reset", "reset_code": 8}),
        Kind("stall", {"stall_at_event": 4}, _HANGING),
        Kind("stall with comments", {"stall_at_event": 4, "held_comments": 0.4}, _HANGING),
        Kind("stall before the first", {"stall_at_event": 0}, _HANGING),
        Kind("shorter than it says", {"content_length": 100_000}),
    )


def _contents() -> tuple[Kind, ...]:
    reasons = ("sensitive", "network_error", "abort", "length")
    return (
        *(Kind(f"finish: {reason}", {"finish_reason": reason}) for reason in reasons),
        Kind("gave up before a word", {**NOTHING, "finish_reason": "network_error"}),
        Kind("error after events", {"error_at_event": 6}),
        Kind("error after events, 1302", {"error_at_event": 3, "code": "1302"}),
        Kind("no finish", {"no_finish": True}),
        Kind("no end event", {"no_done": True}),
        Kind("another answer glued on", {"glue_at_event": 4}),
        Kind("bytes after the end", {"after_end": "data: late\n\n"}),
        Kind("no events", {"empty": True}),
        Kind("a web page", {"html": True}),
        Kind("a web page as error", {"html": True, "status": 405}),
        Kind("damaged events", {"raw": _DAMAGED, "gap": 0.04}),
        Kind("garbage for a head", {"wire": _GARBAGE}),
        Kind("early hints", {"informational": 2}),
        Kind("a header of its own", {"headers": [["x-odd", "1"], ["retry-after", "1"]]}),
    )


def _shapes() -> tuple[Kind, ...]:
    spellings = ("bom", "crlf", "cr", "no_space", "ids")
    return (
        *(Kind(f"spelled: {one}", {"spelling": one}) for one in spellings),
        Kind("three events a write", {"events_per_write": 3}),
        Kind("buffered whole", {"events_per_write": 10_000}),
        Kind("compressed", {"gzip": "flush"}),
        Kind("compressed and held", {"gzip": "hold"}),
        Kind("pieces of events", {"write_size": 60, "drip": 0.004}),
        Kind("comments", {"comments": 2}),
        Kind("chunks without object", {"no_object": True}),
        Kind("late head", {"delay": 0.8}),
    )


KINDS: Final = (*_codes(), *_endings(), *_contents(), *_shapes())
"""All of them, each to be played many times."""

KEY_REFUSED: Final = Kind("the key has no balance left", {"code": "1113"})
"""Apart, because a key that was refused rests for minutes."""

RULES: Final[Mapping[str, tuple[str, ...]]] = {
    "north": (
        # Half of these fail here, each in its way, and go well at the other endpoint.
        "code=1305,model=glm-4.5-airx,every=8",
        "code=1234,model=glm-4.5-airx,every=7",
        "status=503,model=glm-4.5-airx,every=6",
        "no_headers,ending=reset,model=glm-4.5-airx,every=5",
        "error_at_event=0,code=1234,model=glm-4.5-airx,every=9",
        "first_token=6,model=glm-4.5-x,every=2",
        "early=16,status=413,path=*/images/generations",
        "raw=@damaged.sse,model=glm-4-plus,every=9",
    ),
    "south": ("code=1200,model=glm-4-air,every=11",),
}
"""By simulator, in the words of `glm-proxy simulate --fault`."""

NOT_UTF8: Final = b'data: {"choices":[{"delta":{"content":"\xff\xfe"}}]}\n\ndata: [DONE]\n\n'
"""What damaged.sse holds."""
