"""The benchmark's command line: what runs, in which order, and what is printed."""

from __future__ import annotations

import argparse
import json
import os
import pstats
import random
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.bench import machine, report
from tests.bench.peers import Bench, Upstream, build, missing, peer, upstream
from tests.bench.processes import BenchError
from tests.bench.scenes import SCENES, Figures, Scene, hold_streams, quick, run_load, warm_up

PEERS = ("direct", "nginx", "haproxy", "glm-proxy", "bare", "full")
"""`bare` and `full` are glm-proxy with everything off, and on, that tells of what happened."""
USUAL = PEERS[:4]
USUAL_SCENES = tuple(name for name in SCENES if name != "long")
"""`long` is for `bare` and `full`: ten seconds, in which they are scraped twice."""
_MEM_ROUNDS = 3


def main() -> int:
    options = _options()
    if options.realtime:
        _go_first()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that children are ended
    try:
        return _profile(options) if options.profile else _bench(options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _options() -> argparse.Namespace:
    def names(allowed: tuple[str, ...]) -> object:
        def parse(text: str) -> list[str]:
            chosen = [x.strip() for x in text.split(",") if x.strip()]
            if unknown := set(chosen) - set(allowed):
                raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not in {allowed}")
            return chosen

        return parse

    p = argparse.ArgumentParser(prog="bench", description=__doc__)
    p.add_argument("--rounds", type=int, help="rounds per scene (5; with --quick 2)")
    p.add_argument("--scenes", type=names(tuple(SCENES)), default=list(USUAL_SCENES))  # type: ignore[arg-type]
    p.add_argument("--peers", type=names(PEERS), default=list(USUAL))  # type: ignore[arg-type]
    p.add_argument("--upstream", choices=("h1", "tls", "both"), default="both")
    p.add_argument("--seed", type=int, default=1, help="of the order of the rounds")
    p.add_argument("--quick", action="store_true", help="two short rounds")
    p.add_argument(
        "--realtime",
        action="store_true",
        help="go before all other work of the machine (SCHED_FIFO; needs root)",
    )
    p.add_argument("--json", type=Path, metavar="FILE", help="every round's figures")
    p.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="only the first scene, through glm-proxy on cProfile; the figures go to FILE",
    )
    options = p.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.kinds = ["h1", "tls"] if options.upstream == "both" else [options.upstream]
    return options


def _go_first() -> None:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # children inherit it
    except PermissionError:
        raise SystemExit("bench: --realtime needs root, or CAP_SYS_NICE") from None


# --- the run ------------------------------------------------------------------------------------


def _bench(options: argparse.Namespace) -> int:
    machine.allow_many_files()
    cores = machine.cores()
    lacking = missing(options.peers, options.kinds)
    kinds = [k for k in options.kinds if k not in lacking]
    names = [n for n in options.peers if n not in lacking]
    scenes = [quick(SCENES[s]) if options.quick else SCENES[s] for s in options.scenes]
    results: report.Rounds = {}
    stolen = machine.core_stolen_s(cores.peer)
    with tempfile.TemporaryDirectory(prefix="glm-proxy-bench-") as folder:
        bench = build(Path(folder), cores)
        for kind in kinds:
            with upstream(bench, kind) as up:
                _run_kind(bench, up, names, scenes, options, results)
    stolen = machine.core_stolen_s(cores.peer) - stolen
    _print_report(results, kinds, names, options)
    _print_notes(results, lacking, stolen, options.rounds)
    if options.json:
        _write_json(results, options.json)
    return 1 if report.failures(results) else 0


def _run_kind(
    bench: Bench,
    up: Upstream,
    names: list[str],
    scenes: list[Scene],
    options: argparse.Namespace,
    results: report.Rounds,
) -> None:
    order = random.Random(options.seed)
    timed = [s for s in scenes if not s.held]
    with ExitStack() as stack:
        peers = [stack.enter_context(peer(bench, n, up)) for n in names] if timed else []
        for scene in timed:
            for one in peers:
                warm_up(bench, one, scene)
            for number in range(1, options.rounds + 1):
                order.shuffle(peers)
                figures = {one.name: run_load(bench, up, one, scene, number) for one in peers}
                others = max(figure["foreign_busy"] for figure in figures.values())
                _say(f"{up.kind} {scene.name}: round {number}, others used {others:.0%}")
                results.setdefault((up.kind, scene.name), []).append(figures)
    for scene in (s for s in scenes if s.held):
        for number in range(min(options.rounds, _MEM_ROUNDS)):
            _say(f"{up.kind} {scene.name}: round {number + 1}")
            figures = {n: _hold(bench, n, up, scene, number) for n in names if n != "direct"}
            results.setdefault((up.kind, scene.name), []).append(figures)


def _hold(bench: Bench, name: str, up: Upstream, scene: Scene, seed: int) -> Figures:
    with peer(bench, name, up) as fresh:  # memory that was used once is rarely given back
        return hold_streams(bench, fresh, scene, seed)


def _profile(options: argparse.Namespace) -> int:
    """Rounds of the first scene through the proxy on cProfile: prints the top 25 by own time."""
    out: Path = options.profile.resolve()
    scene = SCENES[options.scenes[0]]
    command = [sys.executable, "-m", "cProfile", "-o", str(out), "-m", "proxy", "serve", "--config"]
    with tempfile.TemporaryDirectory(prefix="glm-proxy-bench-") as folder:
        bench = build(Path(folder), machine.cores())
        with upstream(bench, options.kinds[-1]) as up, ExitStack() as stack:
            one = stack.enter_context(peer(bench, "glm-proxy", up, prefix=command))
            for number in range(options.rounds):
                run_load(bench, up, one, scene, seed=number)
    if not out.exists():
        raise BenchError("the proxy ended without writing its profile")
    pstats.Stats(str(out)).strip_dirs().sort_stats("tottime").print_stats(25)
    return 0


# --- what is printed ----------------------------------------------------------------------------


def _print_report(
    results: report.Rounds, kinds: list[str], names: list[str], options: argparse.Namespace
) -> None:
    print(report.table(results, kinds, names))
    print()
    for line in report.bars(results):
        print(f"- {line}")
    for line in report.failures(results):
        print(f"- FAILED: {line}")


def _print_notes(
    results: report.Rounds, lacking: dict[str, str], stolen: float, rounds: int
) -> None:
    for name, program in lacking.items():
        print(f"- left out: {name}, there is no {program}")
    print(f"- medians of {rounds} rounds, interleaved; × and + are against the same round's figure")
    print("- direct: client to mock; with tls to a plain HTTP/1.1 port of the TLS front")
    print(f"- machine: {machine.describe()}; {stolen:.2f} s taken by the hypervisor")
    for line in report.load(results):
        print(f"- {line}")
    versions = (("nginx", "-v"), ("haproxy", "-v"), ("nghttpx", "-v"), ("cc", "--version"))
    print("- " + "; ".join(v for p, a in versions if (v := machine.version(p, a))))


def _write_json(results: report.Rounds, path: Path) -> None:
    rounds = {f"{kind} {scene}": value for (kind, scene), value in results.items()}
    path.write_text(json.dumps(rounds, indent=1))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
