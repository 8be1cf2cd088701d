"""Where a request goes: the first rule it matches says the candidates and their order.

The rules are compiled once; a decision afterwards costs microseconds. Without a matching rule a
request goes as it was asked, to the endpoints in order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import translate
from typing import Final, NamedTuple

import orjson

from proxy.config import Config, Endpoint, Match, Params, RouteRule, StreamSettings, Timeouts
from proxy.core.policy.capability import Capabilities, is_pattern
from proxy.core.policy.rewrite import checked
from proxy.core.wire.request import ChatRequest
from proxy.core.wire.target import Target

DEFAULT: Final = "default"
"""The name of the route for what no rule matches."""


class Candidate(NamedTuple):
    """One thing to try."""

    model: str
    """The model to ask for; empty where a request names none."""
    endpoint: Endpoint


@dataclass(frozen=True, slots=True)
class Route:
    """The decision for one request."""

    name: str
    reason: str
    """Why, in one word for the log: `rule`, or `default` when no rule matched."""
    candidates: tuple[Candidate, ...]
    """Best first, never empty. The exchange uses the first."""
    params: Params
    """Request fields to set."""
    timeouts: Timeouts
    stream: StreamSettings


class Router:
    """The routes of the settings, compiled."""

    def __init__(self, config: Config) -> None:
        """Raises ValueError, naming the route, for parameters that no request can carry."""
        self._rules = tuple(_Rule(rule, config) for rule in config.routes)
        self._default = _Rule(RouteRule(name=DEFAULT), config)

    def plan(
        self, request: ChatRequest | None, target: Target, headers: Mapping[str, str]
    ) -> Route:
        """The route of a request; `request` is None where its body is not read (passthrough).

        Rules that ask for a model, a stream or a prompt's size do not match then. `headers` have
        names in lower case.
        """
        for rule in self._rules:
            if rule.matches(request, target, headers):
                return rule.route(request, "rule")
        return self._default.route(request, DEFAULT)


class _Rule:
    """One route of the settings, its patterns compiled."""

    def __init__(self, rule: RouteRule, config: Config) -> None:
        self._name = rule.name
        self._match = rule.match
        self._model = _any_of(rule.match.model)
        self._path = _any_of(rule.match.path)
        self._headers = [(name, _any_of((one,))) for name, one in rule.match.header.items()]
        self._of_chat = _is_of_chat(rule.match)
        self._choices = tuple(_choices(rule, config.endpoints))
        self._timeouts = rule.timeouts or config.timeouts
        self._stream = rule.stream or config.stream
        try:
            self._params = checked(rule.params)
        except ValueError as error:
            raise ValueError(f"route {rule.name}: {error}") from None

    def matches(
        self, request: ChatRequest | None, target: Target, headers: Mapping[str, str]
    ) -> bool:
        if self._of_chat and (request is None or not self._matches_chat(request)):
            return False
        if not self._path.match(target.path):
            return False
        return all(
            name in headers and pattern.match(headers[name]) for name, pattern in self._headers
        )

    def _matches_chat(self, request: ChatRequest) -> bool:
        match = self._match
        if match.stream is not None and match.stream is not request.stream:
            return False
        if match.min_prompt is not None and request.size < match.min_prompt:
            return False
        if match.max_prompt is not None and request.size > match.max_prompt:
            return False
        return self._model.match(request.model) is not None

    def route(self, request: ChatRequest | None, reason: str) -> Route:
        asked = None if request is None else request.model
        return Route(
            name=self._name,
            reason=reason,
            candidates=tuple(
                Candidate("" if asked is None else model or asked, endpoint)
                for model, endpoint in self._choices
            ),
            params=self._params,
            timeouts=self._timeouts,
            stream=self._stream,
        )


def _is_of_chat(match: Match) -> bool:
    """Whether only a chat request, whose body is read, can meet the conditions."""
    return bool(match.model) or any(
        condition is not None for condition in (match.stream, match.min_prompt, match.max_prompt)
    )


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    """One expression for shell patterns, in their case; without patterns it matches all."""
    return re.compile("|".join(map(translate, patterns)))


def _choices(
    rule: RouteRule, endpoints: tuple[Endpoint, ...]
) -> Iterator[tuple[str | None, Endpoint]]:
    """Model (None: as asked) and endpoint of each candidate; without an endpoint, each of all."""
    for candidate in rule.candidates:
        for endpoint in endpoints:
            if candidate.endpoint in (None, endpoint.name):
                yield candidate.model, endpoint


# --- GET /v1/models ----------------------------------------------------------------------------


def served_models(routes: Iterable[RouteRule], capabilities: Capabilities) -> tuple[str, ...]:
    """The names clients may ask for: aliases of the routes first, then the known models."""
    aliases = (name for rule in routes for name in rule.match.model if not is_pattern(name))
    return tuple(dict.fromkeys((*aliases, *capabilities.listed())))


def models_body(names: Iterable[str], *, created: int, anthropic: bool = False) -> bytes:
    """The answer to GET /v1/models, in OpenAI's shape or in Anthropic's.

    `created` is Unix seconds: models have no date that the upstream tells, so it is one for all.
    https://docs.anthropic.com/en/api/models-list
    """
    if anthropic:
        at = datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        models = [
            {"type": "model", "id": name, "display_name": name, "created_at": at} for name in names
        ]
        ends = {
            "first_id": models[0]["id"] if models else None,
            "last_id": models[-1]["id"] if models else None,
        }
        return orjson.dumps({"data": models, "has_more": False, **ends})
    return orjson.dumps(
        {
            "object": "list",
            "data": [
                {"id": name, "object": "model", "created": created, "owned_by": "z-ai"}
                for name in names
            ],
        }
    )
