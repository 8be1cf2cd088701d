"""The command line as a person meets it: exit codes, one clear message, no traceback, no secret."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import pytest
import yaml
from click.testing import CliRunner, Result

from proxy import __version__
from proxy.cli import group
from proxy.net.listen import listening_socket

CANARY = "sk-canary.0123456789abcdef"
CN = "name: cn, base_url: https://open.bigmodel.cn"


def run(*arguments: object, environ: Mapping[str, str] | None = None) -> Result:
    """The command line inside this process."""
    return CliRunner().invoke(group, [str(argument) for argument in arguments], env=environ)


def python(*arguments: str, environ: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """`python -m proxy` as a process of its own: exit code, standard output, standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, **(environ or {})},
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


# --- wrong input -------------------------------------------------------------------------------

WRONG = {
    "an unknown setting": (f"endpoints: [{{{CN}}}]\nserver: {{prot: 1}}", "did you mean port?"),
    "a wrong unit": (f"endpoints: [{{{CN}}}]\ntimeouts: {{idle: 60}}", "write 60s"),
    "no endpoints": ("server: {port: 1}", "endpoints: missing"),
    "a missing key file": (
        f"endpoints: [{{{CN}, api_key: file:none}}]",
        "file:none cannot be read",
    ),
    "a missing variable": (f"endpoints: [{{{CN}, api_key: env:NOPE}}]", "env:NOPE is not set"),
    "a key in the file": (f"endpoints: [{{{CN}, api_key: {CANARY}}}]", "never the key itself"),
    "a blank in a key": (f"endpoints: [{{{CN}, api_key: env:BAD}}]", "env:BAD holds blanks"),
    "wrong YAML": (f"endpoints: [{{{CN}, api_key: {CANARY}]", "line 1: is not valid YAML"),
    "a wrong parameter": (
        f"endpoints: [{{{CN}}}]\nroutes: [{{name: a, params: {{force: {{thinking: 1}}}}}}]",
        "routes[0].params.force: thinking must be",
    ),
    "a remote address": (f"endpoints: [{{{CN}}}]\nserver: {{host: 0.0.0.0}}", "access: keys"),
}


@pytest.mark.parametrize("command", [["check"], ["serve", "--config"], ["models", "--config"]])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_end_with_2_and_say_what_to_change(
    tmp_path: Path, command: list[str], case: str
) -> None:
    text, says = WRONG[case]
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    result = run(*command, path, environ={"BAD": f"{CANARY} x"})
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert str(path) in result.stderr
    assert says in result.stderr
    assert CANARY not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["check", "/nowhere/x.yaml"], "/nowhere/x.yaml: 1 problem in the settings"),
        (["check", "/nowhere/x.yaml"], "cannot be read: No such file or directory"),
        (["serve", "--port", "70000"], "0<=x<=65535"),
        (["serve", "--port", "x"], "not a valid integer"),
        (
            ["serve", "--host", "0.0.0.0"],
            "  server.host, given on the command line: 0.0.0.0 is not",
        ),
        (["serve", "--nope"], "No such option"),
        (["nope"], "No such command"),
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ("models: {glm-9: {thinking: sometimes, family: x, rank: 1}}", "models.glm-9.thinking"),
        ("models: {", "is not valid YAML"),
    ],
)
def test_wrong_model_records_end_with_2(tmp_path: Path, records: str, says: str) -> None:
    (tmp_path / "models.yaml").write_text(records)
    path = tmp_path / "settings.yaml"
    path.write_text(f"endpoints: [{{{CN}}}]\nmodels_file: models.yaml")
    result = run("check", path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"{tmp_path / 'models.yaml'}: 1 problem")
    assert says in result.stderr


def test_a_process_with_wrong_settings_shows_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(f"endpoints: [{{{CN}, api_key: env:KEY}}]")
    code, out, err = python("serve", "--config", str(path), environ={"KEY": f" {CANARY}"})
    assert (code, out) == (2, "")
    assert err == (
        f"{path}: 1 problem in the settings\n"
        "  line 1, endpoints[0].api_key: env:KEY holds blanks or characters that no key has;"
        " check it\n"
    )


def test_a_process_whose_port_is_in_use_says_so_in_one_line() -> None:
    with listening_socket("server", "127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        code, out, err = python("serve", "--port", str(port), "--admin-port", "0")
    assert (code, out) == (1, "")
    assert err == (
        f"glm-proxy: server.port {port} on 127.0.0.1 is in use;"
        " choose another with --port or server.port\n"
    )


def test_without_the_c_parser_the_proxy_does_not_start() -> None:
    code, _, err = python("serve", "--port", "0", environ={"AIOHTTP_NO_EXTENSIONS": "1"})
    assert code == 1
    assert "without its C parser" in err
    assert "Traceback" not in err


# --- commands ----------------------------------------------------------------------------------


def test_the_version_is_the_packages() -> None:
    assert run("--version").stdout == f"glm-proxy, version {__version__}\n"


def test_help_names_the_commands_without_loading_them() -> None:
    code = "import sys; from proxy.cli import group; group(['--help'], standalone_mode=False)"
    loaded = "; print([name for name in sys.modules if name.startswith('proxy.cli.')])"
    done = subprocess.run(
        [sys.executable, "-c", code + loaded], capture_output=True, text=True, check=True
    )
    assert "serve     Run the proxy." in done.stdout
    assert done.stdout.endswith("\n[]\n")


def test_a_command_without_its_packages_says_which_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    monkeypatch.delitem(sys.modules, "proxy.cli.serve")
    result = run("serve")
    assert result.exit_code == 1
    assert "serve needs the Python package 'uvloop'" in result.stderr


def test_check_prints_effective_settings_with_secrets_masked(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(f"endpoints: [{{{CN}, api_key: env:KEY}}]\ntimeouts: {{idle: 90s}}")
    result = run("check", path, environ={"KEY": CANARY})
    assert result.exit_code == 0
    assert CANARY not in result.output
    effective = yaml.safe_load(result.stdout)
    assert effective["timeouts"] == {"idle": "90s", "total": "30m"}
    assert effective["endpoints"][0]["api_key"] == "*** (env:KEY)"
    assert effective["server"]["port"] == 8080


def test_check_warns_of_an_open_key_file_and_accepts_it(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(CANARY)
    (tmp_path / "key").chmod(0o644)
    path = tmp_path / "settings.yaml"
    path.write_text(f"endpoints: [{{{CN}, api_key: file:key}}]")
    result = run("check", path)
    assert result.exit_code == 0
    assert result.stderr == "warning: file:key is readable by everybody; chmod 600 it\n"


def test_what_check_prints_without_secrets_can_be_loaded_again(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(run("check").stdout)
    assert run("check", path).stdout == run("check").stdout


# --- the life of `serve` -----------------------------------------------------------------------


async def test_an_admin_port_in_use_names_the_admin_port(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(f"endpoints: [{{{CN}}}]")
    with listening_socket("admin", "127.0.0.1", 0) as taken:
        number = str(taken.getsockname()[1])
        ports = ("--port", "0", "--admin-port", number)
        code, _, said = await asyncio.to_thread(python, "serve", "--config", str(path), *ports)
    assert code == 1
    assert said.endswith(
        f"glm-proxy: admin.port {number} on 127.0.0.1 is in use;"
        " choose another with --admin-port or admin.port\n"
    )


async def test_a_second_signal_ends_a_process_with_a_running_exchange(tmp_path: Path) -> None:
    """The whole thing: the endpoint never answers, so only the second signal can end it."""
    asked = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()  # until the proxy leaves
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as endpoint:
        port = endpoint.sockets[0].getsockname()[1]
        path = tmp_path / "settings.yaml"
        path.write_text(f"endpoints: [{{name: x, base_url: 'http://127.0.0.1:{port}'}}]")
        arguments = ["serve", "--config", str(path), "--port", "0", "--admin-port", "0"]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "proxy",
            *arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(20):
                await _stopped_twice(process, asked)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _stopped_twice(process: asyncio.subprocess.Process, asked: asyncio.Event) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    listens = await process.stdout.readline()
    port = int(listens.split(b",")[0].rpartition(b":")[2])
    _, client = await asyncio.open_connection("127.0.0.1", port)
    client.write(REQUEST)
    await asked.wait()
    process.send_signal(signal.SIGTERM)
    assert b"stopping" in await process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 128 + signal.SIGTERM
    assert await process.stderr.read() == b""
    client.close()


BODY = b'{"model": "glm-4.6", "messages": [{"role": "user", "content": "Hi"}], "stream": true}'
REQUEST = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


@pytest.fixture
def full_disk() -> Iterator[BinaryIO]:
    with Path("/dev/full").open("wb") as full:
        yield full


async def test_a_full_disk_behind_standard_output_ends_nothing(
    tmp_path: Path, full_disk: BinaryIO
) -> None:
    await _lives_and_stops(tmp_path, (), full_disk)


async def test_closed_standard_streams_end_nothing(tmp_path: Path) -> None:
    """And no socket takes their numbers, to get the log."""
    closing = ("sh", "-c", 'exec "$@" <&- >&-', "sh")
    await _lives_and_stops(tmp_path, closing, subprocess.DEVNULL)


async def _lives_and_stops(
    tmp_path: Path, wrapper: tuple[str, ...], stdout: int | BinaryIO
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = tmp_path / "settings.yaml"
    path.write_text("endpoints: [{name: x, base_url: 'http://127.0.0.1:9'}]")
    process = await asyncio.create_subprocess_exec(
        *wrapper,
        *(sys.executable, "-m", "proxy", "serve", "--config", str(path)),
        *("--port", "0", "--admin-port", str(port)),
        stdout=stdout,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(20):
            while True:  # it cannot say that it listens: only asking tells
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.05)
        writer.close()
        await writer.wait_closed()
        process.terminate()
        _, said = await asyncio.wait_for(process.communicate(), 20)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    assert b"Traceback" not in said
