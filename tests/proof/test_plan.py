"""The load has every fault the simulator knows, and every way to leave."""

from __future__ import annotations

import json
from collections import Counter
from typing import get_args

import pytest

from proxy.simulator import parse_rule
from proxy.simulator.faults import Ending, Fault, Spelling, fault_of
from tests.proof import plan
from tests.proof.faults import KEY_REFUSED, KINDS, RULES


def test_every_field_of_a_fault_is_played_by_a_request_or_a_rule() -> None:
    rules = [parse_rule(spec) for specs in RULES.values() for spec in specs if "@" not in spec]
    asked = {name for kind in KINDS for name in kind.fields}
    asked |= {name for rule in rules for name in rule.fault.model_fields_set}
    assert set(Fault.model_fields) - asked == {"first_token", "thinking_tokens"} - asked


def test_every_ending_and_every_spelling_is_played() -> None:
    faults = [fault_of(dict(kind.fields)) for kind in KINDS]
    assert {fault.ending for fault in faults} >= set(Ending)
    assert {one for fault in faults for one in fault.spelling} == set(get_args(Spelling))


@pytest.mark.parametrize("count", [250, 2000])
def test_a_run_of_any_size_has_all_faults_leaves_and_routes(count: int) -> None:
    shots = plan.shots(count, rate=20, seed=3)
    assert len(shots) == count
    assert [shot.at for shot in shots] == sorted(shot.at for shot in shots)
    assert len({shot.id for shot in shots}) == count
    played = Counter(shot.fault for shot in shots)
    assert all(played[kind.name] for kind in KINDS)
    assert played[KEY_REFUSED.name] == 1
    stages = {shot.leave.stage for shot in shots if shot.leave}
    assert stages == {"reading", "waiting", "streaming", "admission"}
    assert {shot.route for shot in shots} >= set(plan.MODELS)


def test_words_of_http1_are_played_to_http1_alone() -> None:
    for shot in plan.shots(2000, rate=12, seed=1):
        if shot.fault == "garbage for a head":
            assert shot.route == "http1"


def test_the_same_seed_sends_the_same() -> None:
    assert plan.shots(300, 20, seed=5) == plan.shots(300, 20, seed=5)
    assert plan.shots(300, 20, seed=5) != plan.shots(300, 20, seed=6)


def test_a_shared_answer_is_asked_for_with_the_same_body() -> None:
    shared = [shot for shot in plan.shots(2000, 12, seed=1) if shot.route == "shared"]
    assert len({shot.body for shot in shared}) == 1
    assert len({shot.headers["authorization"] for shot in shared}) == 1


def test_every_request_is_one_that_the_simulator_understands() -> None:
    for shot in plan.shots(600, 20, seed=2):
        if shot.chat and shot.body is not None:
            fault_of(json.loads(shot.body).get("simulate", {}))
