"""What is known of one exchange when it is over: the one value that `observe` reads.

All times are seconds. Metrics and the log line come from here; the path itself only marks the
`Timeline`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from proxy.core.flow.timeline import Timeline


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the upstream counted them; `partial` when the stream was cut before it said."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    partial: bool = False


class SpanIds(NamedTuple):
    """Which span of which trace: W3C ids in lower-case hex."""

    trace_id: str
    span_id: str
    parent_id: str | None
    """The span that asked for this one; None where a trace begins."""
    sampled: bool
    """It is to be exported."""


class Limited(NamedTuple):
    """Which of a caller's limits was reached."""

    what: str
    """`requests`, `tokens`, `concurrent` or `day`."""
    scope: str
    """Whose it is: `key`, this caller's, or `total`, all callers' together."""


class Remembered(NamedTuple):
    """What memory did for a request."""

    what: str
    """`used`: memories were told to the model. `late`: they came too late for this turn. `none`:
    there are none, or nobody can tell."""
    items: int = 0
    tokens: int = 0
    """As estimated."""
    saved: float = 0.0
    """Seconds that the first token would have been later, had it been waited for."""


@dataclass(frozen=True, slots=True)
class AttemptRecord:
    """One request to one endpoint. Times are on the timeline's clock; `None` is "not reached"."""

    endpoint: str
    model: str
    outcome: str
    status: int | None
    protocol: str | None
    """`h2` or `http/1.1`; `None` when no connection was had."""
    reused: bool
    """The connection had carried a request before; one that was only warmed had not."""
    started: float
    sent: float | None
    headers: float | None
    first_byte: float | None
    ended: float
    role: str = "first"
    """Why it was made: `first`, `retry` (the same candidate again), `failover`, `hedge`."""
    won: bool = False
    """Its answer, good or bad, is the one the client got."""
    first_token: float | None = None
    first_content: float | None = None
    usage: Usage | None = None
    """What it consumed as far as it said; for an attempt that lost, what nobody reads is billed."""
    upstream_code: str | None = None
    waited: float = 0.0
    """Seconds in the queue of admission before it began."""
    span: SpanIds | None = None
    """None when tracing is off. Of a shared answer it is in the trace of who asked first."""


@dataclass(frozen=True, slots=True)
class Record:
    """One finished exchange."""

    request_id: str
    kind: str
    """`chat`, `models` or `passthrough`; where a route asks for it `responses`, `socket`, `streams`
    or `memory`; `unknown` for a path that is none of ours."""
    dialect: str
    """`openai` or `anthropic`."""
    method: str
    path: str
    """The path as matched, without query; never used as a metric label."""
    route: str
    """The route's name; `default` when no rule matched, `none` when it came to no choice."""
    requested_model: str | None
    served_model: str | None
    endpoint: str | None
    stream: bool
    status: int | None
    """The status the client got; `None` when it left before one was sent."""
    outcome: str
    """`completed`, `client_gone`, `upstream_failed` (it told an error) or an error's code."""
    stage: str
    """How far it came: `reading`, `routing`, `admission`, `pausing`, `connecting`, `waiting`,
    `streaming` or `done`."""
    timeline: Timeline
    attempts: tuple[AttemptRecord, ...]
    usage: Usage | None
    finish_reason: str | None
    error: str | None
    """What the client was told went wrong, in words of ours; None when nothing did."""
    upstream_code: str | None
    """The upstream's own error code (`1302`, …) when it gave one."""
    request_bytes: int
    response_bytes: int
    key_fingerprint: str | None
    """12 hex digits of a keyed hash of the caller's key, made with a key of this process; of a
    virtual key its name and id, `team-a/k3v9x0q1w2e3`."""
    heartbeats: int = 0
    refused: str | None = None
    """Why the caller was not let in: `missing`, `wrong`, `expired`, `revoked` or `scope`."""
    limited: Limited | None = None
    """The limit that it was refused by."""
    reason: str | None = None
    """Why this candidate was first, in one word: see `proxy.core.policy.choice`."""
    changes: tuple[str, ...] = ()
    """What the route changed in the request: `model`, `thinking=disabled`, `-tools`."""
    predicted: float | None = None
    """Seconds to first content that were expected of the candidate chosen first."""
    decisions: tuple[str, ...] = ()
    """What was decided about attempts, in order: `hedge_started`, `hedge_denied_budget`, …"""
    shared: bool = False
    """It read an answer that another identical request had asked for."""
    carrier: str = "http"
    """What carried it: `http`, or `websocket` for a chat on one."""
    memory: Remembered | None = None
    """None where its route remembers nothing."""
    cache: str | None = None
    """`hit`, `miss` or `bypass`; None where its route caches nothing."""
    left: str | None = None
    """What became of the answer after its client left: `drained` (read to its end), `kept` (and can
    be fetched), `gave_up` (the time for it was over)."""
    span: SpanIds | None = None
    """None when tracing is off."""
    answer_span: SpanIds | None = None
    """Where the answer is shared: the attempt, in the trace of who asked first, that brought it."""

    @property
    def trace_id(self) -> str | None:
        """32 hex digits; None when tracing is off."""
        return None if self.span is None else self.span.trace_id

    @property
    def duration(self) -> float:
        """received -> finished."""
        finished = self.timeline.finished
        return 0.0 if finished is None else finished - self.timeline.received

    @property
    def ttfb(self) -> float | None:
        """received -> status and first bytes written to the client."""
        return self._since_received(self.timeline.committed)

    @property
    def ttft(self) -> float | None:
        """received -> first model token of any kind; of streams: a whole answer has no first."""
        return self._since_received(self.timeline.first_token) if self.stream else None

    @property
    def first_content(self) -> float | None:
        """received -> first visible token or tool-call delta: what the 5 s target is stated on.

        Of streams. An answer that is put together here (`stream.upgrade`) is seen at its end, or
        not at all."""
        return self._since_received(self.timeline.first_content) if self.stream else None

    @property
    def overhead(self) -> float | None:
        """Ours alone: up to the first attempt, from an attempt's start to its send, and from what
        the answer began with to the commit. Waiting for a place, and attempts that led to
        nothing, are not."""
        answering = next((one for one in self.attempts if one.won), None)
        if answering is None:
            return overhead(self.timeline, 0.0)
        begun = self.attempts[0]
        return overhead(self.timeline, answering.started - begun.started + begun.waited)

    def _since_received(self, mark: float | None) -> float | None:
        return None if mark is None else mark - self.timeline.received


def overhead(timeline: Timeline, elsewhere: float) -> float | None:
    """A record's `overhead`, as soon as the answer is committed; None: it is not, or has no start.

    `elsewhere`: seconds before the answering attempt began that went into waiting for a place and
    into attempts that led to nothing.
    """
    t = timeline
    first = t.first_event if t.first_event is not None else t.first_byte
    if t.sent is None or t.committed is None or first is None:
        return None
    if t.last_event is not None and t.last_event <= t.committed:
        first = t.last_event  # of an answer that is put together here
    elif t.first_token is not None and t.first_token <= t.committed:
        first = t.first_token  # what only opened the answer was held back until then
    after = max(t.committed - first, 0.0)  # an early commit is before all that came
    return t.sent - t.received - elsewhere + after
