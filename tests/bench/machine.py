"""What a run reads from the machine: cores, CPU time and memory of a process tree, versions."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Cores:
    """Where processes are pinned. Equal when the machine has one core only."""

    measuring: int
    """Mock upstream, TLS front and load client."""
    peer: int
    """The proxy under test, alone."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a process tree in KB."""

    rss: int
    pss: int
    """Pages shared by several processes are counted once."""


def cores() -> Cores:
    usable = sorted(os.sched_getaffinity(0))
    return Cores(measuring=usable[0], peer=usable[-1])


def allow_many_files() -> int:
    """Raises the limit of open files as far as allowed; returns it. Children inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def tree(pid: int) -> Iterator[int]:
    """The process and all its descendants that are alive."""
    yield pid
    for task in _entries(_PROC / str(pid) / "task"):
        for child in _read(task / "children").split():
            yield from tree(int(child))


def cpu_ns(pid: int) -> int:
    """Time on a core, user and system, of all threads of the process tree, in nanoseconds.

    The scheduler's own count: first field of /proc/PID/task/TID/schedstat.
    """
    tasks = (task for member in tree(pid) for task in _entries(_PROC / str(member) / "task"))
    return sum(int((_read(task / "schedstat") or "0").split()[0]) for task in tasks)


def own_cpu_ns() -> int:
    """Time on a core of this process and of its children that have ended, in nanoseconds."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return int(sum(r.ru_utime + r.ru_stime for r in used) * 1e9)


def memory(pid: int) -> Memory:
    texts = [_read(_PROC / str(member) / "smaps_rollup") for member in tree(pid)]
    return Memory(rss=_total_kb("Rss", texts), pss=_total_kb("Pss", texts))


def core_busy_ns(core: int) -> int:
    """Time the core has spent working for anybody, in nanoseconds, as coarse as the clock tick."""
    user, nice, system, _idle, _iowait, irq, softirq, _steal = _core_ticks(core)
    return (user + nice + system + irq + softirq) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def core_stolen_s(core: int) -> float:
    """Time the hypervisor kept the core from us, in seconds."""
    return _core_ticks(core)[7] / os.sysconf("SC_CLK_TCK")


def _core_ticks(core: int) -> list[int]:
    lines = _read(_PROC / "stat").splitlines()
    line = next(x for x in lines if x.startswith(f"cpu{core} "))
    return [int(field) for field in line.split()[1:9]]


def describe() -> str:
    model = re.search(r"model name\s*:\s*(.+)", _read(_PROC / "cpuinfo"))
    name = model.group(1) if model else platform.machine()
    return f"{os.cpu_count()} cores, {name}, Linux {platform.release()}"


def version(program: str, *arguments: str) -> str:
    """First line a program prints about itself; '' when it is not installed."""
    path = find(program)
    if path is None:
        return ""
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    return ((done.stdout or done.stderr).splitlines() or [program])[0]


def find(program: str) -> str | None:
    """Path of a program; servers often live outside a user's PATH."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def _total_kb(field: str, texts: list[str]) -> int:
    return sum(int(m) for text in texts for m in re.findall(rf"^{field}:\s+(\d+)", text, re.M))


def _entries(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:  # the process or thread has just ended
        return []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
