"""One line for each exchange: stable fields, safe values, and no secret."""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.record import Record, SpanIds, Usage
from proxy.observe.access_log import AccessLog, Format, json_line, text_line
from tests.fakes.records import RECEIVED, a_loser, a_record, a_timeline, an_attempt
from tests.fakes.running import running

NOW = 1_767_323_045.678  # 2026-01-02T03:04:05.678Z
GLM_KEY = "8f3c1d9e7b5a4c2f8e6d0b1a9c7e5f3d.Xk29LmPq47RsTv0w"


def logged(record: Record) -> dict[str, Any]:
    fields = orjson.loads(json_line(record, NOW))
    assert isinstance(fields, dict)
    return fields


def test_the_line_of_a_completed_stream() -> None:
    assert logged(a_record()) == {
        "time": "2026-01-02T03:04:05.678Z",
        "request_id": "req-1",
        "trace_id": None,
        "sample": 1.0,
        "kind": "chat",
        "dialect": "openai",
        "method": "POST",
        "path": "/v1/chat/completions",
        "route": "fast-chat",
        "requested_model": "glm-4.6",
        "served_model": "glm-4-flash",
        "endpoint": "cn",
        "reason": "only",
        "changes": [],
        "predicted_s": None,
        "decisions": [],
        "shared": False,
        "carrier": "http",
        "memory": None,
        "memory_items": None,
        "memory_tokens": None,
        "memory_saved_s": None,
        "cache": None,
        "left": None,
        "stream": True,
        "status": 200,
        "outcome": "completed",
        "stage": "done",
        "ttfb_s": 0.301,
        "ttft_s": 0.3,
        "first_content_s": 1.5,
        "duration_s": 2.5,
        "overhead_s": 0.011,
        "events": 5,
        "gap_mean_s": 0.525,
        "gap_max_s": 1.2,
        "input_tokens": 12,
        "output_tokens": 101,
        "cached_tokens": 4,
        "reasoning_tokens": 60,
        "usage_partial": False,
        "finish_reason": "stop",
        "error": None,
        "upstream_code": None,
        "request_bytes": 300,
        "response_bytes": 9000,
        "heartbeats": 0,
        "key": "0123456789ab",
        "refused": None,
        "limited": None,
        "attempt_count": 1,
        "attempts": [
            {
                "endpoint": "cn",
                "model": "glm-4-flash",
                "role": "first",
                "won": True,
                "outcome": "completed",
                "status": 200,
                "upstream_code": None,
                "protocol": "h2",
                "reused": True,
                "waited_s": 0.0,
                "connect_s": 0.006,
                "headers_s": 0.19,
                "first_byte_s": 0.29,
                "first_token_s": 0.29,
                "duration_s": 2.446,
                "lost_input_tokens": None,
                "lost_output_tokens": None,
            }
        ],
    }


REACHED_NOTHING = a_record(
    timeline=a_timeline(
        **dict.fromkeys(
            ("parsed", "sent", "headers", "first_byte", "first_event", "first_token"), None
        ),
        **dict.fromkeys(("committed", "first_content", "finished"), None),
        **dict.fromkeys(("events", "gaps", "gap_sum", "gap_max"), 0),
    ),
    attempts=(),
    usage=None,
    requested_model=None,
    served_model=None,
    endpoint=None,
    status=None,
    outcome="client_gone",
    stage="reading",
    finish_reason=None,
    key_fingerprint=None,
)


def test_the_fields_are_the_same_when_nothing_was_reached() -> None:
    fields = logged(REACHED_NOTHING)
    assert list(fields) == list(logged(a_record()))
    assert fields["ttfb_s"] is None
    assert fields["gap_mean_s"] is None
    assert (fields["duration_s"], fields["attempts"]) == (0.0, [])


def test_every_attempt_is_told_with_what_it_reached() -> None:
    failed = an_attempt(
        endpoint="global",
        outcome="upstream_connect_timeout",
        status=None,
        protocol=None,
        sent=None,
        headers=None,
        first_byte=None,
        ended=RECEIVED + 5.004,
    )
    fields = logged(a_record(attempts=(failed, an_attempt())))
    assert fields["attempt_count"] == 2
    first = fields["attempts"][0]
    assert (first["outcome"], first["duration_s"]) == ("upstream_connect_timeout", 5.0)
    assert [first[name] for name in ("connect_s", "headers_s", "first_byte_s")] == [None] * 3


def test_what_was_decided_is_told() -> None:
    fields = logged(
        a_record(
            reason="fastest",
            changes=("model", "thinking=disabled", "-tools"),
            predicted=1.23456789,
            decisions=("retry_overload:1305", "hedge_started"),
            shared=True,
        )
    )
    assert fields["reason"] == "fastest"
    assert fields["changes"] == ["model", "thinking=disabled", "-tools"]
    assert fields["predicted_s"] == 1.234568
    assert fields["decisions"] == ["retry_overload:1305", "hedge_started"]
    assert fields["shared"] is True


def test_tokens_are_told_with_the_attempt_only_when_it_lost() -> None:
    usage = Usage(input_tokens=10, output_tokens=3)
    lost = a_loser(usage=usage, upstream_code="1305", waited=0.25, role="hedge")
    won = an_attempt(usage=usage, first_token=None)
    first, second = logged(a_record(attempts=(lost, won)))["attempts"]
    assert (first["role"], first["won"], first["waited_s"]) == ("hedge", False, 0.25)
    assert (first["upstream_code"], first["first_token_s"]) == ("1305", None)
    assert (first["lost_input_tokens"], first["lost_output_tokens"]) == (10, 3)
    assert (second["lost_input_tokens"], second["lost_output_tokens"]) == (None, None)


def test_every_field_is_documented_and_no_other() -> None:
    from proxy.observe import access_log

    documented = set()
    table = (access_log.__doc__ or "").partition("\n\n    ")[2].partition("\n\n")[0]
    for line in table.splitlines():
        names = re.match(r"(?:    )?((?:\w+ )+) ", line)
        if names is not None and not line.startswith(" " * 8):
            documented |= set(names[1].split())
    fields = logged(a_record())
    assert documented == set(fields)
    words = set(re.findall(r"\w+", access_log.__doc__ or ""))
    assert set(fields["attempts"][0]) <= words


def test_the_trace_of_an_exchange_is_told() -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    record = a_record(span=SpanIds(trace_id, "00f067aa0ba902b7", None, sampled=True))
    assert logged(record)["trace_id"] == trace_id
    assert f" trace={trace_id}\n" in text_line(record, NOW).decode()


def lines_of(records: Iterable[Record], share: float) -> list[dict[str, Any]]:
    stream = io.BytesIO()
    log = AccessLog(stream, sample=share)
    for record in records:
        log.finish(record)
    assert log.close(10)
    return [orjson.loads(line) for line in stream.getvalue().splitlines()]


def test_of_ordinary_exchanges_a_share_is_logged_that_says_how_many_there_were() -> None:
    lines = lines_of((a_record(request_id=f"id{number}") for number in range(2_000)), 0.1)
    assert 100 < len(lines) < 300
    assert {line["sample"] for line in lines} == {0.1}
    assert sum(1 / line["sample"] for line in lines) == pytest.approx(2_000, rel=0.4)


def test_whether_an_ordinary_exchange_is_logged_depends_on_its_id_alone() -> None:
    records = [a_record(request_id=f"id{number}") for number in range(300)]
    once, again = lines_of(records, 0.3), lines_of(reversed(records), 0.3)
    assert {line["request_id"] for line in once} == {line["request_id"] for line in again}
    fewer = {line["request_id"] for line in lines_of(records, 0.1)}
    assert fewer < {line["request_id"] for line in once}


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(a_record(outcome="upstream_failed", status=500), id="failed"),
        pytest.param(a_record(kind="passthrough", status=404), id="passed-through error"),
        pytest.param(a_record(outcome="client_gone", status=None), id="the client left"),
        pytest.param(a_record(timeline=a_timeline(first_content=5.1)), id="slow"),
        pytest.param(a_record(timeline=a_timeline(first_content=None)), id="without content"),
        pytest.param(
            a_record(stream=False, timeline=a_timeline(first_content=None, finished=5.1)),
            id="slow, whole",
        ),
        pytest.param(a_record(attempts=(a_loser(), an_attempt(role="retry"))), id="retried"),
        pytest.param(a_record(decisions=("hedge_denied_budget",)), id="a hedge was denied"),
    ],
)
def test_what_is_out_of_the_ordinary_is_always_logged(record: Record) -> None:
    (line,) = lines_of([record], 0.0)
    assert line["sample"] == 1.0


async def test_a_proxy_logs_the_share_that_its_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    monkeypatch.setattr("proxy.telling._standard_output", lambda: stream)
    settings = {
        "endpoints": [{"name": "up", "base_url": "http://127.0.0.1:9"}],
        "log": {"format": "json", "sample": "0%"},
    }
    async with running(tmp_path, settings) as app, aiohttp.ClientSession() as session:
        host, port = app.data_address
        for path in ("/v1/models", "/nowhere", "/v1/models"):
            async with session.get(f"http://{host}:{port}{path}") as answer:
                await answer.read()
    lines = [orjson.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["outcome"], line["sample"]) for line in lines] == [("not_found", 1.0)]


def test_an_ordinary_whole_answer_is_sampled_too() -> None:
    assert lines_of([a_record(stream=False, timeline=a_timeline(first_content=None))], 0.0) == []


def test_the_line_for_a_person() -> None:
    assert text_line(a_record(), NOW).decode() == (
        "2026-01-02T03:04:05.678Z 200 completed POST /v1/chat/completions glm-4.6>glm-4-flash cn"
        " reason=only ttfb=0.301s ttft=0.300s content=1.500s total=2.500s events=5 in=12 out=101"
        " id=req-1\n"
    )


def test_the_line_for_a_person_says_how_far_a_failure_came() -> None:
    failed = a_record(
        status=429,
        outcome="upstream_failed",
        stage="waiting",
        upstream_code="1302",
        served_model="glm-4.6",
        attempts=(a_loser(), an_attempt(role="retry")),
    )
    line = text_line(failed, NOW).decode()
    assert " 429 upstream_failed POST " in line
    assert " glm-4.6 cn " in line
    assert " attempts=first,retry* stage=waiting upstream=1302 " in line
    assert " --- client_gone POST " in text_line(REACHED_NOTHING, NOW).decode()


def test_the_line_for_a_person_shows_a_hedge_that_lost_and_an_answer_that_was_shared() -> None:
    hedged = a_record(attempts=(an_attempt(), a_loser(role="hedge")), reason="sticky")
    line = text_line(hedged, NOW).decode()
    assert " reason=sticky " in line
    assert " attempts=first*,hedge " in line
    assert " shared " not in line
    shared = text_line(a_record(attempts=(), reason=None, shared=True), NOW).decode()
    assert " cn shared ttfb=" in shared


@pytest.mark.parametrize("write", [json_line, text_line])
def test_no_value_can_begin_a_line_of_its_own(write: Any) -> None:
    evil = 'x\r\n{"forged": true}\n\u2028\x1b[2J'
    record = a_record(
        request_id=evil,
        method=evil,
        path=evil,
        requested_model=evil,
        served_model=evil,
        finish_reason=evil,
        upstream_code=evil,
        changes=(evil,),
        decisions=(evil,),
        attempts=(an_attempt(model=evil, upstream_code=evil),),
    )
    line = write(record, NOW).decode()
    assert len(line.splitlines()) == 1
    assert line.endswith("\n")
    assert "\x1b" not in line


def test_what_an_upstream_says_as_a_code_is_told_if_it_is_a_word() -> None:
    """A sentence there may be out of a prompt, or an answer."""
    said = "the patient has a cold"
    record = a_record(
        upstream_code=said,
        finish_reason=said,
        decisions=(f"retry_again:{said}", "retry_again:1234", "hedge_started"),
        attempts=(an_attempt(upstream_code="model_context_window_exceeded"),),
    )
    line = orjson.loads(json_line(record, NOW))
    assert (line["upstream_code"], line["finish_reason"]) == ("*", "*")
    assert line["decisions"] == ["retry_again:*", "retry_again:1234", "hedge_started"]
    assert line["attempts"][0]["upstream_code"] == "model_context_window_exceeded"
    assert "patient" not in text_line(record, NOW).decode()


@given(st.text(st.characters()), st.text(st.characters()))
def test_any_text_from_outside_makes_one_line(model: str, path: str) -> None:
    record = a_record(requested_model=model, path=path, method=model, upstream_code=path)
    assert len(json_line(record, NOW).decode().splitlines()) == 1
    assert len(text_line(record, NOW).decode().splitlines()) == 1


def test_a_key_is_in_no_line_wherever_a_client_put_it() -> None:
    record = a_record(
        request_id=GLM_KEY,
        method=GLM_KEY,
        path=f"/v1/files/{GLM_KEY}",
        requested_model=GLM_KEY,
        served_model=f"glm-{GLM_KEY}",
        finish_reason=GLM_KEY,
        upstream_code=GLM_KEY,
        changes=(f"user_id={GLM_KEY}",),
        decisions=(f"retry_key:{GLM_KEY}",),
        attempts=(an_attempt(model=GLM_KEY, upstream_code=GLM_KEY),),
    )
    for line in (json_line(record, NOW), text_line(record, NOW)):
        for start in range(len(GLM_KEY) - 7):
            assert GLM_KEY[start : start + 8].encode() not in line


def test_a_name_without_end_is_cut() -> None:
    line = json_line(a_record(requested_model="glm " * 50_000, path="/a" * 50_000), NOW)
    assert len(line) < 2_000


@pytest.mark.parametrize(("form", "first"), [("json", b"{"), ("text", b"2")])
def test_each_exchange_is_one_line_on_the_stream(form: Format, first: bytes) -> None:
    stream = io.BytesIO()
    log = AccessLog(stream, form, now=lambda: NOW)
    for _ in range(3):
        log.finish(a_record())
    assert log.close(10)
    lines = stream.getvalue().splitlines()
    assert [line[:1] for line in lines] == [first] * 3


def test_an_access_log_that_is_off_writes_nothing_and_has_no_thread() -> None:
    stream = io.BytesIO()
    log = AccessLog(stream, "off")
    log.finish(a_record())
    assert log.close(0)
    assert (stream.getvalue(), log.dropped) == (b"", 0)


def test_a_stuck_reader_never_holds_an_exchange() -> None:
    reader, writing = os.pipe()
    with open(writing, "wb", buffering=0) as stream:
        log = AccessLog(stream, limit=100)
        slowest = 0.0
        for _ in range(2_000):
            started = time.perf_counter()
            log.finish(a_record())
            slowest = max(slowest, time.perf_counter() - started)
        assert slowest < 0.5
        assert log.dropped > 1_000
        os.close(reader)  # ends the thread's write
        assert log.close(10)


def test_what_went_wrong_is_told_in_words_but_never_with_a_key() -> None:
    record = a_record(error=f"two keys: {GLM_KEY}\nsend one")
    line = orjson.loads(json_line(record, 0.0))
    assert "send one" in line["error"]
    assert "\n" not in line["error"]
    for text in (line["error"], text_line(record, 0.0).decode()):
        assert GLM_KEY not in text
