"""How much the smart choice loses against an oracle, in simulated time: no socket, no clock.

    python -m tests.bench.choice_trace

Endpoints whose latencies change places every minute answer a stream of requests. A result is known
when the first content comes, not before. Every choice sees the same requests and, per endpoint, the
same luck. The tables are Markdown; the seed is fixed, so two runs print the same, costs excepted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random
from statistics import fmean, quantiles
from timeit import repeat
from typing import Protocol

from proxy.core.policy.choice import Option, choose
from proxy.core.policy.health import Health, Vitals, shape_of

SEED = 7
SECONDS = 1200.0
SWAP = 60.0
FAST, SLOW, SIGMA = 0.6, 3.0, 0.3
TARGET = 1.5
CONFIDENCE = 0.9
SHAPE = shape_of(2_000, False)


@dataclass(frozen=True)
class Request:
    """One request: when it comes, and what each endpoint would take for it."""

    at: float
    spans: tuple[float, ...]
    medians: tuple[float, ...]


@dataclass(frozen=True)
class Scene:
    """The world of one table."""

    title: str
    endpoints: int = 2
    swap: float = SWAP
    tail: float = 0.0
    """Share of answers that queue for 6 to 30 s, wherever they are asked."""

    def medians(self, now: float) -> tuple[float, ...]:
        """One is fast, the others slow; after each swap it is the next."""
        turn = int(now // self.swap) % self.endpoints
        return tuple(FAST if place == turn else SLOW for place in range(self.endpoints))

    def requests(self, rate: float) -> Iterator[Request]:
        random = Random(SEED)
        now = random.expovariate(rate)
        while now < SECONDS:
            medians = self.medians(now)
            yield Request(now, tuple(self._span(one, random) for one in medians), medians)
            now += random.expovariate(rate)

    def _span(self, median: float, random: Random) -> float:
        span = median * math.exp(random.gauss(0.0, SIGMA))
        queued = random.uniform(6.0, 30.0)
        return queued if random.random() < self.tail else span


class Chooser(Protocol):
    """A way to choose; `choose` gives the endpoint's place."""

    def choose(self, request: Request) -> int: ...
    def done(self, place: int, span: float, now: float) -> None: ...


class Rule:
    """A choice that learns nothing."""

    def __init__(self, rule: Callable[[int, Request], int]) -> None:
        self._rule = rule
        self._count = 0

    def choose(self, request: Request) -> int:
        self._count += 1
        return self._rule(self._count - 1, request)

    def done(self, place: int, span: float, now: float) -> None: ...


class Smart:
    """The proxy's own, as an exchange uses it."""

    def __init__(self, endpoints: int, *, target: float | None, running: bool = True) -> None:
        health = Health(None)
        self._target = target
        self._running = running
        self._random = Random(SEED + 1)
        self._vitals = [health.of("m", f"e{place}", None) for place in range(endpoints)]
        self._tickets = [[] for _ in range(endpoints)]
        self.reasons: dict[str, int] = {}

    def choose(self, request: Request) -> int:
        now = request.at
        choice = choose(
            [self._option(place, vitals, now) for place, vitals in enumerate(self._vitals)],
            target=self._target,
            prefix=self._random.randbytes(8),
            roll=self._random.random(),
        )
        place = choice.order[0]
        self.reasons[choice.reason] = self.reasons.get(choice.reason, 0) + 1
        if self._running:
            heappush(self._tickets[place], (now + request.spans[place], self._vitals[place].begin(SHAPE, now)))
        return place

    def done(self, place: int, span: float, now: float) -> None:
        if self._running:
            self._vitals[place].end(heappop(self._tickets[place])[1])
        self._vitals[place].answered(SHAPE, span, span, now)

    def _option(self, place: int, vitals: Vitals, now: float) -> Option:
        return Option(
            tier=0 if self._target is None else place,
            allowed=True,
            predicted=vitals.first_content(CONFIDENCE, SHAPE, now),
            weight=vitals.weight(SHAPE, now),
            rtt=None,
            id=str(place),
            slower=vitals.slower(SHAPE, now),
        )


def run(requests: Sequence[Request], chooser: Chooser) -> list[float]:
    """What each request waited for its first content."""
    waits = []
    pending: list[tuple[float, int, float]] = []
    for request in requests:
        while pending and pending[0][0] <= request.at:
            done, place, span = heappop(pending)
            chooser.done(place, span, done)
        place = chooser.choose(request)
        span = request.spans[place]
        heappush(pending, (request.at + span, place, span))
        waits.append(span)
    return waits


def main() -> None:
    for scene in (
        Scene("two endpoints, swap every 60 s"),
        Scene("three endpoints, swap every 60 s", endpoints=3),
        Scene("no swap", swap=1e9),
        Scene("no swap tail", swap=1e9, tail=0.04),
        Scene("swap tail", tail=0.04),
    ):
        print(scene.title)
        for rate in (0.5, 2.0, 10.0):
            requests = list(scene.requests(rate))
            oracle=None
            for name, chooser in (
                ("clairvoyant", Rule(lambda _, r: min(range(len(r.spans)), key=r.spans.__getitem__))),
                ("oracle", Rule(lambda _, r: min(range(len(r.spans)), key=r.medians.__getitem__))),
                ("smart, target", Smart(scene.endpoints, target=TARGET)),
                ("smart, nearest", Smart(scene.endpoints, target=None)),
                ("smart, target, not running", Smart(scene.endpoints, target=TARGET, running=False)),
                ("smart, nearest, not running", Smart(scene.endpoints, target=None, running=False)),
                ("fixed", Rule(lambda _, r: 0)),
                ("round robin", Rule(lambda n, r: n % len(r.spans))),
            ):
                waits = run(requests, chooser)
                m=fmean(waits)
                if name=="oracle": oracle=m
                c = quantiles(waits, n=10)
                print(f"{rate:5} {name:28} mean {m:.3f} regret {0 if oracle is None else m-oracle:+.3f} p50 {c[4]:.2f} p90 {c[8]:.2f} over {sum(w > TARGET for w in waits)/len(waits):.1%}", getattr(chooser,'reasons',''))


if __name__ == "__main__":
    main()
