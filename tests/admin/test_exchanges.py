"""`/admin/exchanges`: what an operator is told of finished exchanges, and never is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from proxy.admin.exchanges import detail, routes, summary
from proxy.core.record import Record, SpanIds
from proxy.observe.access_log import json_line
from proxy.observe.exchanges import Exchanges, Kept
from proxy.observe.stages import stages
from tests.fakes.operator import get, listening
from tests.fakes.records import RECEIVED, a_loser, a_record, a_timeline, an_attempt

NOW = 1_767_323_045.678
GLM_KEY = "8f3c1d9e7b5a4c2f8e6d0b1a9c7e5f3d.Xk29LmPq47RsTv0w"
SUMMARY = [
    *("request_id", "time", "kind", "route", "requested_model", "served_model", "endpoint"),
    *("stream", "status", "outcome", "stage", "ttfb_s", "ttft_s", "first_content_s"),
    *("duration_s", "attempt_count", "trace_id", "error", "stages"),
]


async def nowhere(_: str) -> bytes | None:
    """There is no other worker."""
    return None


class Listener:
    def __init__(self, exchanges: Exchanges, url: str) -> None:
        self.exchanges = exchanges
        self.url = url

    async def ids(self, query: str = "") -> list[str]:
        answer = await get(f"{self.url}/admin/exchanges{query}")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        return [one["request_id"] for one in answer.json()["exchanges"]]


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    exchanges = Exchanges(500, now=lambda: NOW)
    async with listening(routes(exchanges, nowhere)) as (_, url):
        yield Listener(exchanges, url)


def kept(record: Record) -> Kept:
    return Kept(1, NOW, record)


async def test_each_kind_is_listed_in_its_order(listener: Listener) -> None:
    for number, seconds in enumerate((1.0, 9.0, 3.0)):
        record = a_record(request_id=f"r{number}", timeline=a_timeline(first_content=seconds))
        listener.exchanges.finish(record)
    listener.exchanges.finish(a_record(request_id="f", outcome="upstream_failed", status=500))
    assert await listener.ids() == ["f", "r2", "r1", "r0"]
    assert await listener.ids("?kind=recent&limit=2") == ["f", "r2"]
    assert await listener.ids("?kind=slowest&limit=2") == ["r1", "r2"]
    assert await listener.ids("?kind=failed") == ["f"]


async def test_nothing_finished_is_an_empty_list(listener: Listener) -> None:
    for kind in ("recent", "slowest", "failed"):
        assert await listener.ids(f"?kind={kind}") == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("kind=worst", "kind"),
        ("kind=", "kind"),
        ("kind=recent&kind=failed", "kind"),
        ("limit=0", "limit"),
        ("limit=-1", "limit"),
        ("limit=1001", "limit"),
        ("limit=1e2", "limit"),
        ("limit=%C2%B2", "limit"),
        ("limit=" + "9" * 7_000, "limit"),
        ("limit=1&limit=2", "limit"),
        ("kind=%3Cscript%3E%0D%0A", "kind"),
    ],
)
async def test_a_wrong_value_is_refused_by_the_name_of_its_field(
    listener: Listener, query: str, field: str
) -> None:
    answer = await get(f"{listener.url}/admin/exchanges?{query}")
    assert (answer.status, answer.headers["content-type"]) == (400, "application/json")
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("wrong_query", field)
    assert error["message"].startswith(field)
    assert "script" not in error["message"]


async def test_one_exchange_is_found_by_its_id(listener: Listener) -> None:
    listener.exchanges.finish(a_record(request_id="a.b:c/d-e"))
    answer = await get(f"{listener.url}/admin/exchanges/{quote('a.b:c/d-e', safe='')}")
    assert answer.status == 200
    assert answer.json()["request_id"] == "a.b:c/d-e"


@pytest.mark.parametrize("wrong", ["nobody", GLM_KEY, "%00%0a", "x" * 6_000])
async def test_an_unknown_id_is_not_found_and_not_repeated(listener: Listener, wrong: str) -> None:
    listener.exchanges.finish(a_record())
    answer = await get(f"{listener.url}/admin/exchanges/{wrong}")
    assert (answer.status, answer.headers["content-type"]) == (404, "application/json")
    assert answer.json()["error"]["code"] == "not_found"
    assert wrong.encode() not in answer.body


async def test_head_is_answered_and_other_methods_are_refused(listener: Listener) -> None:
    listener.exchanges.finish(a_record())
    for path in ("/admin/exchanges", "/admin/exchanges/req-1"):
        answer = await get(listener.url + path, "HEAD")
        assert (answer.status, answer.body) == (200, b"")
        for method in ("POST", "DELETE", "PUT"):
            answer = await get(listener.url + path, method)
            assert (answer.status, answer.headers["allow"]) == (405, "GET,HEAD")


def test_a_summary_has_what_the_page_lists() -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    span = SpanIds(trace_id, "00f067aa0ba902b7", None, sampled=True)
    record = a_record(span=span, error="no\nanswer")
    told = summary(kept(record))
    assert list(told) == SUMMARY
    assert told["time"] == NOW
    assert (told["ttfb_s"], told["ttft_s"], told["first_content_s"]) == (0.301, 0.3, 1.5)
    assert (told["duration_s"], told["attempt_count"], told["trace_id"]) == (2.5, 1, trace_id)
    assert told["error"] == "no\\nanswer"
    assert told["stages"] == [[name, round(span, 6)] for name, span in stages(record)]
    assert sum(span for _, span in told["stages"]) == pytest.approx(2.5)


def test_the_detail_has_the_summary_the_log_line_and_when_everything_began() -> None:
    late = an_attempt(role="hedge", started=RECEIVED + 0.8)
    record = a_record(attempts=(a_loser(), late), decisions=("hedge_started",))
    told = orjson.loads(orjson.dumps(detail(kept(record))))
    line = orjson.loads(json_line(record, NOW))
    assert set(told) == {*SUMMARY, *line, "timeline"}
    for name, value in summary(kept(record)).items():
        assert told[name] == orjson.loads(orjson.dumps(value))
    for name in set(line) - {"time", "attempts"}:
        assert told[name] == line[name]
    assert [one["start_s"] for one in told["attempts"]] == [0.004, 0.8]
    assert [one.pop("start_s") for one in told["attempts"]]
    assert told["attempts"] == line["attempts"]
    ends = 0.0
    for span in told["timeline"]:
        assert span["start_s"] == pytest.approx(ends, abs=2e-6)
        ends += span["duration_s"]
    assert ends == pytest.approx(told["duration_s"], abs=1e-5)


def test_what_reached_nothing_has_nulls_and_no_stages() -> None:
    marks = ("parsed", "sent", "headers", "first_byte", "first_event", "first_token")
    nothing = dict.fromkeys((*marks, "first_content", "committed", "last_event"), None)
    record = a_record(
        timeline=a_timeline(**nothing), attempts=(), status=None, outcome="client_gone"
    )
    told = detail(kept(record))
    assert (told["ttfb_s"], told["status"], told["stages"], told["timeline"]) == (
        None,
        None,
        [],
        [],
    )
    assert told["duration_s"] == 2.5


HOSTILE = [
    "\x00\x1b[2J\r\nevent: status\r\ndata: x\r\n\r\n\u2028\u202e",
    '<script>alert(1)</script>"><img src=x onerror=alert(1)>',
    "m" * 200_000,
    "\ud800 lone",
    f"Bearer {GLM_KEY}",
    GLM_KEY,
    "sk-" + "a1B2" * 12,
]


@pytest.mark.parametrize("evil", HOSTILE)
async def test_hostile_texts_are_harmless_plain_text(listener: Listener, evil: str) -> None:
    changes: dict[str, Any] = dict.fromkeys(
        (
            *("request_id", "method", "path", "requested_model", "served_model"),
            *("finish_reason", "upstream_code", "error"),
        ),
        evil,
    )
    listener.exchanges.finish(
        a_record(
            **changes,
            outcome="upstream_failed",
            decisions=(evil,),
            attempts=(an_attempt(model=evil, upstream_code=evil),),
        )
    )
    (listed,) = (await get(f"{listener.url}/admin/exchanges?kind=failed")).json()["exchanges"]
    path = quote(listed["request_id"], safe="")
    whole = await get(f"{listener.url}/admin/exchanges/{path}")
    assert whole.status == 200
    for text in _texts([listed, whole.json()]):
        assert text.isprintable()
        assert len(text) < 1_000
        for secret in (GLM_KEY, "sk-" + "a1B2" * 12):
            for start in range(len(secret) - 11):
                assert secret[start : start + 12] not in text
    assert len(whole.body) < 10_000


def _texts(value: Any) -> list[str]:
    match value:
        case str():
            return [value]
        case dict():
            return [text for one in value.values() for text in _texts(one)]
        case list():
            return [text for one in value for text in _texts(one)]
    return []
