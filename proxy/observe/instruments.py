"""Every metric by name, unit, meaning, labels and buckets: the list an operator reads.

OpenTelemetry's `gen_ai` names and attributes are used where they exist: `server` is what our
caller saw, `client` what we saw of the upstream. The prefix `glm_proxy_` is for what they lack.
Spans are defined in `proxy.core.record` and `proxy.core.flow.timeline`. What was decided has its
metrics in `proxy.observe.decisions`, and what is read at a scrape in `proxy.observe.gauges`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counted
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from proxy.observe import buckets
from proxy.observe.labels import NONE

PROVIDER = "zhipu"
"""`gen_ai.provider.name`: the registry of well-known values has none for GLM; this one is ours."""

GEN_AI = (
    "gen_ai_operation_name",
    "gen_ai_provider_name",
    "gen_ai_request_model",
    "gen_ai_response_model",
)
EXCHANGE = ("kind", "route", "requested_model", "served_model", "endpoint", "stream")

Key = tuple[str, ...]
"""The values of a metric's labels, in their order."""

_NOTED = 1024
"""Values of one child that wait to be counted: some KB, between scrapes that are far apart."""


class Group:
    """Instruments that belong together."""


class BulkHistogram(Histogram):
    """The library's histogram, which takes many values at once."""

    def add(self, values: Sequence[float]) -> None:
        """Adds them all: each finds its bucket by bisection, each bucket is told once."""
        self._sum.inc(sum(values))
        buckets = Counted(bisect_left(self._upper_bounds, one) for one in values)
        for bucket, count in buckets.items():
            self._buckets[bucket].inc(count)


class Histograms:
    """A histogram and its children, kept: `labels` takes longer than what it is asked for.

    An exchange makes some twenty observations. They are only noted then, and counted together
    before they are shown.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        meaning: str,
        labels: Sequence[str],
        bounds: Sequence[float],
    ) -> None:
        self._parent = BulkHistogram(name, meaning, labels, registry=registry, buckets=bounds)
        self._noted: dict[Key, list[float]] = {}

    def observe(self, key: Key, value: float) -> None:
        """Adds one value; below zero (marks out of order) it counts as zero."""
        noted = self._noted.get(key)
        if noted is None:
            noted = self._noted[key] = []
        noted.append(value if value > 0.0 else 0.0)
        if len(noted) >= _NOTED:
            self._settle(key, noted)

    def settle(self) -> None:
        """Count what was noted: call it, in the same thread as `observe`, before a scrape."""
        for key, noted in self._noted.items():
            if noted:
                self._settle(key, noted)

    def _settle(self, key: Key, noted: list[float]) -> None:
        self._parent.labels(*key).add(noted)
        noted.clear()


def histograms(room: object) -> Iterator[Histograms]:
    """All of a group of instruments, and of the groups in it."""
    for one in vars(room).values():
        if isinstance(one, Histograms):
            yield one
        elif isinstance(one, Group):
            yield from histograms(one)


class Counters:
    """A counter and its children, kept."""

    def __init__(
        self, registry: CollectorRegistry, name: str, meaning: str, labels: Sequence[str]
    ) -> None:
        self._parent = Counter(name, meaning, labels, registry=registry)
        self._children: dict[Key, Counter] = {}

    def add(self, key: Key, amount: float = 1.0) -> None:
        """Adds `amount`; nothing when it is below zero (an upstream may report nonsense)."""
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._parent.labels(*key)
        child.inc(max(amount, 0.0))


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
            " client.",
            EXCHANGE,
            buckets.FIRST_TOKEN,
        )
        self.first_token = Histograms(
            registry,
            "glm_proxy_time_to_first_token_seconds",
            "Seconds from the request's arrival to the first model token of any kind, reasoning"
            " included (chat).",
            EXCHANGE,
            buckets.FIRST_TOKEN,
        )
        self.first_content = Histograms(
            registry,
            "glm_proxy_first_content_seconds",
            "Seconds from the request's arrival to the first visible token or tool-call delta"
            " (chat): what the 5 s target is stated on.",
            EXCHANGE,
            buckets.FIRST_TOKEN,
        )
        self.stage = Histograms(
            registry,
            "glm_proxy_stage_seconds",
            "Seconds a chat exchange spent in one stage, observed when it was left. Each begins"
            " where the one before it ended: receive (body read and understood), route (until the"
            " first attempt starts or waits), retry (until the one that answered does), admission"
            " (until it starts, if it waited), connect (until it is handed to a connection),"
            " upstream_headers (until its headers come), first_byte (until its first body bytes"
            " come), commit (until status and first event are written to the client), reasoning"
            " (until the first visible token), stream (until the end).",
            ("stage", "route", "served_model", "endpoint"),
            buckets.STAGE,
        )
        self.overhead = Histograms(
            registry,
            "glm_proxy_overhead_seconds",
            "Seconds that the proxy itself added before the first byte: (attempt sent - request"
            " received) + (first write - first event).",
            ("kind", "route", "stream"),
            buckets.OVERHEAD,
        )
        self.gap_mean = Histograms(
            registry,
            "glm_proxy_event_gap_mean_seconds",
            "Mean seconds between two events of a stream, one value per stream.",
            ("route", "served_model", "endpoint"),
            buckets.GAP,
        )
        self.gap_max = Histograms(
            registry,
            "glm_proxy_event_gap_max_seconds",
            "Longest silence in seconds between two events of a stream, one value per stream.",
            ("route", "served_model", "endpoint"),
            buckets.GAP,
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
            "Connections to upstream endpoints that were closed, by reason.",
            ("endpoint", "reason"),
        )
        self.age = Histograms(
            registry,
            "glm_proxy_connection_age_seconds",
            "Seconds that a connection had lived when it was closed.",
            ("endpoint",),
            buckets.AGE,
        )


def build(
    registry: CollectorRegistry, version: str, endpoints: Iterable[str], regions: Mapping[str, str]
) -> None:
    """The version that runs and where the endpoints are, as constant series."""
    Info("glm_proxy_build", "The version of glm-proxy that runs.", registry=registry).info(
        {"version": version}
    )
    where = Info(
        "glm_proxy_endpoint",
        "The upstream endpoints and the region that the configuration says each is in (none: it"
        " says nothing).",
        ["endpoint"],
        registry=registry,
    )
    for endpoint in sorted(endpoints):
        where.labels(endpoint).info({"region": regions.get(endpoint, NONE)})
