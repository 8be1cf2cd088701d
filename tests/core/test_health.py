"""What a candidate's vitals foretell, and which candidates are remembered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Breaker as Settings
from proxy.core.policy.health import SIZES, Health, Shape, Vitals, shape_of
from proxy.core.policy.outcome import Outcome

SHAPE = shape_of(1000, False)
NOW = 1000.0
NEAR = 0.06
"""As exact as a sketch is."""


def known(seconds: float, shape: Shape = SHAPE, *, answers: int = 60) -> Vitals:
    """One whose answers, the last of them now, all took so long; the first token half of it."""
    vitals = Vitals(None)
    for place in range(answers):
        vitals.answered(shape, seconds / 2, seconds, NOW - (answers - 1 - place) / 10)
    return vitals


@pytest.mark.parametrize(
    ("size", "shape"),
    [(0, 0), (4095, 0), (4096, 1), (24575, 1), (24576, 2), (98303, 2), (98304, 3), (1 << 30, 3)],
)
def test_a_shape_is_a_class_of_sizes_with_or_without_tools(size: int, shape: int) -> None:
    assert shape_of(size, False) == Shape(shape, False)
    assert shape_of(size, True) == Shape(shape, True)


def test_there_are_eight_shapes() -> None:
    sizes = [0, *SIZES]
    assert len({shape_of(size, tools) for size in sizes for tools in (False, True)}) == 8


def test_of_a_new_candidate_nothing_is_foretold() -> None:
    vitals = Vitals(None)
    assert vitals.first_token(0.9, SHAPE, NOW) is None
    assert vitals.first_content(0.9, SHAPE, NOW) is None
    assert vitals.weight(SHAPE, NOW) == 0.0
    assert vitals.error_rate(NOW) == 0.0
    assert not vitals.slower(SHAPE, NOW)
    assert not vitals.busy


def test_first_token_and_first_content_are_foretold_apart() -> None:
    vitals = known(4.0)
    assert vitals.first_token(0.9, SHAPE, NOW) == pytest.approx(2.0, rel=NEAR)
    assert vitals.first_content(0.9, SHAPE, NOW) == pytest.approx(4.0, rel=NEAR)


def test_times_to_the_first_token_are_remembered_for_longer() -> None:
    vitals = known(1.0)
    for place in range(300):
        vitals.answered(SHAPE, 0.5, 1.0, NOW + place / 2)
    now = NOW + 150.0
    assert vitals.first_tokens(SHAPE, now) > 2 * vitals.weight(SHAPE, now) > 20
    assert vitals.first_tokens(Shape(1, False), now) == vitals.first_tokens(SHAPE, now)
    assert Vitals(None).first_tokens(SHAPE, now) == 0.0


def test_a_mark_that_was_not_reached_is_not_counted() -> None:
    vitals = known(4.0)
    for _ in range(50):
        vitals.answered(SHAPE, 30.0, None, NOW)
    assert vitals.first_token(0.5, SHAPE, NOW) == pytest.approx(30.0, rel=NEAR)
    assert vitals.first_content(0.5, SHAPE, NOW) == pytest.approx(4.0, rel=NEAR)


def test_a_shape_without_data_is_foretold_by_its_neighbour_before_any_other() -> None:
    vitals = Vitals(None)
    for shape, seconds in ((Shape(0, False), 1.0), (Shape(2, False), 8.0), (Shape(0, True), 2.0)):
        for _ in range(5 + int(seconds)):
            vitals.answered(shape, seconds, seconds, NOW)
    for shape, seconds in (
        (Shape(0, False), 1.0),  # its own
        (Shape(3, False), 8.0),
        (Shape(2, True), 8.0),
        (Shape(1, True), 2.0),
        (Shape(1, False), 8.0),  # of two neighbours the better known
        (Shape(3, True), 8.0),  # no neighbour has data: of all the best known
    ):
        assert vitals.first_content(0.5, shape, NOW) == pytest.approx(seconds, rel=NEAR), shape
        assert vitals.first_token(0.5, shape, NOW) == pytest.approx(seconds, rel=NEAR), shape


def test_a_single_answer_does_not_outweigh_a_well_known_neighbour() -> None:
    vitals = known(1.0)
    other = Shape(1, False)
    vitals.answered(other, 50.0, 50.0, NOW)
    assert vitals.first_content(0.9, other, NOW) == pytest.approx(1.0, rel=NEAR)
    vitals.answered(other, 50.0, 50.0, NOW)
    assert vitals.first_content(0.9, other, NOW) == pytest.approx(50.0, rel=NEAR)


def test_two_slow_answers_too_many_of_fifty_prove_nothing_six_do() -> None:
    vitals = known(1.0)
    vitals.answered(SHAPE, 20.0, 20.0, NOW)
    vitals.answered(SHAPE, 1.0, 1.0, NOW)
    vitals.answered(SHAPE, 20.0, 20.0, NOW)
    assert vitals.first_content(0.9, SHAPE, NOW) == pytest.approx(1.0, rel=NEAR)
    for _ in range(6):
        vitals.answered(SHAPE, 20.0, 20.0, NOW)
    assert vitals.first_content(0.9, SHAPE, NOW) == pytest.approx(20.0, rel=NEAR)


def test_one_left_for_a_few_slow_answers_is_hoped_for_again() -> None:
    vitals = known(1.0)
    for place in range(24):
        vitals.answered(SHAPE, None, 20.0 if place % 2 == 0 else 1.0, NOW)
    soon, later = (vitals.first_content(0.9, SHAPE, NOW + after) for after in (0.0, 60.0))
    assert soon == pytest.approx(20.0, rel=NEAR)
    assert later == pytest.approx(1.0, rel=NEAR)


# --- attempts that run -------------------------------------------------------------------------


def test_attempts_that_run_late_are_feared_before_they_answer() -> None:
    vitals = known(1.0)
    tickets = [vitals.begin(SHAPE, NOW + place / 10) for place in range(8)]
    assert vitals.first_content(0.9, SHAPE, NOW + 1.0) == pytest.approx(1.0, rel=NEAR)
    feared = vitals.first_content(0.9, SHAPE, NOW + 4.0)
    assert feared is not None
    assert feared > 3.0
    for ticket in tickets:
        vitals.end(ticket)
    assert vitals.first_content(0.9, SHAPE, NOW + 4.0) == pytest.approx(1.0, rel=NEAR)


def test_attempts_that_have_just_begun_are_not_late_and_excuse_none_that_is() -> None:
    vitals = known(1.0)
    for _ in range(6):
        vitals.begin(SHAPE, NOW)
    for _ in range(7):
        vitals.begin(SHAPE, NOW + 3.9)
    feared = vitals.first_content(0.9, SHAPE, NOW + 4.0)
    assert feared is not None
    assert feared > 3.0


def test_late_attempts_that_later_ones_overtook_are_exceptions() -> None:
    vitals = known(1.0)
    for place in range(8):
        vitals.begin(SHAPE, NOW + place / 10)
    vitals.end(vitals.begin(SHAPE, NOW + 1.0))
    assert vitals.first_content(0.9, SHAPE, NOW + 4.0) == pytest.approx(1.0, rel=NEAR)


def test_late_attempts_of_another_shape_are_not_feared() -> None:
    vitals = known(1.0)
    for _ in range(8):
        vitals.begin(Shape(3, True), NOW)
    assert vitals.first_content(0.9, SHAPE, NOW + 9.0) == pytest.approx(1.0, rel=NEAR)


def test_with_nothing_but_a_running_attempt_it_is_what_that_has_waited() -> None:
    vitals = Vitals(None)
    ticket = vitals.begin(SHAPE, NOW)
    vitals.begin(SHAPE, NOW + 2.0)
    assert vitals.first_content(0.9, SHAPE, NOW + 7.0) == 7.0
    assert vitals.first_content(0.9, Shape(3, True), NOW + 7.0) is None
    vitals.end(ticket)
    assert vitals.first_content(0.9, SHAPE, NOW + 7.0) == 5.0


def test_a_running_attempt_is_weight_so_that_not_all_explore_at_once() -> None:
    vitals = Vitals(None)
    ticket = vitals.begin(SHAPE, NOW)
    assert vitals.weight(SHAPE, NOW) == 1.0
    assert vitals.weight(Shape(3, True), NOW) == 0.0
    vitals.end(ticket)
    vitals.end(ticket)
    assert vitals.weight(SHAPE, NOW) == 0.0
    vitals.answered(SHAPE, 1.0, 1.0, NOW)
    assert vitals.weight(SHAPE, NOW) == pytest.approx(1.0)


def test_abandoned_attempts_make_it_slower_than_they_ran() -> None:
    vitals = known(1.0)
    for _ in range(6):
        vitals.late(SHAPE, 5.0, NOW)
    for foretold in (vitals.first_token, vitals.first_content):
        p90 = foretold(0.9, SHAPE, NOW)
        assert p90 is not None
        assert p90 >= 5.0 * (1 - NEAR)
    assert vitals.slower(SHAPE, NOW)
    assert vitals.slower(Shape(1, False), NOW)
    assert not vitals.slower(SHAPE, NOW + 100.0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["begin", "end", "answered", "late"]),
            st.integers(0, 3),
            st.booleans(),
            st.floats(0.0, 700.0),
        ),
        max_size=60,
    )
)
def test_whatever_happens_what_is_foretold_is_a_time_and_longer_for_more_confidence(
    steps: list[tuple[str, int, bool, float]],
) -> None:
    vitals, now, tickets = Vitals(None), 0.0, []
    for what, size, tools, seconds in steps:
        shape = Shape(size, tools)
        now += seconds / 100
        if what == "begin":
            tickets.append(vitals.begin(shape, now))
        elif what == "end" and tickets:
            vitals.end(tickets.pop(size % len(tickets)))
        elif what == "answered":
            vitals.answered(shape, seconds / 2, seconds, now)
        else:
            vitals.late(shape, seconds, now)
        low, high = (vitals.first_token(q, shape, now) for q in (0.5, 0.9))
        assert (low is None) is (high is None)
        assert low is None or high is None or 0.0 < low <= high
        content = vitals.first_content(0.9, shape, now)
        assert content is None or 0.0 <= content <= 700.0
        assert vitals.weight(shape, now) >= 0.0
    assert vitals.busy is bool(tickets)


# --- errors ------------------------------------------------------------------------------------


def test_the_error_rate_is_the_share_of_failures_lately() -> None:
    vitals = Vitals(None)
    for place in range(200):
        vitals.ended(Outcome.FAILURE if place % 4 == 0 else Outcome.SUCCESS, NOW)
    assert vitals.error_rate(NOW) == pytest.approx(0.25, abs=0.04)
    for _ in range(100):
        vitals.ended(Outcome.SUCCESS, NOW)
    assert vitals.error_rate(NOW) < 0.05


def test_a_neutral_end_is_no_error_and_no_success() -> None:
    vitals = Vitals(None)
    for _ in range(9):
        vitals.ended(Outcome.FAILURE, NOW)
    rate = vitals.error_rate(NOW)
    for _ in range(50):
        vitals.ended(Outcome.NEUTRAL, NOW)
    assert vitals.error_rate(NOW) == rate
    assert 0.8 < rate < 1.0


def test_one_failure_of_one_attempt_is_not_a_rate_of_one_and_fades() -> None:
    vitals = Vitals(None)
    vitals.ended(Outcome.FAILURE, NOW)
    assert vitals.error_rate(NOW) == 0.5
    assert vitals.error_rate(NOW + 600.0) < 0.01


# --- all candidates ----------------------------------------------------------------------------


def test_a_candidate_is_model_endpoint_and_keys() -> None:
    health = Health(None)
    one = health.of("glm-4.6", "cn", None)
    assert health.of("glm-4.6", "cn", None) is one
    others = [("glm-4.5", "cn", None), ("glm-4.6", "global", None), ("glm-4.6", "cn", "team")]
    assert all(health.of(*other) is not one for other in others)
    assert len(health) == 4
    assert dict(health)["glm-4.6", "cn", None] is one


def test_each_candidate_has_a_breaker_of_its_own_unless_they_are_off() -> None:
    health = Health(Settings(failures=1))
    one, other = health.of("m", "a", None), health.of("m", "b", None)
    assert one.breaker is not None
    assert other.breaker is not None
    one.breaker.record(Outcome.FAILURE, NOW, 0.5, probe=False)
    assert not one.breaker.allows(NOW)
    assert other.breaker.allows(NOW)
    assert Health(None).of("m", "a", None).breaker is None


def test_the_one_not_asked_for_the_longest_is_forgotten_first() -> None:
    health = Health(None, capacity=2)
    first, second = health.of("m", "first", None), health.of("m", "second", None)
    assert health.of("m", "first", None) is first
    health.of("m", "third", None)
    assert len(health) == 2
    assert health.of("m", "first", None) is first
    assert health.of("m", "second", None) is not second


def test_one_with_an_attempt_under_way_is_never_forgotten() -> None:
    health = Health(None, capacity=2)
    busy = [health.of("m", str(place), None) for place in range(3)]
    tickets = []
    for place in range(3):
        busy[place] = health.of("m", str(place), None)
        tickets.append(busy[place].begin(SHAPE, NOW))
    assert [health.of("m", str(place), None) for place in range(3)] == busy
    for place, ticket in enumerate(tickets):
        busy[place].end(ticket)
    for place in range(10):
        health.of("m", f"new {place}", None)
    assert len(health) == 2
    assert health.of("m", "0", None) is not busy[0]
