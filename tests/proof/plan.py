"""What the load client sends, and when: a pure function of a size and a seed.

The times of most answers are in their requests, drawn here from smooth distributions, so that a
percentile is not a matter of chance: a histogram knows a value no better than its bucket. Where two
attempts must differ (hedges, failover) the simulator's profile draws them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from random import Random
from typing import Any, Final

from proxy.simulator.anthropic import TOKENS_PER_DELTA
from tests.proof.faults import KEY_REFUSED, KINDS, NOTHING, Kind

TIME_SCALE: Final = 0.5
"""Of the simulator; what requests ask for is divided by it."""

USUAL_LONGEST: Final = 9.0
"""Seconds after which even the slowest answers have begun, of those whose requests say when."""

CHAT: Final = "/v1/chat/completions"
MESSAGES: Final = "/v1/messages"

MODELS: Final[Mapping[str, str]] = {
    "plain": "glm-4.6",
    "http1": "glm-4-airx",
    "early": "glm-4.7",
    "fast-chat": "glm-4.5",
    "hedged": "glm-4.5-x",
    "failover": "glm-4.5-airx",
    "limited": "glm-4.5-flash",
    "shared": "glm-4-plus",
    "told": "glm-4-long",
    "folded": "glm-4.5-air",
    "pooled": "glm-5",
    "default": "glm-4-air",
}
"""By route, the model that leads a request to it."""

_SHARES: Final = (
    *(("plain", 0.34), ("http1", 0.15), ("early", 0.08), ("fast-chat", 0.10), ("hedged", 0.11)),
    *(("failover", 0.08), ("told", 0.03), ("folded", 0.02), ("pooled", 0.02), ("default", 0.03)),
    *(("shared", 0.015), ("other", 0.025)),
)
_OWN_TIMES: Final = frozenset(
    {"plain", "http1", "early", "told", "folded", "default", "pooled", "limited"}
)
"""Routes whose first token comes when the request says."""
_RULED: Final = frozenset({"failover", "shared"})
"""Routes whose requests say nothing, so that the upstream's rules hold for them, or so that two of
them are the same."""
_FAULTY: Final = {"plain": 0.3, "http1": 0.3, "early": 0.35, "default": 0.15, "fast-chat": 0.08}
_LEAVES: Final = {"plain": 0.09, "http1": 0.07, "early": 0.08}
_STAGES: Final = ("streaming", "waiting", "reading")
_KEYS: Final = 7
_NO_FAULT: Final = Kind("", {})
_SILENT: Final = Kind("", {})
"""The request says nothing, not even its times: the upstream's rules hold for it."""


@dataclass(frozen=True, slots=True)
class Leave:
    """A client that does not wait for the end."""

    stage: str
    """What the proxy is doing then, if all goes as meant."""
    events: int | None = None
    """After so many events."""
    after: float | None = None
    """After so many seconds."""


@dataclass(frozen=True, slots=True)
class Shot:
    """One exchange to be made."""

    number: int
    at: float
    """Seconds after the start."""
    proxy: int
    """Which of the two."""
    route: str
    """The route that takes it; of other requests than chats `none` or `default`."""
    path: str
    body: bytes | None = field(repr=False)
    headers: Mapping[str, str]
    method: str = "POST"
    chat: bool = True
    stream: bool = True
    leave: Leave | None = None
    fault: str = ""
    first: str = "proof"

    @property
    def id(self) -> str:
        """Of the exchange, in every header and log."""
        return f"{self.first}-{self.number}"


def shots(count: int, rate: float, seed: int, longest: float = USUAL_LONGEST) -> list[Shot]:
    """So many exchanges, `rate` a second, in the order of their moments.

    `longest`: no answer that says its own times begins later than after so many seconds.
    """
    planner = _Planner(Random(seed), longest)
    length = count / rate
    return sorted([*planner.musts(length), *planner.rest(count, length)], key=lambda one: one.at)


def warming(count: int) -> list[Shot]:
    """A few plain ones for the proxy that is then started again."""
    planner = _Planner(Random(0), 0.5)
    return [planner.shot("plain", number * 0.05, proxy=1, first="warm") for number in range(count)]


class _Planner:
    def __init__(self, random: Random, longest: float) -> None:
        self._random = random
        self._longest = longest
        self._number = 0
        kinds = list(KINDS)
        self._random.shuffle(kinds)
        self._kinds = {
            route: cycle(kinds[n * 7 :] + kinds[: n * 7]) for n, route in enumerate(_FAULTY)
        }
        self._stages = cycle(_STAGES)

    def musts(self, length: float) -> list[Shot]:
        """What every run has, however small: each fault, each way to leave, a storm, full lines."""
        random = self._random
        planned = [self._with(kind, random.uniform(0, length)) for kind in KINDS]
        planned.append(self.shot("pooled", 0.1 * length, kind=KEY_REFUSED))
        for stage in _STAGES:
            for route in _LEAVES:
                at = random.uniform(0, length)
                planned.append(self.shot(route, at, kind=_NO_FAULT, leave=self._leave(stage)))
        # Hedges that are all late: their budget is soon spent. Those in the Anthropic dialect say
        # before the first token what they cost.
        late = Kind("", {"first_token": 1.8 / TIME_SCALE, "tokens": 10})
        storm = 0.15 * length
        for n in range(24):
            at = storm + n * 0.05
            planned.append(self.shot("hedged", at, kind=late, claude=True, proxy=0))
        # Late at one endpoint alone, by a rule of its: the hedge wins.
        for n in range(8):
            planned.append(self.shot("hedged", (0.1 + 0.1 * n) * length, kind=_SILENT))
        # Late, then given up by the upstream with a bill: what both attempts cost is known.
        billed = Kind("", {**NOTHING, "first_token": 1.2 / TIME_SCALE, "finish_reason": "abort"})
        for n in range(6):
            planned.append(self.shot("hedged", (0.75 + 0.03 * n) * length, kind=billed))
        for route in MODELS:
            planned.append(self.shot(route, random.uniform(0, length), kind=_NO_FAULT))
        # One conversation: what was said in it is told to the model.
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):
            planned.append(self.shot("told", share * length, kind=_NO_FAULT, proxy=0))
        # One question: from the second time on it is answered from the cache.
        for share in (0.2, 0.5, 0.8):
            planned.append(self.shot("pooled", share * length, kind=_SILENT, proxy=0))
        planned += [self._other(share * length, 0, _RESUMED) for share in (0.3, 0.7)]
        shared = random.uniform(0, length)
        planned += [self.shot("shared", shared, proxy=0) for _ in range(2)]
        for share in (0.05, 0.25, 0.5, 0.8):
            planned += self._crowd(share * length)
        return planned

    def rest(self, count: int, length: float) -> list[Shot]:
        """Independent arrivals until there are `count` in all."""
        random = self._random
        names, weights = zip(*_SHARES, strict=True)
        planned: list[Shot] = []
        left = count - self._number
        for at in sorted(random.uniform(0, length) for _ in range(left)):
            if self._number >= count:
                break
            route = random.choices(names, weights)[0]
            proxy = random.randrange(2)
            if route == "other":
                planned.append(self._other(at, proxy))
                continue
            planned.append(self.shot(route, at, proxy=proxy))
            if route == "shared":  # the same question, while the first is being answered
                planned.append(self.shot(route, at + 0.01, proxy=proxy))
        return planned

    def _with(self, kind: Kind, at: float) -> Shot:
        """A fault where it can be played: some are words of HTTP/1.1."""
        route = "http1" if "wire" in kind.fields else self._random.choice(("plain", "http1"))
        return self.shot(route, at, kind=kind)

    def _crowd(self, at: float) -> Iterator[Shot]:
        """More of one key than its limit at once: some wait, some are refused, one leaves."""
        proxy = self._random.randrange(2)
        for n in range(10):
            leave = Leave("admission", after=0.25) if n == 7 else None
            yield self.shot("limited", at + n * 0.02, proxy=proxy, leave=leave)

    def shot(
        self,
        route: str,
        at: float,
        *,
        proxy: int | None = None,
        kind: Kind | None = None,
        leave: Leave | None = None,
        claude: bool = False,
        first: str = "proof",
    ) -> Shot:
        """One chat."""
        random, number = self._random, self._next()
        if kind is None and first == "proof":
            kind = self._kind(route)
            if kind is None and leave is None and random.random() < _LEAVES.get(route, 0.0):
                leave = self._leave(next(self._stages))
        stream = route != "folded" and not (route == "default" and random.random() < 0.5)
        claude = claude or (route in ("plain", "hedged") and random.random() < 0.2)
        simulate = self._times(route, leave, claude, kind is _SILENT)
        simulate |= dict(kind.fields) if kind else {}
        body = {
            "model": MODELS[route],
            "stream": stream,
            "messages": [{"role": "user", "content": _prompt(route, number)}],
            **({"simulate": simulate} if simulate else {}),
            **({"max_tokens": 2000} if claude else {}),
        }
        if route in ("hedged", "limited", "failover"):
            body["thinking"] = {"type": "disabled"}
        return Shot(
            number=number,
            at=at,
            proxy=random.randrange(2) if proxy is None else proxy,
            # Of a body that does not come it is not known where it leads.
            route="none" if leave is not None and leave.stage == "reading" else route,
            path=MESSAGES if claude else CHAT,
            body=json.dumps(body).encode(),
            headers={
                **_headers(self._key(route, kind)),
                **({"x-session-id": "one"} if route == "told" else {}),
                **(kind.headers if kind else {}),
            },
            stream=stream,
            leave=leave,
            fault=kind.name if kind else "",
            first=first,
        )

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _key(self, route: str, kind: Kind | None) -> str:
        """Whose request it is: a fault must not spoil the limits of others."""
        if kind is not None and kind.name:
            return f"odd-{self._number}"
        own = ("limited", "shared", "told", "pooled")
        return route if route in own else f"{route}-{self._number % _KEYS}"

    def _kind(self, route: str) -> Kind | None:
        if self._random.random() >= _FAULTY.get(route, 0.0):
            return None
        kind = next(self._kinds[route])
        while "wire" in kind.fields and route != "http1":  # it is a text of HTTP/1.1
            kind = next(self._kinds[route])
        return kind

    def _leave(self, stage: str) -> Leave:
        if stage == "streaming":
            return Leave(stage, events=self._random.randrange(3, 9))
        return Leave(stage, after=self._random.uniform(0.15, 0.4))

    def _times(self, route: str, leave: Leave | None, claude: bool, silent: bool) -> dict[str, Any]:
        """The answer's times and length, where the request says them. Seconds, before the scale."""
        if route in _RULED or silent:
            return {}
        random = self._random
        first = _between(random.lognormvariate(math.log(0.75), 0.7), 0.12, self._longest)
        gap = self._gap() / (TOKENS_PER_DELTA if claude else 1)
        if leave is not None and leave.stage == "waiting":
            first = 2.0
        times = {"gap": round(gap / TIME_SCALE, 5), "tokens": random.randrange(8, 31)}
        if route in _OWN_TIMES:
            times["first_token"] = round(first / TIME_SCALE, 4)
            times["thinking_tokens"] = random.randrange(0, 12)
        return times

    def _gap(self) -> float:
        """Evenly spread, with a longer part for one in seven: the buckets of gaps are up to twice
        as wide as their beginnings."""
        random = self._random
        slow = random.random() < 0.15
        seconds = random.uniform(0.15, 0.4) if slow else random.uniform(0.01, 0.15)
        return seconds * min(1.0, self._longest / USUAL_LONGEST)

    def _other(self, at: float, proxy: int, other: Other | None = None) -> Shot:
        """What is no chat: lists, embeddings, a path that is none of ours."""
        method, path, asked, route = other or self._random.choice(_OTHERS)
        body = None if asked is None else json.dumps(asked).encode()
        number = self._next()
        headers = _headers("others")
        return Shot(number, at, proxy, route, path, body, headers, method, False, False)


Other = tuple[str, str, dict[str, Any] | None, str]
"""Method, path, body, and the route that takes it."""

_RESUMED: Final[Other] = ("GET", "/v1/streams/none", None, "none")
_OTHERS: Final[tuple[Other, ...]] = (
    ("GET", "/v1/models", None, "none"),
    ("POST", "/v1/embeddings", {"model": "embedding-3", "input": "a word"}, "default"),
    ("POST", "/v1/images/generations", {"model": "cogview-3", "prompt": "x" * 400}, "default"),
    ("GET", "/nothing/of/ours", None, "none"),
    ("POST", CHAT, {"model": "glm-4.6", "messages": "not a list"}, "none"),
)


def _prompt(route: str, number: int) -> str:
    """Brief, so that the profile's thinking is too; the same for those that share an answer, or
    get it again."""
    return "say hello" if route in ("shared", "pooled") else f"say hello, number {number}"


def _headers(key: str) -> dict[str, str]:
    return {
        "authorization": f"Bearer {key}",
        "content-type": "application/json",
        "accept-encoding": "identity",
        "user-agent": "glm-proxy-proof",
    }


def _between(value: float, least: float, most: float) -> float:
    return min(max(value, least), most)
