"""Which candidate is first, and why, for tables of what is known of them."""

from __future__ import annotations

from collections import Counter
from statistics import fmean
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.core.policy.choice import SHARE, SHARE_EAGER, Choice, Option, choose, prefix_of
from tests.bench.choice_trace import SCENES, Chooser, Scene, Smart, choosers, run
from tests.bench.choice_trace import TARGET as TRACE_TARGET

TARGET = 5.0
NEVER = 1.0
"""The roll that explores nothing."""
ALWAYS = 0.0
"""The roll that explores whatever is worth it."""
WELL = 20.0
"""Weight of a candidate that is well known."""


def option(
    predicted: float | None,
    *,
    tier: int = 0,
    allowed: bool = True,
    weight: float = WELL,
    rtt: float | None = None,
    id: str = "",
    slower: bool = False,
) -> Option:
    return Option(tier, allowed, predicted, weight, rtt, id, slower)


def tiers(*predicted: float | None) -> list[Option]:
    """Options of falling preference."""
    return [option(one, tier=tier, id=str(tier)) for tier, one in enumerate(predicted)]


def equals(*predicted: float | None) -> list[Option]:
    """Options of one preference."""
    return [option(one, id=str(place)) for place, one in enumerate(predicted)]


def chosen(
    options: list[Option],
    target: float | None = None,
    *,
    prefix: bytes | None = None,
    roll: float = NEVER,
) -> Choice:
    return choose(options, target=target, prefix=prefix, roll=roll)


@pytest.mark.parametrize(
    ("predicted", "order", "reason"),
    [
        ((1.0, 2.0, 3.0), (0, 1, 2), "preferred"),
        ((4.9, 0.5, 3.0), (0, 1, 2), "preferred"),
        ((5.0, 0.5, 3.0), (0, 1, 2), "preferred"),
        ((5.1, 4.0, 3.0), (1, 2, 0), "preferred"),
        ((9.0, 8.0, 3.0), (2, 1, 0), "preferred"),
        ((None, 1.0, 1.0), (0, 1, 2), "preferred"),
        ((9.0, None, 1.0), (1, 2, 0), "preferred"),
        ((9.0, 7.0, 8.0), (1, 2, 0), "fastest"),
        ((7.0, 9.0, 7.0), (0, 2, 1), "fastest"),
    ],
)
def test_with_a_target_the_most_preferred_that_meets_it_is_first_else_the_fastest(
    predicted: tuple[float | None, ...], order: tuple[int, ...], reason: str
) -> None:
    assert chosen(tiers(*predicted), TARGET) == Choice(order, reason)


@pytest.mark.parametrize("predicted", [(1.0, 2.0), (9.0, 0.1), (None, 0.1), (None, None)])
def test_without_a_target_the_order_of_the_settings_stays(
    predicted: tuple[float | None, ...],
) -> None:
    assert chosen(tiers(*predicted)) == Choice((0, 1), "order")


@pytest.mark.parametrize("target", [None, TARGET])
def test_of_equally_preferred_ones_the_nearest_is_first(target: float | None) -> None:
    assert chosen(equals(3.0, 1.0, 2.0), target) == Choice((1, 2, 0), "nearest")
    mixed = [*equals(3.0, 1.0), option(0.1, tier=1)]
    assert chosen(mixed, target) == Choice((1, 0, 2), "nearest")


def test_a_preferred_one_that_is_alone_in_its_tier_is_not_said_to_be_the_nearest() -> None:
    options = [option(9.0), option(4.0), option(0.1, tier=1)]
    assert chosen(options, TARGET) == Choice((1, 2, 0), "preferred")


def test_before_anything_is_predicted_the_round_trip_decides() -> None:
    options = [option(None, rtt=rtt) for rtt in (0.3, None, 0.02)]
    assert chosen(options) == Choice((2, 0, 1), "nearest")
    assert chosen(equals(None, None)).order == (0, 1)


def test_one_that_is_unknown_is_asked_before_equals_that_are_known() -> None:
    assert chosen(equals(0.5, None)).order == (1, 0)


# --- breakers ----------------------------------------------------------------------------------


def test_those_whose_breaker_is_open_are_left_out() -> None:
    options = [option(1.0, allowed=False), option(2.0, tier=1), option(3.0, tier=2)]
    assert chosen(options, TARGET) == Choice((1, 2), "preferred")
    assert chosen(options) == Choice((1, 2), "order")
    assert chosen(options[:2], TARGET) == Choice((1,), "only")


def test_a_single_candidate_is_the_only_one() -> None:
    assert chosen([option(99.0)], TARGET, roll=ALWAYS) == Choice((0,), "only")


# --- conversations -----------------------------------------------------------------------------

PREFIXES = [number.to_bytes(8, "big") for number in range(600)]


@pytest.mark.parametrize("target", [None, TARGET])
def test_conversations_stay_where_they_are_and_spread_over_near_ones(target: float | None) -> None:
    options = equals(1.0, 1.1, 1.14, 1.2)
    found = Counter(chosen(options, target, prefix=prefix).order[0] for prefix in PREFIXES)
    assert found.keys() == {0, 1, 2}
    assert min(found.values()) > 150
    for prefix in PREFIXES[:20]:
        first = chosen(options, target, prefix=prefix)
        assert first.reason == "sticky"
        assert chosen(equals(1.1, 1.0, 1.05, 1.2), target, prefix=prefix) == Choice(
            (first.order[0], *(i for i in (1, 2, 0, 3) if i != first.order[0])), "sticky"
        )


def test_one_candidate_less_moves_only_its_own_conversations() -> None:
    options = equals(1.0, 1.0, 1.0)
    for prefix in PREFIXES[:100]:
        before = chosen(options, prefix=prefix).order[0]
        after = chosen([*options[:2], options[2]._replace(allowed=False)], prefix=prefix).order[0]
        assert after == before or before == 2


def test_a_clearly_nearer_one_is_worth_more_than_a_cache() -> None:
    for prefix in PREFIXES[:50]:
        assert chosen(equals(1.0, 1.2), prefix=prefix) == Choice((0, 1), "nearest")


# --- exploring ---------------------------------------------------------------------------------


def test_a_small_share_tries_the_least_known_equal() -> None:
    options = [option(1.0), option(9.0, weight=0.4), option(9.0, weight=0.1), option(9.0)]
    assert chosen(options, roll=ALWAYS) == Choice((2, 0, 1, 3), "explore")
    assert chosen(options, roll=SHARE - 1e-9).reason == "explore"
    assert chosen(options, roll=SHARE).reason == "nearest"


def test_what_is_known_well_enough_is_not_explored() -> None:
    assert chosen(equals(1.0, 9.0), roll=ALWAYS) == Choice((0, 1), "nearest")


def test_a_preferred_one_that_was_slow_is_tried_again() -> None:
    options = [option(9.0, weight=0.5), option(1.0, tier=1)]
    assert chosen(options, TARGET, roll=ALWAYS) == Choice((0, 1), "explore")
    assert chosen(options, TARGET, roll=NEVER) == Choice((1, 0), "preferred")


@pytest.mark.parametrize("target", [None, TARGET])
def test_a_less_preferred_one_is_not_tried_while_a_better_one_does(target: float | None) -> None:
    options = [option(1.0), option(9.0, tier=1, weight=0.0)]
    assert chosen(options, target, roll=ALWAYS).order[0] == 0


def test_when_the_target_is_missed_others_are_tried_more_and_less_preferred_ones_too() -> None:
    options = [option(6.0), option(9.0, tier=1, weight=5.0), option(9.0, tier=1)]
    assert chosen(options, TARGET, roll=SHARE_EAGER - 1e-9) == Choice((1, 0, 2), "explore")
    assert chosen(options, TARGET, roll=SHARE_EAGER).reason == "fastest"


def test_without_a_target_equals_are_tried_more_when_the_nearest_became_slower() -> None:
    slower = [option(6.0, slower=True), option(9.0, weight=5.0), option(1.0, tier=1, weight=0.0)]
    assert chosen(slower, roll=SHARE_EAGER - 1e-9) == Choice((1, 0, 2), "explore")
    steady = [slower[0]._replace(slower=False), *slower[1:]]
    assert chosen(steady, roll=SHARE_EAGER - 1e-9).reason == "nearest"


spans = st.none() | st.floats(0.001, 600.0)
options_of_all_kinds = st.lists(
    st.builds(
        Option,
        tier=st.integers(0, 3),
        allowed=st.booleans(),
        predicted=spans,
        weight=st.floats(0.0, 60.0),
        rtt=spans,
        id=st.text(max_size=3),
        slower=st.booleans(),
    ),
    max_size=8,
)


@given(options_of_all_kinds, spans, st.none() | st.binary(max_size=8), st.floats(0.0, 1.0))
def test_every_order_holds_each_allowed_one_once_and_its_reason_is_true(
    options: list[Option], target: float | None, prefix: bytes | None, roll: float
) -> None:
    allowed = [place for place, one in enumerate(options) if one.allowed]
    assume(allowed)
    choice = choose(options, target=target, prefix=prefix, roll=roll)
    assert sorted(choice.order) == allowed
    assert (choice.reason == "only") is (len(allowed) == 1)
    if choice.reason == "only":
        return
    first = options[choice.order[0]]
    span = first.predicted or 0.0
    if choice.reason == "explore":
        assert roll < SHARE_EAGER
    elif choice.reason == "fastest":
        assert target is not None
        assert all(target < span <= (options[place].predicted or 0.0) for place in allowed)
    elif target is not None:
        assert span <= target
        for place in allowed:
            if options[place].tier < first.tier:
                assert (options[place].predicted or 0.0) > target
    else:
        assert first.tier == min(options[place].tier for place in allowed)


# --- in simulated time -------------------------------------------------------------------------


def regret(scene: Scene, chooser: Chooser) -> float:
    """Seconds a request, over what it would take where it is fast at the time."""
    requests = scene.requests(2.0)
    oracle = choosers(scene.endpoints)["oracle"]()
    return fmean(run(requests, chooser)) - fmean(run(requests, oracle))


@pytest.mark.parametrize("target", [None, TRACE_TARGET])
@pytest.mark.parametrize("scene", SCENES[:3], ids=lambda scene: scene.title)
def test_it_follows_endpoints_that_change_places(scene: Scene, target: float | None) -> None:
    fixed = regret(scene, choosers(scene.endpoints)["fixed"]())
    assert regret(scene, Smart(scene.endpoints, target)) < 0.25 * fixed


@pytest.mark.parametrize("scene", SCENES[3:], ids=lambda scene: scene.title)
def test_where_nothing_changes_it_costs_next_to_nothing(scene: Scene) -> None:
    assert regret(scene, Smart(scene.endpoints, TRACE_TARGET)) < 0.01
    assert regret(scene, Smart(scene.endpoints, None)) < 0.1


# --- prefixes ----------------------------------------------------------------------------------

SYSTEM = {"role": "system", "content": "You are kind."}
FIRST = {"role": "user", "content": "Hello"}
LATER = [{"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Bye"}]


def test_every_turn_of_a_conversation_has_the_same_prefix_whatever_the_model() -> None:
    first = prefix_of({"model": "glm-4.6", "messages": [SYSTEM, FIRST]})
    assert first is not None
    assert first == prefix_of({"model": "glm-4.5", "messages": [SYSTEM, FIRST, *LATER]})


@pytest.mark.parametrize(
    "other",
    [
        {"messages": [FIRST]},
        {"messages": [{"role": "system", "content": "You are not."}, FIRST]},
        {"messages": [SYSTEM, LATER[1]]},
        {"system": "x", "messages": [SYSTEM, FIRST]},
        {"messages": [{"role": "system", "content": "You are kind.Hello"}, LATER[0], LATER[1]]},
        {"messages": [{"role": "user", "content": "You are kind.Hello"}]},
        {"messages": [SYSTEM, {"role": "user", "content": [{"type": "text", "text": "Hel"}]}]},
    ],
)
def test_other_conversations_have_others(other: dict[str, Any]) -> None:
    assert prefix_of(other) not in (None, prefix_of({"messages": [SYSTEM, FIRST]}))


def test_an_anthropic_request_has_its_system_prompt_beside_the_messages() -> None:
    kind, unkind = (
        prefix_of({"system": [{"type": "text", "text": text}], "messages": [FIRST]})
        for text in ("Be kind.", "Be unkind.")
    )
    assert kind is not None
    assert unkind is not None
    assert kind != unkind


def test_how_a_message_is_written_down_changes_no_prefix() -> None:
    """Clients move the mark of what is to be cached from turn to turn."""
    part = {"type": "text", "text": "Hello"}
    marked = {**part, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    contents: list[object] = ["Hello", [part], [marked]]
    found = {prefix_of({"messages": [{"role": "user", "content": one}]}) for one in contents}
    assert len(found) == 1


@pytest.mark.parametrize("field", ["image_url", "source"])
def test_pictures_tell_conversations_apart(field: str) -> None:
    one, other = (
        prefix_of({"messages": [{"role": "user", "content": [{field: {"data": data}}]}]})
        for data in ("iVBORw0", "iVBORw1")
    )
    assert one != other


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"messages": None},
        {"messages": "Hello"},
        {"messages": []},
        {"messages": [SYSTEM]},
        {"messages": ["Hello", 7, None, [FIRST]]},
    ],
)
def test_without_a_user_message_there_is_no_prefix(fields: dict[str, Any]) -> None:
    assert prefix_of(fields) is None


json = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@given(json)
def test_whatever_a_message_holds_has_a_prefix(content: object) -> None:
    assert prefix_of({"messages": [{"role": "user", "content": content}]}) is not None


def test_text_that_is_no_unicode_has_a_prefix_too() -> None:
    assert prefix_of({"messages": [{"role": "user", "content": "\ud800"}]}) is not None
