"""When an attempt is late, and when lateness is no reason for another one."""

from __future__ import annotations

import pytest

from proxy.config import Hedge
from proxy.core.policy.health import Vitals, shape_of
from proxy.core.policy.hedging import ENOUGH, Lateness, delay

NOW = 1000.0
SHAPE = shape_of(100, False)
HEDGE = Hedge(after=0.9, min=0.1, max=5.0, budget=0.1)


def known(*seconds: float, times: int = 1) -> Vitals:
    """A candidate that answered after these, one after the other."""
    vitals = Vitals(None)
    for index in range(times):
        for one in seconds:
            vitals.answered(SHAPE, one, one, NOW + index * 0.01)
    return vitals


def test_before_enough_is_known_only_the_longest_delay_is_late() -> None:
    few = known(0.3, times=int(ENOUGH) - 2)
    assert delay(HEDGE, few, SHAPE, NOW) == HEDGE.max
    assert delay(HEDGE, Vitals(None), SHAPE, NOW) == HEDGE.max


def test_late_is_what_the_candidates_own_first_tokens_were_not() -> None:
    """Eighteen of twenty within half a second: the other two are late soon after."""
    vitals = known(*[0.5] * 18, *[3.0] * 2, times=3)
    assert 0.4 < delay(HEDGE, vitals, SHAPE, NOW + 1) < 3.3
    late_half = delay(Hedge(after=0.5, min=0.1, max=5.0, budget=0.5), vitals, SHAPE, NOW + 1)
    assert late_half == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize(("seconds", "expected"), [(0.01, HEDGE.min), (60.0, HEDGE.max)])
def test_the_delay_stays_between_floor_and_ceiling(seconds: float, expected: float) -> None:
    assert delay(HEDGE, known(seconds, times=30), SHAPE, NOW + 1) == expected


def test_the_delay_is_no_sooner_than_the_budget_can_pay_for() -> None:
    """With 5 % to spend, the slowest 5 % are hedged, not the first half of the slowest 10 %."""
    vitals = known(*[0.5] * 18, *[2.0, 4.0], times=4)
    poor = Hedge(after=0.9, min=0.1, max=9.0, budget=0.02)
    rich = Hedge(after=0.5, min=0.1, max=9.0, budget=0.5)
    assert delay(poor, vitals, SHAPE, NOW + 1) > 1.9
    assert delay(rich, vitals, SHAPE, NOW + 1) < 0.6


def test_an_attempt_that_was_given_up_in_silence_makes_the_next_delay_longer() -> None:
    vitals = known(*[0.5] * 20, times=2)
    before = delay(HEDGE, vitals, SHAPE, NOW + 1)
    for _ in range(10):
        vitals.late(SHAPE, 2.0, NOW + 1)
    assert delay(HEDGE, vitals, SHAPE, NOW + 1) >= max(2.0 * 0.9, before)


def test_where_most_are_late_no_other_call_would_help() -> None:
    lateness = Lateness()
    for _ in range(200):
        lateness.saw(late=True)
    assert lateness.is_general(HEDGE)


def test_the_share_that_is_expected_to_be_late_is_no_general_lateness() -> None:
    lateness = Lateness()
    for index in range(500):
        lateness.saw(late=index % 10 == 0)
        assert not lateness.is_general(HEDGE)


def test_general_lateness_is_seen_within_tens_of_requests_and_forgotten_so_too() -> None:
    lateness, seen, forgotten = Lateness(), 0, 0
    while not lateness.is_general(HEDGE):
        lateness.saw(late=True)
        seen += 1
    for _ in range(100):
        lateness.saw(late=True)
    while lateness.is_general(HEDGE):
        lateness.saw(late=False)
        forgotten += 1
    assert 5 <= seen <= 30
    assert forgotten <= 100
