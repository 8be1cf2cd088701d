"""What a measuring run asks, and of whom."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from proxy import __version__
from proxy.core.wire.anthropic import ANTHROPIC
from proxy.core.wire.dialect import Dialect
from proxy.core.wire.glm import GLM

DIALECTS = {dialect.name: dialect for dialect in (GLM, ANTHROPIC)}
# Where an SDK goes from the base URL it is given.
_PATHS = {"openai": "/chat/completions", "anthropic": "/v1/messages"}
# GLM's edge refuses requests without a user agent.
_USER_AGENT = f"glm-proxy-bench/{__version__}"


@dataclass(frozen=True, slots=True)
class Way:
    """One road to the model: a name for the report, and a base URL as an SDK is given it."""

    name: str
    base_url: str


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, whole."""

    way: str
    number: int
    url: str
    body: bytes
    headers: Mapping[str, str] = field(repr=False)
    dialect: Dialect = GLM
    timeout: float = 300.0
    """For the whole answer, in seconds."""
    scene: str = ""
    """What it belongs to within its way."""


def usual_headers(key: str | None = None) -> dict[str, str]:
    """Of a request in the OpenAI dialect. `identity`: compression would hide where events begin."""
    headers = {
        "user-agent": _USER_AGENT,
        "accept": "text/event-stream",
        "accept-encoding": "identity",
        "content-type": "application/json",
    }
    return headers if key is None else headers | {"authorization": f"Bearer {key}"}


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    ways: tuple[Way, ...]
    """The last one is judged; one before it is what it is compared with."""
    model: str
    prompts: tuple[str, ...]
    """Asked in turn; every way is asked the same."""
    requests: int
    """Per way."""
    concurrency: int
    max_tokens: int
    dialect_name: str
    fresh_connections: bool
    """A new connection for each request; else they are kept and used again."""
    timeout: float
    """For one whole answer, in seconds."""
    seed: int
    """Of the order in which the ways are asked."""
    api_key: str | None = field(default=None, repr=False)

    @property
    def dialect(self) -> Dialect:
        return DIALECTS[self.dialect_name]

    def url(self, way: Way) -> str:
        """Where requests are sent."""
        return way.base_url.rstrip("/") + _PATHS[self.dialect_name]

    def ask(self, way: Way, number: int) -> Ask:
        """The number-th request of a way."""
        body, headers = self.body(number), self.headers()
        return Ask(way.name, number, self.url(way), body, headers, self.dialect, self.timeout)

    def headers(self) -> dict[str, str]:
        """Of each request."""
        if self.dialect_name != "anthropic":
            return usual_headers(self.api_key)
        headers = usual_headers() | {"anthropic-version": "2023-06-01"}
        return headers if self.api_key is None else headers | {"x-api-key": self.api_key}

    def body(self, number: int) -> bytes:
        """The request's body for the prompt of the number-th request of a way."""
        message = {"role": "user", "content": self.prompts[number % len(self.prompts)]}
        asked = {
            "model": self.model,
            "stream": True,
            "max_tokens": self.max_tokens,
            "messages": [message],
        }
        return json.dumps(asked, ensure_ascii=False).encode()
