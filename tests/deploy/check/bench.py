"""What the checks work with: folders, the tools' environment, and how a program is run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[3]
TOOLS: Final = ROOT / ".venv-deploy"
_SYSTEM: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Failed(Exception):
    """What was looked at is wrong; the message says how."""


class Missing(Exception):
    """A program is not here; the message says which, and where it is had from."""


@dataclass(frozen=True)
class Check:
    """One look."""

    what: str
    by: str
    run: Callable[[Path], str]
    """With a folder of its own: what was found, in a few words. Raises Failed, Missing."""


def program(name: str, package: str) -> str:
    """The path of a program, of the tools' environment or the system. Raises Missing."""
    own = TOOLS / "bin" / name
    found = str(own) if own.exists() else shutil.which(name, path=f"{os.environ['PATH']}:{_SYSTEM}")
    if found is None:
        raise Missing(f"{name} is not installed ({package})")
    return found


def ran(
    command: list[str],
    *,
    cwd: Path = ROOT,
    environ: Mapping[str, str] | None = None,
    timeout: float = 300.0,
) -> str:
    """What a command printed, both streams together. Raises Failed when it did not end well."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **(environ or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command)}: not done after {timeout:g} s") from None
    if done.returncode:
        last = "\n".join(done.stdout.strip().splitlines()[-30:])
        raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{last}")
    return done.stdout
