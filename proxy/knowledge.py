"""What this process knows of the candidates, and what it may still spend on them.

The parts are pure values of `proxy.core.policy`; here is one of each, and the questions that need
several of them. New settings get a `Knowledge` of their own, which takes over what is still true.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Final, NamedTuple

from proxy.config import Attempts, Breaker, Config, Endpoint, Hedge
from proxy.core.policy.admission import Place
from proxy.core.policy.budget import Budget
from proxy.core.policy.choice import Choice, Option, choose, prefix_of
from proxy.core.policy.health import Health, Shape, Vitals
from proxy.core.policy.hedging import Lateness
from proxy.core.policy.lessons import Sketched
from proxy.core.policy.route import DEFAULT, Candidate, Route
from proxy.core.wire.answers import masked
from proxy.core.wire.request import ChatRequest
from proxy.errors import NoCandidate

RETRY_FLOOR: Final = (10.0, 0.2)
"""Retries in a row, and a second, that are made whatever the share says."""
HEDGE_BURST: Final = 10.0
"""Hedges in a row."""
OWN_KEYS: Final = ""
"""The key group of an endpoint's `api_key` or `api_keys`; no group of the settings can be it."""


class Chosen(NamedTuple):
    """The candidates of a route in the order to try them."""

    order: tuple[int, ...]
    reason: str
    predicted: float | None
    """Seconds to first content that are expected of the first."""


class Seen(NamedTuple):
    """What is known of one candidate, for who only looks."""

    breaker: str | None
    """closed, half_open or open; None: it has none."""
    error_rate: float | None
    """Share of failures among its latest attempts; None: nothing was learned of it."""
    predicted: float | None
    """Seconds to first content that are expected of it, the wait for admission included."""


class Knowledge:
    """For one set of settings; in one event loop's thread."""

    def __init__(
        self,
        config: Config,
        *,
        wait: Callable[[Place, float], float],
        round_trip: Callable[[str], float | None],
        before: Knowledge | None = None,
    ) -> None:
        """`wait`: seconds that admission would take at a place; `round_trip`: to an endpoint.
        `before`: what is known under the settings that these replace."""
        settings = config.attempts
        self._config = config
        self._fresh: Iterator[int] = itertools.count() if before is None else before._fresh
        self._wait = wait
        self._round_trip = round_trip
        self._health = {"": _health(settings.breaker)}
        self._retries: dict[tuple[float, bool], Budget] = {}
        self._hedges: dict[str, Budget] = {}
        self._lateness: dict[str, Lateness] = {}
        for rule in config.routes:
            if rule.attempts is not None and rule.attempts.breaker != settings.breaker:
                self._health[rule.name] = _health(rule.attempts.breaker)
        self._secrets = {
            (endpoint.name, group): self._named(endpoint, group, before)
            for endpoint in config.endpoints
            for group in (OWN_KEYS, *endpoint.key_groups)
        }
        if before is not None:
            self._take_over(before)

    # --- new settings ------------------------------------------------------------------------

    def replaced(self, before: Knowledge) -> frozenset[str]:
        """Endpoints of `before` that are not here, or are another place under the same name."""
        here = {one.name: one.base_url for one in self._config.endpoints}
        there = before._config.endpoints
        return frozenset(one.name for one in there if here.get(one.name) != one.base_url)

    def _take_over(self, before: Knowledge) -> None:
        replaced = self.replaced(before)

        def remains(endpoint: str, keys: str | None) -> bool:
            return endpoint not in replaced and (endpoint, keys or OWN_KEYS) in self._secrets

        for name, health in self._health.items():
            health.adopt(before._health.get(name) or before._health[""], remains)
        shares = {one.retry_budget for one in _attempts(self._config)}
        self._retries = {k: v for k, v in before._retries.items() if k[0] in shares}
        hedges, old = _hedge_shares(self._config), _hedge_shares(before._config)
        same = {name for name, share in hedges.items() if old.get(name) == share}
        self._hedges = {k: v for k, v in before._hedges.items() if k in same}
        self._lateness = {k: v for k, v in before._lateness.items() if k in hedges}

    # --- other processes ---------------------------------------------------------------------

    def lessons(self, now: float) -> list[Sketched]:
        """What this process has seen of its candidates, to be told to others."""
        return [
            Sketched(scope, *candidate, shape.size, shape.tools, kind, tuple(weights))
            for scope, health in self._health.items()
            for candidate, vitals in health
            for kind, shape, weights in vitals.lessons(now)
        ]

    def lend(self, sketches: Iterable[Sketched], now: float) -> None:
        """What others have seen, of candidates that the settings know here too."""
        for one in sketches:
            health = self._health.get(one.scope)
            if health is not None and (one.endpoint, one.keys or OWN_KEYS) in self._secrets:
                health.lend(one, now)

    @property
    def key_groups(self) -> Collection[tuple[str, str]]:
        """Endpoints and groups of the keys that are named in the settings."""
        return self._secrets.keys()

    # --- keys --------------------------------------------------------------------------------

    def _named(self, endpoint: Endpoint, group: str, before: Knowledge | None) -> dict[str, str]:
        """The keys of a group. One has the same name as long as it is there, and no other key ever
        gets it: names stand for limits, and for keys that are left alone for a while."""
        known: dict[str, str] = {}
        if before is not None and endpoint.name not in self.replaced(before):
            known = before._secrets.get((endpoint.name, group), {})
        names = {secret: name for name, secret in known.items()}
        secrets = (one.reveal() for one in endpoint.keys(group or None))
        return {names.get(secret) or str(next(self._fresh)): secret for secret in secrets}

    def keys(self, candidate: Candidate) -> tuple[str, ...]:
        """Names of the candidate's own keys; empty where the caller's is forwarded."""
        return tuple(self._secrets[candidate.endpoint.name, candidate.keys or OWN_KEYS])

    def secret(self, candidate: Candidate, key: str | None) -> str | None:
        """The key to send of that name, and without one the first; None: the caller's own.

        A name that is not known was given while other settings have come into use: admission is
        everybody's. It must not make the caller's own key leave.
        """
        secrets = self._secrets[candidate.endpoint.name, candidate.keys or OWN_KEYS]
        first = next(iter(secrets.values()), None)
        return first if key is None else secrets.get(key, first)

    def secrets(self, endpoint: Endpoint) -> Iterator[str]:
        """All keys of an endpoint: what none of its answers may tell."""
        for (name, _), secrets in self._secrets.items():
            if name == endpoint.name:
                yield from secrets.values()

    def mask(self, endpoint: Endpoint) -> Callable[[bytes], bytes] | None:
        """What takes an endpoint's own keys out of what it says; None where it has none."""
        secrets = tuple(self.secrets(endpoint))
        return partial(_masked, secrets) if secrets else None

    # --- what may be spent -------------------------------------------------------------------

    def retry_budget(self, route: Route, *, hasty: bool) -> Budget:
        """One for the whole process, unless routes have a share of their own. Callers who set
        deadlines of their own share another: their haste must not cost others their retries."""
        key = (route.attempts.retry_budget, hasty)
        budget = self._retries.get(key)
        if budget is None:
            budget = self._retries[key] = _retry_budget(route.attempts.retry_budget)
        return budget

    def hedge_budget(self, route: Route) -> Budget:
        budget = self._hedges.get(route.name)
        if budget is None:
            assert route.hedge is not None
            budget = self._hedges[route.name] = Budget(route.hedge.budget, burst=HEDGE_BURST)
        return budget

    def lateness(self, route: Route) -> Lateness:
        return self._lateness.setdefault(route.name, Lateness())

    # --- the candidates ----------------------------------------------------------------------

    def vitals(self, route: Route, candidate: Candidate) -> Vitals:
        """What is known of a candidate; its breaker may be the route's own."""
        return self._health_of(route).of(candidate.model, candidate.endpoint.name, candidate.keys)

    def choose(
        self,
        route: Route,
        request: ChatRequest,
        shape: Shape,
        place: Callable[[Candidate], Place],
        now: float,
        roll: float,
    ) -> Chosen:
        """The order in which to try the route's candidates. Raises NoCandidate.

        Whether a lone candidate may be asked is seen when it is: see `Pursuit`.
        """
        candidates = route.candidates
        if len(candidates) == 1 and route.first_content_target is None:
            return Chosen((0,), route.reason, None)
        options = [self._option(route, one, shape, place(one), now) for one in candidates]
        if not any(option.allowed for option in options):
            self._refuse_open(route, now)
        prefix = prefix_of(request.fields) if len(candidates) > 1 else None
        choice: Choice = choose(
            options, target=route.first_content_target, prefix=prefix, roll=roll
        )
        return Chosen(choice.order, choice.reason, options[choice.order[0]].predicted)

    def look(self, route: Route, candidate: Candidate, shape: Shape, now: float) -> Seen:
        """What a choice for a request of that shape would know now. Looking changes nothing.

        Where the caller's own key is used, its wait for admission is not known here.
        """
        vitals = self._health_of(route).find(
            candidate.model, candidate.endpoint.name, candidate.keys
        )
        if vitals is None:
            has_breaker = isinstance(route.attempts.breaker, Breaker)
            return Seen("closed" if has_breaker else None, None, None)
        place = Place(candidate.endpoint.name, candidate.keys or OWN_KEYS, candidate.model)
        predicted = self._predicted(route, vitals, shape, place, now)
        failed = vitals.error_rate(now)
        return Seen(
            None if vitals.breaker is None else vitals.breaker.state(now),
            failed if failed or predicted is not None else None,
            predicted,
        )

    def models(self) -> list[str]:
        """Models that were asked of somebody lately, the latest first."""
        known = [model for health in self._health.values() for (model, _, _), _ in health]
        return list(dict.fromkeys(reversed(known)))

    def breakers(self, now: float) -> Iterator[tuple[str, str, str]]:
        """Endpoint, model and state of each breaker."""
        for health in self._health.values():
            for (model, endpoint, _), vitals in health:
                if vitals.breaker is not None:
                    yield endpoint, model, vitals.breaker.state(now)

    def _option(
        self, route: Route, candidate: Candidate, shape: Shape, place: Place, now: float
    ) -> Option:
        vitals = self.vitals(route, candidate)
        name = candidate.endpoint.name
        return Option(
            tier=candidate.tier,
            allowed=vitals.allows(now),
            predicted=self._predicted(route, vitals, shape, place, now),
            weight=vitals.weight(shape, now),
            rtt=self._round_trip(name),
            id=f"{name}/{candidate.model}/{candidate.keys or ''}",
            slower=vitals.slower(shape, now),
        )

    def _predicted(
        self, route: Route, vitals: Vitals, shape: Shape, place: Place, now: float
    ) -> float | None:
        """Seconds to first content, the wait for a place included."""
        content = vitals.first_content(route.confidence, shape, now)
        return None if content is None else content + self._wait(place, now)

    def _health_of(self, route: Route) -> Health:
        """The route's own, where its breaker is not everybody's."""
        own = self._health.get(route.name)
        return self._health[""] if own is None else own

    def _refuse_open(self, route: Route, now: float) -> None:
        """Raises NoCandidate when every breaker is open: asking would only make it worse."""
        for candidate in route.candidates:
            if self.vitals(route, candidate).allows(now):
                return
        raise self.no_candidate(route, now)

    def no_candidate(self, route: Route, now: float) -> NoCandidate:
        """What to say to who finds no candidate that may be asked."""
        breakers = [self.vitals(route, one).breaker for one in route.candidates]
        times = [one.retry_at for one in breakers if one is not None and one.retry_at is not None]
        wait = max(min(times, default=now + 1.0) - now, 0.1)
        return NoCandidate(
            f"every candidate of route {route.name} has failed again and again;"
            f" one is tried again in {wait:.1f} s",
            retry_after=wait,
        )


def _attempts(config: Config) -> Iterator[Attempts]:
    yield config.attempts
    yield from (rule.attempts for rule in config.routes if rule.attempts is not None)


def _hedge_shares(config: Config) -> dict[str, float | None]:
    """By route; None where it does not hedge."""
    hedges = {DEFAULT: config.hedge} | {rule.name: rule.hedge for rule in config.routes}
    return {name: one.budget if isinstance(one, Hedge) else None for name, one in hedges.items()}


def _health(breaker: object) -> Health:
    return Health(breaker if isinstance(breaker, Breaker) else None)


def _masked(secrets: tuple[str, ...], data: bytes) -> bytes:
    for secret in secrets:
        data = masked(data, secret)
    return data


def _retry_budget(share: float) -> Budget:
    burst, per_second = RETRY_FLOOR
    return Budget(share, burst=burst, per_second=per_second)
