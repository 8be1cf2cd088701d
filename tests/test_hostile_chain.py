"""Requests that parsers read differently, through a front: none becomes two on the way."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.fronts import KINDS, NAME, Front, front
from tests.fakes.http1_cases import GROUPS, Case
from tests.fakes.recording import Recorder, recording
from tests.fakes.running import running

CASES: Final = [case for group in GROUPS.values() for case in group]
SAMPLE: Final = CASES[::10]
SILENCE: Final = 0.3
"""Seconds after which no further answer is expected; a front may wait long for the rest of what it
was sent."""
GOOD: Final = re.compile(rb"HTTP/1\.[01] 200 ")


async def answers(there: Front, case: Case) -> int:
    """How many requests the client is told were served."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    tls.set_alpn_protocols(["http/1.1"])
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", there.port, ssl=tls, server_hostname=NAME
    )
    received = b""
    with contextlib.suppress(TimeoutError, OSError):
        writer.write(case.sent.replace(b"Host: a\r\n", b"Host: %b\r\n" % NAME.encode()))
        while data := await asyncio.wait_for(reader.read(65536), SILENCE):
            received += data
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return len(GOOD.findall(received))


async def through(there: Front, cases: Sequence[Case], upstream: Recorder) -> list[str]:
    """What is wrong with what came of `cases`."""
    found = []
    for case in cases:
        before = len(upstream.requests)
        told = await answers(there, case)
        seen = upstream.paths[before:]
        # What a front mends is one request; a second one is there only if the client sent it so.
        entitled = 2 if "2" in case.wanted else 1
        smuggled = entitled < 2 and any("smuggled" in path for path in seen)
        if len(seen) > entitled or smuggled:
            found.append(f"{case.name}: told {told}, upstream saw {seen}")
    return found


async def chained(
    needs_program: Callable[[str], str], folder: Path, name: str, cases: Sequence[Case]
) -> None:
    kind = KINDS[name]
    program = needs_program(kind.program)
    async with recording() as upstream:
        endpoints = [{"name": "up", "base_url": upstream.url}]
        async with running(folder, {"endpoints": endpoints}) as app:
            ports = [app.data_address[1]]
            if name == "haproxy":
                ports.append(app.admin_address[1])
            async with front(kind, program, folder, ports) as there:
                plain = Case("plain", b"GET /v1/x HTTP/1.1\r\nHost: a\r\n\r\n", "1")
                async with asyncio.timeout(20):
                    while not await answers(there, plain):
                        await asyncio.sleep(0.05)
                upstream.requests.clear()
                assert await through(there, cases, upstream) == []
                assert len(upstream.requests) > len(cases) / 10
    assert upstream.broken == []


@pytest.mark.parametrize("name", KINDS)
async def test_a_front_and_this_proxy_count_the_same_requests(
    needs_program: Callable[[str], str], tmp_path: Path, name: str
) -> None:
    await chained(needs_program, tmp_path, name, SAMPLE)


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", KINDS)
async def test_a_front_and_this_proxy_count_the_same_requests_of_all_kinds(
    needs_program: Callable[[str], str], tmp_path: Path, name: str
) -> None:
    await chained(needs_program, tmp_path, name, CASES)
