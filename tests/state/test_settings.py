"""Where state is kept: what the settings may say, and what holds where they say nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from proxy.cli.state import home_of
from proxy.config import Config, ConfigError, effective, load
from proxy.state.memory import MemoryHome
from proxy.state.open import make_home

ENDPOINTS = [{"name": "up", "base_url": "http://127.0.0.1:9"}]


def loaded(folder: Path, state: object, environ: dict[str, str] | None = None) -> Config:
    path = folder / "proxy.yaml"
    path.write_text(yaml.safe_dump({"endpoints": ENDPOINTS, "state": state}))
    return load(path, environ or {})


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ("memory", "memory"),
        ("sqlite:/var/lib/x.db", "sqlite:/var/lib/x.db"),
        ("sqlite:///var/lib/x.db", "sqlite:/var/lib/x.db"),
        ("sqlite:x.db", "sqlite:{folder}/x.db"),
        ("sqlite:here/x.db", "sqlite:{folder}/here/x.db"),
        ("redis://127.0.0.1", "redis://127.0.0.1"),
        ("redis://localhost:7000/2", "redis://localhost:7000/2"),
        ("redis://proxy@10.1.2.3:7000/2", "redis://proxy@10.1.2.3:7000/2"),
        ("redis://[::1]:7000", "redis://[::1]:7000"),
        ("rediss://redis.example.com/", "rediss://redis.example.com"),
        ({"url": "redis://redis:6379", "allow_plain": True}, "redis://redis:6379"),
    ],
)
def test_one_line_says_where(said: object, url: str, tmp_path: Path) -> None:
    config = loaded(tmp_path, said)
    assert config.state is not None
    assert config.state.url == url.format(folder=tmp_path)
    # What `check` prints can be loaded again.
    again = tmp_path / "again.yaml"
    again.write_text(effective(config))
    assert load(again, {}).state == config.state


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("postgres://127.0.0.1", "must be sqlite:PATH, redis://"),
        ("/var/lib/x.db", "must be sqlite:PATH"),
        ("sqlite:", "must name a file"),
        ("sqlite:folder/", "must name a file"),
        ("redis://user:hunter2@127.0.0.1", "holds a password; remove it and use password: env:NAM"),
        ("redis://:hunter2@127.0.0.1", "holds a password"),
        ("redis://redis.example.com", "keys and counts would be readable on the way"),
        ("redis://8.8.8.8", "allow_plain: true"),
        ("redis://127.1", "not in its usual spelling"),
        ("redis://", "must have a host name"),
        ("redis://127.0.0.1:0", "the port must be"),
        ("redis://127.0.0.1/a", "must be a number, such as /0"),
        ("redis://127.0.0.1?db=1", "remove '?'"),
        ("redis://a%20b@127.0.0.1", "the user name in it"),
        ({"url": "memory", "password": "env:P"}, "only Redis asks for"),
        ({"url": "redis://127.0.0.1", "password": "hunter2"}, "must be a reference"),
        ({"url": "redis://127.0.0.1", "prefix": "a b"}, "letters, digits"),
        ({"url": "redis://127.0.0.1", "timeout": 1}, "1s"),
        ({"url": "redis://127.0.0.1", "ca_file": "ca.pem"}, "no file"),
        ({"password": "env:P"}, "missing"),
        (5, "must be a URL such as redis://127.0.0.1:6379/0, or a mapping"),
        ([], "must be a URL"),
        ({"url": "memory", "redis": 1}, "unknown setting"),
    ],
)
def test_what_is_wrong_is_told_with_what_to_write(
    said: object, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, said, {"P": "hunter2"})
    assert problem in str(error.value)
    assert all(one.where.startswith("state") for one in error.value.problems)
    assert "hunter2" not in str(error.value)


def test_the_password_is_never_shown(tmp_path: Path) -> None:
    config = loaded(tmp_path, {"url": "redis://127.0.0.1", "password": "env:P"}, {"P": "hunter2"})
    assert config.state is not None
    assert config.state.password is not None
    assert config.state.password.reveal() == "hunter2"
    assert "hunter2" not in effective(config) + repr(config)


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, "/var/lib/a/state.db"),
        ({"STATE_DIRECTORY": "/a", "XDG_STATE_HOME": "/x"}, "/a/state.db"),
        ({"XDG_STATE_HOME": "/x"}, "/x/glm-proxy/state.db"),
        ({"XDG_STATE_HOME": "x"}, "{home}/.local/state/glm-proxy/state.db"),
        ({}, "{home}/.local/state/glm-proxy/state.db"),
    ],
)
def test_without_a_word_it_is_a_file_of_this_user(
    environ: dict[str, str], path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = loaded(tmp_path, None)
    assert home_of(config, environ).path == Path(path.format(home=tmp_path))
    config = loaded(tmp_path, "sqlite:/elsewhere.db")
    assert home_of(config, environ).path == Path("/elsewhere.db")


def test_without_settings_a_home_is_memory() -> None:
    assert isinstance(make_home(None), MemoryHome)
