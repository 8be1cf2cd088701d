"""What the process knows of its candidates: whose it is, and what looking at it tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.config import load
from proxy.core.policy.health import Shape
from proxy.core.policy.outcome import Outcome
from proxy.core.policy.route import Route, Router
from proxy.knowledge import Knowledge, Seen

SHAPE = Shape(0, False)
RULES: list[dict[str, Any]] = [
    {"name": "own", "match": {"model": ["a"]}, "attempts": {"breaker": {"failures": 2}}},
    {"name": "none", "match": {"model": ["b"]}, "attempts": {"breaker": "off"}},
]


class Known:
    """What is known with these rules, at one endpoint."""

    def __init__(self, folder: Path, wait: float = 0.0) -> None:
        path = folder / "settings.yaml"
        endpoint = {"name": "up", "base_url": "http://127.0.0.1:9"}
        path.write_text(yaml.safe_dump({"endpoints": [endpoint], "routes": RULES}))
        config = load(path, {})
        self.router = Router(config)
        self.knowledge = Knowledge(
            config, wait=lambda place, now: wait, round_trip=lambda endpoint: None
        )

    def route(self, name: str) -> Route:
        return self.router.named(name, "m")

    def fail(self, name: str, times: int) -> None:
        route = self.route(name)
        breaker = self.knowledge.vitals(route, route.candidates[0]).breaker
        assert breaker is not None
        for _ in range(times):
            breaker.record(Outcome.FAILURE, 10.0, 0.5, probe=False)

    def look(self, name: str) -> Seen:
        route = self.route(name)
        return self.knowledge.look(route, route.candidates[0], SHAPE, 10.0)


@pytest.fixture
def known(tmp_path: Path) -> Known:
    return Known(tmp_path)


def test_a_route_with_a_breaker_of_its_own_has_it_from_the_first_failure(known: Known) -> None:
    for name in ("own", "default"):
        known.fail(name, 2)
    assert known.look("own").breaker == "open"
    assert known.look("default").breaker == "closed"


def test_a_route_without_breaker_has_none(known: Known) -> None:
    route = known.route("none")
    assert known.look("none").breaker is None
    assert known.knowledge.vitals(route, route.candidates[0]).breaker is None
    assert known.look("none").breaker is None


def test_nothing_is_known_of_what_was_never_asked_and_looking_changes_that_not(
    known: Known,
) -> None:
    for _ in range(2):
        assert known.look("default") == Seen("closed", None, None)
    assert known.knowledge.models() == []


def test_a_prediction_has_the_wait_for_a_place_in_it(tmp_path: Path) -> None:
    known = Known(tmp_path, wait=2.5)
    route = known.route("default")
    vitals = known.knowledge.vitals(route, route.candidates[0])
    for _ in range(20):
        vitals.answered(SHAPE, 1.0, 1.0, 9.0)
        vitals.ended(Outcome.SUCCESS, 9.0)
    seen = known.look("default")
    assert seen.predicted == pytest.approx(3.5, rel=0.1)
    assert seen.error_rate == 0.0


def test_models_are_told_the_latest_first(known: Known) -> None:
    for model in ("x", "y", "x"):
        route = known.router.named("default", model)
        known.knowledge.vitals(route, route.candidates[0])
    assert known.knowledge.models() == ["x", "y"]


def test_a_route_that_is_not_there_is_not_made_up(known: Known) -> None:
    with pytest.raises(KeyError):
        known.route("nowhere")
