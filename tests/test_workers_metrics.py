"""Several proxies that share a folder are scraped as one: held against what their clients counted.

Each is a process of its own, as an operator starts it; they are killed, stopped, held up and
started again, and whichever is asked tells of all of them, and of those before them.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import orjson
import pytest
import yaml
from prometheus_client.core import Metric
from prometheus_client.openmetrics import parser as open_metrics
from prometheus_client.parser import text_string_to_metric_families

from proxy.app import App
from proxy.net.listen import listening_socket
from proxy.observe.folder import CannotShare
from tests.fakes.raw_client import Answer, ask, chat
from tests.fakes.running import in_front_of, running, samples
from tests.fakes.upstream import Call, ScriptedUpstream

parse_open_metrics: Callable[[str], Iterable[Metric]] = open_metrics.text_string_to_metric_families

_LISTENS = re.compile(r"listens on http://([\d.]+):(\d+), admin on (http://[\d.]+:\d+)")
_WITHIN = 30.0
PROMPT_TOKENS, COMPLETION_TOKENS = 7, 5
REFUSAL = b'{"error":{"code":"1210","message":"wrong parameter"}}'


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a name short enough for a socket in it."""
    with tempfile.TemporaryDirectory() as short:
        yield Path(short)


# --- the upstream ------------------------------------------------------------------------------


async def script(call: Call) -> None:
    """Answers as the model's name says: all of it, half of it, or a refusal."""
    model = orjson.loads(call.body)["model"]
    if model == "refused":
        call.head(400, content_type="application/json", framing=str(len(REFUSAL)))
        call.send(REFUSAL)
        call.finish()
        return
    call.head()
    call.send(_event({"delta": {"role": "assistant", "content": ""}}))
    call.send(_event({"delta": {"content": "Hello"}}))
    if model == "cut":
        call.finish("rst")
        return
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": COMPLETION_TOKENS}
    call.send(_event({"delta": {"content": " there"}, "finish_reason": "stop"}, usage=usage))
    call.send(b"data: [DONE]\n\n")
    call.finish()


def _event(choice: dict[str, object], **more: object) -> bytes:
    event = {"id": "1", "choices": [{"index": 0, **choice}], **more}
    return b"data: " + orjson.dumps(event) + b"\n\n"


# --- workers -----------------------------------------------------------------------------------


@dataclass
class Worker:
    """One `glm-proxy serve`."""

    process: asyncio.subprocess.Process
    log: Path
    data: tuple[str, int] = ("", 0)
    admin: str = ""

    async def listening(self) -> None:
        async with asyncio.timeout(_WITHIN):
            while (found := _LISTENS.search(self.log.read_text())) is None:
                assert self.process.returncode is None, "the worker ended at once"
                await asyncio.sleep(0.02)
        host, port, self.admin = found.groups()
        self.data = (host, int(port))

    async def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), _WITHIN)

    def logged(self, name: str) -> list[float]:
        """A figure of all its exchanges, as its access log has it."""
        lines = (line for line in self.log.read_text().splitlines() if line.startswith("{"))
        values = (orjson.loads(line).get(name) for line in lines)
        return [value for value in values if value is not None]


@dataclass
class Workers:
    """Starts them, with the same settings."""

    folder: Path
    upstream: ScriptedUpstream
    stack: AsyncExitStack
    all: list[Worker] = field(default_factory=list)

    async def start(self, count: int) -> list[Worker]:
        new = [await self._started() for _ in range(count)]
        for worker in new:
            await worker.listening()
        return new

    async def _started(self) -> Worker:
        path = self.folder / "proxy.yaml"
        settings = {
            "server": {"port": 0, "drain_timeout": "5s"},
            "admin": {"port": 0},
            "endpoints": [{"name": "up", "base_url": self.upstream.url}],
            "metrics": {"folder": "shared"},
        }
        path.write_text(yaml.safe_dump(settings))
        log = self.folder / f"{len(self.all)}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "proxy", "serve", "--config", str(path)),
                stdout=output,
                stderr=asyncio.subprocess.DEVNULL,
            )
        self.stack.push_async_callback(_ended, process)
        worker = Worker(process, log)
        self.all.append(worker)
        return worker

    @property
    def shared(self) -> set[str]:
        """The kinds of files in the folder, and how many of each there are."""
        kinds = Counter(path.suffix for path in (self.folder / "shared").iterdir())
        return {f"{count} {kind}" for kind, count in kinds.items()}


async def _ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


@asynccontextmanager
async def workers(folder: Path) -> AsyncIterator[Workers]:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream(script))
        yield Workers(folder, upstream, stack)


# --- the client that counts --------------------------------------------------------------------


@dataclass
class Client:
    """Sends exchanges to workers in turn and keeps its own count of what came of them."""

    outcomes: Counter[str] = field(default_factory=Counter)
    first_contents: int = 0
    sent: int = 0
    received: int = 0

    async def load(self, workers: Sequence[Worker], times: int) -> None:
        """Exchanges of all kinds, some of them at the same time."""
        turn = itertools.cycle(workers)
        kinds = itertools.cycle(("whole", "cut", "whole", "refused", "wrong"))
        at_once = asyncio.Semaphore(8)

        async def one(worker: Worker, kind: str) -> None:
            async with at_once:
                await self._exchange(worker, kind)

        async with asyncio.TaskGroup() as group:
            for worker, kind in itertools.islice(zip(turn, kinds, strict=False), times):
                group.create_task(one(worker, kind))

    async def _exchange(self, worker: Worker, kind: str) -> None:
        body = b"[]" if kind == "wrong" else chat(model=kind)
        answer = await ask(worker.data, "/v1/chat/completions", body)
        said = answer.body
        self.sent += len(body)
        self.received += _written(answer)
        self.first_contents += b'"content":"Hello"' in said
        self.outcomes[_outcome(answer.status, said)] += 1

    @property
    def whole(self) -> int:
        return self.outcomes["completed"]


def _written(answer: Answer) -> int:
    """Bytes of its body as they were sent: with the framing of chunks (RFC 9112, section 7.1)."""
    if "content-length" in answer.headers:
        return len(answer.body)
    chunks = sum(len(b"%x\r\n%b\r\n" % (len(data), data)) for data in answer.chunks)
    return chunks + (len(b"0\r\n\r\n") if answer.clean else 0)


def _outcome(status: int, said: bytes) -> str:
    if said.endswith(b"data: [DONE]\n\n") and b'"error"' not in said:
        return "completed"
    if status == 400:
        return "upstream_failed" if b"1210" in said else "invalid_request"
    assert status == 200
    return str(orjson.loads(said.rstrip().rpartition(b"data: ")[2])["error"]["code"])


@dataclass
class Figures:
    """One scrape."""

    samples: list[tuple[str, dict[str, str], float]]

    def total(self, name: str, **labels: str) -> float:
        return sum(self.by("", name, **labels).values())

    def by(self, label: str, name: str, **labels: str) -> Counter[str]:
        counted: Counter[str] = Counter()
        for found, having, value in self.samples:
            if found == name and labels.items() <= having.items():
                counted[having.get(label, "")] += value  # type: ignore[assignment]
        return counted


async def scrape(session: aiohttp.ClientSession, worker: Worker) -> Figures:
    async with session.get(f"{worker.admin}/metrics") as answer:
        assert answer.status == 200
        found = text_string_to_metric_families(await answer.text())
    return Figures(
        [(one.name, one.labels, one.value) for family in found for one in family.samples]
    )


async def when_idle(session: aiohttp.ClientSession, worker: Worker) -> Figures:
    """A scrape when no exchange is under way: one that a client has read may still be counted."""
    async with asyncio.timeout(_WITHIN):
        while True:
            figures = await scrape(session, worker)
            if figures.total("glm_proxy_exchanges_in_flight") == 0:
                return figures
            await asyncio.sleep(0.02)


def assert_agree(figures: Figures, client: Client) -> None:
    """The scrape tells exactly what the client counted."""
    assert figures.by("outcome", "glm_proxy_exchanges_total") == client.outcomes
    for metric in ("glm_proxy_first_content_seconds", "glm_proxy_time_to_first_token_seconds"):
        assert figures.total(f"{metric}_count") == client.first_contents
        assert figures.total(f"{metric}_bucket", le="+Inf") == client.first_contents
    assert figures.total("glm_proxy_request_bytes_total") == client.sent
    assert figures.total("glm_proxy_response_bytes_total") == client.received
    tokens = figures.by("type", "glm_proxy_tokens_total")
    assert tokens["input"] == PROMPT_TOKENS * client.whole
    assert tokens["output"] == COMPLETION_TOKENS * client.whole


# --- the proof ---------------------------------------------------------------------------------


async def test_three_workers_are_scraped_as_one_and_nothing_is_lost_or_counted_twice(
    folder: Path,
) -> None:
    async with workers(folder) as group, aiohttp.ClientSession() as session:
        client = Client()
        first, second, third = await group.start(3)
        await client.load([first, second, third], 90)
        figures = await when_idle(session, first)
        assert len(client.outcomes) == 4
        assert_agree(figures, client)
        assert figures.total("glm_proxy_workers") == 3
        for name in ("first_content", "duration"):
            logged = [one for worker in group.all for one in worker.logged(f"{name}_s")]
            total = figures.total(f"glm_proxy_{name}_seconds_sum")
            assert total == pytest.approx(sum(logged), abs=1e-5 * len(logged))
        for worker in (second, third):
            assert_agree(await scrape(session, worker), client)

        # Killed: what it had told stays.
        assert await third.end(signal.SIGKILL) == -signal.SIGKILL
        figures = await scrape(session, first)
        assert_agree(figures, client)
        assert figures.total("glm_proxy_workers") == 2
        assert figures.total("glm_proxy_workers_silent") == 0

        # Started again, under a new name.
        (third,) = await group.start(1)
        await client.load([first, second, third], 45)
        figures = await when_idle(session, third)
        assert_agree(figures, client)
        assert figures.total("glm_proxy_workers") == 3

        # Stopped, and nobody asked meanwhile: it leaves all it counted.
        await client.load([first], 10)
        assert await first.end(signal.SIGTERM) == 0
        figures = await when_idle(session, second)
        assert_agree(figures, client)
        assert figures.total("glm_proxy_workers") == 2

        # Held up: its last figures stand, and it is told of.
        third.process.send_signal(signal.SIGSTOP)
        figures = await scrape(session, second)
        third.process.send_signal(signal.SIGCONT)
        assert_agree(figures, client)
        assert figures.total("glm_proxy_workers") == 1
        assert figures.total("glm_proxy_workers_silent") == 1

        # All gone, and one more: it begins where they ended.
        for worker in (second, third):
            assert await worker.end(signal.SIGTERM) == 0
        (last,) = await group.start(1)
        await client.load([last], 5)
        figures = await when_idle(session, last)
        assert_agree(figures, client)
        assert figures.total("glm_proxy_workers") == 1
        # Its own three, the lock of all and the figures of the gone.
        assert group.shared == {"2 .json", "2 .lock", "1 .sock"}


# --- at the start, and at each scrape ----------------------------------------------------------


async def test_a_folder_that_cannot_be_used_ends_the_start_with_what_to_change(
    folder: Path,
) -> None:
    (folder / "shared").mkdir()
    (folder / "shared").chmod(0o777)
    path = folder / "proxy.yaml"
    endpoint = {"name": "up", "base_url": "http://127.0.0.1:9"}
    path.write_text(yaml.safe_dump({"endpoints": [endpoint], "metrics": {"folder": "shared"}}))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "serve", "--config", str(path)),
        *("--port", "0", "--admin-port", "0"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), _WITHIN)
    shared = f"metrics.folder {folder / 'shared'}"
    says = f"glm-proxy: {shared} can be written to by other users; chmod 700 it\n"
    assert (process.returncode, out, err.decode()) == (1, b"", says)


async def test_a_start_that_fails_leaves_the_folder(folder: Path) -> None:
    """What was opened before it is closed again: the next start has the address."""
    (folder / "shared").touch()
    with listening_socket("server", "127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    settings = {
        "endpoints": [{"name": "up", "base_url": "http://127.0.0.1:9"}],
        "server": {"port": port, "drain_timeout": 0},
        "metrics": {"folder": "shared"},
    }
    with pytest.raises(CannotShare, match=r"metrics\.folder .* cannot be used"):
        async with running(folder, settings):
            raise AssertionError("it has started")
    (folder / "shared").unlink()
    async with running(folder, settings) as app:
        assert app.data_address[1] == port


async def test_without_metrics_no_folder_is_made(folder: Path) -> None:
    metrics = {"folder": "shared", "enabled": False}
    endpoints = [{"name": "up", "base_url": "http://127.0.0.1:9"}]
    async with running(folder, {"endpoints": endpoints, "metrics": metrics}):
        assert not (folder / "shared").exists()


async def test_without_a_folder_a_scrape_tells_of_one_process(folder: Path) -> None:
    async with running(
        folder, {"endpoints": [{"name": "up", "base_url": "http://127.0.0.1:9"}]}
    ) as app:
        assert await samples(app, "glm_proxy_workers") == [({}, 1)]
        assert await samples(app, "glm_proxy_workers_silent") == [({}, 0)]


async def test_of_several_processes_the_newest_exemplar_is_shown(folder: Path) -> None:
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(ScriptedUpstream(script))
        settings = in_front_of(upstream, folder, metrics={"folder": "shared"})
        first, second = [await stack.enter_async_context(running(folder, settings)) for _ in "12"]
        session = await stack.enter_async_context(aiohttp.ClientSession())
        for app in (first, second, first):
            answer = await ask(app.data_address, "/v1/chat/completions", chat(model="whole"))
            newest = answer.headers["x-request-id"]
        seen = await _exemplars(session, second, 3)
        assert newest in seen
        assert len(seen) <= 3


async def _exemplars(session: aiohttp.ClientSession, app: App, count: int) -> set[str]:
    """Request ids at the durations, when so many are counted."""
    host, port = app.admin_address
    headers = {"Accept": "application/openmetrics-text"}
    async with asyncio.timeout(_WITHIN):
        while True:
            async with session.get(f"http://{host}:{port}/metrics", headers=headers) as answer:
                found = {one.name: one for one in parse_open_metrics(await answer.text())}
            durations = found["glm_proxy_duration_seconds"].samples
            if sum(one.value for one in durations if one.name.endswith("_count")) == count:
                return {one.exemplar.labels["request_id"] for one in durations if one.exemplar}
            await asyncio.sleep(0.02)
