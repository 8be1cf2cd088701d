"""The order of those who wait."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.policy.admission_queue import FairQueue


def order(queue: FairQueue, now: float = 100.0) -> str:
    served = []
    while queue:
        ticket, _ = queue.pop(now)
        served.append(f"{ticket.caller}{ticket.age[0]:g}")
        now += 1
    return " ".join(served)


def a_queue(*requests: tuple[str, float]) -> FairQueue:
    queue = FairQueue()
    for caller, since in requests:
        queue.add(caller, since)
    return queue


def test_with_one_request_each_it_is_first_come_first_served() -> None:
    assert order(a_queue(("c", 3), ("a", 1), ("b", 2))) == "a1 b2 c3"


def test_callers_take_turns_and_each_sends_its_oldest() -> None:
    queue = a_queue(("a", 3), ("a", 1), ("a", 2), ("b", 4), ("c", 5), ("b", 6))
    assert order(queue) == "a1 b4 c5 a2 b6 a3"


def test_equals_go_in_the_order_they_came() -> None:
    assert order(a_queue(("b", 1), ("a", 1), ("a", 1), ("c", 1))) == "b1 a1 c1 a1"


def test_one_who_leaves_does_not_change_the_order_of_the_others() -> None:
    queue = a_queue(("a", 1), ("b", 2))
    gone = [queue.add("a", 0.5), queue.add("a", 7), queue.add("c", 1.5)]
    for ticket in gone:
        queue.remove(ticket)
    assert len(queue) == 2
    assert order(queue) == "a1 b2"


def test_a_refused_request_goes_before_the_younger_ones_of_its_caller_and_of_others() -> None:
    queue = a_queue(("a", 1), ("a", 2), ("b", 3), ("c", 4))
    ticket, turn = queue.pop(10.0)
    queue.give_back_turn("a", turn, 10.0)
    queue.add("a", ticket.age[0])
    assert order(queue) == "a1 b3 c4 a2"


def test_a_turn_that_led_to_something_is_not_given_back() -> None:
    queue = a_queue(("a", 1), ("a", 2), ("a", 3), ("b", 4))
    _, first = queue.pop(10.0)
    queue.pop(11.0)
    queue.pop(12.0)
    queue.give_back_turn("a", first, 10.0)
    queue.add("c", 5)
    assert order(queue) == "c5 a3"


def test_how_many_are_ahead_is_by_turns_not_by_length() -> None:
    queue = a_queue(*[("a", n) for n in range(10)], ("b", 10), ("b", 11), ("c", 12))
    assert queue.ahead("new", 20) == 3
    assert queue.ahead(None, 20) == 3
    assert queue.ahead("c", 20) == 3 + 2
    assert queue.ahead("b", 20) == 3 + 2 + 1
    assert queue.ahead("a", 20) == 13
    assert queue.ahead("a", -1) == 2


callers = st.sampled_from("abcde")


@given(st.lists(st.tuples(callers, st.integers(0, 20)), max_size=60), st.data())
def test_the_number_ahead_and_the_length_are_always_right(
    requests: list[tuple[str, int]], data: st.DataObject
) -> None:
    queue = FairQueue()
    tickets = [queue.add(caller, since) for caller, since in requests]
    for ticket in data.draw(st.permutations(tickets)):
        sizes = Counter(one.caller for one in tickets)
        assert len(queue) == len(tickets)
        for caller in "abcde":
            younger = sum(min(size, sizes[caller] + 1) for c, size in sizes.items() if c != caller)
            assert queue.ahead(caller, 99) == younger + sizes[caller]
        if data.draw(st.booleans()):
            queue.remove(ticket)
            tickets.remove(ticket)
    assert len(order(queue).split()) == len(tickets)


def test_where_one_is_too_many_the_longest_line_loses_its_last() -> None:
    queue = a_queue(("a", 1), ("b", 1), ("b", 2), ("b", 3), ("c", 1), ("c", 2))
    out = queue.crowded_out("new")
    assert out is not None
    assert (out.caller, out.age[0]) == ("b", 3)
    assert queue.crowded_out("b") is None
    queue.remove(out)
    assert queue.crowded_out("c") is None  # none is longer than its own


def test_a_turn_may_be_left_to_the_next_one() -> None:
    queue = a_queue(("a", 1), ("b", 2), ("b", 3))
    assert queue.next(lambda caller: True) == "a"
    assert queue.next(lambda caller: caller != "a") == "b"
    assert queue.next(lambda caller: False) is None
    assert queue.pop(10.0, "b")[0].age[0] == 2
    assert order(queue) == "a1 b3"
