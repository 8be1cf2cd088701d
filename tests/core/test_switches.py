"""Switched models: what a switch changes of a route, what it leaves, and when it ends."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Config, Secret, bundled
from proxy.core.policy import capability
from proxy.core.policy.rewrite import rewrite
from proxy.core.policy.route import Route, Router
from proxy.core.policy.switches import Switch, Switches, check_name, doubt, in_effect, switched
from proxy.core.wire.request import ChatRequest, parse
from proxy.core.wire.target import resolve

RECORDS = capability.load(yaml.safe_load(bundled("models.yaml").read_text()))
CHAT = resolve("POST", "/v1/chat/completions")
FILES = resolve("GET", "/v1/files")
NOW = 1000.0
ENDPOINTS: list[dict[str, Any]] = [
    {"name": "cn", "base_url": "https://open.bigmodel.cn"},
    {"name": "global", "base_url": "https://api.z.ai"},
]
FAST: dict[str, Any] = {
    "name": "fast",
    "match": {"model": ["glm-4.6"]},
    "candidates": [{"model": "glm-4-flash", "endpoint": "cn"}, {"model": "glm-4-air"}],
    "params": {"force": {"thinking": "disabled"}},
    "timeouts": {"total": 60.0},
}


def a_switch(model: str, to: str, until: float | None = None) -> Switch:
    return Switch(model, to, until, 0.0, "admin")


def router(*switches: Switch, routes: list[dict[str, Any]] | None = None) -> Router:
    config = Config.model_validate({"endpoints": ENDPOINTS, "routes": routes or [FAST]})
    return Router(config, Switches({one.model: one for one in switches}))


def chat(model: str = "glm-4.6", **fields: Any) -> ChatRequest:
    content = {"model": model, "messages": [{"role": "user", "content": "Hi"}]} | fields
    return parse(json.dumps(content).encode(), dialect="openai")


def plan(router: Router, model: str = "glm-4.6", now: float = NOW) -> Route:
    return router.plan(chat(model), CHAT, {}, now)


def tried(route: Route) -> list[tuple[str, str, int]]:
    return [(one.model, one.endpoint.name, one.tier) for one in route.candidates]


def test_every_candidate_is_asked_for_the_other_model_in_the_same_order() -> None:
    route = plan(router(a_switch("glm-4.6", "glm-4.7")))
    # glm-4-air at cn is the same thing to try as glm-4-flash at cn, now: it is left out.
    assert tried(route) == [("glm-4.7", "cn", 0), ("glm-4.7", "global", 1)]
    assert route.reason == "switch"


def test_its_own_rule_decides_everything_else() -> None:
    plain = plan(router())
    route = plan(router(a_switch("glm-4.6", "glm-4.7")))
    assert replace(route, candidates=plain.candidates, reason=plain.reason) == plain


def test_key_groups_are_not_the_same_candidate() -> None:
    cn = ENDPOINTS[0] | {"key_groups": {"a": [Secret("1")], "b": [Secret("2")]}}
    rule = {"name": "r", "candidates": [{"model": "x", "keys": "a"}, {"model": "y", "keys": "b"}]}
    config = Config.model_validate({"endpoints": [cn], "routes": [rule]})
    route = plan(Router(config, Switches({"m": a_switch("m", "z")})), "m")
    assert [(one.model, one.keys) for one in route.candidates] == [("z", "a"), ("z", "b")]


def test_a_model_that_no_rule_names_is_switched_too() -> None:
    route = plan(router(a_switch("own", "glm-4.7")), "own")
    assert (route.name, route.reason) == ("default", "switch")
    assert tried(route) == [("glm-4.7", "cn", 0), ("glm-4.7", "global", 1)]


def test_who_asks_for_another_model_is_not_concerned() -> None:
    switching = router(a_switch("own", "glm-4.7"))
    assert plan(switching, "glm-4.6") == plan(router(), "glm-4.6")
    assert plan(switching, "glm-4.7") == plan(router(), "glm-4.7")


def test_nothing_is_chained() -> None:
    both = router(a_switch("a", "b"), a_switch("b", "c"))
    assert plan(both, "a").candidates[0].model == "b"
    assert plan(both, "b").candidates[0].model == "c"
    circle = router(a_switch("a", "b"), a_switch("b", "a"))
    assert [plan(circle, one).candidates[0].model for one in "ab"] == ["b", "a"]


@pytest.mark.parametrize(
    ("now", "served"), [(NOW - 1, "b"), (NOW - 0.001, "b"), (NOW, "a"), (NOW + 1e6, "a")]
)
def test_a_switch_ends_at_its_time_and_not_before(now: float, served: str) -> None:
    switching = router(a_switch("a", "b", until=NOW))
    assert plan(switching, "a", now).candidates[0].model == served
    assert [one.model for one in switching.switches.active(now)] == (["a"] if served == "b" else [])


def test_what_is_passed_through_is_as_it_was() -> None:
    switching = router(a_switch("", "b"), a_switch("glm-4.6", "b"))
    assert switching.plan(None, FILES, {}, NOW) == router().plan(None, FILES, {}, NOW)


def test_switches_change_while_the_router_lives() -> None:
    switches = Switches()
    config = Config.model_validate({"endpoints": ENDPOINTS})
    living = Router(config, switches)
    models = []
    for now in ({"a": a_switch("a", "b")}, {"a": a_switch("a", "c")}, dict[str, Switch]()):
        switches.replace(now)
        models.append(plan(living, "a").candidates[0].model)
    assert models == ["b", "c", "a"]


def test_a_decision_is_made_once() -> None:
    switching = router(a_switch("glm-4.6", "glm-4.7"))
    assert plan(switching) is plan(switching)
    for number in range(1000):
        switching.switches.replace({"m": a_switch("m", f"to-{number}")})
        assert plan(switching, "m").candidates[0].model == f"to-{number}"
    assert len(switching._default._by_model) <= 256


def test_what_is_set_in_the_request_follows_the_model_that_serves() -> None:
    """glm-4-flash does not think: a field that says so would be refused."""
    request = chat("glm-4.6", thinking={"type": "enabled"}, max_tokens=100_000)
    route = plan(router(a_switch("glm-4.6", "glm-4-flash-250414")))
    model = route.candidates[0].model
    sent = rewrite(request, model, route.params, RECORDS.of(model))
    assert "thinking" not in json.loads(sent.body)
    assert {"model", "-thinking"} <= {*sent.changes}
    kept = rewrite(request, "glm-4.7", route.params, RECORDS.of("glm-4.7"))
    assert json.loads(kept.body)["thinking"] == {"type": "disabled"}


@given(
    models=st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4),
    to=st.sampled_from(["a", "b", "z"]),
)
def test_switched_candidates_are_each_once_in_the_order_of_the_settings(
    models: list[str], to: str
) -> None:
    rule = {"name": "r", "candidates": [{"model": model} for model in models]}
    plain = plan(router(routes=[rule]), "m")
    route = plan(router(a_switch("m", to), routes=[rule]), "m")
    assert {one.model for one in route.candidates} == {to}
    places = [one.endpoint.name for one in route.candidates]
    assert places == list(dict.fromkeys(one.endpoint.name for one in plain.candidates))
    tiers = [one.tier for one in route.candidates]
    assert tiers == sorted(tiers)


# --- making them -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["m", "glm-4.6", "org/model:v1", "!~", "x" * 128, "..", "%2f"])
def test_names_are_printable_ascii_without_blanks(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", " ", "a b", "a\n", "\na", "a\x00", "a\x7f", "模型", "é", "x" * 129, "\u202e"]
)
def test_anything_else_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 128 printable ASCII"):
        check_name(name)
    for pair in ((name, "a"), ("a", name)):
        with pytest.raises(ValueError, match="1 to 128 printable ASCII"):
            switched(*pair, None, by="admin", now=NOW)


def test_a_switch_lasts_from_now() -> None:
    assert switched("a", "b", 7200.0, by="cli:me", now=NOW) == Switch(
        "a", "b", NOW + 7200, NOW, "cli:me"
    )
    assert switched("a", "b", None, by="admin", now=NOW).until is None


def test_a_model_is_not_switched_to_itself() -> None:
    with pytest.raises(ValueError, match="reset"):
        switched("a", "a", None, by="admin", now=NOW)


def test_only_a_model_without_a_record_is_doubted() -> None:
    assert doubt("glm-4.6", RECORDS) is None
    assert "'nothing-like-it'" in (doubt("nothing-like-it", RECORDS) or "")


def test_those_in_effect_are_in_the_order_of_their_names() -> None:
    several = [a_switch("c", "x"), a_switch("a", "x", NOW), a_switch("b", "x", NOW + 1)]
    assert [one.model for one in in_effect(several, NOW)] == ["b", "c"]
