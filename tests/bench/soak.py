"""Whether memory stays flat: many exchanges through a proxy with everything on that tells of them.

    python -m tests.bench.soak [--requests 200000]

Prints the proxy's memory after each tenth, and fails when the last half grew by more than a share.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.bench import machine
from tests.bench.peers import build, peer, upstream
from tests.bench.scenes import SCENES, run_load

_STEPS = 10
_GROWTH = 0.03
"""Of the memory at half time: what an allocator's fragments may add."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000)
    requests = parser.parse_args().requests
    machine.allow_many_files()
    scene = replace(SCENES["r"], requests=requests // _STEPS)
    sizes: list[int] = []
    with tempfile.TemporaryDirectory(prefix="glm-proxy-soak-") as folder:
        bench = build(Path(folder), machine.cores())
        with upstream(bench, "tls") as up, peer(bench, "full", up) as one:
            assert one.pid is not None
            for step in range(1, _STEPS + 1):
                failed = run_load(bench, up, one, scene, seed=step)["failed"]
                sizes.append(machine.memory(one.pid).rss)
                done = f"{step * scene.requests:>9,} exchanges"
                print(f"{done}  {sizes[-1] / 1024:7.1f} MB resident, {failed:g} failed", flush=True)
    half, end = sizes[_STEPS // 2 - 1], sizes[-1]
    growth = end / half - 1
    print(f"from half time to the end: {growth:+.1%}")
    return 0 if growth <= _GROWTH else 1


if __name__ == "__main__":
    raise SystemExit(main())
