"""What follows a failed or a late attempt: single answers, and any order of events.

The machine plays exchanges over a few candidates on a clock of its own, and keeps its own account
of what was asked of whom. Invariants, whatever happens in whatever order: no more retries than the
settings and the budget allow, nobody is asked again while another was not asked at all, what must
not be repeated never is, one probe at a time, and no candidate is shut out for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from proxy.config import Attempts, Breaker, Hedge
from proxy.core.policy import breaker as breakers
from proxy.core.policy.budget import Budget
from proxy.core.policy.course import ALONE_REPEATS, LIMIT_REPEATS, Course, Start
from proxy.core.policy.hedging import Lateness
from proxy.core.policy.outcome import Outcome
from proxy.core.policy.retry import Failure, Reaction, Verdict, judge
from proxy.errors import (
    ConnectFailed,
    EmptyStream,
    FirstTokenTimeout,
    NotAStream,
    PoolExhausted,
    ProxyError,
    Refused,
    StreamCut,
    UpstreamReset,
)

NOW = 1000.0


def verdict(reaction: Reaction, *, pause: float = 0.0) -> Verdict:
    return Verdict(reaction, Outcome.FAILURE, pause, None)


def a_course(*order: int, budget: Budget | None = None, **changes: Any) -> Course:
    return Course(order, Attempts(**changes), budget or Budget(0.1, burst=10))


def follows(
    course: Course,
    candidate: int,
    reaction: Reaction,
    *,
    pause: float = 0.0,
    other_key: bool = False,
    alone: bool = False,
) -> Start | None:
    told = verdict(reaction, pause=pause)
    return course.next(candidate, told, "code", NOW, other_key=other_key, alone=alone)


@pytest.mark.parametrize(
    "reaction", [Reaction.AGAIN, Reaction.OVERLOAD, Reaction.ELSEWHERE], ids=str
)
def test_another_candidate_takes_over_at_once(reaction: Reaction) -> None:
    course = a_course(2, 0, 1)
    assert course.first() == Start(2, "first")
    assert follows(course, 2, reaction, pause=9.0) == Start(0, "failover")
    assert course.decisions == [f"retry_{reaction.name.lower()}:code"]


@pytest.mark.parametrize(
    ("reaction", "expected"),
    [
        (Reaction.RETURN, None),
        (Reaction.KEY, None),
        (Reaction.LIMIT, Start(0, "retry", 0.3)),
        (Reaction.OVERLOAD, None),
        (Reaction.AGAIN, Start(0, "retry", 0.3)),
        (Reaction.ELSEWHERE, None),
    ],
)
def test_the_only_candidate_is_asked_again_where_that_is_harmless(
    reaction: Reaction, expected: Start | None
) -> None:
    course = a_course(0)
    course.first()
    assert follows(course, 0, reaction, pause=0.3) == expected


def test_the_only_candidate_is_asked_again_when_overloaded_if_the_settings_say_so() -> None:
    course = a_course(0, overload_wait=30.0)
    course.first()
    assert follows(course, 0, Reaction.OVERLOAD, pause=40.0) == Start(0, "retry", 40.0)


def test_another_key_takes_over_without_a_pause_and_at_the_same_candidate() -> None:
    course = a_course(0, 1, retries=0)
    course.first()
    assert follows(course, 0, Reaction.KEY, pause=5.0, other_key=True) == Start(0, "retry")


@pytest.mark.parametrize(
    ("reaction", "alone", "most"),
    [
        (Reaction.LIMIT, True, ALONE_REPEATS),
        (Reaction.LIMIT, False, LIMIT_REPEATS),
        (Reaction.KEY, False, LIMIT_REPEATS),
    ],
)
def test_a_request_does_not_go_round_for_ever(reaction: Reaction, alone: bool, most: int) -> None:
    course = a_course(0)
    course.first()
    times = 0
    while follows(course, 0, reaction, other_key=reaction is Reaction.KEY, alone=alone):
        times += 1
        assert times <= most
    assert times == most


def test_retries_end_with_their_number_and_with_the_budget_and_it_is_said() -> None:
    course = a_course(0, retries=1)
    course.first()
    assert follows(course, 0, Reaction.AGAIN) is not None
    assert follows(course, 0, Reaction.AGAIN) is None
    assert course.decisions == ["retry_again:code", "retry_denied_count:code"]
    poor = a_course(0, 1, budget=Budget(0.1, burst=0))
    poor.first()
    assert follows(poor, 0, Reaction.AGAIN) is None
    assert poor.decisions == ["retry_denied_budget:code"]


def test_a_hedge_goes_to_the_next_candidate_and_to_the_first_where_there_is_none() -> None:
    course = a_course(1, 0)
    course.first()
    assert course.beside() == Start(0, "hedge")
    alone = a_course(0)
    alone.first()
    assert alone.beside() == Start(0, "hedge")


def test_a_hedge_that_was_denied_leaves_its_candidate_to_the_failover() -> None:
    course = a_course(0, 1)
    course.first()
    course.beside()
    assert course.can_fail_over
    assert follows(course, 0, Reaction.ELSEWHERE) == Start(1, "failover")


def test_a_hedge_that_was_made_is_not_made_again_as_a_failover() -> None:
    course = a_course(0, 1)
    course.first()
    course.join(course.beside())
    assert not course.can_fail_over
    assert follows(course, 0, Reaction.ELSEWHERE) is None
    assert course.decisions == ["hedge_started"]


def test_without_a_place_the_next_candidate_is_asked_and_no_retry_is_paid() -> None:
    course = a_course(0, 1, retries=0)
    course.first()
    assert course.turned_away() == Start(1, "failover")
    assert course.turned_away() is None


# --- any order of events -----------------------------------------------------------------------


def seen(error: ProxyError | None = None, **changes: Any) -> Failure:
    status, code = changes.pop("status", None), changes.pop("code", None)
    return Failure(
        error, status, code, None, None, changes.pop("reused", False), status is not None
    )


FAILURES = [
    seen(ConnectFailed("no")),
    seen(Refused("no")),
    seen(PoolExhausted("no")),
    seen(UpstreamReset("cut"), reused=True),
    seen(UpstreamReset("cut")),
    seen(EmptyStream("empty"), status=200),
    seen(StreamCut("cut"), status=200),
    seen(NotAStream("html"), status=200),
    seen(FirstTokenTimeout("late")),
    *(seen(status=200, code=code) for code in ("1234", "1305", "network_error")),
    *(seen(status=status) for status in (400, 404, 429, 500, 502, 503, 529)),
    *(seen(status=429, code=code) for code in ("1302", "1303", "1305", "1113", "1308", "1301")),
    *(seen(status=401, code=code) for code in ("1000", "1002")),
    *(seen(status=500, code=code) for code in ("500", "1230", "1234")),
    seen(status=400, code="1210"),
]


@dataclass(eq=False)
class Run:
    """One attempt."""

    candidate: int
    probe: bool


@dataclass(eq=False)
class Played:
    """One exchange, and what the machine noted of it."""

    course: Course
    order: tuple[int, ...]
    asked: list[int] = field(default_factory=list)
    """Candidates, in the order of their attempts."""
    running: list[Run] = field(default_factory=list)
    hedged: bool = False
    paid: int = 0
    """Retries that come out of the settings and the budget."""
    rounds: int = 0
    """Times it was sent back for a limit or a key."""


class Exchanges(RuleBasedStateMachine):
    """Any number of exchanges, failing, late, answered or left, over candidates with breakers."""

    @initialize(
        count=st.integers(1, 4),
        retries=st.integers(0, 3),
        share=st.sampled_from([0.0, 0.1, 0.5]),
        burst=st.sampled_from([0.0, 1.0, 10.0]),
        overload_wait=st.sampled_from([0.0, 5.0]),
        after=st.sampled_from([0.5, 0.9]),
    )
    def begin(
        self,
        count: int,
        retries: int,
        share: float,
        burst: float,
        overload_wait: float,
        after: float,
    ) -> None:
        self.now, self.requests, self.paid = NOW, 0, 0
        self.share, self.burst, self.per_second = share, burst, 0.2
        self.settings = Attempts(retries=retries, retry_budget=share, overload_wait=overload_wait)
        self.budget = Budget(share, burst=burst, per_second=self.per_second)
        self.breakers = [
            breakers.Breaker(Breaker(failures=2, within=10.0, open_for=5.0)) for _ in range(count)
        ]
        self.hedge = Hedge(after=after)
        self.lateness = Lateness()
        self.exchanges: list[Played] = []

    # --- what the world does ---

    @rule(data=st.data())
    def a_request_comes(self, data: st.DataObject) -> None:
        allowed = [i for i, one in enumerate(self.breakers) if one.allows(self.now)]
        if not allowed:
            return
        order = tuple(data.draw(st.permutations(allowed)))
        self.requests += 1
        self.budget.request(self.now)
        exchange = Played(Course(order, self.settings, self.budget), order)
        self.exchanges.append(exchange)
        start = exchange.course.first()
        assert (start.candidate, start.role, start.pause) == (order[0], "first", 0.0)
        self.ask(exchange, start)

    @precondition(lambda self: self.exchanges)
    @rule(
        data=st.data(),
        failure=st.sampled_from(FAILURES),
        other_key=st.booleans(),
        alone=st.booleans(),
        roll=st.floats(0, 1),
    )
    def an_attempt_fails(
        self, data: st.DataObject, failure: Failure, other_key: bool, alone: bool, roll: float
    ) -> None:
        exchange = data.draw(st.sampled_from(self.exchanges))
        run = data.draw(st.sampled_from(exchange.running))
        exchange.running.remove(run)
        again = exchange.course.again(run.candidate)
        told = judge(failure, again=again, roll=roll, wall=0.0, overload_wait=5.0)
        self.end(run, told.outcome, roll)
        if exchange.running:  # the one beside it goes on
            return
        untried = [one for one in exchange.order if one not in exchange.asked]
        step = exchange.course.next(
            run.candidate, told, failure.name, self.now, other_key=other_key, alone=alone
        )
        if step is None:
            self.is_answer(exchange, told, untried, other_key=other_key)
            self.exchanges.remove(exchange)
            return
        assert step.candidate in exchange.order
        match told.reaction:
            case Reaction.RETURN:
                raise AssertionError("it was to be returned as it is")
            case Reaction.KEY | Reaction.LIMIT:
                assert told.reaction is Reaction.LIMIT or other_key
                assert (step.candidate, step.role) == (run.candidate, "retry")
                exchange.rounds += 1
            case _:
                exchange.paid += 1
                self.paid += 1
                if untried:
                    assert step == Start(untried[0], "failover")
                else:
                    assert told.reaction is not Reaction.ELSEWHERE
                    assert (step.candidate, step.role) == (run.candidate, "retry")
                    assert step.pause == told.pause > 0.0
        self.ask(exchange, step)

    def is_answer(
        self, exchange: Played, told: Verdict, untried: list[int], *, other_key: bool
    ) -> None:
        """Nothing follows; is there a reason?"""
        if told.reaction is Reaction.RETURN or (told.reaction is Reaction.KEY and not other_key):
            return
        if told.reaction in (Reaction.KEY, Reaction.LIMIT):
            assert exchange.rounds + exchange.paid >= ALONE_REPEATS
        elif untried or told.reaction is Reaction.AGAIN:
            assert exchange.course.decisions[-1].startswith("retry_denied_")

    @precondition(lambda self: any(not one.hedged for one in self.exchanges))
    @rule(data=st.data(), granted=st.booleans())
    def an_attempt_is_late(self, data: st.DataObject, granted: bool) -> None:
        exchange = data.draw(st.sampled_from([one for one in self.exchanges if not one.hedged]))
        exchange.hedged = True
        untried = [one for one in exchange.order if one not in exchange.asked]
        start = exchange.course.beside()
        assert start == Start(untried[0] if untried else exchange.order[0], "hedge")
        if granted:
            exchange.course.join(start)
            self.ask(exchange, start)

    @precondition(lambda self: self.exchanges)
    @rule(data=st.data())
    def no_place_is_free(self, data: st.DataObject) -> None:
        """The only attempt of an exchange waited for a place in vain: nobody was asked."""
        exchange = data.draw(st.sampled_from(self.exchanges))
        if len(exchange.running) != 1:
            return
        self.end(exchange.running.pop(), Outcome.NEUTRAL, 0.5)
        untried = [one for one in exchange.order if one not in exchange.asked]
        step = exchange.course.turned_away()
        assert step == (Start(untried[0], "failover") if untried else None)
        if step is None:
            self.exchanges.remove(exchange)
        else:
            self.ask(exchange, step)

    @precondition(lambda self: self.exchanges)
    @rule(data=st.data(), roll=st.floats(0, 1))
    def an_attempt_answers(self, data: st.DataObject, roll: float) -> None:
        exchange = data.draw(st.sampled_from(self.exchanges))
        winner = data.draw(st.sampled_from(exchange.running))
        for run in exchange.running:
            self.end(run, Outcome.SUCCESS if run is winner else Outcome.NEUTRAL, roll)
        self.lateness.saw(late=exchange.hedged)
        self.exchanges.remove(exchange)

    @precondition(lambda self: self.exchanges)
    @rule(data=st.data())
    def a_client_leaves(self, data: st.DataObject) -> None:
        exchange = data.draw(st.sampled_from(self.exchanges))
        for run in exchange.running:
            self.end(run, Outcome.NEUTRAL, 0.5)
        self.exchanges.remove(exchange)

    @rule(seconds=st.sampled_from([0.01, 1.0, 6.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    # --- the machine's own account ---

    def ask(self, exchange: Played, start: Start) -> None:
        one = self.breakers[start.candidate]
        probe = one.allows(self.now) and one.start(self.now)
        exchange.asked.append(start.candidate)
        exchange.running.append(Run(start.candidate, probe))

    def end(self, run: Run, outcome: Outcome, roll: float) -> None:
        self.breakers[run.candidate].record(outcome, self.now, roll, probe=run.probe)

    # --- what must hold ---

    @invariant()
    def no_more_is_retried_than_was_earned(self) -> None:
        earned = self.share * self.requests + self.per_second * (self.now - NOW)
        assert self.paid <= self.burst + earned + 1e-6

    @invariant()
    def no_exchange_is_retried_more_often_than_set(self) -> None:
        for exchange in self.exchanges:
            assert exchange.paid <= self.settings.retries
            assert exchange.rounds <= LIMIT_REPEATS * len(exchange.order)
            assert 1 <= len(exchange.running) <= 2

    @invariant()
    def nobody_is_asked_twice_while_another_was_not_asked(self) -> None:
        for exchange in self.exchanges:
            first_time = list(dict.fromkeys(exchange.asked))
            assert first_time == list(exchange.order[: len(first_time)])
            assert set(first_time) == exchange.course.tried
            assert len(exchange.asked) <= len(first_time) + exchange.rounds + exchange.paid + 1

    @invariant()
    def one_probe_at_a_time_and_none_that_never_reports(self) -> None:
        running = [run for exchange in self.exchanges for run in exchange.running]
        for candidate, one in enumerate(self.breakers):
            probes = sum(run.probe for run in running if run.candidate == candidate)
            assert probes <= 1
            later = self.now + breakers.LONGEST * 5.0 * (1.0 + breakers.JITTER)
            assert one.allows(later) or probes == 1

    @invariant()
    def lateness_is_a_share(self) -> None:
        assert 0.0 <= self.lateness.share <= 1.0


Exchanges.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestExchanges = Exchanges.TestCase


@pytest.mark.long
@pytest.mark.timeout(300)
def test_twenty_thousand_steps_of_exchanges_find_no_way_around_the_rules() -> None:
    run_state_machine_as_test(
        Exchanges, settings=settings(max_examples=200, stateful_step_count=100, deadline=None)
    )
