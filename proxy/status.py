"""How the proxy is at this moment, for the operator's page: what runs, endpoints, candidates.

Everything is read where it is known and put into JSON's own types. Looking changes nothing: no
candidate is remembered longer, and no limit is learned, because somebody watches.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import chain, islice
from typing import Final, Protocol

from proxy import __version__
from proxy.config import Match, RouteRule, digest, effective
from proxy.core.policy.capability import is_pattern
from proxy.core.policy.health import shape_of
from proxy.core.policy.route import DEFAULT, Candidate, Route
from proxy.facts import Running
from proxy.house import House
from proxy.net.admission import Figures
from proxy.net.pool import Pool
from proxy.observe.exchanges import Exchanges
from proxy.observe.redact import identifier, plain
from proxy.observe.window import Window

RUNNING: Final = 20
"""Running exchanges that are told of, the oldest."""
MODELS: Final = 20
"""Models of one route that are told of where callers choose the model, the latest asked for."""

_SMALL: Final = shape_of(1024, tools=False)
"""What a prediction is told for: a request of 1 KB without tools."""
_NO_TOKEN: Final = "admin.token is not set"

Json = dict[str, object]


class Peeking(Protocol):
    """An exchange, as far as it is looked at here."""

    def peek(self) -> Running: ...


class Status:
    """Made once, told of each reload; asked by who looks. In the event loop's thread."""

    def __init__(
        self,
        house: House,
        window: Window,
        exchanges: Exchanges,
        *,
        running: Collection[Peeking],
        reasons: Callable[[], Iterable[str]],
    ) -> None:
        """`running` holds the exchanges that run, the oldest first; `reasons` tells why no new ones
        are welcome: none, where they are."""
        self._window = window
        self._exchanges = exchanges
        self._running = running
        self._reasons = reasons
        self._began = house.clock()
        self.use(house)

    def use(self, house: House) -> None:
        """From now on the one in use is this one."""
        self._house = house
        self._digest = digest(house.config)
        self._routes = _Routes(house)
        self._fixed: Json = {
            "routes": [self._routes.row(rule) for rule in self._routes.rules],
            "models": list(house.models),
        }

    def whole(self) -> Json:
        """Everything."""
        if "settings" not in self._fixed:  # it takes some milliseconds, and not everybody looks
            self._fixed["settings"] = effective(self._house.config)
        return self.moving() | self._fixed

    def models(self) -> Json:
        """What each model name is served by: the switches in effect, and the routes."""
        return {"switches": self._switches(self._house.wall()), "routes": self._fixed["routes"]}

    def moving(self) -> Json:
        """Without what stays as it is until the next reload: routes, models and settings."""
        house = self._house
        now, wall = house.clock(), house.wall()
        reasons = list(self._reasons())
        oldest = islice(self._running, RUNNING)
        has_token = house.config.admin.token is not None
        return {
            "version": __version__,
            "time": round(wall, 3),
            "uptime_s": round(now - self._began, 3),
            "ready": not reasons,
            "reasons": reasons,
            "digest": self._digest,
            "in_flight": len(self._running),
            "finished": self._exchanges.count,
            "switches": self._switches(wall),
            "window": self._window.minute(),
            "history": self._window.history(wall),
            "running": [_running(one.peek(), now) for one in oldest],
            "endpoints": list(self._endpoints()),
            "candidates": list(self._candidates(now, wall)),
            "playground": {"enabled": has_token, "reason": None if has_token else _NO_TOKEN},
        }

    def _switches(self, wall: float) -> list[Json]:
        return [one.told() for one in self._house.router.switches.active(wall)]

    def _endpoints(self) -> Iterator[Json]:
        for endpoint in self._house.config.endpoints:
            pool = self._house.upstreams[endpoint.name].pool
            known = figures_of(pool)
            round_trip = known.pop("ping_round_trip", None)
            yield {
                "name": endpoint.name,
                "region": endpoint.region,
                "state": state_of(pool),
                **known,
                "ping_round_trip_s": _seconds(round_trip),
            }

    def _candidates(self, now: float, wall: float) -> Iterator[Json]:
        """Those of the routes, then those that serve switched models: each once."""
        house = self._house
        shown: set[tuple[str, str, str, str | None]] = set()
        places = house.admission.figures()
        switched = [
            house.router.usual(one.model, wall) for one in house.router.switches.active(wall)
        ]
        for route in chain(self._routes.now(house.knowledge.models()), switched[:MODELS]):
            for candidate in route.candidates:
                name = candidate.endpoint.name, candidate.model
                if (route.name, *name, candidate.keys) not in shown:
                    shown.add((route.name, *name, candidate.keys))
                    yield self._candidate(route, candidate, places.get(name, _NOBODY), now)

    def _candidate(self, route: Route, candidate: Candidate, place: Figures, now: float) -> Json:
        seen = self._house.knowledge.look(route, candidate, _SMALL, now)
        return {
            "route": route.name,
            "model": plain(candidate.model),
            "endpoint": candidate.endpoint.name,
            "breaker": seen.breaker,
            "error_rate": _rounded(seen.error_rate, 4),
            "predicted_first_content_s": _seconds(seen.predicted),
            "in_flight": place.in_flight,
            "waiting": place.waiting,
            "limit": place.limit or None,
            "resting_keys": place.resting,
        }


def state_of(pool: Pool) -> str:
    """up, connecting or down: whether an endpoint can be reached.

    Over HTTP/1.1 connections are opened when a request needs one, so the latest attempt to open
    one decides; before the first it is up: nothing speaks against it, and nothing is waited for.
    """
    stats = pool.stats()
    if stats.connections:
        return "up"
    if stats.failures:
        return "down"
    return "up" if stats.speaks == "http/1.1" else "connecting"


def figures_of(pool: Pool) -> dict[str, float]:
    """A pool's gauges: counts, and `ping_round_trip` in seconds where it is known."""
    stats = pool.stats()
    known: dict[str, float] = {
        "connections": stats.connections,
        "opening": stats.opening,
        "idle": stats.idle,
        "streams": stats.streams,
        "waiting": stats.waiting,
    }
    if stats.rtt is not None:
        known["ping_round_trip"] = stats.rtt
    return known


class _Routes:
    """The routes of the settings, and which models come to them."""

    def __init__(self, house: House) -> None:
        self._house = house
        rules = house.config.routes
        takes_all = any(rule.match == Match() for rule in rules)
        self.rules = rules if takes_all else (*rules, RouteRule(name=DEFAULT))
        """In their order; without a rule that takes everything, the one for the rest is last."""
        self._examples = {rule.name: self._example(rule, house.models) for rule in self.rules}

    def row(self, rule: RouteRule) -> Json:
        """A route as the page shows it."""
        example = self._examples[rule.name]
        choices: dict[tuple[str | None, str], None] = {}
        for one in self._house.router.named(rule.name, "").candidates:
            choices[one.model or None, one.endpoint.name] = None
        return {
            "name": rule.name,
            "match": rule.match.model_dump(mode="json", exclude_defaults=True),
            "example_model": example,
            "candidates": [{"model": model, "endpoint": name} for model, name in choices],
        }

    def now(self, asked: list[str]) -> Iterator[Route]:
        """Each route with its candidates. One whose model the caller chooses comes once for each
        of those `asked` for lately; before there is any, for its example."""
        named = {rule.name: rule for rule in self.rules}
        models: dict[str, list[str]] = {name: [] for name in named}
        for model in asked:
            models.get(self._taker(model), []).append(model)
        for name, rule in named.items():
            chosen = [self._examples[name] or ""]
            if not rule.candidates or any(one.model is None for one in rule.candidates):
                chosen = models[name][:MODELS] or chosen
            for model in chosen:
                yield self._house.router.named(name, model)

    def _example(self, rule: RouteRule, models: tuple[str, ...]) -> str | None:
        """A model that comes to the rule, or would if the request met its other conditions.

        Where no known one fits its pattern, a name that does; None for a rule that is left none.
        """
        patterns = rule.match.model
        fitting = [one for one in patterns if not is_pattern(one)]
        fitting += [one for one in models if not patterns or _fits(one, patterns)]
        fitting += [re.sub(r"[*?\[\]]", "", one) for one in patterns]
        for model in fitting:
            if self._taker(model) == rule.name:
                return model
        return None if rule.name == DEFAULT else fitting[0]

    def _taker(self, model: str) -> str:
        """The rule that takes a plain chat request for `model`."""
        return self._house.router.usual(model, self._house.wall()).name


def _fits(model: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(model, pattern) for pattern in patterns)


_NOBODY: Final = Figures(0, 0, 0, 0)


def _running(one: Running, now: float) -> Json:
    return {
        "request_id": identifier(one.request_id),
        "requested_model": plain(one.requested_model),
        "route": one.route,
        "endpoint": one.endpoint,
        "stage": one.stage,
        "age_s": _seconds(now - one.received),
    }


def _seconds(span: float | None) -> float | None:
    return _rounded(span, 6)


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
