"""Which label values may exist: names from the configuration and closed sets of ours.

A label value that a client or an upstream could choose would let them create series without end;
so everything else becomes `other`, and what is absent `none`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self, get_args

from proxy.core.policy.access import Reason
from proxy.core.policy.limits import What
from proxy.core.policy.retry import CODES
from proxy.core.record import Record, Usage
from proxy.errors import ConnectFailed, ProxyError

OTHER = "other"
NONE = "none"

KINDS = frozenset({"chat", "memory", "models", "passthrough", "responses", "socket", "streams"})
STAGES = frozenset(
    {
        *("reading", "routing", "admission", "connecting", "waiting", "pausing"),
        *("streaming", "done"),
    }
)
PHASES = ("dns", "tcp", "tls")
PROTOCOLS = frozenset({"h2", "http/1.1"})
TOKENS = ("input", "output", "cached", "reasoning")
ROLES = frozenset({"first", "retry", "failover", "hedge"})
REASONS = frozenset(
    {
        *("rule", "default", "only", "order", "preferred", "fastest"),
        *("nearest", "sticky", "explore", "switch"),
    }
)
REFUSALS = frozenset(Reason)
"""Why a caller is refused."""
LIMITS = frozenset(get_args(What))
"""What may be limited."""
SCOPES = frozenset({"key", "total"})
DOORS = frozenset({"max_connections", "max_connections_per_address"})
"""What may keep a connection out."""
HEDGES = frozenset({"started", "denied_budget", "denied_admission", "denied_errors", "denied_slow"})
"""What was decided about a second attempt beside the first; how it ended says its record."""
RETRIES = frozenset(
    {"key", "limit", "overload", "again", "elsewhere", "denied_budget", "denied_count"}
)

# Fields of a request that a route may be told to change; one that it takes away has a minus.
_FIELDS = frozenset(
    {
        *("model", "thinking", "reasoning_effort", "temperature", "top_p", "do_sample"),
        *("max_tokens", "max_completion_tokens", "stop", "tools", "tool_choice", "tool_stream"),
        *("stream", "stream_options", "response_format", "metadata", "user_id"),
    }
)
CHANGES = _FIELDS | {f"-{name}" for name in _FIELDS}

GLM_CODES = CODES | {"abort"}
"""The upstream's own, and what finish reasons and Anthropic's error types stand for."""

# What an answer without a code is told by: statuses that say something to who may ask again.
STATUSES = frozenset(
    f"status_{status}" for status in (401, 403, 404, 408, 409, 429, 500, 502, 503, 504, 529)
)


def known(value: str | None, allowed: frozenset[str]) -> str:
    """`value` if it is allowed, else `other`; `none` when absent or empty."""
    if not value:
        return NONE
    return value if value in allowed else OTHER


def outcomes() -> frozenset[str]:
    """Every way an exchange or an attempt can end: the codes of `proxy.errors`, and three more."""
    return frozenset({"completed", "cancelled", "upstream_failed", *_codes(ProxyError)})


def connect_failures() -> frozenset[str]:
    """Every way an attempt to connect can fail."""
    return frozenset(_codes(ConnectFailed))


def _codes(error: type[ProxyError]) -> set[str]:
    return {error.code}.union(*(_codes(kind) for kind in error.__subclasses__()))


def status_class(status: int | None) -> str:
    """`2xx` … `5xx`; `none` when the client left before a status was sent."""
    if status is None:
        return NONE
    return f"{status // 100}xx" if 100 <= status < 600 else OTHER


def token_counts(usage: Usage) -> tuple[tuple[str, int | None], ...]:
    """What was counted, by the label `type`. cached is a part of input, reasoning of output."""
    return (
        ("input", usage.input_tokens),
        ("output", usage.output_tokens),
        ("cached", usage.cached_tokens),
        ("reasoning", usage.reasoning_tokens),
    )


class Bounded:
    """Lets the first `limit` distinct values through and calls the rest `other`.

    For words that are constants in another room, which this one may not import.
    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        if value in self._seen:
            return value
        if not value or not self._left:
            return OTHER if value else NONE
        self._left -= 1
        self._seen.add(value)
        return value


class Labels(NamedTuple):
    """The label values of one exchange, all of them safe."""

    kind: str
    route: str
    requested_model: str
    served_model: str
    endpoint: str
    stream: str


@dataclass(frozen=True, slots=True)
class LabelNames:
    """The names that the configuration knows; only these appear as label values."""

    routes: frozenset[str] = frozenset()
    models: frozenset[str] = frozenset()
    endpoints: frozenset[str] = frozenset()
    regions: Mapping[str, str] = field(default_factory=dict)
    """Where an endpoint is, for those of which it was said."""

    @classmethod
    def of(
        cls,
        *,
        routes: Iterable[str],
        models: Iterable[str],
        endpoints: Iterable[str],
        regions: Mapping[str, str | None] | None = None,
    ) -> Self:
        """From any iterables. Always known are the routes that need no rule.

        These are `default`, and `none` for an exchange that ended before it was routed.
        """
        return cls(
            frozenset({"default", NONE, *routes}),
            frozenset(models),
            frozenset(endpoints),
            {name: region for name, region in (regions or {}).items() if region},
        )

    def labels(self, record: Record) -> Labels:
        """The label values of a finished exchange."""
        return Labels(
            known(record.kind, KINDS),
            known(record.route, self.routes),
            known(record.requested_model, self.models),
            known(record.served_model, self.models),
            known(record.endpoint, self.endpoints),
            "true" if record.stream else "false",
        )


FORMER = 100
"""Names that the settings do not have any more and that are still known, of each kind."""

Gone = Mapping[str, frozenset[str]]
"""Values that a label has no more, by the label's name."""


class Succession:
    """The names of one set of settings after the other.

    Those that are removed stay known for a while, since exchanges that have begun with them still
    run, and what was counted has yet to be read. The series of those removed first end: so many
    names as the settings have, and `FORMER` more, are all that there can be.
    """

    def __init__(self, names: LabelNames) -> None:
        self.known = names
        """Those in use, and former ones."""
        self._former: dict[str, dict[str, None]] = {"routes": {}, "models": {}, "endpoints": {}}
        """By kind, those first that were removed first."""

    def follow(self, names: LabelNames) -> Gone:
        """`names` are in use from now on. What is not even known any more."""
        gone: dict[str, frozenset[str]] = {}
        known: dict[str, frozenset[str]] = {}
        for kind, former in self._former.items():
            before, now = getattr(self.known, kind), getattr(names, kind)
            former |= dict.fromkeys(sorted(before - now - former.keys()))
            for name in now & former.keys():
                del former[name]
            lost = tuple(former)[: max(0, len(former) - FORMER)]
            for name in lost:
                del former[name]
            known[kind] = now | former.keys()
            gone |= dict.fromkeys(_LABELS[kind], frozenset(lost))
        self.known = LabelNames(**known, regions=names.regions)
        return gone


_LABELS: Mapping[str, tuple[str, ...]] = {
    "routes": ("route",),
    "models": ("requested_model", "served_model", "gen_ai_request_model", "gen_ai_response_model"),
    "endpoints": ("endpoint", "from_endpoint", "to_endpoint"),
}
"""The labels whose values are names of that kind."""
