"""Redis behind TLS and a password, and the package that may be missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from proxy.config import State
from proxy.config.secret import Secret
from proxy.state.home import StateError
from proxy.state.open import make_home
from tests.state.homes import PLENTY, a_key, an_entry, opened, until
from tests.state.servers import RedisServer, running_redis

NeedsProgram = Callable[[str], str]

# All that a proxy needs to be allowed.
RULES = (
    *("on", ">hunter2", "resetkeys", "~glm-proxy:*", "nocommands"),
    *("+evalsha", "+eval", "+hget", "+hgetall", "+hlen", "+lrange", "+select", "+time"),
    *("+hmget", "+hset", "+hdel", "+hkeys", "+hincrby", "+lpush", "+ltrim", "+del"),
    *("+zadd", "+zrem", "+zcard", "+zscore", "+zrangebyscore", "+zremrangebyscore", "+pexpire"),
)


async def test_a_user_of_its_own_with_few_rights_is_enough(
    needs_program: NeedsProgram, tmp_path: Path
) -> None:
    program = needs_program("redis-server")
    options = ("--user", "default", "off", "--user", "proxy", *RULES)
    async with running_redis(program, tmp_path, *options) as server:
        state = State(
            url=f"redis://proxy@127.0.0.1:{server.port}/3", password=Secret("hunter2", "env:P")
        )
        async with opened(state) as (home, seen):
            assert home.trouble is None
            await home.save_key(a_key().key, an_entry())
            await home.drop_switches(None, an_entry("model.reset"))
            assert len(await home.audit(10)) == 2
            assert (await home.take(PLENTY, "a")).refused is None
            home.settle(PLENTY, "a", 5)
            assert seen.up == [True]


async def test_a_wrong_password_is_told_without_it(
    needs_program: NeedsProgram, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = needs_program("redis-server")
    async with running_redis(program, tmp_path, "--requirepass", "hunter2") as server:
        for password in (Secret("other-hunter", "env:P"), None):
            state = server.state.model_copy(update={"password": password})
            async with opened(state) as (home, _):
                assert "does not accept the user and password" in (home.trouble or "")
                assert (await home.take(PLENTY, "a")).refused is None
    assert "hunter" not in caplog.text


async def test_tls_is_checked(needs_program: NeedsProgram, tmp_path: Path) -> None:
    program = needs_program("redis-server")
    authority, stranger = trustme.CA(), trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    stranger.cert_pem.write_to_path(tmp_path / "other.pem")
    plain = RedisServer(program, tmp_path)
    options = (
        *("--port", "0", "--tls-port", str(plain.port), "--tls-auth-clients", "no"),
        *("--tls-cert-file", str(tmp_path / "cert.pem")),
        *("--tls-key-file", str(tmp_path / "key.pem")),
        *("--tls-ca-cert-file", str(tmp_path / "ca.pem")),
    )
    server = RedisServer(program, tmp_path, *options)
    server.port = plain.port
    await server.start()
    url = f"rediss://127.0.0.1:{server.port}"
    try:
        async with opened(State(url=url, ca_file=tmp_path / "ca.pem", timeout=1.0)) as (home, _):
            assert home.trouble is None
            assert (await home.take(PLENTY, "a")).refused is None
        for ca_file in (tmp_path / "other.pem", None):
            async with opened(State(url=url, ca_file=ca_file)) as (home, _):
                assert "shows a certificate that is not good" in (home.trouble or "")
        async with opened(State(url=f"redis://127.0.0.1:{server.port}")) as (home, _):
            await until(lambda: home.trouble is not None)
    finally:
        await server.kill()


def test_without_the_package_what_to_install_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "redis"]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("proxy.state.redis")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(StateError, match=r"package 'redis', which is not installed; pip install"):
        make_home(State(url="redis://127.0.0.1"))
    make_home(State(url="memory"))
    make_home(State(url="sqlite:/tmp/x"))
