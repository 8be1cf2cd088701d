"""Finished exchanges for tests, with round figures: change what a test is about."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from proxy.core.flow.timeline import Timeline
from proxy.core.record import AttemptRecord, Record, Usage

RECEIVED = 100.0


def a_timeline(**marks: float | int | None) -> Timeline:
    """A stream of five events that took 2.5 s; keywords replace marks, given since arrival."""
    since: dict[str, float | None] = {
        "parsed": 0.001,
        "sent": 0.010,
        "headers": 0.200,
        "first_byte": 0.300,
        "first_event": 0.300,
        "first_token": 0.300,
        "committed": 0.301,
        "first_content": 1.500,
        "last_event": 2.400,
        "finished": 2.500,
    }
    figures: dict[str, float | int | None] = {
        "events": 5,
        "gaps": 4,
        "gap_sum": 2.1,
        "gap_max": 1.2,
    }
    timeline = Timeline(RECEIVED)
    for name, value in marks.items():
        (figures if name in figures else since)[name] = value
    for name, mark in since.items():
        setattr(timeline, name, None if mark is None else RECEIVED + mark)
    for name, figure in figures.items():
        setattr(timeline, name, figure)
    return timeline


def an_attempt(**changes: Any) -> AttemptRecord:
    """The attempt that answered the exchange below."""
    attempt = AttemptRecord(
        endpoint="cn",
        model="glm-4-flash",
        outcome="completed",
        status=200,
        protocol="h2",
        reused=True,
        started=RECEIVED + 0.004,
        sent=RECEIVED + 0.010,
        headers=RECEIVED + 0.200,
        first_byte=RECEIVED + 0.300,
        ended=RECEIVED + 2.450,
        won=True,
        first_token=RECEIVED + 0.300,
        first_content=RECEIVED + 1.500,
    )
    return replace(attempt, **changes)


def a_loser(**changes: Any) -> AttemptRecord:
    """An attempt at the other endpoint that was sent and brought nothing."""
    nothing = dict.fromkeys(("headers", "first_byte", "first_token", "first_content", "status"))
    lost = {"endpoint": "global", "outcome": "cancelled", "won": False, **nothing}
    return an_attempt(**{**lost, **changes})


def a_record(**changes: Any) -> Record:
    """A completed chat stream: glm-4.6 was asked for, glm-4-flash answered at `cn`."""
    record = Record(
        request_id="req-1",
        kind="chat",
        dialect="openai",
        method="POST",
        path="/v1/chat/completions",
        route="fast-chat",
        requested_model="glm-4.6",
        served_model="glm-4-flash",
        endpoint="cn",
        stream=True,
        status=200,
        outcome="completed",
        stage="done",
        timeline=a_timeline(),
        attempts=(an_attempt(),),
        usage=Usage(input_tokens=12, output_tokens=101, cached_tokens=4, reasoning_tokens=60),
        finish_reason="stop",
        error=None,
        upstream_code=None,
        request_bytes=300,
        response_bytes=9000,
        key_fingerprint="0123456789ab",
        reason="only",
    )
    return replace(record, **changes)
