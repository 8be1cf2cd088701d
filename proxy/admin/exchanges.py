"""`/admin/exchanges`: which exchanges finished lately, which failed, which were slowest.
`/admin/exchanges/ID`: one of them, with where its time went. Of several workers the one that is
asked tells of its own in a list; for one that it does not know it asks the others.

All texts in an answer are safe to show as text: they are cut and masked as in the access log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import orjson
from aiohttp import web

from proxy.admin.answers import Refused, as_json, limit, refusing
from proxy.core.record import Record
from proxy.observe.access_log import fields
from proxy.observe.exchanges import Exchanges, Kept
from proxy.observe.stages import stages

_PATH: Final = "/admin/exchanges"
_KINDS: Final = ("recent", "slowest", "failed")
_LONGEST_ID: Final = 64
"""Characters of the longest request id there is."""
_MOST: Final = 1000
_USUAL: Final = 50
_SUMMARY: Final = (
    *("request_id", "time", "kind", "route", "requested_model", "served_model", "endpoint"),
    *("stream", "status", "outcome", "stage", "ttfb_s", "ttft_s", "first_content_s"),
    *("duration_s", "attempt_count", "trace_id", "error"),
)
"""Fields of the log line that a list has too; of these `time` differs."""


Elsewhere = Callable[[str], Awaitable[bytes | None]]
"""What another worker says of an exchange: what `for_another` made of it there."""


def routes(exchanges: Exchanges, elsewhere: Elsewhere) -> list[web.AbstractRouteDef]:
    """For GET and HEAD."""
    shown = _Shown(exchanges, elsewhere)
    return [
        web.get(_PATH, refusing(shown.several)),
        web.get(_PATH + "/{id}", refusing(shown.one)),
    ]


def for_another(exchanges: Exchanges, request_id: str) -> bytes:
    """One exchange in full, for another worker; nothing if it is not remembered here."""
    kept = exchanges.find(request_id)
    return b"" if kept is None else orjson.dumps(detail(kept))


def summary(kept: Kept) -> dict[str, Any]:
    """One exchange in a list. Times are seconds, `time` since the epoch; null is not known."""
    return _summary(kept, fields(kept.record, kept.time))


def _summary(kept: Kept, told: Mapping[str, Any]) -> dict[str, Any]:
    """`told`: the fields of its log line."""
    return {
        **{name: told[name] for name in _SUMMARY},
        "time": round(kept.time, 3),
        "stages": [[stage, _seconds(span)] for stage, span in stages(kept.record)],
    }


def detail(kept: Kept) -> dict[str, Any]:
    """One exchange in full: its summary, what the access log tells of it, and when each stage and
    each attempt began, in seconds since the request came. `time` is the summary's."""
    record = kept.record
    told = fields(record, kept.time)
    received = record.timeline.received
    for attempt, one in zip(told["attempts"], record.attempts, strict=True):
        attempt["start_s"] = _seconds(one.started - received)
    return told | _summary(kept, told) | {"timeline": _timeline(record)}


def _timeline(record: Record) -> list[dict[str, Any]]:
    at, spans = 0.0, []
    for stage, span in stages(record):
        spans.append({"stage": stage, "start_s": _seconds(at), "duration_s": _seconds(span)})
        at += span
    return spans


def _seconds(span: float | None) -> float | None:
    return None if span is None else round(span, 6)


class _Shown:
    """One method per path."""

    def __init__(self, exchanges: Exchanges, elsewhere: Elsewhere) -> None:
        self._exchanges = exchanges
        self._elsewhere = elsewhere

    async def several(self, request: web.Request) -> web.Response:
        kinds = request.query.getall("kind", [])
        kind = kinds[0] if kinds else _KINDS[0]
        if len(kinds) > 1 or kind not in _KINDS:
            message = f"kind must be one of {', '.join(_KINDS)}"
            raise Refused(400, "wrong_query", message, "kind")
        most = limit(request, usual=_USUAL, most=_MOST)
        match kind:
            case "slowest":
                found = self._exchanges.slowest(most)
            case "failed":
                found = self._exchanges.failed(most)
            case _:
                found = self._exchanges.recent(most)
        return as_json({"exchanges": [summary(kept) for kept in found]})

    async def one(self, request: web.Request) -> web.Response:
        request_id = request.match_info["id"]
        kept = self._exchanges.find(request_id)
        if kept is not None:
            return as_json(detail(kept))
        found = await self._elsewhere(request_id) if len(request_id) <= _LONGEST_ID else None
        if found is None:
            message = "no exchange of this id is remembered; see admin.exchanges"
            raise Refused(404, "not_found", message, "id")
        return as_json(orjson.loads(found))
