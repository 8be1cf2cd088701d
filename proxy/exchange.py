"""READ THIS FIRST: the life of one exchange, one client request and everything done for it.

    read, parse            -> ChatRequest      400, 404, 405, 408, 413: told in the client's dialect
    plan                   -> Route            rules and capabilities: which model, which endpoint
    race to a first event  -> Attempt          502, 503, 504, or the upstream's own error
    ======== commit point: status and first events go to the client ==========================
    stream                 -> outcome          the attempt writes; nothing here wakes per event
    finally                                    attempts closed, one Record finished

Where a route says `share` or `on_disconnect`, the race and the stream are those of a flight
(`proxy.flight`), which identical requests have in common and which may outlive its clients; the
page is the same.

Above the commit point a failure is a status, and an attempt may be replaced. Below it nothing is
ever replaced: a failure is one error event in the client's dialect and an end that cannot be taken
for a whole answer. The client leaving cancels this code wherever it is; `finally` does the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from proxy import reply
from proxy.asked import Asked
from proxy.cache.cached import Cached
from proxy.core.flow.fold import Fold
from proxy.core.flow.timeline import Timeline
from proxy.core.policy.access import Caller
from proxy.core.policy.deadlines import overridden
from proxy.core.policy.route import Route
from proxy.core.wire import handshake
from proxy.core.wire import headers as policy
from proxy.core.wire.request import ChatRequest, parse
from proxy.core.wire.target import Kind, Target, dialect_of, resolve
from proxy.entry import check_carrier, let_in
from proxy.errors import AnswerTooLarge, ClientGone, InternalError, ProxyError, UpstreamSaid
from proxy.facts import Facts, Running
from proxy.flight import Seat, board
from proxy.handlers import HANDLERS
from proxy.house import LARGEST_ANSWER, House
from proxy.lane import Lane
from proxy.listening import Listener, heard
from proxy.net.aside import aside
from proxy.net.attempt import Attempt
from proxy.net.early import EarlyCommit
from proxy.net.halves import Client, Headers
from proxy.passing import pass_on
from proxy.pursuit import Pursuit
from proxy.responding.serving import made


class Exchange:
    """One client request, from its head to its record."""

    def __init__(self, house: House, client: Client) -> None:
        self._house = house
        self._client = client
        self._headers = client.headers()
        self._facts = Facts(
            policy.request_id(self._headers, house.new_id),
            Timeline(house.clock()),
            house.dialects["openai"],
            None if house.tracer is None else house.tracer.begin(self._headers),
        )
        self._interrupted: str | None = None
        self._hasty = False
        """The client has set deadlines of its own."""
        self._seat: Seat | None = None
        self.on_over: Callable[[], None] | None = None
        """Called when it has its record, which may be after `run`."""
        self._listeners: list[Listener] = []

    async def run(self) -> None:
        """Live it. Every failure is told to the client here; only cancellation leaves."""
        house = self._house
        try:
            await self._live()
        except ProxyError as error:
            reply.fail(self._client, self._facts, error)
        except Exception:  # the top of an exchange: a defect of ours must not look like an end
            house.broke(self._facts.id)
            message = "the proxy failed; its log says why under this request id"
            reply.fail(self._client, self._facts, InternalError(message))
        finally:
            if not self._goes_on():
                self._finish()

    async def _live(self) -> None:
        client, house, facts = self._client, self._house, self._facts
        facts.dialect = house.dialects[dialect_of(client.raw_path)]
        client.check_head()
        serves = house.router.serves
        upgrade = Kind.SOCKET in serves and policy.wants_websocket(self._headers)
        target = facts.target = resolve(client.method, client.raw_path, serves, upgrade=upgrade)
        facts.dialect = house.dialects[target.dialect]
        if target.kind is Kind.SOCKET:
            handshake.check_origin(self._headers, house.config.websocket.origins)
            key = handshake.caller_key(self._headers)
        else:
            key = policy.caller_key(self._headers)  # two that differ are refused here
        facts.caller = house.gate.identify(key, client.peer)
        if target.kind is Kind.MODELS:
            reply.answer(client, facts, 200, [policy.JSON], self._models(facts.caller))
        elif target.kind is Kind.PASSTHROUGH:
            await pass_on(house, client, facts, target)
        elif target.kind is Kind.CHAT:
            await self._chat(target)
        elif target.kind is Kind.RESPONSES and client.method == "POST":
            self._client, target = made(house, client, facts, target, self._headers)
            await self._chat(target)
        else:
            await HANDLERS[target.kind](house, client, facts, target)

    def _models(self, caller: Caller) -> bytes:
        """Those that the caller may ask for."""
        house, now, key = self._house, self._house.wall(), caller.key_name
        names = house.gate.listed(
            caller, house.models, lambda model: house.router.usual(model, now, key).name
        )
        return house.list_models(names, anthropic=policy.names_anthropic(self._headers))

    # --- chat ------------------------------------------------------------------------------

    async def _chat(self, target: Target) -> None:
        facts = self._facts
        request, route = await self._read(target)
        if route.cache is not None:
            cached = Cached(self._house, self._client, facts, self._headers, route.cache)
            if await cached.answers(request, hasty=self._hasty):
                return
            if cached.keeper is not None:
                self._listeners.append(cached.keeper)
            route = cached.shared(route)
        lane = await self._first_answer(request, target, route)
        del request  # it may be large, and the answer long
        attempt = lane.attempt
        assert attempt is not None
        self._adopt(attempt)
        if not attempt.is_stream:
            reply.whole(self._house, self._client, facts, lane)
            if facts.outcome == "completed":
                for listener in self._listeners:
                    listener.whole(attempt.body)
        elif facts.stream:
            await self._stream(attempt, route)
        else:
            await self._folded(lane, attempt)

    async def _read(self, target: Target) -> tuple[ChatRequest, Route]:
        client, house, facts = self._client, self._house, self._facts
        server = house.config.server
        policy.refuse_encoded(self._headers)
        body = await client.read_body(limit=server.body_limit, timeout=server.body_timeout)
        read = partial(parse, body, dialect=target.dialect, depth=server.json_depth)
        request = await aside(len(body), read)
        facts.model, facts.stream = request.model, request.stream
        facts.timeline.parsed = house.clock()
        facts.stage = "routing"
        lower = _lower(self._headers)
        assert facts.caller is not None
        route = house.router.plan(request, target, lower, house.wall(), facts.caller.key_name)
        timeouts = overridden(route.timeouts, lower)
        if timeouts is not route.timeouts:
            route, self._hasty = replace(route, timeouts=timeouts), True
        facts.route = route
        check_carrier(client, route)
        await let_in(house, facts, target, route, request)
        if route.memory is not None:
            recall = house.memories.recall
            facts.recall = recall(
                route.memory, facts.caller, self._headers, request, facts.timeline.parsed
            )
            self._listeners += facts.recall.listeners
        return request, route

    async def _first_answer(self, request: ChatRequest, target: Target, route: Route) -> Lane:
        """What has something to say first. With `commit: early`, heartbeats until then."""
        client, facts = self._client, self._facts
        assert facts.caller is not None
        asked = Asked(
            id=facts.id,
            target=target,
            dialect=facts.dialect,
            method=client.method,
            headers=self._headers,
            caller=facts.caller.name,
            received=facts.timeline.received,
            streams=request.stream or route.stream.upgrade,
            wants_stream=request.stream,
            hasty=self._hasty,
            trace=facts.trace,
            recall=facts.recall,
        )
        pursuit: Pursuit | Seat
        if (route.share and request.stream) or route.on_disconnect.action != "cancel":
            pursuit = self._take_seat(route, request, asked)
        else:
            pursuit = facts.pursuit = Pursuit(self._house, route, request, asked)
        facts.stage = "pursuing"
        if route.commit != "early" or not request.stream:
            return await pursuit.first_answer()
        with EarlyCommit(client, route.stream.heartbeat, self._commit) as early:
            try:
                return await pursuit.first_answer()
            finally:
                facts.heartbeats = early.heartbeats

    def _take_seat(self, route: Route, request: ChatRequest, asked: Asked) -> Seat:
        """An identical request may be under way: then its answer is this one's too."""
        facts = self._facts
        seat = self._seat = board(self._house, self._client, facts, route, request, asked)
        facts.pursuit, facts.shared = seat.pursuit, not seat.is_first
        return seat

    def _adopt(self, attempt: Attempt) -> None:
        """The attempt's marks become the exchange's."""
        facts, timeline = self._facts, attempt.timeline
        if self._seat is not None:
            facts.follow(attempt)
            return
        timeline.parsed = facts.timeline.parsed
        timeline.committed = facts.timeline.committed
        timeline.sent, timeline.headers = attempt.sent, attempt.headers_at
        timeline.first_byte = attempt.first_byte
        facts.timeline = timeline

    async def _stream(self, attempt: Attempt, route: Route) -> None:
        """Commit, then sleep until the stream is over."""
        client, facts, pipe = self._client, self._facts, attempt.pipe
        assert pipe is not None
        assert attempt.head is not None
        # ======== commit point ==================================================================
        if not client.has_begun:
            passed = policy.to_client(attempt.head.headers, stream=True)
            client.open([*reply.passed(facts, passed), *self._commit()])
        facts.stage = "streaming"
        source = attempt if self._seat is None else self._seat.reader
        client.on_flow = source.flow
        error = await source.stream_into(self._writer(route), client)
        facts.usage, facts.finish_reason = pipe.usage, pipe.finish_reason
        if error is not None:
            raise error
        if pipe.ended:
            facts.outcome = "completed"
            facts.stage = "done"
        else:  # the upstream told its own error in the stream: the client has read it
            client.cut([])
        if pipe.failed:
            facts.outcome = "upstream_failed"
            facts.upstream_code = pipe.upstream_code

    def _commit(self) -> Headers:
        """The status is about to be sent: the headers of ours that go with it."""
        facts = self._facts
        facts.status = 200
        facts.timeline.committed = self._house.clock()
        ours = reply.added(facts, stream=True)
        return ours if self._seat is None else [*ours, *self._seat.told()]

    def _writer(self, route: Route) -> Callable[[list[bytes], bool], None]:
        """Where the events go; with `emit_metadata` between two comments of our own."""
        write: Callable[[list[bytes], bool], None] = self._client.write
        if self._seat is not None:
            write = self._seat.writer(write, self._headers)
        if route.stream.emit_metadata:
            write = reply.annotated(write, self._facts, self._marks)
        return heard(write, self._listeners) if self._listeners else write

    def _marks(self) -> Timeline:
        """Up to this moment."""
        lane = None if self._seat is None else self._seat.pursuit.current
        if lane is not None and lane.attempt is not None:
            self._facts.follow(lane.attempt)
        return self._facts.timeline

    async def _folded(self, lane: Lane, attempt: Attempt) -> None:
        """A stream for a client that wants it whole: nothing is sent before the end."""
        client, facts, pipe = self._client, self._facts, attempt.pipe
        assert pipe is not None
        assert attempt.head is not None
        facts.stage = "streaming"
        fold = Fold(facts.dialect.name)

        def take(events: list[bytes], last: bool) -> None:
            fold.take(events)
            for listener in self._listeners:
                listener.take(events, last)
            if fold.size > LARGEST_ANSWER:
                attempt.fail(AnswerTooLarge("the upstream's answer is over the limit"))

        if self._seat is None:
            error = await attempt.stream_into(take, None)
        else:
            error = await self._seat.reader.stream_into(take, client)
        facts.usage, facts.finish_reason = pipe.usage, pipe.finish_reason
        headers = policy.to_client(attempt.head.headers, stream=True)
        if fold.error is not None:
            reply.said(self._house, self._client, facts, lane, headers, fold.error)
            return
        if error is not None:
            raise error
        if pipe.failed_early:
            message = f"the upstream gave up: {pipe.upstream_code}"
            facts.upstream_code = pipe.upstream_code
            raise UpstreamSaid(message, status=UpstreamSaid.status, code=pipe.upstream_code)
        facts.timeline.committed = self._house.clock()
        said = policy.said_anew(headers, as_json=True)
        reply.answer(self._client, facts, 200, said, fold.answer())

    def peek(self) -> Running:
        """How far it has come."""
        return self._facts.peek()

    # --- the end ---------------------------------------------------------------------------

    def interrupt(self, error: ProxyError) -> None:
        """End it now for `error`; its client is told, when an attempt is under way."""
        self._interrupted = error.code
        if self._seat is not None:
            self._seat.interrupt(error)
        elif self._facts.pursuit is not None:
            self._facts.pursuit.interrupt(error)
        elif self._facts.on_interrupt is not None:
            self._facts.on_interrupt(error)

    def _goes_on(self) -> bool:
        """Whether the client left and its answer goes on without: its flight ends this then."""
        facts, seat = self._facts, self._seat
        if seat is None or self._interrupted is not None or facts.outcome != ClientGone.code:
            return False
        if not seat.go_on(self._landed):
            return False
        facts.stage = facts.reached
        self._tell_listeners()
        return True

    def _landed(self, became: str) -> None:
        self._facts.left = became
        self._finish()

    def _tell_listeners(self) -> None:
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.ended(self._facts.outcome == "completed")

    def _finish(self) -> None:
        try:
            self._settle()
        finally:
            over, self.on_over = self.on_over, None  # it may know this exchange
            if over is not None:
                over()

    def _settle(self) -> None:
        facts, pursuit = self._facts, self._facts.pursuit
        if pursuit is not None:
            self._give_back(pursuit)
            lane = pursuit.current
            if lane is not None and lane.attempt is not None:
                if lane.attempt.timeline is not facts.timeline:  # shared, or without an answer
                    self._adopt(lane.attempt)
                pipe = lane.attempt.pipe
                said = lane.answer if pipe is None else pipe
                if said is not None and facts.usage is None:
                    facts.usage, facts.finish_reason = said.usage, said.finish_reason
        if facts.outcome == ClientGone.code and facts.left is None:
            if self._interrupted is not None:
                facts.outcome = self._interrupted  # cancelled, but not by the client
            elif self._seat is not None:
                facts.left = self._seat.became
        if facts.share is not None:
            self._house.allowances.settle(facts.share, facts.spent(self._client))
        self._tell_listeners()
        facts.timeline.finished = self._house.clock()
        self._house.finish(facts.record(self._client))

    def _give_back(self, pursuit: Pursuit) -> None:
        """What was taken for this exchange, and what is shared if nobody else has it."""
        if self._seat is None:
            pursuit.finish()
            self._facts.heartbeats += pursuit.heartbeats
            return
        self._facts.heartbeats += self._seat.reader.heartbeats
        self._facts.accounts = self._seat.leave()


def _lower(headers: Headers) -> dict[str, str]:
    return {name.lower(): value for name, value in headers}
