"""What is remembered of finished exchanges: the right ones, found again, and in little memory."""

from __future__ import annotations

import gc
import time
import tracemalloc
from dataclasses import replace

import pytest

from proxy.core.record import Record
from proxy.observe.exchanges import HOUR, Exchanges, Kept
from tests.fakes.records import a_record, a_timeline, an_attempt


class Clock:
    """The wall clock of a test."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def ids(found: list[Kept]) -> list[str]:
    return [kept.record.request_id for kept in found]


def good(number: int, first_content: float = 1.0) -> Record:
    return a_record(request_id=f"good-{number}", timeline=a_timeline(first_content=first_content))


def bad(number: int) -> Record:
    return a_record(request_id=f"bad-{number}", outcome="upstream_failed", status=502)


def test_the_newest_are_told_first() -> None:
    exchanges = Exchanges(3)
    for number in range(5):
        exchanges.finish(good(number))
    assert ids(exchanges.recent(10)) == ["good-4", "good-3", "good-2"]
    assert ids(exchanges.recent(2)) == ["good-4", "good-3"]
    assert exchanges.count == 5


def test_a_flood_of_good_ones_pushes_out_no_failure() -> None:
    exchanges = Exchanges(10)
    exchanges.finish(bad(0))
    exchanges.finish(bad(1))
    for number in range(1_000):
        exchanges.finish(good(number))
    assert ids(exchanges.failed(10)) == ["bad-1", "bad-0"]
    assert exchanges.find("bad-0") is not None
    assert exchanges.find("good-0") is None


@pytest.mark.parametrize(
    ("record", "failed"),
    [
        (a_record(), False),
        (a_record(outcome="client_gone", status=None), False),
        (a_record(outcome="upstream_cut"), True),
        (a_record(kind="passthrough", status=404), True),
    ],
)
def test_failed_is_what_brought_an_error_or_was_cut(record: Record, failed: bool) -> None:
    exchanges = Exchanges(10)
    exchanges.finish(record)
    assert bool(exchanges.failed(10)) is failed


def test_the_slowest_are_told_by_their_first_content_else_by_their_end() -> None:
    exchanges = Exchanges(100)
    silent = a_timeline(first_content=None, finished=7.0)
    exchanges.finish(a_record(request_id="silent", timeline=silent))
    for number, seconds in enumerate((2.0, 9.0, 4.0)):
        exchanges.finish(good(number, seconds))
    assert ids(exchanges.slowest(3)) == ["good-1", "silent", "good-2"]


def test_a_slow_one_is_kept_for_an_hour_and_no_longer() -> None:
    clock = Clock()
    exchanges = Exchanges(10, now=clock)
    exchanges.finish(good(0, 60.0))
    for minute in range(59):
        clock.now += 60
        for number in range(100):
            exchanges.finish(good(1_000 + minute * 100 + number))
    assert ids(exchanges.slowest(1)) == ["good-0"]
    assert exchanges.find("good-0") is not None
    clock.now += HOUR - 59 * 60 + 1
    assert ids(exchanges.slowest(1)) != ["good-0"]


def test_a_clock_that_is_set_back_loses_nothing() -> None:
    clock = Clock()
    exchanges = Exchanges(10, now=clock)
    exchanges.finish(good(0, 3.0))
    clock.now -= 100_000
    exchanges.finish(good(1, 2.0))
    assert ids(exchanges.slowest(5)) == ["good-0", "good-1"]


def test_of_a_repeated_id_the_newest_is_found() -> None:
    exchanges = Exchanges(3)
    exchanges.finish(replace(bad(0), request_id="same"))
    exchanges.finish(replace(good(0), request_id="same"))
    found = exchanges.find("same")
    assert found is not None
    assert (found.number, found.record.outcome) == (2, "completed")
    for number in range(10):
        exchanges.finish(good(number, 0.1))
    found = exchanges.find("same")  # the newest that is still remembered
    assert found is not None


def test_an_id_is_found_as_it_is_shown() -> None:
    exchanges = Exchanges(3)
    exchanges.finish(a_record(request_id="sk-0123456789abcdef"))
    assert exchanges.find("*") is not None


def test_what_finished_since_is_told_the_oldest_first() -> None:
    exchanges = Exchanges(3)
    assert exchanges.since(0) == []
    for number in range(2):
        exchanges.finish(good(number))
    assert ids(exchanges.since(0)) == ["good-0", "good-1"]
    assert ids(exchanges.since(1)) == ["good-1"]
    for number in range(2, 6):
        exchanges.finish(good(number))
    assert ids(exchanges.since(1)) == ["good-3", "good-4", "good-5"]
    assert exchanges.since(6) == []


def test_none_are_remembered_where_the_settings_say_none() -> None:
    exchanges = Exchanges(0)
    exchanges.finish(bad(0))
    assert (exchanges.count, exchanges.find("bad-0")) == (1, None)
    assert exchanges.recent(9) == exchanges.failed(9) == exchanges.slowest(9) == []
    assert exchanges.since(0) == []


def test_texts_that_a_client_made_endless_are_not_kept_whole() -> None:
    exchanges = Exchanges(10)
    endless = "x y" * 100_000
    exchanges.finish(
        a_record(
            method=endless,
            path=endless,
            requested_model=endless,
            served_model=endless,
            finish_reason=endless,
            upstream_code=endless,
            error=endless,
            decisions=(endless,),
            attempts=(an_attempt(model=endless, upstream_code=endless),),
        )
    )
    (kept,) = exchanges.recent(1)
    assert len(repr(kept)) < 10_000


def fresh(number: int) -> Record:
    """A record that shares nothing with another, as real ones do not."""
    model = f"glm-{number}-" + "m" * 1_000
    begun = number / 1_000
    return a_record(
        request_id=f"id-{number}",
        requested_model=model,
        timeline=a_timeline(first_content=1.0 + begun, finished=2.0 + begun, sent=0.01 + begun),
        attempts=(an_attempt(model=model, sent=100.1 + begun, ended=102.0 + begun),),
        outcome="completed" if number % 2 else "upstream_failed",
    )


def test_memory_is_flat_however_many_have_finished() -> None:
    exchanges = Exchanges(500)
    gc.collect()
    tracemalloc.start()
    try:
        sizes = []
        for turn in range(5):
            for number in range(2_000):
                exchanges.finish(fresh(turn * 2_000 + number))
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert sizes[-1] < 6_000_000  # 1,000 newest and failed, 50 slowest of these seconds
    assert sizes[-1] < sizes[0] * 1.1


def test_an_exchange_costs_microseconds() -> None:
    exchanges = Exchanges(500)
    records = [good(number, 1.0 + number % 7) for number in range(2_000)]
    best = min(_seconds_each(exchanges, records) for _ in range(5))
    assert best < 100e-6  # 4 µs on a quiet machine


def _seconds_each(exchanges: Exchanges, records: list[Record]) -> float:
    started = time.perf_counter()
    for record in records:
        exchanges.finish(record)
    return (time.perf_counter() - started) / len(records)
