"""The pool's decisions, over snapshots."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import PoolSettings
from proxy.core.policy.pooling import (
    LONGEST_BACKOFF,
    Plan,
    Retirement,
    Seen,
    Share,
    Snapshot,
    backoff,
    has_settled,
    lifetime,
    pick,
    plan,
)

NOW = 1000.0
SHARE = Share(target=32, peer_limit=None)
SETTINGS = PoolSettings(
    warm_connections=0,
    max_idle_per_host=10,
    streams_per_connection=32,
    max_connections=64,
    idle_timeout=90.0,
)


def a_connection(streams: int = 0, **changes: Any) -> Seen:
    """Young, known, used just now; keywords replace fields."""
    seen = Seen(streams, capacity=128, known=True, accepting=True, expires=NOW + 500, used=NOW)
    return seen._replace(**changes)


def a_pool(*connections: Seen, **changes: Any) -> Snapshot:
    """Nothing waits, nothing opens, nothing has failed; keywords replace fields."""
    pool = Snapshot(
        now=NOW,
        connections=connections,
        opening=0,
        waiting=0,
        untried=False,
        failures=0,
        retry_at=0.0,
        warm=0,
        share=SHARE,
    )
    return pool._replace(**changes)


def to_open(pool: Snapshot, **settings: int) -> int:
    return plan(pool, SETTINGS.model_copy(update=settings)).open


# --- which connection ---------------------------------------------------------------------------


def test_the_least_loaded_connection_takes_the_request() -> None:
    loads = [a_connection(5), a_connection(2), a_connection(9)]
    assert pick(loads, SHARE, NOW) == 1


def test_an_expired_connection_is_used_only_when_no_young_one_has_a_stream() -> None:
    expired = a_connection(0, expires=NOW - 1)
    assert pick([expired, a_connection(31)], SHARE, NOW) == 1
    assert pick([expired, a_connection(32)], SHARE, NOW) == 0


def test_full_draining_and_limited_connections_are_left_alone() -> None:
    assert pick([a_connection(32), a_connection(0, accepting=False)], SHARE, NOW) is None
    assert pick([a_connection(3, capacity=0)], SHARE, NOW) is None
    assert pick([a_connection(0, capacity=0)], SHARE, NOW) is None


def test_a_stream_promised_to_an_earlier_request_is_not_given_away() -> None:
    two_free = [a_connection(31), a_connection(31)]
    assert pick(two_free, SHARE, NOW, promised=1) is not None
    assert pick(two_free, SHARE, NOW, promised=2) is None


def test_before_settings_only_as_many_streams_are_opened_as_are_sure_to_be_allowed() -> None:
    unknown = [a_connection(0, capacity=100, known=False), a_connection(1, known=False)]
    assert [SHARE.free(each) for each in unknown] == [1, 0]
    assert [Share(32, 8).free(each) for each in unknown] == [8, 7]
    assert Share(32, 0).free(unknown[0]) == 0


# --- growth --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waiting", "opened"), [(1, 1), (20, 1), (32, 1), (33, 2), (200, 7), (10_000, 64)]
)
def test_a_cold_pool_opens_as_many_as_the_waiting_fill(waiting: int, opened: int) -> None:
    assert to_open(a_pool(waiting=waiting, untried=True)) == opened


def test_what_is_being_opened_already_counts() -> None:
    assert to_open(a_pool(waiting=200, opening=5)) == 2
    assert to_open(a_pool(waiting=20, opening=1)) == 0


def test_nothing_is_opened_while_open_connections_have_streams() -> None:
    assert to_open(a_pool(a_connection(31), waiting=1)) == 0
    assert to_open(a_pool(a_connection(32), waiting=0)) == 0


def test_one_request_more_than_the_streams_opens_one_connection() -> None:
    assert to_open(a_pool(a_connection(32), a_connection(32), waiting=1)) == 1


def test_the_peers_own_limit_sets_how_many_are_needed() -> None:
    first = a_connection(3, capacity=0)
    assert to_open(a_pool(first, waiting=9, share=Share(32, 3))) == 3


def test_before_settings_a_connection_is_expected_to_allow_what_the_last_one_did() -> None:
    unknown = a_connection(4, capacity=96, known=False)
    assert to_open(a_pool(unknown, waiting=16)) == 0
    assert to_open(a_pool(unknown, waiting=16, share=Share(32, 8))) == 2


def test_a_peer_that_allows_no_stream_is_not_called_again_and_again() -> None:
    closed_door = a_connection(0, capacity=0)
    assert to_open(a_pool(closed_door, waiting=50, share=Share(32, 0), warm=1)) == 0


def test_the_pool_never_grows_beyond_its_limit() -> None:
    full = [a_connection(32) for _ in range(3)]
    assert to_open(a_pool(*full, waiting=100), max_connections=4) == 1
    assert to_open(a_pool(*full, waiting=100, opening=1), max_connections=4) == 0


def test_connections_that_drain_do_not_count_against_the_limit() -> None:
    draining = [a_connection(5, accepting=False) for _ in range(4)]
    assert to_open(a_pool(*draining, waiting=1), max_connections=4) == 1


# --- warm, old, idle -----------------------------------------------------------------------------


def test_warm_connections_are_kept_without_any_request() -> None:
    assert to_open(a_pool(warm=2)) == 2
    assert to_open(a_pool(a_connection(), warm=2)) == 1
    assert to_open(a_pool(a_connection(), warm=2, opening=1)) == 0


def test_a_connection_told_to_go_away_is_replaced_at_once() -> None:
    assert to_open(a_pool(a_connection(), a_connection(7, accepting=False), warm=2)) == 1


def test_a_connection_that_leaves_under_load_is_replaced_before_anybody_waits() -> None:
    busy = [a_connection(30) for _ in range(6)]
    assert to_open(a_pool(*busy, a_connection(28, accepting=False))) == 1
    assert to_open(a_pool(*busy, a_connection(), a_connection(28, accepting=False))) == 0


def test_an_expired_connection_stays_until_its_replacement_is_open() -> None:
    expired = a_connection(expires=NOW - 1)
    before = plan(a_pool(expired, warm=1), SETTINGS)
    assert (before.open, before.retire) == (1, ())
    after = plan(a_pool(expired, a_connection(), warm=1), SETTINGS)
    assert (after.open, after.retire) == (0, (Retirement(0, "max_age"),))


def test_replacing_works_at_the_connection_limit_too() -> None:
    settings = SETTINGS.model_copy(update={"max_connections": 1})
    assert plan(a_pool(a_connection(expires=NOW - 1), warm=1), settings).open == 1


def test_expired_connections_go_one_by_one_as_the_load_is_taken_over() -> None:
    old = [a_connection(30, expires=NOW - 2), a_connection(30, expires=NOW - 3)]
    assert plan(a_pool(*old), SETTINGS) == Plan(2, (), None)
    half = plan(a_pool(*old, a_connection()), SETTINGS)
    assert (half.open, half.retire) == (1, (Retirement(1, "max_age"),))


def test_an_expired_connection_without_use_is_not_replaced() -> None:
    assert plan(a_pool(a_connection(expires=NOW - 1)), SETTINGS) == Plan(
        0, (Retirement(0, "max_age"),), None
    )


def test_idle_connections_above_the_limit_are_closed_after_their_time() -> None:
    idle = [a_connection(used=NOW - 100 + n) for n in range(12)]
    assert plan(a_pool(*idle), SETTINGS).retire == (Retirement(0, "idle"), Retirement(1, "idle"))
    fresh = [a_connection(used=NOW - 80 + n) for n in range(12)]
    assert plan(a_pool(*fresh), SETTINGS) == Plan(0, (), NOW + 10)


def test_warm_connections_are_never_idle_too_long() -> None:
    idle = [a_connection(used=NOW - 1000) for _ in range(3)]
    settings = SETTINGS.model_copy(update={"max_idle_per_host": 0})
    assert plan(a_pool(*idle, warm=3), settings).retire == ()
    assert len(plan(a_pool(*idle, warm=2), settings).retire) == 1


def test_busy_connections_are_not_idle() -> None:
    busy = [a_connection(1, used=NOW - 1000) for _ in range(20)]
    assert plan(a_pool(*busy), SETTINGS).retire == ()


# --- a peer that fails, a peer that speaks HTTP/1.1 ----------------------------------------------


def test_warming_waits_for_the_back_off() -> None:
    down = a_pool(warm=2, failures=3, retry_at=NOW + 4)
    assert plan(down, SETTINGS) == Plan(0, (), NOW + 4)
    assert plan(down._replace(now=NOW + 4), SETTINGS).open == 1


def test_a_new_request_is_tried_at_once_and_one_attempt_at_a_time() -> None:
    down = a_pool(waiting=200, untried=True, failures=3, retry_at=NOW + 4)
    assert plan(down, SETTINGS).open == 1
    assert plan(down._replace(opening=1), SETTINGS).open == 0
    assert plan(down._replace(untried=False), SETTINGS).open == 0


def test_an_http1_peer_is_looked_at_again_when_due() -> None:
    assert plan(a_pool(retest_at=NOW + 60), SETTINGS) == Plan(0, (), NOW + 60)
    assert plan(a_pool(retest_at=NOW), SETTINGS).open == 1
    assert plan(a_pool(retest_at=NOW, opening=1), SETTINGS).open == 0


def test_back_off_doubles_from_a_tenth_to_ten_seconds_with_jitter() -> None:
    assert [backoff(n, 1.0) for n in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert backoff(1, 0.0) == 0.05
    assert backoff(8, 1.0) == backoff(10_000, 1.0) == LONGEST_BACKOFF


def test_connections_live_a_little_shorter_than_max_age_and_not_equally_long() -> None:
    assert lifetime(600, 0.0) == 480
    assert lifetime(600, 1.0) == 600


def test_a_connection_has_settled_once_it_served_or_lasted() -> None:
    assert has_settled(known=True, requests=1, age=0.0)
    assert has_settled(known=True, requests=0, age=1.0)
    assert not has_settled(known=True, requests=0, age=0.5)
    assert not has_settled(known=False, requests=1, age=5.0)


# --- always --------------------------------------------------------------------------------------

connections = st.builds(
    Seen,
    streams=st.integers(0, 40),
    capacity=st.integers(0, 200),
    known=st.booleans(),
    accepting=st.booleans(),
    expires=st.floats(NOW - 100, NOW + 100),
    used=st.floats(NOW - 200, NOW),
)
shares = st.builds(Share, st.integers(1, 64), st.none() | st.integers(0, 200))
pools = st.builds(
    Snapshot,
    now=st.just(NOW),
    connections=st.lists(connections, max_size=12).map(tuple),
    opening=st.integers(0, 8),
    waiting=st.integers(0, 500),
    untried=st.booleans(),
    failures=st.integers(0, 5),
    retry_at=st.floats(NOW - 10, NOW + 10),
    warm=st.integers(0, 4),
    share=shares,
    retest_at=st.none() | st.floats(NOW - 10, NOW + 10),
)


@given(pools, st.integers(1, 12))
def test_every_plan_keeps_the_limits(pool: Snapshot, most: int) -> None:
    decided = plan(pool, SETTINGS.model_copy(update={"max_connections": most}))
    accepting = [c for c in pool.connections if c.accepting]
    young = sum(c.expires > NOW for c in accepting)
    retired = [pool.connections[which] for which, _ in decided.retire]
    within = young + pool.opening + decided.open <= most
    assert decided.open == 0 or within or pool.retest_at is not None
    assert len(set(decided.retire)) == len(retired)
    assert all(c.accepting and (c.expires <= NOW or not c.streams) for c in retired)
    assert len(accepting) - len(retired) >= min(len(accepting), pool.warm, most)
    assert decided.look_again is None or decided.look_again > NOW


@given(pools)
def test_a_waiting_request_without_any_connection_is_never_forgotten(pool: Snapshot) -> None:
    pool = pool._replace(connections=(), retest_at=None)
    decided = plan(pool, SETTINGS)
    if pool.waiting and pool.share.of_a_new_one:
        assert decided.open or pool.opening or decided.look_again is not None


@given(st.lists(connections, max_size=12), shares, st.integers(0, 20))
def test_a_picked_connection_has_a_free_stream(
    open_ones: list[Seen], share: Share, promised: int
) -> None:
    which = pick(open_ones, share, NOW, promised)
    assert (which is not None) == (sum(map(share.free, open_ones)) > promised)
    if which is not None:
        assert share.free(open_ones[which]) > 0
