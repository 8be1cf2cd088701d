"""The settings: names, units, defaults and checks. Attribute names are the YAML keys.

Durations are seconds, sizes are bytes, keys are references. A key that is not here is refused,
never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar, Final, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from proxy.config import origin
from proxy.config.attempts import Admission, Attempts, Hedge, HedgeOrOff
from proxy.config.conversation import Keeping, WebSocketLimits
from proxy.config.limits import Limits
from proxy.config.observing import Log, Metrics, TracingOrOff
from proxy.config.routes import Commit, RouteRule, StreamSettings, Timeouts
from proxy.config.secret import SAFE_LENGTH, Secret, is_guessable
from proxy.config.state import State
from proxy.config.types import (
    OFF,
    SILENT_IF_EMPTY,
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

_MOST_WORKERS: Final = 256


def _some_workers(found: object) -> object:
    if found == "auto" or (type(found) is int and 1 <= found <= _MOST_WORKERS):
        return found
    raise ValueError(f"found {found!r}, must be a whole number, 1 to {_MOST_WORKERS}, or auto")


Workers = Annotated[
    Annotated[int, Field(ge=1, le=_MOST_WORKERS)] | Literal["auto"], BeforeValidator(_some_workers)
]
Connections = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
ConnectionsOrZero = Annotated[int, Field(strict=True, ge=0, le=1_000_000)]


def _head_in_reason(size: int) -> int:
    if not 1 << 10 <= size <= 1 << 20:
        raise ValueError("must be from 1KiB to 1MiB")
    return size


HeaderLimit = Annotated[Bytes, AfterValidator(_head_in_reason)]

ENDPOINTS_EXAMPLE: Final = """; say where requests are sent, for example
      endpoints:
        - {name: cn, base_url: https://open.bigmodel.cn, api_key: "env:ZHIPUAI_API_KEY"}"""


def _bindable(host: str) -> str:
    if not origin.is_bindable(host):
        raise ValueError("must be an IP address, such as 127.0.0.1 or ::1, or localhost")
    return host


Host = Annotated[str, AfterValidator(_bindable)]


class Server(Section):
    """The data listener: what applications call."""

    gone: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "allow_remote": "remove it. An address that other machines reach needs access: keys,"
            " and for each caller a key (glm-proxy keys create)"
        }
    )

    host: Host = "127.0.0.1"
    """Address to listen on: an IP address or `localhost`. One that other machines reach needs
    `access: keys`."""
    port: Port = 8080
    """Port to listen on; 0 takes any free one."""
    workers: Workers = 1
    """Processes that accept connections on the same socket, made by a master that replaces those
    that end. 1: one process without a master. auto: as many as there are processors for us."""
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
    max_connections: Connections | None = None
    """Most client connections at once; further ones are told 503 and closed. Without it: two of
    five files that the process may open (RLIMIT_NOFILE), as each may need another one upstream."""
    max_connections_per_address: ConnectionsOrZero = 0
    """Of these, most from one address; 0: no limit, as a front's connections share its address."""
    header_limit: HeaderLimit = 16 << 10
    """Largest head of a request; one line of it may be half as long."""
    header_count: Annotated[int, Field(strict=True, ge=16, le=1000)] = 64
    """Most header lines of a request."""
    body_rate: BytesOrZero = 1 << 10
    """Bytes per second that a body has to come with, after 10 s; 0: however slowly."""
    json_depth: Annotated[int, Field(strict=True, ge=4, le=64)] = 64
    """Deepest nesting of objects and arrays in a chat request."""


class Admin(Section):
    """The operator's listener: health, metrics, models. Never the data port."""

    allow_remote: Flag = False
    """Allow an address that other machines reach. It needs a `token`, for reading too then."""
    host: Host = "127.0.0.1"
    """Address to listen on: an IP address or `localhost`."""
    port: Port = 9090
    """Port to listen on; 0 takes any free one."""
    token: Secret | None = None
    """`env:NAME` or `file:/path`, 16 characters or more. For what is sent or changed; on an address
    that other machines reach also for what is shown."""
    hosts: tuple[str, ...] = ()
    """Names the listener is reached by, besides addresses and localhost: proxy.internal."""
    exchanges: CountOrZero = 500
    """How many finished exchanges /admin/exchanges remembers. 0: none."""

    @field_validator("host")
    @classmethod
    def _check_host(cls, host: str, info: ValidationInfo) -> str:
        if not origin.is_loopback(host) and not info.data.get("allow_remote", True):
            raise ValueError(
                f"{host} is not a loopback address: who reaches it sees what this proxy does. Use"
                " 127.0.0.1, or set allow_remote: true and a token beside it"
            )
        return host

    @field_validator("token")
    @classmethod
    def _check_token(cls, token: Secret | None) -> Secret | None:
        if token is not None and is_guessable(token):
            raise ValueError(
                f"{token.reference} can be guessed; an admin.token has {SAFE_LENGTH} characters or"
                " more, made by chance: openssl rand -hex 32"
            )
        return token

    @field_validator("hosts")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not origin.is_name(host):
                raise ValueError(f"found {host!r}, must be a name alone, without scheme and port")
        return hosts


class Endpoint(Section):
    """One place requests are sent to."""

    name: Name
    """What candidates, metrics and logs call it."""
    region: Name | None = None
    """Where it is, for metrics and logs: `cn`, `global`, `edge-fra`."""
    allow_plain_http: Flag = False
    """Allow http:// to a host that is neither loopback nor private."""
    base_url: str
    """scheme://host[:port][/prefix]. https, or http to loopback and private hosts."""
    api_key: Secret | None = None
    """`env:NAME` or `file:/path`. Without one the caller's own key is forwarded."""
    api_keys: Annotated[tuple[Secret, ...], SILENT_IF_EMPTY] = ()
    """Several keys: the least loaded is used, one that is refused rests. Instead of api_key."""
    key_groups: dict[Name, tuple[Secret, ...]] = Field(default_factory=dict)
    """Further keys by name, for candidates that name the group in `keys`."""
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

    @field_validator("api_keys")
    @classmethod
    def _one_way(cls, keys: tuple[Secret, ...], info: ValidationInfo) -> tuple[Secret, ...]:
        if not keys:
            text = "name at least one key, or leave it out to forward the caller's"
            raise ValueError(f"the list is empty; {text}")
        if info.data.get("api_key") is not None:
            raise ValueError("api_key is given too; put that key into the list")
        return keys

    @field_validator("key_groups")
    @classmethod
    def _no_empty_group(
        cls, groups: dict[str, tuple[Secret, ...]]
    ) -> dict[str, tuple[Secret, ...]]:
        for name, keys in groups.items():
            if not keys:
                raise ValueError(f"{name} is empty; list at least one key, such as env:NAME")
        return groups

    def keys(self, group: str | None = None) -> tuple[Secret, ...]:
        """The endpoint's own keys, or those of a named group; empty: the caller's is forwarded.

        Raises KeyError for a group that is not there; `load` refuses settings that name one.
        """
        if group is not None:
            return self.key_groups[group]
        return self.api_keys or (() if self.api_key is None else (self.api_key,))

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


class Config(Section):
    """All settings of one proxy."""

    gone: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            name: f"it belongs into a route, such as routes: [{{name: all, {name}: {example}}}]"
            for name, example in (
                ("memory", "{store: sqlite:memory.db}"),
                ("cache", "{store: sqlite:cache.db}"),
                ("responses", "{}"),
                ("on_disconnect", "{keep: 60s}"),
            )
        }
    )

    server: Server = Server()
    admin: Admin = Admin()
    access: Literal["open", "keys"] = "open"
    """open: whoever reaches the listener may use it, which has to be on loopback. keys: only who
    shows a virtual key; every endpoint needs keys of its own then."""
    limits: Limits = Limits()
    websocket: WebSocketLimits = WebSocketLimits()
    keep: Keeping = Keeping()
    state: State | None = None
    """Where keys, model switches and counts are kept. Without it `glm-proxy serve` uses a file of
    its own in the user's state folder."""
    endpoints: tuple[Endpoint, ...]
    pool: PoolSettings = PoolSettings()
    stream: StreamSettings = StreamSettings()
    timeouts: Timeouts = Timeouts()
    attempts: Attempts = Attempts()
    admission: Admission = Admission()
    hedge: HedgeOrOff = "off"
    """A second attempt beside a late one. It costs calls, so it is switched on by the operator."""
    commit: Commit = "late"
    """late: the status is sent with the first token, so a failure before it has one of its own.
    early: after `stream.heartbeat` of silence it is sent, with heartbeats; then a failure is an
    error event."""
    routes: tuple[RouteRule, ...] = ()
    log: Log = Log()
    metrics: Metrics = Metrics()
    tracing: TracingOrOff = "off"
    """OpenTelemetry traces: off, or where they are sent."""
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
        """What a route leaves out comes from the top level, key by key."""
        routes = tuple(
            rule.model_copy(
                update={
                    "timeouts": _over(self.timeouts, rule.timeouts),
                    "stream": _over(self.stream, rule.stream),
                    "attempts": _over(self.attempts, rule.attempts),
                    "admission": _over(self.admission, rule.admission),
                    "hedge": self._hedge_of(rule),
                    "commit": rule.commit or self.commit,
                }
            )
            for rule in self.routes
        )
        object.__setattr__(self, "routes", routes)
        return self

    def _hedge_of(self, rule: RouteRule) -> HedgeOrOff:
        if not isinstance(rule.hedge, Hedge):
            return rule.hedge or self.hedge
        if not isinstance(self.hedge, Hedge):
            return rule.hedge
        merged = _over(self.hedge, rule.hedge)
        if merged.max < merged.min:
            raise ValueError(
                f"route {rule.name}: hedge.min is more than hedge.max; one of them comes from the"
                " top level: say both in the route"
            )
        return merged


def _over(base: S, own: S | None) -> S:
    """`base` with what `own` was given explicitly, sections within it too."""
    if own is None:
        return base
    update = {}
    for name in own.model_fields_set:
        theirs, ours = getattr(base, name), getattr(own, name)
        both = isinstance(theirs, Section) and isinstance(ours, Section)
        update[name] = _over(theirs, ours) if both else ours
    return base.model_copy(update=update)
