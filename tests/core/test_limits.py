"""The counts themselves: the table that every home answers alike, and what holds always."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Allowance
from proxy.core.policy.limits import Left, Meter, Taken, Want
from proxy.core.policy.rate_headers import rate_headers
from tests.state.meter_cases import CASES, NOON, Case, Renew, Settle, Take

START = 60.0 * 1_000_000


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_meter_answers_as_the_table_says(case: Case) -> None:
    meter = Meter()
    for step in case.steps:
        now = START + step.at
        match step:
            case Take():
                assert meter.take(step.wants, step.lease, now, step.wall) == step.answer, step
            case Settle():
                meter.settle(step.wants, step.lease, step.tokens, now, step.wall)
            case Renew():
                meter.renew(step.leases, now)


# --- what holds for any course of things ---------------------------------------------------------


def want(**limits: int) -> tuple[Want, ...]:
    return (Want("key:k", Allowance(**limits), 0),)


@pytest.mark.parametrize("limit", [1, 7, 60, 1000])
@pytest.mark.parametrize("every", [0.05, 0.33])
def test_who_always_asks_for_too_much_gets_the_limit(limit: int, every: float) -> None:
    meter, wants, minutes = Meter(), want(requests_per_minute=limit), 10
    let_in = [0] * (minutes + 1)
    for number in range(int(minutes * 60 / every)):
        now = START + number * every
        if meter.take(wants, str(number), now, 0.0).refused is None:
            let_in[int((now - START) // 60)] += 1
    assert max(let_in) <= limit
    asked = 60 / every
    assert sum(let_in) >= 0.95 * min(limit, asked) * minutes - 1


times = st.floats(0, 40, allow_nan=False).map(lambda value: round(value, 3))


@given(st.integers(1, 8), st.lists(times, min_size=1, max_size=60))
def test_no_minute_has_more_than_the_limit_and_a_wait_is_as_long_as_it_has_to_be(
    limit: int, gaps: list[float]
) -> None:
    meter, wants, now = Meter(), want(requests_per_minute=limit), START
    minutes = Counter[int]()
    for number, gap in enumerate(gaps):
        now = round(now + gap, 3)
        taken = meter.take(wants, str(number), now, 0.0)
        if taken.refused is None:
            minutes[int(now // 60)] += 1
            continue
        wait = taken.refused.retry_after
        assert wait > 0
        early = meter.take(wants, "early", round(now + wait - 0.001, 3), 0.0)
        assert early.refused is not None
        now = round(now + wait, 3)
        assert meter.take(wants, f"{number} again", now, 0.0).refused is None
        minutes[int(now // 60)] += 1
    assert max(minutes.values()) <= limit


@given(st.integers(1, 50), st.lists(st.tuples(times, st.integers(0, 200)), max_size=60))
def test_tokens_keep_to_their_limit_however_large_an_answer_is(
    limit: int, course: list[tuple[float, int]]
) -> None:
    """The mean holds: what was used more than fits into the minutes so far is paid for first."""
    meter, wants, now = Meter(), want(tokens_per_minute=limit), START
    used = largest = 0
    for number, (gap, tokens) in enumerate(course):
        now = round(now + gap, 3)
        if meter.take(wants, str(number), now, 0.0).refused is None:
            assert used <= limit * ((now - START) // 60 + 1)
            meter.settle(wants, str(number), tokens, now, 0.0)
            used += tokens
            largest = max(largest, tokens)
    assert used <= limit * ((now - START) // 60 + 1) + largest


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=50))
def test_every_place_that_is_given_back_is_free(course: list[tuple[str, bool]]) -> None:
    meter, held = Meter(lease=math.inf), set[str]()
    wants = (*want(concurrent=2), Want("total", Allowance(concurrent=3), 0))
    for lease, comes in course:
        if not comes:
            meter.settle(wants, lease, 0, START, 0.0)
            held.discard(lease)
        elif lease not in held:
            taken = meter.take(wants, lease, START, 0.0)
            assert (taken.refused is None) == (len(held) < 2)
            held |= {lease} if taken.refused is None else set()
        assert set(meter.places().values()) <= {len(held)}


def test_the_subject_that_was_used_least_recently_is_forgotten_for_a_new_one() -> None:
    meter = Meter(most=3)
    allowance = Allowance(requests_per_minute=1, concurrent=1)

    def ask(name: str) -> bool:
        return meter.take((Want(name, allowance, 0),), name, START, 0.0).refused is None

    assert [ask(name) for name in ("a", "b", "c")] == [True] * 3
    assert not ask("a")
    meter.renew(["b"], START)  # who still runs is in use
    assert ask("d")
    assert len(meter) == 3
    assert [ask("a"), ask("b"), ask("d"), ask("c")] == [False, False, False, True]
    for name in "abcd":
        meter.settle((Want(name, allowance, 0),), name, 0, START, 0.0)
    assert set(meter.places().values()) == {0}


# --- and what is told of it ----------------------------------------------------------------------


def test_openai_clients_read_durations() -> None:
    taken = Taken(None, Left(60, 59, 360.0), Left(1000, 0, 0.12))
    assert rate_headers(taken, "openai", 0.0) == [
        ("x-ratelimit-limit-requests", "60"),
        ("x-ratelimit-remaining-requests", "59"),
        ("x-ratelimit-reset-requests", "6m0s"),
        ("x-ratelimit-limit-tokens", "1000"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "120ms"),
    ]


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0ms"), (1, "1s"), (59.2, "1m0s"), (61, "1m1s"), (7200, "2h0m0s")]
)
def test_a_reset_is_told_as_go_writes_durations(seconds: float, told: str) -> None:
    headers = dict(rate_headers(Taken(requests=Left(1, 1, seconds)), "openai", 0.0))
    assert headers["x-ratelimit-reset-requests"] == told


def test_anthropic_clients_read_a_date() -> None:
    taken = Taken(tokens=Left(10, 3, 30.5))
    assert rate_headers(taken, "anthropic", NOON) == [
        ("anthropic-ratelimit-tokens-limit", "10"),
        ("anthropic-ratelimit-tokens-remaining", "3"),
        ("anthropic-ratelimit-tokens-reset", "2024-10-04T12:00:31Z"),
    ]
