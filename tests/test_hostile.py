"""Many peers at once that hold on to what they are given: what is left for the others."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pytest

from tests.fakes.raw_client import RawClient, ask, chat
from tests.fakes.recording import recording
from tests.fakes.running import running
from tests.fakes.serving import serving
from tests.fakes.under_attack import Damage, Stage, attacked
from tests.fakes.upstream import Call, ScriptedUpstream

MIB: Final = 1 << 20
EACH: Final = 256 * 1024
"""Bytes of memory that one slow reader may cost."""
TOGETHER: Final = 128 * MIB
SHARES: Final[dict[str, Any]] = {
    "slow_readers": (500, 60.0),
    "never_readers": (200, 60.0),
    "slow_headers": (1000, 15.0),
    "silent": (1000, 15.0),
    "slow_bodies": (300, 30.0),
    "bombs": (24, 1.0),
    "churn": (50_000, 1.0),
}
"""Of the attacks: how many peers, and for how many seconds."""
SETTINGS: Final[dict[str, Any]] = {
    "admission": {"limit": "off"},
    # A window of 4 KiB is opened again only when half of it was read: at 100 bytes per second.
    "stream": {"client_stall": "40s"},
}


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    async with attacked(folder, SETTINGS) as found:
        await found.gaps(0.5)  # warm: the first streams open the connections
        yield found


def bounded(damage: Damage) -> None:
    """S5 to S7, but for the clock."""
    if damage.kind in ("slow_readers", "never_readers"):
        assert damage.running == damage.count  # each of them had its stream
        assert damage.growth <= min(TOGETHER, damage.count * EACH + 16 * MIB)
    elif damage.kind == "bombs":
        assert damage.growth <= 10 * 32 * MIB
    else:
        assert damage.growth <= TOGETHER
    if damage.kind in ("slow_headers", "silent"):
        assert len(damage.lived) == damage.count
        assert damage.lived[-1] <= 12


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_others_do_not_notice_an_attack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with stage(tmp_path) as found:
        files = found.served.open_files()
        for kind, (count, seconds) in SHARES.items():
            damage = await found.attacked(kind, count, seconds)
            with capsys.disabled():
                print("\n" + damage.told(), end="")
            bounded(damage)
            assert damage.slowdown <= 2
            await found.is_quiet(files + 8)


@pytest.mark.parametrize(
    ("kind", "count", "seconds"),
    [("slow_readers", 40, 1.5), ("bombs", 3, 0.5), ("churn", 1000, 0.5)],
)
async def test_an_attack_costs_little_and_leaves_nothing(
    tmp_path: Path, kind: str, count: int, seconds: float
) -> None:
    async with stage(tmp_path) as found:
        files = found.served.open_files()
        damage = await found.attacked(kind, count, seconds, quiet_for=0.2)
        bounded(damage)
        assert damage.gaps[-1] < 5
        await found.is_quiet(files + 8)


# --- limits of the process -----------------------------------------------------------------------


async def test_files_do_not_run_out_and_the_log_is_not_flooded(tmp_path: Path) -> None:
    """128 of them: two of five are for clients."""
    async with recording() as upstream:
        settings = {"endpoints": [{"name": "up", "base_url": upstream.url}]}
        async with serving(tmp_path, settings, log=True, files=128) as served:
            held = []
            for _ in range(400):
                one = socket.socket()
                one.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    one.connect(served.data_address)
                held.append(one)
            async with asyncio.timeout(10):
                while (
                    served.open_files() < 60
                    or await served.gauge("glm_proxy_connections_refused_total") < 400 - 51
                ):
                    await asyncio.sleep(0.05)
            assert served.open_files() < 100
            refused = await ask(served.data_address, "/v1/x", b"{}")
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            assert refused.json()["error"]["code"] == "proxy_crowded"
            for one in held:
                one.close()
            async with asyncio.timeout(10):
                while (await ask(served.data_address, "/v1/x", b"{}")).status != 200:
                    await asyncio.sleep(0.05)
        lines = (tmp_path / "log").read_text().splitlines()
        assert 1 <= sum("max_connections" in line for line in lines) <= 10
        assert len(lines) < 30


# --- what reaches the upstream -------------------------------------------------------------------

PATHS: Final = (
    *("/v1/../admin", "/v1/./x", "/v1//x", "//v1/x", "/v1/x/", "/v1/x;a=b", "/v1/x%00", "/v1/x\\y"),
    *("/v1/%2e%2e/admin", "/v1/..%2fadmin", "/v1/.%2e/x", "/v1/%2e/x", "/v1/%5c../x", "/v1/%2fx"),
    *("/V1/x", "/v1", "/v1/", "/", "", "/v1x", "/admin", "/metrics", "/livez", "/readyz"),
    *("/api", "/api/", "/api/paas", "/api/paas/v4", "/api/paas/v5/x", "/api/paas/v4/../v5/x"),
    *("/api/coding/../../x", "/api/anthropic/../x", "/api/v1/agents/../x", "/api/v1/agentsx"),
    *("/v1/chat/completions/", "/v1/chat//completions", "/v1/Chat/Completions", "/v1/models/.."),
    *("/v1/chat/%63ompletions", "/v1/messages%2f..", "/v1/x%0d%0aX-A: 1", "/v1/x%20HTTP/1.1"),
    *("/v1/x%", "/v1/x%4", "/v1/x%zz", "/v1/%c0%ae%c0%ae/x", "/v1/%252e%252e/x", "/v1/x%3b"),
    *("/v1/x?a=/../b", "/v1/x?a=%2e%2e", "/v1/x?a#b", "/v1/a:b@c", "/v1/~x", "/v1/x,y", "/v1/x%41"),
    *("/v1/...", "/v1/..x", "/v1/x..", "/v1/.x", "/.well-known/x", "/v1/%7ex"),
)


ODD: Final = re.compile(r"[/\\;]|%[0-9A-Fa-f]{2}")
"""In a segment that was decoded."""


def spelled(path: str) -> tuple[str, str, str]:
    """As it is, with its dots encoded, and encoded once more."""
    once = path.replace(".", "%2e")
    return path, once, path.replace("%", "%25")


async def test_no_spelling_of_a_path_leaves_what_is_passed_on(tmp_path: Path) -> None:
    async with (
        recording() as upstream,
        running(
            tmp_path, {"endpoints": [{"name": "up", "base_url": upstream.url + "/base"}]}
        ) as app,
    ):
        statuses = set()
        for path in PATHS:
            for one in spelled(path):
                reader, writer = await asyncio.open_connection(*app.data_address)
                writer.write(f"GET {one} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                statuses.add(int((await reader.readline()).split(b" ")[1]))
                writer.transport.abort()
    assert statuses <= {200, 400, 404, 405}
    assert 200 in statuses
    assert upstream.broken == []
    for path in upstream.paths:
        bare = path.partition("?")[0]
        assert bare.startswith(
            ("/base/api/paas/v4/", "/base/api/anthropic/", "/base/api/v1/agents")
        )
        decoded = [unquote(segment) for segment in bare.split("/")[1:]]
        odd = [one for one in decoded if one in ("", ".", "..") or ODD.search(one)]
        assert (odd, path) == ([], path)


async def test_no_method_that_a_path_does_not_take_reaches_the_upstream(tmp_path: Path) -> None:
    methods = "GET HEAD POST PUT PATCH DELETE OPTIONS TRACE CONNECT PROPFIND PURGE LINK FOO get G@T"
    async with recording() as upstream:
        async with running(
            tmp_path, {"endpoints": [{"name": "up", "base_url": upstream.url}]}
        ) as app:
            for path in ("/v1/chat/completions", "/v1/models", "/v1/files"):
                for method in methods.split(" "):
                    reader, writer = await asyncio.open_connection(*app.data_address)
                    writer.write(f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                    await reader.readline()
                    writer.transport.abort()
        await asyncio.sleep(0)
    seen = sorted({one.split(b" ")[0].decode() for one in upstream.requests})
    assert seen == ["DELETE", "GET", "PATCH", "POST", "PUT"]
    assert all(path.endswith("/files") for path in upstream.paths)


async def test_only_listed_headers_reach_the_upstream_whatever_connection_says(
    tmp_path: Path,
) -> None:
    async with (
        recording() as upstream,
        running(tmp_path, {"endpoints": [{"name": "up", "base_url": upstream.url}]}) as app,
    ):
        await ask(
            app.data_address,
            "/v1/files",
            b"{}",
            "Connection: close, authorization, x-title",
            "Authorization: Bearer k",
            "X-Title: t",
            "X-App: cli",
            *("TE: trailers", "Upgrade: h2c", "HTTP2-Settings: x", "Proxy-Authorization: x"),
            *("X-Forwarded-For: 1.1.1.1", "X-Real-IP: 1.1.1.1", "Forwarded: for=1.1.1.1"),
            *("X-Base-Url: http://evil", "X-Upstream: evil", "X-Original-Url: /x"),
            *("Transfer_Encoding: chunked", "Cookie: a=b", "X-Http-Method-Override: DELETE"),
        )
    names = [
        line.split(b":")[0].decode().lower() for line in upstream.requests[0].split(b"\r\n")[1:]
    ]
    listed = ["accept-encoding", "content-length", "host", "user-agent", "x-app", "x-request-id"]
    assert sorted(filter(None, names[: names.index("")])) == listed


# --- endings -------------------------------------------------------------------------------------

EVENT: Final = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'


async def test_a_stream_over_http_1_0_ends_with_its_connection_and_a_cut_is_told(
    tmp_path: Path,
) -> None:
    async def script(call: Call) -> None:
        call.head()
        call.send(EVENT)
        await asyncio.sleep(0.05)
        call.finish("rst")

    async with ScriptedUpstream(script) as upstream:
        settings = {"endpoints": [{"name": "up", "base_url": upstream.url}]}
        async with running(tmp_path, settings) as app:
            body = chat()
            reader, writer = await asyncio.open_connection(*app.data_address)
            head = f"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            head_bytes, _, events = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
    assert head_bytes.startswith(b"HTTP/1.0 200 ")
    assert b"transfer-encoding" not in head_bytes.lower()
    assert events.startswith(EVENT)
    assert b"upstream_reset" in events[len(EVENT) :]
    assert b"[DONE]" not in events


async def test_a_client_that_closes_its_sending_half_has_left(tmp_path: Path) -> None:
    """As the README says: an answer is for who still holds the connection open."""

    async def script(call: Call) -> None:
        call.head()
        call.send(EVENT)
        await call.gone.wait()

    async with ScriptedUpstream(script) as upstream:
        settings = {"endpoints": [{"name": "up", "base_url": upstream.url}]}
        async with running(tmp_path, settings) as app, RawClient(app.data_address) as client:
            client.post("/v1/chat/completions", chat())
            await client.head()
            await client.chunk()
            client.writer.write_eof()
            await asyncio.wait_for(upstream.calls[0].gone.wait(), 5)
