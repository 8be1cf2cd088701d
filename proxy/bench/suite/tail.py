"""The suite `tail`: a service that is mostly quick, then entirely slow, then gone and back.

Requests come at random moments, whatever the answers take, so a slow answer does not spare the
service the next request. Times here are seconds of the simulated service.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from proxy.bench.measure import Sample
from proxy.bench.plan import Ask, usual_headers
from proxy.bench.suite.asking import poisson
from proxy.bench.suite.conditions import Conditions

LogLine = Mapping[str, Any]

DIRECT, PROXIED = "direct", "proxied"
WAYS = (DIRECT, PROXIED)
MODEL = "glm-4.6"
_LONGEST_ANSWER = 120.0
_PROMPT = "请介绍机器学习的基本概念"


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase: how the service behaves, who asks how often, for how long."""

    name: str
    profile: str
    ways: tuple[str, ...]
    rate: float
    """Requests a second on each way, on average."""
    requests: int
    """On each way."""


@dataclass(frozen=True, slots=True)
class Outage:
    """The phase in which the service is gone: seconds of each part."""

    before: float = 15.0
    down: float = 60.0
    after: float = 25.0
    rate: float = 100.0

    @property
    def seconds(self) -> float:
        return self.before + self.down + self.after


FEWEST = 500
"""With fewer requests the outage is a small one too: a trial of the suite, not a measurement."""


def outage(requests: int) -> Outage:
    """The parts of the phase `down`."""
    if requests >= FEWEST:
        return Outage()
    return Outage(before=5.0, down=10.0, after=10.0, rate=10.0)


def phases(requests: int) -> tuple[Phase, Phase, Phase]:
    """The three, with so many requests on each way of the first.

    With 50 requests a second, 75 of the 200 in flight that one key may have are taken; in the
    entirely slow phase 8 a second take about 145 of them.
    """
    gone = outage(requests)
    return (
        Phase("tail", "tail", WAYS, 50.0, requests),
        Phase("slow", "slow", WAYS, 8.0, max(16, requests // 8)),
        Phase("down", "tail", (PROXIED,), gone.rate, round(gone.rate * gone.seconds)),
    )


def key(way: str, phase: str) -> str:
    """What requests carry, and the service's list of arrivals has. Another in each phase: the n-th
    request of each key draws the same waits, and extra attempts would put the ways out of step."""
    return f"bench-{way}-{phase}.key"


def asks(phase: Phase, urls: Mapping[str, str], seed: int, scale: float) -> list[tuple[float, Ask]]:
    """Moments in seconds of the machine's clock, and what is asked then; all ways alike."""
    body = json.dumps(
        {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": _PROMPT}]},
        ensure_ascii=False,
    ).encode()
    moments = poisson(phase.rate, phase.requests, Random(f"{seed}/{phase.name}"))
    return [
        (
            moment * scale,
            Ask(
                way=way,
                number=number,
                url=urls[way] + "/chat/completions",
                body=body,
                headers=usual_headers(key(way, phase.name))
                | {"x-request-id": f"{way}-{phase.name}-{number}"},
                timeout=_LONGEST_ANSWER * scale,
                scene=phase.name,
            ),
        )
        for number, moment in enumerate(moments)
        for way in phase.ways
    ]


@dataclass(frozen=True, slots=True)
class Found:
    """All that a run has found; times as the machine's clock has them."""

    conditions: Conditions
    samples: Sequence[Sample]
    lines: Sequence[LogLine] = ()
    """The proxy's access log."""
    arrivals: Sequence[float] = ()
    """When each of the proxy's requests came to the service."""
    down_at: float = 0.0
    up_at: float = 0.0
    """On the clock of the samples and of the arrivals."""
    steady_from: float = 0.0
    """From when on, before the outage, the rate of arrivals is taken as the steady one."""
