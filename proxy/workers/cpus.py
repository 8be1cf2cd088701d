"""How many processors are ours: those we may run on, and no more than our share of their time."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Final

_CGROUP: Final = Path("/proc/self/cgroup")
_MOUNT: Final = Path("/sys/fs/cgroup")


def usable() -> int:
    """Workers that find a processor each: at least one."""
    processors = len(os.sched_getaffinity(0))
    quota = _quota(_MOUNT, _CGROUP)
    return processors if quota is None else max(1, min(processors, math.ceil(quota)))


def _quota(mount: Path, cgroup: Path) -> float | None:
    """Processors' worth of time by cgroup v2 (`cpu.max`), of the narrowest group; None: no limit.

    https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    """
    try:
        own = cgroup.read_text().strip().rpartition("::")[2].strip("/")
    except OSError:
        return None
    group, found = mount / own, []
    while True:
        try:
            most, period = (group / "cpu.max").read_text().split()
            if most != "max":
                found.append(int(most) / int(period))
        except (OSError, ValueError):
            pass  # the root group has none
        if group == mount or mount not in group.parents:
            return min(found, default=None)
        group = group.parent
