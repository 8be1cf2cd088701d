"""Percentiles of values and of buckets, and when two figures agree."""

from __future__ import annotations

import math
from random import Random

import pytest

from tests.proof.agreement import SAMPLES, bucketed, counted, histogram_quantile, quantile, timed


def test_a_percentile_lies_between_its_neighbours() -> None:
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert quantile([1.0], 0.95) == 1.0
    assert quantile([0.0, 10.0], 0.95) == pytest.approx(9.5)
    with pytest.raises(ValueError, match="needs values"):
        quantile([], 0.5)


def test_a_value_on_a_bound_is_in_its_bucket() -> None:
    assert bucketed([1.0, 1.5, 9.0], [1.0, 2.0, math.inf]) == {1.0: 1, 2.0: 2, math.inf: 3}


def test_a_histograms_percentile_is_spread_evenly_in_its_bucket() -> None:
    assert histogram_quantile(0.5, {1.0: 0, 2.0: 10, math.inf: 10}) == 1.5
    assert histogram_quantile(0.5, {1.0: 10, math.inf: 10}) == 0.5
    assert histogram_quantile(0.95, {1.0: 1, math.inf: 10}) == 1.0
    assert histogram_quantile(0.5, {1.0: 0, math.inf: 0}) is None
    assert histogram_quantile(0.5, {}) is None


def test_narrow_buckets_know_a_percentile_well() -> None:
    random = Random(1)
    values = [random.lognormvariate(0.0, 0.7) for _ in range(5000)]
    bounds = [0.01 * 1.2**n for n in range(60)]
    for share in (0.5, 0.95):
        found = histogram_quantile(share, bucketed(values, bounds))
        assert found == pytest.approx(quantile(values, share), rel=0.03)


def test_times_agree_within_five_per_cent() -> None:
    values = [1.0] * SAMPLES
    assert timed("a", values, 0.5, 1.04, [1.0, 2.0]).agrees
    assert timed("a", values, 0.5, 1.06, [1.0, 2.0]).failed
    assert timed("a", values, 0.5, None, []).failed


def test_too_few_values_are_shown_and_not_judged() -> None:
    row = timed("a", [1.0] * (SAMPLES - 1), 0.5, 2.0, [1.0, 2.0])
    assert not row.agrees
    assert not row.failed
    assert "not judged" in row.note


def test_counts_agree_within_one_per_cent_or_two() -> None:
    assert counted("a", 3, 5).agrees
    assert counted("a", 3, 6).failed
    assert counted("a", 1000, 1010).agrees
    assert counted("a", 1000, 1011).failed
    assert counted("a", 0, None).agrees
    assert counted("a", 3, None).failed
