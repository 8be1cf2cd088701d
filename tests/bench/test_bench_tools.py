"""The macro benchmark's own parts: the C tools lose nothing, the table says what was measured."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.bench import machine, report
from tests.bench.peers import Bench, Upstream, build, peer, upstream
from tests.bench.processes import BenchError
from tests.bench.scenes import Scene, run_load, warm_up

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return build(tmp_path_factory.mktemp("bench"), machine.cores())


@pytest.fixture(scope="module")
def mock(bench: Bench) -> Iterator[Upstream]:
    with upstream(bench, "h1") as up:
        yield up


@pytest.mark.parametrize(
    "scene",
    [
        Scene("paced", "paced streams", 5, 10, 5, 2_000),
        Scene("burst", "all events at once", 4, 8, 300, 0),
        Scene("short", "one-event requests", 3, 50, 1, 0),
    ],
)
def test_every_event_arrives_in_a_chunk_of_its_own(
    bench: Bench, mock: Upstream, scene: Scene
) -> None:
    with peer(bench, "direct", mock) as direct:
        found = run_load(bench, mock, direct, scene, seed=1)
    assert found["failed"] == 0
    assert found["whole_chunks"] == 1
    assert 0 < found["event_p50"] < 1_000_000


def test_a_peer_that_passes_no_stream_is_told(bench: Bench, mock: Upstream) -> None:
    scene = Scene("one", "one request", 1, 1, 1, 0)
    with peer(bench, "direct", mock) as direct, pytest.raises(BenchError, match="no event came"):
        # The mock ends a stream of no event at once.
        run_load(bench, mock, direct, Scene("none", "no event", 1, 1, 0, 0), seed=1)
    with peer(bench, "direct", mock) as direct:
        warm_up(bench, direct, scene)


def test_ratios_and_additions_are_of_the_same_round() -> None:
    row = next(r for r in report.ROWS if r.figure == "cpu_per_event")
    rounds = [
        {"nginx": {"cpu_per_event": 10.0}, "glm-proxy": {"cpu_per_event": 12.0}},
        {"nginx": {"cpu_per_event": 40.0}, "glm-proxy": {"cpu_per_event": 44.0}},
        {"nginx": {"cpu_per_event": 20.0}},
    ]
    assert report.ratios(rounds, row, "glm-proxy") == [1.2, 1.1]
    assert report.added(rounds, row, "glm-proxy", to="nginx") == [2.0, 4.0]


@pytest.mark.parametrize(("cpu", "word"), [(12.9, "reached"), (13.1, "NOT reached")])
def test_a_bar_says_whether_it_is_reached(cpu: float, word: str) -> None:
    rounds = [{"nginx": {"cpu_per_event": 10.0, "event_p50": 100.0, "failed": 0.0}}]
    rounds[0]["glm-proxy"] = {"cpu_per_event": cpu, "event_p50": 119.0, "failed": 3.0}
    results = {("tls", "b50"): rounds}
    lines = report.bars(results)
    assert lines[0].startswith(f"{word}: CPU per event, b50 1.")
    assert lines[1].startswith("reached: event latency p50, b50 19.00")
    assert report.failures(results) == ["glm-proxy, tls, b50: 3 requests failed"]
    table = report.table(results, ["h1", "tls"], ["nginx", "glm-proxy"])
    assert "| tls | CPU per event, b50, us | 10.0 (1.00 ×) |" in table
    assert "h1" not in table
