"""Admission before an upstream whose answers take a while to come: it has given a place to the next
one before we know that the former is over, so a try above the limit may be taken in by chance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from proxy.core.policy.admission_limit import Ending, Grant
from tests.core.test_admission_loop import Request, World


@dataclass
class Early(World):
    """Of each answer the end is known here up to `way` seconds after the upstream has ended it."""

    way: float = 0.004
    service: float = 0.06

    def arrive(self, request: Request, grant: Grant) -> None:
        if self.running[grant.key] >= self.limit:
            self.after(self.random.uniform(0, self.travel), lambda: self.refuse(request, grant))
            return
        self.running[grant.key] += 1
        seconds = self.service * self.random.uniform(0.9, 1.1)
        self.served.append((self.now, self.now + seconds))
        self.after(seconds, lambda: self.end(request, grant))

    def end(self, request: Request, grant: Grant) -> None:
        self.free(grant.key)
        self.after(self.random.uniform(0, self.way), lambda: self.known(request, grant))

    def known(self, request: Request, grant: Grant) -> None:
        self.done.append(request)
        self.gate.release(grant, Ending.DONE, self.now)
        self.come(request.caller)


WAYS = [
    pytest.param({}, id="near"),
    pytest.param({"service": 0.8}, id="slow"),
    pytest.param({"service": 0.8, "way": 0.05, "travel": 0.05}, id="far"),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("limit", [1, 2, 3, 6])
@pytest.mark.parametrize("seed", range(4))
def test_a_try_that_was_taken_in_by_chance_costs_little(
    limit: int, seed: int, way: dict[str, Any]
) -> None:
    world = Early(limit, seed=seed, **way)
    for number in range(50):
        world.after(number * 1e-5, partial(world.come, f"caller {number}"))
    world.run(60.0)
    # What the way takes is lost whatever is decided.
    share = world.service / (world.service + world.way / 2 + world.travel / 2)
    assert world.throughput(since=1.0) >= 0.97 * share
    assert len(world.refusals) <= 50 + 100
    assert limit <= world.learned <= limit + 1
