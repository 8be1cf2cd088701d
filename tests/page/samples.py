"""What the admin listener says, with round figures: change what a test is about."""

from __future__ import annotations

import time
from typing import Any

NOW = time.time()
STAGES = [
    ["receive", 0.0004],
    ["route", 0.0002],
    ["connect", 0.0011],
    ["upstream_headers", 0.52],
    ["first_byte", 0.11],
    ["first_token", 0.0],
    ["commit", 0.0003],
    ["reasoning", 0.45],
    ["stream", 1.6],
]


def a_summary(request_id: str = "req-1", **changes: Any) -> dict[str, Any]:
    """A completed stream: first content after 1.08 s, over after 2.68 s."""
    summary = {
        "request_id": request_id,
        "time": NOW,
        "kind": "chat",
        "route": "fast-chat",
        "requested_model": "glm-4.6",
        "served_model": "glm-4-flash",
        "endpoint": "cn",
        "stream": True,
        "status": 200,
        "outcome": "completed",
        "stage": "done",
        "ttfb_s": 0.632,
        "ttft_s": 0.632,
        "first_content_s": 1.082,
        "duration_s": 2.682,
        "attempt_count": 1,
        "trace_id": None,
        "error": None,
        "stages": STAGES,
    }
    return summary | changes


def an_attempt(**changes: Any) -> dict[str, Any]:
    """The attempt that answered the exchange above."""
    attempt = {
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
        "start_s": 0.0006,
        "connect_s": 0.0011,
        "headers_s": 0.52,
        "first_byte_s": 0.63,
        "first_token_s": 0.63,
        "duration_s": 2.68,
        "lost_input_tokens": None,
        "lost_output_tokens": None,
    }
    return attempt | changes


def a_detail(request_id: str = "req-1", **changes: Any) -> dict[str, Any]:
    """The same exchange, whole: a hedge was started and not used."""
    at = 0.0
    timeline = []
    for stage, length in STAGES:
        timeline.append({"stage": stage, "start_s": at, "duration_s": length})
        at += float(str(length))
    hedge = an_attempt(
        endpoint="global", role="hedge", won=False, outcome="cancelled", status=None, start_s=0.4
    )
    hedge |= {"headers_s": None, "first_byte_s": None, "first_token_s": None, "duration_s": 0.25}
    more = {
        "dialect": "openai",
        "path": "/v1/chat/completions",
        "reason": "rule",
        "decisions": ["hedge_started"],
        "input_tokens": 12,
        "output_tokens": 101,
        "key": "0123456789ab",
        "attempts": [an_attempt(), hedge],
        "timeline": timeline,
    }
    return a_summary(request_id, attempt_count=2) | more | changes


def a_window(**changes: Any) -> dict[str, Any]:
    """The last minute: 96 % in time."""
    window = {
        "seconds": 60,
        "rate_per_s": 2.5,
        "errors": 3,
        "ttfb_p50_s": 0.41,
        "ttfb_p95_s": 1.9,
        "ttft_p50_s": 0.44,
        "first_content_p50_s": 0.82,
        "first_content_p95_s": 4.21,
        "slo_target_s": 5.0,
        "slo_objective": 0.95,
        "slo_share": 0.96,
        "slo_count": 150,
    }
    return window | changes


def a_history(steps: int = 120) -> dict[str, Any]:
    """Ten minutes that wave a little, with a hole at the start."""
    known = range(steps // 6, steps)
    hole: list[float | None] = [None] * (steps // 6)
    return {
        "step_s": 5,
        "time": [NOW - 5 * (steps - i) for i in range(steps)],
        "rate_per_s": hole + [2 + (i % 7) / 5 for i in known],
        "errors": hole + [1 if i % 20 == 0 else 0 for i in known],
        "first_content_p50_s": hole + [0.7 + (i % 5) / 10 for i in known],
        "first_content_p95_s": hole + [3.5 + (i % 9) / 4 for i in known],
        "slo_share": hole + [1 - (i % 6) / 60 for i in known],
    }


def a_live_status(**changes: Any) -> dict[str, Any]:
    """What comes each second."""
    status = {
        "version": "0.9.0",
        "time": NOW,
        "uptime_s": 3725.0,
        "ready": True,
        "reasons": [],
        "in_flight": 4,
        "finished": 1234,
        "switches": [],
        "window": a_window(),
        "history": a_history(),
        "running": [a_running()],
        "endpoints": [an_endpoint(), an_endpoint(name="global", region="sg", state="down")],
        "candidates": [a_candidate(), a_candidate(endpoint="global", breaker="open", limit=None)],
    }
    return status | changes


def a_running(**changes: Any) -> dict[str, Any]:
    running = {
        "request_id": "run-1",
        "requested_model": "glm-4.6",
        "route": "fast-chat",
        "endpoint": "cn",
        "stage": "waiting",
        "age_s": 1.25,
    }
    return running | changes


def an_endpoint(**changes: Any) -> dict[str, Any]:
    endpoint = {
        "name": "cn",
        "region": "cn-north",
        "state": "up",
        "connections": 2,
        "opening": 0,
        "idle": 1,
        "streams": 4,
        "waiting": 0,
        "ping_round_trip_s": 0.031,
    }
    return endpoint | changes


def a_candidate(**changes: Any) -> dict[str, Any]:
    candidate = {
        "route": "fast-chat",
        "model": "glm-4-flash",
        "endpoint": "cn",
        "breaker": "closed",
        "error_rate": 0.012,
        "predicted_first_content_s": 1.4,
        "in_flight": 3,
        "waiting": 0,
        "limit": 20,
        "resting_keys": 0,
    }
    return candidate | changes


def a_switch(**changes: Any) -> dict[str, Any]:
    switch = {
        "model": "glm-4.6",
        "to": "glm-4-flash",
        "until": NOW + 7200,
        "since": NOW,
        "by": "cli:root",
    }
    return switch | changes


def an_entry(**changes: Any) -> dict[str, Any]:
    """Of the audit."""
    entry = {
        "at": NOW,
        "actor": "cli:root",
        "action": "model.set",
        "subject": "glm-4.6 -> glm-4-flash for 2h",
    }
    return entry | changes


def a_status(**changes: Any) -> dict[str, Any]:
    """The whole status."""
    more = {
        "routes": [
            {
                "name": "fast-chat",
                "match": "model glm-4.6",
                "example_model": "glm-4.6",
                "candidates": [{"model": "glm-4-flash", "endpoint": "cn"}],
            }
        ],
        "models": ["glm-4.6", "glm-4-flash", "glm-4.7"],
        "settings": "endpoints:\n- name: cn\n  api_key: '***'\n",
        "playground": {"enabled": True, "reason": None},
    }
    return a_live_status() | more | changes
