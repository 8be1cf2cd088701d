"""Whoever makes up models, paths, keys and ids gets no series of their own, and breaks no scrape.

Invariant: the number of series is a number of the settings, whatever is sent.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import parser

from proxy.app import App
from proxy.core.record import AttemptRecord, SpanIds, Usage
from tests.fakes.raw_client import ask
from tests.fakes.records import a_loser, a_record, a_timeline
from tests.fakes.running import in_front_of, running
from tests.fakes.upstream import Call, ScriptedUpstream
from tests.observe.scraped import Scraped
from tests.observe.test_table import scrape

parse: Callable[[str], Iterable[Metric]] = parser.text_string_to_metric_families
numbers = itertools.count()


def word() -> str:
    return f"word-{next(numbers)}"


def strange(role: str | None = None) -> AttemptRecord:
    attempt = a_loser(waited=1.0, usage=Usage(1, 2, 3, 4))
    role = role or word()
    return replace(attempt, endpoint=word(), model=word(), outcome=word(), role=role)


def finish_a_strange_exchange(scraped: Scraped, kind: str, outcome: str, status: int) -> None:
    timeline = a_timeline(committed=None if status != 200 else 0.301, events=100)
    timeline.first_event = timeline.last_event = 1.0  # a burst
    scraped.metrics.finish(
        a_record(
            request_id=word(),
            span=SpanIds(word(), word(), None, sampled=True),
            method=word(),
            path=word(),
            route=word(),
            requested_model=word(),
            served_model=word(),
            endpoint=word(),
            kind=kind,
            status=status,
            outcome=outcome,
            stage=word(),
            timeline=timeline,
            upstream_code=word(),
            finish_reason=word(),
            key_fingerprint=word(),
            reason=word(),
            changes=(word(), f"{word()}={word()}"),
            decisions=tuple(name + word() for name in ("", "hedge_", "retry_", "retry_key:")),
            predicted=0.5,
            attempts=(strange(), strange(role="hedge"), strange(role="failover")),
        )
    )


@pytest.mark.timeout(180)
@pytest.mark.parametrize("count", [10_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_made_up_exchanges_make_no_series_of_their_own(scraped: Scraped, count: int) -> None:
    for kind, outcome, status in itertools.product(
        ("chat", word()), ("client_gone", word()), (200, 502)
    ):
        finish_a_strange_exchange(scraped, kind, outcome, status)
    before = scraped.series()
    for number in range(count):
        kind = word() if number % 4 else "chat"
        outcome = word() if number % 3 else "client_gone"
        finish_a_strange_exchange(scraped, kind, outcome, 200 if number % 2 else 502)
    assert scraped.series() == before
    assert scraped.total("glm_proxy_exchanges_total") == count + 8


# --- on real sockets ---------------------------------------------------------------------------


async def whatever(call: Call) -> None:
    """Answers in one of the ways that an upstream has, with a code of its own making."""
    kind = random.choice(("stream", "cut", "error"))
    if kind == "error":
        call.head(random.choice((400, 429, 500)), content_type="application/json")
        call.send(orjson.dumps({"error": {"code": word(), "message": word()}}))
        call.finish()
        return
    call.head()
    for text in (word(), word()):
        event = {"id": word(), "model": word(), "choices": [{"delta": {"content": text}}]}
        call.send(b"data: " + orjson.dumps(event) + b"\n\n")
        await asyncio.sleep(0)
    if kind == "stream":
        call.send(b"data: [DONE]\n\n")
    call.finish("clean" if kind == "stream" else "rst")


async def send_something_strange(app: App, number: int) -> None:
    headers = [
        f"Authorization: Bearer {word()}",
        f"X-Request-Id: {word()}",
        f"traceparent: 00-{number:032x}-{number:016x}-01",
        f"User-Agent: {word()}",
    ]
    path = ("/v1/chat/completions", "/v1/messages", f"/v1/{word()}", f"/{word()}")[number % 4]
    body = {"model": word(), "stream": True, "messages": [{"role": "user", "content": word()}]}
    await ask(app.data_address, path, orjson.dumps(body), *headers)


async def send_strange_things(app: App, first: int, count: int) -> None:
    limit = asyncio.Semaphore(20)

    async def one(number: int) -> None:
        async with limit:
            await send_something_strange(app, number)

    async with asyncio.timeout(50):
        await asyncio.gather(*(one(first + at) for at in range(count)))


@asynccontextmanager
async def proxy(folder: Path) -> AsyncIterator[App]:
    extra = {"attempts": {"retries": 0, "breaker": "off"}, "admission": {"limit": 1000}}
    async with (
        ScriptedUpstream(whatever) as upstream,
        running(folder, in_front_of(upstream, folder, **extra)) as app,
    ):
        yield app


def series(text: str) -> set[str]:
    """Every series by its name and labels."""
    return {
        line.partition(" # ")[0].rpartition(" ")[0]
        for line in text.splitlines()
        if not line.startswith("#")
    }


async def test_strange_requests_on_real_sockets_make_no_series_of_their_own(
    tmp_path: Path,
) -> None:
    async with proxy(tmp_path) as app:
        await send_strange_things(app, 1, 200)
        text = await scrape(app)
        before = series(text)
        await send_strange_things(app, 201, 300)
        text += (after := await scrape(app))
    # What the upstream did may differ by chance; a made-up word is in no series.
    assert len(series(after) - before) < 100
    assert not [one for one in series(text) if "word-" in one]
    families = list(parse(after))
    named = [sample for family in families for sample in family.samples if sample.exemplar]
    assert len(named) > 20
    assert {one.exemplar.labels["request_id"][:5] for one in named if one.exemplar} == {"word-"}


async def test_promtool_finds_nothing_to_complain_of_under_load(
    tmp_path: Path, needs_program: Callable[[str], str]
) -> None:
    promtool = needs_program("promtool")
    async with proxy(tmp_path) as app:
        load = asyncio.create_task(send_strange_things(app, 1, 300))
        checked: list[tuple[int, str]] = []
        while not load.done() or not checked:
            text = await scrape(app, "text/plain")
            checked.append(await asyncio.to_thread(check, promtool, text))
            list(parse(await scrape(app)))
        await load
        checked.append(await asyncio.to_thread(check, promtool, await scrape(app, "text/plain")))
    assert set(checked) == {(0, "")}


def check(promtool: str, text: str) -> tuple[int, str]:
    """Exit code and complaints of `promtool check metrics`."""
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr
