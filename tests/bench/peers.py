"""Every process of a benchmark run: mock upstream, TLS front, and the proxies under test.

Each has one worker, is pinned to its core, and gets its settings from a file written for the run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme

from tests.bench import machine
from tests.bench.processes import BenchError, child, free_port, wait_for_port

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROXY_COMMAND = [sys.executable, "-m", "proxy", "serve", "--config"]


@dataclass(frozen=True, slots=True)
class Upstream:
    """What the peers are pointed at."""

    kind: str
    """`h1` (plain HTTP/1.1) or `tls` (TLS with HTTP/2 or HTTP/1.1 by ALPN)."""
    port: int
    direct_port: int
    """Where the client measures the way without a proxy: in front of the same servers, no TLS."""
    ca_file: Path
    pids: tuple[int, ...]
    """Its processes."""

    @property
    def url(self) -> str:
        return f"{'https' if self.kind == 'tls' else 'http'}://127.0.0.1:{self.port}"


@dataclass(frozen=True, slots=True)
class Peer:
    """One way from client to upstream. `pid` is None for `direct`."""

    name: str
    port: int
    pid: int | None


@dataclass(frozen=True, slots=True)
class Bench:
    """The built tools and where things are pinned."""

    folder: Path
    mock: Path
    load: Path
    cores: machine.Cores
    ca_file: Path
    cert_file: Path
    key_file: Path


def build(folder: Path, cores: machine.Cores) -> Bench:
    """Compiles the two C programs and makes a certificate authority, all inside `folder`."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BenchError("no C compiler found: install one (Debian: apt-get install gcc libc6-dev)")
    for name in ("mock", "load"):
        source, target = HERE / f"{name}.c", folder / name
        done = subprocess.run(
            [compiler, "-O2", "-o", target, source],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"{compiler} cannot compile {source}:\n{done.stderr}")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    paths = [folder / n for n in ("mock", "load", "ca.pem", "cert.pem", "key.pem")]
    return Bench(folder, paths[0], paths[1], cores, *paths[2:])


# --- the upstream -------------------------------------------------------------------------------


@contextmanager
def upstream(bench: Bench, kind: str) -> Iterator[Upstream]:
    """The mock, and for `tls` nghttpx in front of it. Raises BenchError when one does not start."""
    core, log = bench.cores.measuring, bench.folder / "upstream.log"
    with child([str(bench.mock)], core, log) as mock:
        port = int(mock.read_line())
        if kind == "h1":
            yield Upstream(kind, port, port, bench.ca_file, (mock.pid,))
            return
        front, direct = free_port(), free_port()
        command = [
            _program("nghttpx"),
            "--conf=/dev/null",
            *_front_options(bench, port),
        ]
        command += [
            f"--frontend=127.0.0.1,{front}",
            f"--frontend=127.0.0.1,{direct};no-tls",
        ]
        command += [str(bench.key_file), str(bench.cert_file)]
        with child(command, core, log) as process:
            wait_for_port(front, process)
            yield Upstream(kind, front, direct, bench.ca_file, (mock.pid, process.pid))


def _front_options(bench: Bench, mock_port: int) -> list[str]:
    return [
        f"--backend=127.0.0.1,{mock_port}",
        "--workers=1",
        "--frontend-http2-max-concurrent-streams=128",
        "--frontend-keep-alive-timeout=600s",
        "--backend-keep-alive-timeout=600s",
        "--frontend-http2-read-timeout=600s",
        "--frontend-read-timeout=600s",
        "--backend-read-timeout=600s",
        "--log-level=ERROR",
        f"--pid-file={bench.folder}/nghttpx.pid",
    ]


# --- the peers ----------------------------------------------------------------------------------


@contextmanager
def peer(
    bench: Bench, name: str, upstream: Upstream, prefix: list[str] | None = None
) -> Iterator[Peer]:
    """One proxy under test, accepting connections. `prefix` replaces its command."""
    if name == "direct":
        yield Peer(name, upstream.direct_port, None)
        return
    port = free_port()
    config = bench.folder / f"{name}-{port}.conf"
    text, command = _SETTINGS[name](bench, upstream, port, config)
    config.write_text(text)
    command = [*prefix, str(config)] if prefix else command
    log = config.with_suffix(".log")
    with ExitStack() as stack:
        if name == "full":
            look = _looking(json.loads(text))
            stack.enter_context(child(look, bench.cores.measuring, log)).read_line()
        process = stack.enter_context(child(command, bench.cores.peer, log))
        wait_for_port(port, process)
        yield Peer(name, port, process.pid)


def missing(names: list[str], kinds: list[str]) -> dict[str, str]:
    """Peers and upstream kinds that cannot run here, and the program each lacks."""
    lacking = {n: n for n in names if n in ("nginx", "haproxy") and machine.find(n) is None}
    if "tls" in kinds and machine.find("nghttpx") is None:
        lacking["tls"] = "nghttpx (Debian: nghttp2-proxy)"
    return lacking


def _nginx(b: Bench, up: Upstream, port: int, config: Path) -> tuple[str, list[str]]:
    user = "user root;" if os.geteuid() == 0 else ""
    temp = "\n".join(
        f"  {kind}_temp_path {b.folder}/{kind}_temp;"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = f"""{user}
worker_processes 1; daemon off; pid {b.folder}/nginx-{port}.pid;
error_log {b.folder}/nginx-{port}.log warn; worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off;
{temp}
  keepalive_requests 10000000; keepalive_timeout 600s;
  upstream glm {{
    server 127.0.0.1:{up.port};
    keepalive 1024; keepalive_requests 10000000; keepalive_timeout 600s;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass {"https" if up.kind == "tls" else "http"}://glm;
      proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 600s;
      proxy_ssl_trusted_certificate {up.ca_file}; proxy_ssl_verify on;
      proxy_ssl_name localhost; proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.2 TLSv1.3;
    }}
  }}
}}
"""
    return text, [_program("nginx"), "-p", str(b.folder), "-c", str(config)]


def _haproxy(b: Bench, up: Upstream, port: int, config: Path) -> tuple[str, list[str]]:
    tls = f"ssl verify required ca-file {up.ca_file} sni str(localhost) alpn h2,http/1.1"
    text = f"""
global
  nbthread 1
  maxconn 8192
  no log
defaults
  mode http
  option http-no-delay
  http-reuse always
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
listen bench
  bind 127.0.0.1:{port} backlog 4096
  server glm 127.0.0.1:{up.port} pool-purge-delay 600s {tls if up.kind == "tls" else ""}
"""
    return text, [_program("haproxy"), "-db", "-q", "-f", str(config)]


def _glm_proxy(b: Bench, up: Upstream, port: int, config: Path) -> tuple[str, list[str]]:
    # As access_log off is for the others.
    return json.dumps(_settings(up, port, log={"format": "off"})), [*PROXY_COMMAND, str(config)]


def _bare(b: Bench, up: Upstream, port: int, config: Path) -> tuple[str, list[str]]:
    """The proxy with everything off that only tells of what happened."""
    settings = _settings(up, port, log={"format": "off"}, metrics={"enabled": False})
    settings["admin"]["exchanges"] = 0
    return json.dumps(settings), [*PROXY_COMMAND, str(config)]


def _full(b: Bench, up: Upstream, port: int, config: Path) -> tuple[str, list[str]]:
    """The proxy with all of it on, and looked at: see `tests.bench.looking`."""
    tracing = {"endpoint": f"http://127.0.0.1:{free_port()}", "sample": "100%"}
    settings = _settings(up, port, log={"format": "json"}, tracing=tracing)
    to_a_file = ["sh", "-c", 'exec "$@" >>"$0"', str(config.with_suffix(".access"))]
    return json.dumps(settings), [*to_a_file, *PROXY_COMMAND, str(config)]


def _looking(settings: dict[str, Any]) -> list[str]:
    collector = settings["tracing"]["endpoint"].rpartition(":")[2]
    admin = str(settings["admin"]["port"])
    return [sys.executable, "-m", "tests.bench.looking", collector, admin]


def _settings(up: Upstream, port: int, **sections: dict[str, Any]) -> dict[str, Any]:
    endpoint: dict[str, str] = {"name": "mock", "base_url": up.url}
    if up.kind == "tls":
        endpoint["ca_file"] = str(up.ca_file)
    return {
        "server": {
            "host": "127.0.0.1",
            "port": port,
            "workers": 1,
            "drain_timeout": "1s",
        },
        "admin": {"host": "127.0.0.1", "port": free_port()},
        "state": "memory",
        "endpoints": [endpoint],
        **sections,
    }


_SETTINGS = {
    "nginx": _nginx,
    "haproxy": _haproxy,
    "glm-proxy": _glm_proxy,
    "bare": _bare,
    "full": _full,
}


def _program(name: str) -> str:
    path = machine.find(name)
    if path is None:
        raise BenchError(f"{name} is not installed")
    return path
