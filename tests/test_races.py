"""Thousands of hedged and failed-over exchanges, each of which may go wrong anywhere.

Invariants, on real sockets and whatever the upstreams and the clients do:

- an answer is a prefix of one generation, without a gap, and has one end or a bare cut
- nobody is asked once a client has the first byte of an answer
- every call that the upstream did not end itself hears that it is given up, soon
- afterwards no permit, probe, stream, task or file descriptor is left
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest

from proxy.app import App
from proxy.core.record import Record
from proxy.observe.metrics import Metrics
from tests.fakes.racing import Chaos, Seen
from tests.fakes.raw_client import Answer, RawClient, chat
from tests.fakes.running import running, samples
from tests.fakes.upstream import ScriptedUpstream

CHAT = "/v1/chat/completions"
AT_ONCE = 40
SOON = 1.0
"""Seconds within which a loser must hear of it; measured are milliseconds."""
ENDPOINTS = {"one": True, "two": False, "three": True}
"""Name, and whether it speaks HTTP/2."""
EAGER = {"after": "p50", "min": "15ms", "max": "25ms", "budget": "100%"}
NO_BREAKER = {"retry_budget": "100%", "breaker": "off"}
ALL = [{"endpoint": name} for name in ENDPOINTS]
ROUTES: dict[str, dict[str, Any]] = {
    "hedged": {"candidates": ALL, "hedge": EAGER},
    "alone": {"candidates": ALL[:1], "hedge": EAGER},
    "failover": {"candidates": ALL},
    "crowded": {
        "candidates": ALL[1:],
        "hedge": EAGER,
        "admission": {"limit": 4, "wait": "300ms"},
    },
    "guarded": {
        "candidates": ALL,
        "hedge": EAGER,
        "attempts": {
            "retry_budget": "100%",
            "breaker": {"failures": 2, "within": "10s", "open_for": "50ms"},
        },
    },
    "early": {
        "candidates": ALL,
        "hedge": EAGER,
        "commit": "early",
        "stream": {"heartbeat": "20ms"},
    },
    "folded": {"candidates": ALL, "hedge": EAGER, "stream": {"upgrade": True}},
}
TIMEOUTS = {"headers": "200ms", "first_token": "150ms", "idle": "300ms", "total": "1500ms"}


@dataclass
class Asked:
    """One exchange as its client saw it."""

    number: int
    route: str
    leaves: bool = False
    """It left before the end."""
    answer: Answer = field(default_factory=Answer)
    events: list[bytes] = field(default_factory=list)

    @property
    def texts(self) -> list[tuple[str, int]]:
        """Generation and number of each text event."""
        found: list[tuple[str, int]] = []
        for event in self.events:
            if event.startswith(b"data: {"):
                for choice in orjson.loads(event[6:]).get("choices", ()):
                    found += _texts(choice["delta"].get("content", ""))
        return found


def _texts(content: str) -> list[tuple[str, int]]:
    parts = (part.partition("/") for part in content.split())
    return [(generation, int(number)) for generation, _, number in parts]


@dataclass
class Run:
    """A proxy before three upstreams, and all that was seen of it."""

    chaos: Chaos
    app: App
    records: dict[int, Record]
    asked: list[Asked] = field(default_factory=list)

    async def exchange(self, number: int) -> None:
        roll = Random(f"{self.chaos.seed}/{number}")
        asked = Asked(number, roll.choice(list(ROUTES)))
        self.asked.append(asked)
        leaves_after = roll.uniform(0, 0.12) if roll.random() < 0.12 else None
        leaves_at = roll.randint(1, 4) if roll.random() < 0.06 else None
        async with RawClient(self.app.data_address) as client:
            body = chat(asked.route, stream=asked.route != "folded")
            client.post(CHAT, body, f"X-Request-Id: n-{number}")
            try:
                async with asyncio.timeout(leaves_after or 30):
                    asked.leaves = await _read(client, asked.answer, leaves_at)
            except TimeoutError:
                assert leaves_after is not None, f"{self.where(asked)}: it never ended"
                asked.leaves = True

    def where(self, asked: Asked) -> str:
        """What one needs to play it again."""
        calls = [seen for seen in self.chaos.seen if seen.number == asked.number]
        return (
            f"seed {self.chaos.seed}, exchange {asked.number} ({asked.route}):"
            f" {asked.answer}, {calls}, {self.records.get(asked.number)}"
        )


async def _read(client: RawClient, answer: Answer, leaves_at: int | None) -> bool:
    """Into `answer`, to the end or so many chunks; whether it was left."""
    head = await client.head()
    answer.status, answer.headers = head.status, head.headers
    try:
        if "content-length" in head.headers:
            length = int(head.headers["content-length"])
            answer.chunks.append(await client.reader.readexactly(length))
        else:
            while data := await client.chunk():
                answer.chunks.append(data)
                if len(answer.chunks) == leaves_at:
                    return True
        answer.clean = True
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    return False


@asynccontextmanager
async def a_run(folder: Path, seed: int, patch: pytest.MonkeyPatch) -> AsyncIterator[Run]:
    records: dict[int, Record] = {}
    finish = Metrics.finish

    def note(metrics: Metrics, record: Record) -> None:
        records[int(record.request_id.partition("-")[2])] = record
        finish(metrics, record)

    patch.setattr(Metrics, "finish", note)
    chaos = Chaos(seed)
    async with AsyncExitStack() as stack:
        endpoints = []
        for name, h2 in ENDPOINTS.items():
            upstream = await stack.enter_async_context(chaos.upstream(name, h2=h2))
            endpoints.append(an_endpoint(upstream, name, folder))
        settings = {
            "endpoints": endpoints,
            "timeouts": TIMEOUTS,
            "attempts": NO_BREAKER,
            "routes": [
                {"name": name, "match": {"model": [name]}, **route}
                for name, route in ROUTES.items()
            ],
        }
        app = await stack.enter_async_context(running(folder, settings))
        yield Run(chaos, app, records)


def an_endpoint(upstream: ScriptedUpstream, name: str, folder: Path) -> dict[str, Any]:
    endpoint: dict[str, Any] = {"name": name, "base_url": upstream.url}
    if upstream.url.startswith("https"):
        own = folder / name
        own.mkdir()
        endpoint["ca_file"] = str(upstream.write_ca(own))
    return endpoint


async def play(folder: Path, seed: int, times: int, patch: pytest.MonkeyPatch) -> str:
    """So many exchanges, all of the above checked. The answer is a line of figures."""
    began, before = time.monotonic(), open_files()
    tasks_before = asyncio.all_tasks()
    async with a_run(folder, seed, patch) as run:
        idle = await settled(run, None)
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with limit:
                await run.exchange(number)

        async with asyncio.TaskGroup() as group:
            for number in range(times):
                group.create_task(one(number))
        await settled(run, idle)
        assert run.chaos.broke == [], f"seed {seed}: a script of ours broke"
        took = check(run)
        await nothing_is_left(run)
    await eventually(
        lambda: open_files() <= before, lambda: f"seed {seed}: {open_files() - before} are open"
    )
    assert asyncio.all_tasks() == tasks_before
    return figures(run, sorted(took), time.monotonic() - began)


def open_files() -> set[str]:
    """What the file descriptors of this process are: sockets and the like by their inode."""
    found: set[str] = set()
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found.add(str(file.readlink()))
    return found - {"/dev/null"}  # where the captured log goes, once there is one


async def eventually(holds: Callable[[], bool], words: Callable[[], str]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline, words()
        await asyncio.sleep(0.01)


async def settled(run: Run, idle: Counter[str] | None) -> Counter[str]:
    """The tasks that run when nothing is to be done; with `idle`, once it is those again."""
    if idle is not None:
        where = f"seed {run.chaos.seed}"
        await eventually(lambda: tasks() <= idle, lambda: f"{where}: {tasks() - idle} run on")
    return tasks()


def tasks() -> Counter[str]:
    return Counter(
        str(getattr(task.get_coro(), "__qualname__", "")) for task in asyncio.all_tasks()
    )


# --- what must hold ------------------------------------------------------------------------------


def check(run: Run) -> list[float]:
    """All exchanges; the seconds from commits to the losers' hearing of it."""
    calls: dict[int, list[Seen]] = {}
    for seen in run.chaos.seen:
        calls.setdefault(seen.number, []).append(seen)
    took: list[float] = []
    for asked in run.asked:
        own = calls.get(asked.number, [])
        try:
            check_answer(asked, {seen.generation: seen for seen in own})
            took += check_attempts(asked, own, run.records.get(asked.number))
        except Exception as error:
            raise AssertionError(run.where(asked)) from error
    return took


def check_answer(asked: Asked, own: dict[str, Seen]) -> None:
    """What the client got is one answer, a beginning of one, or one error."""
    answer = asked.answer
    if not answer.status or not answer.chunks:
        assert asked.leaves or asked.route == "early"
        return
    if "content-length" in answer.headers:
        if asked.leaves:
            return
        assert answer.clean
        whole = answer.json()
        if "error" in whole:
            assert answer.status >= 400
        else:
            assert answer.status == 200
            assert asked.route == "folded"
            is_whole(_texts(whole["choices"][0]["message"]["content"] or ""), own)
        return
    assert answer.status == 200
    asked.events = [part + b"\n\n" for part in answer.body.split(b"\n\n")[:-1]]
    assert b"".join(asked.events) == answer.body  # nobody sees half an event
    said = [event for event in asked.events if not event.startswith(b":")]
    texts = asked.texts
    assert len({generation for generation, _ in texts}) <= 1
    assert [number for _, number in texts] == list(range(len(texts)))
    ends = [at for at, event in enumerate(said) if is_end(event)]
    assert ends in ([], [len(said) - 1])
    if said and said[-1] == b"data: [DONE]\n\n":
        assert answer.clean or asked.leaves
        if texts:
            is_whole(texts, own)
    else:
        assert not answer.clean
    if asked.route != "early":
        assert said


def is_end(event: bytes) -> bool:
    return event == b"data: [DONE]\n\n" or event.startswith(b'data: {"error"')


def is_whole(texts: list[tuple[str, int]], own: dict[str, Seen]) -> None:
    [generation] = {generation for generation, _ in texts}
    assert own[generation].whole
    assert [number for _, number in texts] == list(range(own[generation].plan.events))


def check_attempts(asked: Asked, own: list[Seen], record: Record | None) -> Iterator[float]:
    if record is None:  # it left before its request was read
        assert asked.leaves
        assert own == []
        return
    assert record.outcome != "internal_error"
    attempts, committed = record.attempts, record.timeline.committed
    assert len(own) <= len(attempts)
    assert sum(one.won for one in attempts) <= 1
    assert sum(one.role == "hedge" for one in attempts) <= 1
    assert all(one.ended is not None for one in attempts)
    own_limit = sum(one.upstream_code == "1302" for one in attempts)
    assert len(attempts) <= 4 + own_limit
    losers = [one for one in attempts if not one.won]
    if committed is None or asked.route == "early":
        return
    for one in losers:
        assert one.started <= committed
        assert one.ended <= committed
    assert all(seen.begun <= committed + SOON for seen in own)
    kept = {generation for generation, _ in asked.texts}
    for seen in own:
        if kept and seen.generation not in kept and not seen.finished:
            assert seen.gone.at is not None
            assert seen.gone.at <= committed + SOON
            yield max(0.0, seen.gone.at - committed)


async def nothing_is_left(run: Run) -> None:
    app, where = run.app, f"seed {run.chaos.seed}"
    for seen in run.chaos.seen:
        assert seen.finished or seen.gone.is_set(), f"{where}: {seen} was not told"
    deadline = time.monotonic() + 10
    names = [
        "glm_proxy_exchanges_in_flight",
        "glm_proxy_pool_streams",
        "glm_proxy_pool_waiting",
        "glm_proxy_admission_in_flight",
        "glm_proxy_admission_waiting",
    ]
    for name in names:
        found = await samples(app, name)
        while any(value for _, value in found):
            assert time.monotonic() < deadline, f"{where}: {name} {found}"
            found = await samples(app, name)
        assert found, name
    now = time.monotonic() + 3600
    for health in app.house.knowledge._health.values():
        for candidate, vitals in health:
            assert not vitals.busy, f"{where}: {candidate} has an attempt that never ended"
            breaker = vitals.breaker
            assert breaker is None or breaker.allows(now), f"{where}: {candidate} is shut out"


def figures(run: Run, took: list[float], seconds: float) -> str:
    records = list(run.records.values())
    outcomes = Counter(record.outcome for record in records)
    decisions = Counter(one.partition(":")[0] for record in records for one in record.decisions)
    p99, most = (took[int(len(took) * 0.99)] * 1000, took[-1] * 1000) if took else (0.0, 0.0)
    return (
        f"seed {run.chaos.seed}: {len(run.asked)} exchanges, {len(run.chaos.seen)} calls,"
        f" {sum(one.leaves for one in run.asked)} leaves in {seconds:.1f} s;"
        f" {len(took)} losers told after p99 {p99:.1f} ms, at most {most:.1f} ms\n"
        f"  {dict(outcomes.most_common())}\n  {dict(decisions.most_common())}"
    )


async def test_of_hundreds_of_races_each_gives_one_answer_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await play(tmp_path, 1, 400, monkeypatch)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_of_10_000_races_each_gives_one_answer_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = await play(tmp_path, secrets.randbits(32), 10_000, monkeypatch)
    with capsys.disabled():
        print(f"\n{told}")
