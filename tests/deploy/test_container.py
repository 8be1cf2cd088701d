"""The Dockerfile and compose.yaml, as far as it takes no container engine."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.config import load
from tests.bench.processes import free_port
from tests.deploy.settings import loadable
from tests.fakes.running import running

NeedsProgram = Callable[[str], str]
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = re.sub(r"\\\n\s*", " ", (FOLDER / "Dockerfile").read_text("utf-8"))


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.M)


def test_the_image_is_of_a_user_without_rights() -> None:
    assert instructions("USER") == ["10001:10001"]


def test_both_stages_begin_with_the_image_that_can_be_pinned() -> None:
    assert instructions("FROM") == ["${BASE} AS build", "${BASE}"]
    (base,) = (text for text in instructions("ARG") if text.startswith("BASE="))
    assert re.fullmatch(r"BASE=python:3\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", base)


def test_everything_is_installed_by_hash() -> None:
    for line in instructions("RUN"):
        for command in re.findall(r"pip (?:--python \S+ )?install ([^&]*)", line):
            locked = "--require-hashes" in command and "--no-deps" in command
            assert locked or "--no-index" in command, command


def test_what_is_copied_is_let_in_and_nothing_else_is() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").split("\n")
    let_in = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert "*" in ignored
    copied = {
        source.split("/")[0]
        for line in instructions("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    }
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)


async def test_the_image_knows_a_proxy_that_is_ready_from_one_that_is_not(tmp_path: Path) -> None:
    (check,) = re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", DOCKERFILE, re.M)
    command = json.loads(check)
    assert command[0] == "python"
    settings = {"endpoints": [{"name": "a", "base_url": "http://127.0.0.1:9"}]}
    async with running(tmp_path, settings) as app:
        asked = command[-1].replace("9090", str(app.admin_address[1]))
        assert asked != command[-1]
        assert await _exit_code(command[1:-1], asked) == 0
    assert await _exit_code(command[1:-1], asked) != 0


async def _exit_code(options: list[str], program: str) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable, *options, program, stderr=asyncio.subprocess.DEVNULL
    )
    return await asyncio.wait_for(process.wait(), 20)


# --- compose ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert "privileged" not in service
    assert ":latest" not in service["image"]
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:"), port


def test_every_file_and_secret_that_is_named_is_there() -> None:
    made = (FOLDER / "compose" / "secrets.sh").read_text("utf-8")
    for name, secret in COMPOSE["secrets"].items():
        assert secret["file"] == f"compose/secrets/{name}"
        assert name in made
    for service in SERVICES.values():
        assert set(service.get("secrets", ())) <= COMPOSE["secrets"].keys()
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            known = source in COMPOSE["volumes"] or (FOLDER / source).exists()
            assert known, source


def test_the_proxies_settings_are_ones_that_the_proxy_takes(tmp_path: Path) -> None:
    config = load(loadable(FOLDER / "compose" / "proxy.yaml", tmp_path), {})
    proxies = [name for name in SERVICES if name.startswith("proxy-")]
    assert set(config.admin.hosts) == set(proxies)
    for name in proxies:
        grace = re.fullmatch(r"(\d+)m", SERVICES[name]["stop_grace_period"])
        assert grace is not None
        assert int(grace[1]) * 60 > config.server.drain_timeout


def test_haproxy_takes_the_file_of_the_front(tmp_path: Path, needs_program: NeedsProgram) -> None:
    program = needs_program("haproxy")
    path = FOLDER / "compose" / "haproxy.cfg"
    found = subprocess.run([program, "-c", "-f", str(path)], capture_output=True, check=False)
    assert found.returncode == 0, found.stderr.decode()


def test_prometheus_takes_its_file(tmp_path: Path, needs_program: NeedsProgram) -> None:
    program = needs_program("promtool")
    shutil.copytree(FOLDER / "prometheus" / "rules", tmp_path / "rules")
    shutil.copy(FOLDER / "compose" / "prometheus.yml", tmp_path)
    found = subprocess.run(
        [program, "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "2 rule files found" in found.stdout


def test_grafana_asks_the_prometheus_of_the_file() -> None:
    ours = yaml.safe_load((FOLDER / "compose" / "datasource.yaml").read_text("utf-8"))
    shipped = ROOT / "grafana" / "provisioning" / "datasources" / "glm-proxy.yaml"
    theirs = yaml.safe_load(shipped.read_text("utf-8"))
    (here,), (there,) = ours["datasources"], theirs["datasources"]
    assert here["url"] == "http://prometheus:9090"
    here["url"] = there["url"]
    for one in (here, there):
        del one["jsonData"]["exemplarTraceIdDestinations"][0]["url"]
    assert ours == theirs


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """What the script makes, with a key typed in."""
    shutil.copy(FOLDER / "compose" / "secrets.sh", tmp_path)
    for _ in range(2):  # the second time everything is there already
        subprocess.run(
            ["sh", str(tmp_path / "secrets.sh")],
            input=b"id.secret\n",
            capture_output=True,
            check=True,
            timeout=20,
        )
    return tmp_path / "secrets"


def test_the_script_makes_every_secret_for_its_reader_alone(secrets: Path) -> None:
    found = {path.name: path for path in secrets.iterdir()}
    assert found.keys() == COMPOSE["secrets"].keys()
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    for path in found.values():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert (secrets / "glm-api-key").read_text() == "id.secret"
    made = {
        (secrets / name).read_text()
        for name in ("admin-token", "redis-password", "grafana-password")
    }
    assert len(made) == 3
    assert all(re.fullmatch(r"[A-Za-z0-9]{38,44}", text) for text in made)


@dataclass(frozen=True)
class Redis:
    """A server with the file that ships."""

    client: str
    port: int
    password: Path

    def ask(self, *command: str, known: bool = True) -> str:
        """What redis-cli prints, with the password or without."""
        found = subprocess.run(
            [self.client, "-p", str(self.port), *command],
            env={"REDISCLI_AUTH": self.password.read_text()} if known else {},
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        return (found.stdout + found.stderr).strip()


@pytest.fixture
def redis(secrets: Path, tmp_path: Path, needs_program: NeedsProgram) -> Iterator[Redis]:
    server, client = needs_program("redis-server"), needs_program("redis-cli")
    text = (FOLDER / "compose" / "redis.conf").read_text("utf-8")
    port = free_port()
    for before, after in {
        "/run/secrets/redis-users": str(secrets / "redis-users"),
        "dir /data": f"dir {tmp_path}",
        "bind * -::*": f"bind 127.0.0.1\nport {port}",
    }.items():
        assert before in text
        text = text.replace(before, after)
    (tmp_path / "redis.conf").write_text(text, "utf-8")
    process = subprocess.Popen([server, str(tmp_path / "redis.conf")], stdout=subprocess.DEVNULL)
    found = Redis(client, port, secrets / "redis-password")
    try:
        deadline = time.monotonic() + 20
        while found.ask("ping") != "PONG":
            assert time.monotonic() < deadline
        yield found
    finally:
        process.terminate()
        process.wait(20)


def test_redis_asks_for_the_password_and_gives_only_what_is_ours(redis: Redis) -> None:
    # The health check of compose.yaml has no password: that it is asked for one is answer enough.
    assert "NOAUTH" in redis.ask("ping", known=False)
    assert "NOAUTH" in redis.ask("get", "glm-proxy:x", known=False)
    assert redis.ask("set", "glm-proxy:x", "1") == "OK"
    assert "NOPERM" in redis.ask("set", "other", "1")
    assert "NOPERM" in redis.ask("config", "get", "*")


def test_the_proxy_keeps_its_state_there(redis: Redis, tmp_path: Path) -> None:
    settings = yaml.safe_load((FOLDER / "compose" / "proxy.yaml").read_text("utf-8"))
    settings["state"]["url"] = f"redis://127.0.0.1:{redis.port}/0"
    path, own = tmp_path / "proxy.yaml", tmp_path / "own"
    path.write_text(yaml.safe_dump(settings), "utf-8")
    own.mkdir()
    config = loadable(path, own)
    (own / "secrets" / "redis-password").write_bytes(redis.password.read_bytes())

    def command(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "proxy", *words, "--config", str(config)],
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert command("keys", "create", "team-a").startswith("sk-glm-")
    assert "team-a" in command("keys", "list")
    command("models", "set", "glm-4.6", "glm-4-flash")
    assert "glm-4-flash" in command("models")
