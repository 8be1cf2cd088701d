"""What becomes known of an exchange while it lives; at the end, its `Record`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from proxy.allowance import Share
from proxy.core.flow.timeline import Timeline
from proxy.core.policy.access import Caller
from proxy.core.policy.limits import TOTAL
from proxy.core.policy.route import SWITCHED, Candidate, Route
from proxy.core.policy.spent import estimated
from proxy.core.record import AttemptRecord, Limited, Record, SpanIds, Usage
from proxy.core.wire import headers as policy
from proxy.core.wire.dialect import Dialect
from proxy.core.wire.target import Kind, Target
from proxy.core.wire.trace import Trace
from proxy.errors import ClientGone, ProxyError
from proxy.memory.recall import Recall
from proxy.net.attempt import Attempt
from proxy.net.halves import Client
from proxy.net.passthrough import Answer
from proxy.pursuit import Pursuit

_PASSED: Final = (Kind.PASSTHROUGH, Kind.SOCKET)


class Running(NamedTuple):
    """An exchange that runs, as far as it has come."""

    request_id: str
    requested_model: str | None
    route: str | None
    """None until there is a choice."""
    endpoint: str | None
    """Of the attempt that is asked, or answers."""
    stage: str
    """As in its record."""
    received: float
    """On the clock of its timeline."""


@dataclass(slots=True)
class Facts:
    """Filled in by `proxy.exchange` as it goes; nothing here decides anything."""

    id: str
    timeline: Timeline
    """The exchange's own, until an attempt answers: then that attempt's."""
    dialect: Dialect
    trace: Trace | None = None
    """None when tracing is off."""
    target: Target | None = None
    model: str | None = None
    """The model that was asked for."""
    stream: bool = False
    route: Route | None = None
    pursuit: Pursuit | None = None
    passed: Answer | None = None
    passed_to: Candidate | None = None
    passed_span: SpanIds | None = None
    usage: Usage | None = None
    finish_reason: str | None = None
    upstream_code: str | None = None
    error: str | None = None
    caller: Caller | None = None
    """None until it is known who asks."""
    refused: str | None = None
    """Why the caller was not let in: see `proxy.core.policy.access.Reason`."""
    share: Share | None = None
    """What it took of its caller's limits, or was refused; None: there are none."""
    rate: Sequence[tuple[str, str]] = ()
    """Response headers that tell what is left of them."""
    status: int | None = None
    stage: str = "reading"
    outcome: str = ClientGone.code
    """Until something else is known: cancelled from outside means that the client left."""
    heartbeats: int = 0
    """Comments written while the answer was silent."""
    left: str | None = None
    """What became of the answer after its client left: see `Record.left`."""
    shared: bool = False
    """It found the flight of an identical request under way, and has its answer."""
    on_interrupt: Callable[[ProxyError], None] | None = None
    """How what is neither pursued nor shared is ended, when the proxy stops."""
    recall: Recall | None = None
    """None where its route remembers nothing."""
    cache: str | None = None
    """`hit`, `miss` or `bypass`; None where its route caches nothing, or was not asked yet."""
    cached_model: str | None = None
    """That was asked for the answer which is told again."""
    cache_age: int | None = None
    """Seconds since that came."""
    accounts: bool = True
    """Its record tells of the attempts and of what they cost: one of those who share does."""

    def join(self) -> list[tuple[str, str]] | None:
        """What is passed through becomes a span of the trace. The headers that say so upstream."""
        if self.trace is None:
            return None
        self.passed_span = self.trace.child()
        return self.trace.headers(self.passed_span)

    def follow(self, attempt: Attempt) -> None:
        """Take over the marks of an attempt that is not this exchange's alone.

        What was reached before this request was understood is reached then. Where another record
        tells of the attempts, or others were asked before, nothing was sent for this one.
        """
        own, came = self.timeline, attempt.timeline
        begun = own.parsed or own.received
        own.sent = None if self.shared or not self.accounts else attempt.sent
        own.headers = _not_before(begun, attempt.headers_at)
        own.first_byte = _not_before(begun, attempt.first_byte)
        own.first_event = _not_before(begun, came.first_event)
        own.first_token = _not_before(begun, came.first_token)
        own.first_content = _not_before(begun, came.first_content)

    @property
    def served_by(self) -> Candidate | None:
        """The candidate whose answer the client gets, as far as that is known."""
        if self.pursuit is None:
            return self.passed_to
        lane = self.pursuit.current
        return None if lane is None else lane.candidate

    @property
    def reason(self) -> str | None:
        """Why its first candidate is the first; that the model was switched says more."""
        route, pursuit = self.route, self.pursuit
        if route is None or pursuit is None or route.reason == SWITCHED:
            return None if route is None else route.reason
        return pursuit.chosen.reason

    @property
    def reached(self) -> str:
        """The stage it has come to, in the words of a record."""
        if self.stage == "pursuing" and self.pursuit is not None:
            return self.pursuit.stage
        return self.stage

    def peek(self) -> Running:
        """The exchange as it is at this moment. Changes nothing."""
        served = self.served_by
        return Running(
            request_id=self.id,
            requested_model=self.model,
            route=None if self.route is None else self.route.name,
            endpoint=None if served is None else served.endpoint.name,
            stage=self.reached,
            received=self.timeline.received,
        )

    def record(self, client: Client) -> Record:
        """The exchange as it ended."""
        target, served, pursuit, route = self.target, self.served_by, self.pursuit, self.route
        accounts = self.accounts
        attempts = pursuit.records() if pursuit is not None and accounts else []
        if target is not None and target.kind in _PASSED and served is not None:
            attempts.append(self._passed_record(served))
        return Record(
            request_id=self.id,
            kind="unknown" if target is None else str(target.kind),
            dialect=self.dialect.name,
            method=client.method,
            path=client.raw_path.partition("?")[0],
            route="none" if route is None else route.name,
            requested_model=self.model,
            served_model=self.cached_model if served is None else served.model or None,
            endpoint=None if served is None else served.endpoint.name,
            stream=self.stream,
            status=self.status,
            outcome=self.outcome,
            stage=self.reached,
            timeline=self.timeline,
            attempts=tuple(attempts),
            usage=self.usage if accounts else None,
            finish_reason=self.finish_reason,
            error=self.error,
            upstream_code=self.upstream_code,
            request_bytes=client.bytes_in,
            response_bytes=client.bytes_out,
            key_fingerprint=None if self.caller is None else self.caller.fingerprint,
            refused=self.refused,
            limited=self._limited(),
            heartbeats=self.heartbeats,
            reason=self.reason,
            changes=() if pursuit is None else pursuit.changes,
            predicted=None if pursuit is None or not accounts else pursuit.chosen.predicted,
            decisions=() if pursuit is None or not accounts else pursuit.decisions,
            shared=self.shared,
            carrier=client.carrier,
            left=self.left,
            memory=None if self.recall is None else self.recall.remembered,
            cache=self.cache,
            span=None if self.trace is None else self.trace.ids,
            answer_span=self._answer_span(),
        )

    def spent(self, client: Client) -> int:
        """Tokens that the exchange took, of all its attempts. Of those that share an answer one
        pays. Of what is passed through nothing is understood: there what was sent counts, but for
        forms, which bring files."""
        if self.share is None or not self.accounts:
            return 0
        if self.pursuit is not None:
            return sum(lane.spent(self.share.expected) for lane in self.pursuit.lanes)
        if self.passed is None or self.passed.head.status >= 400:
            return 0
        return 0 if policy.is_form(client.headers()) else estimated(client.bytes_in)

    def _limited(self) -> Limited | None:
        refused = None if self.share is None else self.share.taken.refused
        if refused is None:
            return None
        return Limited(refused.what, "total" if refused.subject == TOTAL else "key")

    def _answer_span(self) -> SpanIds | None:
        """Of an attempt that another exchange made, whose answer this one had too."""
        lane = None if self.pursuit is None or not self.shared else self.pursuit.current
        return None if lane is None else lane.span

    def _passed_record(self, candidate: Candidate) -> AttemptRecord:
        """What is passed through is one attempt too; a client that left cancelled it."""
        timeline, passed, outcome = self.timeline, self.passed, self.outcome
        status = None if passed is None else passed.head.status
        if outcome == ClientGone.code:
            outcome = "cancelled"
        elif outcome == "completed" and status is not None and status >= 400:
            outcome = "upstream_failed"
        return AttemptRecord(
            endpoint=candidate.endpoint.name,
            model=candidate.model,
            outcome=outcome,
            status=status,
            protocol=None if passed is None else passed.protocol,
            reused=passed is not None and passed.reused,
            started=timeline.parsed or timeline.received,
            sent=timeline.sent,
            headers=timeline.headers,
            first_byte=None,
            ended=timeline.finished or timeline.received,
            won=True,
            span=self.passed_span,
        )


def _not_before(begun: float, mark: float | None) -> float | None:
    return None if mark is None else max(mark, begun)
