"""The sketch against an exact reckoning of the same fading values, and what it forgets."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.policy.sketch import GROWTH, HIGHEST, LOWEST, LiveSketch, Sketch

HALF_SECONDS, HALF_COUNT = 20.0, 10.0

spans = st.floats(LOWEST, HIGHEST)
weights = st.sampled_from([0.25, 1.0, 3.0])
entries = st.lists(st.tuples(spans, st.floats(0.0, 15.0), weights), min_size=1, max_size=60)
shares = st.floats(0.01, 0.99)
sketches = st.sampled_from([Sketch, LiveSketch])


def a_sketch(values: list[tuple[float, float, float]]) -> tuple[Sketch, float]:
    """A sketch of (seconds, time since the one before, weight), and the time of the last."""
    sketch, now = Sketch(seconds=HALF_SECONDS, count=HALF_COUNT), 100.0
    for seconds, gap, weight in values:
        now += gap
        sketch.add(seconds, now, weight=weight)
    return sketch, now


def exact(values: list[tuple[float, float, float]]) -> list[tuple[float, float]]:
    """(seconds, what is left of its weight), the shortest first."""
    left, age, newer = [], 0.0, 0.0
    for seconds, gap, weight in reversed(values):
        left.append((seconds, weight * 2.0 ** -(age / HALF_SECONDS + newer / HALF_COUNT)))
        age, newer = age + gap, newer + weight
    return sorted(left)


def exact_quantile(left: list[tuple[float, float]], q: float) -> float:
    total, passed = sum(weight for _, weight in left), 0.0
    for seconds, weight in left:
        passed += weight
        if passed >= q * total:
            return seconds
    return left[-1][0]


@given(entries, shares)
def test_a_quantile_is_within_half_a_bucket_of_the_exact_one(
    values: list[tuple[float, float, float]], q: float
) -> None:
    sketch, now = a_sketch(values)
    left = exact(values)
    found = sketch.quantile(q, now)
    assert found is not None
    # Where two values meet, rounding may give either; one that hardly counts any more may be gone.
    assert found >= exact_quantile(left, q - 1e-5) / math.sqrt(GROWTH) * 0.999
    assert found <= exact_quantile(left, q + 1e-5) * math.sqrt(GROWTH) * 1.001


@given(entries, st.floats(0.0, 100.0))
def test_the_weight_is_what_is_left_of_all_values(
    values: list[tuple[float, float, float]], later: float
) -> None:
    sketch, now = a_sketch(values)
    left = sum(weight for _, weight in exact(values)) * 2.0 ** (-later / HALF_SECONDS)
    assert sketch.weight(now + later) == pytest.approx(left, rel=1e-3)


@given(entries, shares, shares, sketches)
def test_quantiles_rise_with_the_share(
    values: list[tuple[float, float, float]], one: float, other: float, kind: Callable[[], Sketch]
) -> None:
    sketch, now = kind(), 0.0
    for seconds, gap, weight in values:
        now += gap
        sketch.add(seconds, now, weight=weight)
    low, high = sketch.quantile(min(one, other), now), sketch.quantile(max(one, other), now)
    assert low is not None
    assert high is not None
    assert low <= high


@given(entries, spans, shares)
def test_a_value_given_up_never_makes_a_quantile_shorter(
    values: list[tuple[float, float, float]], elapsed: float, q: float
) -> None:
    """Above `elapsed` nothing changes, and below it the share falls."""
    sketch, now = a_sketch(values)
    given_up = sketch.copy()
    given_up.at_least(elapsed, now)
    before, after = sketch.quantile(q - 1e-6, now), given_up.quantile(q + 1e-6, now)
    assert before is not None
    assert after is not None
    assert after >= min(before, elapsed / GROWTH)


@given(entries, sketches, spans)
def test_each_value_adds_its_weight_however_it_ended(
    values: list[tuple[float, float, float]], kind: Callable[..., Sketch], elapsed: float
) -> None:
    added, given_up = a_sketch(values)[0], a_sketch(values)[0]
    added.add(elapsed, 1000.0, weight=2.0)
    given_up.at_least(elapsed, 1000.0, weight=2.0)
    assert given_up.weight(1000.0) == pytest.approx(added.weight(1000.0))


def test_values_given_up_at_once_change_nothing() -> None:
    sketch = Sketch()
    for place in range(100):
        sketch.add(1.0 + place / 50, 10.0)
    before = [sketch.quantile(q, 10.0) for q in (0.1, 0.5, 0.9)]
    for _ in range(20):
        sketch.at_least(0.05, 10.0)
    assert [sketch.quantile(q, 10.0) for q in (0.1, 0.5, 0.9)] == before


def test_without_values_it_knows_nothing() -> None:
    sketch = LiveSketch()
    assert sketch.quantile(0.5, 1.0) is None
    assert sketch.weight(1.0) == 0.0


def test_what_is_long_past_is_no_longer_told() -> None:
    sketch = LiveSketch()
    for _ in range(1000):
        sketch.add(2.0, 50.0)
    assert sketch.quantile(0.9, 110.0) == pytest.approx(2.0, rel=0.06)
    assert sketch.quantile(0.9, 50.0 + 3600.0) is None
    sketch.add(9.0, 50.0 + 7200.0)
    assert sketch.quantile(0.1, 50.0 + 7200.0) == pytest.approx(9.0, rel=0.06)


def test_numbers_stay_small_over_a_million_values_and_years_of_silence() -> None:
    sketch = Sketch(seconds=1.0, count=2.0)
    now = 0.0
    for _ in range(50):
        for _ in range(100):
            sketch.add(1.0, now)
        now += 1e7
    sketch.add(1.0, now)
    assert 0.9 < sketch.weight(now) < 4.0
    assert sketch.quantile(0.5, now) == pytest.approx(1.0, rel=0.06)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 1e-9, LOWEST, HIGHEST, 1e9])
def test_values_out_of_range_count_as_the_nearest_in_range(seconds: float) -> None:
    sketch = LiveSketch()
    sketch.add(seconds, 1.0)
    found = sketch.quantile(0.5, 1.0)
    assert found is not None
    assert LOWEST <= found <= HIGHEST * GROWTH


def test_a_clock_that_stands_still_or_steps_back_is_borne() -> None:
    sketch = LiveSketch()
    sketch.add(1.0, 100.0)
    sketch.add(1.0, 90.0)
    assert sketch.weight(90.0) == pytest.approx(2.0, rel=0.1)


# --- news --------------------------------------------------------------------------------------


def lognormal(random: Random, median: float) -> float:
    return median * math.exp(random.gauss(0.0, 0.3))


def settled(random: Random, median: float) -> LiveSketch:
    sketch = LiveSketch()
    for place in range(200):
        sketch.add(lognormal(random, median), place * 0.5)
    return sketch


@pytest.mark.parametrize(("before", "after"), [(0.6, 3.0), (3.0, 0.6)])
@pytest.mark.parametrize("seed", range(20))
def test_a_change_of_latencies_is_seen_within_fifteen_requests(
    before: float, after: float, seed: int
) -> None:
    random = Random(seed)
    sketch = settled(random, before)
    now = 100.0
    for _ in range(15):
        now += 0.5
        sketch.add(lognormal(random, after), now)
    p90 = sketch.quantile(0.9, now)
    assert p90 is not None
    assert after * 0.8 < p90 < after * 2.5
    assert sketch.slower(now) is (after > before)


def test_after_a_minute_of_silence_two_values_are_enough() -> None:
    sketch = settled(Random(1), 3.0)
    sketch.add(0.6, 160.0)
    sketch.add(0.6, 161.0)
    assert sketch.quantile(0.9, 161.0) == pytest.approx(0.6, rel=0.06)


def test_a_few_long_ones_between_short_ones_are_no_news() -> None:
    sketch = settled(Random(2), 0.6)
    weight = sketch.weight(100.0)
    for place in range(3):
        sketch.add(20.0, 100.0)
        sketch.add(0.6, 100.0 + place)
    assert sketch.weight(100.0) == pytest.approx(weight, rel=0.2)
    assert not sketch.slower(102.0)
    assert sketch.quantile(0.5, 102.0) == pytest.approx(0.6, rel=0.2)


def test_values_given_up_are_news_when_they_ran_long() -> None:
    sketch = settled(Random(3), 0.6)
    p90 = sketch.quantile(0.9, 100.0)
    for _ in range(6):
        sketch.at_least(0.1, 100.0)
    assert not sketch.slower(100.0)
    assert sketch.quantile(0.9, 100.0) == p90
    for _ in range(6):
        sketch.at_least(4.0, 100.0)
    assert sketch.slower(100.0)
    found = sketch.quantile(0.1, 100.0)
    assert found is not None
    assert found > 3.5


def test_becoming_slower_is_told_for_a_minute_or_until_it_is_fast_again() -> None:
    sketch = settled(Random(4), 0.6)
    for _ in range(6):
        sketch.add(3.0, 100.0)
    assert sketch.slower(159.0)
    assert not sketch.slower(161.0)
    for _ in range(6):
        sketch.add(0.6, 110.0)
    assert not sketch.slower(111.0)


def test_a_copy_goes_its_own_way() -> None:
    sketch = settled(Random(5), 0.6)
    before = sketch.quantile(0.9, 100.0), sketch.weight(100.0)
    twin = sketch.copy()
    assert (twin.quantile(0.9, 100.0), twin.weight(100.0)) == before
    for _ in range(10):
        twin.at_least(9.0, 100.0)
    assert twin.slower(100.0)
    assert (sketch.quantile(0.9, 100.0), sketch.weight(100.0)) == before
    assert not sketch.slower(100.0)
