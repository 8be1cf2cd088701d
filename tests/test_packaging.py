"""What ships: locked dependencies, the files of a wheel, one place for the version."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from proxy import __version__

ROOT = Path(__file__).parents[1]
LOCKS = {
    # lock -> extras and groups of pyproject.toml it holds besides the dependencies
    "runtime": ("simulator", "otel", "redis"),
    "serve": ("otel", "redis"),
    "dev": ("simulator", "otel", "redis", "dev"),
    "llm": ("llm",),
}
EVERY_LOCK = [*LOCKS, "build", "deploy"]
PIN = re.compile(r"(?P<name>[a-z0-9-]+)(?:\[[a-z0-9,-]+\])?==[^ ]+(?: ; .+)?")
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def locked(lock: str) -> dict[str, list[str]]:
    """The hashes of each locked name."""
    hashes: dict[str, list[str]] = {}
    for entry in (
        (ROOT / "requirements" / f"{lock}.lock").read_text().replace("\\\n", "").split("\n")
    ):
        if entry:
            pin, *found = re.split(r"\s+(?=--hash=)", entry.strip())
            match = PIN.fullmatch(pin)
            assert match is not None, f"{lock}: {pin!r} is not one exact version"
            assert all(HASH.fullmatch(text) for text in found), f"{lock}: {pin!r}"
            hashes.setdefault(match["name"], []).extend(found)
    return hashes


@pytest.mark.parametrize("lock", EVERY_LOCK)
def test_every_locked_package_has_one_version_and_hashes(lock: str) -> None:
    assert [name for name, hashes in locked(lock).items() if not hashes] == []


@pytest.mark.parametrize("lock", EVERY_LOCK)
def test_a_lock_names_no_index_and_no_file(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.lock").read_text()
    assert not re.search(r"://|@ |file:|--(index|extra-index|find-links)", text)


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_holds_everything_the_project_asks_for(lock: str) -> None:
    described = project()
    asked = list(described["project"]["dependencies"])
    for extra in LOCKS[lock]:
        asked += described["project"]["optional-dependencies"].get(extra, [])
        asked += described["dependency-groups"].get(extra, [])
    missing = {canonicalize_name(Requirement(text).name) for text in asked} - locked(lock).keys()
    assert missing == set(), "run: make lock"


def test_the_locks_agree_on_what_they_share() -> None:
    runtime = locked("runtime")
    for lock in ("serve", "dev", "llm"):
        other = locked(lock)
        differing = [name for name in runtime.keys() & other.keys() if runtime[name] != other[name]]
        assert differing == [], f"{lock} and runtime differ; run: make lock"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(_built(tmp_path_factory.mktemp("wheel")))


def _built(folder: Path) -> Path:
    script = "import sys, hatchling.build as build; print(build.build_wheel(sys.argv[1]))"
    subprocess.run(
        [sys.executable, "-c", script, str(folder)], cwd=ROOT, capture_output=True, check=True
    )
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_settings_and_every_module(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    config = {f"proxy/_config/{path.name}" for path in (ROOT / "config").iterdir()}
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "proxy").rglob("*.py")}
    assert config | modules <= names
    assert not [name for name in names if name.startswith(("tests/", "config/"))]


def test_the_wheel_runs_from_where_it_is_installed(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Its bundled settings are found without the source tree beside it."""
    wheel.extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "proxy", "check"],
        cwd="/",
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "https://open.bigmodel.cn" in done.stdout


def test_the_version_is_written_in_one_place(wheel: zipfile.ZipFile) -> None:
    assert project()["project"]["dynamic"] == ["version"]
    assert f"glm_proxy-{__version__}.dist-info/METADATA" in wheel.namelist()


def test_a_wheel_built_twice_is_the_same(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    assert wheel.filename is not None
    assert _built(tmp_path).read_bytes() == Path(wheel.filename).read_bytes()


def test_the_wheel_runs_nothing_at_interpreter_start(wheel: zipfile.ZipFile) -> None:
    """A `.pth` file is run by every Python that has it in its path."""
    assert [name for name in wheel.namelist() if name.endswith((".pth", "sitecustomize.py"))] == []


def test_make_lists_its_targets() -> None:
    # `make test` tells the make below it how to print, by these variables.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make"], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    targets = [line.split()[1] for line in done.stdout.splitlines()]
    verbs = "help setup demo serve demo-llm test test-two test-long lint format bench proof"
    verbs += " deploy-check release-check lock clean"
    assert " ".join(targets) == verbs
