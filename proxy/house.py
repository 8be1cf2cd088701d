"""What every exchange works with: built once by `proxy.app`, the same for all exchanges."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from proxy.allowance import Allowances
from proxy.config import Config, Endpoint
from proxy.core.policy.capability import Capabilities
from proxy.core.policy.route import Router
from proxy.core.record import Record
from proxy.core.wire import headers as policy
from proxy.core.wire.dialect import Dialect
from proxy.core.wire.target import Kind, Target, upstream_url
from proxy.core.wire.trace import Tracer
from proxy.errors import InternalError
from proxy.gate import Gate
from proxy.knowledge import Knowledge
from proxy.memory.memories import Memories
from proxy.net.admission import Admission
from proxy.net.halves import Client
from proxy.net.keeping import Keeper
from proxy.net.upstream import Outgoing, Upstream
from proxy.store.open import Stores

LARGEST_ANSWER = 64 * 1024 * 1024
"""Bytes of a whole answer, which is held until it is known to be whole."""


class ListModels(Protocol):
    """Tells of models, in OpenAI's shape or in Anthropic's."""

    def __call__(self, names: Iterable[str], *, anthropic: bool) -> bytes: ...


@dataclass(frozen=True, slots=True)
class House:
    """One value, so that an exchange is made of two: this and its client."""

    config: Config
    router: Router
    capabilities: Capabilities
    dialects: Mapping[str, Dialect]
    upstreams: Mapping[str, Upstream]
    """By endpoint name."""
    models: tuple[str, ...]
    """The names that callers may ask for."""
    list_models: ListModels
    """The body of `GET /v1/models`."""
    knowledge: Knowledge
    """What is known of the candidates, and what may still be spent on them."""
    admission: Admission
    gate: Gate
    allowances: Allowances
    clock: Callable[[], float]
    """Monotonic, seconds."""
    wall: Callable[[], float]
    """Unix time, seconds: for dates that an upstream names."""
    roll: Callable[[], float]
    """A random number from 0 to 1."""
    new_id: Callable[[], str]
    flights: dict[Any, Any]
    """Answers that identical requests share now: see `proxy.flight`."""
    keeper: Keeper
    """Streams that can be fetched again."""
    memories: Memories
    """What routes with `memory` remember."""
    fetches: dict[Any, Any]
    """Questions that several ask at the same time: see `proxy.cache`."""
    answers: Stores
    """What routes with `cache` or `responses` keep."""
    finish: Callable[[Record], None]
    """Called once for each exchange, when it is over."""
    broke: Callable[[str], None]
    """Called, inside the `except`, with the id of an exchange that a defect of ours ended."""
    serve: Callable[[Client], Awaitable[None]]
    """Lives one more exchange, in the settings that are in use then, and counted like all others:
    for a chat on a WebSocket."""
    tracer: Tracer | None
    """None when tracing is off: what a caller says of its trace is only passed on then."""

    def outgoing(
        self,
        target: Target,
        endpoint: Endpoint,
        method: str,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        *,
        request_id: str,
        key: str | None,
        trace: list[tuple[str, str]] | None,
    ) -> Outgoing:
        """The request as `endpoint` gets it, with `key` and `trace` for the caller's if given.

        Chat answers are read here: never compressed. Raises InternalError where only a virtual key
        could go along: it never leaves, whatever the settings were checked for.
        """
        if key is None and self.config.access == "keys":
            raise InternalError(f"endpoint {endpoint.name} has no key of its own")
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
                api_key=key,
                chat=target.kind is Kind.CHAT,
                request_id=request_id,
                trace=trace,
            ),
            body,
        )
