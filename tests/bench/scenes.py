"""What is measured: the scenes, and one round of one scene through one peer."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import Any

from tests.bench import machine
from tests.bench.peers import Bench, Peer, Upstream
from tests.bench.processes import BenchError, Child, child

PATH = "/api/paas/v4/chat/completions"
Figures = dict[str, float]
"""One round: figure -> value. Times in microseconds, memory in KB."""


@dataclass(frozen=True, slots=True)
class Scene:
    """The load of one round."""

    name: str
    text: str
    concurrency: int
    requests: int
    events: int
    gap_us: int
    """Between two events of a stream."""
    held: bool = False
    """Streams stay open after their first event, until memory has been read."""

    @property
    def spread_us(self) -> int:
        """First requests start at random moments in this span, so that streams are not in step."""
        return 1_000_000 if self.held else self.gap_us if self.concurrency > 1 else 0


SCENES = {
    s.name: s
    for s in (
        Scene("b50", "50 streams, 50 events each, 20 ms apart", 50, 50, 50, 20_000),
        Scene("b200", "200 streams, 50 events each, 20 ms apart", 200, 200, 50, 20_000),
        Scene("long", "50 streams, 2,000 events each, 5 ms apart", 50, 50, 2_000, 5_000),
        Scene("a2", "one stream at a time: 30 x 20 events, 10 ms apart", 1, 30, 20, 10_000),
        Scene("r", "one-event requests back to back, 8 connections", 8, 8_000, 1, 0),
        Scene("mem", "1,000 streams held open", 1_000, 1_000, 100, 60_000_000, held=True),
    )
}


def quick(scene: Scene) -> Scene:
    """The same scene with less of it, for trying things out."""
    shorter = {"a2": 8, "r": 2_000, "mem": 200}
    requests = shorter.get(scene.name, scene.requests)
    return replace(scene, requests=requests, concurrency=min(scene.concurrency, requests))


def run_load(bench: Bench, up: Upstream, peer: Peer, scene: Scene, seed: int) -> Figures:
    """One round: CPU of the peer, latencies at the client. Raises BenchError when nothing works.

    The shares of busy cores are as coarse as the clock tick: good for a second, not for less.
    """
    begun, before = time.monotonic_ns(), _used(bench, up, peer)
    with _client(bench, peer, scene, seed) as client:
        answer = _answer(client)
    spent = [b - a for a, b in zip(before, _used(bench, up, peer), strict=True)]
    elapsed = time.monotonic_ns() - begun
    own, others, measuring_core, peer_core = spent
    cores = len({bench.cores.measuring, bench.cores.peer})
    foreign = (measuring_core + peer_core) / (3 - cores) - own - others
    return _figures(answer, cpu_us=own / 1000) | {
        "measuring_busy": measuring_core / elapsed,
        "peer_busy": peer_core / elapsed,
        "foreign_busy": max(0.0, foreign) / elapsed / cores,
    }


def _used(bench: Bench, up: Upstream, peer: Peer) -> tuple[int, int, int, int]:
    """Nanoseconds used so far: by the peer, by all else that is ours, of each of the cores."""
    own = machine.cpu_ns(peer.pid) if peer.pid else 0
    others = machine.own_cpu_ns() + sum(map(machine.cpu_ns, up.pids))
    busy = machine.core_busy_ns
    return own, others, busy(bench.cores.measuring), busy(bench.cores.peer)


def warm_up(bench: Bench, peer: Peer, scene: Scene) -> None:
    """One unmeasured round, so that pools are filled and code is hot. Raises BenchError."""
    with _client(bench, peer, scene, seed=0) as client:
        answer = _answer(client)
    if answer["failed"]:
        raise BenchError(f"{peer.name} does not pass streams: {answer['error']}")


def hold_streams(bench: Bench, peer: Peer, scene: Scene, seed: int) -> Figures:
    """Memory of the peer's process tree with and without the scene's streams held open."""
    assert peer.pid is not None
    few = replace(scene, concurrency=8, requests=64, events=3, gap_us=1_000, held=False)
    warm_up(bench, peer, few)
    time.sleep(0.3)
    idle = machine.memory(peer.pid)
    with _client(bench, peer, scene, seed) as client:
        if client.read_line().strip() != "held":
            raise BenchError(f"{peer.name} cannot hold {scene.concurrency} streams")
        time.sleep(0.5)
        held = machine.memory(peer.pid)
        client.process.communicate("")
    return {
        "idle_kb": idle.pss,
        "idle_rss_kb": idle.rss,
        "kb_per_stream": (held.pss - idle.pss) / scene.concurrency,
        "failed": 0,
    }


def _client(bench: Bench, peer: Peer, scene: Scene, seed: int) -> Any:
    numbers = (
        scene.concurrency,
        scene.requests,
        scene.events,
        scene.gap_us,
        scene.spread_us,
    )
    command = [
        str(bench.load),
        str(peer.port),
        PATH,
        *map(str, numbers),
        str(seed),
        "60",
    ]
    command += ["hold"] if scene.held else []
    return child(command, bench.cores.measuring, bench.folder / "load.log")


def _answer(client: Child) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(client.read_line())
    return answer


def _figures(answer: dict[str, Any], cpu_us: float) -> Figures:
    if not answer["event_us"]:
        raise BenchError(f"no event came: {answer['error']}")
    return {
        "cpu_per_event": cpu_us / answer["events"],
        "cpu_per_request": cpu_us / answer["requests"],
        "event_p50": answer["event_us"]["p50"],
        "event_p99": answer["event_us"]["p99"],
        "ttfb_p50": answer["ttfb_us"]["p50"],
        "first_event_p50": answer["first_event_us"]["p50"],
        "requests_per_s": answer["complete"] / answer["elapsed_s"],
        "whole_chunks": answer["whole_chunks"] / max(answer["chunks"], 1),
        "failed": answer["failed"],
    }
