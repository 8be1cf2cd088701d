"""Run the attempts of one exchange: one after the other, or one beside another that is late.

What follows a failure, and whether a late attempt gets another beside it, is the runner's to say
(`proxy.pursuit`). Here is only the waiting: without hedging no task is made at all.
"""

from __future__ import annotations

import asyncio
from typing import Generic, Protocol, TypeVar

from proxy.core.policy.course import Start
from proxy.errors import ProxyError


class Running(Protocol):
    """One attempt, as far as a race knows it."""

    @property
    def has_failed(self) -> bool:
        """It is over, and nothing of it is an answer."""

    def close(self) -> None:
        """End it; the upstream is told. Idempotent."""


L = TypeVar("L", bound=Running)


class Runner(Protocol[L]):
    """What decides, and what makes attempts."""

    def prepare(self, start: Start) -> L:
        """A lane for an attempt that is about to be made."""

    async def run(self, lane: L) -> None:
        """Make it and wait until it has something to say, or has failed. Raises nothing else."""

    def after(self, lane: L) -> Start | None:
        """What follows its failure; None: nothing."""

    def late_in(self) -> float | None:
        """Seconds until the running attempt is late; None: it will not be hedged."""

    def beside(self) -> L | None:
        """A lane beside the late one, if there is to be one."""


class Racing(Generic[L]):
    """One race; `runner` decides."""

    def __init__(self, runner: Runner[L]) -> None:
        self._runner = runner
        self._tasks: dict[asyncio.Task[None], L] = {}
        self._owner = asyncio.current_task()
        self._stopped: ProxyError | None = None

    def stop(self, error: ProxyError) -> None:
        """End the race now, whatever it waits for: it raises `error`."""
        if self._owner is not None and self._stopped is None:
            self._stopped = error
            self._owner.cancel()

    async def one_by_one(self, first: Start) -> L:
        """The first lane that has an answer; else the one whose failure is the answer."""
        runner, start = self._runner, first
        try:
            while True:
                if start.pause:
                    await asyncio.sleep(start.pause)
                lane = runner.prepare(start)
                await runner.run(lane)
                following = runner.after(lane) if lane.has_failed else None
                if following is None:
                    return lane
                lane.close()
                start = following
        except asyncio.CancelledError:
            self._raise_if_stopped()
            raise

    async def hedged(self, first: Start) -> L:
        """As `one_by_one`, with another lane beside the first when that is late."""
        try:
            self._begin(self._runner.prepare(first), first.pause)
            while True:
                done, _ = await asyncio.wait(
                    self._tasks,
                    timeout=self._runner.late_in() if len(self._tasks) == 1 else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not done:
                    beside = self._runner.beside()
                    if beside is not None:
                        self._begin(beside, 0.0)
                    continue
                winner = self._judge(self._finished(done))
                if winner is not None:
                    return winner
        except asyncio.CancelledError:
            self._raise_if_stopped()
            raise
        finally:
            await self._end()

    def _raise_if_stopped(self) -> None:
        """A cancellation of our own is an error to tell; any other goes on."""
        if self._stopped is not None:
            assert self._owner is not None
            self._owner.uncancel()
            raise self._stopped from None

    def _begin(self, lane: L, pause: float) -> None:
        task = asyncio.get_running_loop().create_task(self._paused(lane, pause))
        self._tasks[task] = lane

    async def _paused(self, lane: L, pause: float) -> None:
        if pause:
            await asyncio.sleep(pause)
        await self._runner.run(lane)

    def _finished(self, done: set[asyncio.Task[None]]) -> list[L]:
        """The lanes that have run to their end. A defect of ours is raised, and ends them all."""
        for task in done:
            task.result()
        return [self._tasks.pop(task) for task in done]

    def _judge(self, lanes: list[L]) -> L | None:
        """The lane that ends the race, if one of these does; the others of them are closed."""
        winner = next((lane for lane in lanes if not lane.has_failed), None)
        for lane in lanes:
            if lane is winner:
                continue
            following = self._runner.after(lane) if winner is None and not self._tasks else None
            if winner is None and not self._tasks and following is None:
                winner = lane  # its failure is the answer
                continue
            lane.close()
            if following is not None:
                self._begin(self._runner.prepare(following), following.pause)
        return winner

    async def _end(self) -> None:
        """Nothing outlives its race: the losers are cancelled, and have ended when this returns."""
        tasks, self._tasks = self._tasks, {}
        for task, lane in tasks.items():
            task.cancel()
            lane.close()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)
