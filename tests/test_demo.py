"""`glm-proxy demo` as a person starts it: what it shows, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from proxy.cli.demo.ask import Sample, Way, ask_all
from proxy.cli.demo.children import NotRunning
from proxy.cli.demo.settings import write_settings
from proxy.cli.demo.show import Shown, median, overhead
from proxy.cli.demo.simulated import QUESTION

ROOT = Path(__file__).parents[1]
DEMO = (sys.executable, "-m", "proxy", "demo")
QUICK = ("--time-scale", "0.1", "--runs", "2")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where the demonstration puts its files; empty again at the end."""
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def demo(folder: Path, *arguments: str, seconds: float = 50) -> subprocess.CompletedProcess[str]:
    """A session of its own, so that what outlives the command can be found."""
    return subprocess.run(
        [*DEMO, *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def running(folder: Path) -> list[str]:
    """Command lines of processes that were started with files in `folder`."""
    lines = (path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if _readable(path))
    return [line.decode().replace("\0", " ") for line in lines if str(folder).encode() in line]


def _readable(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each row of the tables, by the row's name."""
    cells = [
        [cell.strip() for cell in line.strip("│┃ ").split("│")]
        for line in text.splitlines()
        if line.startswith("│")
    ]
    return {row[0]: row[1:] for row in cells}


def test_the_demonstration_compares_three_ways_and_leaves_nothing(folder: Path) -> None:
    done = demo(folder, *QUICK)
    assert (done.returncode, done.stderr) == (0, "")
    assert running(folder) == []
    shown = rows(done.stdout)
    assert "SIMULATED" in done.stdout
    stages = ("connected", "response headers", "first event", "first token", "first content")
    for way in range(3):
        times = [float(shown[stage][way]) for stage in (*stages, "last byte")]
        assert times == sorted(times)
    direct, proxied, fast = map(float, shown["first content"])
    assert fast < min(direct, proxied)
    assert shown["model"] == ["glm-4.6", "glm-4.6, served by glm-4-flash"]
    assert shown["endpoint"] == ["simulator, by h2", "simulator, by h2"]
    assert shown["route"] == ["default", "fast-chat"]
    for cell in shown["events, all runs"]:
        passed, read = map(int, re.findall(r"\d+", cell))
        assert passed == read > 0
    assert re.search(r"\(thinking\) \.+[A-Z]", done.stdout), "tokens are shown"


def test_ctrl_c_ends_it_with_all_its_processes(folder: Path) -> None:
    with subprocess.Popen(
        [*DEMO, "--time-scale", "50"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if line.startswith("Asked each time"))
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(timeout=20) == 128 + signal.SIGINT
    assert running(folder) == []


def test_without_the_sdk_it_says_what_to_install(folder: Path) -> None:
    code = (
        "import sys; sys.modules['openai'] = None\n"
        "from proxy.cli import group; group(['demo'], prog_name='glm-proxy')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("glm-proxy demo: the demonstration asks with the Python package")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is not None, reason="it is installed")
def test_without_the_language_model_it_says_what_to_install(folder: Path) -> None:
    done = demo(folder, "--llm")
    assert (done.returncode, done.stdout) == (1, "")
    assert "'xllamacpp', which is not installed; `make demo-llm` installs it" in done.stderr


def test_two_demonstrations_at_once_are_refused(folder: Path) -> None:
    done = demo(folder, "--llm", "--serve")
    assert done.returncode == 2
    assert "not both" in done.stderr


def test_a_port_in_use_ends_serve_with_the_proxys_own_words(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 8443)) if _free(8443) else socket.socket():
        done = demo(folder, "--serve")
    assert done.returncode == 1
    assert "8443" in done.stderr
    assert running(folder) == []


def _free(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


async def test_a_stream_that_breaks_is_told_in_one_line() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(asked.lower().split(b"content-length: ")[1].split()[0]))
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 99\r\n\r\n"
        writer.write(head + b": one\n\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        way = Way("direct", "", f"http://127.0.0.1:{port}/v1")
        with pytest.raises(NotRunning, match=r"direct: .*closed connection"):
            await ask_all(way, QUESTION, 2, together=True, on_token=lambda text, visible: None)


def test_settings_are_the_bundled_ones_with_another_endpoint(tmp_path: Path) -> None:
    endpoint = {"name": "here", "base_url": "http://127.0.0.1:1"}
    file = write_settings(tmp_path / "x.yaml", "fast.yaml", endpoint, log={"format": "json"})
    written, bundled = (
        yaml.safe_load(path.read_text()) for path in (file, ROOT / "config/fast.yaml")
    )
    assert written == {**bundled, "endpoints": [endpoint], "log": {"format": "json"}}


def test_medians_leave_out_what_did_not_happen() -> None:
    samples = [Sample(first_content=3.0), Sample(), Sample(first_content=1.0)]
    assert median(samples, lambda sample: sample.first_content) == 2.0
    assert median([Sample()], lambda sample: sample.first_content) is None
    shown = Shown(Way("x", "", ""), samples, [{"overhead_s": 0.5}, {"overhead_s": 0.1}])
    assert overhead(shown.records) == pytest.approx(0.3)


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("xllamacpp") is None, reason="make demo-llm first")
def test_a_real_model_streams_through_the_proxy(folder: Path) -> None:
    done = demo(folder, "--llm", "--runs", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert running(folder) == []
    shown = rows(done.stdout)
    assert shown["endpoint"] == ["gemma, by http/1.1"]
    assert done.stdout.count("a reverse proxy is") >= 3
