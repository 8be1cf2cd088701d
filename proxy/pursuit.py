"""From a route to an attempt that has something to say: choice, admission, retries, hedges.

A pursuit decides nothing by itself: it asks the pure parts of `proxy.core.policy` over what the
house knows, and makes the attempts that they say. It owns its lanes until `finish`.
"""

from __future__ import annotations

from math import inf

from proxy.asked import Asked
from proxy.core.flow.patience import Limits
from proxy.core.flow.pipe import Pipe
from proxy.core.flow.timeline import Timeline
from proxy.core.policy import hedging
from proxy.core.policy.admission import Place
from proxy.core.policy.course import Course, Start
from proxy.core.policy.health import shape_of
from proxy.core.policy.outcome import Outcome
from proxy.core.policy.retry import OWN_LIMIT, Failure, Reaction, Verdict, judge
from proxy.core.policy.rewrite import rewrite
from proxy.core.policy.route import Candidate, Route
from proxy.core.record import AttemptRecord
from proxy.core.wire.request import ChatRequest
from proxy.errors import ConnectTimeout, PoolExhausted, ProxyError, TotalTimeout
from proxy.house import LARGEST_ANSWER, House
from proxy.knowledge import OWN_KEYS
from proxy.lane import Lane
from proxy.net.attempt import Attempt
from proxy.net.race import Racing

_DEFAULT_FIRST_TOKEN = 30.0
"""Seconds, where another candidate can take over and the settings say nothing."""


class Pursuit:
    """One exchange before its commit; afterwards the owner of what it tried."""

    def __init__(self, house: House, route: Route, request: ChatRequest, asked: Asked) -> None:
        """Raises NoCandidate."""
        self._house = house
        self._route = route
        self._request: ChatRequest | None = request
        self._racing: Racing[Lane] | None = None
        self._asked = asked
        self._shape = shape_of(request.size, bool(request.fields.get("tools")))
        knowledge, now = house.knowledge, house.clock()
        self.chosen = knowledge.choose(route, request, self._shape, self._place, now, house.roll())
        budget = knowledge.retry_budget(route, hasty=asked.hasty)
        budget.request(now)
        self._course = Course(self.chosen.order, route.attempts, budget)
        self._hedge = route.hedge if asked.streams else None
        self._was_late = False
        # Times are learned where something is decided by them.
        several = len(route.candidates) > 1
        self._learns = bool(several or self._hedge or route.first_content_target)
        self._blamed: set[int] = set()
        # A caller that says how long it waits means from now on; else the first send counts.
        self._deadline = asked.received + route.timeouts.total if asked.hasty else None
        self.lanes: list[Lane] = []
        """Also those that have ended: what they were is told at the end."""
        self.changes: tuple[str, ...] = ()
        self.stage = "routing"

    @property
    def decisions(self) -> tuple[str, ...]:
        return tuple(self._course.decisions)

    @property
    def attempts(self) -> int:
        """Attempts made so far."""
        return sum(lane.attempt is not None for lane in self.lanes)

    @property
    def heartbeats(self) -> int:
        """Comments written while the answer was silent."""
        return sum(lane.attempt.heartbeats for lane in self.lanes if lane.attempt is not None)

    @property
    def is_final(self) -> bool:
        """Whether a client would only repeat what was tried, or what cannot succeed."""
        lane = self.current
        verdict = None if lane is None else lane.verdict
        return self.attempts > 1 or (verdict is not None and verdict.reaction is Reaction.KEY)

    @property
    def current(self) -> Lane | None:
        """The lane that won, else the latest that asked somebody."""
        if len(self.lanes) == 1:  # as nearly always
            return self.lanes[0] if self.lanes[0].attempt is not None else None
        won = next((lane for lane in self.lanes if lane.won), None)
        return won or next((one for one in reversed(self.lanes) if one.attempt is not None), None)

    async def first_answer(self) -> Lane:
        """The lane that has something to say, be it the upstream's own error. Raises ProxyError."""
        racing = self._racing = Racing(self)
        house, first = self._house, self._course.first()
        if self._hedge is None:
            lane = await racing.one_by_one(first)
        else:
            house.knowledge.hedge_budget(self._route).request(house.clock())
            lane = await racing.hedged(first)
            self._note_lateness(lane)
        self._racing = None
        self._request = None  # it may be large, and the answer long
        for other in self.lanes:
            if other is not lane:  # what it was is known now, however long the answer takes
                other.finish(house.clock(), house.roll())
        if lane.error is not None:
            raise lane.error
        lane.won = True
        if not lane.has_failed:
            lane.praise(house.clock(), house.roll())
        return lane

    # --- what a race asks (proxy.net.race.Runner) --------------------------------------------

    def prepare(self, start: Start) -> Lane:
        candidate = self._route.candidates[start.candidate]
        vitals = self._house.knowledge.vitals(self._route, candidate)
        shape = self._shape if self._learns else None
        only = len(self._route.candidates) == 1
        lane = Lane(start, candidate, vitals, shape, only=only, hasty=self._asked.hasty)
        self.lanes.append(lane)
        return lane

    async def run(self, lane: Lane) -> None:
        try:
            await self._admit(lane)
            self._claim(lane)
            await self._open(lane)
        except ProxyError as error:
            # Its traceback holds the frames, and so the request's body.
            error.__context__ = None
            lane.error = error.with_traceback(None)
        failure = lane.read_failure(self._asked.dialect, streams=self._asked.wants_stream)
        if failure is not None:
            lane.code = failure.name
            lane.verdict = self._judge(lane, failure)
            self._learn(lane, lane.verdict)

    def _be_patient(self, failed: Lane) -> None:
        """Nothing can replace what still runs: it keeps what is left of the client's patience."""
        if self._asked.hasty:
            return
        for lane in self.lanes:
            if lane is not failed and lane.attempt is not None:
                limits = lane.attempt.limits
                lane.attempt.limits = limits._replace(headers=None, first_token=None)

    def _judge(self, lane: Lane, failure: Failure) -> Verdict:
        house, place = self._house, self._place(lane.candidate)
        lane.alone = house.admission.is_alone(place)
        verdict = judge(
            failure,
            again=self._course.again(lane.start.candidate),
            roll=house.roll(),
            wall=house.wall(),
            overload_wait=self._route.attempts.overload_wait,
        )
        if lane.code in OWN_LIMIT and not lane.alone and failure.retry_after is None:
            return verdict._replace(pause=0.0)  # admission knows better when it is worth to ask
        return verdict

    def _learn(self, lane: Lane, verdict: Verdict) -> None:
        """What a failure says of its candidate and of its key, whether or not anything follows."""
        house, permit = self._house, lane.permit
        if lane.attempt is None:  # no place in admission, so nobody was asked
            return
        now = house.clock()
        self._blame(lane, verdict.outcome, now)
        if permit is not None and verdict.rest is not None:
            house.admission.rest(self._place(lane.candidate), permit.key, now + verdict.rest)
        if len(self._route.candidates) > 1 and not self._course.can_fail_over:
            self._be_patient(lane)

    def after(self, lane: Lane) -> Start | None:
        house, verdict = self._house, lane.verdict
        assert verdict is not None
        now = house.clock()
        if self._deadline is not None and now >= self._deadline:
            return None
        if lane.attempt is None:  # no place in admission, so nobody was asked
            return self._course.turned_away()
        place, permit = self._place(lane.candidate), lane.permit
        other_key = permit is not None and house.admission.has_other_key(place, permit.key)
        if verdict.reaction is Reaction.LIMIT:
            if other_key:
                verdict = verdict._replace(pause=0.0)
            if self._route.admission.limit == "off":
                verdict = verdict._replace(reaction=Reaction.AGAIN)
            elif now + verdict.pause > self._asked.received + self._route.admission.wait:
                return self._course.turned_away()
        following = self._course.next(
            lane.start.candidate,
            verdict,
            lane.code,
            now,
            other_key=other_key,
            alone=lane.alone,
        )
        if following is not None and following.pause:
            if self._deadline is not None and now + following.pause >= self._deadline:
                return None  # there is no time for what would follow
            self.stage = "pausing"
        return following

    def _blame(self, lane: Lane, outcome: Outcome, now: float) -> None:
        """One request that fails at a candidate is one failure, however often it was repeated."""
        candidate = lane.start.candidate
        if outcome is Outcome.FAILURE:
            if candidate in self._blamed:
                outcome = Outcome.NEUTRAL
            self._blamed.add(candidate)
        lane.blame(outcome, now, self._house.roll())

    def late_in(self) -> float | None:
        lane = self.lanes[-1]
        assert self._hedge is not None
        if self._was_late:
            return None
        house = self._house
        delay = hedging.delay(self._hedge, lane.vitals, self._shape, house.clock())
        if lane.attempt is None:  # waiting for its place, or for its turn
            return delay
        return max(lane.attempt.started + delay - house.clock(), 0.0)

    def beside(self) -> Lane | None:
        if self.late_in() != 0.0:
            return None
        self._was_late = True
        assert self._hedge is not None
        lateness, vitals = self._house.knowledge.lateness(self._route), self.lanes[-1].vitals
        denied = hedging.denial(self._hedge, vitals, lateness, self._house.clock())
        if denied is not None:
            self._course.decisions.append(f"hedge_denied_{denied}")
            return None
        start = self._course.beside()
        lane = self.prepare(start)
        lane.permit = self._house.admission.try_admit(
            self._place(lane.candidate),
            self._keys(lane),
            self._route.admission,
            self._start(lane),
            self._asked.caller,
            spare=True,
        )
        if lane.permit is None:
            self.lanes.remove(lane)
            self._course.decisions.append("hedge_denied_admission")
            return None
        if not self._house.knowledge.hedge_budget(self._route).take(self._house.clock()):
            lane.close()
            self.lanes.remove(lane)
            self._course.decisions.append("hedge_denied_budget")
            return None
        self._course.join(start)
        return lane

    def _note_lateness(self, lane: Lane) -> None:
        """A hedge that was asked for, granted or not, says that the first attempt was late."""
        if self._asked.hasty:
            return
        late = self._was_late or lane.start.role == "failover"
        self._house.knowledge.lateness(self._route).saw(late=late)

    # --- one attempt -------------------------------------------------------------------------

    async def _admit(self, lane: Lane) -> None:
        """Wait for a place. Raises TooBusy."""
        if lane.permit is not None:
            return
        house, settings, asked = self._house, self._route.admission, self._asked
        self.stage = "admission"
        lane.permit = await house.admission.admit(
            self._place(lane.candidate),
            self._keys(lane),
            settings,
            self._start(lane),
            asked.caller,
            since=asked.received,
            deadline=min(asked.received + settings.wait, self._deadline or inf),
        )
        lane.waited = lane.permit.waited

    def _claim(self, lane: Lane) -> None:
        """The candidate may have been given up since the choice. Raises NoCandidate."""
        house, now = self._house, self._house.clock()
        if lane.start.role == "first" and not lane.vitals.allows(now):
            raise house.knowledge.no_candidate(self._route, now)
        lane.claim(now)

    async def _open(self, lane: Lane) -> None:
        """Send, and wait until there is something to say. Raises the attempt's error."""
        house, route, asked, candidate = self._house, self._route, self._asked, lane.candidate
        assert self._request is not None
        if asked.recall is not None:
            self._request = await asked.recall.into(self._request)
        rewritten = rewrite(
            self._request,
            candidate.model,
            route.params,
            house.capabilities.of(candidate.model),
            stream=asked.streams,
        )
        self.changes = rewritten.changes
        outgoing = house.outgoing(
            asked.target,
            candidate.endpoint,
            asked.method,
            asked.headers,
            rewritten.body,
            request_id=asked.id,
            key=house.knowledge.secret(candidate, None if lane.permit is None else lane.permit.key),
            trace=lane.join(asked.trace),
        )
        timeline = Timeline(asked.received)
        pipe = Pipe(asked.dialect, route.stream, timeline) if asked.streams else None
        if pipe is not None:
            pipe.mask = house.knowledge.mask(candidate.endpoint)
        replaceable = self._hedge is not None or len(route.candidates) > 1
        attempt = lane.attempt = Attempt(pipe, timeline, self._limits(), hold=replaceable)
        lane.begin(attempt.started)
        if pipe is not None and self._learns:
            pipe.on_content = lane.measure
        self.stage = "connecting"
        connect = route.timeouts.connect
        assert self._deadline is not None
        last = self._deadline
        deadline = last if connect is None else min(last, attempt.started + connect)
        try:
            await house.upstreams[candidate.endpoint.name].open(outgoing, attempt, deadline)
        except ProxyError as error:
            if isinstance(error, ConnectTimeout | PoolExhausted) and house.clock() >= last:
                error = TotalTimeout(f"no connection within {route.timeouts.total:g} s")
            attempt.fail(error)  # it has no stream that could tell it
            raise error from None
        del outgoing, rewritten  # the body may be large, and the answer long
        self.stage = "waiting"
        await attempt.answered()

    def _limits(self) -> Limits:
        """What an attempt may take. The last of several candidates has what is left."""
        timeouts, stream = self._route.timeouts, self._route.stream
        now = self._house.clock()
        if self._deadline is None:
            self._deadline = now + timeouts.total
        headers = first_token = None
        if self._course.can_fail_over:
            headers = timeouts.headers
            first_token = timeouts.first_token or _DEFAULT_FIRST_TOKEN
        elif len(self._route.candidates) == 1 or self._asked.hasty:
            headers, first_token = timeouts.headers, timeouts.first_token
        return Limits(
            headers=headers,
            first_token=first_token,
            idle=timeouts.idle,
            total=max(self._deadline - now, 0.001),
            heartbeat=stream.heartbeat,
            stall=stream.client_stall,
            max_answer=LARGEST_ANSWER,
        )

    def _place(self, candidate: Candidate) -> Place:
        """Where it is admitted: the endpoint's own keys, or this caller's."""
        own = candidate.endpoint.keys(candidate.keys)
        group = (candidate.keys or OWN_KEYS) if own else self._asked.caller
        return Place(candidate.endpoint.name, group, candidate.model)

    def _keys(self, lane: Lane) -> tuple[str, ...]:
        return self._house.knowledge.keys(lane.candidate) or (self._asked.caller,)

    def _start(self, lane: Lane) -> int | None:
        """How many requests of one key the model is known to take, where that is asked for."""
        if self._route.admission.limit != "model":
            return None
        capability = self._house.capabilities.of(lane.candidate.model)
        return None if capability is None else capability.in_flight

    # --- the end -------------------------------------------------------------------------------

    def interrupt(self, error: ProxyError) -> None:
        """End what runs, or is waited for, for `error`."""
        for lane in self.lanes:
            if lane.attempt is not None:
                lane.attempt.fail(error)
        if self._racing is not None:
            self._racing.stop(error)

    def finish(self) -> None:
        """Give everything back, and let what happened be remembered. Idempotent."""
        house = self._house
        self._racing = self._request = None  # a cycle would hold the body until a collection
        for lane in self.lanes:
            lane.finish(house.clock(), house.roll())

    def records(self) -> list[AttemptRecord]:
        """The attempts as they ended."""
        return [lane.record() for lane in self.lanes if lane.attempt is not None]
