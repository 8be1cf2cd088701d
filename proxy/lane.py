"""One attempt with all that hangs on it: its candidate, its place in admission, what it taught.

Whatever a lane took is given back once, in `close`, however its attempt ended.
"""

from __future__ import annotations

from typing import Final

from proxy.core.policy.course import Start
from proxy.core.policy.health import Shape, Ticket, Vitals
from proxy.core.policy.outcome import Outcome
from proxy.core.policy.retry import OWN_LIMIT, Failure, Verdict, judge
from proxy.core.policy.route import Candidate
from proxy.core.policy.spent import estimated, spent
from proxy.core.record import AttemptRecord, SpanIds, Usage
from proxy.core.wire.answers import error_message
from proxy.core.wire.dialect import Answer, Dialect, is_json
from proxy.core.wire.trace import Trace
from proxy.errors import (
    ClientGone,
    ConnectFailed,
    ConnectTimeout,
    FirstTokenTimeout,
    HeadersTimeout,
    IdleTimeout,
    NotAStream,
    ProxyError,
    StreamCut,
    TotalTimeout,
    UpstreamDead,
)
from proxy.net.admission import Permit
from proxy.net.attempt import Attempt

_UNREACHABLE: Final = (ConnectFailed, HeadersTimeout, UpstreamDead)
_TELLING: Final = 0.5
"""Seconds. A client that leaves sooner says nothing of how long an answer takes."""
_SILENT: Final = (FirstTokenTimeout, HeadersTimeout)


class Lane:
    """Made by `proxy.pursuit`, run by `proxy.net.race`."""

    __slots__ = (
        "_finished",
        "_hasty",
        "_measured",
        "_only",
        "_shape",
        "_ticket",
        "_told",
        "alone",
        "answer",
        "attempt",
        "candidate",
        "code",
        "error",
        "is_probe",
        "permit",
        "span",
        "start",
        "verdict",
        "vitals",
        "waited",
        "won",
    )

    def __init__(
        self,
        start: Start,
        candidate: Candidate,
        vitals: Vitals,
        shape: Shape | None,
        *,
        only: bool,
        hasty: bool,
    ) -> None:
        """`shape`: of the request; None where nobody will ask how long such a one takes. `only`:
        there is no other candidate. `hasty`: the caller set the deadlines."""
        self.start = start
        self.candidate = candidate
        self.vitals = vitals
        self.attempt: Attempt | None = None
        """None until it has a place: before that nothing was asked of anybody."""
        self.permit: Permit | None = None
        self.waited = 0.0
        """Seconds in the queue of admission."""
        self.span: SpanIds | None = None
        self.answer: Answer | None = None
        """What a whole answer says of itself."""
        self.error: ProxyError | None = None
        """Why there is no answer; None when the upstream's own error is the answer."""
        self.code = ""
        """The name of its failure: the upstream's code, or ours."""
        self.verdict: Verdict | None = None
        """What its failure means; None while it has not failed."""
        self.alone = False
        """Nothing else of ours ran on its key when it failed."""
        self.won = False
        self._shape = shape
        self._only = only
        self._hasty = hasty
        self._finished = False
        self.is_probe = False
        """It is the one attempt that tells whether its candidate has recovered."""
        self._ticket: Ticket | None = None
        self._told = False
        self._measured = False

    @property
    def has_failed(self) -> bool:
        return self.verdict is not None

    @property
    def upstream_code(self) -> str | None:
        """The upstream's own code, where it told an error."""
        pipe = None if self.attempt is None else self.attempt.pipe
        if pipe is not None and pipe.upstream_code is not None:
            return pipe.upstream_code
        return self.code if self.has_failed and self.error is None else None

    def read_failure(self, dialect: Dialect, *, streams: bool) -> Failure | None:
        """How the attempt failed before anything of it reached the client; None: it has not.

        Asked once, when the attempt has something to say: `answer`, or `error`, is set by it.
        `streams`: the client can be shown nothing but a stream.
        """
        attempt = self.attempt
        if attempt is None or self.error is not None:
            return self._failure()
        pipe, head = attempt.pipe, attempt.head
        assert head is not None
        if attempt.is_stream:
            assert pipe is not None
            return self._failure(pipe.upstream_code) if pipe.failed_early else None
        body = attempt.body
        self.answer = dialect.read_answer(body)
        if head.status >= 300 or self.answer.failed:
            return self._failure(dialect.error_code(body), error_message(body))
        if streams or (pipe is not None and not is_json(body)):
            self.error = NotAStream(
                "a stream was asked for; the upstream answered 200 with something else"
            )
        elif head.status == 200 and not is_json(body):
            # Without a length its cut is invisible to HTTP (RFC 9112 §6.3); its JSON shows it.
            self.error = StreamCut("the upstream's answer is not whole JSON")
        else:
            return None
        return self._failure()

    def _failure(self, code: str | None = None, message: str | None = None) -> Failure:
        attempt = self.attempt
        head = None if attempt is None else attempt.head
        return Failure(
            error=self.error,
            status=None if head is None else head.status,
            code=None if code is None else code.strip(),
            message=message,
            retry_after=None if head is None else _value(head.headers, b"retry-after"),
            reused=attempt is not None and attempt.reused,
            answered=head is not None,
        )

    def join(self, trace: Trace | None) -> list[tuple[str, str]] | None:
        """The attempt becomes a span of `trace`. The headers that tell its upstream so."""
        if trace is None:
            return None
        self.span = trace.child()
        return trace.headers(self.span)

    # --- what it teaches -------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """The attempt is about to be made."""
        if self._shape is not None:
            self._ticket = self.vitals.begin(self._shape, now)

    def claim(self, now: float) -> None:
        """The attempt will be made: nobody else may probe the candidate."""
        breaker = self.vitals.breaker
        self.is_probe = breaker is not None and breaker.start(now)

    def blame(self, outcome: Outcome, now: float, roll: float) -> None:
        """Tell what its end says of the candidate.

        Where there is only one candidate, an answer that is merely damaged closes nothing: it is
        still the best there is. A deadline of the caller's own says nothing of anybody.
        """
        if self._only and outcome is Outcome.FAILURE and not self._is_unreachable():
            outcome = Outcome.NEUTRAL
        if self._hasty and self.attempt is not None and self.attempt.outcome in _DEADLINES:
            outcome = Outcome.NEUTRAL
        self._tell(outcome, now, roll)
        self.measure(now)

    def praise(self, now: float, roll: float) -> None:
        """It has something to say."""
        self._tell(Outcome.SUCCESS, now, roll)

    def seen(self) -> None:
        """Its first content has come, or never will: nobody waits for it any more."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self.vitals.end(ticket)

    def measure(self, now: float) -> None:
        """Let the times of the answer be remembered, as far as it came."""
        attempt, shape = self.attempt, self._shape
        if self._measured or shape is None or attempt is None or attempt.pipe is None:
            self.seen()
            return
        self._measured = True
        self.seen()
        marks, begun = attempt.timeline, attempt.started
        if marks.first_token is None:
            silent = now - begun
            if isinstance(self.error, _SILENT) or (not self.has_failed and silent >= _TELLING):
                # Given up while it was silent: it would have taken longer.
                self.vitals.late(shape, silent, now)
            return
        content = marks.first_content
        self.vitals.answered(
            shape,
            marks.first_token - begun,
            None if content is None else content - begun,
            now,
        )

    def _is_unreachable(self) -> bool:
        attempt, error = self.attempt, self.error
        if error is not None:
            return isinstance(error, _UNREACHABLE) or attempt is None or attempt.head is None
        return attempt is not None and attempt.head is not None and attempt.head.status >= 500

    def _tell(self, outcome: Outcome, now: float, roll: float) -> None:
        self._told = True
        if self._shape is not None:
            self.vitals.ended(outcome, now)
        if self.vitals.breaker is not None:
            self.vitals.breaker.record(outcome, now, roll, probe=self.is_probe)
        self.is_probe = False

    # --- the end ---------------------------------------------------------------------------

    def close(self) -> None:
        """End the attempt and give its place on. Idempotent."""
        attempt = self.attempt
        if attempt is not None:
            attempt.close()
            assert attempt.closed_at is not None
            self.measure(attempt.closed_at)
        permit, self.permit = self.permit, None
        if permit is not None:
            sent = attempt is not None and attempt.sent is not None
            permit.release(refused=self.code in OWN_LIMIT, sent=sent)

    def finish(self, now: float, roll: float) -> None:
        """The exchange is over: whatever was not said of the attempt is said now. Idempotent."""
        self.close()
        attempt = self.attempt
        if self._finished or attempt is None or self.has_failed:
            return
        self._finished = True
        if self.won and attempt.outcome not in _HARMLESS:
            self.blame(self._told_late(attempt), now, roll)
        elif not self._told:
            self._tell(Outcome.NEUTRAL, now, roll)

    def _told_late(self, attempt: Attempt) -> Outcome:
        """What an end after the first token says: an error of the upstream's may be the caller's
        own fault then too."""
        pipe = attempt.pipe
        if pipe is None or attempt.outcome != "upstream_failed":
            return Outcome.FAILURE
        met = judge(
            self._failure(pipe.upstream_code), again=0, roll=0.0, wall=0.0, overload_wait=0.0
        )
        return Outcome.FAILURE if met.outcome is Outcome.FAILURE else Outcome.NEUTRAL

    @property
    def _usage(self) -> Usage | None:
        """As far as the upstream said it."""
        pipe = None if self.attempt is None else self.attempt.pipe
        if pipe is not None:
            return pipe.usage
        return None if self.answer is None else self.answer.usage

    def spent(self, prompt: int) -> int:
        """Tokens that the attempt took; where nobody said how many, `prompt` for what was asked,
        and for what came of a stream one for each event. What was refused took none."""
        attempt, usage = self.attempt, self._usage
        if attempt is None or attempt.sent is None:
            return 0
        refused = self.has_failed and (self.error is None or self.error.retryable)
        if usage is None and refused and attempt.timeline.first_token is None:
            return 0
        came = attempt.timeline.events if attempt.is_stream else estimated(len(attempt.body))
        return spent(usage, prompt=prompt, came=came)

    def record(self) -> AttemptRecord:
        """The attempt as it ended."""
        attempt = self.attempt
        assert attempt is not None
        marks = attempt.timeline
        return AttemptRecord(
            endpoint=self.candidate.endpoint.name,
            model=self.candidate.model,
            outcome=attempt.outcome,
            status=None if attempt.head is None else attempt.head.status,
            protocol=attempt.protocol,
            reused=attempt.reused,
            started=attempt.started,
            sent=attempt.sent,
            headers=attempt.headers_at,
            first_byte=attempt.first_byte,
            ended=attempt.started if attempt.closed_at is None else attempt.closed_at,
            role=self.start.role,
            won=self.won,
            first_token=marks.first_token,
            first_content=marks.first_content,
            usage=self._usage,
            upstream_code=self.upstream_code,
            waited=self.waited,
            span=self.span,
        )


_DEADLINES: Final = frozenset(
    one.code
    for one in (ConnectTimeout, FirstTokenTimeout, HeadersTimeout, IdleTimeout, TotalTimeout)
)
_HARMLESS: Final = frozenset({"completed", "cancelled", ClientGone.code, TotalTimeout.code})
"""Ends of a stream that nobody is to blame for: an answer may be longer than `total`."""


def _value(headers: list[tuple[bytes, bytes]], name: bytes) -> str | None:
    return next((value.decode("latin-1") for one, value in headers if one == name), None)
