"""READ THIS FIRST: the life of one exchange, one client request and everything done for it.

    read, parse            -> ChatRequest      400, 404, 405, 408, 413: told in the client's dialect
    plan                   -> Route            rules and capabilities: which model, which endpoint
    race to a first event  -> Attempt          502, 503, 504, or the upstream's own error
    ======== commit point: status and first events go to the client ==========================
    stream                 -> outcome          the attempt writes; nothing here wakes per event
    finally                                    attempts closed, one Record finished

Above the commit point a failure is a status, and an attempt may be replaced. Below it nothing is
ever replaced: a failure is one error event in the client's dialect and an end that cannot be taken
for a whole answer. The client leaving cancels this code wherever it is; `finally` does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from proxy.core.flow.metadata import Annotated
from proxy.core.flow.pipe import Pipe
from proxy.core.flow.timeline import Timeline
from proxy.core.policy.rewrite import rewrite
from proxy.core.policy.route import Candidate, Route
from proxy.core.record import AttemptRecord, Record, Usage
from proxy.core.wire import headers as policy
from proxy.core.wire.answers import error_body, masked
from proxy.core.wire.dialect import is_json
from proxy.core.wire.request import ChatRequest, parse
from proxy.core.wire.target import Kind, Target, dialect_of, resolve
from proxy.errors import (
    ClientGone,
    InternalError,
    MethodNotAllowed,
    NotAStream,
    ProxyError,
    StreamCut,
)
from proxy.house import House
from proxy.net.attempt import Attempt
from proxy.net.downstream import Client, Headers
from proxy.net.passthrough import Answer, passthrough
from proxy.net.race import first_answer


class Exchange:
    """One client request, from its head to its record."""

    def __init__(self, house: House, client: Client) -> None:
        self._house = house
        self._client = client
        self._timeline = Timeline(house.clock())
        self._headers = client.headers()
        self._id = policy.request_id(self._headers, house.new_id)
        self._dialect = house.dialects["openai"]
        self._target: Target | None = None
        self._asked_model: str | None = None
        self._asked_stream = False
        self._route: Route | None = None
        self._candidate: Candidate | None = None
        self._attempts: list[tuple[Candidate, Attempt]] = []
        self._changes: tuple[str, ...] = ()
        self._passed: Answer | None = None
        self._usage: Usage | None = None
        self._finish_reason: str | None = None
        self._upstream_code: str | None = None
        self._error: str | None = None
        self._key: str | None = None
        self._status: int | None = None
        self._stage = "reading"
        self._interrupted: str | None = None
        self._outcome = ClientGone.code
        """Until something else is known: cancelled from outside means that the client left."""

    async def run(self) -> None:
        """Live it. Every failure is told to the client here; only cancellation leaves."""
        house = self._house
        try:
            await self._live()
        except ProxyError as error:
            self._fail(error)
        except Exception:  # the top of an exchange: a defect of ours must not look like an end
            house.broke(self._id)
            self._fail(InternalError("the proxy failed; its log says why under this request id"))
        finally:
            self._finish()

    async def _live(self) -> None:
        client, house = self._client, self._house
        self._dialect = house.dialects[dialect_of(client.raw_path)]
        target = self._target = resolve(client.method, client.raw_path)
        self._dialect = house.dialects[target.dialect]
        self._key = policy.caller_key(self._headers)  # two that differ are refused here
        if target.kind is Kind.MODELS:
            models = house.models(policy.names_anthropic(self._headers))
            self._answer(200, [policy.JSON], models)
        elif target.kind is Kind.PASSTHROUGH:
            await self._pass(target)
        else:
            await self._chat(target)

    # --- chat ------------------------------------------------------------------------------

    async def _chat(self, target: Target) -> None:
        attempt, route = await self._first_answer(target)
        self._timeline.sent = attempt.sent
        self._timeline.headers = attempt.headers_at
        self._timeline.first_byte = attempt.first_byte
        if attempt.is_stream:
            await self._stream(attempt, route)
        else:
            self._whole(attempt)

    async def _first_answer(self, target: Target) -> tuple[Attempt, Route]:
        """The attempt that has something to say. The request, which may be large, ends here."""
        client, house, server = self._client, self._house, self._house.config.server
        policy.refuse_encoded(self._headers)
        body = await client.read_body(limit=server.body_limit, timeout=server.body_timeout)
        request = parse(body, dialect=target.dialect)
        self._asked_model, self._asked_stream = request.model, request.stream
        self._timeline.parsed = house.clock()
        self._stage = "routing"
        route = self._route = house.router.plan(request, target, _lower(self._headers))
        return await first_answer(lambda: self._start(request, target, route)), route

    async def _start(self, request: ChatRequest, target: Target, route: Route) -> Attempt:
        """One attempt at the first candidate, on its way."""
        candidate = self._candidate = route.candidates[0]
        house = self._house
        endpoint = candidate.endpoint
        capability = house.capabilities.of(candidate.model)
        rewritten = rewrite(request, candidate.model, route.params, capability)
        self._changes = rewritten.changes
        outgoing = house.outgoing(
            target,
            endpoint,
            self._client.method,
            self._headers,
            rewritten.body,
            request_id=self._id,
        )
        pipe = Pipe(self._dialect, route.stream, self._timeline) if request.stream else None
        attempt = Attempt(pipe, self._timeline, house.limits(route))
        self._attempts.append((candidate, attempt))
        self._stage = "connecting"
        try:
            await house.upstreams[endpoint.name].open(outgoing, attempt)
        except ProxyError as error:
            attempt.fail(error)  # it has no stream that could tell it
            raise
        self._stage = "waiting"
        return attempt

    async def _stream(self, attempt: Attempt, route: Route) -> None:
        """Commit, then sleep until the stream is over."""
        client, pipe = self._client, attempt.pipe
        assert pipe is not None
        assert attempt.head is not None
        headers = policy.to_client(attempt.head.headers, stream=True) + self._added(stream=True)
        # ======== commit point ==================================================================
        client.open(headers)
        self._status = 200
        self._timeline.committed = self._house.clock()
        self._stage = "streaming"
        client.on_flow = attempt.flow
        error = await attempt.stream_into(self._writer(route), client)
        if error is not None:
            raise error
        if pipe.ended:
            self._outcome = "completed"
            self._stage = "done"
        else:  # the upstream told its own error in the stream: the client has read it
            client.cut([])
        if pipe.failed:
            self._outcome = "upstream_failed"
            self._upstream_code = pipe.upstream_code

    def _writer(self, route: Route) -> Callable[[list[bytes], bool], None]:
        """Where the events go; with `emit_metadata` between two comments of our own."""
        if not route.stream.emit_metadata:
            return self._client.write
        assert self._candidate is not None
        decision = {
            "request_id": self._id,
            "route": route.name,
            "reason": route.reason,
            "model": self._candidate.model,
            "endpoint": self._candidate.endpoint.name,
            "changes": self._changes,
            "attempts": len(self._attempts),
        }
        return Annotated(self._client.write, decision, lambda: self._timings(whole=True))

    def _whole(self, attempt: Attempt) -> None:
        """An answer that is no stream, or an error of the upstream."""
        head, body = attempt.head, attempt.body
        assert head is not None
        assert self._candidate is not None
        self._timeline.committed = self._house.clock()
        headers = policy.to_client(head.headers, stream=False)
        said = self._dialect.read_answer(body)
        self._usage, self._finish_reason = said.usage, said.finish_reason
        if head.status >= 300 or said.failed:
            secret = self._candidate.endpoint.api_key
            key = None if secret is None else secret.reveal()
            self._upstream_code = self._dialect.error_code(masked(body, key))
            body = error_body(self._dialect, head.status, body, api_key=key)
            self._outcome = "upstream_failed"
            status = head.status if head.status >= 400 else 502
            self._answer(status, policy.said_anew(headers, as_json=True), body)
        elif attempt.pipe is not None:
            raise NotAStream(
                "a stream was asked for; the upstream answered 200 with something else"
            )
        elif head.status == 200 and not is_json(body):
            # Without a length its cut is invisible to HTTP (RFC 9112 §6.3); its JSON shows it.
            raise StreamCut("the upstream's answer is not whole JSON")
        else:
            self._answer(head.status, policy.said_anew(headers, as_json=False), body)

    # --- everything else -------------------------------------------------------------------

    async def _pass(self, target: Target) -> None:
        house = self._house
        self._timeline.parsed = house.clock()
        route = self._route = house.router.plan(None, target, _lower(self._headers))
        candidate = self._candidate = route.candidates[0]
        self._stage = "connecting"
        await passthrough(
            self._client,
            house.upstreams[candidate.endpoint.name],
            house.outgoing(
                target,
                candidate.endpoint,
                self._client.method,
                self._headers,
                b"",
                request_id=self._id,
            ),
            head=self._passed_head,
            total=route.timeouts.total,
        )
        self._outcome = "completed"
        self._stage = "done"

    def _passed_head(self, answer: Answer) -> Headers:
        timeline = self._timeline
        self._passed = answer
        timeline.sent = answer.sent
        timeline.headers = timeline.committed = self._house.clock()
        self._status = answer.head.status
        self._stage = "streaming"
        return policy.to_client(answer.head.headers, stream=False) + self._added(stream=False)

    # --- told to the client ----------------------------------------------------------------

    def _answer(
        self, status: int, headers: Headers, body: bytes, *, should_retry: bool | None = None
    ) -> None:
        added = self._added(stream=False, should_retry=should_retry)
        self._client.answer(status, [*headers, *added], body)
        self._status = status
        if self._outcome == ClientGone.code:
            self._outcome = "completed"
        self._stage = "done"

    def _fail(self, error: ProxyError) -> None:
        """Before the commit a status, after it an event and an end that cannot look whole."""
        self._outcome = error.code
        self._error = error.message
        if isinstance(error, ClientGone):
            return
        if self._client.response is not None:
            events = [self._dialect.error_event(error)] if self._attempts else []
            self._client.cut(events)
            return
        headers = [policy.JSON]
        if isinstance(error, MethodNotAllowed):
            headers.append((policy.ALLOW, error.allow))
        retried = len(self._attempts) > 1
        body = self._dialect.error_body(error)
        self._answer(error.status, headers, body, should_retry=False if retried else None)

    def _added(self, *, stream: bool, should_retry: bool | None = None) -> list[tuple[str, str]]:
        candidate = self._candidate
        return policy.added(
            request_id=self._id,
            model=candidate.model if candidate else None,
            endpoint=candidate.endpoint.name if candidate else None,
            attempts=len(self._attempts) or None,
            timings=self._timings(whole=False),
            stream=stream,
            should_retry=should_retry,
        )

    def _timings(self, *, whole: bool) -> list[tuple[str, float]]:
        """Stages that have been reached, seconds since the request came."""
        t = self._timeline
        marks = [("sent", t.sent), ("headers", t.headers), ("first_event", t.first_event)]
        if whole:
            marks += [("first_token", t.first_token), ("first_content", t.first_content)]
            marks += [("last_event", t.last_event)]
        return [(name, mark - t.received) for name, mark in marks if mark is not None]

    # --- the end ---------------------------------------------------------------------------

    def interrupt(self, error: ProxyError) -> None:
        """End it now for `error`; its client is told, when an attempt is under way."""
        self._interrupted = error.code
        for _, attempt in self._attempts:
            attempt.fail(error)

    def _finish(self) -> None:
        for _, attempt in self._attempts:
            attempt.close()
        if self._interrupted is not None and self._outcome == ClientGone.code:
            self._outcome = self._interrupted  # cancelled, but not by the client
        self._timeline.finished = self._house.clock()
        self._house.finish(self._record())

    def _record(self) -> Record:
        target, candidate = self._target, self._candidate
        last = self._attempts[-1][1] if self._attempts else None
        pipe = last.pipe if last is not None else None
        return Record(
            request_id=self._id,
            kind="unknown" if target is None else str(target.kind),
            dialect=self._dialect.name,
            method=self._client.method,
            path=self._client.raw_path.partition("?")[0],
            route="none" if self._route is None else self._route.name,
            requested_model=self._asked_model,
            served_model=None if candidate is None else candidate.model or None,
            endpoint=None if candidate is None else candidate.endpoint.name,
            stream=self._asked_stream,
            status=self._status,
            outcome=self._outcome,
            stage=self._stage,
            timeline=self._timeline,
            attempts=tuple(self._attempt_records()),
            usage=pipe.usage if pipe is not None else self._usage,
            finish_reason=pipe.finish_reason if pipe is not None else self._finish_reason,
            error=self._error,
            upstream_code=self._upstream_code,
            request_bytes=self._client.bytes_in,
            response_bytes=self._client.bytes_out,
            key_fingerprint=None if self._key is None else self._house.fingerprint(self._key),
            heartbeats=sum(attempt.heartbeats for _, attempt in self._attempts),
        )

    def _attempt_records(self) -> Iterator[AttemptRecord]:
        for candidate, attempt in self._attempts:
            yield attempt.record(candidate.endpoint.name, candidate.model)
        target, chosen = self._target, self._candidate
        if target is not None and target.kind is Kind.PASSTHROUGH and chosen is not None:
            yield self._passed_record(chosen)

    def _passed_record(self, candidate: Candidate) -> AttemptRecord:
        """What is passed through is one attempt too; a client that left cancelled it."""
        timeline, passed, outcome = self._timeline, self._passed, self._outcome
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
        )


def _lower(headers: Headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers}
