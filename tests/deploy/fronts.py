"""The programs of deploy/fronts, run with the files that ship, in front of a proxy of the test.

Only what belongs to a place is replaced: addresses, the certificate, files of the system; and,
where a test says so, how long a silence may be. Each text that is replaced must be there.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from proxy.config import PoolSettings
from proxy.net.dial import Origin
from proxy.net.dns import Address
from proxy.net.h2.reader import Reader
from proxy.net.pool import Pool
from tests.bench.processes import free_port

FOLDER = Path(__file__).parents[2] / "deploy" / "fronts"
NAME = "glm.example.com"
_READY = 10.0


@dataclass(frozen=True)
class Kind:
    """One program: its file, how it is started, what is replaced, and where a silence is set."""

    program: str
    file: str
    command: Callable[[str, Path], list[str]]
    places: Callable[[Path, int, list[int]], Mapping[str, str]]
    silence: tuple[tuple[str, str], ...]
    """What is replaced to shorten the longest silence: the line, and its name with a `{}`."""


def _nginx_places(folder: Path, port: int, proxies: list[int]) -> Mapping[str, str]:
    servers = [f"server 127.0.0.1:{one} max_fails=0;" for one in proxies]
    return {
        "user www-data;": "user root;" if os.geteuid() == 0 else "",
        "pid /run/nginx.pid;": f"pid {folder}/nginx.pid; daemon off;",
        "error_log /var/log/nginx/error.log warn;": "error_log stderr warn;",
        "server 127.0.0.1:8080 max_fails=0;": " ".join(servers),
        "listen 443 ssl http2;": f"listen 127.0.0.1:{port} ssl http2;",
        "/etc/glm-proxy/tls/fullchain.pem": f"{folder}/fullchain.pem",
        "/etc/glm-proxy/tls/privkey.pem": f"{folder}/privkey.pem",
    }


def _haproxy_places(folder: Path, port: int, proxies: list[int]) -> Mapping[str, str]:
    # Data and admin ports in turn. With one proxy the second server is not there: it stays down.
    data, admin = proxies[::2], proxies[1::2]
    if len(data) == 1:
        data, admin = [*data, free_port()], [*admin, free_port()]
    return {
        "bind :443 ": f"bind 127.0.0.1:{port} ",
        "/etc/glm-proxy/tls/site.pem": f"{folder}/site.pem",
        "server one 127.0.0.1:8080 check port 9090": (
            f"server one 127.0.0.1:{data[0]} check port {admin[0]}"
        ),
        "server two 127.0.0.1:8081 check port 9091": (
            f"server two 127.0.0.1:{data[1]} check port {admin[1]}"
        ),
    }


def _caddy_places(folder: Path, port: int, proxies: list[int]) -> Mapping[str, str]:
    return {
        "\tadmin off\n": (
            f"\tadmin off\n\tdefault_bind 127.0.0.1\n\thttp_port {free_port()}\n"
            f"\tstorage file_system {folder}/caddy\n\tauto_https disable_redirects\n"
        ),
        f"{NAME} {{": f"{NAME}:{port} {{",
        "/etc/glm-proxy/tls/fullchain.pem": f"{folder}/fullchain.pem",
        "/etc/glm-proxy/tls/privkey.pem": f"{folder}/privkey.pem",
        "reverse_proxy 127.0.0.1:8080 {": f"reverse_proxy 127.0.0.1:{proxies[0]} {{",
    }


KINDS = {
    "nginx": Kind(
        "nginx",
        "nginx.conf",
        lambda program, path: [program, "-p", str(path.parent), "-c", str(path)],
        _nginx_places,
        (("proxy_read_timeout    31m;", "proxy_read_timeout {};"),),
    ),
    "haproxy": Kind(
        "haproxy",
        "haproxy.cfg",
        lambda program, path: [program, "-db", "-q", "-f", str(path)],
        _haproxy_places,
        (
            ("timeout client 31m", "timeout client {}"),
            ("timeout server 31m", "timeout server {}"),
        ),
    ),
    # Caddy ends no stream for its silence; there is nothing to shorten.
    "caddy": Kind(
        "caddy",
        "Caddyfile",
        lambda program, path: [
            *(program, "run", "--config", str(path), "--adapter", "caddyfile"),
        ],
        _caddy_places,
        (),
    ),
}


@dataclass(frozen=True)
class Front:
    """A running front, and the trust by which it is reached."""

    name: str
    port: int
    tls: ssl.SSLContext

    @asynccontextmanager
    async def pool(self) -> AsyncIterator[Pool]:
        """Connections to it over HTTP/2."""
        origin = Origin("https", NAME, self.port)
        pool = Pool(origin, PoolSettings(http2="always"), self.tls, resolver=_here)
        try:
            yield pool
        finally:
            await pool.close()

    async def post(self, pool: Pool, path: str, body: bytes, *headers: tuple[str, str]) -> Reader:
        """A request over HTTP/2; its answer is to be read."""
        connection = await pool.acquire(None)
        assert connection is not None
        head = [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", f"{NAME}:{self.port}".encode()),
            (b":path", path.encode()),
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *((name.encode(), value.encode()) for name, value in headers),
        ]
        return Reader.open(connection, head, body)


async def _here(host: str, port: int) -> list[Address]:
    return [Address(socket.AF_INET, ("127.0.0.1", port))]


@asynccontextmanager
async def front(
    kind: Kind, program: str, folder: Path, proxies: list[int], *, silence: str | None = None
) -> AsyncIterator[Front]:
    """`kind` before proxies on these ports of the loopback; for HAProxy each data port is followed
    by its admin port. `silence` replaces the longest silence of the file that ships."""
    port = free_port()
    authority = trustme.CA()
    certificate = authority.issue_cert(NAME)
    chain, key = certificate.cert_chain_pems[0].bytes(), certificate.private_key_pem.bytes()
    for name, content in {
        "fullchain.pem": chain,
        "privkey.pem": key,
        "site.pem": chain + key,
    }.items():
        (folder / name).write_bytes(content)
    text = (FOLDER / kind.file).read_text("utf-8")
    replaced = dict(kind.places(folder, port, proxies))
    if silence is not None:
        replaced |= {line: after.format(silence) for line, after in kind.silence}
    for before, after in replaced.items():
        assert before in text, f"{kind.file} has no {before!r}"
        text = text.replace(before, after)
    path = folder / kind.file
    path.write_text(text, "utf-8")
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    log = folder / f"{kind.program}.log"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *kind.command(program, path),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=errors,
            env={"PATH": os.environ.get("PATH", ""), "HOME": str(folder)},
        )
    try:
        await listens(port, process, log)
        yield Front(kind.program, port, tls)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def listens(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    """Returns when the program accepts on `port`; fails with its last words when it ends."""
    async with asyncio.timeout(_READY):
        while True:
            assert process.returncode is None, log.read_text()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                await writer.wait_closed()
                return
