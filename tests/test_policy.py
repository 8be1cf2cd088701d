"""What a route's policy makes of a request, per model: by table, and as it reaches the upstream.

The records are the shipped ones. Below, the deadlines a caller may set.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Params, Timeouts, bundled
from proxy.config.units import DURATION, Quantity
from proxy.core.policy import capability
from proxy.core.policy.deadlines import overridden
from proxy.core.policy.rewrite import rewrite
from proxy.core.wire.headers import DEADLINE
from proxy.core.wire.request import parse
from proxy.errors import ClientError
from tests.fakes.raw_client import ask
from tests.fakes.running import in_front_of, running
from tests.fakes.upstream import Call, ScriptedUpstream

RECORDS = capability.load(yaml.safe_load(Path(bundled("models.yaml")).read_bytes()))
PATHS = {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}
ENDS = {
    "openai": b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n',
    "anthropic": b'event: message_stop\ndata: {"type": "message_stop"}\n\n',
}

OFF: Final = {"type": "disabled"}
ON: Final = {"type": "enabled"}
BUDGET: Final = ON | {"budget_tokens": 2000}
TOOLS: Final[list[Any]] = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
Fields = dict[str, Any]


class Case(NamedTuple):
    """A policy, a request for a model, and what the upstream is to get of the fields."""

    policy: str
    model: str
    sent: Fields
    expected: Fields
    """Of the fields other than model, messages and stream."""
    changes: str
    dialect: str = "openai"
    served: str | None = None
    """The model that is asked in its place."""


POLICIES: Final[dict[str, Fields]] = {
    "none": {},
    "off": {"force": {"thinking": "disabled"}},
    "off-when-silent": {"fill": {"thinking": "disabled"}},
    "least-effort": {"fill": {"reasoning_effort": "low"}},
    "tools-in-pieces": {"fill": {"tool_stream": True}},
    "short": {"cap": {"max_tokens": 1000}},
    "no-idle-tools": {"drop_unused_tools": True},
    "another": {"force": {"thinking": "disabled"}, "cap": {"max_tokens": 100_000}},
}
ANOTHER: Final = "glm-4-flash"
"""The model that the policy `another` asks."""
TOGGLES: Final = ("glm-4.6", "glm-4.5-air", "glm-5.2")
UNKNOWN: Final = "some/model-9"


def cases() -> list[Case]:
    found = []
    for model in (*TOGGLES, UNKNOWN):
        found += [
            Case("off", model, {}, {"thinking": OFF}, "thinking=disabled"),
            Case("off", model, {"thinking": None}, {"thinking": OFF}, "thinking=disabled"),
            Case("off", model, {"thinking": ON}, {"thinking": OFF}, "thinking=disabled"),
            Case("off", model, {"thinking": OFF}, {"thinking": OFF}, ""),
            Case("off-when-silent", model, {}, {"thinking": OFF}, "thinking=disabled"),
            Case("off-when-silent", model, {"thinking": ON}, {"thinking": ON}, ""),
            Case("off-when-silent", model, {"reasoning_effort": "high"},
                 {"reasoning_effort": "high"}, ""),
            Case("off", model, {"max_tokens": 9}, {"max_tokens": 9, "thinking": OFF},
                 "thinking=disabled", "anthropic"),
            Case("off", model, {"thinking": BUDGET}, {"thinking": OFF},
                 "thinking=disabled", "anthropic"),
            Case("off-when-silent", model, {"thinking": BUDGET}, {"thinking": BUDGET},
                 "", "anthropic"),
        ]  # fmt: skip
    for model in ("glm-5.3", "glm-5.3-flash"):
        low = {"reasoning_effort": "low"}
        found += [
            # It refuses to be switched off (1210); the least effort is what comes near.
            Case("off", model, {}, low, "reasoning_effort=low"),
            Case("off", model, {"thinking": OFF}, low, "-thinking, reasoning_effort=low"),
            Case("off", model, {"thinking": ON}, low, "-thinking, reasoning_effort=low"),
            Case("off", model, {"reasoning_effort": "max"}, low, "reasoning_effort=low"),
            Case("off-when-silent", model, {}, low, "reasoning_effort=low"),
            Case("off-when-silent", model, {"thinking": ON}, {"thinking": ON}, ""),
            Case("off-when-silent", model, {"reasoning_effort": "max"},
                 {"reasoning_effort": "max"}, ""),
            Case("off", model, {}, {}, "", "anthropic"),
            Case("off", model, {"thinking": BUDGET}, {}, "-thinking", "anthropic"),
        ]  # fmt: skip
    found += [
        # It does not think: there is nothing to say.
        Case("off", "glm-4-flash", {}, {}, ""),
        Case("off", "glm-4-flash", {"thinking": ON}, {}, "-thinking"),
        Case("off-when-silent", "glm-4-flash", {}, {}, ""),
        Case("off-when-silent", "glm-4-flash", {"thinking": ON}, {"thinking": ON}, ""),
        Case("off", "glm-4-flash", {"thinking": BUDGET}, {}, "-thinking", "anthropic"),
        Case("off", "glm-4.1v-thinking-flash", {}, {}, ""),
        Case("off", "glm-5.2", {"reasoning_effort": "max"},
             {"reasoning_effort": "none", "thinking": OFF},
             "thinking=disabled, reasoning_effort=none"),
        Case("least-effort", "glm-5.2", {}, {"reasoning_effort": "low"}, "reasoning_effort=low"),
        Case("least-effort", "glm-5.3", {}, {"reasoning_effort": "low"}, "reasoning_effort=low"),
        Case("least-effort", "glm-5.3", {"reasoning_effort": "max"},
             {"reasoning_effort": "max"}, ""),
        Case("least-effort", "glm-4.6", {}, {}, ""),
        Case("least-effort", "glm-4-flash", {}, {}, ""),
        Case("least-effort", UNKNOWN, {}, {"reasoning_effort": "low"}, "reasoning_effort=low"),
        Case("tools-in-pieces", "glm-4.6", {"tools": TOOLS},
             {"tools": TOOLS, "tool_stream": True}, "tool_stream=true"),
        Case("tools-in-pieces", "glm-5.3", {"tools": TOOLS, "tool_stream": False},
             {"tools": TOOLS, "tool_stream": False}, ""),
        Case("tools-in-pieces", "glm-4.6", {}, {}, ""),
        Case("tools-in-pieces", "glm-4.5-air", {"tools": TOOLS}, {"tools": TOOLS}, ""),
        Case("tools-in-pieces", "glm-4-flash", {"tools": TOOLS}, {"tools": TOOLS}, ""),
        Case("tools-in-pieces", "glm-4.6", {"tools": TOOLS}, {"tools": TOOLS}, "", "anthropic"),
        Case("no-idle-tools", "glm-4.6", {"tools": TOOLS, "tool_choice": "none"}, {},
             "-tools, -tool_choice"),
        Case("no-idle-tools", "glm-4.6", {"tools": TOOLS, "tool_choice": {"type": "none"}}, {},
             "-tools, -tool_choice", "anthropic"),
        Case("no-idle-tools", "glm-4.6", {"tools": TOOLS, "tool_choice": "auto"},
             {"tools": TOOLS, "tool_choice": "auto"}, ""),
        # One policy with a model in the place of the one asked for: all is fitted to that model.
        Case("another", "glm-4.6",
             {"thinking": ON, "temperature": 1.5, "tool_stream": True, "tools": TOOLS},
             {"temperature": 1.0, "tools": TOOLS, "max_tokens": 16384},
             "model, -thinking, max_tokens=16384, temperature=1.0, -tool_stream",
             served=ANOTHER),
        Case("another", UNKNOWN, {"thinking": ON, "max_tokens": 5}, {"max_tokens": 5},
             "model, -thinking", served=ANOTHER),
    ]  # fmt: skip
    for dialect in PATHS:
        found += [
            Case("short", "glm-4.6", {}, {"max_tokens": 1000}, "max_tokens=1000", dialect),
            Case("short", "glm-4.6", {"max_tokens": 5000}, {"max_tokens": 1000},
                 "max_tokens=1000", dialect),
            Case("short", "glm-4.6", {"max_tokens": 5}, {"max_tokens": 5}, "", dialect),
        ]  # fmt: skip
    for model in (*TOGGLES, "glm-4-flash", "glm-5.3", UNKNOWN):
        odd = {"thinking": OFF, "temperature": 7, "reasoning_effort": "x", "tool_choice": "none"}
        found += [Case("none", model, odd, odd, ""), Case("none", model, {}, {}, "")]
    return found


CASES: Final = cases()


def body_of(case: Case) -> bytes:
    prompt = {"model": case.model, "messages": [{"role": "user", "content": "Hi"}]}
    return orjson.dumps(prompt | {"stream": True} | case.sent)


def judge(case: Case, sent: bytes) -> None:
    """Is what goes up what the case says, and the client's own bytes where nothing changed?"""
    fields = json.loads(sent)
    assert fields.pop("model") == (case.served or case.model)
    assert fields.pop("messages") == [{"role": "user", "content": "Hi"}]
    assert fields.pop("stream") is True
    assert fields == case.expected
    if not case.changes:
        assert sent == body_of(case)


def name_of(case: Case) -> str:
    sent = ", ".join(f"{name}={value}" for name, value in case.sent.items())
    return f"{case.policy}: {case.model} ({case.dialect}) {sent}"[:100]


@pytest.mark.parametrize("case", CASES, ids=map(name_of, CASES))
def test_the_body_that_goes_up_is_what_the_model_takes(case: Case) -> None:
    request = parse(body_of(case), dialect=case.dialect)
    model = case.served or case.model
    params = Params.model_validate(POLICIES[case.policy])
    rewritten = rewrite(request, model, params, RECORDS.of(model))
    judge(case, rewritten.body)
    assert ", ".join(rewritten.changes) == case.changes


def routes() -> list[Fields]:
    return [
        {
            "name": name,
            "match": {"header": {"x-policy": name}},
            "candidates": [{"model": ANOTHER} if name == "another" else {}],
            "params": params,
        }
        for name, params in POLICIES.items()
    ]


async def answer_at_once(call: Call) -> None:
    call.head()
    call.send(ENDS["anthropic" if call.path.endswith("/messages") else "openai"])
    call.finish()


async def test_every_case_reaches_the_upstream_so_and_says_what_was_changed(tmp_path: Path) -> None:
    async with (
        ScriptedUpstream(answer_at_once) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path, routes=routes())) as app,
    ):
        for number, case in enumerate(CASES):
            policy = f"x-policy: {case.policy}"
            answer = await ask(app.data_address, PATHS[case.dialect], body_of(case), policy)
            assert answer.status == 200, case
            judge(case, upstream.calls[number].body)
            assert answer.headers.get("x-glm-proxy-changes", "") == case.changes, case
            assert answer.headers["x-glm-proxy-route"] == case.policy
            assert answer.headers["x-glm-proxy-model"] == (case.served or case.model)
        assert len(upstream.calls) == len(CASES)


# --- the deadlines of a caller ------------------------------------------------------------------

ROUTE = Timeouts(connect=1, first_token=10, idle=60, total=120)


def with_headers(**values: str) -> Timeouts:
    headers = {"accept": "x", "x-glm-proxy-other": "5"}
    headers |= {DEADLINE + name.replace("_", "-"): value for name, value in values.items()}
    return overridden(ROUTE, headers)


def test_without_such_headers_the_routes_deadlines_hold() -> None:
    assert with_headers() is ROUTE


@pytest.mark.parametrize(
    ("headers", "changed"),
    [
        ({"first_token": "5s"}, {"first_token": 5}),
        ({"first_token": "5"}, {"first_token": 5}),
        ({"first_token": "0.25"}, {"first_token": 0.25}),
        ({"first_token": "20s"}, {"first_token": 20}),
        ({"first_token": "10m"}, {"first_token": 120}),
        ({"headers": "250ms", "connect": " 2 s "}, {"headers": 0.25, "connect": 2}),
        ({"idle": "2m"}, {"idle": 120}),
        ({"idle": "1ms"}, {"idle": 0.01}),
        ({"total": "30s"}, {"total": 30}),
        ({"total": "1h"}, {}),
        ({"total": "1ms"}, {"total": 0.01}),
        ({"total": "30s", "first_token": "40s"}, {"total": 30, "first_token": 30}),
        ({"total": "1h", "idle": "1h"}, {"idle": 120}),
    ],
)
def test_a_caller_may_set_deadlines_within_the_routes_total(
    headers: dict[str, str], changed: dict[str, float]
) -> None:
    assert with_headers(**headers) == ROUTE.model_copy(update=changed)


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"idle": "soon"}, f"header {DEADLINE}idle: found 'soon', must be a duration, such as 10s"),
        ({"idle": ""}, f"header {DEADLINE}idle: found '', must be a duration"),
        ({"idle": "0"}, "must be more than 0"),
        ({"idle": "-1s"}, "must be a duration"),
        ({"idle": "1e3"}, "must be a duration"),
        ({"idle": "nan"}, "must be a duration"),
        ({"idle": "99999h"}, "must be at most 24h"),
        ({"idle": "9" * 5000}, "must be a duration"),
        (
            {"first_tokens": "5s"},
            f"there is no header {DEADLINE}first-tokens; after {DEADLINE} comes",
        ),
        ({"": "5s"}, "one of connect, headers, first-token, idle, total"),
    ],
)
def test_a_wrong_deadline_is_refused_by_its_header(headers: dict[str, str], says: str) -> None:
    with pytest.raises(ClientError) as refused:
        with_headers(**headers)
    assert says in refused.value.message
    assert refused.value.status == 400
    assert len(refused.value.message) < 250


NAMES = st.sampled_from(sorted(Timeouts.model_fields))
SECONDS = st.floats(0.001, 24 * 3600).map(lambda number: round(number, 3))


@given(st.dictionaries(NAMES, SECONDS.map(Quantity(DURATION).text).map(str)))
def test_no_deadline_outlasts_the_total_and_none_is_no_time_at_all(values: dict[str, str]) -> None:
    result = with_headers(**values)
    assert result.total <= ROUTE.total
    for name in values:
        assert 0.01 <= getattr(result, name) <= result.total
    for name in Timeouts.model_fields.keys() - values.keys():
        assert getattr(result, name) == getattr(ROUTE, name)


@given(st.text())
def test_whatever_a_deadline_says_it_is_read_or_refused(value: str) -> None:
    with contextlib.suppress(ClientError):
        assert 0.01 <= with_headers(idle=value).idle <= ROUTE.total


async def silent(call: Call) -> None:
    await call.gone.wait()


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("first-token: 100ms", "first_token_timeout"),
        ("total: 0.1", "total_timeout"),
    ],
)
async def test_a_callers_deadline_ends_its_own_request(
    tmp_path: Path, header: str, code: str
) -> None:
    async with (
        ScriptedUpstream(silent) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path, attempts={"retries": 0})) as app,
    ):
        body = body_of(CASES[0])
        answer = await ask(app.data_address, PATHS["openai"], body, DEADLINE + header)
        assert (answer.status, answer.json()["error"]["code"]) == (504, code)
        (call,) = upstream.calls
        assert not [name for name in call.headers if name.startswith("x-glm-proxy")]


@pytest.mark.parametrize("dialect", PATHS)
async def test_a_wrong_deadline_is_told_in_the_callers_dialect_and_nothing_is_sent(
    tmp_path: Path, dialect: str
) -> None:
    async with (
        ScriptedUpstream(answer_at_once) as upstream,
        running(tmp_path, in_front_of(upstream, tmp_path)) as app,
    ):
        wrong = f"{DEADLINE}idle: soon"
        answer = await ask(app.data_address, PATHS[dialect], body_of(CASES[0]), wrong)
        assert answer.status == 400
        assert f"{DEADLINE}idle" in answer.json()["error"]["message"]
        assert upstream.calls == []
