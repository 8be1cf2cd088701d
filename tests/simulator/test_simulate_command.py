"""`glm-proxy simulate` as a person meets it: where it listens, how it ends, what it says no to."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import ssl
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from click.testing import CliRunner, Result

from proxy.cli.simulate import command
from proxy.simulator import Simulator, SimulatorSettings, server
from tests.simulator.peers import CHAT, chat, events

START = (sys.executable, "-m", "proxy", "simulate", "--port", "0")
KEY = {"authorization": "Bearer id.secret"}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_says_where_it_listens_and_stops_at_a_signal(
    tmp_path: Path, number: signal.Signals
) -> None:
    ca_file = tmp_path / "ca.pem"
    options = ("--tls-port", "0", "--ca-file", str(ca_file), "--profile", "instant")
    faults = ("--fault", "code=1305,every=2")
    process = await asyncio.create_subprocess_exec(
        *START, *options, *faults, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    said = (await process.stdout.readline() + await process.stdout.readline()).decode()
    plain, tls = re.findall(r"https?://127\.0\.0\.1:\d+", said)
    assert str(ca_file) in said
    trust = ssl.create_default_context(cafile=str(ca_file))
    async with aiohttp.ClientSession(headers=KEY) as http:
        async with http.post(plain + CHAT, json=chat()) as response:
            assert len(events(await response.read())) == 26
        async with http.post(tls + CHAT, json=chat(), ssl=trust) as response:
            assert response.status == 429
    process.send_signal(number)
    async with asyncio.timeout(10):
        assert await process.wait() == 0
        assert await process.stdout.read() == b""


def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("--port", str(port), "--no-tls")
    assert result.exit_code == 1
    assert result.output == (
        f"glm-proxy simulate: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    )


@pytest.mark.parametrize("missing", ["h2", "trustme"])
def test_a_missing_package_is_one_clear_line(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("http2", "http2_outlet", "certificate"):
        monkeypatch.delitem(sys.modules, f"proxy.simulator.{module}", raising=False)
    for name in [n for n in sys.modules if n.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    result = run("--port", "0", "--tls-port", "0")
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert "pip install '.[simulator]'" in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--fault", "cut=3"), "cut: Extra inputs are not permitted"),
        (("--profile", "fast"), "'fast' is not one of"),
        (("--time-scale", "-1"), "-1"),
    ],
)
def test_a_wrong_argument_is_told(arguments: tuple[str, ...], told: str) -> None:
    result = run("--port", "0", *arguments)
    assert result.exit_code == 2
    assert told in result.output


def test_a_ca_file_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    result = run("--port", "0", "--tls-port", "0", "--ca-file", str(tmp_path / "none" / "ca.pem"))
    assert result.exit_code == 1
    assert result.output.startswith("glm-proxy simulate: ")
    assert result.output.count("\n") == 1


async def test_plain_http_1_1_needs_no_extra_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(server, "_tls", refuse)
    monkeypatch.setattr(server, "_http2_factory", refuse)
    settings = SimulatorSettings(tls_port=None, http1_only=True)
    async with Simulator(settings) as sim, aiohttp.ClientSession(headers=KEY) as http:
        assert (sim.https_url, sim.ca_file) == (None, None)
        async with http.post(sim.http_url + CHAT, json=chat()) as response:
            assert response.status == 200
