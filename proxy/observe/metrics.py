"""From one finished record to every metric, and nothing along the path.

Connections are not part of an exchange; the pool's observer tells of them by itself. Label values
come from `proxy.observe.labels`, so the number of series has a bound that no client can move.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import NamedTuple

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.core.record import AttemptRecord, Record, Usage
from proxy.observe import labels
from proxy.observe.cache import RESULTS, Cache
from proxy.observe.decisions import Decisions
from proxy.observe.gauges import Admission, Breakers, Stats, Watched
from proxy.observe.instruments import (
    PROVIDER,
    Counts,
    GenAI,
    Refusals,
    Spans,
    Upstream,
    build,
)
from proxy.observe.labels import LabelNames, Labels, Succession, known
from proxy.observe.leaving import Leaving
from proxy.observe.memory import Memory
from proxy.observe.process import Process
from proxy.observe.series import Counters, Whose, instruments
from proxy.observe.sockets import Sockets
from proxy.observe.stages import stages
from proxy.observe.state import HomeObserver, State
from proxy.observe.streams import Streams

_CLOSE_REASONS = 24
"""More than a pool has reasons to close a connection."""


class Scrape(NamedTuple):
    """One scrape's answer."""

    content_type: str
    text: Callable[[], bytes]
    """Makes the body: takes up to some tenths of a second, and may be called in any thread."""


class Metrics:
    """All instruments of one process. For the event loop's thread only, but for a scrape's text.

    `started` is called when an exchange begins and `finish` once when it has ended.
    """

    def __init__(
        self,
        names: LabelNames,
        registry: CollectorRegistry | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Every metric is registered with `registry`, by default with one of its own.

        `now` tells the unix time in seconds.
        """
        registry = self._registry = registry or CollectorRegistry()
        self._shown: Collector = registry
        self._succession = Succession(names)
        self._names = names
        self._now = now
        self._outcomes = labels.outcomes()
        self._connect_failures = labels.connect_failures()
        self._reason = labels.Bounded(_CLOSE_REASONS)
        self._gen_ai = GenAI(registry)
        self._spans = Spans(registry)
        self._streams = Streams(registry)
        self._counts = Counts(registry)
        self._refusals = Refusals(registry)
        self._upstream = Upstream(registry)
        self._state = State(registry)
        self.answers = Cache(registry)
        """Is told how stores of answers fare."""
        self.memory = Memory(registry)
        """Is told how stores of memories fare."""
        self.leaving = Leaving(registry)
        """Is given what tells of the kept streams."""
        self._decisions = Decisions(registry, names)
        self.process = Process(registry, now)
        rooms = (self._gen_ai, self._spans, self._streams, self._upstream, self._decisions)
        self._instruments = [one for room in (*rooms, self._counts) for one in instruments(room)]
        self._instruments += [*instruments(self._state), *instruments(self.answers)]
        self._instruments += [*instruments(self.memory), *instruments(self.leaving)]
        self._histograms = [one for one in self._instruments if not isinstance(one, Counters)]
        self._watched = Watched(names)
        self._places = build(registry, __version__)
        self._places.show(names.endpoints, names.regions)
        registry.register(self._watched)
        self.sockets = Sockets()
        """Is given what tells of the WebSockets."""
        registry.register(self.sockets)
        # For the whole process: creation times are one more series for each child.
        disable_created_metrics()  # type: ignore[no-untyped-call]

    def rename(self, names: LabelNames) -> None:
        """The names of the settings in use from now on. See `Succession` for those before them."""
        gone = self._succession.follow(names)
        for instrument in self._instruments:
            instrument.forget(gone)
        for endpoint in gone["endpoint"]:
            self._upstream.certificate.remove(endpoint)
        known = self._succession.known
        self._names = self._decisions.names = self._watched.names = known
        self._places.show(names.endpoints, names.regions)

    def scrape(self, accept: str) -> Scrape:
        """All metrics, in the format that an `Accept` header asks for."""
        self.settle()
        if "application/openmetrics-text" in accept.lower():
            text = partial(openmetrics.generate_latest, self._shown)
            return Scrape(openmetrics.CONTENT_TYPE_LATEST, text)
        return Scrape(CONTENT_TYPE_PLAIN_0_0_4, partial(generate_latest, self._shown))

    def settle(self) -> None:
        """Read and count what waits for it: on the loop, before `collect`."""
        self._watched.look()
        self.sockets.settle()
        self.leaving.settle()
        self.process.settle()
        for histogram in self._histograms:
            histogram.settle()

    def collect(self) -> Iterable[Metric]:
        """This process's metrics. In any thread."""
        return self._registry.collect()

    def share(self, shown: Collector) -> None:
        """A scrape shows these instead: the metrics of several processes."""
        self._shown = shown

    # --- exchanges -----------------------------------------------------------------------------

    def started(self) -> None:
        """An exchange begins."""
        self._counts.in_flight.inc()

    def finish(self, record: Record) -> None:
        """An exchange has ended: everything that is known of it, at once."""
        self._counts.in_flight.dec()
        of = self._names.labels(record)
        outcome = known(record.outcome, self._outcomes)
        exported = record.trace_id if record.span is not None and record.span.sampled else None
        whose = Whose(record.request_id, exported, self._now())
        self._count(record, of, outcome)
        self._spans.duration.observe(of, record.duration, whose)
        if (ttfb := record.ttfb) is not None:
            self._spans.first_byte.observe(of, ttfb, whose)
        if (overhead := record.overhead) is not None:
            self._spans.overhead.observe((of.kind, of.route, of.stream), overhead, whose)
        for attempt in record.attempts:
            self._attempt(attempt, record)
        self._decisions.finish(record, of)
        self.leaving.finish(record, of.route, outcome)
        if record.memory is not None:
            self.memory.finish(of.route, record.memory)
        if record.cache is not None:
            self.answers.requests.add((of.route, known(record.cache, RESULTS)))
        if record.kind == "chat":
            self._chat(record, of, outcome, whose)
            self._streams.finish(record, of, outcome)

    def _count(self, record: Record, of: Labels, outcome: str) -> None:
        counts = self._counts
        counts.exchanges.add((*of, outcome, labels.status_class(record.status)))
        counts.request_bytes.add((of.kind, of.route), record.request_bytes)
        counts.response_bytes.add((of.kind, of.route), record.response_bytes)
        if record.refused is not None:
            self._refusals.unauthorized.add((known(record.refused, labels.REFUSALS),))
        if record.limited is not None:
            what, scope = record.limited
            self._refusals.limited.add((known(what, labels.LIMITS), known(scope, labels.SCOPES)))
        if record.heartbeats > 0:
            counts.heartbeats.inc(record.heartbeats)
        if outcome == "client_gone":
            counts.leaves.add((known(record.stage, labels.STAGES), of.route))
        if record.upstream_code is not None:
            code = known(record.upstream_code, labels.GLM_CODES)
            counts.upstream_errors.add((of.endpoint, code))

    def turned_away(self, setting: str) -> None:
        """A client's connection was closed at once, for the sake of that setting."""
        self._refusals.turned_away.add((known(setting, labels.DOORS),))

    def _attempt(self, attempt: AttemptRecord, record: Record) -> None:
        endpoint = known(attempt.endpoint, self._names.endpoints)
        model = known(attempt.model, self._names.models)
        outcome = known(attempt.outcome, self._outcomes)
        role = known(attempt.role, labels.ROLES)
        self._counts.attempts.add((endpoint, model, role, outcome))
        if attempt.sent is not None:
            protocol = known(attempt.protocol, labels.PROTOCOLS)
            key = (endpoint, protocol, "true" if attempt.reused else "false")
            if attempt.headers is not None:
                self._upstream.headers.observe(key, attempt.headers - attempt.sent)
            if attempt.first_byte is not None:
                self._upstream.first_byte.observe(key, attempt.first_byte - attempt.sent)
        if record.kind == "chat":
            operation = ("chat", PROVIDER, model, model, endpoint)
            self._gen_ai.client_duration.observe(
                (*operation, _error_type(outcome)), attempt.ended - attempt.started
            )
            if record.stream and attempt.first_byte is not None:
                self._gen_ai.client_first_chunk.observe(
                    operation, attempt.first_byte - attempt.started
                )

    def _chat(self, record: Record, of: Labels, outcome: str, whose: Whose) -> None:
        operation = ("chat", PROVIDER, of.requested_model, of.served_model)
        self._gen_ai.server_duration.observe((*operation, _error_type(outcome)), record.duration)
        if (ttft := record.ttft) is not None:
            self._spans.first_token.observe(of, ttft, whose)
            self._gen_ai.server_first_token.observe(operation, ttft)
        if (content := record.first_content) is not None:
            self._spans.first_content.observe(of, content, whose)
        where = (of.route, of.served_model, of.endpoint)
        for stage, seconds in stages(record):
            self._spans.stage.observe((stage, *where), seconds, whose)
        if record.usage is not None:
            self._tokens(record, record.usage, of, operation)

    def _tokens(self, record: Record, usage: Usage, of: Labels, operation: tuple[str, ...]) -> None:
        where = (of.route, of.requested_model, of.served_model, of.endpoint)
        for kind, count in labels.token_counts(usage):
            if count is not None:
                self._counts.tokens.add((kind, *where), count)
        if usage.input_tokens is not None:
            self._gen_ai.client_tokens.observe((*operation, "input"), usage.input_tokens)
        written = usage.output_tokens
        if written is None:
            return
        self._gen_ai.client_tokens.observe((*operation, "output"), written)
        ttft = record.ttft
        if record.outcome == "completed" and ttft is not None and written > 1:
            per_token = (record.duration - ttft) / (written - 1)
            self._gen_ai.server_per_token.observe(operation, per_token)

    # --- connections ---------------------------------------------------------------------------

    def connected(
        self,
        endpoint: str,
        dns: float | None,
        tcp: float | None,
        tls: float | None,
        alpn: str | None,
        certificate_expires: float | None = None,
    ) -> None:
        """A connection was opened: seconds per phase (`None`: it had none), its protocol, and the
        unix time at which the peer's certificate expires (`None`: it showed none)."""
        name = known(endpoint, self._names.endpoints)
        self._upstream.connects.add((name, "connected", known(alpn, labels.PROTOCOLS)))
        for phase, seconds in zip(labels.PHASES, (dns, tcp, tls), strict=True):
            if seconds is not None:
                self._upstream.connect.observe((name, phase), seconds)
        if certificate_expires is not None:
            self._upstream.certificate.labels(name).set(certificate_expires)

    def connect_failed(self, endpoint: str, code: str) -> None:
        """No connection could be opened; `code` is the error's."""
        name = known(endpoint, self._names.endpoints)
        self._upstream.connects.add((name, known(code, self._connect_failures), labels.NONE))

    def connection_closed(self, endpoint: str, reason: str, age: float) -> None:
        """A connection ended, `age` seconds after it was opened."""
        name = known(endpoint, self._names.endpoints)
        self._upstream.closed.add((name, self._reason(reason)))
        self._upstream.age.observe((name,), age)

    # --- state ---------------------------------------------------------------------------------

    def observer(self, home: str) -> HomeObserver:
        """Shows how a home of state fares, by its kind."""
        return HomeObserver(self._state, home)

    # --- read at each scrape -------------------------------------------------------------------

    def watch_pools(self, pools: Mapping[str, Stats]) -> None:
        """Shows the figures of each endpoint's pool, and of no other from now on.

        Each returns any of: connections, opening, idle, streams, waiting (counts) and
        ping_round_trip (seconds). It is called on the loop at each scrape and must not block.
        """
        endpoints = self._names.endpoints
        self._watched.pools = {known(name, endpoints): stats for name, stats in pools.items()}

    def watch_admission(self, figures: Admission) -> None:
        """Shows how requests queue for their keys.

        `figures` tells for each endpoint and model: waiting, in_flight, limit (None: there is
        none) and resting_keys. Rows of one endpoint and model are added up, as are all models
        that are not known by name. It is called on the loop at each scrape and must not block.
        """
        self._watched.admission = figures

    def watch_breakers(self, states: Breakers) -> None:
        """Shows which candidates are left out after failures.

        `states` tells endpoint, model and state: closed, half_open or open. Of several rows for
        one endpoint and model (or for models that are not known) the worst is shown. It is called
        on the loop at each scrape and must not block.
        """
        self._watched.breakers = states

    def watch_log(self, name: str, dropped: Callable[[], int]) -> None:
        """Shows how many lines the log `name` has dropped since the start."""
        self._watched.logs[name] = dropped

    def watch_spans(self, dropped: Callable[[], int]) -> None:
        """Shows how many spans of traces have been dropped since the start."""
        self._watched.spans = dropped


def _error_type(outcome: str) -> str:
    """OpenTelemetry leaves `error.type` out on success; an empty label is an absent one."""
    return "" if outcome == "completed" else outcome
