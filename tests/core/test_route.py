"""Decisions by table: settings and a request in, candidates out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.config import Admission, Attempts, Config, Hedge, Secret, bundled
from proxy.core.policy.capability import load
from proxy.core.policy.route import Route, Router, models_body, served_models
from proxy.core.wire.request import ChatRequest, parse
from proxy.core.wire.target import Target, resolve

ENDPOINTS = [
    {"name": "cn", "base_url": "https://open.bigmodel.cn"},
    {"name": "global", "base_url": "https://api.z.ai"},
]
CHAT = resolve("POST", "/v1/chat/completions")
FILES = resolve("GET", "/v1/files")


def config(*routes: dict[str, Any], **settings: Any) -> Config:
    return Config.model_validate({"endpoints": ENDPOINTS, "routes": routes} | settings)


def chat(model: str = "glm-4.6", **fields: Any) -> ChatRequest:
    content = {"model": model, "messages": [{"role": "user", "content": "Hi"}]} | fields
    return parse(json.dumps(content).encode(), dialect="openai")


def plan(
    routes: list[dict[str, Any]],
    request: ChatRequest | None,
    target: Target = CHAT,
    headers: Mapping[str, str] | None = None,
) -> Route:
    return Router(config(*routes)).plan(request, target, headers or {}, 0.0)


def tried(route: Route) -> list[tuple[str, str]]:
    return [(candidate.model, candidate.endpoint.name) for candidate in route.candidates]


def test_without_routes_a_request_goes_as_asked_to_the_endpoints_in_order() -> None:
    settings = config()
    route = Router(settings).plan(chat("any/model"), CHAT, {}, 0.0)
    assert (route.name, route.reason) == ("default", "default")
    assert tried(route) == [("any/model", "cn"), ("any/model", "global")]
    assert (route.params.fill, route.params.force) == ({}, {})
    assert route.timeouts == settings.timeouts
    assert route.stream == settings.stream


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        (None, [("glm-4.6", "cn"), ("glm-4.6", "global")]),
        ([{"model": "a"}], [("a", "cn"), ("a", "global")]),
        ([{"endpoint": "global"}], [("glm-4.6", "global")]),
        ([{"model": "a", "endpoint": "global"}, {"model": "b", "endpoint": "cn"}],
         [("a", "global"), ("b", "cn")]),
        ([{"model": "a", "endpoint": "cn"}, {}],
         [("a", "cn"), ("glm-4.6", "cn"), ("glm-4.6", "global")]),
        # Nothing is there twice: what failed would be asked again as if it were another.
        ([{"endpoint": "cn"}, {"endpoint": "cn"}], [("glm-4.6", "cn")]),
        ([{"model": "glm-4.6", "endpoint": "global"}, {}],
         [("glm-4.6", "global"), ("glm-4.6", "cn")]),
    ],
)  # fmt: skip
def test_candidates_keep_the_order_of_the_settings(
    candidates: list[dict[str, str]] | None, expected: list[tuple[str, str]]
) -> None:
    rule = {"name": "r"} if candidates is None else {"name": "r", "candidates": candidates}
    route = plan([rule], chat())
    assert (route.name, route.reason) == ("r", "rule")
    assert tried(route) == expected


@pytest.mark.parametrize(
    ("candidates", "tiers"),
    [
        (None, [("cn", 0), ("global", 1)]),
        ([{}], [("cn", 0), ("global", 0)]),
        ([{"model": "a"}, {"model": "b"}], [("cn", 0), ("global", 0), ("cn", 1), ("global", 1)]),
        ([{"endpoint": "global"}, {}], [("global", 0), ("cn", 1)]),
    ],
)
def test_candidates_of_one_line_are_equally_good(
    candidates: list[dict[str, str]] | None, tiers: list[tuple[str, int]]
) -> None:
    rule = {"name": "r"} if candidates is None else {"name": "r", "candidates": candidates}
    route = plan([rule], chat())
    assert [(one.endpoint.name, one.tier) for one in route.candidates] == tiers


def test_without_routes_the_first_endpoint_is_preferred() -> None:
    route = Router(config()).plan(chat(), CHAT, {}, 0.0)
    assert [one.tier for one in route.candidates] == [0, 1]


def test_a_candidate_names_its_key_group() -> None:
    cn = ENDPOINTS[0] | {"key_groups": {"a": [Secret("1")], "b": [Secret("2")]}}
    groups = [{"keys": "b"}, {"keys": "a"}, {}]
    rule = {"name": "r", "candidates": [{"endpoint": "cn"} | group for group in groups]}
    settings = config(rule, endpoints=[cn])
    route = Router(settings).plan(chat(), CHAT, {}, 0.0)
    assert [(one.keys, one.tier) for one in route.candidates] == [("b", 0), ("a", 1), (None, 2)]


def test_many_names_of_models_are_not_kept_for_ever() -> None:
    router = Router(config())
    for number in range(1000):
        assert tried(router.plan(chat(f"m{number}"), CHAT, {}, 0.0))[0] == (f"m{number}", "cn")
    assert len(router._default._by_model) <= 256
    assert tried(router.plan(chat("m1"), CHAT, {}, 0.0)) == [("m1", "cn"), ("m1", "global")]


SIZE = chat(stream=True).size
CODING = resolve("POST", "/api/coding/paas/v4/chat/completions?x=1")


@pytest.mark.parametrize(
    ("match", "hit", "why"),
    [
        ({}, True, "no condition"),
        ({"model": ["glm-4.6"]}, True, "the name"),
        ({"model": ["glm-4.5*", "glm-4.?"]}, True, "one of the patterns"),
        ({"model": ["glm-4.[5-7]"]}, True, "a set"),
        ({"model": ["GLM-4.6"]}, False, "case counts"),
        ({"model": ["glm-4"]}, False, "not the whole name"),
        ({"model": ["lm-4.6"]}, False, "not from the start"),
        ({"model": ["glm-4x6"]}, False, "a dot is a dot"),
        ({"path": ["/v1/*"]}, True, "the path"),
        ({"path": ["/api/*", "/v1/chat/completions"]}, True, "one of the paths"),
        ({"path": ["/v1/messages"]}, False, "another path"),
        ({"header": {"X-Team": "search"}}, True, "the header"),
        ({"header": {"x-team": "s*", "x-env": "?"}}, True, "both headers"),
        ({"header": {"x-team": "s*", "x-env": "prod"}}, False, "one header differs"),
        ({"header": {"x-other": "*"}}, False, "the header is not there"),
        ({"stream": True}, True, "a stream"),
        ({"stream": False}, False, "not a stream"),
        ({"min_prompt": SIZE}, True, "just large enough"),
        ({"min_prompt": SIZE + 1}, False, "too small"),
        ({"max_prompt": SIZE}, True, "just small enough"),
        ({"max_prompt": SIZE - 1}, False, "too large"),
        ({"model": ["glm-*"], "path": ["/v1/*"], "stream": True}, True, "all conditions"),
        ({"model": ["glm-*"], "path": ["/x"], "stream": True}, False, "all but one"),
    ],
)
def test_a_rule_matches_when_all_its_conditions_hold(
    match: dict[str, Any], hit: bool, why: str
) -> None:
    request = chat(stream=True)
    headers = {"x-team": "search", "x-env": "1"}
    route = plan([{"name": "r", "match": match}], request, CHAT, headers)
    assert (route.name == "r") is hit, why


def test_the_path_is_matched_without_its_query() -> None:
    rule = {"name": "coding", "match": {"path": ["/api/coding/*/completions"]}}
    assert plan([rule], chat(), CODING).name == "coding"


def test_the_first_matching_rule_wins() -> None:
    rules = [
        {"name": "never", "match": {"model": ["x"]}},
        {"name": "first", "match": {"model": ["glm-*"]}},
        {"name": "second", "match": {"model": ["glm-4.6"]}},
    ]
    assert plan(rules, chat()).name == "first"
    assert plan(rules, chat("gpt-4o")).name == "default"


@pytest.mark.parametrize(
    "match", [{"model": ["*"]}, {"stream": False}, {"min_prompt": 0}, {"max_prompt": 99999}]
)
def test_a_rule_about_chat_leaves_other_requests_alone(match: dict[str, Any]) -> None:
    assert plan([{"name": "r", "match": match}], None, FILES).name == "default"


def test_other_requests_follow_rules_by_path_and_header_and_name_no_model() -> None:
    rule = {"name": "files", "match": {"path": ["/v1/files*"], "header": {"x-team": "a"}},
            "candidates": [{"model": "glm-4-flash", "endpoint": "global"}]}  # fmt: skip
    route = plan([rule], None, FILES, {"x-team": "a"})
    assert route.name == "files"
    assert tried(route) == [("", "global")]
    assert tried(plan([rule], None, FILES)) == [("", "cn"), ("", "global")]
    two = {"name": "r", "candidates": [{"model": "a", "endpoint": "cn"}, {"endpoint": "cn"}]}
    assert tried(plan([two], None, FILES)) == [("", "cn")]


def test_a_route_brings_its_own_settings() -> None:
    params = {"fill": {"temperature": 0.5}, "force": {"thinking": "disabled"}}
    rule = {"name": "r", "timeouts": {"first_token": "5s"}, "stream": {"heartbeat": 0}}
    rule["params"] = params
    settings = config(rule, timeouts={"idle": "7s"})
    route = Router(settings).plan(chat(), CHAT, {}, 0.0)
    assert (route.timeouts.first_token, route.timeouts.idle) == (5, 7)
    assert route.stream.heartbeat == 0
    assert route.params.fill == {"temperature": 0.5}
    assert route.params.force == {"thinking": "disabled"}


def test_a_route_brings_its_own_patience_and_takes_the_rest_from_the_top_level() -> None:
    rule = {"name": "r", "attempts": {"retries": 1}, "admission": {"limit": 3}, "commit": "early",
            "hedge": {"after": "p50"}, "share": True, "first_content_target": 5,
            "confidence": "p75"}  # fmt: skip
    settings = config(rule, {"name": "plain"}, attempts={"retry_budget": "1%"}, hedge={"min": 2})
    own, plain = (planned(settings, index) for index in (0, 1))
    assert own.attempts == Attempts(retries=1, retry_budget=0.01)
    assert own.admission == Admission(limit=3)
    assert own.hedge == Hedge(after=0.5, min=2)
    assert (own.commit, own.share) == ("early", True)
    assert (own.first_content_target, own.confidence) == (5, 0.75)
    assert (plain.attempts, plain.admission) == (settings.attempts, settings.admission)
    assert (plain.hedge, plain.commit, plain.share) == (Hedge(min=2), "late", False)
    assert (plain.first_content_target, plain.confidence) == (None, 0.9)


def planned(settings: Config, index: int) -> Route:
    only = settings.model_copy(update={"routes": (settings.routes[index],)})
    return Router(only).plan(chat(), CHAT, {}, 0.0)


def test_hedging_that_is_off_is_none() -> None:
    assert plan([{"name": "r"}], chat()).hedge is None
    settings = config({"name": "r", "hedge": "off"}, hedge={})
    assert Router(settings).plan(chat(), CHAT, {}, 0.0).hedge is None


# --- GET /v1/models ----------------------------------------------------------------------------

RECORD = {"family": "x", "rank": 1, "thinking": "none"}
RECORDS = load(
    {"models": {"glm-b": RECORD, "glm-a": RECORD, "glm-z*": RECORD,
                "glm-old": RECORD | {"listed": False}}}
)  # fmt: skip


def test_aliases_come_before_the_known_models_and_each_name_once() -> None:
    routes = config(
        {"name": "one", "match": {"model": ["fast", "glm-a", "glm-4.*", "x[1]", "y?"]}},
        {"name": "two", "match": {"model": ["fast", "smart"]}},
        {"name": "three"},
    ).routes
    assert served_models(routes, RECORDS) == ("fast", "glm-a", "smart", "glm-b")


def test_every_listed_model_of_the_shipped_data_is_served() -> None:
    shipped = load(yaml.safe_load(Path(bundled("models.yaml")).read_bytes()))
    assert "glm-4.6" in served_models((), shipped)


def test_models_are_listed_in_openais_shape() -> None:
    assert json.loads(models_body(["a", "智"], created=1700000000)) == {
        "object": "list",
        "data": [
            {"id": "a", "object": "model", "created": 1700000000, "owned_by": "z-ai"},
            {"id": "智", "object": "model", "created": 1700000000, "owned_by": "z-ai"},
        ],
    }


def test_models_are_listed_in_anthropics_shape() -> None:
    body = json.loads(models_body(["a", "b"], created=1700000000, anthropic=True))
    assert body.pop("data")[0] == {
        "type": "model",
        "id": "a",
        "display_name": "a",
        "created_at": "2023-11-14T22:13:20Z",
    }
    assert body == {"has_more": False, "first_id": "a", "last_id": "b"}
    assert json.loads(models_body([], created=0, anthropic=True)) == {
        "data": [],
        "has_more": False,
        "first_id": None,
        "last_id": None,
    }
