"""Every metric by name, unit, meaning, labels and buckets: the list an operator reads.

OpenTelemetry's `gen_ai` names and attributes are used where they exist: `server` is what our
caller saw, `client` what we saw of the upstream. The prefix `glm_proxy_` is for what they lack.
Spans are defined in `proxy.core.record` and `proxy.core.flow.timeline`. How streams went has its
metrics in `proxy.observe.streams`, what was decided in `proxy.observe.decisions`, the process in
`proxy.observe.process`, and what is read at a scrape in `proxy.observe.gauges`.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Info

from proxy.observe import buckets
from proxy.observe.labels import NONE
from proxy.observe.series import Counters, Group, Histograms

PROVIDER = "zhipu"
"""`gen_ai.provider.name`: the registry of well-known values has none for GLM; this one is ours."""

GEN_AI = (
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_request_model",
    "gen_ai_response_model",
)
EXCHANGE = ("kind", "route", "requested_model", "served_model", "endpoint", "stream")


class GenAI(Group):
    """OpenTelemetry's metrics, of chat exchanges only."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.server_first_token = Histograms(
            registry,
            "gen_ai_server_time_to_first_token_seconds",
            "Seconds from the request's arrival to the first model token of any kind (streams).",
            GEN_AI,
            buckets.FIRST_TOKEN,
        )
        self.server_duration = Histograms(
            registry,
            "gen_ai_server_request_duration_seconds",
            "Seconds from the request's arrival to the end of its answer; error_type is the"
            " outcome, empty when completed.",
            (*GEN_AI, "error_type"),
            buckets.OPERATION,
        )
        self.server_per_token = Histograms(
            registry,
            "gen_ai_server_time_per_output_token_seconds",
            "Seconds per output token after the first: (duration - time to first token) /"
            " (output tokens - 1), of completed streams.",
            GEN_AI,
            buckets.PER_TOKEN,
        )
        self.client_duration = Histograms(
            registry,
            "gen_ai_client_operation_duration_seconds",
            "Seconds from the start of an attempt, connecting included, to its end; error_type is"
            " its outcome, empty when completed.",
            (*GEN_AI, "endpoint", "error_type"),
            buckets.OPERATION,
        )
        self.client_first_chunk = Histograms(
            registry,
            "gen_ai_client_operation_time_to_first_chunk_seconds",
            "Seconds from the start of an attempt, connecting included, to its first body bytes"
            " (streams).",
            (*GEN_AI, "endpoint"),
            buckets.OPERATION,
        )
        self.client_tokens = Histograms(
            registry,
            "gen_ai_client_token_usage",
            "Tokens of an exchange as the upstream counted them, input and output apart.",
            (*GEN_AI, "gen_ai_token_type"),
            buckets.TOKENS,
        )


class Spans(Group):
    """Where the time of an exchange went, as its caller saw it. Seconds."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.first_byte = Histograms(
            registry,
            "glm_proxy_time_to_first_byte_seconds",
            "Seconds from the request's arrival to the status and first bytes written to the"
            " client; not of errors that the proxy tells by itself.",
            EXCHANGE,
            buckets.FIRST_TOKEN,
        )
        self.first_token = Histograms(
            registry,
            "glm_proxy_time_to_first_token_seconds",
            "Seconds from the request's arrival to the first model token of any kind, reasoning"
            " included (chat, streams).",
            EXCHANGE,
            buckets.FIRST_TOKEN,
        )
        self.first_content = Histograms(
            registry,
            "glm_proxy_first_content_seconds",
            "Seconds from the request's arrival to the first visible token or tool-call delta"
            " (chat, streams): what the 5 s target is stated on.",
            EXCHANGE,
            buckets.FIRST_TOKEN,
        )
        self.duration = Histograms(
            registry,
            "glm_proxy_duration_seconds",
            "Seconds from the request's arrival to the end of its exchange, however it ended.",
            EXCHANGE,
            buckets.DURATION,
        )
        self.stage = Histograms(
            registry,
            "glm_proxy_stage_seconds",
            "Seconds a chat exchange spent in one stage, observed when it was left. Each begins"
            " where the one before it ended: receive (body read and understood), route (until the"
            " first attempt starts or waits), retry (until the one that answered does), admission"
            " (until it starts, if it waited), connect (until it is handed to a connection),"
            " upstream_headers (until its headers come), first_byte (until its first body bytes"
            " come), first_token (until the first model token of any kind), commit (until status"
            " and first event are written to the client), reasoning (until the first visible"
            " token, or the end where none came), stream (until the end).",
            ("stage", "route", "served_model", "endpoint"),
            buckets.STAGE,
        )
        self.overhead = Histograms(
            registry,
            "glm_proxy_overhead_seconds",
            "Seconds that the proxy itself added before the first byte: from the request's arrival"
            " until an attempt was sent, without waits for a place and attempts that led to"
            " nothing, and from what the answer began with to the first write.",
            ("kind", "route", "stream"),
            buckets.OVERHEAD,
        )


class Counts:
    """How many exchanges, attempts, tokens and bytes, and how they ended."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.in_flight = Gauge(
            "glm_proxy_exchanges_in_flight",
            "Exchanges that have begun and not ended.",
            registry=registry,
        )
        self.heartbeats = Counter(
            "glm_proxy_heartbeats_total",
            "Heartbeat comments written to clients.",
            registry=registry,
        )
        self.exchanges = Counters(
            registry,
            "glm_proxy_exchanges_total",
            "Exchanges that ended, by outcome (completed, client_gone, upstream_failed or an"
            " error's code) and class of the status the client got.",
            (*EXCHANGE, "outcome", "status_class"),
        )
        self.attempts = Counters(
            registry,
            "glm_proxy_attempts_total",
            "Requests to upstream endpoints, by role (first, retry of the same candidate, failover"
            " to the next, hedge beside a late one) and outcome.",
            ("endpoint", "served_model", "role", "outcome"),
        )
        self.leaves = Counters(
            registry,
            "glm_proxy_client_leaves_total",
            "Exchanges whose client left, by how far they had come (reading, routing, admission,"
            " connecting, waiting, pausing, streaming, done).",
            ("stage", "route"),
        )
        self.tokens = Counters(
            registry,
            "glm_proxy_tokens_total",
            "Tokens as the upstream counted them. cached is a part of input, reasoning a part of"
            " output.",
            ("type", "route", "requested_model", "served_model", "endpoint"),
        )
        self.upstream_errors = Counters(
            registry,
            "glm_proxy_upstream_errors_total",
            "Exchanges in which the upstream gave an error code of its own (1302, 1305, ...).",
            ("endpoint", "code"),
        )
        self.request_bytes = Counters(
            registry,
            "glm_proxy_request_bytes_total",
            "Bytes of request bodies received from clients.",
            ("kind", "route"),
        )
        self.response_bytes = Counters(
            registry,
            "glm_proxy_response_bytes_total",
            "Bytes of response bodies written to clients.",
            ("kind", "route"),
        )


class Refusals(Group):
    """What is not let in: connections, callers, requests over a limit."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.turned_away = Counters(
            registry,
            "glm_proxy_connections_refused_total",
            "Connections of clients that were closed at once, by the setting that says how many"
            " there may be.",
            ("setting",),
        )
        self.unauthorized = Counters(
            registry,
            "glm_proxy_unauthorized_total",
            "Requests whose caller was refused, by reason: no key (missing), one that is none of"
            " ours (wrong), is over (expired, revoked), or is not for what was asked (scope).",
            ("reason",),
        )
        self.limited = Counters(
            registry,
            "glm_proxy_limited_total",
            "Requests refused because a limit of the settings or of the caller's key was reached:"
            " of requests or tokens per minute, of requests under way at once (concurrent), or of"
            " tokens per day.",
            ("limit", "scope"),
        )


class Upstream(Group):
    """The road to the upstream: attempts and connections."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.headers = Histograms(
            registry,
            "glm_proxy_upstream_headers_seconds",
            "Seconds from an attempt's request being handed to a connection to its response"
            " headers.",
            ("endpoint", "protocol", "reused"),
            buckets.FIRST_TOKEN,
        )
        self.first_byte = Histograms(
            registry,
            "glm_proxy_upstream_first_byte_seconds",
            "Seconds from an attempt's request being handed to a connection to its first body"
            " bytes.",
            ("endpoint", "protocol", "reused"),
            buckets.FIRST_TOKEN,
        )
        self.connects = Counters(
            registry,
            "glm_proxy_connects_total",
            "Connections opened to upstream endpoints, by result (connected or an error's code)"
            " and protocol.",
            ("endpoint", "result", "protocol"),
        )
        self.connect = Histograms(
            registry,
            "glm_proxy_connect_seconds",
            "Seconds that opening a connection took, by phase (dns, tcp, tls).",
            ("endpoint", "phase"),
            buckets.CONNECT,
        )
        self.closed = Counters(
            registry,
            "glm_proxy_connections_closed_total",
            "HTTP/2 connections to upstream endpoints that were closed, by reason.",
            ("endpoint", "reason"),
        )
        self.age = Histograms(
            registry,
            "glm_proxy_connection_age_seconds",
            "Seconds that an HTTP/2 connection had lived when it was closed.",
            ("endpoint",),
            buckets.AGE,
        )
        self.certificate = Gauge(
            "glm_proxy_certificate_expiry_timestamp_seconds",
            "Unix time in seconds at which the certificate expires that the endpoint showed last.",
            ("endpoint",),
            registry=registry,
        )


class Places:
    """Where the endpoints are, as constant series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._info = Info(
            "glm_proxy_endpoint",
            "The upstream endpoints and the region that the configuration says each is in (none: it"
            " says nothing).",
            ["endpoint"],
            registry=registry,
        )
        self._shown: frozenset[str] = frozenset()

    def show(self, endpoints: frozenset[str], regions: Mapping[str, str]) -> None:
        """These, and no others."""
        for endpoint in self._shown - endpoints:
            self._info.remove(endpoint)
        for endpoint in sorted(endpoints):
            self._info.labels(endpoint).info({"region": regions.get(endpoint, NONE)})
        self._shown = endpoints


def build(registry: CollectorRegistry, version: str) -> Places:
    """Shows the version that runs; and returns what shows where the endpoints are."""
    Info("glm_proxy_build", "The version of glm-proxy that runs.", registry=registry).info(
        {"version": version}
    )
    return Places(registry)
