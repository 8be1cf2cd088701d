"""The line of requests that wait for a stream."""

from __future__ import annotations

import asyncio
import time

import pytest

from proxy.errors import ConnectFailed, PoolExhausted
from proxy.net.waiting import WaitingLine


class Line:
    """A line, and those who stand in it by number."""

    def __init__(self) -> None:
        self.changes = 0
        self.line = WaitingLine(self._changed)
        self.served: list[int] = []

    def _changed(self) -> None:
        self.changes += 1

    async def join(
        self, number: int, *, seconds: float = 10.0, again: bool = False
    ) -> asyncio.Task[None]:
        async def stand() -> None:
            limit = time.monotonic() + seconds
            await self.line.wait(limit, lambda: PoolExhausted("late"), again=again)
            self.served.append(number)

        task = asyncio.create_task(stand())
        await asyncio.sleep(0)
        return task


async def test_promises_are_made_in_order_and_end_when_they_are_taken() -> None:
    line = Line()
    tasks = [await line.join(number) for number in range(4)]
    line.line.promise(3)
    assert (len(line.line), line.line.promised) == (1, 3)
    await asyncio.gather(*tasks[:3])
    assert line.served == [0, 1, 2]
    assert line.line.promised == 0
    line.line.promise(1)
    await tasks[3]


async def test_whoever_comes_again_goes_to_the_front() -> None:
    line = Line()
    tasks = [await line.join(0), await line.join(1, again=True)]
    line.line.promise(1)
    await tasks[1]
    assert line.served == [1]
    line.line.promise(1)
    await tasks[0]


async def test_a_promise_nobody_takes_any_more_is_free_for_the_next() -> None:
    line = Line()
    leaves, stays = await line.join(0), await line.join(1)
    line.line.promise(1)
    leaves.cancel()
    changes = line.changes
    await asyncio.wait([leaves])
    assert leaves.cancelled()
    assert line.line.promised == 0
    assert line.changes == changes + 1
    line.line.promise(1)
    await stays
    assert line.served == [1]


async def test_one_who_leaves_is_not_counted() -> None:
    line = Line()
    task = await line.join(0)
    task.cancel()
    await asyncio.wait([task])
    assert len(line.line) == 0
    line.line.promise(1)
    assert line.line.promised == 0


async def test_a_wait_ends_at_its_limit_with_the_error_made_then() -> None:
    line = Line()
    with pytest.raises(PoolExhausted, match="late"):
        await (await line.join(0, seconds=0.01))
    assert len(line.line) == 0
    line.line.promise(1)
    assert line.line.promised == 0


async def test_a_failure_reaches_everybody_with_an_error_of_their_own() -> None:
    line = Line()
    tasks = [await line.join(number) for number in range(3)]
    line.line.fail(ConnectFailed("down"))
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(error) for error in errors] == ["down"] * 3
    assert len({id(error) for error in errors}) == 3
    assert len(line.line) == line.line.promised == 0


async def test_only_a_newcomer_is_untried() -> None:
    line = Line()
    await line.join(0, again=True)
    assert not line.line.untried
    task = await line.join(1)
    assert line.line.untried
    line.line.fail(ConnectFailed("down"))
    await asyncio.wait([task])
