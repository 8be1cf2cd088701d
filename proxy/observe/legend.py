"""What each label says, and the values it can have: all of them, where they are a closed set.

Besides them a label can be `other` (a value that is not known here) and `none` (there is none).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from proxy.observe import cache, gauges, labels, leaving, memory, sockets, stages, state
from proxy.observe.instruments import PROVIDER


class Label(NamedTuple):
    """A label of all metrics that have it, or of some."""

    name: str
    meaning: str
    values: tuple[str, ...] = ()
    """In their order, or by the alphabet; empty: names that the settings give, or see `meaning`."""
    metrics: tuple[str, ...] = ()
    """The metrics in which it says this; empty: all others."""


def legend() -> tuple[Label, ...]:
    """Every label, in the order of its name."""
    return tuple(
        sorted(
            (
                *_where(),
                *_how(),
                *_decided(),
                *_remembered(),
                *_process(),
                *_websockets(),
                *_gen_ai(),
            )
        )
    )


def label_of(known: Iterable[Label], metric: str, name: str) -> Label | None:
    """What the label `name` says in `metric`; None: nothing is known of it."""
    found = [one for one in known if one.name == name and metric in one.metrics]
    found += [one for one in known if one.name == name and not one.metrics]
    return found[0] if found else None


def _where() -> tuple[Label, ...]:
    return (
        Label("kind", "What was asked for.", _sorted(labels.KINDS)),
        Label(
            "route",
            "The route's name; default: no rule matched, none: it came to no choice.",
        ),
        Label("requested_model", "The model that the client named, if the settings know it."),
        Label("served_model", "The model that the upstream was asked for."),
        Label("endpoint", "The upstream endpoint's name."),
        Label("from_endpoint", "The endpoint of the attempt that failed."),
        Label("to_endpoint", "The endpoint of the attempt after it."),
        Label("region", "Where the settings say that the endpoint is."),
        Label("stream", "Whether the client asked for a stream.", _BOOLEAN),
        Label("protocol", "What is spoken with the upstream.", _sorted(labels.PROTOCOLS)),
        Label(
            "reused",
            "Whether the connection had carried a request before (a warmed one had not).",
            _BOOLEAN,
        ),
    )


def _how() -> tuple[Label, ...]:
    outcomes = _sorted(labels.outcomes())
    return (
        Label("outcome", "How it ended: well, or by which error's code.", outcomes),
        Label(
            "cause",
            "The outcome of an exchange that broke off.",
            _sorted(labels.outcomes() - {"client_gone", "completed"}),
        ),
        Label(
            "status_class",
            "Class of the status that the client got; none: it left before.",
            ("1xx", "2xx", "3xx", "4xx", "5xx"),
        ),
        Label(
            "stage",
            "What the exchange's time was spent on.",
            stages.NAMES,
            ("glm_proxy_stage_seconds",),
        ),
        Label("stage", "How far the exchange had come.", _sorted(labels.STAGES)),
        Label("type", "Which tokens.", labels.TOKENS),
        Label(
            "code",
            "The upstream's own error code, or what an error type of its stands for.",
            _sorted(labels.GLM_CODES),
            ("glm_proxy_upstream_errors_total",),
        ),
        Label(
            "code",
            "The failure's code: the upstream's own, one of ours, or its status.",
            _sorted(labels.GLM_CODES | labels.STATUSES | labels.outcomes()),
        ),
        Label("phase", "A phase of connecting.", labels.PHASES),
        Label(
            "result",
            "connected, or the error's code.",
            ("connected", *_sorted(labels.connect_failures())),
            ("glm_proxy_connects_total",),
        ),
        Label(
            "reason",
            "Why it was closed: by us (max_age, idle, pool_closed), or by the peer (goaway, lost).",
            (),
            ("glm_proxy_connections_closed_total",),
        ),
    )


def _decided() -> tuple[Label, ...]:
    return (
        Label(
            "setting",
            "The limit of connections that was reached.",
            _sorted(labels.DOORS),
            ("glm_proxy_connections_refused_total",),
        ),
        Label(
            "reason",
            "Why the caller was refused; scope: its key is good, but not for this.",
            _sorted(labels.REFUSALS),
            ("glm_proxy_unauthorized_total",),
        ),
        Label("limit", "What is limited.", _sorted(labels.LIMITS)),
        Label(
            "scope",
            "Whose limit it is: one caller's, or that of all callers together.",
            _sorted(labels.SCOPES),
        ),
        Label("role", "Why the attempt was made.", _sorted(labels.ROLES)),
        Label("reason", "Why the candidate was the first.", _sorted(labels.REASONS)),
        Label("change", "The field that was changed; -field: taken away.", _sorted(labels.CHANGES)),
        Label(
            "result",
            "What became of a second attempt.",
            (*_sorted(labels.HEDGES), "lost", "won"),
            ("glm_proxy_hedges_total",),
        ),
        Label(
            "then",
            "cancelled: the upstream was told at once; drained: it was read to its end; kept: it"
            " could be fetched; gave_up: it was ended, since its time was over or room was needed.",
            _sorted(leaving.BECAME),
        ),
        Label(
            "result",
            "unknown: there is no such stream (any more), or it is another caller's; forgotten: the"
            " place to go on from is not kept any more.",
            _sorted(leaving.RESULTS),
            ("glm_proxy_streams_resumed_total",),
        ),
        Label(
            "result",
            "Whether a kept answer was told; bypass: the cache was not asked.",
            _sorted(cache.RESULTS),
            ("glm_proxy_cache_requests_total",),
        ),
        Label("decision", "What followed the failure.", _sorted(labels.RETRIES)),
        Label(
            "state",
            "Of connections.",
            tuple(gauges.CONNECTIONS),
            ("glm_proxy_pool_connections",),
        ),
        Label("state", "Of a breaker.", tuple(gauges.STATES), ("glm_proxy_breaker_state",)),
    )


def _remembered() -> tuple[Label, ...]:
    return (
        Label(
            "result",
            "used: the model was told something; late: what there is came too late for this turn;"
            " none: there is nothing, or nobody can tell.",
            _sorted(memory.RESULTS),
            ("glm_proxy_memory_lookups_total",),
        ),
        Label(
            "result",
            "dropped: too much waited to be written, or the process stopped.",
            _sorted(memory.WRITES),
            ("glm_proxy_memory_writes_total",),
        ),
        Label(
            "operation",
            "What was asked of the store; skip: a search that was not made, since too many were"
            " under way.",
            _sorted(memory.FAILURES),
            ("glm_proxy_memory_failures_total",),
        ),
        Label(
            "operation",
            "What the store did.",
            _sorted(memory.OPERATIONS),
            ("glm_proxy_memory_store_seconds",),
        ),
    )


def _process() -> tuple[Label, ...]:
    return (
        Label("generation", "Of the garbage collector; 2 is the oldest.", ("0", "1", "2")),
        Label("log", "Which log.", ("access",)),
        Label("home", "Where keys, switches and counts are kept.", _sorted(state.HOMES)),
        Label(
            "operation",
            "What was not done; damaged: a value that is not what was kept, dropped: too much"
            " waited to be written.",
            _sorted(cache.OPERATIONS),
            ("glm_proxy_cache_failures_total",),
        ),
        Label("operation", "What was asked of it.", _sorted(state.OPERATIONS)),
        Label(
            "result",
            "Whether the settings could be used.",
            ("failure", "success"),
            ("glm_proxy_config_reloads_total",),
        ),
        Label("hash", "12 hexadecimal digits that differ when the settings do."),
        Label("version", "As `glm-proxy --version` says it."),
    )


def _websockets() -> tuple[Label, ...]:
    return (
        Label("direction", "Whose messages: received are the clients'.", sockets.DIRECTIONS),
        Label(
            "code",
            "The close code; 1005: a Close without one, 1006: the connection ended without one.",
            _sorted(sockets.CODES),
            ("glm_proxy_websocket_closed_total",),
        ),
    )


def _gen_ai() -> tuple[Label, ...]:
    return (
        Label("gen_ai_operation_name", "OpenTelemetry's name of what was asked for.", ("chat",)),
        Label("gen_ai_provider_name", "Who runs the upstream.", (PROVIDER,)),
        Label("gen_ai_request_model", "As requested_model; in client metrics as served_model."),
        Label("gen_ai_response_model", "As served_model."),
        Label("gen_ai_token_type", "Which tokens.", ("input", "output")),
        Label(
            "error_type",
            "The outcome; empty when it completed.",
            _sorted(labels.outcomes() - {"completed"}),
        ),
    )


_BOOLEAN = ("false", "true")


def _sorted(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(values))
