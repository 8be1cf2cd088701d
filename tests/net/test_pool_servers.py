"""The pool against servers of other people: connections that are rotated, and a tight limit."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from proxy.errors import Refused
from proxy.net.pool import Pool
from tests.fakes.dialling import Certificates, closed_port
from tests.fakes.pool_peer import GUARD, Observed, a_pool, ask

FindProgram = Callable[[str], str]
STREAMS, AT_ONCE = 1500, 40

NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder};
  proxy_temp_path {folder};
  fastcgi_temp_path {folder};
  uwsgi_temp_path {folder};
  scgi_temp_path {folder};
  keepalive_requests 100;
  server {{
    listen 127.0.0.1:{port} ssl http2;
    ssl_certificate {certificate};
    ssl_certificate_key {certificate};
    root {folder};
    location = /slow {{ limit_rate 400k; }}
    location / {{ return 200 "ok"; }}
  }}
}}
"""


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    return Certificates()


@pytest.fixture
def certificate(certificates: Certificates, tmp_path: Path) -> Path:
    path = tmp_path / "server.pem"
    certificates.ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(path)
    return path


@asynccontextmanager
async def running(*command: str, port: int) -> AsyncIterator[None]:
    """A server of ours, from when it answers at `port` until the test is over."""
    process = await asyncio.create_subprocess_exec(*command)
    try:
        async with asyncio.timeout(GUARD):
            while not await _answers(port):
                assert process.returncode is None
                await asyncio.sleep(0.02)
        yield
    finally:
        if process.returncode is None:
            os.kill(process.pid, signal.SIGTERM)
        await process.wait()


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


async def ask_until_accepted(pool: Pool, path: str) -> tuple[int, int]:
    """(status, refusals): a caller that sends again what was refused, and nothing else."""
    refusals = 0
    while True:
        connection = await pool.acquire(None)
        assert connection is not None
        try:
            answer = await ask(connection, path).whole()
        except Refused:
            refusals += 1
            continue
        assert answer.status is not None
        return answer.status, refusals


async def many(pool: Pool, paths: list[str]) -> list[tuple[int, int]]:
    """All answers, `AT_ONCE` at once. Raises the first failure."""
    answers = []
    waiting = iter(paths)

    async def worker() -> None:
        for path in waiting:
            answers.append(await ask_until_accepted(pool, path))

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())
    return answers


async def test_nginx_may_rotate_connections_and_no_request_fails(
    needs_program: FindProgram, certificates: Certificates, certificate: Path, tmp_path: Path
) -> None:
    port = closed_port()
    config = tmp_path / "nginx.conf"
    config.write_text(NGINX.format(folder=tmp_path, port=port, certificate=certificate))
    (tmp_path / "slow").write_bytes(b"x" * 40_000)
    nginx = needs_program("nginx")
    observed = Observed()
    how: dict[str, Any] = {"host": "localhost", "tls": certificates.client(), "http2": "auto"}
    async with (
        running(nginx, "-p", str(tmp_path), "-c", str(config), port=port),
        a_pool(port, observed, warm_connections=2, **how) as pool,
    ):
        await pool.start()
        paths = ["/slow" if number % 10 == 0 else "/" for number in range(STREAMS)]
        answers = await many(pool, paths)
    assert [status for status, _ in answers] == [200] * STREAMS
    rotated = [reason for reason, _ in observed.ends if reason == "goaway"]
    assert len(rotated) >= STREAMS // 100 - 2


async def test_nghttpx_with_three_streams_per_connection_refuses_nothing(
    needs_program: FindProgram, certificates: Certificates, certificate: Path
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = closed_port()
    command = [
        needs_program("nghttpx"),
        f"--frontend=127.0.0.1,{port}",
        f"--backend=127.0.0.1,{runner.addresses[0][1]}",
        "--frontend-http2-max-concurrent-streams=3",
        "--conf=/dev/null",
        "--log-level=FATAL",
        "--workers=1",
        "--no-ocsp",
        str(certificate),
        str(certificate),
    ]
    how: dict[str, Any] = {"host": "localhost", "tls": certificates.client(), "http2": "auto"}
    observed = Observed()
    try:
        async with running(*command, port=port), a_pool(port, observed, **how) as pool:
            answers = await many(pool, ["/"] * STREAMS)
            assert pool.stats().connections == -(-AT_ONCE // 3)
    finally:
        await runner.cleanup()
    assert answers == [(200, 0)] * STREAMS
