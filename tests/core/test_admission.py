"""One gate: who may start, with which key, and who waits; checked against rules over any course."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.config import Admission
from proxy.core.policy.admission import KEPT_UNUSED, Figures, Gate, most_of
from proxy.core.policy.admission_limit import Ending, Grant, Kind
from proxy.core.policy.admission_queue import Ticket


def a_gate(*keys: str, most: int | None = None) -> Gate:
    gate = Gate(0.0)
    gate.use(keys or ("key",), most, 0.0)
    return gate


def entered(gate: Gate, now: float = 0.0) -> Grant:
    grant = gate.enter(now, "ann")
    assert grant is not None
    return grant


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "start", "most"),
    [("learned", 5, None), ("model", 5, 5), ("model", None, None), (7, 5, 7), ("off", 5, None)],
)
def test_the_number_never_exceeded_comes_from_settings_or_the_models_record(
    limit: Any, start: int | None, most: int | None
) -> None:
    assert most_of(Admission(limit=limit), start) == most


def test_a_changed_number_holds_for_the_next_request() -> None:
    gate = a_gate(most=1)
    entered(gate)
    assert gate.enter(0.0, "ann") is None
    gate.use(("key",), 2, 0.0)
    entered(gate)
    assert gate.enter(0.0, "ann") is None
    gate.use(("key",), None, 0.0)
    entered(gate)
    assert gate.figures(0.0) == Figures(waiting=0, in_flight=3, limit=0, resting=0)


def test_a_number_does_not_raise_what_refusals_have_proven() -> None:
    gate = a_gate()
    grants = [entered(gate) for _ in range(5)]
    gate.release(grants[0], Ending.REFUSED, 0.1)
    gate.use(("key",), 10, 0.2)
    assert gate.figures(0.2).limit == 4


# --- several keys --------------------------------------------------------------------------------


def test_the_least_loaded_key_is_taken_and_the_first_of_equals() -> None:
    gate = a_gate("a", "b", "c")
    grants = [entered(gate) for _ in range(4)]
    assert [grant.key for grant in grants] == ["a", "b", "c", "a"]
    gate.release(grants[2], Ending.DONE, 1.0)
    assert entered(gate, 1.0).key == "c"


def test_a_resting_key_is_left_alone_until_it_returns() -> None:
    gate = a_gate("a", "b")
    gate.rest("a", 10.0)
    assert [entered(gate, 9.0).key for _ in range(3)] == ["b", "b", "b"]
    assert gate.has_other_key("a", 9.0)
    assert not gate.has_other_key("b", 9.0)
    assert gate.figures(9.0).resting == 1
    assert entered(gate, 10.0).key == "a"


def test_while_all_keys_rest_the_one_that_returns_first_is_used() -> None:
    gate = a_gate("a", "b", most=1)
    gate.rest("a", 20.0)
    gate.rest("b", 10.0)
    assert entered(gate).key == "b"
    assert gate.enter(0.0, "ann") is None
    ticket = gate.join("caller", 0.0)
    assert gate.serve(0.0) == []
    assert gate.look_again(0.0) == 10.0
    assert gate.serve(19.0) == []
    assert gate.look_again(19.0) == 20.0
    assert gate.serve(20.0) == [ticket]


def test_a_refused_key_leaves_the_work_to_another_one() -> None:
    gate = a_gate("a", "b")
    grants = [entered(gate) for _ in range(4)]
    gate.release(grants[0], Ending.REFUSED, 0.1)
    assert [entered(gate, 0.1).key for _ in range(3)] == ["b", "b", "b"]


def test_a_key_that_is_configured_away_is_forgotten_when_its_last_request_ends() -> None:
    gate = a_gate("a")
    grant = entered(gate)
    gate.use(("b",), None, 0.0)
    assert entered(gate).key == "b"
    assert gate.in_flight == 2
    gate.release(grant, Ending.REFUSED, 1.0)
    assert gate.figures(1.0) == Figures(waiting=0, in_flight=1, limit=0, resting=0)


# --- start without waiting -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("most", "running", "given"),
    [(1, 0, False), (2, 0, True), (2, 1, False), (20, 17, True), (20, 18, False), (None, 99, True)],
)
def test_a_spare_place_leaves_a_tenth_free_and_one_at_least(
    most: int | None, running: int, given: bool
) -> None:
    gate = a_gate(most=most)
    for _ in range(running):
        entered(gate)
    assert (gate.enter_spare(0.0, "ann", spare=True) is not None) == given


def test_a_place_without_waiting_is_not_taken_from_those_who_wait() -> None:
    gate = a_gate(most=1)
    last = gate.enter_spare(0.0, "ann", spare=False)
    assert last is not None
    assert gate.enter_spare(0.0, "ann", spare=False) is None
    gate.join("caller", 0.0)
    gate.release(last, Ending.DONE, 1.0)
    assert gate.enter_spare(1.0, "ann", spare=False) is None
    assert gate.enter(1.0, "ann") is None


def test_switched_off_there_is_no_limit_and_nothing_is_learned() -> None:
    gate = a_gate("a", "b", most=1)
    grants = [gate.enter_anyway(0.0) for _ in range(5)]
    gate.release(grants[0], Ending.REFUSED, 0.1)
    assert gate.figures(0.1) == Figures(waiting=0, in_flight=4, limit=2, resting=0)
    gate.rest("a", 9.0)
    assert gate.enter_anyway(0.1).key == "b"


@pytest.mark.parametrize("ending", [Ending.REFUSED, Ending.UNSENT])
def test_a_turn_that_led_to_nothing_is_had_again(ending: Ending) -> None:
    gate = a_gate(most=1)
    running = entered(gate)
    for caller, since in (("a", 1.0), ("a", 2.0), ("b", 3.0)):
        gate.join(caller, since)
    gate.release(running, Ending.DONE, 10.0)
    (first,) = gate.serve(10.0)
    assert first.grant is not None
    gate.release(first.grant, ending, 10.1)
    again = gate.join("a", 1.0)
    assert gate.serve(10.2) == [again]


# --- foresight -----------------------------------------------------------------------------------


def test_the_wait_is_not_known_before_anything_was_served() -> None:
    gate = a_gate(most=1)
    entered(gate)
    gate.join("a", 0.0)
    assert gate.expected_wait("b", 0.0, 0.0) is None
    assert gate.predicted_wait(0.0) == 0.0


def test_the_wait_is_what_others_take_before_by_their_fair_share() -> None:
    gate = a_gate(most=2)
    gate.release(entered(gate), Ending.DONE, 4.0)
    assert gate.predicted_wait(4.0) == 0.0
    entered(gate, 4.0)
    entered(gate, 4.0)
    assert gate.predicted_wait(4.0) == 2.0
    for _ in range(10):
        gate.join("many", 4.0)
    gate.join("one", 4.0)
    assert gate.expected_wait("new", 5.0, 5.0) == 2 * 4.0 / 2
    assert gate.expected_wait("one", 5.0, 5.0) == 3 * 4.0 / 2
    assert gate.expected_wait("many", 5.0, 5.0) == 11 * 4.0 / 2
    assert gate.expected_wait("many", 3.0, 5.0) == 1 * 4.0 / 2
    assert gate.predicted_wait(5.0) == 3 * 4.0 / 2


def test_the_mean_follows_the_latest_service_times() -> None:
    gate = a_gate(most=1)
    for number in range(40):
        gate.release(entered(gate, number * 10.0), Ending.DONE, number * 10.0 + 1.0)
    for number in range(40, 80):
        gate.release(entered(gate, number * 10.0), Ending.DONE, number * 10.0 + 5.0)
    entered(gate, 1000.0)
    assert 4.5 < gate.predicted_wait(1000.0) < 5.0


@pytest.mark.parametrize("ending", [Ending.REFUSED, Ending.UNSENT])
def test_what_was_not_served_has_no_service_time(ending: Ending) -> None:
    gate = a_gate(most=1)
    gate.release(entered(gate), ending, 3.0)
    gate.enter(10.0, "ann")
    assert gate.predicted_wait(10.0) == 0.0


# --- memory --------------------------------------------------------------------------------------


def test_a_gate_is_forgotten_when_long_unused_and_never_in_use() -> None:
    gate = a_gate()
    assert not gate.is_forgotten(KEPT_UNUSED - 1)
    assert gate.is_forgotten(KEPT_UNUSED)
    grant = entered(gate)
    assert not gate.is_forgotten(KEPT_UNUSED)
    gate.release(grant, Ending.DONE, 100.0)
    assert not gate.is_forgotten(KEPT_UNUSED)
    gate.rest("key", 5000.0)
    assert not gate.is_forgotten(4000.0)
    assert gate.is_forgotten(5000.0)


# --- any course ----------------------------------------------------------------------------------

CALLERS = ["ann", "bob", "cho", "dee"]
callers = st.sampled_from(CALLERS)
some = st.integers(0, 10_000)


class AnyCourse(RuleBasedStateMachine):
    """Requests come, wait, start, end in every way, leave at any moment, come again after a
    refusal; keys rest; time passes. The upstream refuses by its own limit, or by whim."""

    @initialize(
        keys=st.integers(1, 3), most=st.none() | st.integers(1, 5), upstream=st.integers(1, 4)
    )
    def start(self, keys: int, most: int | None, upstream: int) -> None:
        self.now = 0.0
        self.keys = [f"key {number}" for number in range(keys)]
        self.most, self.upstream = most, upstream
        self.gate = Gate(self.now)
        self.gate.use(self.keys, most, self.now)
        self.running: list[tuple[Grant, str, float]] = []
        self.waiting: dict[Ticket, dict[str, int]] = {}
        """Those who wait, and how often each other caller was let go meanwhile."""
        self.given = 0
        self.returned = 0

    def serve(self) -> list[Ticket]:
        served = self.gate.serve(self.now)
        for ticket in served:
            assert ticket.grant is not None
            self.was_given(ticket.grant, ticket.caller, ticket.age[0])
            mine = [t.age for t in self.waiting if t.caller == ticket.caller]
            assert ticket.age == min(mine), "the oldest of a caller goes first"
            del self.waiting[ticket]
            have = {caller for _, caller, _ in self.running} - {ticket.caller}
            for waits, overtaken in self.waiting.items():
                if waits.caller not in have:  # what is kept for others may hold up one that has
                    overtaken[ticket.caller] = overtaken.get(ticket.caller, 0) + 1
        return served

    def was_given(self, grant: Grant, caller: str, since: float) -> None:
        self.given += 1
        self.running.append((grant, caller, since))
        if grant.kind is not Kind.FREE:
            assert grant.limit.limit is None or grant.limit.in_flight <= grant.limit.limit
        assert self.most is None or grant.limit.in_flight <= self.most

    def ask(self, caller: str, since: float) -> None:
        grant = self.gate.enter(self.now, caller)
        if grant is not None:
            assert not self.waiting
            self.was_given(grant, caller, since)
        else:
            self.waiting[self.gate.join(caller, since)] = {}
            self.serve()

    def turn_led_to_nothing(self, caller: str) -> None:
        """It may have it again."""
        for overtaken in self.waiting.values():
            overtaken[caller] = overtaken.get(caller, 0) - 1

    def give_back(self, number: int, ending: Ending) -> tuple[str, float]:
        grant, caller, since = self.running.pop(number % len(self.running))
        if ending is not Ending.DONE:
            self.turn_led_to_nothing(caller)
        for _ in range(2):  # the second time counts for nothing
            self.gate.release(grant, ending, self.now)
        self.returned += 1
        self.serve()
        return caller, since

    @rule(caller=callers)
    def come(self, caller: str) -> None:
        self.ask(caller, self.now)

    @rule(spare=st.booleans())
    def hedge(self, spare: bool) -> None:
        grant = self.gate.enter_spare(self.now, "hedge", spare=spare)
        if grant is not None:
            assert not self.waiting
            assert grant.kind is not Kind.PROBE
            self.was_given(grant, "hedge", self.now)

    @precondition(lambda self: self.running)
    @rule(number=some, ending=st.sampled_from([Ending.DONE, Ending.UNSENT]))
    def end(self, number: int, ending: Ending) -> None:
        self.give_back(number, ending)

    @precondition(lambda self: self.running)
    @rule(number=some, whim=st.booleans(), again=st.booleans())
    def refuse(self, number: int, whim: bool, again: bool) -> None:
        if whim or len(self.running) > self.upstream:
            caller, since = self.give_back(number, Ending.REFUSED)
            if again:
                self.ask(caller, since)

    @precondition(lambda self: self.waiting)
    @rule(number=some)
    def leave(self, number: int) -> None:
        ticket = list(self.waiting)[number % len(self.waiting)]
        del self.waiting[ticket]
        for _ in range(2):
            self.gate.leave(ticket, self.now)
        self.serve()

    @precondition(lambda self: self.waiting and self.running)
    @rule(number=some)
    def leave_with_a_place_just_got(self, number: int) -> None:
        before = len(self.running)
        grant, _, _ = self.running.pop(number % before)
        self.gate.release(grant, Ending.DONE, self.now)
        self.returned += 1
        for ticket in self.serve():
            assert ticket.grant is not None
            self.running = [one for one in self.running if one[0] is not ticket.grant]
            self.returned += 1
            self.turn_led_to_nothing(ticket.caller)
            for _ in range(2):
                self.gate.leave(ticket, self.now)
        self.serve()

    @rule(number=some, seconds=st.sampled_from([0.0, 0.1, 30.0]))
    def rest(self, number: int, seconds: float) -> None:
        self.gate.rest(self.keys[number % len(self.keys)], self.now + seconds)
        self.serve()

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.2, 3.0, 70.0]))
    def pass_time(self, seconds: float) -> None:
        """Woken only when the gate asked for it."""
        until = self.now + seconds
        while (when := self.gate.look_again(self.now)) is not None and when <= until:
            assert when > self.now
            self.now = when
            self.serve()
        self.now = until
        assert self.gate.serve(self.now) == [], "somebody waited and was not told"

    @invariant()
    def nobody_waits_while_a_place_is_free(self) -> None:
        if hasattr(self, "gate"):
            assert self.gate.waiting == len(self.waiting)
            assert self.gate.serve(self.now) == []
            if self.waiting and not self.running:
                assert self.gate.look_again(self.now) is not None, "nobody would ever be let go"

    @invariant()
    def every_place_is_counted_once(self) -> None:
        if hasattr(self, "gate"):
            assert self.gate.in_flight == len(self.running) == self.given - self.returned

    @invariant()
    def no_caller_is_let_go_twice_before_one_that_was_there_and_has_none(self) -> None:
        if hasattr(self, "gate"):
            firsts: dict[str, Ticket] = {}
            for ticket in self.waiting:
                first = firsts.setdefault(ticket.caller, ticket)
                if ticket.age < first.age:
                    firsts[ticket.caller] = ticket
            for caller, ticket in firsts.items():
                others = {c: n for c, n in self.waiting[ticket].items() if c != caller}
                own_turn = self.waiting[ticket].get(caller, 0)
                assert all(n <= 1 + max(0, own_turn) for n in others.values())

    def teardown(self) -> None:
        if not hasattr(self, "gate"):
            return
        for _ in range(1000):
            if self.running:
                self.give_back(0, Ending.DONE)
            elif self.waiting:
                when = self.gate.look_again(self.now)
                assert when is not None
                self.now = when
                self.serve()
        assert self.gate.is_idle()
        assert self.given == self.returned


AnyCourse.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=[*HealthCheck]
)
TestAnyCourse = AnyCourse.TestCase
