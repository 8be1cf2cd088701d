"""What was decided about an exchange, and what it cost, in the metrics."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.core.record import Usage
from tests.fakes.records import RECEIVED, a_loser, a_record, an_attempt
from tests.observe.scraped import Scraped

ROUTE = {"route": "fast-chat"}
WHERE = {"served_model": "glm-4-flash", "endpoint": "cn"}
HEDGES = "glm_proxy_hedges_total"
RETRIES = "glm_proxy_retries_total"
PREDICTION = "glm_proxy_prediction_ratio"


def test_the_reason_of_a_choice_is_counted_when_there_was_one(scraped: Scraped) -> None:
    for reason in ("fastest", "fastest", "explore", "a whim", None):
        scraped.metrics.finish(a_record(reason=reason))
    counts = {
        reason: scraped.value("glm_proxy_choices_total", reason=reason, **ROUTE)
        for reason in ("fastest", "explore", "other", "none")
    }
    assert counts == {"fastest": 2, "explore": 1, "other": 1, "none": None}


def test_a_changed_field_is_counted_by_its_name_and_not_by_its_value(scraped: Scraped) -> None:
    scraped.metrics.finish(a_record(changes=("model", "thinking=disabled", "-tools")))
    scraped.metrics.finish(a_record(changes=("thinking=enabled", "made_up=1", "-made_up")))
    counts = {
        change: scraped.value("glm_proxy_rewrites_total", change=change, **ROUTE)
        for change in ("model", "thinking", "-tools", "tools", "other")
    }
    assert counts == {"model": 1, "thinking": 2, "-tools": 1, "tools": None, "other": 2}


def test_hedges_are_counted_as_decided_and_as_they_ended(scraped: Scraped) -> None:
    hedge_won = (a_loser(), an_attempt(role="hedge"))
    hedge_lost = (an_attempt(), a_loser(role="hedge"))
    for attempts in (hedge_won, hedge_lost, hedge_lost):
        scraped.metrics.finish(a_record(attempts=attempts, decisions=("hedge_started",)))
    for reason in ("budget", "admission", "errors", "slow", "mood"):
        scraped.metrics.finish(a_record(decisions=(f"hedge_denied_{reason}",)))
    counts = {
        result: scraped.value(HEDGES, result=result, **ROUTE)
        for result in ("started", "won", "lost", "denied_budget", "denied_slow", "other")
    }
    assert counts == {
        "started": 3,
        "won": 1,
        "lost": 2,
        "denied_budget": 1,
        "denied_slow": 1,
        "other": 1,
    }
    assert scraped.total(HEDGES) == 3 + 3 + 5


def test_a_retry_is_counted_at_the_endpoint_that_failed_so(scraped: Scraped) -> None:
    """The hedge failed first though it was started last."""
    slow = a_loser(endpoint="cn", outcome="first_token_timeout")
    hedge = a_loser(endpoint="global", outcome="upstream_failed", upstream_code="1305")
    scraped.metrics.finish(
        a_record(
            attempts=(slow, hedge, an_attempt(role="failover")),
            decisions=(
                "hedge_started",
                "retry_overload:1305",
                "retry_elsewhere:first_token_timeout",
            ),
        )
    )
    overload = {"endpoint": "global", "code": "1305", "decision": "overload"}
    assert scraped.value(RETRIES, **overload) == 1
    late = {"endpoint": "cn", "code": "first_token_timeout", "decision": "elsewhere"}
    assert scraped.value(RETRIES, **late) == 1
    assert scraped.total(RETRIES) == 2


def test_two_failures_with_one_code_are_counted_each_at_its_own_endpoint(scraped: Scraped) -> None:
    failed = {"outcome": "upstream_failed", "upstream_code": "1302"}
    tries = (a_loser(endpoint="cn", **failed), a_loser(endpoint="global", **failed))
    decisions = ("retry_limit:1302", "retry_denied_budget:1302")
    scraped.metrics.finish(a_record(attempts=tries, decisions=decisions))
    counts = [
        scraped.value(RETRIES, endpoint=endpoint, code="1302", decision=decision)
        for endpoint, decision in (("cn", "limit"), ("global", "denied_budget"))
    ]
    assert counts == [1, 1]


@pytest.mark.parametrize(
    ("decision", "code", "labels"),
    [
        ("retry_again:status_503", "status_503", {"endpoint": "global", "decision": "again"}),
        ("retry_key:made up", "other", {"endpoint": "cn", "decision": "key"}),
        ("retry_overload:1305", "1305", {"endpoint": "cn", "decision": "overload"}),
        ("retry_again", "none", {"endpoint": "cn", "decision": "again"}),
        ("retry_never:status_299", "other", {"endpoint": "cn", "decision": "other"}),
    ],
)
def test_a_failure_without_a_code_we_know_is_counted_all_the_same(
    scraped: Scraped, decision: str, code: str, labels: dict[str, str]
) -> None:
    """A decision that fits no attempt's end is about the first that brought nothing."""
    tries = (an_attempt(endpoint="global"), a_loser(endpoint="cn"), a_loser(status=503))
    scraped.metrics.finish(a_record(attempts=tries, decisions=(decision,)))
    assert scraped.value(RETRIES, code=code, **labels) == 1
    assert scraped.total(RETRIES) == 1


def test_a_failure_that_became_the_answer_is_counted_at_its_endpoint(scraped: Scraped) -> None:
    decisions = ("retry_denied_count:1230", "retry_again:1230")
    scraped.metrics.finish(a_record(decisions=decisions))
    denied = {"endpoint": "cn", "code": "1230", "decision": "denied_count"}
    assert scraped.value(RETRIES, **denied) == 1
    nowhere = {"endpoint": "none", "code": "1230", "decision": "again"}
    assert scraped.value(RETRIES, **nowhere) == 1


def test_a_failover_is_counted_from_the_attempt_before_it(scraped: Scraped) -> None:
    both = (a_loser(endpoint="cn"), a_loser(role="failover"), an_attempt(role="failover"))
    after_a_retry = (a_loser(), a_loser(endpoint="cn", role="retry"), an_attempt(role="failover"))
    for attempts in (both, after_a_retry):
        scraped.metrics.finish(a_record(attempts=attempts))
    counts = {
        (start, end): scraped.value(
            "glm_proxy_failovers_total", from_endpoint=start, to_endpoint=end, **ROUTE
        )
        for start in ("cn", "global")
        for end in ("cn", "global")
    }
    assert counts == {
        ("cn", "cn"): 1,
        ("cn", "global"): 1,
        ("global", "cn"): 1,
        ("global", "global"): None,
    }


@pytest.mark.parametrize(
    ("attempt", "predicted", "ratio"),
    [
        pytest.param({}, 2.992, 0.5, id="sooner than said"),
        pytest.param({"waited": 1.496}, 1.496, 2.0, id="the wait for a place counts"),
        pytest.param({"won": False, "first_content": None}, 1.223, 2.0, id="given up late"),
        pytest.param({"won": False, "first_content": None}, 9.0, None, id="given up before"),
        pytest.param({"first_content": None}, 0.5, None, id="an answer without content"),
        pytest.param({}, None, None, id="nothing was said"),
        pytest.param({}, 0.0, None, id="nothing is no prediction"),
    ],
)
def test_a_prediction_is_measured_by_what_came(
    scraped: Scraped, attempt: dict[str, Any], predicted: float | None, ratio: float | None
) -> None:
    """The attempt starts at 4 ms, has content at 1.5 s and ends at 2.45 s."""
    attempts = (an_attempt(**attempt), a_loser(role="hedge"))
    scraped.metrics.finish(a_record(attempts=attempts, predicted=predicted))
    total = scraped.value(f"{PREDICTION}_sum", **ROUTE, **WHERE)
    assert total == (None if ratio is None else pytest.approx(ratio))


def test_what_was_predicted_is_observed_of_the_candidate_chosen_first(scraped: Scraped) -> None:
    tries = (a_loser(), an_attempt(role="failover"))
    for predicted in (1.5, 2.5, None, 0.0):
        scraped.metrics.finish(a_record(attempts=tries, predicted=predicted))
    name = "glm_proxy_predicted_first_content_seconds"
    first = WHERE | {"endpoint": "global"}
    assert scraped.value(f"{name}_sum", **ROUTE, **first) == 4.0
    assert scraped.value(f"{name}_count", **ROUTE, **first) == 2
    assert scraped.total(f"{name}_count") == 2


def test_whether_a_whole_answer_was_late_is_not_known(scraped: Scraped) -> None:
    lost = an_attempt(won=False, first_content=None)
    scraped.metrics.finish(a_record(attempts=(lost,), predicted=1.0, stream=False))
    assert scraped.total(f"{PREDICTION}_count") == 0


def test_the_share_of_predictions_that_were_kept_is_a_ratio_of_two_series(
    scraped: Scraped,
) -> None:
    for seconds in (0.5, 1.9, 2.0, 2.1):
        attempt = an_attempt(started=RECEIVED, first_content=RECEIVED + seconds)
        scraped.metrics.finish(a_record(attempts=(attempt,), predicted=2.0))
    assert scraped.value(f"{PREDICTION}_bucket", le="1.0", **ROUTE, **WHERE) == 3
    assert scraped.value(f"{PREDICTION}_count", **ROUTE, **WHERE) == 4


def test_only_attempts_that_waited_for_a_place_are_in_the_waits(scraped: Scraped) -> None:
    scraped.metrics.finish(a_record(attempts=(an_attempt(waited=0.75),)))
    scraped.metrics.finish(a_record())
    name = "glm_proxy_admission_wait_seconds"
    assert scraped.value(f"{name}_sum", **WHERE) == 0.75
    assert scraped.value(f"{name}_count", **WHERE) == 1


def test_an_exchange_that_got_no_place_is_counted(scraped: Scraped) -> None:
    scraped.metrics.finish(a_record(attempts=(), outcome="admission_refused", status=429))
    scraped.metrics.finish(a_record())
    name = "glm_proxy_admission_refused_total"
    assert scraped.value(name, endpoint="cn", **ROUTE) == 1
    assert scraped.total(name) == 1


def test_what_nobody_read_is_counted_apart(scraped: Scraped) -> None:
    usage = Usage(input_tokens=10, output_tokens=3, cached_tokens=-2)
    lost = a_loser(role="hedge", usage=usage)
    unsent = a_loser(role="retry", sent=None, usage=usage)
    scraped.metrics.finish(a_record(attempts=(an_attempt(usage=usage), lost, unsent)))
    scraped.metrics.finish(a_record(attempts=(a_loser(role="hedge"),), usage=None))
    attempts = "glm_proxy_lost_attempts_total"
    assert scraped.value(attempts, endpoint="global", role="hedge") == 2
    assert scraped.total(attempts) == 2
    tokens = {
        kind: scraped.value("glm_proxy_lost_tokens_total", type=kind, endpoint="global")
        for kind in ("input", "output", "cached", "reasoning")
    }
    assert tokens == {"input": 10, "output": 3, "cached": 0, "reasoning": None}
    assert scraped.total("glm_proxy_tokens_total") == 12 + 101 + 4 + 60


def test_what_a_hedge_cost_is_what_was_asked_besides_the_answer(scraped: Scraped) -> None:
    usage = Usage(input_tokens=10, output_tokens=3)
    won = (a_loser(usage=usage), an_attempt(role="hedge", usage=usage))
    lost = (an_attempt(), a_loser(role="hedge"))
    unsent = (an_attempt(), a_loser(role="hedge", sent=None, usage=usage))
    nobody = (a_loser(endpoint="cn"), a_loser(role="hedge", usage=usage))
    retried = (a_loser(usage=usage), an_attempt(role="retry"))
    for attempts in (won, lost, unsent, nobody, retried):
        scraped.metrics.finish(a_record(attempts=attempts))
    name = "glm_proxy_hedge_extra_attempts_total"
    extra = [scraped.value(name, endpoint=endpoint, **ROUTE) for endpoint in ("cn", "global")]
    assert extra == [1, 3]
    tokens = {
        kind: scraped.value(
            "glm_proxy_hedge_extra_tokens_total", type=kind, endpoint="global", **ROUTE
        )
        for kind in ("input", "output", "cached")
    }
    assert tokens == {"input": 20, "output": 6, "cached": None}
    assert scraped.total("glm_proxy_lost_attempts_total") == 5


def test_nothing_that_was_passed_through_is_lost(scraped: Scraped) -> None:
    scraped.metrics.finish(a_record(kind="passthrough", attempts=(a_loser(),)))
    assert scraped.total("glm_proxy_lost_attempts_total") == 0


def test_a_shared_answer_is_counted(scraped: Scraped) -> None:
    scraped.metrics.finish(a_record(shared=True, attempts=()))
    scraped.metrics.finish(a_record())
    assert scraped.value("glm_proxy_shared_answers_total", **ROUTE) == 1


def test_a_plain_exchange_counts_its_choice_and_no_other_decision(scraped: Scraped) -> None:
    scraped.metrics.finish(a_record())
    counted = {
        name
        for name in (
            *("choices", "rewrites", "hedges", "retries", "failovers", "shared_answers"),
            *("lost_attempts", "lost_tokens", "admission_refused"),
        )
        if scraped.total(f"glm_proxy_{name}_total")
    }
    assert counted == {"choices"}
