"""What one key's limit learns from single refusals."""

from __future__ import annotations

from proxy.core.policy.admission_limit import FIRST_PAUSE, Ending, Grant, KeyLimit, Kind


def a_limit(running: int, *, refused: int = 0) -> tuple[KeyLimit, list[Grant]]:
    """So many run from second 0 on; further ones were refused at 0.1."""
    limit = KeyLimit("key")
    grants = [limit.take(0.0) for _ in range(running + refused)]
    for grant in grants[running:]:
        limit.give_back(grant, Ending.REFUSED, 0.1)
    return limit, grants[:running]


def a_kind(limit: KeyLimit, now: float) -> Kind:
    assert limit.has_room(now) or limit.may_probe(now)
    return limit.take(now).kind


def test_without_a_refusal_there_is_no_limit() -> None:
    limit, _ = a_limit(1000)
    assert limit.has_room(0.0)
    assert limit.limit is None


def test_a_burst_leaves_as_many_as_run() -> None:
    limit, _ = a_limit(2, refused=48)
    assert limit.limit == 2


def test_those_that_ended_before_the_last_refusal_came_count_too() -> None:
    limit = KeyLimit("key")
    grants = [limit.take(0.0) for _ in range(50)]
    for grant in grants[:2]:
        limit.give_back(grant, Ending.DONE, 0.1)
    for grant in grants[2:]:
        limit.give_back(grant, Ending.REFUSED, 0.2)
    assert limit.limit == 2


def test_the_first_refusal_after_an_end_counts_the_place_that_was_not_free_yet() -> None:
    limit, grants = a_limit(2)
    limit.give_back(grants[0], Ending.DONE, 1.0)
    limit.give_back(limit.take(1.0), Ending.REFUSED, 1.01)
    assert limit.limit == 2


def test_a_single_request_that_is_refused_leaves_a_limit_of_one() -> None:
    limit, _ = a_limit(0, refused=1)
    assert limit.limit == 1


def test_a_refusal_within_the_limit_changes_nothing_and_a_check_follows_a_short_pause() -> None:
    limit, grants = a_limit(2, refused=1)
    limit.give_back(grants[0], Ending.DONE, 5.0)
    limit.give_back(limit.take(5.0), Ending.REFUSED, 5.01)
    assert limit.limit == 2
    assert not limit.has_room(5.01)
    assert limit.look_again(5.01) == 5.01 + FIRST_PAUSE
    assert a_kind(limit, 5.01 + FIRST_PAUSE) is Kind.CHECK
    limit.give_back(grants[1], Ending.DONE, 6.0)
    assert a_kind(limit, 6.0) is Kind.PLAIN


def test_checks_that_are_refused_again_and_again_lower_the_limit() -> None:
    limit, grants = a_limit(3, refused=1)
    limit.give_back(grants[0], Ending.DONE, 5.0)
    limit.give_back(limit.take(5.0), Ending.REFUSED, 5.001)
    now, learned = 5.001, []
    for _ in range(4):
        when = limit.look_again(now)
        assert when is not None
        now = when
        limit.give_back(limit.take(now), Ending.REFUSED, now + 0.001)
        now += 0.001
        learned.append(limit.limit)
    assert learned == [3, 3, 3, 2]
    assert now < 5.1


def test_one_request_that_was_refused_at_a_low_level_is_not_sent_again_at_once() -> None:
    limit, grants = a_limit(1, refused=1)
    limit.give_back(grants[0], Ending.DONE, 5.0)
    limit.give_back(limit.take(5.0), Ending.REFUSED, 5.0)
    assert limit.in_flight == 0
    assert not limit.has_room(5.0)
    assert limit.has_room(5.0 + FIRST_PAUSE)


def test_a_probe_goes_one_above_after_a_quiet_second() -> None:
    limit, _ = a_limit(2, refused=1)
    assert not limit.may_probe(1.0)
    assert limit.look_again(1.0) == 1.1 + FIRST_PAUSE
    assert a_kind(limit, 1.2) is Kind.PROBE
    assert limit.limit == 3
    assert a_kind(limit, 2.2) is Kind.PROBE
    assert limit.limit == 4


def test_after_each_refused_probe_it_is_quiet_for_twice_as_long_up_to_a_minute() -> None:
    limit, _ = a_limit(2, refused=1)
    now, quiet = 0.1, []
    for _ in range(10):
        when = limit.look_again(now)
        assert when is not None
        quiet.append(round(when - now))
        now = when
        limit.give_back(limit.take(now), Ending.REFUSED, now)
        assert limit.limit == 2
    assert quiet == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_a_probe_that_stood_makes_the_next_one_soon() -> None:
    limit, _ = a_limit(2, refused=1)
    for now in (10.0, 20.0, 40.0):
        limit.give_back(limit.take(now), Ending.REFUSED, now)
    assert not limit.may_probe(47.0)
    for now, learned in ((50.0, 3), (51.0, 4), (52.0, 5)):
        assert a_kind(limit, now) is Kind.PROBE
        assert limit.limit == learned
    limit.give_back(limit.take(53.0), Ending.REFUSED, 53.0)
    assert limit.look_again(53.0) == 55.0


def test_there_is_no_probe_while_refusals_show_that_no_place_is_free() -> None:
    limit, grants = a_limit(2, refused=1)
    for now in (1.0, 1.5, 2.0, 2.5):
        limit.give_back(grants.pop(), Ending.DONE, now)
        limit.give_back(limit.take(now), Ending.REFUSED, now + 0.001)
        grants.append(limit.take(now + 0.01))
        assert not limit.may_probe(now + 0.4)
    assert limit.limit == 2
    assert limit.may_probe(3.6)


def test_there_is_no_probe_above_the_operators_number() -> None:
    limit = KeyLimit("key", most=1)
    limit.take(0.0)
    assert limit.look_again(100.0) is None
    assert not limit.may_probe(100.0)
