"""`glm-proxy keys`: what it prints where, what it keeps, and that a running proxy knows of it."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import re
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from click.testing import CliRunner, Result

from proxy.app import App
from proxy.cli import group
from proxy.config import ConfigError, exposed, load
from proxy.net.listen import Listeners
from tests.fakes.keys import keyed
from tests.fakes.raw_client import ask, chat
from tests.fakes.serving import serving
from tests.fakes.upstream import Call, ScriptedUpstream

CHAT = "/v1/chat/completions"
TOKEN = re.compile(r"sk-glm-([a-z0-9]{12})-[A-Za-z0-9_-]{43}")


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Settings whose home of state is a file."""
    (tmp_path / "key").write_text("upstream-key")
    (tmp_path / "key").chmod(0o600)
    path = tmp_path / "settings.yaml"
    endpoint = {"name": "cn", "base_url": "https://cn.example", "api_key": "file:key"}
    said = {"access": "keys", "endpoints": [endpoint], "state": f"sqlite:{tmp_path}/state.db"}
    path.write_text(yaml.safe_dump(said))
    return path


def keys(settings: Path, *arguments: str) -> Result:
    runner = CliRunner()
    return runner.invoke(group, ["keys", *arguments, "--config", str(settings)])


def listed(settings: Path) -> list[dict[str, Any]]:
    result = keys(settings, "list", "--json")
    assert result.exit_code == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def test_the_token_stands_alone_on_standard_output_and_is_shown_once(settings: Path) -> None:
    result = keys(settings, "create", "team-a")
    assert result.exit_code == 0, result.stderr
    token = TOKEN.fullmatch(result.stdout.removesuffix("\n"))
    assert token is not None
    assert f"key team-a/{token[1]}: this token is shown once" in result.stderr
    assert token[0] not in result.stderr
    for shown in (keys(settings, "list"), keys(settings, "list", "--json")):
        assert token[1] in shown.stdout
        assert token[0][20:] not in shown.output


def test_what_is_kept_is_an_hmac_in_a_file_of_ones_own(settings: Path, tmp_path: Path) -> None:
    token = keys(settings, "create", "team-a").stdout.strip()
    assert stat.S_IMODE((tmp_path / "state.db").stat().st_mode) == 0o600
    for file in tmp_path.glob("state.db*"):
        held = file.read_bytes()
        assert token[20:].encode() not in held
    with sqlite3.connect(tmp_path / "state.db") as database:
        assert token[20:] not in "\n".join(database.iterdump())
    database.close()


def test_a_key_has_the_scope_life_and_limits_it_was_made_with(settings: Path) -> None:
    begun = time.time()
    result = keys(
        settings,
        *("create", "team-a", "--route", "fast*", "--route", "default", "--model", "glm-4*"),
        *("--expires", "30d", "--requests-per-minute", "100", "--tokens-per-minute", "5000"),
        *("--concurrent", "4", "--tokens-per-day", "1000000", "--json"),
    )
    made = json.loads(result.stdout)
    assert TOKEN.fullmatch(made.pop("token"))
    assert result.stderr == ""
    assert made["expires"] == pytest.approx(begun + 30 * 86400, abs=60)
    assert (made["routes"], made["models"]) == (["fast*", "default"], ["glm-4*"])
    assert made["limits"] == {
        "requests_per_minute": 100,
        "tokens_per_minute": 5000,
        "concurrent": 4,
        "tokens_per_day": 1_000_000,
    }
    assert listed(settings) == [made]


def test_a_revoked_key_is_listed_as_such_and_not_rotated(settings: Path) -> None:
    made = json.loads(keys(settings, "create", "team-a", "--json").stdout)
    result = keys(settings, "revoke", made["id"])
    assert (result.exit_code, result.stdout) == (0, "")
    told, where = result.stderr.splitlines()
    assert told == f"team-a/{made['id']} is revoked"
    assert where.startswith("kept in sqlite:/")
    assert [one["state"] for one in listed(settings)] == ["revoked"]
    assert "revoked" in keys(settings, "list").stdout
    result = keys(settings, "rotate", made["id"])
    assert result.exit_code == 1
    assert "this key is revoked; make a new one" in result.stderr
    assert result.stdout == ""


def test_a_rotated_key_gets_a_new_token_and_both_are_counted(settings: Path) -> None:
    first = keys(settings, "create", "team-a").stdout.strip()
    (made,) = listed(settings)
    result = keys(settings, "rotate", made["id"], "--overlap", "2h")
    second = result.stdout.strip()
    assert second[:20] == first[:20]
    assert second != first
    assert "The one before is good until" in result.stderr
    assert [one["tokens"] for one in listed(settings)] == [2]
    keys(settings, "rotate", made["id"], "--overlap", "0")
    assert [one["tokens"] for one in listed(settings)] == [1]


def test_each_change_is_in_the_audit_with_who_made_it(settings: Path, tmp_path: Path) -> None:
    made = json.loads(keys(settings, "create", "team-a", "--json").stdout)
    keys(settings, "rotate", made["id"])
    keys(settings, "revoke", made["id"])

    async def audit() -> list[tuple[str, str, str]]:
        from proxy.cli.state import opened

        async with opened(load(settings, {})) as (home, _):
            return [(one.actor, one.action, one.subject) for one in await home.audit(10)]

    user = f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    subject = f"team-a/{made['id']}"
    assert asyncio.run(audit()) == [
        (user, "key.revoke", subject),
        (user, "key.rotate", subject),
        (user, "key.create", subject),
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("create", "a b"), 2, "name: must be 1 to 64 letters"),
        (("create", "a", "--expires", "30"), 2, "must be a span of time, such as 30m"),
        (("create", "a", "--expires", "0"), 2, "expires: must be in the future"),
        (("create", "a", "--expires", "9999d"), 2, "must be at most"),
        (("create", "a", "--concurrent", "0"), 2, "not in the range"),
        (("create", "a", "--model", ""), 2, "models: a pattern is"),
        (("revoke", "000000000000"), 1, "there is no key of this id"),
        (("rotate", "000000000000"), 1, "there is no key of this id"),
        (("rotate", "000000000000", "--overlap", "soon"), 2, "must be a span of time"),
    ],
)
def test_what_makes_no_sense_changes_nothing(
    settings: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    result = keys(settings, *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert says in result.stderr
    assert listed(settings) == []


def test_where_the_home_of_state_cannot_be_used_one_line_says_so(
    settings: Path, tmp_path: Path
) -> None:
    (tmp_path / "state.db").mkdir()
    result = keys(settings, "list")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("glm-proxy: ")
    assert result.stderr.count("\n") == 1


# --- with a running proxy ------------------------------------------------------------------------


async def _answer(call: Call) -> None:
    call.head(200, content_type="application/json")
    call.send(b'{"id":"1","choices":[]}')
    call.finish()


async def _command(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "keys", *arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    return output.decode().strip()


async def _until(address: tuple[str, int], token: str, status: int) -> None:
    """What another process changed is known soon."""
    line = f"Authorization: Bearer {token}"
    async with asyncio.timeout(20):
        while (await ask(address, CHAT, chat(stream=False), line)).status != status:
            await asyncio.sleep(0.02)


async def test_a_running_proxy_knows_what_the_command_changed(tmp_path: Path) -> None:
    async with ScriptedUpstream(_answer) as upstream:
        settings = keyed(upstream, tmp_path, state=f"sqlite:{tmp_path}/state.db")
        async with serving(tmp_path, settings) as served:
            config = ("--config", str(tmp_path / "serve.yaml"))
            token = await _command("create", "team-a", *config)
            await _until(served.data_address, token, 200)
            second = await _command("rotate", token[7:19], "--overlap", "1h", *config)
            await _until(served.data_address, second, 200)
            await _until(served.data_address, token, 200)
            await _command("revoke", token[7:19], *config)
            await _until(served.data_address, token, 401)
            await _until(served.data_address, second, 401)
            host, port = served.admin_address
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://{host}:{port}/admin/keys") as answer,
            ):
                (told,) = (await answer.json())["keys"]
    assert (told["state"], told["id"]) == ("revoked", token[7:19])


# --- what refuses to start -----------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_open_access_to_other_machines_refuses_to_start(settings: Path, host: str) -> None:
    said = yaml.safe_load(settings.read_text()) | {"access": "open", "server": {"host": host}}
    settings.write_text(yaml.safe_dump(said))
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "serve", "--config", str(settings)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    *_, line = done.stderr.splitlines()
    assert "server.host" in line
    assert "access: keys" in line
    assert len(done.stderr.splitlines()) == 2


async def test_a_listener_that_was_handed_over_must_not_be_open_to_all_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with ScriptedUpstream(_answer) as upstream:
        said = keyed(upstream, tmp_path) | {"access": "open"}
        path = tmp_path / "proxy.yaml"
        path.write_text(yaml.safe_dump(said))
        config = load(path, {})
        for hosts, where in (
            (("192.0.2.1", "127.0.0.1"), ["access"]),
            (("::", "127.0.0.1"), ["access"]),
            (("127.0.0.1", "192.0.2.1"), ["admin.token"]),
            (("192.0.2.1", "192.0.2.1"), ["access", "admin.token"]),
            (("127.0.0.1", "::1"), []),
        ):
            assert [problem.where for problem in exposed(config, *hosts)] == where
        monkeypatch.setattr(Listeners, "hosts", property(lambda _: ("192.0.2.1", "127.0.0.1")))
        listeners = Listeners.open(("127.0.0.1", 0), ("127.0.0.1", 0))
        with pytest.raises(ConfigError, match="Set access: keys"):
            await App(config).start(listeners)
        assert listeners.data.fileno() == -1
