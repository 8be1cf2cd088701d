"""What processes tell each other of what they learned, and what they make of it."""

from __future__ import annotations

import contextlib

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config import Admission
from proxy.core.policy import lessons
from proxy.core.policy.admission import Gate, Place, most_of
from proxy.core.policy.admission_limit import Ending
from proxy.core.policy.health import LENT, Health, Shape
from proxy.core.policy.lessons import Lessons, Limited, Sketched
from proxy.core.policy.sketch import BUCKETS, LiveSketch, bucket_of

NOW = 1000.0
SHAPE = Shape(0, False)
PLACE = Place("cn", "", "glm-4.6")


def health() -> Health:
    return Health(None)


def taught(seconds: float, times: int = 20) -> Health:
    """Who has seen answers that took so long."""
    found = health()
    for _ in range(times):
        found.of("glm-4.6", "cn", None).answered(SHAPE, seconds / 2, seconds, NOW)
    return found


def told(of: Health, now: float = NOW) -> tuple[Sketched, ...]:
    return tuple(
        Sketched("", *candidate, shape.size, shape.tools, kind, tuple(weights))
        for candidate, vitals in of
        for kind, shape, weights in vitals.lessons(now)
    )


def lend(to: Health, *several: Health, now: float = NOW) -> None:
    heard = [lessons.read(lessons.text(Lessons(told(one, now)))) for one in several]
    for one in lessons.together(heard).sketches:
        to.lend(one, now)


def expected(of: Health, now: float = NOW) -> float | None:
    vitals = of.find("glm-4.6", "cn", None)
    return None if vitals is None else vitals.first_content(0.5, SHAPE, now)


def test_who_knows_nothing_expects_what_others_have_seen() -> None:
    new = health()
    lend(new, taught(2.0))
    assert expected(new) == pytest.approx(2.0, rel=0.07)
    vitals = new.find("glm-4.6", "cn", None)
    assert vitals is not None
    assert vitals.first_token(0.5, SHAPE, NOW) == pytest.approx(1.0, rel=0.07)
    # It has not seen it, so it is still worth a try.
    assert vitals.weight(SHAPE, NOW) == 0.0


def test_of_several_each_counts_by_what_it_has_seen() -> None:
    new = health()
    lend(new, taught(2.0, 30), taught(8.0, 5))
    assert expected(new) == pytest.approx(2.0, rel=0.07)


def test_who_knows_enough_does_not_listen() -> None:
    knows = taught(1.0, 3)
    lend(knows, taught(9.0))
    assert expected(knows) == pytest.approx(1.0, rel=0.07)


def test_what_was_heard_is_not_told_on() -> None:
    new = health()
    lend(new, taught(2.0))
    assert told(new) == ()


def test_what_was_heard_fades_unless_it_is_heard_again() -> None:
    new = health()
    lend(new, taught(2.0))
    assert expected(new, NOW + 3600) is None


def test_nothing_is_forgotten_for_what_is_heard() -> None:
    full = Health(None, capacity=1)
    full.of("own", "cn", None)
    lend(full, taught(2.0))
    assert [key for key, _ in full] == [("own", "cn", None)]


def test_a_sketch_is_told_and_put_together_again() -> None:
    sketch, twin = LiveSketch(), LiveSketch()
    for value in (0.5, 0.6, 0.7, 5.0):
        sketch.add(value, NOW)
    twin.put(sketch.weights(NOW + 1), NOW + 1)
    assert twin.weight(NOW + 1) == pytest.approx(sketch.weight(NOW + 1))
    for share in (0.1, 0.5, 0.9):
        assert twin.quantile(share, NOW + 1) == sketch.quantile(share, NOW + 1)


def test_what_is_heard_weighs_little() -> None:
    weights = lessons.scaled([(1, 100.0), (2, 300.0)], LENT)
    assert weights == [(1, 1.0), (2, 3.0)]
    assert lessons.scaled([(1, 0.5)], LENT) == [(1, 0.5)]
    assert lessons.scaled([], LENT) == []


# --- limits ------------------------------------------------------------------------------------


def gate(limit: Admission | None = None) -> Gate:
    found = Gate(NOW)
    found.use(("0",), most_of(limit or Admission(), None), NOW)
    return found


def test_a_limit_that_another_learned_is_where_one_begins() -> None:
    new = gate()
    assert new.learned() == {}
    new.lend({"0": 3, "other": 1}, NOW)
    assert new.learned() == {"0": 3}
    grants = [new.enter(NOW, "a") for _ in range(4)]
    assert [one is not None for one in grants] == [True, True, True, False]


def test_what_was_learned_here_or_set_is_not_replaced() -> None:
    learned = gate()
    first, second = (learned.enter(NOW, "a") for _ in range(2))
    assert first is not None
    assert second is not None
    learned.release(second, Ending.REFUSED, NOW)
    learned.lend({"0": 50}, NOW)
    assert learned.learned() == {"0": 1}
    fixed = gate(Admission(limit=7))
    fixed.lend({"0": 3}, NOW)
    assert fixed.learned() == {}
    assert sum(fixed.enter(NOW, "a") is not None for _ in range(9)) == 7


def test_who_already_runs_more_is_not_cut_down_by_hearsay() -> None:
    busy = gate()
    for _ in range(5):
        busy.enter(NOW, "a")
    busy.lend({"0": 2}, NOW)
    assert busy.learned() == {"0": 5}


def test_of_several_limits_the_middle_one_is_taken() -> None:
    heard = [Lessons(limits=(Limited(PLACE, "0", limit),)) for limit in (4, 9, 100)]
    assert lessons.together(heard).limits == (Limited(PLACE, "0", 9),)


def test_of_keys_of_callers_nothing_is_told() -> None:
    own, callers = Limited(PLACE, "0", 4), Limited(Place("cn", "a1b2c3", "glm-4.6"), "0", 4)
    assert lessons.chosen([own, callers], {("cn", ""): None}.keys()) == [own]


# --- what is read is not trusted ---------------------------------------------------------------

GOOD = ["", "glm-4.6", "cn", None, 0, False, "content", [[3, 1.5]]]


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"null", b"5", b'{"sketches": []}', b'{"sketches": 5, "limits": []}'),
        *(b"[" * 100_000, b'{"sketches": [' + b"[]," * 1000 + b"[]]" + b', "limits": []}'),
        b" " * (lessons.LARGEST + 1),
        *(
            orjson.dumps({"sketches": [[*GOOD[:index], bad, *GOOD[index + 1 :]]], "limits": []})
            for index, bads in {
                0: (None, "x" * 300),
                1: (5,),
                3: (5,),
                4: (9, -1, "0", True),
                5: ("x", 1),
                6: ("other", None),
                7: ([[BUCKETS, 1]], [[-1, 1]], [[1, -1]], [[1, 1e300]], [[1]], [[1, "x"]], "x", 5),
            }.items()
            for bad in bads
        ),
        *(
            orjson.dumps({"sketches": [], "limits": [bad]})
            for bad in (
                *(5, [], [["cn", "", "m"], "0", 0], [["cn", "", "m"], "0", 10**9]),
                *([["cn", ""], "0", 1], [["cn", "", 5], "0", 1], [["cn", "", "m"], 5, 1]),
            )
        ),
    ],
)
def test_what_nobody_tells_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        lessons.read(body)


@given(
    st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(str)
)
def test_whatever_comes_is_lessons_or_a_value_error(body: bytes | str) -> None:
    with contextlib.suppress(ValueError):
        lessons.read(body if isinstance(body, bytes) else body.encode())


def test_the_most_that_is_told_can_be_read() -> None:
    weights = tuple((bucket, 0.123456789) for bucket in range(BUCKETS))
    sketches = tuple(
        Sketched("", f"model-{n}", "cn", None, 0, False, "content", weights) for n in range(2000)
    )
    limits = tuple(Limited(PLACE, str(n), 5) for n in range(2000))
    read = lessons.read(lessons.text(Lessons(sketches, limits)))
    assert read.sketches
    assert len(read.limits) == lessons.MOST


def test_bucket_numbers_mean_the_same_to_all() -> None:
    assert bucket_of(0.005) == 0
    assert bucket_of(600.0) == BUCKETS - 1


def test_what_a_caller_named_itself_is_not_told() -> None:
    """A model's name in a request is its caller's own text."""
    mine = Lessons(told(taught(1.0)), (Limited(PLACE, "0", 4),))
    assert lessons.of_models(mine, {"glm-4.6"}) == mine
    assert lessons.of_models(mine, {"glm-4.5"}) == Lessons()
