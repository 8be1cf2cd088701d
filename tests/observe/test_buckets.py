"""The lists of bounds, against the recommendations they come from."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from prometheus_client import CollectorRegistry, Histogram

from proxy.observe import buckets
from proxy.observe.series import BulkHistogram

# gen_ai.server.time_to_first_token and .time_per_output_token as OpenTelemetry recommends them.
OTEL_FIRST_TOKEN = {
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
}
OTEL_PER_TOKEN = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5}


def test_first_token_holds_every_recommended_bound_and_the_target() -> None:
    assert set(buckets.FIRST_TOKEN) >= OTEL_FIRST_TOKEN
    assert 5 in buckets.FIRST_TOKEN
    assert buckets.FIRST_TOKEN[-1] == 120


@pytest.mark.parametrize("bounds", [buckets.FIRST_TOKEN, buckets.DURATION])
def test_bounds_where_answers_come_are_near_to_each_other(bounds: tuple[float, ...]) -> None:
    near = [bound for bound in bounds if 0.1 <= bound <= 30]
    assert (near[0], near[-1]) == (0.1, 30)
    assert max(above / below for below, above in pairwise(near)) <= 1.2501


@pytest.mark.parametrize("median", [0.2, 0.7, 1.3, 2.2, 4.0, 6.5, 11.0])
@pytest.mark.parametrize("spread", [0.3, 0.6])
def test_a_percentile_from_the_buckets_is_within_five_per_cent(
    median: float, spread: float
) -> None:
    """As Prometheus guesses it: evenly spread within a bucket."""
    chance = random.Random(7)
    values = sorted(chance.lognormvariate(math.log(median), spread) for _ in range(20_000))
    histogram = BulkHistogram(
        "seconds", "of something", registry=CollectorRegistry(), buckets=buckets.FIRST_TOKEN
    )
    histogram.add(values)
    for share in (0.5, 0.95):
        true = values[int(share * len(values))]
        assert quantile(histogram, share) == pytest.approx(true, rel=0.05)


def quantile(histogram: BulkHistogram, share: float) -> float:
    """What `histogram_quantile` answers."""
    (family,) = histogram.collect()
    counted = [
        (float(s.labels["le"]), s.value) for s in family.samples if s.name.endswith("_bucket")
    ]
    rank = share * counted[-1][1]
    below = max((one for one in counted if one[1] < rank), default=(0.0, 0.0))
    above = min(one for one in counted if one[1] >= rank)
    return below[0] + (above[0] - below[0]) * (rank - below[1]) / (above[1] - below[1])


def test_durations_reach_from_first_tokens_to_the_longest_answers() -> None:
    assert {0.001, 5, 60, 120} <= set(buckets.DURATION)
    assert buckets.DURATION[-1] == 1800


def test_gaps_see_jitter_below_and_stalls_above_the_recommended_bounds() -> None:
    assert set(buckets.PER_TOKEN) == OTEL_PER_TOKEN
    assert set(buckets.GAP) == OTEL_PER_TOKEN | {0.001, 0.0025, 0.005, 5, 10, 30}


def test_stages_share_the_target_with_first_content() -> None:
    assert 5 in buckets.STAGE
    assert set(buckets.STAGE) <= set(buckets.FIRST_TOKEN)


def test_operation_doubles_and_tokens_quadruple() -> None:
    assert pytest.approx([0.01 * 2**step for step in range(14)]) == buckets.OPERATION
    assert tuple(4**step for step in range(14)) == buckets.TOKENS


def test_overhead_reaches_from_50_microseconds_to_100_milliseconds() -> None:
    assert (buckets.OVERHEAD[0], buckets.OVERHEAD[-1]) == (0.00005, 0.1)


@pytest.mark.parametrize("name", [name for name in vars(buckets) if name.isupper()])
def test_bounds_rise(name: str) -> None:
    bounds = getattr(buckets, name)
    assert list(bounds) == sorted(set(bounds))


def test_values_are_counted_in_the_buckets_that_the_library_would_choose() -> None:
    told = ("seconds", "of something")
    ours = BulkHistogram(*told, registry=CollectorRegistry(), buckets=buckets.FIRST_TOKEN)
    theirs = Histogram(*told, registry=CollectorRegistry(), buckets=buckets.FIRST_TOKEN)
    values = (*buckets.FIRST_TOKEN, *buckets.FIRST_TOKEN, 0.0, -1.0, 0.25, 1024.0)
    ours.add(values)
    for value in values:
        theirs.observe(value)
    (one,), (other,) = ours.collect(), theirs.collect()
    assert [s for s in one.samples if not s.name.endswith("_created")] == [
        s for s in other.samples if not s.name.endswith("_created")
    ]
