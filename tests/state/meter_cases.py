"""What every home that counts must answer: one table for memory, files and servers.

`at` is monotonic seconds since the start of a window (a multiple of 60 s on the home's clock),
`wall` unix seconds. The answer of a step is the whole `Taken`; times in it are exact to the
millisecond.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from proxy.config import Allowance
from proxy.core.policy.limits import LEASE, PLACE_AGAIN, Left, Refusal, Taken, Want

NOON: Final = 20_000 * 86_400 + 43_200.0
"""Of some day (UTC), unix seconds."""
MIDNIGHT: Final = NOON + 43_200.0


@dataclass(frozen=True, slots=True)
class Take:
    at: float
    wants: tuple[Want, ...]
    answer: Taken
    lease: str = "a"
    wall: float = NOON


@dataclass(frozen=True, slots=True)
class Settle:
    at: float
    wants: tuple[Want, ...]
    tokens: int
    lease: str = "a"
    wall: float = NOON


@dataclass(frozen=True, slots=True)
class Renew:
    at: float
    leases: tuple[str, ...] = ("a",)


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    steps: tuple[Take | Settle | Renew, ...] = field(default=())


def want(
    *,
    requests: int | None = None,
    tokens: int | None = None,
    concurrent: int | None = None,
    day: int | None = None,
    expects: int = 0,
    subject: str = "key:k",
) -> tuple[Want, ...]:
    allowance = Allowance(
        requests_per_minute=requests,
        tokens_per_minute=tokens,
        concurrent=concurrent,
        tokens_per_day=day,
    )
    return (Want(subject, allowance, expects),)


def requests_left(limit: int, remaining: int, reset: float) -> Taken:
    return Taken(requests=Left(limit, remaining, reset))


def tokens_left(limit: int, remaining: int, reset: float) -> Taken:
    return Taken(tokens=Left(limit, remaining, reset))


def no_requests(limit: int, retry_after: float, reset: float, subject: str = "key:k") -> Taken:
    return Taken(Refusal("requests", subject, retry_after), Left(limit, 0, reset))


def no_tokens(limit: int, remaining: int, retry_after: float, reset: float) -> Taken:
    return Taken(Refusal("tokens", "key:k", retry_after), tokens=Left(limit, remaining, reset))


def no_place(subject: str = "key:k") -> Taken:
    return Taken(Refusal("concurrent", subject, PLACE_AGAIN))


TWO: Final = want(requests=2)
TEN: Final = want(tokens=10, expects=4)
ONE_PLACE: Final = want(concurrent=1)
A_DAY: Final = want(day=100, expects=60)
OF_BOTH: Final = want(requests=5) + want(requests=1, subject="total")
PLACE_AND_TOTAL: Final = want(concurrent=1) + want(requests=1, subject="total")

CASES: Final = (
    Case(
        "what is not limited is not counted",
        (Take(0, want(), Taken()), Take(0, want(), Taken(), lease="b")),
    ),
    Case(
        "the last of a minute is let in, one more is not",
        (
            Take(0, TWO, requests_left(2, 1, 120)),
            Take(1, TWO, requests_left(2, 0, 119), lease="b"),
            # In the next minute the two fade: after a quarter of it they are one and a half, and
            # with one more two and a half, which is rounded down.
            Take(1, TWO, no_requests(2, 74, 119), lease="c"),
            Take(74.999, TWO, no_requests(2, 0.001, 45.001), lease="d"),
            Take(75, TWO, requests_left(2, 0, 105), lease="e"),
        ),
    ),
    Case(
        "what was used two minutes ago is forgotten",
        (
            Take(59, TWO, requests_left(2, 1, 61)),
            Take(59, TWO, requests_left(2, 0, 61), lease="b"),
            Take(120, TWO, requests_left(2, 1, 120), lease="c"),
        ),
    ),
    Case(
        "a minute that begins does not begin anew",
        (
            Take(59, TWO, requests_left(2, 1, 61)),
            Take(59, TWO, requests_left(2, 0, 61), lease="b"),
            Take(60, TWO, no_requests(2, 15, 60), lease="c"),
            Take(91.5, TWO, requests_left(2, 0, 88.5), lease="d"),
        ),
    ),
    Case(
        "what settles a request gives none back",
        (
            Take(0, TWO, requests_left(2, 1, 120)),
            Settle(1, TWO, 0),
            Take(2, TWO, requests_left(2, 0, 118), lease="b"),
            Settle(3, TWO, 0, lease="b"),
            Take(4, TWO, no_requests(2, 71, 116), lease="c"),
        ),
    ),
    Case(
        "expected tokens are counted until the true number is known",
        (
            Take(0, TEN, tokens_left(10, 6, 120)),
            Take(0, TEN, tokens_left(10, 2, 120), lease="b"),
            Take(0, TEN, no_tokens(10, 2, 71.25, 120), lease="c"),
            Settle(0, TEN, 1),
            Take(0, TEN, tokens_left(10, 1, 120), lease="c"),
        ),
    ),
    Case(
        "tokens that were more than expected are a debt of the minutes that follow",
        (
            Take(0, TEN, tokens_left(10, 6, 120)),
            Settle(30, TEN, 25),
            # 25, then 10 + 15, 10 + 5: of the minute from 120 s on five remain beside what fades.
            Take(30, TEN, no_tokens(10, 0, 141, 210), lease="b"),
            Take(170.999, TEN, no_tokens(10, 3, 0.001, 69.001), lease="b"),
            Take(171, TEN, tokens_left(10, 0, 69), lease="b"),
        ),
    ),
    Case(
        "what came back after its minute is given back in this one",
        (
            Take(59, TEN, tokens_left(10, 6, 61)),
            Take(60, TEN, tokens_left(10, 2, 120), lease="b"),
            Settle(60, TEN, 0),
            Take(60, TEN, tokens_left(10, 2, 120), lease="c"),
            Settle(60, TEN, 0, lease="b"),
            Settle(60, TEN, 0, lease="c"),
            # Never less than nothing was used: the four of the minute before still fade.
            Take(60, TEN, tokens_left(10, 2, 120), lease="d"),
        ),
    ),
    Case(
        "nothing is given back to one that has no place, and what it took is counted",
        (
            Take(0, TEN, tokens_left(10, 6, 120)),
            Settle(0, TEN, 0, lease="never let in"),
            Take(0, TEN, tokens_left(10, 2, 120), lease="b"),
            Settle(0, TEN, 0),
            Settle(0, TEN, 0),  # a second time
            Take(0, TEN, tokens_left(10, 2, 120), lease="c"),
            Settle(0, TEN, 5, lease="ended by itself"),
            Settle(0, TEN, 4, lease="c"),
            Take(0, want(tokens=10, expects=1), tokens_left(10, 0, 120), lease="d"),
        ),
    ),
    Case(
        "one that expects more than the limit is let in when nothing else is used",
        (
            Take(0, want(tokens=10, expects=30), tokens_left(10, 0, 240)),
            Take(0, want(tokens=10, expects=0), no_tokens(10, 0, 183, 240), lease="b"),
        ),
    ),
    Case(
        "one that expects nothing needs one token all the same",
        (
            Take(0, want(tokens=1, expects=0), tokens_left(1, 1, 0)),
            Settle(0, want(tokens=1, expects=0), 1),
            Take(0, want(tokens=1, expects=0), no_tokens(1, 0, 90, 120), lease="b"),
        ),
    ),
    Case(
        "a place is free again when its request is over, and only then",
        (
            Take(0, ONE_PLACE, Taken()),
            Take(0, ONE_PLACE, no_place(), lease="b"),
            Settle(5, ONE_PLACE, 0, lease="b"),  # that one has none
            Take(5, ONE_PLACE, no_place(), lease="c"),
            Settle(5, ONE_PLACE, 0),
            Take(5, ONE_PLACE, Taken(), lease="c"),
            Settle(6, ONE_PLACE, 0),  # a second time: it has none any more
            Take(6, ONE_PLACE, no_place(), lease="d"),
        ),
    ),
    Case(
        "a place that nobody renews is free by itself",
        (
            Take(0, ONE_PLACE, Taken()),
            Renew(40),
            Take(40 + LEASE - 0.001, ONE_PLACE, no_place(), lease="b"),
            Take(40 + LEASE, ONE_PLACE, Taken(), lease="b"),
            Renew(41 + LEASE),  # too late: it is another's now
            Settle(42 + LEASE, ONE_PLACE, 0),
            Take(43 + LEASE, ONE_PLACE, no_place(), lease="c"),
        ),
    ),
    Case(
        "a day has its own tokens, until midnight",
        (
            Take(0, A_DAY, Taken()),
            Settle(0, A_DAY, 50),
            Take(1, A_DAY, Taken(Refusal("day", "key:k", 43_200)), lease="b"),
            Take(1, A_DAY, Taken(Refusal("day", "key:k", 1)), lease="b", wall=MIDNIGHT - 1),
            Take(1, A_DAY, Taken(), lease="b", wall=MIDNIGHT),
        ),
    ),
    Case(
        "a wall clock that jumps moves no minute",
        (
            Take(0, TWO, requests_left(2, 1, 120)),
            Take(0, TWO, requests_left(2, 0, 120), lease="b", wall=NOON + 3600),
            Take(1, TWO, no_requests(2, 74, 119), lease="c", wall=NOON - 3600),
        ),
    ),
    Case(
        "all subjects count it, and the one with the least left is told",
        (
            Take(0, OF_BOTH, requests_left(1, 0, 120)),
            Take(0, OF_BOTH, no_requests(1, 90, 120, "total"), lease="b"),
            # The one that would have let it in has not counted it.
            Take(0, want(requests=5), requests_left(5, 3, 120), lease="c"),
        ),
    ),
    Case(
        "who is refused holds no place",
        (
            Take(0, PLACE_AND_TOTAL, requests_left(1, 0, 120)),
            Settle(0, PLACE_AND_TOTAL, 0),
            Take(0, PLACE_AND_TOTAL, no_requests(1, 90, 120, "total"), lease="b"),
            Take(0, ONE_PLACE, Taken(), lease="c"),
        ),
    ),
    Case(
        "of two limits that are reached the longer one is told",
        (
            Take(0, want(requests=1, concurrent=1), requests_left(1, 0, 120)),
            Take(0, want(requests=1, concurrent=1), no_requests(1, 90, 120), lease="b"),
            Take(
                89.5,
                want(requests=1, concurrent=1),
                # the place has ended by itself
                no_requests(1, 0.5, 30.5),
                lease="b",
            ),
        ),
    ),
    Case(
        "subjects do not count for each other",
        (
            Take(0, want(requests=1), requests_left(1, 0, 120)),
            Take(0, want(requests=1, subject="key:other"), requests_left(1, 0, 120), lease="b"),
        ),
    ),
)
