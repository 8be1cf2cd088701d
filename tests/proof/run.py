"""The proof, in order: start, warm up, restart one, load, ask, compare."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from proxy.cli.suite.machine import Busy
from tests.proof import plan, queries
from tests.proof.agreement import Row, quantile
from tests.proof.client import Seen, ask
from tests.proof.figures import figures
from tests.proof.judge import Answers, Judge
from tests.proof.plan import Shot
from tests.proof.queries import Dashboard, Span
from tests.proof.stage import Stage, stage

ROOT = Path(__file__).parents[2]
DASHBOARDS = ROOT / "grafana" / "dashboards"
RULES = ROOT / "deploy" / "prometheus" / "rules"

_WARMING = 20
_DOWN_AT, _DOWN_FOR = 0.6, 0.04
"""When the endpoint goes and for how long, as shares of the load's time."""
_LEAST_DOWN = 2.0
_TICK = 0.05
_POINTS = 100
"""Of each answer over the whole time."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """How large a proof is."""

    exchanges: int
    rate: float
    """Exchanges a second."""
    prometheus: str
    """The program."""
    seed: int = 1
    rules_every: int = 5
    """Seconds between two evaluations of the rules."""
    scrape_every: int = 2
    """Seconds between two scrapes."""
    rate_interval: float = 20.0
    longest: float = plan.USUAL_LONGEST
    restart: bool = True
    """One proxy has a short life before the one that counts."""


@dataclass(slots=True)
class Found:
    """All that a run has found."""

    options: Options
    span: Span
    took: float
    seen: list[Seen]
    ledger: list[dict[str, Any]]
    rows: list[Row]
    answers: Answers
    boards: list[Dashboard]
    rules: list[dict[str, Any]]
    """As Prometheus tells of them: with their health."""
    scrapes: list[dict[str, Any]]
    exemplars: int
    busy: float | None
    """The share of the processors in use while exchanges were sent, by whomever."""
    own: float | None
    """By the proof alone, without Prometheus."""
    late: float
    """By how many seconds the client's own timers were late, p99."""
    log: list[dict[str, Any]] = field(default_factory=list)
    """The proxies' access log."""

    @property
    def unhealthy(self) -> list[dict[str, Any]]:
        """Rules that Prometheus could not evaluate."""
        return [rule for rule in self.rules if rule["health"] != "ok"]

    @property
    def failed(self) -> bool:
        return bool(
            self.unhealthy or self.answers.unanswered or any(row.failed for row in self.rows)
        )


async def prove(options: Options, folder: Path, say: Say) -> Found:
    """All of it; `folder` gets files of the run. Raises NotRunning."""
    begun = time.monotonic()
    boards, rules = queries.dashboards(DASHBOARDS), queries.rules(RULES)
    shots = plan.shots(options.exchanges, options.rate, options.seed, options.longest)
    async with stage(
        folder, options.prometheus, RULES, options.rules_every, options.scrape_every
    ) as on_stage:
        say("the upstream, two proxies and Prometheus run")
        start = time.time()
        await on_stage.next_scrapes(1)
        if options.restart:
            await _load(on_stage, plan.warming(_WARMING))
            await on_stage.next_scrapes(2)
            await on_stage.restart(on_stage.servers[1])
            await on_stage.next_scrapes(1)
            say("one proxy was started again")
        say(f"sending {len(shots)} exchanges")
        busy = Busy(on_stage.pids)
        with _lateness() as late:
            seen, _ = await asyncio.gather(_load(on_stage, shots), _outage(on_stage, shots[-1].at))
        share, own = busy.share(), busy.own()
        say("all are answered")
        await on_stage.next_scrapes(1 + math.ceil(options.rules_every / options.scrape_every))
        end = time.time()
        span = Span(start, end, max(1.0, round((end - start) / _POINTS)), options.rate_interval)
        api = on_stage.prometheus
        answers = await Judge(api, span).judge(boards, rules)
        ledger = await on_stage.endpoints.ledger()
        return Found(
            options=options,
            span=span,
            took=time.monotonic() - begun,
            seen=seen,
            ledger=ledger,
            rows=await figures(api, end, seen, ledger),
            answers=answers,
            boards=boards,
            rules=await api.rules(),
            scrapes=await api.targets(),
            exemplars=await api.exemplars("glm_proxy_first_content_seconds_bucket", span),
            busy=share,
            own=own,
            late=quantile(late, 0.99),
            log=[line for server in on_stage.servers for line in server.log],
        )


async def _load(on_stage: Stage, shots: Sequence[Shot]) -> list[Seen]:
    """Each at its moment, whatever the others take."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        begun = time.perf_counter()
        tasks = []
        for shot in shots:
            wait = begun + shot.at - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            url = on_stage.servers[shot.proxy].url
            tasks.append(asyncio.create_task(ask(session, url, shot)))
        return list(await asyncio.gather(*tasks))


@contextmanager
def _lateness() -> Iterator[list[float]]:
    """By how many seconds a timer of the client's is late, again and again: no figure of this
    client is more exact."""
    late = [0.0]

    async def watch() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(_TICK)
            late.append(max(0.0, time.perf_counter() - before - _TICK))

    watching = asyncio.get_running_loop().create_task(watch())
    try:
        yield late
    finally:
        watching.cancel()


async def _outage(on_stage: Stage, length: float) -> None:
    """North goes and comes back."""
    await asyncio.sleep(length * _DOWN_AT)
    await on_stage.endpoints.tell("/down")
    await asyncio.sleep(max(length * _DOWN_FOR, _LEAST_DOWN))
    await on_stage.endpoints.tell("/up")
