"""The systemd units: how much of the machine is left to the service, and whether it can live with
that."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.config import load

NeedsProgram = Callable[[str], str]
FOLDER = Path(__file__).parents[2] / "deploy" / "systemd"
UNITS = sorted(FOLDER.glob("glm-proxy*"))
SERVICE = FOLDER / "glm-proxy.service"
MOST_EXPOSED = 1.5
_REFUSE_EXEC_GAIN = 1
_PR_SET_MDWE = 65
_SECONDS = {"s": 1, "min": 60, "m": 60, "h": 3600}


def settings_of(path: Path) -> dict[str, list[str]]:
    """All values of each setting, of all sections; a setting may stand there several times."""
    found: dict[str, list[str]] = {}
    for line in path.read_text("utf-8").splitlines():
        name, sign, value = line.partition("=")
        if sign and not line.startswith(("#", "[")):
            found.setdefault(name, []).append(value)
    return found


def seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)(s|min|m|h)", text)
    assert found is not None, text
    return int(found[1]) * _SECONDS[found[2]]


def test_the_service_is_left_little_of_the_machine(
    tmp_path: Path, needs_program: NeedsProgram
) -> None:
    program = needs_program("systemd-analyze")
    found = subprocess.run(
        [program, "security", "--offline=yes", "--no-pager", str(_runnable(tmp_path))],
        capture_output=True,
        text=True,
        check=False,
    )
    level = re.search(r"exposure level for \S+: ([\d.]+)", found.stdout)
    assert level is not None, found.stdout + found.stderr
    print(f"exposure level {level[1]}")
    assert float(level[1]) <= MOST_EXPOSED


def test_systemd_understands_every_line(tmp_path: Path, needs_program: NeedsProgram) -> None:
    program = needs_program("systemd-analyze")
    _runnable(tmp_path)
    units = [str(tmp_path / path.name) for path in UNITS]
    found = subprocess.run(
        [program, "verify", "--man=no", *units], capture_output=True, text=True, check=False
    )
    told = [line for line in found.stderr.splitlines() if "glm-proxy" in line]
    assert told == []


def _runnable(folder: Path) -> Path:
    """The units in `folder`, with a program that is there."""
    for path in UNITS:
        shutil.copy(path, folder)
    service = folder / SERVICE.name
    text = service.read_text("utf-8")
    command = "ExecStart=/opt/glm-proxy/bin/glm-proxy "
    assert command in text
    service.write_text(text.replace(command, f"ExecStart={sys.executable} "), "utf-8")
    return service


def test_running_streams_have_the_time_that_the_settings_give_them(tmp_path: Path) -> None:
    unit = settings_of(SERVICE)
    settings = tmp_path / "proxy.yaml"
    settings.write_text("endpoints: [{name: a, base_url: https://glm.example.com}]", "utf-8")
    drain = load(settings, {}).server.drain_timeout
    assert seconds(unit["TimeoutStopSec"][0]) > drain
    assert unit["KillMode"] == ["mixed"]


def test_each_socket_has_the_name_that_it_is_taken_by() -> None:
    names = {
        path.name: settings_of(path)["FileDescriptorName"]
        for path in UNITS
        if path.suffix == ".socket"
    }
    assert names == {"glm-proxy.socket": ["data"], "glm-proxy-admin.socket": ["admin"]}


def test_a_credential_is_read_without_a_warning(tmp_path: Path) -> None:
    """systemd gives it mode 0440, and lets the service's user read it."""
    key = tmp_path / "glm-api-key"
    key.write_text("id.secret", "utf-8")
    key.chmod(0o440)
    settings = tmp_path / "proxy.yaml"
    settings.write_text(
        f"endpoints:\n  - {{name: a, base_url: https://glm.example.com, api_key: 'file:{key}'}}\n",
        "utf-8",
    )
    found = subprocess.run(
        [sys.executable, "-m", "proxy", "check", str(settings)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "readable by everybody" not in found.stdout + found.stderr


def test_it_runs_where_no_memory_is_both_written_and_executed(tmp_path: Path) -> None:
    """As under MemoryDenyWriteExecute, NoNewPrivileges and LimitCORE=0."""
    if not _can_refuse():
        pytest.skip("this kernel has no PR_SET_MDWE")
    settings = tmp_path / "proxy.yaml"
    settings.write_text(
        "server: {port: 0, drain_timeout: 1s}\nadmin: {port: 0}\n"
        "endpoints: [{name: a, base_url: 'http://127.0.0.1:9'}]\n",
        "utf-8",
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy", "serve", "--config", str(settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_refuse,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "listens on" in line, process.communicate(timeout=10)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=20)
        assert process.returncode == 0, told
    finally:
        process.kill()
        process.communicate()


def _refuse() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_MDWE, _REFUSE_EXEC_GAIN, 0, 0, 0)
    ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS


def _can_refuse() -> bool:
    """Tried in a child: it cannot be taken back."""
    child = os.fork()
    if child == 0:
        os._exit(ctypes.CDLL(None).prctl(_PR_SET_MDWE, _REFUSE_EXEC_GAIN, 0, 0, 0) != 0)
    return os.waitpid(child, 0)[1] == 0
