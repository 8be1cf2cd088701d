"""The operator's listener on a real socket: health, metrics, and who may read them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import NamedTuple

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from proxy.admin.app import Readiness, make_admin
from proxy.admin.guard import Hosts
from proxy.observe.labels import LabelNames
from proxy.observe.metrics import Metrics, Scrape
from tests.fakes.records import a_record

NAMES = LabelNames.of(routes=["fast-chat"], models=["glm-4.6"], endpoints=["cn"])


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class SlowTexts:
    """Stands before the metrics: no text is ready before `finish`, and each step is counted."""

    def __init__(self, metrics: Metrics) -> None:
        self.begun: list[str] = []
        self.together = self.most_together = 0
        self.finish = threading.Event()
        self._metrics = metrics
        self._asked: asyncio.Queue[None] = asyncio.Queue()

    def scrape(self, accept: str) -> Scrape:
        self._asked.put_nowait(None)
        scrape = self._metrics.scrape(accept)

        def text() -> bytes:
            self.begun.append(scrape.content_type)
            self.together += 1
            self.most_together = max(self.most_together, self.together)
            assert self.finish.wait(10)
            self.together -= 1
            return scrape.text()

        return Scrape(scrape.content_type, text)

    async def asked(self, times: int) -> None:
        async with asyncio.timeout(10):
            for _ in range(times):
                await self._asked.get()


class Admin:
    """A running listener, and what it was made from."""

    def __init__(self) -> None:
        self.metrics = Metrics(NAMES)
        self.readiness = Readiness(ready=True)
        self.port = 0
        self.scrape = self.metrics.scrape

    async def get(self, path: str, *headers: str, host: str = "127.0.0.1") -> Answer:
        return await self.ask(f"GET {path} HTTP/1.1", f"Host: {host}", *headers)

    async def ask(self, *lines: str) -> Answer:
        """Sends a request as it is written here; one connection each."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            request = "\r\n".join((*lines, "Connection: close", "", ""))
            writer.write(request.encode("latin-1"))
            async with asyncio.timeout(10):
                answer = await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        pairs = (field.partition(": ") for field in fields)
        return Answer(int(status.split()[1]), {n.lower(): v for n, _, v in pairs}, body)


@pytest.fixture
async def admin() -> AsyncIterator[Admin]:
    admin = Admin()
    app = make_admin(
        lambda accept: admin.scrape(accept), lambda: admin.readiness, Hosts(["Proxy.Example"])
    )
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        admin.port = runner.addresses[0][1]
        yield admin
    finally:
        await runner.cleanup()


async def test_it_is_alive_while_the_loop_turns(admin: Admin) -> None:
    admin.readiness = Readiness(ready=False, reasons=("draining",))
    answer = await admin.get("/livez")
    assert (answer.status, answer.body) == (200, b"ok\n")


async def test_it_is_ready_although_an_upstream_is_down(admin: Admin) -> None:
    admin.readiness = Readiness(ready=True, endpoints={"cn": "down", "global": "up"})
    answer = await admin.get("/readyz")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert orjson.loads(answer.body) == {
        "ready": True,
        "reasons": [],
        "endpoints": {"cn": "down", "global": "up"},
    }


async def test_it_says_why_it_is_not_ready(admin: Admin) -> None:
    admin.readiness = Readiness(ready=False, reasons=("draining",))
    answer = await admin.get("/readyz")
    assert answer.status == 503
    assert orjson.loads(answer.body) == {"ready": False, "reasons": ["draining"], "endpoints": {}}


async def test_metrics_hold_what_finished_before_they_were_asked_for(admin: Admin) -> None:
    for count in (1, 2, 3):
        admin.metrics.finish(a_record())
        answer = await admin.get("/metrics")
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        (total,) = (
            sample.value
            for family in parse_plain(answer.body.decode())
            for sample in family.samples
            if sample.name == "glm_proxy_exchanges_total"
        )
        assert total == count


async def test_open_metrics_is_served_when_asked_for(admin: Admin) -> None:
    answer = await admin.get("/metrics", "Accept: application/openmetrics-text; version=1.0.0")
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.body.endswith(b"# EOF\n")


async def test_scrapes_at_once_share_one_text_and_the_loop_goes_on(admin: Admin) -> None:
    slow = SlowTexts(admin.metrics)
    admin.scrape = slow.scrape
    scrapes = [asyncio.create_task(admin.get("/metrics")) for _ in range(50)]
    await slow.asked(50)
    assert (await admin.get("/livez")).status == 200
    slow.finish.set()
    assert {answer.status for answer in await asyncio.gather(*scrapes)} == {200}
    assert len(slow.begun) == 1
    await admin.get("/metrics")
    assert len(slow.begun) == 2


async def test_a_sum_that_cannot_be_made_is_no_half_sum(admin: Admin) -> None:
    def fail() -> bytes:
        raise FileNotFoundError(2, "No such file or directory", "/secret/place")

    admin.scrape = lambda accept: Scrape("text/plain", fail)
    answer = await admin.get("/metrics")
    assert (answer.status, answer.body) == (
        503,
        b"503: metrics.folder cannot be read: No such file or directory\n",
    )


async def test_two_formats_are_made_one_after_the_other(admin: Admin) -> None:
    slow = SlowTexts(admin.metrics)
    admin.scrape = slow.scrape
    accepts = ("Accept: text/plain", "Accept: application/openmetrics-text") * 2
    scrapes = [asyncio.create_task(admin.get("/metrics", accept)) for accept in accepts]
    await slow.asked(4)
    slow.finish.set()
    answers = await asyncio.gather(*scrapes)
    ends = [answer.body.endswith(b"# EOF\n") for answer in answers]
    assert ends == [False, True, False, True]
    assert (len(slow.begun), slow.most_together) == (2, 1)


async def test_a_scraper_that_leaves_takes_nothing_from_those_who_stay(admin: Admin) -> None:
    slow = SlowTexts(admin.metrics)
    admin.scrape = slow.scrape
    leaving = asyncio.create_task(admin.get("/metrics"))
    await slow.asked(1)
    staying = asyncio.create_task(admin.get("/metrics"))
    await slow.asked(1)
    leaving.cancel()
    await asyncio.wait({leaving})
    slow.finish.set()
    assert (await staying).body.endswith(b"\n")
    assert len(slow.begun) == 1


async def test_the_root_is_the_operators_page(admin: Admin) -> None:
    answer = await admin.get("/")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


async def test_where_nothing_is_counted_there_are_no_metrics() -> None:
    app = make_admin(None, lambda: Readiness(ready=True))
    async with TestClient(TestServer(app)) as client:
        answer = await client.get("/metrics")
        assert answer.status == 404
        assert "metrics.enabled" in await answer.text()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:9090",
        "10.1.2.3:9090",
        "[::1]",
        "[::1]:9090",
        "localhost",
        "LocalHost:9090",
        "localhost.",
        "proxy.example",
        "PROXY.EXAMPLE.:9090",
    ],
)
async def test_an_address_localhost_or_a_configured_name_is_welcome(
    admin: Admin, host: str
) -> None:
    assert (await admin.get("/livez", host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9090",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "proxy.example.evil",
        "evil.example#127.0.0.1",
        "evil@127.0.0.1",
        "127.0.0.1:evil",
        "[::1",
        "[::1]x",
        "[evil.example]",
        "2130706433.example",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/metrics", "/nowhere"])
async def test_any_other_name_is_refused_on_every_path(admin: Admin, host: str, path: str) -> None:
    answer = await admin.get(path, host=host)
    assert answer.status in (400, 421)
    assert b"glm_proxy" not in answer.body


async def test_a_request_without_a_host_is_refused(admin: Admin) -> None:
    assert (await admin.ask("GET /metrics HTTP/1.1")).status in (400, 421)
    assert (await admin.ask("GET /metrics HTTP/1.0")).status == 421


async def test_two_hosts_are_refused(admin: Admin) -> None:
    answer = await admin.ask("GET /metrics HTTP/1.1", "Host: 127.0.0.1", "Host: evil.example")
    assert answer.status in (400, 421)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/metrics"])
async def test_nothing_but_reading_is_allowed(admin: Admin, method: str, path: str) -> None:
    answer = await admin.ask(f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Length: 0")
    assert answer.status == 405
    assert answer.headers["allow"] == "GET,HEAD"


async def test_head_is_a_get_without_its_body(admin: Admin) -> None:
    answer = await admin.ask("HEAD /livez HTTP/1.1", "Host: 127.0.0.1")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "3")


@pytest.mark.parametrize(
    ("request_line", "host", "status"),
    [
        ("GET / HTTP/1.1", "127.0.0.1", 200),
        ("GET /metrics HTTP/1.1", "127.0.0.1", 200),
        ("GET /readyz HTTP/1.1", "127.0.0.1", 200),
        ("GET /nowhere HTTP/1.1", "127.0.0.1", 404),
        ("POST /livez HTTP/1.1", "127.0.0.1", 405),
        ("GET / HTTP/1.1", "evil.example", 421),
    ],
)
async def test_every_answer_is_hardened_and_tells_no_version(
    admin: Admin, request_line: str, host: str, status: int
) -> None:
    answer = await admin.ask(request_line, f"Host: {host}")
    assert answer.status == status
    assert answer.headers["x-content-type-options"] == "nosniff"
    # The page may be kept, and is asked for again each time; nothing else is kept anywhere.
    kept = "no-cache" if request_line == "GET / HTTP/1.1" and status == 200 else "no-store"
    assert answer.headers["cache-control"] == kept
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["server"] == "glm-proxy"
    assert "access-control-allow-origin" not in answer.headers


async def test_an_unknown_path_is_not_repeated_in_the_answer(admin: Admin) -> None:
    answer = await admin.get("/nowhere-canary")
    assert answer.status == 404
    assert b"canary" not in answer.body
