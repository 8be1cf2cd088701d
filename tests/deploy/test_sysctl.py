"""The kernel's settings: each is one that there is, and has its reason above it."""

from __future__ import annotations

import re
from pathlib import Path

FILE = Path(__file__).parents[2] / "deploy" / "sysctl" / "99-glm-proxy.conf"
# Where a container has no file for what belongs to the whole machine.
OF_THE_MACHINE = {"net.core.default_qdisc"}


def test_every_line_is_a_setting_of_the_kernel() -> None:
    lines = [line for line in FILE.read_text("utf-8").splitlines() if line and line[0] != "#"]
    assert len(lines) >= 10
    for line in lines:
        found = re.fullmatch(r"(net\.[a-z0-9_.]+) = ([\w ]+)", line)
        assert found is not None, line
        path = Path("/proc/sys") / found[1].replace(".", "/")
        assert path.exists() or found[1] in OF_THE_MACHINE, found[1]


def test_every_group_has_its_reason() -> None:
    groups = FILE.read_text("utf-8").strip().split("\n\n")
    assert all(group.startswith("# ") for group in groups)
