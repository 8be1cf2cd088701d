"""The budget of extra attempts."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proxy.core.policy.budget import Budget

NOW = 1000.0


def taken(budget: Budget, now: float = NOW, *, tries: int = 100) -> int:
    """How many of `tries` at one moment are granted."""
    return sum(budget.take(now) for _ in range(tries))


def test_a_few_extra_attempts_are_always_allowed() -> None:
    assert taken(Budget(0.1, burst=10)) == 10


def test_ten_requests_at_a_tenth_earn_one_attempt() -> None:
    budget = Budget(0.1, burst=2)
    taken(budget)
    for _ in range(9):
        budget.request(NOW)
    assert not budget.take(NOW)
    budget.request(NOW)
    assert taken(budget) == 1


def test_a_million_requests_earn_their_share_to_the_last_one() -> None:
    """Rounding neither gives attempts away nor takes them."""
    budget = Budget(0.1, burst=2)
    granted = taken(budget)
    for _ in range(1_000_000):
        budget.request(NOW)
        granted += budget.take(NOW)
    assert granted == 2 + 100_000


def test_a_quiet_hour_does_not_pay_for_a_storm() -> None:
    budget = Budget(0.1, burst=10, per_second=0.2)
    for second in range(3600):
        budget.request(NOW + second)
    assert taken(budget, NOW + 3600) == 10


def test_time_earns_a_little_where_it_is_asked_to() -> None:
    budget, timeless = Budget(0.0, burst=10, per_second=0.2), Budget(0.0, burst=10)
    assert taken(budget) == taken(timeless) == 10
    assert taken(budget, NOW + 10.0) == 2
    assert taken(timeless, NOW + 10.0) == 0


@pytest.mark.parametrize("now", [1e9, 0.0, -1e9])
def test_the_clock_of_the_first_call_is_where_time_begins(now: float) -> None:
    budget = Budget(0.0, burst=1, per_second=1.0)
    assert budget.take(now)
    assert not budget.take(now + 0.5)
    assert budget.take(now + 1.0)


@pytest.mark.parametrize("burst", [0.0, 0.5])
def test_a_burst_below_one_grants_nothing_ever(burst: float) -> None:
    budget = Budget(1.0, burst=burst, per_second=1.0)
    for second in range(100):
        budget.request(NOW + second)
        assert not budget.take(NOW + second)


def test_an_upstream_down_for_a_minute_is_asked_little_more_than_one_that_is_well() -> None:
    """100 requests a second, each of which would retry twice."""
    budget = Budget(0.1, burst=10, per_second=0.2)
    requests = attempts = 0
    for tick in range(6000):
        now = NOW + tick / 100
        budget.request(now)
        requests += 1
        attempts += 1 + taken(budget, now, tries=2)
    assert 1.10 * requests <= attempts <= 1.15 * requests


@settings(max_examples=150, stateful_step_count=60, deadline=None)
class AnyLife(RuleBasedStateMachine):
    """Requests, attempts and time in any order, against the promise and an exact model."""

    @initialize(
        share=st.sampled_from([0.0, 0.05, 0.1, 1 / 3, 1.0]),
        burst=st.sampled_from([1.0, 2.0, 5.0, 10.0]),
        per_second=st.sampled_from([0.0, 0.2, 3.0]),
    )
    def begin(self, share: float, burst: float, per_second: float) -> None:
        self.share, self.burst, self.per_second = share, burst, per_second
        self.budget = Budget(share, burst=burst, per_second=per_second)
        self.now = self.began = NOW
        self.budget.request(self.now)
        self.requests, self.granted = 1, 0
        self.balance = burst

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        before, self.now = self.now, self.now + seconds
        earned = self.per_second * (self.now - before)
        self.balance = min(self.burst, self.balance + earned)

    @rule(count=st.integers(1, 40))
    def requests_come(self, count: int) -> None:
        for _ in range(count):
            self.budget.request(self.now)
            self.balance = min(self.burst, self.balance + self.share)
        self.requests += count

    @rule()
    def one_is_asked_for(self) -> None:
        granted = self.budget.take(self.now)
        if abs(self.balance - 1.0) > 1e-6:  # where rounding decides, either answer is right
            assert granted is (self.balance > 1.0)
        if granted:
            self.granted += 1
            self.balance -= 1.0

    @rule()
    def all_there_are_are_taken(self) -> None:
        while self.budget.take(self.now):
            self.granted += 1
            self.balance -= 1.0

    @invariant()
    def never_more_is_taken_than_was_earned(self) -> None:
        earned = self.share * self.requests + self.per_second * (self.now - self.began)
        assert self.granted <= self.burst + earned + 1e-6


TestAnyLife = AnyLife.TestCase
