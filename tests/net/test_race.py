"""Races over scripted attempts: who wins, who is closed, and that nothing runs on afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from proxy.core.policy.course import Start
from proxy.net.race import Racing

FIRST = Start(0, "first")


class Defect(Exception):
    """A mistake of ours, in a runner."""


@dataclass(frozen=True)
class Plan:
    """What one attempt does: it waits so many turns of the loop, then ends."""

    turns: int
    fails: bool = False
    defect: bool = False
    pause: float = 0.0
    """Seconds before it begins, where it follows a failure."""


FAILS = Plan(0, fails=True)


class Lane:
    def __init__(self, plan: Plan, start: Start) -> None:
        self.plan = plan
        self.start = start
        self.has_failed = False
        self.begun = self.over = False
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


class Scripted:
    """Attempts by `plans`, in the order in which they are made. `late`: when each is late."""

    def __init__(self, *plans: Plan, late: float | None = None, beside: bool = True) -> None:
        self._plans = iter(plans)
        self._more = list(plans[1:])
        self._late = late
        self._beside = beside
        self.lanes: list[Lane] = []

    def _next(self, role: str) -> Start | None:
        return Start(0, role, self._more.pop(0).pause) if self._more else None

    def prepare(self, start: Start) -> Lane:
        lane = Lane(next(self._plans), start)
        self.lanes.append(lane)
        return lane

    async def run(self, lane: Lane) -> None:
        lane.begun = True
        try:
            for _ in range(lane.plan.turns):
                await asyncio.sleep(0)
            if lane.plan.defect:
                raise Defect
            lane.has_failed = lane.plan.fails
        finally:
            lane.over = True

    def after(self, lane: Lane) -> Start | None:
        return self._next("failover")

    def late_in(self) -> float | None:
        return self._late

    def beside(self) -> Lane | None:
        self._late = None
        start = self._next("hedge") if self._beside else None
        return None if start is None else self.prepare(start)

    @property
    def running(self) -> list[Lane]:
        return [lane for lane in self.lanes if lane.begun and not lane.over]

    @property
    def numbers_closed(self) -> list[int]:
        return [number for number, lane in enumerate(self.lanes) if lane.closed]


Way = Callable[[Racing[Lane], Start], Coroutine[Any, Any, Lane]]
HEDGED: Way = Racing.hedged
ONE_BY_ONE: Way = Racing.one_by_one
both_ways = pytest.mark.parametrize("way", [ONE_BY_ONE, HEDGED], ids=["one_by_one", "hedged"])


async def winner(way: Way, runner: Scripted) -> int:
    """The number of the attempt that the race returns."""
    lane = await way(Racing(runner), FIRST)
    assert not runner.running
    assert not asyncio.all_tasks() - {asyncio.current_task()}
    return runner.lanes.index(lane)


@both_ways
async def test_the_first_that_answers_is_the_answer(way: Way) -> None:
    runner = Scripted(Plan(3), Plan(0))
    assert await winner(way, runner) == 0
    assert len(runner.lanes) == 1
    assert runner.numbers_closed == []


@both_ways
@pytest.mark.parametrize("pause", [0.0, 0.01])
async def test_after_a_failure_the_next_is_made_and_the_failed_one_closed(
    way: Way, pause: float
) -> None:
    runner = Scripted(Plan(2, fails=True), Plan(2, pause=pause))
    assert await winner(way, runner) == 1
    assert runner.numbers_closed == [0]


@both_ways
async def test_the_last_failure_is_the_answer(way: Way) -> None:
    runner = Scripted(Plan(1, fails=True), Plan(1, fails=True), Plan(1, fails=True))
    assert await winner(way, runner) == 2
    assert runner.numbers_closed == [0, 1]


async def test_a_hedge_that_answers_sooner_wins_and_the_late_one_is_cancelled() -> None:
    runner = Scripted(Plan(10_000), Plan(2), late=0.0)
    assert await winner(HEDGED, runner) == 1
    assert runner.numbers_closed == [0]


async def test_a_late_attempt_that_answers_after_all_wins_and_the_hedge_is_cancelled() -> None:
    runner = Scripted(Plan(20), Plan(10_000), late=0.0)
    assert await winner(HEDGED, runner) == 0
    assert runner.numbers_closed == [1]


async def test_a_late_attempt_that_gets_no_hedge_is_waited_for() -> None:
    runner = Scripted(Plan(20), late=0.0, beside=False)
    assert await winner(HEDGED, runner) == 0
    assert len(runner.lanes) == 1


@pytest.mark.parametrize("turns", range(12))
async def test_of_two_that_end_at_about_the_same_turn_one_wins_and_the_other_is_closed(
    turns: int,
) -> None:
    """The hedge begins some turns later: for one of these they end within the same one."""
    runner = Scripted(Plan(12), Plan(turns), late=0.0)
    won = await winner(HEDGED, runner)
    assert runner.numbers_closed == [number for number in range(2) if number != won]


class Together(Scripted):
    """The first and its hedge end at the very same turn."""

    def __init__(self, *plans: Plan) -> None:
        super().__init__(*plans, late=0.0)
        self._gate = asyncio.Event()

    async def run(self, lane: Lane) -> None:
        if len(self.lanes) == 2 and lane is self.lanes[1]:
            asyncio.get_running_loop().call_soon(self._gate.set)
        await self._gate.wait()
        await super().run(lane)


@pytest.mark.parametrize(("fails", "expected"), [((False, True), 0), ((True, False), 1)])
async def test_of_two_that_end_in_one_turn_the_one_that_answers_wins(
    fails: tuple[bool, bool], expected: int
) -> None:
    runner = Together(*(Plan(0, fails=one) for one in fails))
    assert await winner(HEDGED, runner) == expected
    assert runner.numbers_closed == [1 - expected]


async def test_of_two_answers_in_one_turn_one_wins_and_the_other_is_closed() -> None:
    runner = Together(Plan(0), Plan(0))
    won = await winner(HEDGED, runner)
    assert runner.numbers_closed == [1 - won]


async def test_two_failures_in_one_turn_are_followed_by_one_attempt() -> None:
    runner = Together(FAILS, FAILS, Plan(1))
    assert await winner(HEDGED, runner) == 2
    assert len(runner.lanes) == 3
    assert runner.numbers_closed == [0, 1]


async def test_two_failures_in_one_turn_that_nothing_follows_are_one_answer() -> None:
    runner = Together(FAILS, FAILS)
    won = await winner(HEDGED, runner)
    assert runner.numbers_closed == [1 - won]


async def test_a_failure_beside_a_running_attempt_starts_nothing() -> None:
    runner = Scripted(Plan(8, fails=True), Plan(30), Plan(0), late=0.0)
    assert await winner(HEDGED, runner) == 1
    assert len(runner.lanes) == 2
    assert runner.numbers_closed == [0]


async def test_after_both_have_failed_there_is_a_third() -> None:
    runner = Scripted(Plan(20, fails=True), Plan(2, fails=True), Plan(3), late=0.0)
    assert await winner(HEDGED, runner) == 2
    assert runner.numbers_closed == [0, 1]


@both_ways
async def test_a_defect_of_an_attempt_is_raised(way: Way) -> None:
    with pytest.raises(Defect):
        await winner(way, Scripted(Plan(2, defect=True)))


@pytest.mark.parametrize("turns", [2, 10_000])
async def test_a_defect_ends_whatever_runs_beside_it(turns: int) -> None:
    runner = Scripted(Plan(turns), Plan(8, defect=True), late=0.0)
    if turns == 2:  # the answer was there first
        assert await winner(HEDGED, runner) == 0
        return
    with pytest.raises(Defect):
        await winner(HEDGED, runner)
    assert not runner.running
    assert runner.numbers_closed == [0, 1]


async def test_two_defects_in_one_turn_are_one_error() -> None:
    runner = Together(Plan(0, defect=True), Plan(0, defect=True))
    with pytest.raises(Defect):
        await winner(HEDGED, runner)
    assert not runner.running


@pytest.mark.parametrize("defect_first", [True, False])
async def test_a_defect_in_the_turn_of_an_answer_leaves_no_lane_open(defect_first: bool) -> None:
    plans = Plan(0, defect=True), Plan(0)
    runner = Together(*(plans if defect_first else plans[::-1]))
    with pytest.raises(Defect):
        await winner(HEDGED, runner)
    assert runner.numbers_closed == [0, 1]


SCENES: dict[str, Callable[[], Scripted]] = {
    "answer": lambda: Scripted(Plan(4)),
    "failover": lambda: Scripted(Plan(2, fails=True), Plan(2, fails=True), Plan(2)),
    "pause": lambda: Scripted(Plan(1, fails=True), Plan(1, pause=0.001)),
    "hedge_wins": lambda: Scripted(Plan(10_000), Plan(3), late=0.0),
    "hedge_loses": lambda: Scripted(Plan(12), Plan(10_000), late=0.0),
    "both_fail": lambda: Scripted(Plan(9, fails=True), Plan(3, fails=True), Plan(2), late=0.0),
    "together": lambda: Together(Plan(0), Plan(0)),
    "stubborn": lambda: Stubborn(Plan(12), Plan(10_000), late=0.0),
}


class Stubborn(Scripted):
    """Attempts that take some turns to end when they are cancelled."""

    async def run(self, lane: Lane) -> None:
        try:
            await super().run(lane)
        finally:
            lane.over = False
            try:
                for _ in range(3):
                    await asyncio.sleep(0)
            finally:
                lane.over = True


@pytest.mark.parametrize(
    ("way", "scene"),
    [(HEDGED, scene) for scene in SCENES]
    + [(ONE_BY_ONE, scene) for scene in ("answer", "failover", "pause")],
)
async def test_cancelled_at_any_turn_a_race_ends_all_of_its_attempts(way: Way, scene: str) -> None:
    for turns in count():
        runner = SCENES[scene]()
        task = asyncio.create_task(way(Racing(runner), FIRST))
        for _ in range(turns):
            await asyncio.sleep(0.0002 if scene == "pause" else 0)
            if task.done():
                break
        was_over = task.done()
        task.cancel()
        await asyncio.wait([task])
        assert not runner.running
        assert not asyncio.all_tasks() - {asyncio.current_task()}
        if was_over:
            won = task.result()
            assert all(bool(lane.closed) != (lane is won) for lane in runner.lanes)
            return
        assert task.cancelled()
        assert turns < 200
        if way is HEDGED:  # lanes that still ran; one that had just won is its caller's to close
            assert len(runner.numbers_closed) >= len(runner.lanes) - 1
