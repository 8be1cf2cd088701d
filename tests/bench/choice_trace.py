"""What the smart choice loses against an oracle, in simulated time: no socket, no clock.

    python -m tests.bench.choice_trace

Endpoints whose latencies change places every minute answer a stream of requests. What a request
took is known when its first content comes, not before. Every choice sees the same requests and, per
endpoint, the same luck. The seed is fixed: two runs print the same, but for the costs at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import count
from random import Random
from statistics import fmean, quantiles
from timeit import repeat
from typing import NamedTuple, Protocol

from proxy.core.policy.choice import Option, choose, prefix_of
from proxy.core.policy.health import Health, Shape, Ticket, Vitals, shape_of

SEED = 7
SECONDS = 1200.0
RATES = (0.5, 2.0, 10.0)
FAST, SLOW, SIGMA = 0.6, 3.0, 0.3
TARGET = 1.5
CONFIDENCE = 0.9
SHAPE = shape_of(2_000, False)


class Request(NamedTuple):
    """When it comes, what each endpoint would take for it, and takes for one in two."""

    at: float
    spans: tuple[float, ...]
    medians: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """The world of one table."""

    title: str
    endpoints: int = 2
    swap: float = 60.0
    """Seconds after which another endpoint is the fast one."""
    tail: float = 0.0
    """Share of answers that take 6 to 30 s, wherever they are asked."""

    def requests(self, rate: float) -> list[Request]:
        """Poisson arrivals, log-normal times."""
        random = Random(SEED)
        now, found = random.expovariate(rate), []
        while now < SECONDS:
            medians = self._medians(now)
            spans = tuple(self._span(median, random) for median in medians)
            found.append(Request(now, spans, medians))
            now += random.expovariate(rate)
        return found

    def _medians(self, now: float) -> tuple[float, ...]:
        turn = int(now // self.swap) % self.endpoints
        return tuple(FAST if place == turn else SLOW for place in range(self.endpoints))

    def _span(self, median: float, random: Random) -> float:
        span = median * math.exp(random.gauss(0.0, SIGMA))
        queued, drawn = random.uniform(6.0, 30.0), random.random()
        return queued if drawn < self.tail else span


SCENES = (
    Scene("Two endpoints change places every 60 s"),
    Scene("Three endpoints, another one is fast every 60 s", endpoints=3),
    Scene("Two endpoints change places every 60 s; 4 % of all answers take 6 to 30 s", tail=0.04),
    Scene("Nothing changes: the first of two endpoints is fast", swap=math.inf),
    Scene("Nothing changes; 4 % of all answers take 6 to 30 s", swap=math.inf, tail=0.04),
)


class Chooser(Protocol):
    """A way to choose."""

    def choose(self, request: Request) -> int:
        """The place of the endpoint."""

    def known(self, request: Request, place: int) -> tuple[float, Callable[[float], None]]:
        """When the choice learns what came of it, and what to call then."""


class Rule:
    """A choice that learns nothing."""

    def __init__(self, rule: Callable[[int, Request], int]) -> None:
        self._rule = rule
        self._count = count()

    def choose(self, request: Request) -> int:
        return self._rule(next(self._count), request)

    def known(self, request: Request, place: int) -> tuple[float, Callable[[float], None]]:
        return request.at, lambda now: None


class Smart:
    """The proxy's own choice, used as an exchange uses it."""

    def __init__(
        self,
        endpoints: int,
        target: float | None,
        *,
        running: bool = True,
        explores: bool = True,
        give_up: float = math.inf,
    ) -> None:
        """`running`: attempts that run are counted. `give_up`: attempts end after so long, and
        all that is known is that they were late; what the caller waited is counted in full."""
        health = Health(None)
        self._vitals = [health.of("glm", f"e{place}", None) for place in range(endpoints)]
        self._target, self._running, self._explores = target, running, explores
        self._give_up = give_up
        self._random = Random(SEED + 1)
        self._ticket: Ticket | None = None

    def choose(self, request: Request) -> int:
        options = [self._option(place, request.at) for place in range(len(self._vitals))]
        prefix, roll = self._random.randbytes(8), self._random.random()
        roll = roll if self._explores else 1.0
        place = choose(options, target=self._target, prefix=prefix, roll=roll).order[0]
        self._ticket = self._vitals[place].begin(SHAPE, request.at) if self._running else None
        return place

    def known(self, request: Request, place: int) -> tuple[float, Callable[[float], None]]:
        span = request.spans[place]
        end = request.at + min(span, self._give_up)
        return end, partial(_learn, self._vitals[place], self._ticket, span, self._give_up)

    def _option(self, place: int, now: float) -> Option:
        vitals = self._vitals[place]
        return Option(
            tier=0 if self._target is None else place,
            allowed=True,
            predicted=vitals.first_content(CONFIDENCE, SHAPE, now),
            weight=vitals.weight(SHAPE, now),
            rtt=None,
            id=str(place),
            slower=vitals.slower(SHAPE, now),
        )


def _learn(vitals: Vitals, ticket: Ticket | None, span: float, give_up: float, now: float) -> None:
    if ticket is not None:
        vitals.end(ticket)
    if span <= give_up:
        vitals.answered(SHAPE, span, span, now)
    else:
        vitals.late(SHAPE, give_up, now)


def run(requests: Sequence[Request], chooser: Chooser) -> list[float]:
    """What each request waited for its first content."""
    waits, numbers = [], count()
    pending: list[tuple[float, int, Callable[[float], None]]] = []
    for request in requests:
        while pending and pending[0][0] <= request.at:
            now, _, learn = heappop(pending)
            learn(now)
        place = chooser.choose(request)
        waits.append(request.spans[place])
        now, learn = chooser.known(request, place)
        heappush(pending, (now, next(numbers), learn))
    return waits


def choosers(endpoints: int) -> dict[str, Callable[[], Chooser]]:
    """Of the first table."""
    return {
        "clairvoyant": lambda: Rule(lambda _, request: _least(request.spans)),
        "oracle": lambda: Rule(lambda _, request: _least(request.medians)),
        f"smart, target {TARGET:g} s": lambda: Smart(endpoints, TARGET),
        "smart, nearest": lambda: Smart(endpoints, None),
        "fixed": lambda: Rule(lambda _, request: 0),
        "round robin": lambda: Rule(lambda number, request: number % endpoints),
    }


VARIANTS: dict[str, Callable[[], Chooser]] = {
    "as it is": lambda: Smart(2, TARGET),
    "running attempts not counted": lambda: Smart(2, TARGET, running=False),
    "given up after 2 s, known as late": lambda: Smart(2, TARGET, give_up=2.0),
    "no exploring": lambda: Smart(2, TARGET, explores=False),
    "nearest, as it is": lambda: Smart(2, None),
    "nearest, running attempts not counted": lambda: Smart(2, None, running=False),
    "nearest, given up after 2 s, known as late": lambda: Smart(2, None, give_up=2.0),
    "nearest, no exploring": lambda: Smart(2, None, explores=False),
}


def _least(figures: Sequence[float]) -> int:
    return min(range(len(figures)), key=figures.__getitem__)


def rows(scene: Scene, rate: float, kinds: dict[str, Callable[[], Chooser]]) -> Iterator[str]:
    """Lines of a table. Regret is the mean above that of the oracle."""
    requests = scene.requests(rate)
    oracle = fmean(run(requests, choosers(scene.endpoints)["oracle"]()))
    for name, make in kinds.items():
        waits = run(requests, make())
        mean, tenths = fmean(waits), quantiles(waits, n=10)
        over = sum(wait > TARGET for wait in waits) / len(waits)
        yield (
            f"| {rate:g} | {name} | {mean:.2f} | {mean - oracle:+.2f}"
            f" | {tenths[4]:.2f} | {tenths[8]:.2f} | {over:.1%} |"
        )


def print_table(title: str, lines: Iterator[str]) -> None:
    print(f"\n### {title}\n")
    print(f"| requests/s | choice | mean, s | regret, s | p50 | p90 | over {TARGET:g} s |")
    print("|--:|---|--:|--:|--:|--:|--:|")
    for line in lines:
        print(line)


# --- what it costs -----------------------------------------------------------------------------


def costs() -> Iterator[tuple[str, float]]:
    """Name and microseconds of each call; the best of nine rounds."""
    random = Random(SEED)
    spans = [FAST * math.exp(random.gauss(0.0, SIGMA)) for _ in range(1000)]
    vitals, numbers = Health(None).of("glm", "e0", None), count()
    for number, span in enumerate(spans):
        vitals.answered(SHAPE, span, span, number / 10)

    def answered() -> None:
        number = next(numbers)
        span = spans[number % 1000]
        vitals.answered(SHAPE, span, span, 100.0 + number / 10)

    yield "answered", _cost(answered)
    now = 100.0 + next(numbers) / 10
    yield "begin and end", _cost(lambda: vitals.end(vitals.begin(SHAPE, now)))
    yield "first_content", _cost(lambda: vitals.first_content(CONFIDENCE, SHAPE, now))
    yield (
        "first_content, a shape without data",
        _cost(partial(_predict, vitals, Shape(3, True), now)),
    )
    yield "first_token", _cost(lambda: vitals.first_token(CONFIDENCE, SHAPE, now))
    yield "weight", _cost(lambda: vitals.weight(SHAPE, now))
    for number in range(100):
        vitals.begin(SHAPE, now + number / 100)
    yield "first_content, 100 running", _cost(partial(_predict, vitals, SHAPE, now + 0.6))
    yield "first_content, 100 running and late", _cost(partial(_predict, vitals, SHAPE, now + 9))
    options = [Option(0, True, span, 20.0, None, str(span)) for span in (0.60, 0.62, 3.0)]
    yield (
        "choose, three options, two near",
        _cost(lambda: choose(options, target=5.0, prefix=b"12345678", roll=0.5)),
    )
    messages = [{"role": "system", "content": "x" * 2000}, {"role": "user", "content": "y" * 9000}]
    yield "prefix_of, 11 KB", _cost(lambda: prefix_of({"messages": messages}))


def _predict(vitals: Vitals, shape: Shape, now: float) -> float | None:
    return vitals.first_content(CONFIDENCE, shape, now)


def _cost(call: Callable[[], object]) -> float:
    return min(repeat(call, number=1000, repeat=9)) / 1000 * 1e6


def main() -> None:
    print(f"Log-normal times, medians {FAST:g} s and {SLOW:g} s, sigma {SIGMA:g}; {SECONDS:g} s.")
    for scene in SCENES:
        lines = (line for rate in RATES for line in rows(scene, rate, choosers(scene.endpoints)))
        print_table(scene.title, lines)
    lines = (line for rate in RATES for line in rows(SCENES[0], rate, VARIANTS))
    print_table("What contributes: two endpoints change places every 60 s", lines)
    print("\n### What it costs\n\n| call | us |\n|---|--:|")
    for name, cost in costs():
        print(f"| {name} | {cost:.1f} |")


if __name__ == "__main__":
    main()
