"""Label values: what is let through, and what becomes `other` or `none`."""

from __future__ import annotations

import pytest

from proxy.errors import GluedStream, NoCandidate, ProxyError, StreamCut, TooBusy
from proxy.observe.labels import (
    FORMER,
    GLM_CODES,
    Bounded,
    LabelNames,
    Succession,
    known,
    outcomes,
    status_class,
)
from tests.fakes.records import a_record

NAMES = LabelNames.of(routes=["fast-chat"], models=["glm-4.6", "glm-4-flash"], endpoints=["cn"])


@pytest.mark.parametrize(
    ("value", "label"),
    [("cn", "cn"), ("evil", "other"), (None, "none"), ("", "none"), ("CN", "other")],
)
def test_only_known_names_are_label_values(value: str | None, label: str) -> None:
    assert known(value, NAMES.endpoints) == label


@pytest.mark.parametrize(
    ("status", "label"),
    [(200, "2xx"), (304, "3xx"), (499, "4xx"), (502, "5xx"), (None, "none"), (999, "other")],
)
def test_a_status_is_counted_by_its_class(status: int | None, label: str) -> None:
    assert status_class(status) == label


def test_the_labels_of_an_exchange_come_from_the_configuration() -> None:
    assert NAMES.labels(a_record()) == (
        "chat",
        "fast-chat",
        "glm-4.6",
        "glm-4-flash",
        "cn",
        "true",
    )
    strange = a_record(kind="?", route="x", requested_model="y", served_model=None, stream=False)
    assert NAMES.labels(strange) == ("other", "other", "other", "none", "cn", "false")


@pytest.mark.parametrize("route", ["default", "none"])
def test_a_route_that_needs_no_rule_is_known(route: str) -> None:
    assert NAMES.labels(a_record(route=route)).route == route


def test_a_kind_that_is_not_known_is_another() -> None:
    assert NAMES.labels(a_record(kind="unknown")).kind == "other"


def test_every_error_is_an_outcome() -> None:
    assert outcomes() >= {ProxyError.code, StreamCut.code, "completed", "client_gone", "cancelled"}
    assert outcomes() >= {TooBusy.code, NoCandidate.code, GluedStream.code}
    assert "other" not in outcomes()


def test_both_rate_limits_of_the_upstream_are_known_codes() -> None:
    assert {"1302", "1305", "1113", "1000", "1321", "500"} <= GLM_CODES
    assert not {"1306", "1307", "1322", "200"} & GLM_CODES


def test_a_region_is_known_of_endpoints_that_have_one() -> None:
    regions = {"cn": "beijing", "global": None, "edge": ""}
    names = LabelNames.of(routes=[], models=[], endpoints=["cn", "global"], regions=regions)
    assert names.regions == {"cn": "beijing"}
    assert NAMES.regions == {}


def test_words_of_another_room_are_bounded_in_number() -> None:
    word = Bounded(2)
    assert [word("idle"), word("aged"), word("goaway"), word("idle"), word("")] == [
        "idle",
        "aged",
        "other",
        "idle",
        "none",
    ]


def _named(*routes: str, endpoint: str = "cn") -> LabelNames:
    return LabelNames.of(routes=routes, models=["glm-4.6"], endpoints=[endpoint])


def test_names_that_the_settings_have_no_more_stay_known_for_a_while() -> None:
    succession = Succession(_named("first"))
    for number in range(FORMER):
        assert not any(succession.follow(_named(f"route-{number}")).values())
    assert "first" in succession.known.routes
    gone = succession.follow(_named("last"))
    assert gone["route"] == {"first"}
    assert not gone["endpoint"]
    assert "first" not in succession.known.routes
    assert "route-0" in succession.known.routes


def test_a_name_that_comes_back_is_as_good_as_new() -> None:
    succession = Succession(_named("first"))
    succession.follow(_named("other"))
    succession.follow(_named("first"))
    for number in range(FORMER - 1):
        assert not succession.follow(_named("first", f"route-{number}"))["route"]
    assert {"first", "other"} <= succession.known.routes


def test_regions_are_those_of_the_settings_in_use() -> None:
    succession = Succession(_named("first"))
    regions: dict[str, str | None] = {"moon": "far"}
    succession.follow(LabelNames.of(routes=[], models=[], endpoints=["moon"], regions=regions))
    assert succession.known.endpoints == {"cn", "moon"}
    assert succession.known.regions == {"moon": "far"}
