"""Gaps, bursts and cuts of streams."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.core.flow.timeline import GAP_BOUNDS, Timeline
from proxy.observe.streams import came_at_once, was_cut
from tests.fakes.records import RECEIVED, a_record, a_timeline
from tests.observe.scraped import Scraped

WHERE = {"route": "fast-chat", "served_model": "glm-4-flash", "endpoint": "cn"}
GAPS = "glm_proxy_event_gap_seconds"


def a_stream(*reads: tuple[int, float]) -> Timeline:
    """A timeline with so many events in each read, so many seconds after arrival."""
    timeline = a_timeline(events=0, gaps=0, gap_sum=0.0, gap_max=0.0, last_event=None)
    for events, at in reads:
        timeline.burst(events, RECEIVED + at)
    return timeline


def test_every_gap_is_counted_and_those_inside_a_read_are_zero(scraped: Scraped) -> None:
    scraped.metrics.finish(a_record(timeline=a_stream((3, 1.0), (1, 1.02), (2, 4.02), (1, 50.0))))
    counts = {le: scraped.value(f"{GAPS}_bucket", le=le, **WHERE) for le in ("0.001", "0.01")}
    assert counts == {"0.001": 3, "0.01": 3}
    assert scraped.value(f"{GAPS}_bucket", le="0.025", **WHERE) == 4
    assert scraped.value(f"{GAPS}_bucket", le="5.0", **WHERE) == 5
    assert scraped.value(f"{GAPS}_bucket", le="30.0", **WHERE) == 5
    assert scraped.value(f"{GAPS}_count", **WHERE) == 6
    assert scraped.value(f"{GAPS}_sum", **WHERE) == pytest.approx(49.0)


def test_an_answer_in_one_read_has_only_gaps_of_zero(scraped: Scraped) -> None:
    scraped.metrics.finish(a_record(timeline=a_stream((20, 1.0))))
    assert scraped.value(f"{GAPS}_bucket", le=str(GAP_BOUNDS[0]), **WHERE) == 19
    assert scraped.value(f"{GAPS}_sum", **WHERE) == 0


def test_one_event_has_no_gap(scraped: Scraped) -> None:
    scraped.metrics.finish(a_record(timeline=a_stream((1, 1.0))))
    assert scraped.total(f"{GAPS}_count") == 0


AT_ONCE = ((30, 9.0), (70, 9.05))


@pytest.mark.parametrize(
    ("reads", "changes", "burst"),
    [
        pytest.param(AT_ONCE, {}, True, id="two reads, 50 ms apart"),
        pytest.param(((100, 9.0),), {}, True, id="one read"),
        pytest.param(((10, 9.0),), {}, True, id="ten events"),
        pytest.param(((9, 9.0),), {}, False, id="nine may come together"),
        pytest.param(((50, 9.0), (50, 9.1)), {}, False, id="a fast model: 1,000 a second"),
        pytest.param(((1, 0.5), (99, 9.0)), {}, False, id="the first event came before"),
        pytest.param((), {}, False, id="no event"),
        pytest.param(AT_ONCE, {"status": 502}, False, id="an error"),
        pytest.param(AT_ONCE, {"stream": False}, False, id="a whole answer is one by nature"),
        pytest.param(AT_ONCE, {"shared": True}, False, id="who joins late gets it at once"),
    ],
)
def test_a_whole_answer_at_once_is_a_burst(
    scraped: Scraped, reads: tuple[tuple[int, float], ...], changes: dict[str, Any], burst: bool
) -> None:
    record = a_record(timeline=a_stream(*reads), **changes)
    assert came_at_once(record) is burst
    scraped.metrics.finish(record)
    counted = scraped.value("glm_proxy_bursts_total", **WHERE)
    assert counted == (1 if burst else None)


@pytest.mark.parametrize(
    ("outcome", "changes", "cut"),
    [
        pytest.param("upstream_cut", {}, True, id="upstream closed"),
        pytest.param("idle_timeout", {}, True, id="upstream fell silent"),
        pytest.param("upstream_failed", {}, True, id="upstream told an error"),
        pytest.param("proxy_draining", {}, True, id="we stopped"),
        pytest.param("completed", {}, False, id="whole"),
        pytest.param("client_gone", {}, False, id="the client's own wish"),
        pytest.param("upstream_failed", {"status": 429}, False, id="an error answer"),
        pytest.param("upstream_cut", {"stream": False}, False, id="not a stream"),
        pytest.param(
            "upstream_cut", {"timeline": a_timeline(committed=None)}, False, id="before the commit"
        ),
    ],
)
def test_a_stream_that_broke_off_is_counted_by_its_cause(
    scraped: Scraped, outcome: str, changes: dict[str, Any], cut: bool
) -> None:
    record = a_record(outcome=outcome, **changes)
    assert was_cut(record) is cut
    scraped.metrics.finish(record)
    assert scraped.value("glm_proxy_cuts_total", cause=outcome, **WHERE) == (1 if cut else None)
    assert scraped.total("glm_proxy_cuts_total") == cut


def test_a_made_up_cause_is_another(scraped: Scraped) -> None:
    scraped.metrics.finish(a_record(outcome="boredom"))
    assert scraped.value("glm_proxy_cuts_total", cause="other", **WHERE) == 1
