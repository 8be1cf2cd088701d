"""What ships and what it stands on: locks, hashes, licences, the wheel, the lowest versions."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.version import Version

from proxy import __version__
from tests.deploy.check.bench import ROOT, Failed, program, ran

REQUIREMENTS: Final = ROOT / "requirements"
BILL: Final = ROOT / "dist" / "sbom.cdx.json"
# What each lock is made of, as `make lock` has it.
LOCKS: Final[dict[str, list[str]]] = {
    "runtime": ["--extra=simulator", "--extra=otel", "--extra=redis"],
    "serve": ["--extra=otel", "--extra=redis"],
}
FLOORS: Final = {"aiohttp": "3.14.5", "h2": "4.4.1"}
"""Below these are weaknesses that reach us: cancelled requests, smuggling, header injection."""
ALLOWED: Final = re.compile(
    r"Apache|BSD|MIT|ISC|PSF|Python Software Foundation|MPL|Mozilla Public|0BSD|Unlicense", re.I
)
_COPYLEFT: Final = re.compile(r"\bA?GPL|\bLGPL|General Public", re.I)
_ACCEPTED: Final = {
    # Settings, with their secrets, between a process and its own children, on a socket that nobody
    # else has: who can write to it is the proxy already.
    ("B301", "proxy/workers"),
}
_STARTERS: Final = ("sitecustomize.py", "usercustomize.py")
_LOWEST_TESTS: Final = (
    *("tests/test_config.py", "tests/test_exchange.py", "tests/test_cli.py", "tests/test_cuts.py"),
    *("tests/test_tracing.py", "tests/admin", "tests/state", "tests/simulator/test_http2.py"),
    *("tests/net/test_pool.py", "tests/net/test_downstream.py", "tests/net/test_http1_connects.py"),
    *("tests/observe/test_metrics.py", "tests/observe/test_table.py"),
    *("tests/core/test_request.py", "tests/core/test_rewrite.py", "tests/core/test_headers.py"),
)
"""Where each dependency is used: settings, commands, both HTTPs, log, metrics, traces, state."""


def complete(folder: Path) -> str:
    """Resolved again with what is locked preferred, nothing changes."""
    uv = program("uv", "make .venv-deploy")
    for name, options in LOCKS.items():
        before = (REQUIREMENTS / f"{name}.lock").read_text("utf-8")
        path = folder / f"{name}.lock"
        path.write_text(before, "utf-8")
        ran(
            [
                *_compile(uv),
                "--generate-hashes",
                *options,
                "-o",
                str(path),
                "--exclude-newer=7 days",
            ]
        )
        if path.read_text("utf-8") != before:
            raise Failed(f"requirements/{name}.lock is not what pyproject.toml asks for: make lock")
    return f"{' and '.join(LOCKS)}: nothing missing, nothing too much, none younger than 7 days"


def installed(folder: Path) -> str:
    """As the image does it: no index but the lock's hashes decides, then everything fits."""
    python = _environment(folder)
    ran([str(python), "-m", "pip", "check"])
    where = python.parents[1]
    names = list(where.glob("lib/python3*/site-packages/*.dist-info"))
    ran([str(where / "bin" / "glm-proxy"), "check"], cwd=folder)
    return f"{len(names)} packages, and they fit each other"


def quiet_start(folder: Path) -> str:
    """A `.pth` file or a `sitecustomize` is run by every Python that finds it."""
    where = _environment(folder).parents[1]
    found = [
        path.name for path in where.rglob("*") if path.suffix == ".pth" or path.name in _STARTERS
    ]
    # pip's own companion, which the image has not.
    unknown = [name for name in found if name != "distutils-precedence.pth"]
    if unknown:
        raise Failed(f"these run at every start: {', '.join(unknown)}")
    return "no .pth, no sitecustomize"


def licensed(folder: Path) -> str:
    where = _environment(folder).parents[1]
    counted: dict[str, int] = {}
    for path in sorted(where.glob("lib/python3*/site-packages/*.dist-info/METADATA")):
        name, text = path.parent.name.split("-")[0], _licence(path)
        if name in ("pip", "setuptools"):
            continue
        if _COPYLEFT.search(text) or not ALLOWED.search(text):
            raise Failed(f"{name}: {text or 'no licence named'}")
        found = ALLOWED.search(text)
        assert found is not None
        counted[found[0].upper()] = counted.get(found[0].upper(), 0) + 1
    return ", ".join(f"{name} {count}" for name, count in sorted(counted.items()))


def _licence(metadata: Path) -> str:
    """The expression, else the classifiers, else the first line of the old field."""
    head = metadata.read_text("utf-8", "replace").split("\n\n")[0]
    expression = re.findall(r"^License-Expression: (.*)$", head, re.M)
    classifiers = re.findall(r"^Classifier: License :: (?:OSI Approved :: )?(.*)$", head, re.M)
    old = re.findall(r"^License: (.*)$", head, re.M)
    return "; ".join(expression or classifiers or old)


def billed(folder: Path) -> str:
    """CycloneDX, of the lock that ships; beside the wheel, in dist."""
    cyclonedx = program("cyclonedx-py", "make .venv-deploy")
    BILL.parent.mkdir(exist_ok=True)
    command = [cyclonedx, "requirements", str(REQUIREMENTS / "serve.lock"), "--output-reproducible"]
    ran([*command, "--of", "JSON", "-o", str(BILL)])
    parts = json.loads(BILL.read_text("utf-8"))["components"]
    named = {part["name"].lower().replace("_", "-") for part in parts}
    text = (REQUIREMENTS / "serve.lock").read_text("utf-8")
    locked = set(re.findall(r"^([a-z0-9-]+)==", text, re.M))
    if named != locked:
        raise Failed(f"only in one of lock and bill: {', '.join(sorted(named ^ locked))}")
    return f"{len(named)} parts in {BILL.relative_to(ROOT)}"


def reproduced(folder: Path) -> str:
    """Built in two folders, at two times, by users of two umasks."""
    digests: dict[str, set[str]] = {}
    for number, umask in enumerate((0o022, 0o077)):
        source = folder / f"source-{number}"
        ignore = shutil.ignore_patterns("__pycache__", ".*", "dist", "build")
        shutil.copytree(ROOT, source, ignore=ignore)
        for path in source.rglob("*"):
            os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
        wheel = _wheel(source, folder / f"wheel-{number}", umask)
        digests[wheel.name] = digests.get(wheel.name, set()) | {_digest(wheel)}
    ((name, found),) = digests.items()
    if len(found) != 1:
        raise Failed(f"{name} has other bytes each time: {', '.join(sorted(found))}")
    starters = [
        one for one in zipfile.ZipFile(wheel).namelist() if one.endswith((".pth", *_STARTERS))
    ]
    if starters:
        raise Failed(f"the wheel brings {', '.join(starters)}")
    shutil.copy(wheel, BILL.parent)
    return f"dist/{name}, sha256 {found.pop()}"


def _wheel(source: Path, to: Path, umask: int) -> Path:
    script = (
        f"import os, hatchling.build as b; os.umask({umask}); os.makedirs({str(to)!r});"
        f" b.build_wheel({str(to)!r})"
    )
    # The Dockerfile's own date: that of the oldest file a zip can hold.
    ran([sys.executable, "-c", script], cwd=source, environ={"SOURCE_DATE_EPOCH": "315532800"})
    (wheel,) = to.glob("*.whl")
    return wheel


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lowest(folder: Path) -> str:
    """The core of the tests, with the lowest version of every direct dependency."""
    _floors()
    uv = program("uv", "make .venv-deploy")
    pins, python = folder / "lowest.txt", folder / "lowest" / "bin" / "python"
    extras = LOCKS["runtime"]
    ran([*_compile(uv), "--resolution=lowest-direct", *extras, "-o", str(pins)])
    ran([uv, "--no-config", "venv", "-q", "-p", sys.executable, str(folder / "lowest")])
    dev = [f"{name}=={_locked(name)}" for name in _TESTERS]
    install = [uv, "--no-config", "pip", "install", "-q", "-p", str(python)]
    ran([*install, "-r", str(pins), *dev], timeout=600)
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=180"]
    told = ran([*command, *_LOWEST_TESTS], timeout=900)
    direct = [Requirement(one) for one in _project()["dependencies"]]
    return f"{told.strip().splitlines()[-1]}; {', '.join(map(str, direct))}"


_TESTERS: Final = ("pytest", "pytest-aiohttp", "pytest-timeout", "hypothesis", "hatchling")


def _locked(name: str) -> str:
    text = (REQUIREMENTS / "dev.lock").read_text("utf-8")
    found = re.search(rf"^{name}==(\S+)", text, re.M)
    assert found is not None, name
    return found[1]


def _floors() -> None:
    """No known weak version of what parses for us can be installed."""
    project = _project()
    extras = project["optional-dependencies"].values()
    asked = [*project["dependencies"], *(one for extra in extras for one in extra)]
    for requirement in map(Requirement, asked):
        floor = FLOORS.get(requirement.name)
        if floor is None:
            continue
        lowest = min(Version(one.version) for one in requirement.specifier if one.operator == ">=")
        if lowest < Version(floor):
            raise Failed(f"pyproject.toml allows {requirement.name} {lowest}, below {floor}")


def searched(folder: Path) -> str:
    bandit = program("bandit", "make .venv-deploy")
    told = ran([bandit, "-q", "-r", "proxy", "-ll", "-f", "json", "--exit-zero"])
    report = json.loads(told[told.index("{") :])
    new = [
        f"{one['filename']}:{one['line_number']} {one['test_id']} {one['issue_text']}"
        for one in report["results"]
        if (one["test_id"], str(Path(one["filename"]).parent)) not in _ACCEPTED
    ]
    if new:
        raise Failed("\n".join(new))
    lines = report["metrics"]["_totals"]["loc"]
    return f"{lines} lines; nothing of medium or high severity but what is accepted"


def _project() -> dict[str, Any]:
    read = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert isinstance(read, dict)
    return read


def _compile(uv: str) -> list[str]:
    options = ["-q", "--universal", "--python-version=3.11", "--no-header", "--no-annotate"]
    return [uv, "--no-config", "pip", "compile", *options, str(ROOT / "pyproject.toml")]


def _environment(folder: Path) -> Path:
    """A new one with what ships, from the locks alone; its Python."""
    where = folder / "shipped"
    python = where / "bin" / "python"
    if python.exists():
        return python
    venv.create(where, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps"]
    ran([*pip, "--require-hashes", "-r", str(REQUIREMENTS / "serve.lock")], timeout=600)
    ran([*pip, str(_wheel(ROOT, folder / "shipped-wheel", 0o022)), "--no-index"])
    shown = ran([str(where / "bin" / "glm-proxy"), "--version"], cwd=folder)
    if __version__ not in shown:
        raise Failed(f"it says it is {shown.strip()}")
    return python
