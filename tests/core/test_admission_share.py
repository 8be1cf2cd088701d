"""What is kept of a limit for callers who used it a moment ago."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.policy.admission import Gate
from proxy.core.policy.admission_limit import Ending, Grant
from proxy.core.policy.admission_share import SPAN


def a_gate(most: int | None) -> Gate:
    gate = Gate(0.0)
    gate.use(["key"], most, 0.0)
    return gate


def taken(gate: Gate, caller: str, times: int, now: float = 0.0) -> list[Grant]:
    """As many as it gets of so many."""
    found = [gate.enter(now, caller) for _ in range(times)]
    return [one for one in found if one is not None]


def end(gate: Gate, grants: list[Grant], now: float) -> None:
    for grant in grants:
        gate.release(grant, Ending.DONE, now)


def test_who_is_alone_has_all() -> None:
    assert len(taken(a_gate(10), "noisy", 50)) == 10


def test_what_others_had_a_moment_ago_is_kept_for_them() -> None:
    gate = a_gate(10)
    end(gate, taken(gate, "a", 2) + taken(gate, "b", 1), 1.0)
    assert len(taken(gate, "noisy", 50, 2.0)) == 7
    assert len(taken(gate, "a", 2, 3.0)) == 2
    assert len(taken(gate, "b", 1, 3.0)) == 1


def test_nobody_is_kept_more_than_a_fair_share() -> None:
    gate = a_gate(10)
    end(gate, taken(gate, "first", 10), 1.0)
    assert len(taken(gate, "second", 50, 2.0)) == 5
    assert len(taken(gate, "first", 50, 3.0)) == 5


def test_a_new_caller_has_its_fair_share_of_what_is_free() -> None:
    gate = a_gate(12)
    end(gate, taken(gate, "a", 6), 1.0)
    assert len(taken(gate, "b", 4, 2.0)) == 4
    assert len(taken(gate, "c", 9, 2.0)) == 4


def test_after_a_time_nothing_is_kept_any_more() -> None:
    gate = a_gate(10)
    end(gate, taken(gate, "a", 5), 1.0)
    assert len(taken(gate, "noisy", 50, SPAN + 1.0)) == 5
    assert len(taken(gate, "noisy", 50, 2 * SPAN)) == 5


def test_who_waits_for_places_that_are_kept_is_let_go_when_they_are_not_any_more() -> None:
    gate = a_gate(2)
    end(gate, taken(gate, "a", 1), 1.0)
    assert len(taken(gate, "noisy", 2, 2.0)) == 1
    waiting = gate.join("noisy", 2.0)
    assert gate.serve(2.0) == []
    when = gate.look_again(2.0)
    assert when == SPAN
    assert gate.serve(when) == []
    assert gate.serve(2 * SPAN) == [waiting]


def test_one_who_waits_beyond_its_share_does_not_hold_up_others() -> None:
    gate = a_gate(4)
    end(gate, taken(gate, "a", 2), 1.0)
    taken(gate, "noisy", 4, 2.0)
    noisy = [gate.join("noisy", 2.0) for _ in range(100)]
    mine = gate.join("a", 3.0)
    assert gate.serve(3.0) == [mine]
    assert noisy[0].grant is None


def test_with_more_callers_than_places_nothing_is_kept() -> None:
    gate = a_gate(3)
    for name in "abcd":
        end(gate, taken(gate, name, 1), 1.0)
    assert len(taken(gate, "noisy", 9, 2.0)) == 3


def test_without_a_limit_nobody_is_held_back_and_nobody_is_remembered() -> None:
    gate = a_gate(None)
    end(gate, taken(gate, "a", 5), 1.0)
    assert len(taken(gate, "noisy", 500, 2.0)) == 500


moves = st.tuples(st.sampled_from("abc"), st.booleans(), st.sampled_from([0.0, 0.1, 4.0, 25.0]))


@given(st.integers(1, 12), st.lists(moves, max_size=80))
def test_a_place_is_refused_only_beyond_a_fair_share(
    most: int, course: list[tuple[str, bool, float]]
) -> None:
    gate, now = a_gate(most), 0.0
    running: list[tuple[str, Grant]] = []
    for caller, comes, later in course:
        now += later
        if comes:
            have = Counter(name for name, _ in running)
            grant = gate.enter(now, caller)
            if grant is not None:
                running.append((caller, grant))
            else:
                assert len(running) == most or have[caller] >= most // 3
        elif running:
            gate.release(running.pop(0)[1], Ending.DONE, now)
    assert gate.in_flight == len(running) <= most
