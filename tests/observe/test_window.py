"""The figures of the last minute and the last ten minutes, against the values they are made of."""

from __future__ import annotations

import gc
import random
import tracemalloc
from statistics import quantiles
from typing import Any

import pytest

from proxy.core.record import Record
from proxy.observe.window import STEPS, Window
from tests.fakes.records import a_record, a_timeline


class Clock:
    def __init__(self) -> None:
        self.now = 7_001.0

    def __call__(self) -> float:
        return self.now


WALL = 1_767_323_045.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def window(clock: Clock) -> Window:
    return Window(clock)


def stream(first_content: float, **changes: Any) -> Record:
    timeline = a_timeline(
        committed=first_content, first_token=first_content / 2, first_content=first_content
    )
    return a_record(timeline=timeline, **changes)


FAILED = a_record(
    status=502,
    outcome="upstream_failed",
    timeline=a_timeline(first_content=None, first_token=None),
)


def test_nothing_is_told_of_nothing(window: Window) -> None:
    assert window.minute() == {
        "seconds": 60,
        "rate_per_s": 0.0,
        "errors": 0,
        "ttfb_p50_s": None,
        "ttfb_p95_s": None,
        "ttft_p50_s": None,
        "first_content_p50_s": None,
        "first_content_p95_s": None,
        "slo_target_s": 5.0,
        "slo_objective": 0.95,
        "slo_share": None,
        "slo_count": 0,
    }


def test_percentiles_are_as_exact_as_they_say(window: Window, clock: Clock) -> None:
    draw = random.Random(7)
    values = [draw.lognormvariate(0.3, 1.0) for _ in range(2_000)]
    for value in values:
        window.finish(stream(value))
        clock.now += 0.02
    found = window.minute()
    exact = quantiles(values, n=20, method="inclusive")
    for name, expected in (
        ("ttfb_p50_s", exact[9]),
        ("ttfb_p95_s", exact[18]),
        ("ttft_p50_s", exact[9] / 2),
        ("first_content_p50_s", exact[9]),
        ("first_content_p95_s", exact[18]),
    ):
        assert found[name] == pytest.approx(expected, rel=0.03)
    kept = sum(value <= 5.0 for value in values)
    assert (found["slo_count"], found["slo_share"]) == (2_000, kept / 2_000)
    assert found["rate_per_s"] == pytest.approx(50.0, rel=0.01)


def test_a_failure_before_the_first_content_misses_the_objective(window: Window) -> None:
    for _ in range(3):
        window.finish(stream(1.0))
    window.finish(FAILED)
    found = window.minute()
    assert (found["errors"], found["slo_share"], found["slo_count"]) == (1, 0.75, 4)


@pytest.mark.parametrize(
    "record",
    [
        a_record(kind="passthrough", status=502, outcome="upstream_failed"),
        a_record(status=429, outcome="upstream_failed", timeline=a_timeline(first_content=None)),
        a_record(stream=False, timeline=a_timeline(first_content=None)),
        a_record(status=None, outcome="client_gone", timeline=a_timeline(first_content=None)),
    ],
)
def test_what_says_nothing_of_the_objective_does_not_count(window: Window, record: Record) -> None:
    window.finish(record)
    assert window.minute()["slo_count"] == 0


def test_only_chats_have_times_and_everything_has_a_rate(window: Window, clock: Clock) -> None:
    window.finish(a_record(kind="models"))
    clock.now += 2
    found = window.minute()
    assert (found["rate_per_s"], found["ttfb_p50_s"]) == (0.5, None)


def test_after_a_minute_it_is_forgotten_and_after_ten_it_has_left_the_history(
    window: Window, clock: Clock
) -> None:
    window.finish(stream(2.0))
    clock.now += 50
    assert window.minute()["slo_count"] == 1
    clock.now += 15
    assert window.minute()["slo_count"] == 0
    assert sum(_shown(window, "rate_per_s")) == 0.2
    clock.now += 600
    assert sum(_shown(window, "rate_per_s")) == 0.0


def test_the_history_tells_each_step_that_is_over(window: Window, clock: Clock) -> None:
    for value in (1.0, 1.0, 10.0):
        window.finish(stream(value))
    window.finish(FAILED)
    history = window.history(WALL)
    assert {len(column) for column in _columns(history)} == {STEPS}
    assert set(_columns(history)[1]) == {None}  # the first step has only begun
    clock.now += 10
    history = window.history(WALL + 10)
    times, rates, errors, middle, slow, share = (column[-2:] for column in _columns(history))
    assert times == [WALL + 4, WALL + 9]
    assert (rates, errors) == ([0.8, 0.0], [1, 0])
    assert middle[0] == pytest.approx(1.0, rel=0.03)
    assert slow[0] == pytest.approx(10.0, rel=0.03)
    assert (middle[1], slow[1], share) == (None, None, [0.5, None])


def test_the_history_is_the_same_whenever_it_is_asked_for(window: Window, clock: Clock) -> None:
    other = Window(clock)
    for number in range(300):
        for one in (window, other):
            one.finish(stream(0.5 + number % 9))
        window.history(WALL)
        clock.now += 1.3
    assert window.history(WALL) == other.history(WALL)


def test_memory_has_a_bound(window: Window, clock: Clock) -> None:
    draw = random.Random(3)
    sizes = []
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(4):
            for _ in range(2_500):
                window.finish(stream(draw.lognormvariate(0.0, 2.5)))
                clock.now += 0.3
            window.history(WALL)
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes[-1] < 3_000_000
    assert sizes[-1] < sizes[0] * 1.2


def _columns(history: dict[str, Any]) -> list[list[Any]]:
    return [column for column in history.values() if isinstance(column, list)]


def _shown(window: Window, name: str) -> list[float]:
    column = window.history(WALL)[name]
    assert isinstance(column, list)
    return [value for value in column if value is not None]
