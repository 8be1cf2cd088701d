"""What every exchange works with: built once by `proxy.app`, the same for all exchanges."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from proxy.config import Config, Endpoint
from proxy.core.flow.patience import Limits
from proxy.core.policy.capability import Capabilities
from proxy.core.policy.route import Route, Router
from proxy.core.record import Record
from proxy.core.wire import headers as policy
from proxy.core.wire.dialect import Dialect
from proxy.core.wire.target import Kind, Target, upstream_url
from proxy.net.upstream import Outgoing, Upstream

_LARGEST_ANSWER = 64 * 1024 * 1024
"""Bytes of a whole answer, which is held until it is known to be whole."""


@dataclass(frozen=True, slots=True)
class House:
    """One value, so that an exchange is made of two: this and its client."""

    config: Config
    router: Router
    capabilities: Capabilities
    dialects: Mapping[str, Dialect]
    upstreams: Mapping[str, Upstream]
    """By endpoint name."""
    models: Callable[[bool], bytes]
    """The body of `GET /v1/models`; the argument says whether Anthropic's shape is asked for."""
    clock: Callable[[], float]
    """Monotonic, seconds."""
    new_id: Callable[[], str]
    fingerprint: Callable[[str], str]
    """Of a caller's key, for the log."""
    finish: Callable[[Record], None]
    """Called once for each exchange, when it is over."""
    broke: Callable[[str], None]
    """Called, inside the `except`, with the id of an exchange that a defect of ours ended."""

    def outgoing(
        self,
        target: Target,
        endpoint: Endpoint,
        method: str,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        *,
        request_id: str,
    ) -> Outgoing:
        """The request as `endpoint` gets it. Chat answers are read here: never compressed."""
        secret = endpoint.api_key
        return Outgoing(
            method,
            upstream_url(
                target,
                self.upstreams[endpoint.name].prefix,
                paas_path=endpoint.paas_path,
                anthropic_path=endpoint.anthropic_path,
            ),
            policy.to_upstream(
                headers,
                dialect=target.dialect,
                api_key=None if secret is None else secret.reveal(),
                chat=target.kind is Kind.CHAT,
                request_id=request_id,
            ),
            body,
        )

    def limits(self, route: Route) -> Limits:
        """What an attempt of this route may take."""
        timeouts, stream = route.timeouts, route.stream
        return Limits(
            first_token=timeouts.first_token,
            idle=timeouts.idle,
            total=timeouts.total,
            heartbeat=stream.heartbeat,
            stall=stream.client_stall,
            max_answer=_LARGEST_ANSWER,
        )
