"""One line for each finished exchange, as JSON or for a terminal's reader.

JSON fields. All are always there; `null` is "not reached" or "not known". `_s` is seconds.

    time                RFC 3339, UTC, when the exchange ended
    request_id          as in the answer's `x-request-id`
    trace_id            of its trace, 32 hex digits; null when tracing is off
    sample              share of the exchanges like this one that are logged: count it 1 / sample
                        times
    kind                chat, models, passthrough; unknown: no path of ours
    dialect             openai, anthropic
    method path         without the query; long ids in a path are masked
    route               name of the rule that matched, or `default`; none: it came to no choice
    requested_model     what the client asked for
    served_model        what was sent to the upstream
    endpoint            where the answer came from
    reason              why this candidate was first, in one word
    changes             what the route changed in the request: `model`, `thinking=disabled`
    predicted_s         first content that was expected of the candidate chosen first
    decisions           about attempts, in order: `retry_overload:1305`, `hedge_started`
    shared              it read the answer to an identical request in flight
    cache               `hit`, `miss` or `bypass`; null: its route caches nothing
    carrier             what carried it: `http`, or `websocket` for a chat on one
    left                what became of the answer after its client left: drained, kept, gave_up;
                        null: it was cancelled, or nobody left
    memory              what memory did: used, late, none; null: the route remembers nothing
    memory_items memory_tokens  what of it the model was told
    memory_saved_s      how much later the first token would have been, had it been waited for
    stream              whether the answer was a stream
    status              what the client got; null: it left before
    outcome             completed, client_gone, upstream_failed or an error's code
    stage               how far it came: reading … done
    ttfb_s              received -> status and first bytes written to the client
    ttft_s              received -> first model token of any kind
    first_content_s     received -> first visible token or tool-call delta
    duration_s          received -> end
    overhead_s          of that, ours alone, before the first byte
    events              SSE events from the upstream
    gap_mean_s gap_max_s  between two events
    input_tokens output_tokens cached_tokens reasoning_tokens   as the upstream counted them
    usage_partial       the stream was cut before the count was final
    error               what the client was told went wrong, in words of ours
    finish_reason upstream_code   the upstream's own words
    request_bytes response_bytes  of the bodies
    heartbeats          comments written while the stream was silent
    key                 fingerprint of the caller's key, different in each process; of a virtual
                        key its name and id: team-a/k3v9x0q1w2e3
    refused             why the caller was not let in: missing, wrong, expired, revoked, scope
    limited             the limit that it was refused by: requests, tokens, concurrent or day, and
                        `:key` for its own or `:total` for that of all callers together
    attempt_count       requests to endpoints
    attempts            for each: endpoint, model, role (first, retry, failover, hedge), won (its
                        answer is the client's), outcome, status, upstream_code, protocol, reused,
                        waited_s (for admission, before the start), connect_s (start -> sent),
                        headers_s, first_byte_s and first_token_s (since sent), duration_s
                        (start -> end), lost_input_tokens and lost_output_tokens (of one that did
                        not win: billed and read by nobody)

Never in a line: prompt, answer, key, query string, header values.

With `log.sample` below 100 % only that share of the ordinary exchanges is logged: of those that
went well, at the first attempt, within 5 s. All others always are, with a `sample` of 1. Which
ordinary ones are chosen depends on their ids alone, so several processes agree.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final, Literal

import orjson

from proxy.core.record import AttemptRecord, Record, Remembered, Usage
from proxy.observe.lines import ByteStream, LineWriter, timestamp
from proxy.observe.objective import is_ordinary
from proxy.observe.redact import (
    PATH_LIMIT,
    assignment,
    decision,
    identifier,
    plain,
    sentence,
    word,
)

Format = Literal["json", "text", "off"]

_NO_USAGE = Usage()


class AccessLog:
    """Writes the line of each finished exchange; never blocks and never fails its caller."""

    def __init__(
        self,
        stream: ByteStream,
        form: Format = "json",
        *,
        sample: float = 1.0,
        limit: int = 10_000,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`form` `off` writes nothing; `sample` is the share of ordinary exchanges to log; at most
        `limit` lines wait; `now` is the wall clock."""
        self._lines = None if form == "off" else LineWriter(stream, limit=limit)
        self._line = text_line if form == "text" else json_line
        self.sample = sample
        """Share of the ordinary exchanges to log."""
        self._now = now

    @property
    def dropped(self) -> int:
        """Lines lost because the stream's reader did not keep up."""
        return 0 if self._lines is None else self._lines.dropped

    def finish(self, record: Record) -> None:
        """Logs one finished exchange, if it is among those to be logged."""
        if self._lines is None:
            return
        share = 1.0
        if self.sample < 1.0 and is_ordinary(record):
            share = self.sample
            if not is_sampled(record.request_id, share):
                return
        self._lines.write(self._line(record, self._now(), share))

    def close(self, timeout: float = 2.0) -> bool:
        """Waits up to `timeout` seconds for the lines to be written; says if they were."""
        return self._lines is None or self._lines.close(timeout)


def is_sampled(request_id: str, share: float) -> bool:
    """Whether the exchange of that id is among a `share` of all, the same ones in each process:
    the first 8 bytes of the id's BLAKE2b hash (RFC 7693), as a number, are below that share."""
    digest = blake2b(request_id.encode(errors="replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * _HASHES


_HASHES: Final = 2.0**64


def json_line(record: Record, now: float, sample: float = 1.0) -> bytes:
    """The line as JSON; `now` is the wall clock in seconds since the epoch."""
    return orjson.dumps(fields(record, now, sample), option=orjson.OPT_APPEND_NEWLINE)


def fields(record: Record, now: float, sample: float = 1.0) -> dict[str, Any]:
    """The line's fields, all safe to show."""
    timeline = record.timeline
    usage = record.usage or _NO_USAGE
    return {
        "time": timestamp(now),
        "request_id": identifier(record.request_id),
        "trace_id": record.trace_id,
        "sample": sample,
        "kind": record.kind,
        "dialect": record.dialect,
        "method": plain(record.method),
        "path": plain(record.path, PATH_LIMIT),
        "route": record.route,
        "requested_model": plain(record.requested_model),
        "served_model": plain(record.served_model),
        "endpoint": record.endpoint,
        "reason": record.reason,
        "changes": [assignment(change) for change in record.changes],
        "predicted_s": _seconds(record.predicted),
        "decisions": [decision(one) for one in record.decisions],
        "shared": record.shared,
        "carrier": record.carrier,
        "cache": record.cache,
        "left": record.left,
        **_memory(record.memory),
        "stream": record.stream,
        "status": record.status,
        "outcome": record.outcome,
        "stage": record.stage,
        "ttfb_s": _seconds(record.ttfb),
        "ttft_s": _seconds(record.ttft),
        "first_content_s": _seconds(record.first_content),
        "duration_s": _seconds(record.duration),
        "overhead_s": _seconds(record.overhead),
        "events": timeline.events,
        "gap_mean_s": _seconds(timeline.gap_sum / timeline.gaps) if timeline.gaps > 0 else None,
        "gap_max_s": _seconds(timeline.gap_max) if timeline.gaps > 0 else None,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "usage_partial": usage.partial,
        "finish_reason": word(record.finish_reason),
        "error": None if record.error is None else sentence(record.error),
        "upstream_code": word(record.upstream_code),
        "request_bytes": record.request_bytes,
        "response_bytes": record.response_bytes,
        "heartbeats": record.heartbeats,
        "key": record.key_fingerprint,
        "refused": record.refused,
        "limited": None if record.limited is None else ":".join(record.limited),
        "attempt_count": len(record.attempts),
        "attempts": [_attempt(attempt) for attempt in record.attempts],
    }


def text_line(record: Record, now: float, sample: float = 1.0) -> bytes:
    """The line for a person: what was asked, where it went, what it took; absent parts left out."""
    asked, served = plain(record.requested_model), plain(record.served_model)
    usage = record.usage or _NO_USAGE
    parts = [
        timestamp(now),
        "---" if record.status is None else str(record.status),
        record.outcome,
        plain(record.method),
        plain(record.path, PATH_LIMIT),
        asked if asked == served or served is None else f"{asked or ''}>{served}",
        record.endpoint,
        f"reason={record.reason}" if record.reason is not None else None,
        "shared" if record.shared else None,
        None if record.carrier == "http" else record.carrier,
        None if record.left is None else f"left={record.left}",
        None if record.cache is None else f"cache={record.cache}",
        None if record.memory is None else f"memory={record.memory.what}",
        _span("ttfb", record.ttfb),
        _span("ttft", record.ttft),
        _span("content", record.first_content),
        _span("total", record.duration),
        f"events={record.timeline.events}" if record.timeline.events else None,
        f"in={usage.input_tokens}" if usage.input_tokens is not None else None,
        f"out={usage.output_tokens}" if usage.output_tokens is not None else None,
        f"attempts={_roles(record.attempts)}" if len(record.attempts) > 1 else None,
        f"stage={record.stage}" if record.outcome != "completed" else None,
        f"upstream={word(record.upstream_code)}" if record.upstream_code else None,
        f"sample={sample:g}" if sample < 1.0 else None,
        f"id={identifier(record.request_id)}",
        f"trace={record.trace_id}" if record.trace_id is not None else None,
        f"error={sentence(record.error)!r}" if record.error is not None else None,
    ]
    return (" ".join(part for part in parts if part) + "\n").encode()


def _roles(attempts: tuple[AttemptRecord, ...]) -> str:
    """`first,hedge*`: the attempts in order, a star at the one that answered."""
    return ",".join(f"{one.role}*" if one.won else one.role for one in attempts)


def _memory(memory: Remembered | None) -> dict[str, Any]:
    what, items, tokens, saved = (None, None, None, None) if memory is None else memory
    return {
        "memory": what,
        "memory_items": items,
        "memory_tokens": tokens,
        "memory_saved_s": _seconds(saved),
    }


def _attempt(attempt: AttemptRecord) -> dict[str, Any]:
    sent = attempt.sent
    lost = _NO_USAGE if attempt.won or attempt.usage is None else attempt.usage
    return {
        "endpoint": attempt.endpoint,
        "model": plain(attempt.model),
        "role": attempt.role,
        "won": attempt.won,
        "outcome": attempt.outcome,
        "status": attempt.status,
        "upstream_code": word(attempt.upstream_code),
        "protocol": attempt.protocol,
        "reused": attempt.reused,
        "waited_s": _seconds(attempt.waited),
        "connect_s": _between(attempt.started, sent),
        "headers_s": _between(sent, attempt.headers),
        "first_byte_s": _between(sent, attempt.first_byte),
        "first_token_s": _between(sent, attempt.first_token),
        "duration_s": _between(attempt.started, attempt.ended),
        "lost_input_tokens": lost.input_tokens,
        "lost_output_tokens": lost.output_tokens,
    }


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else _seconds(end - start)


def _seconds(span: float | None) -> float | None:
    """Whole microseconds: the clock knows no more, and the line gets shorter."""
    return None if span is None else round(span, 6)


def _span(name: str, span: float | None) -> str | None:
    return None if span is None else f"{name}={span:.3f}s"
