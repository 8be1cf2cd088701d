"""The breaker of one candidate."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.config import Breaker as Settings
from proxy.core.policy.breaker import Breaker
from proxy.core.policy.outcome import Outcome

SUCCESS, FAILURE, NEUTRAL = Outcome.SUCCESS, Outcome.FAILURE, Outcome.NEUTRAL
NOW = 1000.0
MIDDLE = 0.5
"""The roll that jitters nothing."""
SETTINGS = Settings(failures=3, within=10.0, open_for=5.0)


def attempt(breaker: Breaker, outcome: Outcome, now: float, roll: float = MIDDLE) -> bool:
    """One that begins and ends at `now`; whether it was the probe."""
    assert breaker.allows(now)
    probe = breaker.start(now)
    breaker.record(outcome, now, roll, probe=probe)
    return probe


def an_open_one(now: float = NOW, roll: float = MIDDLE) -> Breaker:
    breaker = Breaker(SETTINGS)
    for _ in range(SETTINGS.failures):
        attempt(breaker, FAILURE, now, roll)
    return breaker


def cool_down(breaker: Breaker, now: float) -> float:
    assert breaker.retry_at is not None
    return breaker.retry_at - now


def test_a_new_one_is_closed_and_starts_no_probe() -> None:
    breaker = Breaker(SETTINGS)
    assert breaker.state(NOW) == "closed"
    assert breaker.retry_at is None
    assert not attempt(breaker, SUCCESS, NOW)


def test_failures_in_a_row_open_it() -> None:
    breaker = Breaker(SETTINGS)
    for _ in range(2):
        attempt(breaker, FAILURE, NOW)
        assert breaker.state(NOW) == "closed"
    attempt(breaker, FAILURE, NOW)
    assert breaker.state(NOW) == "open"
    assert not breaker.allows(NOW)


def test_one_failure_is_enough_where_the_settings_say_so() -> None:
    breaker = Breaker(Settings(failures=1))
    attempt(breaker, FAILURE, NOW)
    assert breaker.state(NOW) == "open"


def test_a_success_between_failures_starts_the_count_again() -> None:
    breaker = Breaker(SETTINGS)
    for _ in range(10):
        attempt(breaker, FAILURE, NOW)
        attempt(breaker, FAILURE, NOW)
        attempt(breaker, SUCCESS, NOW)
    assert breaker.state(NOW) == "closed"


def test_a_neutral_outcome_neither_counts_nor_starts_the_count_again() -> None:
    breaker = Breaker(SETTINGS)
    for _ in range(2):
        attempt(breaker, FAILURE, NOW)
        for _ in range(5):
            attempt(breaker, NEUTRAL, NOW)
    assert breaker.state(NOW) == "closed"
    attempt(breaker, FAILURE, NOW)
    assert breaker.state(NOW) == "open"


@pytest.mark.parametrize(("apart", "state"), [(5.0, "open"), (5.1, "closed")])
def test_failures_count_only_for_so_long(apart: float, state: str) -> None:
    breaker = Breaker(SETTINGS)
    for number in range(3):
        attempt(breaker, FAILURE, NOW + number * apart)
    assert breaker.state(NOW + 2 * apart) == state


def test_the_latest_failures_open_it_when_older_ones_have_faded() -> None:
    breaker = Breaker(SETTINGS)
    for at in (0.0, 20.0, 21.0):
        attempt(breaker, FAILURE, NOW + at)
    assert breaker.state(NOW + 21.0) == "closed"
    attempt(breaker, FAILURE, NOW + 22.0)
    assert breaker.state(NOW + 22.0) == "open"


def test_after_the_cool_down_one_probe_passes_and_no_other() -> None:
    breaker = an_open_one()
    assert not breaker.allows(NOW + 4.99)
    assert breaker.state(NOW + 5.0) == "half_open"
    assert breaker.allows(NOW + 5.0)
    assert breaker.start(NOW + 5.0)
    assert not breaker.allows(NOW + 5.0)
    assert not breaker.allows(NOW + 500.0)
    assert breaker.state(NOW + 500.0) == "half_open"


def test_asking_whether_it_allows_takes_nothing() -> None:
    breaker = an_open_one()
    assert all(breaker.allows(NOW + 5.0) for _ in range(10))
    assert breaker.start(NOW + 5.0)


def test_what_starts_without_being_allowed_is_no_probe() -> None:
    breaker = an_open_one()
    assert not breaker.start(NOW)
    assert breaker.start(NOW + 5.0)
    assert not breaker.start(NOW + 5.0)


def test_a_good_probe_closes_it_and_forgets_the_past() -> None:
    breaker = an_open_one()
    assert attempt(breaker, FAILURE, NOW + 5.0)
    now = NOW + 15.0
    assert attempt(breaker, SUCCESS, now)
    assert breaker.state(now) == "closed"
    assert breaker.retry_at is None
    for _ in range(2):
        attempt(breaker, FAILURE, now)
    assert breaker.state(now) == "closed"
    attempt(breaker, FAILURE, now)
    assert cool_down(breaker, now) == 5.0


def test_what_opened_it_once_does_not_help_to_open_it_again() -> None:
    breaker = an_open_one()
    attempt(breaker, SUCCESS, NOW + 5.0)
    for _ in range(2):
        attempt(breaker, FAILURE, NOW + 5.0)
    assert breaker.state(NOW + 5.0) == "closed"


def test_each_failed_probe_doubles_the_cool_down_up_to_twelve_times() -> None:
    breaker, now, seen = an_open_one(), NOW, [5.0]
    for _ in range(6):
        assert breaker.retry_at is not None
        now = breaker.retry_at
        assert attempt(breaker, FAILURE, now)
        assert not breaker.allows(now)
        seen.append(cool_down(breaker, now))
    assert seen == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0, 60.0]


def test_after_thousands_of_failed_probes_it_still_asks() -> None:
    breaker = an_open_one()
    for _ in range(5000):
        assert breaker.retry_at is not None
        assert attempt(breaker, FAILURE, breaker.retry_at)
    assert breaker.retry_at is not None
    assert breaker.allows(breaker.retry_at)


@pytest.mark.parametrize(("roll", "seconds"), [(0.0, 4.0), (0.25, 4.5), (0.5, 5.0), (1.0, 6.0)])
def test_a_cool_down_is_jittered_by_a_fifth(roll: float, seconds: float) -> None:
    assert cool_down(an_open_one(roll=roll), NOW) == pytest.approx(seconds)


def test_a_neutral_probe_frees_its_place_and_closes_nothing() -> None:
    """A 429, or a client that left: it was not learned whether the candidate is well."""
    breaker = an_open_one()
    assert attempt(breaker, NEUTRAL, NOW + 5.0)
    assert breaker.state(NOW + 5.0) == "half_open"
    assert breaker.retry_at == NOW + 5.0
    assert attempt(breaker, SUCCESS, NOW + 5.0)
    assert breaker.state(NOW + 5.0) == "closed"


def test_a_neutral_probe_does_not_make_the_next_cool_down_longer() -> None:
    breaker = an_open_one()
    attempt(breaker, NEUTRAL, NOW + 5.0)
    attempt(breaker, FAILURE, NOW + 5.0)
    assert cool_down(breaker, NOW + 5.0) == 10.0


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("later", [1.0, 6.0])
def test_an_attempt_from_before_it_opened_changes_nothing(outcome: Outcome, later: float) -> None:
    breaker = Breaker(SETTINGS)
    old = breaker.start(NOW)
    for _ in range(3):
        attempt(breaker, FAILURE, NOW)
    state, retry_at = breaker.state(NOW + later), breaker.retry_at
    breaker.record(outcome, NOW + later, MIDDLE, probe=old)
    assert breaker.state(NOW + later) == state != "closed"
    assert breaker.retry_at == retry_at


@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_old_attempt_does_not_free_the_place_of_the_probe(outcome: Outcome) -> None:
    breaker = Breaker(SETTINGS)
    old = breaker.start(NOW)
    for _ in range(3):
        attempt(breaker, FAILURE, NOW)
    assert breaker.start(NOW + 5.0)
    breaker.record(outcome, NOW + 5.0, MIDDLE, probe=old)
    assert not breaker.allows(NOW + 5.0)


outcomes = st.sampled_from([SUCCESS, FAILURE, FAILURE, NEUTRAL])


@settings(max_examples=150, stateful_step_count=60, deadline=None)
class AnyLife(RuleBasedStateMachine):
    """Attempts that overlap and end in any way and order, against what is promised."""

    @initialize(
        failures=st.integers(1, 4),
        within=st.sampled_from([1.0, 10.0, 60.0]),
        open_for=st.sampled_from([0.5, 5.0]),
    )
    def begin(self, failures: int, within: float, open_for: float) -> None:
        self.settings = Settings(failures=failures, within=within, open_for=open_for)
        self.breaker = Breaker(self.settings)
        self.now = NOW
        self.running: list[bool] = []
        """One for each attempt under way: whether it is the probe."""
        self.row: list[float] = []
        """When the failures since the last success, while closed, ended."""
        self.lost_probes = 0

    @property
    def state(self) -> str:
        return self.breaker.state(self.now)

    @rule(seconds=st.floats(0, 20))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.breaker.retry_at is not None)
    @rule()
    def wait_for_the_cool_down(self) -> None:
        assert self.breaker.retry_at is not None
        self.now = max(self.now, self.breaker.retry_at)

    @precondition(lambda self: self.breaker.allows(self.now))
    @rule()
    def an_attempt_starts(self) -> None:
        expected = self.state == "half_open"
        probe = self.breaker.start(self.now)
        assert probe is expected
        self.running.append(probe)

    @precondition(lambda self: self.running)
    @rule(outcome=outcomes, roll=st.floats(0, 1), data=st.data())
    def any_attempt_ends(self, outcome: Outcome, roll: float, data: st.DataObject) -> None:
        which = data.draw(st.integers(0, len(self.running) - 1))
        self.ends(self.running.pop(which), outcome, roll)

    @precondition(lambda self: any(self.running))
    @rule(outcome=outcomes, roll=st.floats(0, 1))
    def the_probe_ends(self, outcome: Outcome, roll: float) -> None:
        self.running.remove(True)
        self.ends(True, outcome, roll)

    @precondition(lambda self: self.breaker.allows(self.now))
    @rule(row=st.lists(outcomes, min_size=1, max_size=6), roll=st.floats(0, 1))
    def attempts_begin_and_end_at_once(self, row: list[Outcome], roll: float) -> None:
        for outcome in row:
            if self.breaker.allows(self.now):
                self.ends(self.breaker.start(self.now), outcome, roll)

    def ends(self, probe: bool, outcome: Outcome, roll: float) -> None:
        before, retry_at = self.state, self.breaker.retry_at
        self.breaker.record(outcome, self.now, roll, probe=probe)
        if before == "closed":
            self.ended_while_closed(outcome)
        elif probe:
            self.ended_as_the_probe(outcome)
        else:
            assert self.state == before, "an old attempt moved it"
            assert self.breaker.retry_at == retry_at

    def ended_while_closed(self, outcome: Outcome) -> None:
        if outcome is SUCCESS:
            self.row.clear()
        elif outcome is FAILURE:
            self.row.append(self.now)
        latest = self.row[-self.settings.failures :]
        enough = len(latest) == self.settings.failures
        opens = outcome is FAILURE and enough and self.now - latest[0] <= self.settings.within
        assert self.state == ("open" if opens else "closed")
        if opens:
            self.lost_probes = 0
            self.opened()

    def ended_as_the_probe(self, outcome: Outcome) -> None:
        if outcome is SUCCESS:
            assert self.state == "closed"
        elif outcome is NEUTRAL:
            assert self.state == "half_open"
            assert self.breaker.allows(self.now), "the place of the probe is lost"
        else:
            self.lost_probes += 1
            self.opened()

    def opened(self) -> None:
        self.row.clear()
        usual = self.settings.open_for * min(2**self.lost_probes, 12)
        assert 0.8 - 1e-9 <= cool_down(self.breaker, self.now) / usual <= 1.2 + 1e-9
        assert self.state == "open"

    @invariant()
    def there_is_one_probe_at_most(self) -> None:
        assert sum(self.running) <= 1

    @invariant()
    def while_a_probe_runs_nothing_else_starts(self) -> None:
        if any(self.running):
            assert self.state == "half_open"
            assert not self.breaker.allows(self.now)

    @invariant()
    def an_open_one_lets_nothing_pass(self) -> None:
        if self.state == "open":
            assert not self.breaker.allows(self.now)

    @invariant()
    def it_is_never_closed_off_for_ever(self) -> None:
        """Wherever it stands, without a probe under way a known moment comes when one may pass."""
        if not any(self.running):
            at = self.breaker.retry_at
            assert self.breaker.allows(self.now if at is None else max(at, self.now))
            assert at is None or at - self.now <= self.settings.open_for * 12 * 1.2 + 1e-9


TestAnyLife = AnyLife.TestCase
