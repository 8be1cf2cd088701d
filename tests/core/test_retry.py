"""What a failed attempt means, over every code and every error there is."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import errors
from proxy.core.policy.outcome import Outcome
from proxy.core.policy.retry import (
    ACCOUNT_REST,
    LONGEST_REST,
    OWN_LIMIT,
    SIGN_IN_REST,
    Failure,
    Reaction,
    Verdict,
    judge,
    retry_after,
)
from proxy.core.wire.anthropic import ANTHROPIC
from proxy.core.wire.glm import GLM
from proxy.errors import ProxyError, UpstreamError

RETURN, KEY, LIMIT = Reaction.RETURN, Reaction.KEY, Reaction.LIMIT
OVERLOAD, AGAIN, ELSEWHERE = Reaction.OVERLOAD, Reaction.AGAIN, Reaction.ELSEWHERE
FAILURE, NEUTRAL, SUCCESS = Outcome.FAILURE, Outcome.NEUTRAL, Outcome.SUCCESS

BODIES = Path(__file__).parents[1] / "data" / "glm" / "errors"
HOUR, DAY = 3600.0, 86_400.0
NOON = datetime(2026, 7, 18, 4, 0, 0, tzinfo=UTC).timestamp()  # at noon, Beijing time
OVERLOAD_WAIT = 30.0


def a_failure(**changes: Any) -> Failure:
    """An error the upstream told, on a fresh connection; keywords replace fields."""
    failure = Failure(
        error=None,
        status=None,
        code=None,
        message=None,
        retry_after=None,
        reused=False,
        answered=True,
    )
    return failure._replace(**changes)


def verdict(failure: Failure, *, again: int = 0, roll: float = 0.0, wall: float = NOON) -> Verdict:
    return judge(failure, again=again, roll=roll, wall=wall, overload_wait=OVERLOAD_WAIT)


def decided(failure: Failure) -> tuple[Reaction, Outcome]:
    return verdict(failure)[:2]


# --- the upstream's codes ----------------------------------------------------------------------

# status, code, who is asked next, what the breaker hears, the key's rest
CODES: list[tuple[int, str, Reaction, Outcome, float | None]] = [
    # who is asking: another key may know itself better
    (401, "1000", KEY, NEUTRAL, SIGN_IN_REST),
    (401, "1001", KEY, NEUTRAL, SIGN_IN_REST),
    (401, "1002", KEY, NEUTRAL, SIGN_IN_REST),
    (401, "1003", KEY, NEUTRAL, SIGN_IN_REST),
    (401, "1004", KEY, NEUTRAL, SIGN_IN_REST),
    (401, "1005", KEY, NEUTRAL, SIGN_IN_REST),
    # the account
    (429, "1110", KEY, NEUTRAL, ACCOUNT_REST),
    (429, "1111", KEY, NEUTRAL, ACCOUNT_REST),
    (429, "1112", KEY, NEUTRAL, ACCOUNT_REST),
    (429, "1113", KEY, NEUTRAL, ACCOUNT_REST),
    (429, "1120", AGAIN, NEUTRAL, None),
    (429, "1121", KEY, NEUTRAL, ACCOUNT_REST),
    # the request
    (400, "1210", RETURN, SUCCESS, None),
    (400, "1211", RETURN, SUCCESS, None),
    (400, "1212", RETURN, SUCCESS, None),
    (400, "1213", RETURN, SUCCESS, None),
    (400, "1214", RETURN, SUCCESS, None),
    (400, "1215", RETURN, SUCCESS, None),
    (403, "1220", RETURN, SUCCESS, None),
    (400, "1221", RETURN, SUCCESS, None),
    (400, "1222", RETURN, SUCCESS, None),
    (400, "1231", RETURN, SUCCESS, None),
    (400, "1261", RETURN, SUCCESS, None),
    (400, "1300", RETURN, SUCCESS, None),
    (400, "1301", RETURN, SUCCESS, None),
    # it failed and says so
    (500, "500", AGAIN, FAILURE, None),
    (500, "1200", AGAIN, FAILURE, None),
    (500, "1230", AGAIN, FAILURE, None),
    (500, "1234", AGAIN, FAILURE, None),
    # limits in flight, and the platform's load
    (429, "1302", LIMIT, NEUTRAL, None),
    (429, "1303", LIMIT, NEUTRAL, None),
    (429, "1305", OVERLOAD, NEUTRAL, None),
    (429, "1312", OVERLOAD, NEUTRAL, None),
    # quota: 1304 is the daily one, and it is noon
    (429, "1304", KEY, NEUTRAL, 12 * HOUR),
    (429, "1308", KEY, NEUTRAL, ACCOUNT_REST),
    (429, "1310", KEY, NEUTRAL, ACCOUNT_REST),
    (429, "1316", KEY, NEUTRAL, ACCOUNT_REST),
    (429, "1317", KEY, NEUTRAL, ACCOUNT_REST),
    (429, "1318", KEY, NEUTRAL, ACCOUNT_REST),
    (429, "1319", KEY, NEUTRAL, ACCOUNT_REST),
    (429, "1320", KEY, NEUTRAL, ACCOUNT_REST),
    (429, "1321", KEY, NEUTRAL, ACCOUNT_REST),
    # plan
    (429, "1309", KEY, NEUTRAL, ACCOUNT_REST),
    (429, "1311", KEY, NEUTRAL, ACCOUNT_REST),
    (429, "1313", KEY, NEUTRAL, ACCOUNT_REST),
    (429, "1314", KEY, NEUTRAL, ACCOUNT_REST),
    (429, "1315", KEY, NEUTRAL, ACCOUNT_REST),
    # Anthropic's names, where there is no number
    (400, "invalid_request_error", RETURN, SUCCESS, None),
    (403, "permission_error", RETURN, SUCCESS, None),
    (404, "not_found_error", RETURN, SUCCESS, None),
    (413, "request_too_large", RETURN, SUCCESS, None),
    (401, "authentication_error", KEY, NEUTRAL, SIGN_IN_REST),
    (402, "billing_error", KEY, NEUTRAL, ACCOUNT_REST),
    (429, "rate_limit_error", LIMIT, NEUTRAL, None),
    (500, "api_error", AGAIN, FAILURE, None),
    (504, "timeout_error", AGAIN, FAILURE, None),
    (529, "overloaded_error", OVERLOAD, FAILURE, None),
]


@pytest.mark.parametrize(("status", "code", "reaction", "outcome", "rest"), CODES)
def test_every_code_has_its_reaction(
    status: int, code: str, reaction: Reaction, outcome: Outcome, rest: float | None
) -> None:
    met = verdict(a_failure(status=status, code=code))
    rest = met.pause if code == "1303" else rest  # it was asked too often, with this key
    assert (met.reaction, met.outcome, met.rest) == (reaction, outcome, rest)


@pytest.mark.parametrize(("status", "code", "reaction", "outcome", "rest"), CODES)
def test_a_code_decides_the_same_as_the_first_event_of_a_stream(
    status: int, code: str, reaction: Reaction, outcome: Outcome, rest: float | None
) -> None:
    met = verdict(a_failure(status=200, code=code))
    rest = met.pause if code == "1303" else rest
    assert (met.reaction, met.rest) == (reaction, rest)
    assert met.outcome is {AGAIN: FAILURE, RETURN: SUCCESS}.get(reaction, NEUTRAL)


@pytest.mark.parametrize(("status", "code", "reaction", "outcome", "rest"), CODES)
def test_a_code_weighs_more_than_what_we_saw(
    status: int, code: str, reaction: Reaction, outcome: Outcome, rest: float | None
) -> None:
    failure = a_failure(status=200, code=code, error=errors.StreamCut("cut after its error event"))
    assert verdict(failure).reaction is reaction


def test_every_recorded_error_body_is_judged_by_its_code() -> None:
    """What the fixtures say of a retry is what happens, in both dialects."""
    table = {code: reaction for _, code, reaction, _, _ in CODES}
    with (BODIES / "INDEX.tsv").open() as index:
        rows = list(csv.DictReader(index, delimiter="\t"))
    assert len(rows) == 36
    for row in rows:
        code = GLM.error_code((BODIES / row["file"]).read_bytes())
        assert code is not None
        assert code == row["code"]
        reaction = decided(a_failure(status=int(row["http"]), code=code))[0]
        assert reaction is table[code]
        assert (reaction in (LIMIT, OVERLOAD, AGAIN)) == row["retry"].startswith("yes"), row
    for path in BODIES.glob("anthropic-*.json"):
        _, status, code, _ = path.name.split("-", 3)
        assert ANTHROPIC.error_code(path.read_bytes()) == code
        assert decided(a_failure(status=int(status), code=code))[0] is table[code]


@pytest.mark.parametrize("reason", ["network_error", "abort"])
def test_a_stream_that_finished_by_failing_is_made_again(reason: str) -> None:
    assert decided(a_failure(status=200, code=reason)) == (AGAIN, FAILURE)


def test_blanks_around_a_code_do_not_hide_it() -> None:
    assert decided(a_failure(status=400, code=" 1302 "))[0] is LIMIT


# --- the status, when the code says nothing ------------------------------------------------------


@pytest.mark.parametrize("code", [None, "", "9999", "no_such_code", "13020", "٤٠٤"])
@pytest.mark.parametrize(
    ("status", "reaction", "outcome"),
    [
        (400, RETURN, NEUTRAL),
        (401, KEY, NEUTRAL),
        (403, RETURN, NEUTRAL),
        (404, RETURN, NEUTRAL),
        (405, RETURN, NEUTRAL),
        (408, AGAIN, FAILURE),
        (413, RETURN, NEUTRAL),
        (422, RETURN, NEUTRAL),
        (429, OVERLOAD, NEUTRAL),
        (499, RETURN, NEUTRAL),
        (500, AGAIN, FAILURE),
        (501, ELSEWHERE, FAILURE),
        (502, AGAIN, FAILURE),
        (503, OVERLOAD, FAILURE),
        (504, AGAIN, FAILURE),
        (522, ELSEWHERE, FAILURE),
        (529, OVERLOAD, FAILURE),
        (302, ELSEWHERE, FAILURE),
        (200, ELSEWHERE, FAILURE),
        (None, ELSEWHERE, FAILURE),
    ],
)
def test_without_a_known_code_the_status_decides(
    status: int | None, code: str | None, reaction: Reaction, outcome: Outcome
) -> None:
    assert decided(a_failure(status=status, code=code)) == (reaction, outcome)
    if status is not None:
        said = errors.UpstreamSaid("it said", status=status, code=code)
        assert decided(a_failure(error=said, status=status, code=code)) == (reaction, outcome)


@pytest.mark.parametrize(
    ("code", "reaction"), [("401", KEY), ("404", RETURN), ("429", OVERLOAD), ("502", AGAIN)]
)
def test_a_code_that_is_a_status_counts_as_one_where_the_answer_came_with_200(
    code: str, reaction: Reaction
) -> None:
    assert decided(a_failure(status=200, code=code))[0] is reaction
    assert decided(a_failure(status=400, code=code))[0] is RETURN


# --- what we saw ourselves ----------------------------------------------------------------------

SEEN: list[tuple[type[ProxyError], Reaction, Outcome]] = [
    # nothing was sent, or it proves that nothing was done
    (errors.ConnectFailed, AGAIN, FAILURE),
    (errors.ConnectTimeout, AGAIN, FAILURE),
    (errors.Refused, AGAIN, FAILURE),
    (errors.PoolExhausted, AGAIN, NEUTRAL),
    (errors.EmptyStream, AGAIN, FAILURE),
    # it may be making the answer
    (errors.UpstreamReset, ELSEWHERE, FAILURE),
    (errors.UpstreamDead, ELSEWHERE, FAILURE),
    (errors.UpstreamProtocolError, ELSEWHERE, FAILURE),
    (errors.HeadersTimeout, ELSEWHERE, FAILURE),
    (errors.FirstTokenTimeout, ELSEWHERE, FAILURE),
    (errors.IdleTimeout, ELSEWHERE, FAILURE),
    (errors.TotalTimeout, ELSEWHERE, FAILURE),
    (errors.StreamCut, ELSEWHERE, FAILURE),
    (errors.GluedStream, ELSEWHERE, FAILURE),
    (errors.NotAStream, ELSEWHERE, FAILURE),
    (errors.EventTooLarge, ELSEWHERE, FAILURE),
    (errors.UpstreamError, ELSEWHERE, FAILURE),
    # no other candidate would do better, and it is not its fault
    (errors.AnswerTooLarge, RETURN, NEUTRAL),
    (errors.ClientGone, RETURN, NEUTRAL),
    (errors.ClientError, RETURN, NEUTRAL),
    (errors.RequestTooLarge, RETURN, NEUTRAL),
    (errors.InternalError, RETURN, NEUTRAL),
    (errors.Draining, RETURN, NEUTRAL),
]


@pytest.mark.parametrize(("kind", "reaction", "outcome"), SEEN)
@pytest.mark.parametrize("status", [None, 200])
def test_every_error_of_ours_has_its_reaction(
    kind: type[ProxyError], reaction: Reaction, outcome: Outcome, status: int | None
) -> None:
    met = verdict(a_failure(error=kind("it failed"), status=status))
    assert (met.reaction, met.outcome, met.rest) == (reaction, outcome, None)


def kinds_of(kind: type[ProxyError]) -> Iterator[type[ProxyError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from kinds_of(narrower)


def test_no_upstream_error_is_left_out_of_the_table() -> None:
    assert set(kinds_of(UpstreamError)) - {kind for kind, _, _ in SEEN} == {errors.UpstreamSaid}


@pytest.mark.parametrize("kind", [errors.UpstreamReset, errors.UpstreamDead])
@pytest.mark.parametrize(
    ("reused", "answered", "reaction"),
    [
        (True, False, AGAIN),
        (True, True, ELSEWHERE),
        (False, False, ELSEWHERE),
        (False, True, ELSEWHERE),
    ],
)
def test_a_reset_is_repeated_only_on_a_reused_connection_that_said_nothing(
    kind: type[ProxyError], reused: bool, answered: bool, reaction: Reaction
) -> None:
    failure = a_failure(error=kind("reset"), reused=reused, answered=answered)
    assert decided(failure) == (reaction, FAILURE)


def test_where_one_key_is_full_another_candidate_may_have_room() -> None:
    full = a_failure(error=errors.TooBusy("the queue is too long", retry_after=3.0))
    assert decided(full) == (ELSEWHERE, NEUTRAL)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"status": 429, "code": "1302"}, "1302"),
        ({"code": "1305", "error": errors.StreamCut("cut")}, "1305"),
        ({"status": 200, "error": errors.NotAStream("HTML")}, "upstream_not_a_stream"),
        ({"status": 503}, "status_503"),
    ],
)
def test_a_failure_has_one_word_for_the_log(changes: dict[str, Any], name: str) -> None:
    assert a_failure(**changes).name == name


def test_what_lowers_the_limit_in_flight_is_a_limit() -> None:
    """A frequency limit is none in flight: fewer at once would not help."""
    limits = {code for _, code, reaction, _, _ in CODES if reaction is LIMIT}
    assert limits - OWN_LIMIT == {"1303"}


# --- how long until it is asked again -------------------------------------------------------------


def pauses(roll: float, **changes: Any) -> list[float]:
    failure = a_failure(**changes)
    return [verdict(failure, again=again, roll=roll).pause for again in range(7)]


def test_a_failed_candidate_is_repeated_after_a_doubling_pause() -> None:
    assert pauses(1.0, code="1234") == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    assert pauses(0.0, code="1234") == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_the_own_limit_is_tried_again_soon_and_a_frequency_limit_later() -> None:
    assert pauses(1.0, code="1302") == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0])
    assert pauses(1.0, code="1303") == pytest.approx([1, 2, 4, 8, 16, 30, 30])


def test_a_pause_after_very_many_repeats_is_still_a_number() -> None:
    assert verdict(a_failure(code="1302"), again=10_000, roll=1.0).pause == 2.0


@pytest.mark.parametrize(("roll", "seconds"), [(0.0, 30.0), (0.5, 37.5), (1.0, 45.0)])
def test_an_overloaded_platform_is_left_alone_for_long(roll: float, seconds: float) -> None:
    assert verdict(a_failure(status=429, code="1305"), roll=roll).pause == seconds


@pytest.mark.parametrize("code", ["1305", "1302", "1234"])
@pytest.mark.parametrize(("header", "least"), [("50", 50.0), ("1000000000", 60.0)])
def test_retry_after_wins_where_it_is_longer(code: str, header: str, least: float) -> None:
    assert verdict(a_failure(code=code, retry_after=header), again=3, roll=1.0).pause == least


@pytest.mark.parametrize("header", ["0", "-5", "soon", ""])
def test_retry_after_never_makes_a_pause_shorter(header: str) -> None:
    assert verdict(a_failure(code="1305", retry_after=header)).pause == OVERLOAD_WAIT
    assert verdict(a_failure(code="1302", retry_after=header)).pause == 0.05


@pytest.mark.parametrize(
    "changes",
    [
        {"status": 429, "code": "1310"},
        {"status": 400, "code": "1210"},
        {"status": 501},
    ],
)
def test_what_is_not_asked_again_has_no_pause_either(changes: dict[str, Any]) -> None:
    """Another key takes over at once, whatever Retry-After says of this one."""
    assert verdict(a_failure(retry_after="30", **changes)).pause == 0.0


# --- how long a key rests -------------------------------------------------------------------------

QUOTA = ["1304", "1308", "1310", "1316", "1317", "1318", "1319", "1320", "1321"]


@pytest.mark.parametrize("code", QUOTA)
@pytest.mark.parametrize(
    "message",
    [
        "the weekly amount is used, resets at 2026-07-20 00:00:00",
        "[1310][您的限额将在 2026-07-20 00:00:00 重置][20260718093312b4c5d6e7f80912]",
        "将在2026-07-20T00:00:00重置。",
        "since 2026-07-13 00:00:00, resets at 2026-07-20 00:00:00, plan to 2026-12-31 00:00:00",
        "9999-99-99 99:99:99 resets at 2026-07-20 00:00:00",
    ],
)
def test_a_used_up_key_rests_until_the_reset_time_in_the_message(code: str, message: str) -> None:
    """The upstream's times are Beijing's: midnight there is 16:00 UTC of the day before."""
    reset = datetime(2026, 7, 19, 16, 0, 0, tzinfo=UTC).timestamp()
    rest = verdict(a_failure(code=code, message=message, retry_after="7")).rest
    assert rest == reset - NOON == 36 * HOUR


@pytest.mark.parametrize(
    "message",
    [
        None,
        "",
        "five-hour window used",
        "reset at 2026-07-18 11:59:59",
        "resets at 2026-13-45 00:00:00",
        "resets at 0001-01-01 00:00:00",
        "resets on 2026-07-20",
    ],
)
def test_without_a_reset_time_to_come_the_rest_is_the_usual_one(message: str | None) -> None:
    assert verdict(a_failure(code="1308", message=message)).rest == ACCOUNT_REST


def test_no_key_rests_for_more_than_a_week() -> None:
    message = "resets at 2030-01-01 00:00:00"
    assert verdict(a_failure(code="1310", message=message)).rest == LONGEST_REST == 7 * DAY
    assert verdict(a_failure(code="1310", retry_after="1000000000")).rest == LONGEST_REST


def test_a_reset_time_is_looked_for_only_where_a_quota_is_used_up() -> None:
    message = "the plan ended, pay before 2026-07-20 00:00:00"
    assert verdict(a_failure(code="1309", message=message)).rest == ACCOUNT_REST


def test_a_longer_retry_after_prolongs_the_rest_of_a_key() -> None:
    """Four days in one header were seen; it is the only place that says when a week is over."""
    assert verdict(a_failure(status=429, code="1310", retry_after="287441")).rest == 287_441.0
    assert verdict(a_failure(status=429, code="1310", retry_after="10")).rest == ACCOUNT_REST


@pytest.mark.parametrize(
    ("before_midnight", "rest"), [(1.0, 1.0), (HOUR, HOUR), (0.0, DAY), (-1.0, DAY - 1.0)]
)
def test_a_daily_quota_is_back_at_the_next_midnight_in_beijing(
    before_midnight: float, rest: float
) -> None:
    midnight = NOON + 12 * HOUR
    assert verdict(a_failure(code="1304"), wall=midnight - before_midnight).rest == rest


# --- Retry-After ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("   ", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1, 2", None),
        ("0x10", None),
        ("0", 0.0),
        ("30", 30.0),
        (" 30 ", 30.0),
        ("1.5", 1.5),
        ("60", 60.0),
        ("61", 60.0),
        ("287441", 60.0),
        ("1000000000", 60.0),
        ("1e9", 60.0),
        ("-1", 0.0),
        ("-1000000000", 0.0),
        ("Sat, 18 Jul 2026 04:00:20 GMT", 20.0),
        ("Saturday, 18-Jul-26 04:00:20 GMT", 20.0),
        ("Sat Jul 18 04:00:20 2026", 20.0),
        ("Sat, 18 Jul 2026 12:00:20 +0800", 20.0),
        ("Sat, 18 Jul 2026 03:59:59 GMT", 0.0),
        ("Sat, 18 Jul 2026 05:00:00 GMT", 60.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sat, 99 Jul 2026 04:00:20 GMT", None),
        (f"Sat, 18 Jul {10**30} 04:00:20 GMT", None),
    ],
)
def test_retry_after_is_read_in_every_form_and_clamped(
    value: str | None, seconds: float | None
) -> None:
    assert retry_after(value, NOON) == seconds


@given(st.integers(-1000, 1000))
def test_a_date_says_the_same_as_its_distance_in_seconds(distance: int) -> None:
    date = formatdate(NOON + distance, usegmt=True)
    assert retry_after(date, NOON) == retry_after(str(distance), NOON) == min(max(distance, 0), 60)


a_date = st.text(st.sampled_from("0123456789 :,-+GMTSatJul.\0٤")) | st.from_regex(
    r"(Sat, )?\d{1,40} Jul \d{1,40} \d{1,40}:\d{1,40}:\d{1,40} ([+-]\d{1,40}|GMT|PST)",
    fullmatch=True,
)


@given(st.text() | a_date)
def test_no_header_raises_or_asks_for_more_than_a_minute(value: str) -> None:
    seconds = retry_after(value, NOON)
    assert seconds is None or 0.0 <= seconds <= 60.0


# --- always ---------------------------------------------------------------------------------------

maybe_text = st.none() | st.text(max_size=40)
failures = st.builds(
    Failure,
    error=st.none() | st.sampled_from([kind("it failed") for kind, _, _ in SEEN]),
    status=st.none() | st.integers(100, 599),
    code=maybe_text | st.sampled_from([code for _, code, _, _, _ in CODES]),
    message=maybe_text | st.datetimes().map(lambda at: f"resets at {at:%Y-%m-%d %H:%M:%S}"),
    retry_after=maybe_text | st.integers().map(str),
    reused=st.booleans(),
    answered=st.booleans(),
)


@given(failures, st.integers(0, 100), st.floats(0, 1), st.floats(0, 4e9))
def test_whatever_failed_the_verdict_is_within_its_bounds(
    failure: Failure, again: int, roll: float, wall: float
) -> None:
    met = verdict(failure, again=again, roll=roll, wall=wall)
    assert 0.0 <= met.pause <= 60.0
    assert met.reaction is not KEY or met.rest is not None
    assert met.rest is None or met.reaction in (KEY, LIMIT)
    assert met.rest is None or 0.0 < met.rest <= LONGEST_REST
    assert met.outcome is not SUCCESS or met.reaction is RETURN
    if failure.status == 429 or met.reaction in (RETURN, KEY, LIMIT):
        assert met.outcome is not FAILURE
