"""Permits in an event loop: given, waited for, refused, given on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest

from proxy.config import Admission as Settings
from proxy.errors import TooBusy
from proxy.net import admission as module
from proxy.net.admission import Admission, Figures, Permit, Place

PLACE = Place("cn", "own", "glm-4.6")


class Hall:
    """An admission and those who ask it; `ask` is a task that ends with its permit."""

    def __init__(self, limit: Any = 1, clock: Any = time.monotonic) -> None:
        self.admission = Admission(clock)
        self.settings = Settings(limit=limit)
        self.clock = clock
        self.keys: tuple[str, ...] = ("key",)

    async def enter(
        self, caller: str = "caller", *, seconds: float = 10.0, since: float | None = None
    ) -> Permit:
        now = self.clock()
        return await self.admission.admit(
            PLACE,
            self.keys,
            self.settings,
            None,
            caller,
            since=now if since is None else since,
            deadline=now + seconds,
        )

    async def ask(self, caller: str = "caller", **how: Any) -> asyncio.Task[Permit]:
        task = asyncio.create_task(self.enter(caller, **how))
        await asyncio.sleep(0)
        return task

    def hedge(self, *, spare: bool = True) -> Permit | None:
        return self.admission.try_admit(PLACE, self.keys, self.settings, None, "ann", spare=spare)

    @property
    def figures(self) -> Figures:
        return self.admission.figures()[("cn", "glm-4.6")]


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    yield
    loop = asyncio.get_running_loop()
    assert asyncio.all_tasks(loop) == {asyncio.current_task()}


def without_suspension(hall: Hall) -> Permit:
    """Runs `admit` outside of any task: it must not wait for anything."""
    with pytest.raises(StopIteration) as ended:
        hall.enter().send(None)
    permit = ended.value.value
    assert isinstance(permit, Permit)
    return permit


async def test_where_nothing_was_refused_a_permit_takes_no_turn_of_the_loop() -> None:
    hall = Hall("learned")
    permits = [without_suspension(hall) for _ in range(500)]
    assert hall.figures == Figures(waiting=0, in_flight=500, limit=0, resting=0)
    for permit in permits:
        assert (permit.key, permit.waited) == ("key", 0.0)
        permit.release()
    assert hall.figures.in_flight == 0


async def test_a_released_permit_is_handed_over_within_the_call() -> None:
    hall = Hall(1)
    first = await hall.enter()
    tasks = [await hall.ask() for _ in range(2)]
    assert hall.figures == Figures(waiting=2, in_flight=1, limit=1, resting=0)
    first.release()
    assert hall.figures == Figures(waiting=1, in_flight=1, limit=1, resting=0)
    second = await tasks[0]
    assert second.waited > 0
    second.release()
    (await tasks[1]).release()


async def test_a_permit_is_given_back_once() -> None:
    hall = Hall(2)
    first, _second = await hall.enter(), await hall.enter()
    for refused in (False, True, False):
        first.release(refused=refused)
    assert hall.figures.in_flight == 1
    third = await hall.enter()
    first.release()
    assert hall.figures.in_flight == 2
    third.release(sent=False)


async def test_a_wait_ends_at_its_deadline() -> None:
    hall = Hall(1)
    permit = await hall.enter()
    begin = time.monotonic()
    with pytest.raises(TooBusy) as busy:
        await hall.enter(seconds=0.05)
    assert 0.04 < time.monotonic() - begin < 2.0
    assert busy.value.status == 429
    assert busy.value.retry_after == 1.0
    assert hall.figures == Figures(waiting=0, in_flight=1, limit=1, resting=0)
    permit.release()
    assert hall.figures.in_flight == 0


async def test_without_patience_a_full_place_is_refused_at_once() -> None:
    hall = Hall(1)
    permit = await hall.enter(seconds=0.0)
    with pytest.raises(TooBusy):
        hall.enter(seconds=0.0).send(None)
    permit.release()


async def test_a_wait_that_would_be_too_long_is_refused_at_once_with_the_time_it_would_take() -> (
    None
):
    now = 0.0
    hall = Hall(1, clock=lambda: now)
    permit = await hall.enter()
    now = 4.2
    permit.release()
    permit = await hall.enter()
    tasks = [await hall.ask(f"caller {n}", seconds=1000.0) for n in range(3)]
    with pytest.raises(TooBusy) as busy:
        hall.enter("new", seconds=12.0).send(None)
    assert busy.value.retry_after == 13.0  # 3 x 4.2, rounded up
    tasks.append(await hall.ask("new", seconds=13.0))
    assert hall.admission.predicted_wait(PLACE, now) == pytest.approx(5 * 4.2)
    permit.release()
    for task in tasks:
        (await task).release()


async def test_a_cancelled_wait_leaves_no_trace() -> None:
    hall = Hall(1)
    permit = await hall.enter()
    leaves, stays = await hall.ask("a"), await hall.ask("b")
    leaves.cancel()
    permit.release()  # in the same turn of the loop: it must not go to the one that leaves
    assert not stays.done()
    assert hall.figures == Figures(waiting=0, in_flight=1, limit=1, resting=0)
    (await stays).release()
    with pytest.raises(asyncio.CancelledError):
        await leaves
    assert hall.figures.in_flight == 0


async def test_one_cancelled_between_grant_and_wake_up_gives_the_permit_on() -> None:
    hall = Hall(1)
    permit = await hall.enter()
    leaves, stays = await hall.ask("a"), await hall.ask("b")
    permit.release()
    leaves.cancel()
    (await stays).release()
    assert leaves.cancelled()
    assert hall.figures == Figures(waiting=0, in_flight=0, limit=1, resting=0)


@pytest.mark.parametrize("turns", range(5))
async def test_cancelled_after_any_number_of_turns_nothing_is_lost(turns: int) -> None:
    hall = Hall(1)

    async def use() -> None:
        permit = await hall.enter()
        try:
            await asyncio.sleep(0)
        finally:
            permit.release()

    tasks = [asyncio.create_task(use()) for _ in range(6)]
    for _ in range(turns):
        await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks[1::2]] == [False] * 3
    assert hall.figures == Figures(waiting=0, in_flight=0, limit=1, resting=0)


async def test_a_request_that_was_refused_waits_and_is_let_go_before_younger_ones() -> None:
    hall = Hall("learned")
    permits = [await hall.enter(f"caller {n}", since=float(n)) for n in range(3)]
    permits[1].release(refused=True)
    assert hall.figures.limit == 2
    younger = await hall.ask("younger")
    again = await hall.ask("caller 1", since=1.0)
    permits[0].release()
    permit = await again
    assert not younger.done()
    permit.release()
    permits[2].release()
    (await younger).release()


async def test_after_a_refusal_within_the_limit_the_wait_is_short_and_ends_by_itself() -> None:
    hall = Hall(2)
    first, second = await hall.enter(), await hall.enter()
    second.release(refused=True)
    begin = time.monotonic()
    again = await hall.enter()
    assert 0.001 < time.monotonic() - begin < 1.0
    for permit in (first, again):
        permit.release()


async def test_hedges_never_wait_and_leave_places_for_others() -> None:
    hall = Hall(2)
    hedge = hall.hedge()
    assert hedge is not None
    assert hall.hedge() is None
    last = hall.hedge(spare=False)
    assert last is not None
    assert hall.hedge(spare=False) is None
    task = await hall.ask()
    hedge.release()
    assert hall.hedge(spare=False) is None
    (await task).release()
    last.release()


async def test_switched_off_nobody_waits() -> None:
    hall = Hall("off")
    permits = [without_suspension(hall) for _ in range(10)]
    hedge = hall.hedge()
    assert hedge is not None
    for permit in [*permits, hedge]:
        permit.release(refused=True)
    assert hall.figures == Figures(waiting=0, in_flight=0, limit=0, resting=0)


async def test_a_key_that_rests_gives_its_work_to_another_and_returns_by_itself() -> None:
    hall = Hall(1)
    hall.keys = ("a", "b")
    assert not hall.admission.has_other_key(PLACE, "a")
    permit = await hall.enter()
    assert permit.key == "a"
    assert hall.admission.has_other_key(PLACE, "a")
    permit.release()
    hall.admission.rest(PLACE, "a", time.monotonic() + 0.05)
    assert not hall.admission.has_other_key(PLACE, "b")
    other = await hall.enter()
    assert other.key == "b"
    assert hall.figures.resting == 1
    back = await hall.enter()
    assert back.key == "a"
    assert back.waited > 0.02
    other.release()
    back.release()


async def test_a_place_nobody_has_asked_for_knows_nothing() -> None:
    admission = Admission()
    admission.rest(PLACE, "key", 1e9)
    assert admission.predicted_wait(PLACE, 0.0) == 0.0
    assert not admission.has_other_key(PLACE, "key")
    assert admission.figures() == {}


# --- memory --------------------------------------------------------------------------------------


def visit(admission: Admission, name: str) -> Permit:
    permit = admission.try_admit(
        Place("cn", name, "glm-4.6"), ["key"], Settings(), None, name, spare=False
    )
    assert permit is not None
    return permit


async def test_places_long_unused_are_forgotten_and_busy_ones_are_not() -> None:
    now = 0.0
    admission = Admission(clock=lambda: now)
    visit(admission, "unused").release()
    busy = visit(admission, "busy")
    now = 601.0
    visit(admission, "new").release()
    assert {place.group for place in admission._doors} == {"busy", "new"}
    busy.release()


async def test_there_are_never_more_places_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PLACES", 8)
    now = 0.0
    admission = Admission(clock=lambda: now)
    busy = [visit(admission, f"busy {n}") for n in range(6)]
    for number in range(100):
        now += 1.0
        visit(admission, f"idle {number}").release()
        assert len(admission._doors) <= 8
    assert {f"busy {n}" for n in range(6)} <= {place.group for place in admission._doors}
    busy += [visit(admission, f"more {n}") for n in range(10)]
    assert len(admission._doors) <= 8
    for permit in busy:
        permit.release()
    assert all(figures.in_flight == 0 for figures in admission.figures().values())


# --- all together --------------------------------------------------------------------------------


async def test_any_mixture_of_endings_and_leaves_gives_every_permit_back() -> None:
    random = Random(7)
    hall = Hall("learned")
    running = 0
    refusals = 0

    async def use(caller: str) -> None:
        nonlocal running, refusals
        since = hall.clock()
        while True:
            permit = await hall.enter(caller, since=since)
            refused = running >= 3
            running += not refused
            try:
                await asyncio.sleep(0 if refused else random.uniform(0.0, 0.004))
            finally:
                running -= not refused
                permit.release(refused=refused)
            if not refused:
                return
            refusals += 1

    tasks = [asyncio.create_task(use(f"caller {n % 7}")) for n in range(400)]
    await asyncio.sleep(0.02)
    for task in random.sample(tasks, 150):
        task.cancel()
    done, pending = await asyncio.wait(tasks, timeout=30)
    assert not pending
    assert all(task.cancelled() or task.exception() is None for task in done)
    assert sum(not task.cancelled() for task in done) >= 250
    assert refusals >= 397
    figures = hall.figures
    assert (figures.waiting, figures.in_flight) == (0, 0)
    assert 2 <= figures.limit <= 4
