"""The image without an engine: the Dockerfile's own commands are run in a folder, and what they
made is started where nothing can be written but a tmpfs, and watched."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.request import urlopen

from tests.bench.processes import free_port
from tests.deploy.check.bench import ROOT, Failed, Missing, program, ran

DOCKERFILE: Final = ROOT / "deploy" / "Dockerfile"
_LISTENS: Final = re.compile(r"listens on http://\S+:(\d+), admin on http://\S+:(\d+)")
_READY: Final = 20.0
_WRITES: Final = re.compile(
    r'open(?:at)?\((?:AT_FDCWD, )?"([^"]+)", [^)]*(?:O_WRONLY|O_RDWR|O_CREAT)'
)
_AS_ROOT: Final = {"fchown"}
"""SQLite gives its files the owner of the database, and only where it runs as root."""
_FILTER: Final = re.compile(r"^SystemCallFilter=(.*)$", re.M)


def linted(folder: Path) -> str:
    hadolint = program("hadolint", "make .venv-deploy")
    told = ran([hadolint, "--failure-threshold", "style", str(DOCKERFILE)])
    if told.strip():
        raise Failed(told)
    return "no remark"


def built(folder: Path) -> str:
    """The first stage, its folders being in `folder`."""
    _build(folder)
    size = sum(path.stat().st_size for path in (folder / "opt").rglob("*") if path.is_file())
    packages = list((folder / "opt").glob("glm-proxy/lib/python3*/site-packages/*.dist-info"))
    pip = [path.name for path in packages if path.name.startswith(("pip-", "setuptools-"))]
    if pip:
        raise Failed(f"an installer is in what runs: {', '.join(pip)}")
    return f"{len(packages)} packages, {size >> 20} MB, no installer; `glm-proxy check` runs"


def runs_read_only(folder: Path) -> str:
    """With every file system read-only but a tmpfs at /tmp, in namespaces of its own."""
    unshare = program("unshare", "Debian: util-linux")
    opt = _build(folder)
    _settings(folder)
    script = (
        "mount --make-rprivate / && mount -t tmpfs tmpfs /tmp && "
        f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder} && "
        "mount --bind / / 2>/dev/null; mount -o remount,bind,ro / && "
        "! touch /var/tmp/x 2>/dev/null && "
        f"exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all {opt}/bin/glm-proxy serve"
        f" --config {folder}/settings.yaml"
    )
    with _serving([unshare, "--mount", "--map-root-user", "sh", "-c", script]) as (_, admin):
        _answers(f"http://127.0.0.1:{admin}/readyz")
    return "starts, is ready, stops; no capability, no new privilege"


def calls_what_it_may(folder: Path) -> str:
    """Every system call of a run is one the unit's filter lets through; nothing is written to but
    the null device, shared memory and /tmp."""
    strace = program("strace", "Debian: strace")
    analyze = program("systemd-analyze", "Debian: systemd")
    opt, trace = _build(folder), folder / "trace"
    _settings(folder)
    command = [strace, "-f", "-qq", "-o", str(trace), f"{opt}/bin/glm-proxy", "serve"]
    command += ["--config", f"{folder}/settings.yaml"]
    with _serving(command, inside=True) as (data, admin):
        _answers(f"http://127.0.0.1:{admin}/readyz")
        _answers(f"http://127.0.0.1:{admin}/metrics")
        _answers(f"http://127.0.0.1:{data}/v1/models", quietly=True)
    for path in Path("/tmp").glob(f"glm-proxy-check-{os.getpid()}.db*"):
        path.unlink()
    text = trace.read_text("utf-8", "replace")
    called = set(re.findall(r"^\d+ +(\w+)\(", text, re.M))
    forbidden = called - _allowed(analyze) - (_AS_ROOT if os.geteuid() == 0 else set())
    if forbidden:
        raise Failed(f"the unit's SystemCallFilter forbids {', '.join(sorted(forbidden))}")
    written = {path for path in _WRITES.findall(text) if not path.startswith(("/dev/", "/tmp/"))}
    if written:
        raise Failed(f"it writes to {', '.join(sorted(written))}")
    return f"{len(called)} system calls, all in the unit's filter; writes only below /tmp"


def _build(folder: Path) -> Path:
    """Runs what the first stage of the Dockerfile runs. Where the proxy is then."""
    opt, done = folder / "opt" / "glm-proxy", folder / "built"
    if done.exists():
        return opt
    if sys.version_info[:2] != (3, 11):
        raise Missing("Python 3.11, which the image has, is not what runs this")
    text = re.sub(r"\\\n\s*", " ", DOCKERFILE.read_text("utf-8"))
    stage = text.split("\nFROM ")[1]
    source = folder / "src"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    environ: dict[str, str] = {}
    for line in stage.splitlines():
        word, _, rest = line.partition(" ")
        if word in ("ENV", "ARG"):
            environ |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        elif word == "COPY":
            _copy(rest.split(), source)
        elif word == "RUN":
            here = re.sub(r"(?<![\w.])/(opt|build)/", rf"{folder}/\1/", rest)
            here = re.sub(r"(?<![\w.])/build\b(?!/)", f"{folder}/build", here)
            here = re.sub(r"\bpython -m", f"{sys.executable} -m", here)
            ran(["sh", "-c", here], cwd=source, environ=environ, timeout=600)
    done.touch()
    return opt


def _copy(words: list[str], to: Path) -> None:
    *sources, target = words
    for one in sources:
        source = ROOT / one
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, to / target, ignore=ignore)
        else:
            (to / target).mkdir(parents=True, exist_ok=True)
            shutil.copy(source, to / target)


def _settings(folder: Path) -> None:
    """With several processes and a state file: all that it does on a machine of its own."""
    (folder / "settings.yaml").write_text(
        "server: {port: 0, workers: 2, drain_timeout: 1s}\nadmin: {port: 0}\n"
        f"state: sqlite:/tmp/glm-proxy-check-{os.getpid()}.db\n"
        f"endpoints: [{{name: a, base_url: 'http://127.0.0.1:{free_port()}'}}]\n",
        "utf-8",
    )


@contextmanager
def _serving(command: list[str], *, inside: bool = False) -> Iterator[tuple[int, int]]:
    """A proxy started by `command`: its ports. It must end well when it is told to. `inside`: it is
    the child of a program that hands no signal on."""
    process = subprocess.Popen(
        command, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        told = ""
        while not (found := _LISTENS.search(told)):
            line = process.stdout.readline()
            if not line:
                raise Failed(f"it did not start: {told.strip()}")
            told += line
        yield int(found[1]), int(found[2])
        os.kill(_child(process.pid) if inside else process.pid, signal.SIGTERM)
        if process.wait(_READY) != 0:
            raise Failed(f"it ended with {process.returncode}")
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def _answers(url: str, *, quietly: bool = False) -> None:
    deadline = time.monotonic() + _READY
    while True:
        try:
            with urlopen(url, timeout=5):
                return
        except OSError as error:
            if quietly:
                return
            if time.monotonic() > deadline:
                raise Failed(f"{url}: {error}") from None
            time.sleep(0.05)


def _allowed(analyze: str) -> set[str]:
    """What the unit's SystemCallFilter lets through."""
    unit = (ROOT / "deploy" / "systemd" / "glm-proxy.service").read_text("utf-8")
    allowed: set[str] = set()
    for value in _FILTER.findall(unit):
        names = {one for group in value.removeprefix("~").split() for one in _calls(analyze, group)}
        allowed = allowed - names if value.startswith("~") else allowed | names
    return allowed


def _calls(analyze: str, group: str) -> set[str]:
    names = {
        line.split("#")[0].strip() for line in ran([analyze, "syscall-filter", group]).splitlines()
    }
    nested = {name for name in names if name.startswith("@") and name != group}
    return (names - nested - {"", group}).union(*(_calls(analyze, one) for one in nested))
