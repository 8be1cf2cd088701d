"""The stages of an exchange: consecutive, and nothing counted twice."""

from __future__ import annotations

import pytest

from proxy.core.record import Record
from proxy.observe.stages import stages
from tests.fakes.records import RECEIVED, a_loser, a_record, a_timeline, an_attempt


def seconds(record: Record) -> dict[str, float]:
    return {stage: round(span, 9) for stage, span in stages(record)}


def test_each_stage_begins_where_the_one_before_it_ended() -> None:
    assert seconds(a_record()) == {
        "receive": 0.001,
        "route": 0.003,
        "connect": 0.006,
        "upstream_headers": 0.190,
        "first_byte": 0.100,
        "first_token": 0.0,
        "commit": 0.001,
        "reasoning": 1.199,
        "stream": 1.0,
    }


def test_all_stages_of_a_completed_exchange_add_up_to_its_duration() -> None:
    record = a_record()
    assert sum(span for _, span in stages(record)) == pytest.approx(record.duration)


def test_the_stages_up_to_reasoning_add_up_to_first_content() -> None:
    record = a_record()
    before = [span for stage, span in stages(record) if stage != "stream"]
    assert sum(before) == pytest.approx(record.first_content)


def test_failed_attempts_before_the_one_that_answered_are_a_stage_of_their_own() -> None:
    failed = a_loser(started=RECEIVED + 0.002, sent=RECEIVED + 0.003)
    spans = seconds(a_record(attempts=(failed, an_attempt(started=RECEIVED + 0.008))))
    assert (spans["route"], spans["retry"], spans["connect"]) == (0.001, 0.006, 0.002)


def test_a_hedge_that_lost_is_not_taken_for_the_attempt_that_answered() -> None:
    primary = an_attempt(started=RECEIVED + 0.004, sent=RECEIVED + 2.0)
    hedge = a_loser(started=RECEIVED + 0.8, sent=RECEIVED + 0.81, role="hedge")
    later = dict.fromkeys(("headers", "first_byte", "committed", "first_content"), 2.2)
    spans = seconds(a_record(attempts=(primary, hedge), timeline=a_timeline(sent=2.0, **later)))
    assert (spans["retry"], spans["connect"]) == (0.0, 1.996)


def test_the_attempt_that_won_answers_however_near_another_was_sent() -> None:
    first = a_loser(started=RECEIVED + 0.004, sent=RECEIVED + 0.010)
    hedge = an_attempt(started=RECEIVED + 0.008, sent=RECEIVED + 0.011, role="hedge")
    spans = seconds(a_record(attempts=(first, hedge)))
    assert (spans["retry"], spans["connect"]) == (0.004, 0.002)


def test_without_a_winner_the_attempt_that_was_sent_last_is_the_one() -> None:
    tries = [a_loser(started=RECEIVED + at, sent=RECEIVED + at + 0.001) for at in (0.002, 0.007)]
    spans = seconds(a_record(attempts=tuple(tries), timeline=a_timeline(sent=0.008)))
    assert (spans["retry"], spans["connect"]) == (0.005, 0.001)


def test_the_wait_for_a_place_is_a_stage_before_the_connection() -> None:
    waited = an_attempt(started=RECEIVED + 0.008, waited=0.005)
    record = a_record(attempts=(waited,))
    spans = seconds(record)
    assert list(spans)[:4] == ["receive", "route", "admission", "connect"]
    assert (spans["route"], spans["admission"], spans["connect"]) == (0.002, 0.005, 0.002)
    assert sum(spans.values()) == pytest.approx(record.duration)


def test_who_did_not_wait_has_no_such_stage_and_a_second_wait_is_not_a_retry() -> None:
    assert "admission" not in seconds(a_record())
    failed = a_loser(started=RECEIVED + 0.003, waited=0.002, sent=RECEIVED + 0.004)
    again = an_attempt(started=RECEIVED + 0.009, waited=0.004, role="retry")
    spans = seconds(a_record(attempts=(failed, again)))
    assert "route" in spans
    assert (spans["route"], spans["retry"], spans["admission"]) == (0.0, 0.004, 0.004)


def test_an_exchange_that_was_refused_was_only_received() -> None:
    marks = dict.fromkeys(("sent", "headers", "first_byte", "first_content", "committed"), None)
    record = a_record(attempts=(), timeline=a_timeline(**marks), outcome="invalid_request")
    assert seconds(record) == {"receive": 0.001}


def test_an_early_commit_takes_no_time_away_from_the_upstream() -> None:
    spans = seconds(a_record(timeline=a_timeline(committed=0.05)))
    assert "commit" not in spans
    assert spans["upstream_headers"] == 0.190
    assert spans["reasoning"] == 1.2


def test_an_answer_without_content_goes_from_commit_to_its_end() -> None:
    spans = seconds(a_record(timeline=a_timeline(first_token=None, first_content=None)))
    assert "reasoning" not in spans
    assert spans["stream"] == 2.199


def test_an_answer_that_is_put_together_here_is_committed_after_its_last_event() -> None:
    """Its stream is the upstream's time, and no overhead of ours."""
    timeline = a_timeline(last_event=2.2, committed=2.201)
    record = a_record(timeline=timeline, stream=False)
    spans = seconds(record)
    assert list(spans)[-3:] == ["reasoning", "stream", "commit"]
    assert spans["commit"] == pytest.approx(0.001)
    sent = timeline.sent
    assert sent is not None
    assert record.overhead == pytest.approx(sent - RECEIVED + 0.001)
    assert (record.ttft, record.first_content) == (None, None)


def test_thinking_that_never_comes_to_text_is_reasoning_to_the_end() -> None:
    spans = seconds(a_record(timeline=a_timeline(first_content=None)))
    assert "stream" not in spans
    assert spans["reasoning"] == pytest.approx(2.5 - 0.301)
