"""Admission before an upstream with a limit that nobody tells: callers that ask again and again,
over a clock of the test's own."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from random import Random
from statistics import mean
from typing import Any

import pytest

from proxy.core.policy.admission import Gate
from proxy.core.policy.admission_limit import Ending, Grant
from proxy.core.policy.admission_queue import Ticket

SERVICE = 0.8
"""Mean seconds of an answer."""


@dataclass
class Request:
    """One request of one caller, from its arrival to its answer."""

    caller: str
    since: float
    refused: int = 0
    started: float = 0.0


@dataclass
class World:
    """Callers, one gate, and an upstream whose `limit` may be changed while it runs.

    travel      longest way of a request or a refusal, seconds
    late        longest time for which an ended request still counts at the upstream
    """

    limit: int
    seed: int = 1
    travel: float = 0.003
    late: float = 0.005
    most: int | None = None
    keys: tuple[str, ...] = ("key",)
    now: float = 0.0
    done: list[Request] = field(default_factory=list)
    served: list[tuple[float, float]] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.gate = Gate(0.0)
        self.gate.use(self.keys, self.most, 0.0)
        self.waiting: dict[Ticket, Request] = {}
        self.running = dict.fromkeys(self.keys, 0)
        self.tie = count()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.timer = float("inf")

    # --- the clock ---

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now + seconds, next(self.tie), action))

    def run(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            self.now, _, action = heapq.heappop(self.events)
            action()
            self.serve()
        self.now = until

    def serve(self) -> None:
        for ticket in self.gate.serve(self.now):
            assert ticket.grant is not None
            self.send(self.waiting.pop(ticket), ticket.grant)
        when = self.gate.look_again(self.now)
        if when is not None and not self.now < self.timer <= when:
            self.timer = when
            self.after(when - self.now, lambda: None)

    # --- a caller ---

    def ask(self, request: Request) -> None:
        grant = self.gate.enter(self.now, request.caller)
        if grant is not None:
            self.send(request, grant)
        else:
            self.waiting[self.gate.join(request.caller, request.since)] = request

    def come(self, caller: str) -> None:
        self.ask(Request(caller, self.now))

    def send(self, request: Request, grant: Grant) -> None:
        request.started = self.now
        self.after(self.random.uniform(0, self.travel), lambda: self.arrive(request, grant))

    # --- the upstream ---

    def arrive(self, request: Request, grant: Grant) -> None:
        if self.running[grant.key] >= self.limit:
            self.after(self.random.uniform(0, self.travel), lambda: self.refuse(request, grant))
            return
        self.running[grant.key] += 1
        seconds = SERVICE * self.random.lognormvariate(-0.125, 0.5)
        self.served.append((self.now, self.now + seconds))
        self.after(seconds, lambda: self.end(request, grant))

    def refuse(self, request: Request, grant: Grant) -> None:
        self.refusals.append(self.now)
        request.refused += 1
        self.gate.release(grant, Ending.REFUSED, self.now)
        self.ask(request)

    def end(self, request: Request, grant: Grant) -> None:
        self.done.append(request)
        self.after(self.random.uniform(0, self.late), lambda: self.free(grant.key))
        self.gate.release(grant, Ending.DONE, self.now)
        self.come(request.caller)

    def free(self, key: str) -> None:
        self.running[key] -= 1

    # --- what is asked of it ---

    @property
    def learned(self) -> int:
        return self.gate.figures(self.now).limit

    def throughput(self, since: float) -> float:
        """Share of the time since then in which the upstream's places were at work."""
        busy = sum(max(0.0, min(end, self.now) - max(begin, since)) for begin, end in self.served)
        return busy / (self.limit * len(self.keys) * (self.now - since))

    def run_until_learned(self, limit: int, *, within: float) -> float:
        """Seconds until the limit is found; fails when it is not."""
        begin = self.now
        while self.learned != limit:
            assert self.now < begin + within, f"{self.learned} is not {limit}"
            self.run(self.now + 0.1)
        return self.now - begin


def a_world(limit: int, callers: int = 50, **more: Any) -> World:
    """All callers come within the first millisecond, each with one request."""
    world = World(limit, **more)
    for number in range(callers):
        world.after(number * 1e-5, partial(world.come, f"caller {number}"))
    return world


WAYS = [
    pytest.param({}, id="near"),
    pytest.param({"travel": 0.0}, id="no way at all"),
    pytest.param({"travel": 0.05}, id="far"),
    pytest.param({"travel": 0.0, "late": 0.03}, id="very late"),
    pytest.param({"late": 0.0}, id="never late"),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("limit", [1, 2, 6, 20])
def test_the_limit_is_found_in_the_first_burst_and_kept(limit: int, way: dict[str, Any]) -> None:
    world = a_world(limit, **way)
    world.run(0.3)
    assert world.learned == limit
    for second in range(1, 60):
        world.run(second)
        assert limit <= world.learned <= limit + 1  # one more while a probe is out
    assert world.throughput(since=1.0) >= 0.95


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", range(3))
def test_of_50_callers_before_2_places_none_waits_much_longer_than_another(
    seed: int, way: dict[str, Any]
) -> None:
    world = a_world(2, seed=seed, **way)
    world.run(200.0)
    waits: dict[str, list[float]] = {}
    for request in world.done:
        if request.since > 60.0:  # the first burst is served one after the other
            waits.setdefault(request.caller, []).append(request.started - request.since)
    of_callers = [mean(each) for each in waits.values()]
    of_requests = [wait for each in waits.values() for wait in each]
    assert len(waits) == 50
    assert max(of_callers) < 1.25 * min(of_callers)
    assert max(of_requests) < 2 * min(of_requests)
    assert world.throughput(since=1.0) >= 0.95


def test_probing_is_rare_once_the_limit_is_known() -> None:
    world = a_world(2, late=0.0, travel=0.02)
    world.run(1000.0)
    assert sum(at > 300.0 for at in world.refusals) <= 0.01 * len(world.done)
    assert sum(at > 1.0 for at in world.refusals) <= 25


def test_a_request_is_seldom_refused_more_than_twice_after_the_first_burst() -> None:
    world = a_world(2)
    world.run(300.0)
    later = [request.refused for request in world.done if request.since > 5.0]
    assert max(later) <= 3
    assert mean(later) < 1


@pytest.mark.parametrize("way", WAYS)
def test_more_places_at_the_upstream_are_found(way: dict[str, Any]) -> None:
    world = a_world(2, **way)
    world.run(100.0)
    world.limit = 6
    world.run_until_learned(6, within=75.0)
    start = world.now + 1.0
    world.run(start + 30.0)
    assert world.throughput(since=start) >= 0.95


@pytest.mark.parametrize(("before", "after"), [(6, 2), (5, 4), (20, 1), (100, 10)])
@pytest.mark.parametrize("way", WAYS)
def test_fewer_places_at_the_upstream_are_found_by_few_refusals(
    before: int, after: int, way: dict[str, Any]
) -> None:
    world = a_world(before, callers=max(50, 2 * before), **way)
    world.run(20.0)
    refused = len(world.refusals)
    world.limit = after
    world.run_until_learned(after, within=15.0)
    assert len(world.refusals) - refused < 40 + 6 * (before - after)
    start = world.now + 3.0
    world.run(start + 30.0)
    assert world.throughput(since=start) >= 0.95


def test_a_number_that_is_too_high_is_only_a_ceiling() -> None:
    world = a_world(3, most=10)
    world.run(5.0)
    assert world.learned <= 4
    world.run(60.0)
    assert world.throughput(since=5.0) >= 0.95


def test_a_number_below_the_upstreams_is_never_exceeded() -> None:
    world = a_world(10, most=3)
    for tenth in range(300):
        world.run(tenth / 10)
        assert world.gate.in_flight <= 3
    assert not world.refusals
    assert world.learned == 3


def test_several_keys_share_the_work() -> None:
    world = a_world(2, keys=("a", "b", "c"))
    world.run(60.0)
    assert 6 <= world.learned <= 9
    assert world.throughput(since=1.0) >= 0.95


def test_a_caller_with_many_requests_does_not_starve_the_others() -> None:
    world = a_world(2, callers=5)
    for _ in range(100):
        world.after(0.0, partial(world.come, "many"))
    world.run(200.0)
    served = [request.caller for request in world.done]
    of_each = {caller: served.count(caller) for caller in set(served[20:])}
    assert len(of_each) == 6
    # Whoever has one request at a time is away while it is served; the one with many never is.
    others = [number for caller, number in of_each.items() if caller != "many"]
    assert of_each["many"] < 2.5 * min(others)
    assert max(others) < 1.2 * min(others)
