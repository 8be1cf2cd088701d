"""Processes with one home of state learn from each other: latencies, and limits of keys."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

from proxy.core.policy import lessons
from proxy.core.policy.lessons import Lessons
from proxy.house import House
from proxy.state.home import Home, StateError

EVERY: Final = 3.0
"""Seconds between two talks."""


class Learning:
    """From `start` to `stop`; nothing depends on it, and no request waits for it."""

    def __init__(self, home: Home, house: Callable[[], House]) -> None:
        """`house`: the one in use."""
        self._home = home
        self._house = house
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._home.kind != "memory":
            self._task = asyncio.create_task(self._go_on())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None

    async def _go_on(self) -> None:
        while True:
            with contextlib.suppress(StateError):  # the home tells by itself that it is away
                await self.talk()
            await asyncio.sleep(EVERY)

    async def talk(self) -> None:
        """Tell what is known here, and take what others tell. Raises StateError."""
        house = self._house()
        knowledge = house.knowledge
        known = lessons.chosen(house.admission.learned(), knowledge.key_groups)
        mine = Lessons(tuple(knowledge.lessons(time.monotonic())), tuple(known))
        mine = lessons.of_models(mine, _models(house))
        heard = []
        for told in await self._home.swap(lessons.text(mine)):
            with contextlib.suppress(ValueError):  # of another version, or of nobody we know
                heard.append(lessons.read(told))
        theirs = lessons.together(heard)
        house = self._house()
        house.knowledge.lend(theirs.sketches, time.monotonic())
        house.admission.lend(lessons.chosen(theirs.limits, house.knowledge.key_groups))


def _models(house: House) -> set[str]:
    """What the settings and the records of models name."""
    rules = house.config.routes
    asked = {one.model for rule in rules for one in rule.candidates if one.model is not None}
    return asked.union(house.models)
