"""The settings: names, units, defaults and checks. Attribute names are the YAML keys.

Durations are seconds, sizes are bytes, keys are references. A key that is not here is refused; one
that belongs to a later version is refused as such, never ignored.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Final, Literal, Self, TypeVar

from pydantic import (
    Field,
    JsonValue,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from proxy.config import origin
from proxy.config.secret import Secret
from proxy.config.types import (
    OFF,
    CaFile,
    Count,
    CountOrZero,
    ExistingFile,
    Flag,
    Name,
    Port,
    Section,
)
from proxy.config.units import Bytes, BytesOrZero, Seconds, SecondsOrZero

S = TypeVar("S", bound=Section)
Fields = dict[str, JsonValue]

ENDPOINTS_EXAMPLE: Final = """; say where requests are sent, for example
      endpoints:
        - {name: cn, base_url: https://open.bigmodel.cn, api_key: "env:ZHIPUAI_API_KEY"}"""
_NO_ACCESS: Final = (
    "is not a loopback address, and this version does not check who is calling: everybody who"
    " reaches it may use it. Use 127.0.0.1, or set allow_remote: true beside it"
)


class Listener(Section):
    """An address to listen on."""

    allow_remote: Flag = False
    """Allow an address that other machines reach, although callers are not checked."""
    host: str = "127.0.0.1"
    """Address to listen on: an IP address or `localhost`."""

    @field_validator("host")
    @classmethod
    def _check_host(cls, host: str, info: ValidationInfo) -> str:
        if not origin.is_bindable(host):
            raise ValueError("must be an IP address, such as 127.0.0.1 or ::1, or localhost")
        if not origin.is_loopback(host) and not info.data.get("allow_remote", True):
            raise ValueError(f"{host} {_NO_ACCESS}")
        return host


class Server(Listener):
    """The data listener: what applications call."""

    port: Port = 8080
    """Port to listen on; 0 takes any free one."""
    workers: Count = 1
    """Processes. Only 1 in this version."""
    drain_timeout: SecondsOrZero = 600.0
    """How long running exchanges may finish after SIGTERM."""
    body_limit: Bytes = 32 << 20
    """Largest request body."""
    header_timeout: Seconds = 10.0
    """For a request's head, from the connection, or from its own first byte on a kept one."""
    body_timeout: Seconds = 60.0
    """For a request's whole body."""
    keepalive_timeout: Seconds = 75.0
    """How long an idle client connection is kept."""

    @field_validator("workers")
    @classmethod
    def _check_workers(cls, workers: int) -> int:
        if workers > 1:
            raise ValueError(f"found {workers}; more than one is not available in this version")
        return workers


class Admin(Listener):
    """The operator's listener: health, metrics, models. Never the data port."""

    port: Port = 9090
    """Port to listen on; 0 takes any free one."""


class Endpoint(Section):
    """One place requests are sent to."""

    later: ClassVar[frozenset[str]] = frozenset({"region"})

    name: Name
    """What candidates, metrics and logs call it."""
    allow_plain_http: Flag = False
    """Allow http:// to a host that is neither loopback nor private."""
    base_url: str
    """scheme://host[:port][/prefix]. https, or http to loopback and private hosts."""
    api_key: Secret | None = None
    """`env:NAME` or `file:/path`. Without one the caller's own key is forwarded."""
    ca_file: CaFile | None = None
    """PEM file of certificate authorities to trust besides the system's."""
    paas_path: str = "/api/paas/v4"
    """Where the OpenAI-like API lives below base_url."""
    anthropic_path: str = "/api/anthropic"
    """Where the Anthropic-like API lives below base_url."""

    @field_validator("base_url")
    @classmethod
    def _check_url(cls, url: str, info: ValidationInfo) -> str:
        return origin.checked(url, allow_plain_http=info.data.get("allow_plain_http", True))

    @field_validator("paas_path", "anthropic_path")
    @classmethod
    def _check_path(cls, path: str) -> str:
        return origin.checked_path(path)


class PoolSettings(Section):
    """Connections to endpoints."""

    http2: Annotated[Literal["auto", "always", "off"], OFF] = "auto"
    """auto: by ALPN on https, HTTP/1.1 on http. always: HTTP/2 only. off: HTTP/1.1 only."""
    warm_connections: CountOrZero = 2
    """Connections kept open per endpoint, so that no request waits for a handshake."""
    max_idle_per_host: CountOrZero = 10
    """Most idle connections kept per endpoint."""
    streams_per_connection: Count = 32
    """Exchanges on one HTTP/2 connection before another is opened."""
    max_connections: Count = 64
    """Most connections per endpoint."""
    idle_timeout: Seconds = 90.0
    """An idle connection beyond the warm ones is closed after this."""
    max_age: Seconds = 600.0
    """A connection takes no new exchange after this."""
    ping_interval: Seconds = 10.0
    """HTTP/2 PING, while the connection is otherwise silent."""
    ping_timeout: Seconds = 5.0
    """A connection that does not answer a PING for so long is dead."""
    tcp_keepalive: Seconds = 60.0
    """TCP keep-alive: silence before the first probe."""
    tcp_user_timeout: Seconds = 30.0
    """TCP: unacknowledged data ends the connection after this."""
    connect_timeout: Seconds = 5.0
    """DNS, TCP and TLS together."""
    acquire_timeout: Seconds = 10.0
    """Waiting for a free stream when all connections are full."""
    http1_bodies_over: BytesOrZero = 48 << 10
    """Request bodies larger than this take HTTP/1.1, except with http2: always."""


class StreamSettings(Section):
    """How events reach the client."""

    later: ClassVar[frozenset[str]] = frozenset({"upgrade"})

    text_buffer_size: Count = 1
    """Characters of visible text that must wait before an event leaves. 1: every delta at once."""
    text_buffer_max_delay: SecondsOrZero = 0.1
    """Longest wait for text_buffer_size characters."""
    split_text: CountOrZero = 0
    """Longest text per event, in characters. 0: never split."""
    emit_metadata: Flag = False
    """Add SSE comments that tell the decision and the stage times."""
    heartbeat: SecondsOrZero = 15.0
    """A comment line after so long a silence. 0: none."""
    max_event: Bytes = 8 << 20
    """Largest single event from an endpoint."""
    client_stall: Seconds = 60.0
    """A client that takes no byte for so long is cut off."""


class Timeouts(Section):
    """Deadlines of one exchange, counted from when the request was sent."""

    first_token: Seconds | None = None
    """Until the first token of the answer. Without it: what remains of `total`, because an attempt
    that nothing can replace is better late than failed."""
    idle: Seconds = 60.0
    """Between two events; heartbeats of the endpoint do not count."""
    total: Seconds = 1800.0
    """For the whole answer."""


class Match(Section):
    """Which requests a route takes: all conditions that are given must hold."""

    later: ClassVar[frozenset[str]] = frozenset({"key"})

    model: tuple[str, ...] = ()
    """Shell patterns for the model asked for."""
    path: tuple[str, ...] = ()
    """Shell patterns for the request's path."""
    header: dict[str, str] = Field(default_factory=dict)
    """Header name to shell pattern of its value."""
    stream: Flag | None = None
    """Only streaming (true) or only other (false) requests."""
    min_prompt: BytesOrZero | None = None
    """Smallest request body."""
    max_prompt: BytesOrZero | None = None
    """Largest request body."""

    @field_validator("model", "path")
    @classmethod
    def _not_empty(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        if not patterns or not all(patterns):
            raise ValueError("an empty pattern or list matches nothing; leave the key out")
        return patterns

    @field_validator("header")
    @classmethod
    def _lower(cls, header: dict[str, str]) -> dict[str, str]:
        for name in header:
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
                raise ValueError(f"{name!r} is not a header name")
        return {name.lower(): pattern for name, pattern in header.items()}

    @field_validator("max_prompt")
    @classmethod
    def _ordered(cls, most: int | None, info: ValidationInfo) -> int | None:
        if most is not None and most < (info.data.get("min_prompt") or 0):
            raise ValueError("is smaller than min_prompt: nothing would match")
        return most


class Candidate(Section):
    """One thing to try: what is left out stays as asked (model) or is any of them (endpoint)."""

    model: Annotated[str, Field(min_length=1)] | None = None
    endpoint: Name | None = None


class Params(Section):
    """Request fields a route sets: `fill` where the caller is silent, `force` always."""

    fill: Fields = Field(default_factory=dict)
    force: Fields = Field(default_factory=dict)

    @field_validator("fill", "force")
    @classmethod
    def _allowed(cls, fields: Fields) -> Fields:
        refused = sorted(fields.keys() & {"messages", "model", "stream"})
        if refused:
            raise ValueError(f"must not set {', '.join(refused)}; a model is set by candidates")
        return fields

    @field_validator("force")
    @classmethod
    def _one_of_both(cls, force: Fields, info: ValidationInfo) -> Fields:
        both = sorted(force.keys() & info.data.get("fill", {}).keys())
        if both:
            raise ValueError(f"{', '.join(both)} is also in fill; keep one")
        return force


class RouteRule(Section):
    """What to do with the requests that match; the first matching route wins."""

    later: ClassVar[frozenset[str]] = frozenset(
        {"admission", "attempts", "commit", "first_content_target", "hedge"}
    )

    name: Name
    """What headers, metrics and logs call it."""
    match: Match = Match()
    """Which requests; without it, all."""
    candidates: tuple[Candidate, ...] = (Candidate(),)
    """What to try, in order; this version uses the first. Without it: the model as asked, the
    first endpoint."""
    params: Params = Params()
    """Request fields to set."""
    timeouts: Timeouts | None = None
    """Deadlines that differ from the top level's."""
    stream: StreamSettings | None = None
    """Stream settings that differ from the top level's."""

    @field_validator("candidates")
    @classmethod
    def _some(cls, candidates: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        if not candidates:
            raise ValueError("the list is empty; name at least one, or leave the key out")
        return candidates


class Log(Section):
    """The access log on standard output, the proxy's own messages on standard error."""

    format: Annotated[Literal["json", "text", "off"], OFF] = "json"
    """The access log, one line per exchange: json, text or off."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe message of the proxy's own to write."""


class Config(Section):
    """All settings of one proxy."""

    later: ClassVar[frozenset[str]] = frozenset(
        {"access", "admission", "attempts", "commit", "hedge", "limits", "memory", "state"}
    )

    server: Server = Server()
    admin: Admin = Admin()
    endpoints: tuple[Endpoint, ...]
    pool: PoolSettings = PoolSettings()
    stream: StreamSettings = StreamSettings()
    timeouts: Timeouts = Timeouts()
    routes: tuple[RouteRule, ...] = ()
    log: Log = Log()
    models_file: ExistingFile | None = None
    """Capabilities of models; without it, the bundled config/models.yaml."""

    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was noticed while reading and is not wrong enough to refuse."""
        return self._warnings

    @field_validator("endpoints")
    @classmethod
    def _some(cls, endpoints: tuple[Endpoint, ...]) -> tuple[Endpoint, ...]:
        if not endpoints:
            raise ValueError(f"the list is empty{ENDPOINTS_EXAMPLE}")
        return endpoints

    @model_validator(mode="after")
    def _complete_routes(self) -> Self:
        """What a route leaves out of `timeouts` and `stream` comes from the top level."""
        routes = tuple(
            rule.model_copy(
                update={
                    "timeouts": _over(self.timeouts, rule.timeouts),
                    "stream": _over(self.stream, rule.stream),
                }
            )
            for rule in self.routes
        )
        object.__setattr__(self, "routes", routes)
        return self


def _over(base: S, own: S | None) -> S:
    """`base` with what `own` was given explicitly."""
    if own is None:
        return base
    return base.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
