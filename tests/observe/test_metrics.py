"""What a finished exchange, and the life of a connection, leave in the metrics."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import parser as open_metrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from proxy import __version__
from proxy.core.record import Record, SpanIds, Usage
from proxy.observe.labels import FORMER, LabelNames
from tests.fakes.records import RECEIVED, a_loser, a_record, a_timeline, an_attempt
from tests.observe.scraped import Scraped

parse_open_metrics: Callable[[str], Iterable[Metric]] = open_metrics.text_string_to_metric_families

EXCHANGE = {
    "kind": "chat",
    "route": "fast-chat",
    "requested_model": "glm-4.6",
    "served_model": "glm-4-flash",
    "endpoint": "cn",
    "stream": "true",
}
SERVER = {
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "zhipu",
    "gen_ai_request_model": "glm-4.6",
    "gen_ai_response_model": "glm-4-flash",
}
CLIENT = SERVER | {"gen_ai_request_model": "glm-4-flash", "endpoint": "cn"}
WHERE = {"route": "fast-chat", "served_model": "glm-4-flash", "endpoint": "cn"}
CONNECTION = {"endpoint": "cn", "protocol": "h2", "reused": "true"}


@pytest.mark.parametrize(
    ("name", "labels", "seconds"),
    [
        ("gen_ai_server_time_to_first_token_seconds", SERVER, 0.3),
        ("gen_ai_server_request_duration_seconds", SERVER | {"error_type": ""}, 2.5),
        ("gen_ai_server_time_per_output_token_seconds", SERVER, 2.2 / 100),
        ("gen_ai_client_operation_duration_seconds", CLIENT | {"error_type": ""}, 2.446),
        ("gen_ai_client_operation_time_to_first_chunk_seconds", CLIENT, 0.296),
        ("gen_ai_client_token_usage", SERVER | {"gen_ai_token_type": "input"}, 12),
        ("gen_ai_client_token_usage", SERVER | {"gen_ai_token_type": "output"}, 101),
        ("glm_proxy_time_to_first_byte_seconds", EXCHANGE, 0.301),
        ("glm_proxy_time_to_first_token_seconds", EXCHANGE, 0.3),
        ("glm_proxy_first_content_seconds", EXCHANGE, 1.5),
        ("glm_proxy_duration_seconds", EXCHANGE, 2.5),
        ("glm_proxy_stage_seconds", WHERE | {"stage": "reasoning"}, 1.199),
        ("glm_proxy_upstream_headers_seconds", CONNECTION, 0.19),
        ("glm_proxy_upstream_first_byte_seconds", CONNECTION, 0.29),
        (
            "glm_proxy_overhead_seconds",
            {"kind": "chat", "route": "fast-chat", "stream": "true"},
            0.011,
        ),
        ("glm_proxy_event_gap_mean_seconds", WHERE, 0.525),
        ("glm_proxy_event_gap_max_seconds", WHERE, 1.2),
    ],
)
def test_a_finished_stream_is_observed_once_with_its_span(
    scraped: Scraped, name: str, labels: dict[str, str], seconds: float
) -> None:
    scraped.metrics.finish(a_record())
    assert scraped.value(f"{name}_count", **labels) == 1
    assert scraped.value(f"{name}_sum", **labels) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("name", "labels", "count"),
    [
        ("glm_proxy_exchanges_total", {"outcome": "completed", "status_class": "2xx"}, 1),
        ("glm_proxy_heartbeats_total", None, 3),
    ],
)
def test_a_finished_stream_is_counted(
    scraped: Scraped, name: str, labels: dict[str, str] | None, count: float
) -> None:
    scraped.metrics.finish(a_record(heartbeats=3))
    of = {} if labels is None else EXCHANGE | labels
    assert scraped.value(name, **of) == count


def test_bytes_and_tokens_add_up(scraped: Scraped) -> None:
    for _ in range(2):
        scraped.metrics.finish(a_record())
    of = {"kind": "chat", "route": "fast-chat"}
    assert scraped.value("glm_proxy_request_bytes_total", **of) == 600
    assert scraped.value("glm_proxy_response_bytes_total", **of) == 18000
    where = WHERE | {"requested_model": "glm-4.6"}
    kinds = ("input", "output", "cached", "reasoning")
    tokens = [scraped.value("glm_proxy_tokens_total", type=kind, **where) for kind in kinds]
    assert tokens == [24, 202, 8, 120]


def test_the_share_within_the_target_is_a_ratio_of_two_series(scraped: Scraped) -> None:
    for seconds in (1.0, 5.0, 5.001, 20.0):
        timeline = a_timeline(first_content=seconds, finished=30.0)
        scraped.metrics.finish(a_record(timeline=timeline))
    name = "glm_proxy_first_content_seconds"
    assert scraped.value(f"{name}_bucket", le="5.0", **EXCHANGE) == 2
    assert scraped.value(f"{name}_count", **EXCHANGE) == 4


def test_in_flight_rises_when_an_exchange_starts_and_falls_once_when_it_ends(
    scraped: Scraped,
) -> None:
    scraped.metrics.started()
    scraped.metrics.started()
    assert scraped.value("glm_proxy_exchanges_in_flight") == 2
    scraped.metrics.finish(a_record(attempts=(an_attempt(), an_attempt())))
    assert scraped.value("glm_proxy_exchanges_in_flight") == 1


def test_each_attempt_is_counted_with_its_own_outcome(scraped: Scraped) -> None:
    outcome = "upstream_connect_failed"
    failed = a_loser(outcome=outcome, protocol=None, sent=None, reused=False)
    scraped.metrics.finish(a_record(attempts=(failed, an_attempt(role="failover"))))
    attempts = "glm_proxy_attempts_total"
    model = {"served_model": "glm-4-flash"}
    good = {"endpoint": "cn", "role": "failover", "outcome": "completed"}
    assert scraped.value(attempts, **good, **model) == 1
    bad = {"endpoint": "global", "role": "first", "outcome": outcome}
    assert scraped.value(attempts, **bad, **model) == 1
    assert scraped.total("glm_proxy_upstream_headers_seconds_count") == 1
    error = CLIENT | {"endpoint": "global", "error_type": "upstream_connect_failed"}
    assert scraped.value("gen_ai_client_operation_duration_seconds_count", **error) == 1


def test_a_client_that_left_is_counted_by_how_far_it_came(scraped: Scraped) -> None:
    gone = a_record(outcome="client_gone", stage="waiting", status=None, usage=None)
    scraped.metrics.finish(gone)
    leaves = "glm_proxy_client_leaves_total"
    assert scraped.value(leaves, stage="waiting", route="fast-chat") == 1
    ended = EXCHANGE | {"outcome": "client_gone", "status_class": "none"}
    assert scraped.value("glm_proxy_exchanges_total", **ended) == 1


def test_an_upstream_error_is_counted_by_its_code_when_the_code_is_known(
    scraped: Scraped,
) -> None:
    for code in ("1302", "1302", "I made this up", "1113"):
        scraped.metrics.finish(a_record(upstream_code=code, outcome="upstream_failed"))
    errors = "glm_proxy_upstream_errors_total"
    counts = [scraped.value(errors, endpoint="cn", code=c) for c in ("1302", "1113", "other")]
    assert counts == [2, 1, 1]


def test_time_per_token_needs_a_completed_stream_and_two_tokens(scraped: Scraped) -> None:
    for record in (
        a_record(outcome="upstream_cut"),
        a_record(stream=False),
        a_record(usage=None),
        a_record(usage=Usage(input_tokens=3, output_tokens=1)),
        a_record(usage=Usage(input_tokens=3)),
        a_record(timeline=a_timeline(first_token=None)),
    ):
        scraped.metrics.finish(record)
    assert scraped.total("gen_ai_server_time_per_output_token_seconds_count") == 0


def test_an_exchange_that_reached_nothing_observes_only_its_duration(scraped: Scraped) -> None:
    never = dict.fromkeys(
        ("parsed", "sent", "headers", "first_byte", "first_event", "first_token"), None
    )
    timeline = a_timeline(
        **never, committed=None, first_content=None, events=0, gaps=0, gap_sum=0.0, gap_max=0.0
    )
    scraped.metrics.finish(
        a_record(
            timeline=timeline,
            attempts=(),
            usage=None,
            route="default",
            requested_model=None,
            served_model=None,
            endpoint=None,
            status=None,
            outcome="client_gone",
            stage="reading",
        )
    )
    scraped.metrics.scrape("")
    observed = {
        sample.name
        for family in scraped.registry.collect()
        for sample in family.samples
        if sample.name.endswith("_count") and sample.value
    }
    assert observed == {
        "gen_ai_server_request_duration_seconds_count",
        "glm_proxy_duration_seconds_count",
    }


def test_a_whole_answer_has_no_time_to_first_token_by_opentelemetry(scraped: Scraped) -> None:
    scraped.metrics.finish(a_record(stream=False))
    for name in (
        "gen_ai_server_time_to_first_token_seconds_count",
        "gen_ai_client_operation_time_to_first_chunk_seconds_count",
    ):
        assert scraped.total(name) == 0
    assert scraped.total("gen_ai_server_request_duration_seconds_count") == 1


def test_a_passed_through_exchange_is_not_in_the_chat_figures(scraped: Scraped) -> None:
    scraped.metrics.finish(a_record(kind="passthrough", requested_model=None, served_model=None))
    for name in (
        "gen_ai_server_request_duration_seconds_count",
        "gen_ai_client_operation_duration_seconds_count",
        "glm_proxy_first_content_seconds_count",
        "glm_proxy_stage_seconds_count",
    ):
        assert scraped.total(name) == 0
    assert scraped.total("glm_proxy_time_to_first_byte_seconds_count") == 1
    assert scraped.total("glm_proxy_exchanges_total") == 1


def test_nonsense_from_the_upstream_and_marks_out_of_order_harm_nothing(
    scraped: Scraped,
) -> None:
    scraped.metrics.started()
    usage = Usage(input_tokens=-5, output_tokens=0, cached_tokens=-1)
    timeline = a_timeline(committed=0.0001, first_token=-1.0)
    scraped.metrics.finish(a_record(usage=usage, timeline=timeline, heartbeats=-1))
    assert scraped.value("glm_proxy_exchanges_in_flight") == 0
    assert "-" not in {line.rpartition(" ")[2][:1] for line in scraped.text().splitlines()}


def test_the_life_of_connections_is_counted(scraped: Scraped) -> None:
    metrics = scraped.metrics
    metrics.connected("cn", 0.001, 0.02, 0.03, "h2")
    metrics.connected("cn", None, 0.02, None, "http/1.1")
    metrics.connect_failed("global", "upstream_connect_timeout")
    metrics.connection_closed("cn", "goaway", 61.0)
    result = "glm_proxy_connects_total"
    assert scraped.value(result, endpoint="cn", result="connected", protocol="h2") == 1
    assert scraped.value(result, endpoint="cn", result="connected", protocol="http/1.1") == 1
    failed = {"result": "upstream_connect_timeout", "protocol": "none"}
    assert scraped.value(result, endpoint="global", **failed) == 1
    phases = {
        phase: scraped.value("glm_proxy_connect_seconds_count", endpoint="cn", phase=phase)
        for phase in ("dns", "tcp", "tls")
    }
    assert phases == {"dns": 1, "tcp": 2, "tls": 1}
    closed = "glm_proxy_connections_closed_total"
    assert scraped.value(closed, endpoint="cn", reason="goaway") == 1
    assert scraped.value("glm_proxy_connection_age_seconds_sum", endpoint="cn") == 61.0


def test_the_end_of_a_certificate_is_shown_as_the_endpoint_showed_it_last(
    scraped: Scraped,
) -> None:
    name = "glm_proxy_certificate_expiry_timestamp_seconds"
    for expires in (1_800_000_000.0, 1_900_000_000.0, None):
        scraped.metrics.connected("cn", 0.001, 0.02, 0.03, "h2", expires)
    scraped.metrics.connected("global", 0.001, 0.02, None, "h2")
    assert scraped.value(name, endpoint="cn") == 1_900_000_000
    assert scraped.value(name, endpoint="global") is None


def test_made_up_reasons_to_close_a_connection_are_few(scraped: Scraped) -> None:
    for number in range(1000):
        scraped.metrics.connection_closed("cn", f"reason {number}", 1.0)
    closed = scraped.text().count("\nglm_proxy_connections_closed_total{")
    assert closed < 30
    assert scraped.total("glm_proxy_connections_closed_total") == 1000


def test_a_pool_is_asked_for_its_figures_at_each_scrape(scraped: Scraped) -> None:
    figures = {
        "connections": 3.0,
        "opening": 1.0,
        "idle": 2.0,
        "streams": 17.0,
        "waiting": 4.0,
        "ping_round_trip": 0.012,
    }
    scraped.metrics.watch_pools({"cn": lambda: figures, "global": lambda: {"connections": 1.0}})
    connections = "glm_proxy_pool_connections"
    states = [
        scraped.value(connections, endpoint="cn", state=s) for s in ("open", "opening", "idle")
    ]
    assert states == [3, 1, 2]
    assert scraped.value("glm_proxy_pool_streams", endpoint="cn") == 17
    assert scraped.value("glm_proxy_pool_waiting", endpoint="cn") == 4
    assert scraped.value("glm_proxy_ping_round_trip_seconds", endpoint="cn") == 0.012
    assert scraped.value("glm_proxy_ping_round_trip_seconds", endpoint="global") is None
    figures["streams"] = 18.0
    assert scraped.value("glm_proxy_pool_streams", endpoint="cn") == 18


def test_dropped_log_lines_are_shown(scraped: Scraped) -> None:
    scraped.metrics.watch_log("access", lambda: 42)
    assert scraped.value("glm_proxy_log_lines_dropped_total", log="access") == 42


def test_the_version_and_the_process_are_shown(scraped: Scraped) -> None:
    assert scraped.value("glm_proxy_build_info", version=__version__) == 1
    assert (scraped.value("process_resident_memory_bytes") or 0) > 1_000_000


def test_an_exchange_that_was_never_routed_says_so(scraped: Scraped) -> None:
    """As the exchange tells it: no path of ours, or a body that cannot be read."""
    scraped.metrics.finish(a_record(kind="unknown", route="none", outcome="not_found"))
    scraped.metrics.finish(a_record(kind="chat", route="none", outcome="invalid_request"))
    name, status = "glm_proxy_exchanges_total", {"status_class": "2xx"}
    for kind, outcome in (("other", "not_found"), ("chat", "invalid_request")):
        of = EXCHANGE | status | {"kind": kind, "route": "none", "outcome": outcome}
        assert scraped.value(name, **of) == 1


def everything(scraped: Scraped) -> None:
    scraped.metrics.started()
    scraped.metrics.finish(a_record(upstream_code="1302", outcome="client_gone", heartbeats=1))
    scraped.metrics.finish(a_record(outcome='quoted " \\ and\nbroken'))
    scraped.metrics.connected("cn", 0.001, 0.02, 0.03, "h2")
    scraped.metrics.connection_closed("cn", 'a "reason" \\ and\nmore', 3.0)
    scraped.metrics.watch_pools({"cn": lambda: {"connections": 1, "streams": 2}})
    scraped.metrics.watch_log("access", lambda: 0)
    figures = {"waiting": 1, "in_flight": 2, "limit": 2, "resting_keys": 0}
    scraped.metrics.watch_admission(lambda: [("cn", 'a "model"', figures)])
    scraped.metrics.watch_breakers(lambda: [("cn", 'a "model"', "open")])


def test_both_formats_parse_and_every_metric_says_what_it_means(scraped: Scraped) -> None:
    everything(scraped)
    plain = list(parse_plain(scraped.text()))
    strict = list(parse_open_metrics(scraped.text("application/openmetrics-text")))
    assert len(plain) == len(strict) > 30
    for family in strict:
        assert len(family.documentation) > 15, family.name
        assert family.type in {"counter", "gauge", "histogram", "info"}, family.name
        if not family.name.startswith("process_"):
            assert family.name.startswith(("gen_ai_", "glm_proxy_")), family.name


NAMED = {
    *("glm_proxy_duration_seconds", "glm_proxy_time_to_first_byte_seconds"),
    *("glm_proxy_time_to_first_token_seconds", "glm_proxy_first_content_seconds"),
    *("glm_proxy_overhead_seconds", "glm_proxy_stage_seconds"),
}


@pytest.mark.parametrize(
    ("sampled", "labels"),
    [
        (None, {"request_id": "req-1"}),
        (True, {"request_id": "req-1", "trace_id": "ab" * 16}),
        (False, {"request_id": "req-1"}),  # nobody would find that trace
    ],
)
def test_latencies_name_an_exchange_in_open_metrics_and_only_there(
    scraped: Scraped, sampled: bool | None, labels: dict[str, str]
) -> None:
    everything(scraped)
    span = None if sampled is None else SpanIds("ab" * 16, "cd" * 8, None, sampled)
    scraped.metrics.finish(a_record(span=span))
    families = list(parse_open_metrics(scraped.text("application/openmetrics-text")))
    found = {
        family.name: sample.exemplar
        for family in families
        for sample in family.samples
        if sample.exemplar
    }
    assert set(found) == NAMED
    for exemplar in found.values():
        assert exemplar.labels == labels
        assert abs(float(exemplar.timestamp or 0) - time.time()) < 600
    assert "req-1" not in scraped.text()


PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
        ("text/plain;version=0.0.4", "text/plain; version=0.0.4"),
        ("Application/OpenMetrics-Text; version=1.0.0", "application/openmetrics-text"),
        ("application/openmetrics-text; version=broken", "application/openmetrics-text"),
        (PROMETHEUS, "application/openmetrics-text; version=1.0.0"),
    ],
)
def test_the_format_follows_the_accept_header(
    scraped: Scraped, accept: str, content_type: str
) -> None:
    everything(scraped)
    scrape = scraped.metrics.scrape(accept)
    assert scrape.content_type.startswith(content_type)
    assert scrape.text().endswith(b"# EOF\n") is content_type.startswith("application/")


def test_no_time_of_creation_is_shown(scraped: Scraped) -> None:
    everything(scraped)
    assert "_created" not in scraped.text() + scraped.text(PROMETHEUS)


def test_a_pool_is_read_when_a_scrape_begins_and_not_where_its_text_is_made(
    scraped: Scraped,
) -> None:
    readers = []

    def figures() -> dict[str, float]:
        readers.append(threading.current_thread())
        return {"streams": 1.0}

    scraped.metrics.watch_pools({"cn": figures})
    scrape = scraped.metrics.scrape("")
    with ThreadPoolExecutor(1) as other:
        text = other.submit(scrape.text).result()
    assert b'glm_proxy_pool_streams{endpoint="cn"} 1.0\n' in text
    assert readers == [threading.current_thread()]


def test_a_histogram_of_spans_has_its_unit_in_its_name(scraped: Scraped) -> None:
    everything(scraped)
    for family in parse_plain(scraped.text()):
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_token_usage", "_ratio")), family.name


def test_no_user_text_and_no_key_is_in_the_metrics(scraped: Scraped) -> None:
    canary = "canary-5f3a"
    scraped.metrics.finish(
        a_record(
            request_id=canary,
            method=canary,
            path=f"/v1/{canary}",
            route=canary,
            requested_model=canary,
            served_model=canary,
            endpoint=canary,
            outcome=canary,
            stage=canary,
            finish_reason=canary,
            upstream_code=canary,
            key_fingerprint=canary,
            reason=canary,
            changes=(canary, f"thinking={canary}"),
            decisions=(canary, f"hedge_{canary}", f"retry_{canary}:{canary}"),
            attempts=(
                an_attempt(endpoint=canary, model=canary, outcome=canary, protocol=canary),
                a_loser(endpoint=canary, role=canary, upstream_code=canary),
            ),
        )
    )
    assert canary not in scraped.text()
    assert 'requested_model="other"' in scraped.text()


def test_finishing_an_exchange_is_cheap(scraped: Scraped) -> None:
    """Some tens of microseconds on an idle machine; the guard is far above."""
    record = a_record(timeline=a_timeline(), attempts=(an_attempt(ended=RECEIVED + 2),))
    scraped.metrics.finish(record)
    started = time.perf_counter()
    for _ in range(1000):
        scraped.metrics.finish(record)
    assert (time.perf_counter() - started) / 1000 < 0.0005


# --- other settings ------------------------------------------------------------------------------


def _settings(number: int) -> LabelNames:
    endpoint = f"endpoint-{number}"
    return LabelNames.of(
        routes=[f"route-{number}"],
        models=[f"model-{number}"],
        endpoints=[endpoint],
        regions={endpoint: "moon"},
    )


def _exchange(number: int) -> Record:
    model, endpoint = f"model-{number}", f"endpoint-{number}"
    return a_record(
        route=f"route-{number}",
        requested_model=model,
        served_model=model,
        endpoint=endpoint,
        attempts=(an_attempt(model=model, endpoint=endpoint),),
    )


def test_however_often_names_change_the_series_are_bounded() -> None:
    scraped = Scraped()

    def change(number: int) -> None:
        scraped.metrics.rename(_settings(number))
        scraped.metrics.finish(_exchange(number))
        scraped.metrics.connected(f"endpoint-{number}", 0.1, 0.1, 0.1, "h2", 1e9)

    for number in range(FORMER + 1):
        change(number)
    full = scraped.series()
    for number in range(FORMER + 1, FORMER + 40):
        change(number)
    assert scraped.series() <= full
    text = scraped.text()
    assert f'route="route-{FORMER + 39}"' in text
    assert 'route="route-38"' not in text
    assert '"model-38"' not in text
    assert '"endpoint-38"' not in text


def test_an_exchange_that_ends_under_other_settings_is_counted_under_its_own_names() -> None:
    scraped = Scraped()
    scraped.metrics.rename(_settings(1))
    scraped.metrics.rename(_settings(2))
    scraped.metrics.finish(_exchange(1))
    assert 'route="route-1"' in scraped.text()
    assert scraped.value("glm_proxy_endpoint_info", endpoint="endpoint-1", region="moon") is None
    assert scraped.value("glm_proxy_endpoint_info", endpoint="endpoint-2", region="moon") == 1
