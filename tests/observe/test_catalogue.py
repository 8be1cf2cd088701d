"""What the code says about each metric, against what each metric is."""

from __future__ import annotations

import pytest
from prometheus_client.core import Metric

from proxy.core.record import Usage
from proxy.observe import labels, stages
from proxy.observe.catalogue import MERGE, Entry
from proxy.observe.legend import label_of, legend
from proxy.observe.table import entries
from tests.fakes.records import a_record

ENTRIES = entries()
LEGEND = legend()
COUNTS = {
    # Gauges: what there is of something now.
    *(
        "exchanges_in_flight",
        "pool_connections",
        "pool_streams",
        "pool_waiting",
        "workers",
        "workers_silent",
    ),
    *("admission_waiting", "admission_in_flight", "admission_limit", "admission_resting_keys"),
    *("open_fds", "max_fds", "websockets", "kept_streams"),
}


def test_every_metric_has_a_prefix_of_ours_or_of_a_convention() -> None:
    assert len(ENTRIES) > 60
    assert all(one.name.startswith(("glm_proxy_", "gen_ai_", "process_")) for one in ENTRIES)


@pytest.mark.parametrize("one", ENTRIES, ids=lambda one: one.name)
def test_a_metric_says_what_it_means_and_in_which_unit(one: Entry) -> None:
    assert one.meaning.endswith(".")
    assert len(one.meaning) > 15
    assert one.name.endswith("_total") is (one.kind == "counter")
    assert one.name.endswith("_info") is (one.kind == "info")
    if one.unit == "count":
        short = one.name.removeprefix("glm_proxy_").removeprefix("process_")
        assert one.kind == "counter" or short in COUNTS
    if one.unit in ("s", "s, unix time"):
        assert "second" in one.meaning.lower()


@pytest.mark.parametrize("one", ENTRIES, ids=lambda one: one.name)
def test_every_label_is_explained(one: Entry) -> None:
    for name in one.labels:
        assert label_of(LEGEND, one.name, name) is not None, name


def test_every_explanation_is_of_a_label_that_there_is() -> None:
    used = {(one.name, name) for one in ENTRIES for name in one.labels}
    needed = {label_of(LEGEND, metric, name) for metric, name in used}
    assert [one for one in LEGEND if one not in needed] == []
    for one in LEGEND:
        assert all((metric, one.name) in used for metric in one.metrics), one
        assert one.meaning.endswith(".")


def test_how_processes_are_merged_is_said_of_every_gauge_and_of_nothing_else() -> None:
    gauges = {one.name.removesuffix("_info") for one in ENTRIES if one.kind in ("gauge", "info")}
    assert set(MERGE) == gauges
    assert all(one.merge == "sum" for one in ENTRIES if one.kind in ("counter", "histogram"))


@pytest.mark.parametrize("kind", ["gauge", "unknown", "info", "summary"])
def test_a_metric_of_which_nothing_is_said_is_an_error(kind: str) -> None:
    with pytest.raises(KeyError):
        Entry.of(Metric("glm_proxy_new", "Something.", kind), ())


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("glm_proxy_stage_seconds", "s"),
        ("glm_proxy_certificate_expiry_timestamp_seconds", "s, unix time"),
        ("process_start_time_seconds", "s, unix time"),
        ("process_cpu_seconds_total", "s"),
        ("glm_proxy_request_bytes_total", "bytes"),
        ("glm_proxy_tokens_total", "tokens"),
        ("glm_proxy_prediction_ratio", "ratio"),
        ("glm_proxy_breaker_state", "0 or 1"),
        ("glm_proxy_build_info", "1"),
        ("glm_proxy_hedges_total", "count"),
    ],
)
def test_a_unit_is_read_from_the_name(name: str, unit: str) -> None:
    assert next(one for one in ENTRIES if one.name == name).unit == unit


def test_the_words_for_tokens_and_stages_are_those_that_are_counted() -> None:
    assert tuple(kind for kind, _ in labels.token_counts(Usage())) == labels.TOKENS
    told = [stage for stage, _ in stages.stages(a_record())]
    assert [stage for stage in stages.NAMES if stage in told] == told
