"""Where a request goes: the first rule it matches says the candidates and their order.

The rules are compiled once; a decision afterwards costs microseconds. Without a matching rule a
request goes as it was asked, to the endpoints in order.

Where the operator switched the model that is asked for, its rule still decides all but one thing:
every candidate is asked for the other model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import translate
from typing import Final, Literal, NamedTuple

import orjson

from proxy.config import (
    Admission,
    Attempts,
    Cache,
    Config,
    Endpoint,
    Hedge,
    Match,
    Memory,
    OnDisconnect,
    Params,
    Responses,
    RouteRule,
    StreamSettings,
    Timeouts,
)
from proxy.core.policy.capability import Capabilities, is_pattern
from proxy.core.policy.switches import Switches
from proxy.core.wire.request import ChatRequest
from proxy.core.wire.target import Kind, Target, resolve

DEFAULT: Final = "default"
"""The name of the route for what no rule matches."""
SWITCHED: Final = "switch"
"""The reason of a route whose model the operator switched."""
_CHAT: Final = resolve("POST", "/v1/chat/completions")
_KEPT: Final = 256
"""Decisions kept for models that callers asked for; they may ask for any name."""


class Candidate(NamedTuple):
    """One thing to try."""

    model: str
    """The model to ask for; empty where a request names none."""
    endpoint: Endpoint
    keys: str | None = None
    """The endpoint's key group to use; None: its own keys, or the caller's."""
    tier: int = 0
    """Preference: the least is tried first; candidates of one tier are equally good."""


@dataclass(frozen=True, slots=True)
class Route:
    """The decision for one request."""

    name: str
    reason: str
    """Why, in one word for the log: `rule`, `default` when no rule matched, or `switch`."""
    candidates: tuple[Candidate, ...]
    """In the order of the settings, each once, never empty."""
    params: Params
    """Request fields to set."""
    timeouts: Timeouts
    stream: StreamSettings
    attempts: Attempts
    admission: Admission
    hedge: Hedge | None
    """None: no hedging."""
    commit: Literal["late", "early"]
    first_content_target: float | None
    """Seconds; None: the candidates in their order."""
    confidence: float
    """How sure the first content's prediction has to be, between 0 and 1."""
    share: bool
    """Whether identical requests of one key get one upstream answer."""
    on_disconnect: OnDisconnect
    memory: Memory | None
    cache: Cache | None
    responses: Responses | None
    websocket: bool


class Router:
    """The routes of the settings, compiled."""

    def __init__(self, config: Config, switches: Switches | None = None) -> None:
        """`switches` may change while the router lives."""
        self.switches = Switches() if switches is None else switches
        self._rules = tuple(_Rule(rule, config, "rule") for rule in config.routes)
        self._default = _Rule(RouteRule(name=DEFAULT), config, DEFAULT)
        self.serves = _served(config.routes)
        """The kinds of requests that are there because some route asks for them."""

    def plan(
        self,
        request: ChatRequest | None,
        target: Target,
        headers: Mapping[str, str],
        now: float,
        key: str | None = None,
    ) -> Route:
        """The route of a request; `request` is None where its body is not read (passthrough).

        Rules that ask for a model, a stream or a prompt's size do not match then, and no model is
        switched. `headers` have names in lower case; `now` is Unix seconds: switches expire. `key`
        is the name of the caller's virtual key; without one, rules that ask for a key do not match.
        """
        rule = self._rule(request, target, headers, key)
        if request is None:
            return rule.passed
        to = self.switches.target(request.model, now)
        return rule.of_model(request.model, to)

    def opens(
        self, target: Target, headers: Mapping[str, str], key: str | None = None
    ) -> Route | None:
        """A route that allows a WebSocket for some of what may be asked on it; None: there is none.
        Each chat on it is planned by itself."""
        for rule in self._rules:
            if rule.passed.websocket and rule.may_match(target, headers, key):
                return rule.passed
        return None

    def usual(self, model: str, now: float, key: str | None = None) -> Route:
        """The route of a plain chat request for `model`: a short stream, without headers."""
        return self.plan(ChatRequest(b"", {}, "openai", model, stream=True), _CHAT, {}, now, key)

    def named(self, name: str, model: str) -> Route:
        """What the rule of that name, or `default`, decides for `model`, its conditions and
        switches aside.

        Raises KeyError where there is none.
        """
        for rule in (*self._rules, self._default):
            if rule.name == name:
                return rule.of_model(model, None)
        raise KeyError(name)

    def _rule(
        self,
        request: ChatRequest | None,
        target: Target,
        headers: Mapping[str, str],
        key: str | None,
    ) -> _Rule:
        for rule in self._rules:
            if rule.matches(request, target, headers, key):
                return rule
        return self._default


class _Rule:
    """One route of the settings, its patterns compiled."""

    def __init__(self, rule: RouteRule, config: Config, reason: str) -> None:
        self.name = rule.name
        self._match = rule.match
        self._model = _any_of(rule.match.model)
        self._path = _any_of(rule.match.path)
        self._headers = [(name, _any_of((one,))) for name, one in rule.match.header.items()]
        self._key = _any_of(rule.match.key) if rule.match.key else None
        self._of_chat = _is_of_chat(rule.match)
        self._choices = tuple(_choices(rule, config.endpoints))
        self._follows_caller = any(choice.model is None for choice in self._choices)
        self._route = _route(rule, config, reason, self._candidates(""))
        self._by_model: dict[tuple[str, str | None], Route] = {}
        self.passed = replace(self._route, candidates=self._nameless())
        """The decision for what is passed through."""

    def matches(
        self,
        request: ChatRequest | None,
        target: Target,
        headers: Mapping[str, str],
        key: str | None,
    ) -> bool:
        if self._of_chat and (request is None or not self._matches_chat(request)):
            return False
        return self.may_match(target, headers, key)

    def may_match(self, target: Target, headers: Mapping[str, str], key: str | None) -> bool:
        """Whether it would match with the right body."""
        if self._key is not None and (key is None or not self._key.match(key)):
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

    def of_model(self, model: str, to: str | None) -> Route:
        """The decision for `model`, switched to another one or, with None, as it stands.

        Only models that are as asked, or switched, make it differ between requests.
        """
        if to is None and not self._follows_caller:
            return self._route
        route = self._by_model.get((model, to))
        if route is None:
            if len(self._by_model) >= _KEPT:
                self._by_model.clear()
            route = self._by_model[model, to] = self._decided(model, to)
        return route

    def _decided(self, model: str, to: str | None) -> Route:
        candidates = self._candidates(model)
        if to is None:
            return replace(self._route, candidates=candidates)
        switched = _each_once(one._replace(model=to) for one in candidates)
        return replace(self._route, candidates=switched, reason=SWITCHED)

    def _candidates(self, asked: str) -> tuple[Candidate, ...]:
        return _each_once(
            Candidate(asked if model is None else model, endpoint, keys, tier)
            for model, endpoint, keys, tier in self._choices
        )

    def _nameless(self) -> tuple[Candidate, ...]:
        """For requests that name no model."""
        return _each_once(choice._replace(model="") for choice in self._route.candidates)


def _served(rules: Iterable[RouteRule]) -> frozenset[Kind]:
    kinds = set[Kind]()
    for rule in rules:
        if rule.responses is not None:
            kinds.add(Kind.RESPONSES)
        if rule.websocket:
            kinds.add(Kind.SOCKET)
        if rule.on_disconnect.action == "keep":
            kinds.add(Kind.STREAMS)
        if rule.memory is not None:
            kinds.add(Kind.MEMORY)
    return frozenset(kinds)


def _route(
    rule: RouteRule, config: Config, reason: str, candidates: tuple[Candidate, ...]
) -> Route:
    hedge = rule.hedge or config.hedge
    return Route(
        name=rule.name,
        reason=reason,
        candidates=candidates,
        params=rule.params,
        timeouts=rule.timeouts or config.timeouts,
        stream=rule.stream or config.stream,
        attempts=rule.attempts or config.attempts,
        admission=rule.admission or config.admission,
        hedge=None if hedge == "off" else hedge,
        commit=rule.commit or config.commit,
        first_content_target=rule.first_content_target,
        confidence=rule.confidence,
        share=rule.share,
        on_disconnect=rule.on_disconnect,
        memory=rule.memory,
        cache=rule.cache,
        responses=rule.responses,
        websocket=rule.websocket,
    )


def _each_once(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Without repetitions: a candidate that failed is not found again under the same name."""
    found: dict[tuple[str, str, str | None], Candidate] = {}
    for candidate in candidates:
        found.setdefault((candidate.model, candidate.endpoint.name, candidate.keys), candidate)
    return tuple(found.values())


def _is_of_chat(match: Match) -> bool:
    """Whether only a chat request, whose body is read, can meet the conditions."""
    return bool(match.model) or any(
        condition is not None for condition in (match.stream, match.min_prompt, match.max_prompt)
    )


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    """One expression for shell patterns, in their case; without patterns it matches all."""
    return re.compile("|".join(map(translate, patterns)))


class _Choice(NamedTuple):
    """A candidate of the settings; model None is the one asked for."""

    model: str | None
    endpoint: Endpoint
    keys: str | None
    tier: int


def _choices(rule: RouteRule, endpoints: tuple[Endpoint, ...]) -> Iterator[_Choice]:
    """One without an endpoint stands for each of all, equally good; without any candidate the
    endpoints are preferred in their order."""
    if not rule.candidates:
        for tier, endpoint in enumerate(endpoints):
            yield _Choice(None, endpoint, None, tier)
        return
    for tier, candidate in enumerate(rule.candidates):
        for endpoint in endpoints:
            if candidate.endpoint in (None, endpoint.name):
                yield _Choice(candidate.model, endpoint, candidate.keys, tier)


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
