"""The lists of bounds, against the recommendations they come from."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Histogram

from proxy.observe import buckets
from proxy.observe.instruments import BulkHistogram

# gen_ai.server.time_to_first_token and .time_per_output_token as OpenTelemetry recommends them.
OTEL_FIRST_TOKEN = {
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
}
OTEL_PER_TOKEN = {0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5}


def test_first_token_holds_every_recommended_bound_and_the_target() -> None:
    assert set(buckets.FIRST_TOKEN) >= OTEL_FIRST_TOKEN
    assert 5 in buckets.FIRST_TOKEN
    assert buckets.FIRST_TOKEN[-1] == 120


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
