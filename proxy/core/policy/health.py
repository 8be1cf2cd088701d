"""What is known of each candidate: how soon it answers, how often it fails, its breaker.

Times to the first token and to the first content are kept apart, and both by the request's shape,
since a prompt of 100 KB is read longer than one of 1 KB. Attempts that still run are known too: one
that is late already says that the candidate has become slow, seconds before its answer would.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from math import exp2, sqrt
from typing import Final, NamedTuple

from proxy.config import Breaker as BreakerSettings
from proxy.core.policy.breaker import Breaker
from proxy.core.policy.lessons import Kind, Sketched, scaled
from proxy.core.policy.outcome import Outcome
from proxy.core.policy.sketch import COUNT, SECONDS, LiveSketch

SIZES: Final = (4 << 10, 24 << 10, 96 << 10)
"""Bytes of the body at which the next class of sizes begins."""
CAPACITY: Final = 512
"""Candidates that are remembered."""
TOKEN_SECONDS: Final = 600.0
TOKEN_COUNT: Final = 500.0
"""Half-lives of times to the first token. They say when an attempt is late, which is a question of
the slowest few in a hundred: it takes more values than a choice does."""

_ENOUGH: Final = 1.5
"""Values that a shape must have to speak for itself; with fewer, its neighbours do."""
LENT: Final = 4.0
"""What other processes have seen never counts for more values than this."""
_HOPE: Final = 1.5
"""Standard errors by which a candidate gets the benefit of the doubt."""


class Shape(NamedTuple):
    """What of a request decides how soon it can be answered. There are eight."""

    size: int
    """0 to 3: the class of the body's size."""
    tools: bool


def shape_of(size: int, tools: bool) -> Shape:
    """The shape of a request with a body of `size` bytes, with or without `tools`."""
    return Shape(sum(size >= edge for edge in SIZES), tools)


class _Spans:
    """One kind of time, by shape."""

    __slots__ = ("_count", "_lent", "_seconds", "_shapes")

    def __init__(self, *, seconds: float, count: float) -> None:
        self._seconds, self._count = seconds, count
        self._shapes: dict[Shape, LiveSketch] = {}
        self._lent: dict[Shape, LiveSketch] = {}
        """What other processes have seen."""

    def of(self, shape: Shape) -> LiveSketch:
        """The shape's own sketch, for what is to be added."""
        own = self._shapes.get(shape)
        if own is None:
            own = self._shapes[shape] = LiveSketch(seconds=self._seconds, count=self._count)
        return own

    def weight(self, shape: Shape, now: float) -> float:
        own = self._shapes.get(shape)
        return 0.0 if own is None else own.weight(now)

    def best(self, shape: Shape, now: float) -> LiveSketch | None:
        """Who speaks for the shape: it itself, else its best known neighbour, else of all."""
        shapes = self._shapes
        own = shapes.get(shape)
        if own is not None and own.weight(now) >= _ENOUGH:
            return own
        lent = self._lent.get(shape)
        if lent is not None and lent.weight(now) >= _ENOUGH:
            return lent
        near = [known for one in _neighbours(shape) if (known := shapes.get(one)) is not None]
        best = max(near, key=lambda sketch: sketch.weight(now), default=None)
        if best is not None and best.weight(now) >= _ENOUGH:
            return best
        return max(shapes.values(), key=lambda sketch: sketch.weight(now), default=None)

    def seen(self, now: float) -> Iterator[tuple[Shape, list[tuple[int, float]]]]:
        """What this process has seen itself, of each shape that can speak for itself."""
        for shape, sketch in self._shapes.items():
            if sketch.weight(now) >= _ENOUGH:
                yield shape, sketch.weights(now)

    def lend(self, shape: Shape, weights: Sequence[tuple[int, float]], now: float) -> None:
        """What others have seen: it speaks for the shape as long as nothing of our own does."""
        lent = self._lent.get(shape)
        if lent is None:
            lent = self._lent[shape] = LiveSketch(seconds=self._seconds, count=self._count)
        lent.put(scaled(weights, LENT), now)


def _neighbours(shape: Shape) -> Iterator[Shape]:
    yield Shape(shape.size, not shape.tools)
    yield Shape(shape.size - 1, shape.tools)
    yield Shape(shape.size + 1, shape.tools)


class Ticket(NamedTuple):
    """One attempt that runs."""

    shape: Shape
    number: int


class _Running:
    """Attempts of one shape that have no content yet, in the order they began."""

    __slots__ = ("_began", "_count", "_overtaken")

    def __init__(self) -> None:
        self._began: dict[int, float] = {}
        self._count = 0
        self._overtaken = 0
        """The highest number that has ended."""

    def __len__(self) -> int:
        return len(self._began)

    def begin(self, now: float) -> int:
        self._count += 1
        self._began[self._count] = now
        return self._count

    def end(self, number: int) -> None:
        if self._began.pop(number, None) is not None:
            self._overtaken = max(self._overtaken, number)

    def oldest(self, now: float) -> float | None:
        """Seconds that the oldest has run."""
        for began in self._began.values():
            return now - began
        return None

    def late(self, expected: float, now: float) -> list[float]:
        """Seconds that those run which are late in a row: none that began after them has ended.

        One that others have overtaken is an exception, and counts when it ends: those that run
        long are found running more often than they occur.
        """
        found = []
        for number, began in self._began.items():
            if now - began <= expected:
                break
            if number > self._overtaken:
                found.append(now - began)
        return found


class Vitals:
    """One candidate.

    Each attempt calls `begin` when it is sent and `end` when its first content has come, or when
    it ended without; and of `answered` and `late` the one that applies, or neither.
    """

    __slots__ = ("_contents", "_failed", "_last", "_running", "_tokens", "_told", "breaker")

    def __init__(self, breaker: Breaker | None) -> None:
        self.breaker = breaker
        """None: the settings switch it off."""
        self._tokens = _Spans(seconds=TOKEN_SECONDS, count=TOKEN_COUNT)
        self._contents = _Spans(seconds=SECONDS, count=COUNT)
        self._running: dict[Shape, _Running] = {}
        self._failed = self._told = self._last = 0.0

    def with_breaker(self, breaker: Breaker | None) -> Vitals:
        """What is known here, from now on for both, under another breaker."""
        other = Vitals(breaker)
        other._tokens, other._contents = self._tokens, self._contents
        other._running = self._running
        other._failed, other._told, other._last = self._failed, self._told, self._last
        return other

    @property
    def is_open(self) -> bool:
        """Whether its breaker has opened, and has not been closed again."""
        return self.breaker is not None and self.breaker.retry_at is not None

    def allows(self, now: float) -> bool:
        """Whether its breaker, if it has one, lets a request through."""
        return self.breaker is None or self.breaker.allows(now)

    # --- attempts --------------------------------------------------------------------------

    def begin(self, shape: Shape, now: float) -> Ticket:
        """An attempt was sent. The ticket is for `end`."""
        running = self._running.get(shape)
        if running is None:
            running = self._running[shape] = _Running()
        return Ticket(shape, running.begin(now))

    def end(self, ticket: Ticket) -> None:
        """The attempt has its first content, or ended without. Twice is once."""
        self._running[ticket.shape].end(ticket.number)

    def answered(
        self, shape: Shape, first_token: float | None, first_content: float | None, now: float
    ) -> None:
        """Seconds from sent to the marks that were reached. Call it as soon as both are known."""
        if first_token is not None:
            self._tokens.of(shape).add(first_token, now)
        if first_content is not None:
            self._contents.of(shape).add(first_content, now)

    def late(self, shape: Shape, elapsed: float, now: float) -> None:
        """It was abandoned after `elapsed` seconds, without a token: to be told at that moment."""
        self._tokens.of(shape).at_least(elapsed, now)
        self._contents.of(shape).at_least(elapsed, now)

    def ended(self, outcome: Outcome, now: float) -> None:
        """An attempt ended, well or not; what says nothing of the candidate is not counted."""
        if outcome is Outcome.NEUTRAL:
            return
        kept = self._kept(now) * exp2(-1.0 / COUNT)
        self._told = self._told * kept + 1.0
        self._failed = self._failed * kept + (outcome is Outcome.FAILURE)
        self._last = max(self._last, now)

    # --- other processes -------------------------------------------------------------------

    def lessons(self, now: float) -> Iterator[tuple[Kind, Shape, list[tuple[int, float]]]]:
        """What this process has seen itself, and can tell others."""
        for kind, spans in self._kinds():
            for shape, weights in spans.seen(now):
                yield kind, shape, weights

    def lend(self, one: Sketched, now: float) -> None:
        """What others have seen of the candidate."""
        spans = dict(self._kinds())[one.kind]
        spans.lend(Shape(one.size, one.tools), one.weights, now)

    def _kinds(self) -> tuple[tuple[Kind, _Spans], ...]:
        return ("token", self._tokens), ("content", self._contents)

    # --- what is to be expected ------------------------------------------------------------

    def first_token(self, q: float, shape: Shape, now: float) -> float | None:
        """Seconds within which the first token of any kind comes, as a share `q` of them did."""
        sketch = self._tokens.best(shape, now)
        return None if sketch is None else sketch.quantile(q, now)

    def first_tokens(self, shape: Shape, now: float) -> float:
        """How many answers `first_token` rests on, each counted by what is left of it."""
        sketch = self._tokens.best(shape, now)
        return 0.0 if sketch is None else sketch.weight(now)

    def first_content(self, q: float, shape: Shape, now: float) -> float | None:
        """Seconds within which the first visible token comes, as a share `q` of them did.

        The fewer they were, the more hopeful. Attempts that run now, and are late by that, count as
        `late` ones do; with nothing but attempts that run, it is what the oldest has waited.
        """
        running = self._running.get(shape)
        sketch = self._contents.best(shape, now)
        expected = None
        if sketch is not None:
            expected = sketch.quantile(_hopeful(q, sketch.weight(now)), now)
        if not running:
            return expected
        if sketch is None or expected is None:
            return running.oldest(now)
        late = running.late(expected, now)
        if not late:
            return expected
        feared = sketch.copy()
        feared.at_least(late[len(late) // 2], now, weight=len(late))
        return feared.quantile(_hopeful(q, feared.weight(now)), now)

    def weight(self, shape: Shape, now: float) -> float:
        """How many answers of that shape are known; running attempts will be, and count too."""
        return self._contents.weight(shape, now) + len(self._running.get(shape, ()))

    def slower(self, shape: Shape, now: float) -> bool:
        """Whether it has become slower within the last minute."""
        sketch = self._contents.best(shape, now)
        return sketch is not None and sketch.slower(now)

    def error_rate(self, now: float) -> float:
        """Share of failures among the latest attempts, 0 to 1; of a few it is never told as 1."""
        kept = self._kept(now)
        return self._failed * kept / (self._told * kept + 1.0)

    @property
    def busy(self) -> bool:
        """Whether an attempt is under way."""
        return any(self._running.values())

    def _kept(self, now: float) -> float:
        return exp2(min(0.0, self._last - now) / SECONDS)


def _hopeful(q: float, weight: float) -> float:
    """`q`, less the error that a share found in so few values has.

    In 25 values two slow ones too many prove nothing. And what nobody asks any more is less sure by
    the second, so that one left for a few slow answers among fast ones is soon taken again.
    """
    return max(0.0, q - _HOPE * sqrt(q * (1.0 - q) / weight)) if weight > 0.0 else q


class Health:
    """All candidates that were asked lately, each by model, endpoint and whose keys are used."""

    def __init__(self, breaker: BreakerSettings | None, capacity: int = CAPACITY) -> None:
        """`breaker`: settings of each candidate's own; None switches them off."""
        self._breaker = breaker
        self._capacity = capacity
        self._vitals: OrderedDict[tuple[str, str, str | None], Vitals] = OrderedDict()

    def of(self, model: str, endpoint: str, keys: str | None) -> Vitals:
        """The candidate's vitals, new when it is not known."""
        key = model, endpoint, keys
        vitals = self._vitals.get(key)
        if vitals is None:
            self._make_room()
            vitals = self._vitals[key] = Vitals(self._new_breaker())
        else:
            self._vitals.move_to_end(key)
        return vitals

    def adopt(self, other: Health, remains: Callable[[str, str | None], bool]) -> None:
        """What `other` knows of the candidates whose endpoint and keys remain. A breaker goes on as
        it is where its settings are the same, and else begins anew."""
        for key, vitals in other:
            if remains(key[1], key[2]):
                same = self._breaker == other._breaker
                self._vitals[key] = vitals if same else vitals.with_breaker(self._new_breaker())

    def _new_breaker(self) -> Breaker | None:
        return None if self._breaker is None else Breaker(self._breaker)

    def find(self, model: str, endpoint: str, keys: str | None) -> Vitals | None:
        """The candidate's vitals, if it is known. Looking does not keep it from being forgotten."""
        return self._vitals.get((model, endpoint, keys))

    def lend(self, one: Sketched, now: float) -> None:
        """What other processes have seen of a candidate; nothing is forgotten for it."""
        if (one.model, one.endpoint, one.keys) in self._vitals or len(self) < self._capacity:
            self.of(one.model, one.endpoint, one.keys).lend(one, now)

    def __len__(self) -> int:
        return len(self._vitals)

    def __iter__(self) -> Iterator[tuple[tuple[str, str, str | None], Vitals]]:
        """Model, endpoint and keys of each candidate, with its vitals."""
        return iter(self._vitals.items())

    def _make_room(self) -> None:
        """Forget those not asked for the longest; never one with an attempt under way."""
        surplus = len(self._vitals) - self._capacity + 1
        idle = [key for key, one in self._vitals.items() if not one.busy]
        # An open breaker is the last thing to forget: else strange names would close it.
        idle.sort(key=lambda key: self._vitals[key].is_open)
        for key in idle[: max(0, surplus)]:
            del self._vitals[key]
